"""Text by the tokenizer of a language model of others', as transformers has it: its own tokens,
specials and chat template.

Knows no model. Text that spells a special token is text: only a layout writes special ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec
from onnuri.modality import Medium


class TokenizerCodec(Codec):
    """str ↔ codes int64 [K], the tokenizer's own ids."""

    medium: ClassVar[Medium] = "text"

    class Config(config.Config):
        pass

    def __init__(self, tokenizer: Any, spec: CodecSpec) -> None:
        super().__init__(self.Config(), spec)
        self.tokenizer = tokenizer

    def encode_batch(self, items: list[str]) -> list[np.ndarray]:
        """Return the ids of every text, without any token that begins or ends one."""
        found = (
            self.tokenizer(items, add_special_tokens=False, split_special_tokens=True).input_ids
            if items
            else []
        )
        return [np.array(ids, np.int64) for ids in found]

    def decode_batch(self, codes: list[np.ndarray]) -> list[str]:
        """Return the texts of ids; ids of special tokens say nothing."""
        return [
            self.tokenizer.decode(
                [int(code) for code in row],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for row in codes
        ]

    def save(self, folder: Path) -> None:
        """Write the spec and transformers' tokenizer files."""
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
        return cls(tokenizer, spec or CodecSpec.read_beside(folder, cls.medium))
