"""The text codec: byte-fallback BPE. Any Unicode goes in and comes out unchanged; words of its
corpus are one token.

Knows no language. The first 256 codes are bytes; merges never span words. Training is
`TextCodec.learn`.
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
"""codes of the longest text that is read or written"""
SPACE = "▁"
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def text_spec(codes: int) -> CodecSpec:
    """Return what a new text codec's codes look like, of which there are so many."""
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
    """str ↔ codes int64 [K]."""

    modality: ClassVar[Modality] = "text"

    class Config(config.Config):
        pass

    def __init__(self, tokenizer: Tokenizer, spec: CodecSpec | None = None) -> None:
        super().__init__(self.Config(), spec or text_spec(int(tokenizer.get_vocab_size())))
        self.tokenizer = tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int = 1500) -> Self:
        """A codec of at most `size` codes from a corpus."""
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
        trainer = trainers.BpeTrainer(vocab_size=size - len(BYTES), show_progress=False)
        learner.train_from_iterator(texts, trainer)
        learned = json.loads(learner.to_str())["model"]
        vocabulary = {token: k for k, token in enumerate(BYTES)}
        vocabulary |= {
            t: len(BYTES) + k
            for k, t in enumerate(sorted(learned["vocab"], key=learned["vocab"].get))
        }
        merges = [tuple(m) for m in learned["merges"]]
        return cls(_tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True)))

    def padded(self, size: int) -> Self:
        """The same with ids that stand for nothing behind its own, `size` in all, where a corpus
        has no more words."""
        described = json.loads(self.tokenizer.to_str())
        vocabulary = described["model"]["vocab"]
        vocabulary |= {f"<unused {k}>": k for k in range(self.num_codes, size)}
        return type(self)(Tokenizer.from_str(json.dumps(described)))

    def encode_batch(self, items: list[str]) -> list[np.ndarray]:
        return [np.array(self._ids(item), dtype=np.int64) for item in items]

    def _ids(self, text: str) -> list[int]:
        """A literal ▁ goes as its bytes: as a character it would come back as a space."""
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
        return [
            self.tokenizer.decode([int(c) for c in row], skip_special_tokens=False) for row in codes
        ]

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes that each code stands for; a letter may be cut between codes."""
        names = [str(self.tokenizer.id_to_token(k)) for k in range(len(BYTES), self.num_codes)]
        return [
            *(bytes([b]) for b in range(256)),
            *(name.replace(SPACE, " ").encode() for name in names),
        ]

    def words(self, codes: np.ndarray) -> list[np.ndarray]:
        """The codes of each word, white space before it included; end to end they are the whole."""
        begins = [
            k
            for k, c in enumerate(codes)
            if (self.tokenizer.id_to_token(int(c)) or "").startswith(SPACE)
        ]
        return [part for part in np.split(codes, begins) if len(part)]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.spec.save_beside(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(
        cls, folder: Path, spec: CodecSpec | None = None, beside: Sequence[Codec] = ()
    ) -> Self:
        """Return the codec that `save` wrote. Raises ConfigError where its tokenizer is not the
        spec's."""
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
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made
