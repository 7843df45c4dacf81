"""This module wraps the transformers tokenizer of an existing language model as a codec of text.

It keeps the tokenizer's tokens, special tokens and chat template, and knows no model. Text that
spells a special token is encoded as plain text: only a token layout writes special ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec
from onnuri.modality import Modality


class TokenizerCodec(Codec):
    """A TokenizerCodec encodes a str as codes int64 [K], the tokenizer's own ids."""

    modality: ClassVar[Modality] = "text"

    class Config(config.Config):
        """A Config is empty: the tokenizer's own files hold all settings."""

    def __init__(self, tokenizer: Any, spec: CodecSpec) -> None:
        super().__init__(self.Config(), spec)
        self.tokenizer = tokenizer

    def encode_batch(self, items: list[str]) -> list[np.ndarray]:
        """Return the ids of every text, without bos or eos."""
        if not items:
            return []
        # special tokens are split into plain ones, so that no user's text can close an item
        encoded = self.tokenizer(items, add_special_tokens=False, split_special_tokens=True)
        return [np.array(ids, np.int64) for ids in encoded.input_ids]

    def decode_batch(self, codes: list[np.ndarray]) -> list[str]:
        """Return the text of every sequence of ids; special tokens are left out."""
        return [
            self.tokenizer.decode(
                [int(code) for code in row],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for row in codes
        ]

    def save(self, folder: Path) -> None:
        """Write the spec and transformers' tokenizer files to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.spec.save_beside(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(
        cls, folder: Path, spec: CodecSpec | None = None, beside: Sequence[Codec] = ()
    ) -> Self:
        """Return the codec that `save` wrote."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(tokenizer, spec or CodecSpec.read_beside(folder, cls.modality))
