"""This module implements the text codec: byte-fallback BPE, in which any Unicode text goes in and
comes out unchanged and words of its corpus are one token.

It knows no language. The first 256 codes are bytes; merges never span words. `TextCodec.learn`
trains one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec, Stream
from onnuri.errors import ConfigError
from onnuri.modality import Modality

LONGEST = 160
"""number of codes of the longest text that is read or written"""
SPACE = "▁"
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def text_spec(codes: int) -> CodecSpec:
    """Return the spec of a new text codec of so many codes."""
    return CodecSpec(
        name="text",
        codec="bpe",
        modality="text",
        codebook="text",
        codebooks=(codes,),
        shape=Stream(),
        max_codes=LONGEST,
    )


class TextCodec(Codec):
    """A TextCodec encodes a str as codes int64 [K]."""

    modality: ClassVar[Modality] = "text"

    class Config(config.Config):
        """A Config is empty: the tokenizer's own file holds all settings."""

        pass

    def __init__(self, tokenizer: Tokenizer, spec: CodecSpec | None = None) -> None:
        super().__init__(self.Config(), spec or text_spec(int(tokenizer.get_vocab_size())))
        self.tokenizer = tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int = 1500) -> Self:
        """Return a codec of at most `size` codes that is trained on the texts of a corpus."""
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
        trainer = trainers.BpeTrainer(vocab_size=size - len(BYTES), show_progress=False)
        bpe.train_from_iterator(texts, trainer)
        trained = json.loads(bpe.to_str())["model"]
        vocabulary = {token: k for k, token in enumerate(BYTES)}
        vocabulary |= {
            t: len(BYTES) + k
            for k, t in enumerate(sorted(trained["vocab"], key=trained["vocab"].get))
        }
        merges = [tuple(m) for m in trained["merges"]]
        return cls(_tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True)))

    def padded(self, size: int) -> Self:
        """Return a copy of the codec with unused ids appended, so that it has `size` codes even
        where the corpus had too few words."""
        definition = json.loads(self.tokenizer.to_str())
        vocabulary = definition["model"]["vocab"]
        vocabulary |= {f"<unused {k}>": k for k in range(self.num_codes, size)}
        return type(self)(Tokenizer.from_str(json.dumps(definition)))

    def encode_batch(self, items: list[str]) -> list[np.ndarray]:
        """Return the codes int64 [K] of every text."""
        return [np.array(self._ids(item), dtype=np.int64) for item in items]

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text.

        A literal ▁, which stands for a space in tokens, is written as its bytes, since it would
        come back as a space.
        """
        first, *rest = text.split(SPACE)
        ids = self.tokenizer.encode(first, add_special_tokens=False).ids
        for part in rest:
            ids = (
                ids
                + list(SPACE.encode())
                + self.tokenizer.encode(part, add_special_tokens=False).ids
            )
        return ids

    def decode_batch(self, codes: list[np.ndarray]) -> list[str]:
        """Return the text of every sequence of codes."""
        return [
            self.tokenizer.decode([int(c) for c in row], skip_special_tokens=False) for row in codes
        ]

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """Return the bytes that each code stands for, by code; a letter may be cut between
        codes."""
        names = [str(self.tokenizer.id_to_token(k)) for k in range(len(BYTES), self.num_codes)]
        return [
            *(bytes([b]) for b in range(256)),
            *(name.replace(SPACE, " ").encode() for name in names),
        ]

    def words(self, codes: np.ndarray) -> list[np.ndarray]:
        """Return the codes of each word, with the white space before it; joined, they are all the
        codes."""
        begins = [
            k
            for k, c in enumerate(codes)
            if (self.tokenizer.id_to_token(int(c)) or "").startswith(SPACE)
        ]
        return [part for part in np.split(codes, begins) if len(part)]

    def save(self, folder: Path) -> None:
        """Write the spec and the tokenizer to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.spec.save_beside(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(
        cls, folder: Path, spec: CodecSpec | None = None, beside: Sequence[Codec] = ()
    ) -> Self:
        """Return the codec that `save` wrote. Raises ConfigError if its tokenizer has another size
        than the spec."""
        tokenizer, spec = (
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            spec or CodecSpec.read_beside(folder, cls.modality),
        )
        if spec.num_codes != tokenizer.get_vocab_size():
            raise ConfigError(
                f"{folder}: a tokenizer of {tokenizer.get_vocab_size()} tokens",
                f"is not the one of the codec's spec, which has {spec.num_codes}",
                "fetch or export the folder again",
            )
        return cls(tokenizer, spec)


def _tokenizer(model: models.BPE) -> Tokenizer:
    """Return a tokenizer of a BPE model with this codec's pre-tokenizer and decoder."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer
