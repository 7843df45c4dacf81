"""This module assigns a model's token ids: text first, then special tokens, then one range per
codebook.

A layout is built once from the codecs' specs, saved in the model's folder and read back from there;
it alone defines a model's ids. The module knows no network. A sequence is `<bos> <|image|> codes
<|/image|> <|text|> <|ko|> ids <|/text|> … <eos>`: any number of items in any order. A task token
such as `<|describe|>` (`tasks`) may precede the answer, because a picture and a sentence may be
followed by an answer, a description or an edited picture. Speech that the model generates contains
its words, `<|audio|> <|ko|> word codes <|word|> word codes <|word|> <|/audio|>`: each word's text
precedes its sound (as in Moshi's inner monologue, Défossez et al. 2024, arXiv 2410.00037).
`<|embed|>` is reserved for continuous inputs (an encoder's embeddings), which nothing uses yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from tokenizers import AddedToken

from onnuri.codecs.spec import CodecSpec, Stream
from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGE_TOKENS, TASKS, Language, Modality, Task

TEXT, AUDIO = "text", "audio"
"""names of the codec of text and of the codec of the model's speech"""
LONGEST_TEXT = 1_000_000
"""longest text, in codes, of a tokenizer that names no limit"""
BEFORE_MEDIA = ("<pad>", "<bos>", "<eos>")
AFTER_MEDIA = (*LANGUAGE_TOKENS.values(), "<|embed|>", "<|word|>")
TASK_TOKENS = tuple(f"<|{task}|>" for task in TASKS)


class CandidateSet(Config):
    """A CandidateSet holds the ids among which a target is scored: [lo, hi), and perhaps one
    more."""

    codebook: str
    lo: int
    hi: int
    extra: int | None = None
    """one more id, outside [lo, hi)"""
    label_smoothing_sigma: float = 0.0
    """standard deviation, in codes, of an ordinal target's distribution over its neighbours; 0:
    one-hot"""
    ordered: int = 0
    """number of ids from lo on whose codes are ordinal"""


class TokenLayout(Config):
    """A TokenLayout holds the ids of text, of special tokens and of every codec's codes."""

    text_codes: int
    """number of text ids, which start at 0"""
    special_ids: dict[str, int]
    """the id of every special token"""
    ranges: dict[str, tuple[int, int]]
    """ids [first, last) of every codebook but text's"""
    codecs: tuple[CodecSpec, ...]
    """specs in the order of their boundary tokens"""
    padded: int = 0
    """rows of the embedding, the last of which are padding without an id; 0: as many as ids"""

    @classmethod
    def extend(
        cls,
        tokenizer: Any,
        vocabulary: int,
        specs: Sequence[CodecSpec],
        tasks: bool = False,
        multiple: int = 128,
    ) -> TokenLayout:
        """Return the layout of an existing language model extended by codecs; its ids stay.

        `tokenizer` is of transformers; its bos, eos and pad tokens are used, and the new special
        tokens are added to it, with the ids after its own. `vocabulary` is the number of rows of
        the model's embedding, often more than the tokenizer has tokens. Codes come after both, and
        the number of ids is rounded up to a `multiple`. `tasks` adds task tokens. Raises
        ConfigError as `of` does, and for a codec named as text.
        """
        _check(specs)
        if any(spec.name == TEXT for spec in specs):
            raise ConfigError(
                f"codec {TEXT!r}", "is the language model's own", "give the others only"
            )
        tokenizer_ids = {
            name: getattr(tokenizer, f"{word}_token_id")
            for name, word in zip(BEFORE_MEDIA, ("pad", "bos", "eos"), strict=True)
        }
        text = CodecSpec(
            name=TEXT,
            codec="tokenizer",
            modality=TEXT,
            codebook=TEXT,
            codebooks=(len(tokenizer),),
            shape=Stream(),
            max_codes=int(min(tokenizer.model_max_length, LONGEST_TEXT)),
        )
        boundaries = _boundaries((text, *specs))
        missing = [name for name, id in tokenizer_ids.items() if id is None]
        added = [*missing, *boundaries, *AFTER_MEDIA, *(TASK_TOKENS if tasks else ())]
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in added])
        ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in added}
        present = {name: int(id) for name, id in tokenizer_ids.items() if id is not None}
        special_ids = {**present, **ids}
        first = max(vocabulary, len(tokenizer))  # a model's embedding may have padded rows
        ranges = _ranges(specs, first)
        end = max((hi for _, hi in ranges.values()), default=first)
        return cls(
            text_codes=text.num_codes,
            special_ids=special_ids,
            ranges=ranges,
            codecs=(text, *specs),
            padded=-(-end // multiple) * multiple,
        )

    @classmethod
    def of(cls, specs: Sequence[CodecSpec], tasks: bool = False) -> TokenLayout:
        """Return the layout of a new model with some codecs; `tasks` adds task tokens.

        Raises ConfigError if two codecs have one name, or share a codebook and differ in what its
        codes mean.
        """
        _check(specs)
        text = next((spec for spec in specs if spec.name == TEXT), None)
        if text is None:
            raise ConfigError(
                "a token layout", f"needs a codec {TEXT!r}", "give one among the specs"
            )
        specials = [
            *BEFORE_MEDIA,
            *_boundaries(specs),
            *AFTER_MEDIA,
            *(TASK_TOKENS if tasks else ()),
        ]
        return cls(
            text_codes=text.num_codes,
            special_ids={t: text.num_codes + k for k, t in enumerate(specials)},
            ranges=_ranges(specs, text.num_codes + len(specials)),
            codecs=tuple(specs),
        )

    def spec(self, name: str) -> CodecSpec:
        """Return a codec's spec by its name. Raises KeyError for a codec that the model lacks."""
        for spec in self.codecs:
            if spec.name == name:
                return spec
        raise KeyError(name)

    def modality(self, name: str) -> Modality:
        """Return the modality of a codec. Raises KeyError for a codec that the model has not."""
        return cast(Modality, self.spec(name).modality)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the codecs' names, in their order."""
        return tuple(spec.name for spec in self.codecs)

    @property
    def specials(self) -> tuple[str, ...]:
        """Return the special tokens in the order of their ids."""
        return tuple(sorted(self.special_ids, key=lambda token: self.special_ids[token]))

    @property
    def tasks(self) -> bool:
        """Return whether the layout has task tokens; older models have none."""
        return TASK_TOKENS[0] in self.special_ids

    def task(self, task: Task | None) -> list[int]:
        """Return a task's token as a list of one id; an empty list if the layout has none."""
        return [self.special(f"<|{task}|>")] if task and self.tasks else []

    @property
    def size(self) -> int:
        """Return the number of rows of the embedding: all ids and padding."""
        ends = [
            self.text_codes,
            max(self.special_ids.values()) + 1,
            *(hi for _, hi in self.ranges.values()),
        ]
        return max(self.padded, *ends)

    def special(self, token: str) -> int:
        """Return the id of a special token. Raises KeyError for an unknown one."""
        return self.special_ids[token]

    def start(self, codebook: str) -> int:
        """Return the first id of a codebook. Raises KeyError for an unknown one."""
        return 0 if codebook == TEXT else self.ranges[codebook][0]

    def span(self, codebook: str) -> tuple[int, int]:
        """Return the ids [first, last) of a codebook; text's includes the special tokens, up to the
        first codes."""
        first = min((lo for lo, _ in self.ranges.values()), default=self.size)
        return (0, first) if codebook == TEXT else self.ranges[codebook]

    def own(self, name: str) -> tuple[int, int]:
        """Return the ids [first, last) of a codec's codes; text's without the special tokens."""
        return (0, self.text_codes) if name == TEXT else self.ranges[self.spec(name).codebook]

    def ids(self, name: str, codes: np.ndarray) -> np.ndarray:
        """Return a codec's codes as ids."""
        return np.asarray(codes, dtype=np.int64) + self.start(self.spec(name).codebook)

    def codes(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Return ids as a codec's codes: the inverse of `ids`."""
        return np.asarray(ids, dtype=np.int64) - self.start(self.spec(name).codebook)

    def opening(self, name: str, language: Language | None = None) -> list[int]:
        """Return the ids before an item's codes: its opening token and, if its length is free, its
        language."""
        spec = self.spec(name)
        ids = [self.special(spec.open)]
        if language and spec.slots is None:
            ids.append(self.special(LANGUAGE_TOKENS[language]))
        return ids

    @property
    def languages(self) -> tuple[int, int]:
        """Return the ids [lo, hi) of the language tokens."""
        tokens = [self.special(t) for t in LANGUAGE_TOKENS.values()]
        return min(tokens), max(tokens) + 1

    def segment(self, name: str, codes: np.ndarray, language: Language | None = None) -> list[int]:
        """Return an item's ids from its opening to its closing token."""
        return [
            *self.opening(name, language),
            *self.ids(name, codes).tolist(),
            self.special(self.spec(name).close),
        ]

    def spoken(
        self, words: Sequence[np.ndarray], sounds: Sequence[np.ndarray], language: Language
    ) -> list[int]:
        """Return the ids of the model's own speech from opening to closing token: per word its text
        codes, its sound's codes and `<|word|>`."""
        ids = self.opening(AUDIO, language)
        for word, sound in zip(words, sounds, strict=True):
            ids += [
                *self.ids(TEXT, word).tolist(),
                *self.ids(AUDIO, sound).tolist(),
                self.special("<|word|>"),
            ]
        return [*ids, self.special(self.spec(AUDIO).close)]

    def allowed(self, name: str) -> list[tuple[int, int]] | None:
        """Return the ids [lo, hi) that are allowed at each position of an item; None if its length
        is free."""
        spec = self.spec(name)
        if spec.slots is None:
            return None
        start = self.start(spec.codebook)
        return [(start + lo, start + hi) for lo, hi in spec.slots.position_ranges]

    def candidate_sets(self) -> list[CandidateSet]:
        """Return the sets of ids among which targets are scored, in the order of ids; every id is
        in the range of exactly one.

        Codes in slots compete within their field, as in decoding; a sound's codes with the token
        that ends a word; text with all other special tokens.
        """
        word = self.special("<|word|>")
        sets = [CandidateSet(codebook=TEXT, lo=0, hi=self.span(TEXT)[1])]
        layouts = {spec.codebook: spec for spec in self.codecs if spec.codebook != TEXT}
        for codebook, spec in layouts.items():
            lo, hi = self.span(codebook)
            if spec.slots is None:
                extra = word if spec.name == AUDIO else None
                sets.append(CandidateSet(codebook=codebook, lo=lo, hi=hi, extra=extra))
                continue
            for field in spec.slots.fields:
                base = lo + spec.slots.base(field.name)
                sets.append(
                    CandidateSet(
                        codebook=codebook,
                        lo=base,
                        hi=base + field.span,
                        ordered=field.codes,
                        label_smoothing_sigma=field.label_smoothing_sigma,
                    )
                )
        return sorted(sets, key=lambda each: each.lo)

    def segments(self, ids: Sequence[int]) -> list[tuple[Modality, Language | None, np.ndarray]]:
        """Return (codec's name, language, codes int64 [K]) of every item in a sequence, the inverse
        of `segment`.

        An item without a closing token goes to the end of the sequence. Ids outside items are
        skipped, and so are the words within the model's own speech.
        """
        opens = {self.special(spec.open): cast(Modality, spec.name) for spec in self.codecs}
        tags = {
            self.special(t): cast(Language, language) for language, t in LANGUAGE_TOKENS.items()
        }
        items: list[tuple[Modality, Language | None, np.ndarray]] = []
        word = self.special("<|word|>")
        position = 0
        while position < len(ids):
            name, position = opens.get(ids[position]), position + 1
            if name is None:
                continue
            language = tags.get(ids[position]) if position < len(ids) else None
            position += language is not None
            lo, hi = self.own(name)
            item_ids = []
            for id in ids[position:]:
                if lo <= id < hi:
                    item_ids.append(id)
                elif name != AUDIO or not (id < self.text_codes or id == word):
                    break  # speech goes on over the text of its words
                position += 1
            items.append((name, language, self.codes(name, np.array(item_ids, dtype=np.int64))))
        return items


def _boundaries(specs: Sequence[CodecSpec]) -> list[str]:
    """Return the opening and closing tokens of every codec."""
    return [token for spec in specs for token in (spec.open, spec.close)]


def _ranges(specs: Sequence[CodecSpec], first: int) -> dict[str, tuple[int, int]]:
    """Return the ids [first, last) of every codebook but text's, one after the other from `first`
    on."""
    ranges: dict[str, tuple[int, int]] = {}
    for spec in specs:
        if spec.codebook not in (TEXT, *ranges):
            ranges[spec.codebook] = (first, first + spec.num_codes)
            first += spec.num_codes
    return ranges


def _check(specs: Sequence[CodecSpec]) -> None:
    """Raise ConfigError if two codecs have one name, or share a codebook and differ in what its
    codes mean."""
    sizes: dict[str, int] = {}
    meanings: dict[str, Any] = {}
    for k, spec in enumerate(specs):
        if any(spec.name == other.name for other in specs[:k]):
            raise ConfigError(
                f"codec {spec.name!r}", "is there twice", "give one of them another name"
            )
        if sizes.setdefault(spec.codebook, spec.num_codes) != spec.num_codes:
            raise ConfigError(
                f"codebook {spec.codebook!r}",
                f"has {sizes[spec.codebook]} codes and {spec.num_codes} of {spec.name!r}",
                "give codecs of different sizes codebooks of their own",
            )
        meaning = spec.slots.fields if spec.slots else (spec.shape, spec.codebooks)
        if meanings.setdefault(spec.codebook, meaning) != meaning:
            raise ConfigError(
                f"codebook {spec.codebook!r}",
                f"means other things in {spec.name!r} than in another codec",
                "give codecs that differ codebooks of their own",
            )
