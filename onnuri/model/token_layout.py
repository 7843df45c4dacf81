"""Where every code stands among a model's ids: text first, then special tokens, then one range per
codebook.

A layout is made once, from the codecs' specs, saved in the model's folder, and read back from
there: the only truth about a model's ids. Knows no network. A sequence is `<bos> <|image|> codes
<|/image|> <|text|> <|ko|> ids <|/text|> … <eos>`: any number of media in any order. Before the
answer may stand what is asked, `<|describe|>` and so on (`tasks`): a picture and a sentence are
followed by an answer, a description or an edited picture, and a caption is never a question. Speech
that the model makes has its words in it, `<|audio|> <|ko|> word codes <|word|> word codes <|word|>
<|/audio|>`: what is to be said stands right before its sound (as in Moshi's inner monologue,
Défossez et al. 2024, arXiv 2410.00037). `<|embed|>` is reserved for continuous inputs (an encoder's
embeddings), which nothing fills yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from tokenizers import AddedToken

from onnuri.codecs.spec import CodecSpec, Stream
from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGE_TOKENS, TASKS, Language, Medium, Task

TEXT, AUDIO = "text", "audio"
"""names of the codecs that words are written in, and of the one that speaks them"""
LONGEST_TEXT = 1_000_000
"""codes: what a tokenizer that names no limit is given"""
BEFORE_MEDIA = ("<pad>", "<bos>", "<eos>")
AFTER_MEDIA = (*LANGUAGE_TOKENS.values(), "<|embed|>", "<|word|>")
TASK_TOKENS = tuple(f"<|{task}|>" for task in TASKS)


class CandidateSet(Config):
    """Ids [lo, hi) and perhaps one more, among which a target is scored."""

    codebook: str
    lo: int
    hi: int
    extra: int | None = None
    label_smoothing_sigma: float = 0.0
    """of a target over its neighbours, if they are in order"""
    ordered: int = 0
    """how many ids from lo on are in order"""


class TokenLayout(Config):
    """Ids of text, of special tokens, and of every codec's codes."""

    text_codes: int
    """ids of text, from 0 on"""
    special_ids: dict[str, int]
    """the id of every special token"""
    ranges: dict[str, tuple[int, int]]
    """ids [first, last) of every codebook but text's"""
    codecs: tuple[CodecSpec, ...]
    """in the order of their boundary tokens"""
    padded: int = 0
    """rows of the embedding, the last of which stand for no id; 0: as many as ids"""

    @classmethod
    def extend(
        cls,
        tokenizer: Any,
        vocabulary: int,
        specs: Sequence[CodecSpec],
        tasks: bool = False,
        multiple: int = 128,
    ) -> TokenLayout:
        """Return the layout of a language model of others' with codecs added; its own ids stay as
        they are.

        `tokenizer`: of transformers; its tokens that begin, end and pad are kept, and it is given
        the new special tokens, which take the ids behind its own. `vocabulary`: rows of the model's
        embedding, often more than the tokenizer has tokens. Codes stand behind both, and the whole
        is rounded up to a `multiple`. Raises ConfigError as `of` does, and where a codec takes the
        name of text.
        """
        _check(specs)
        if any(spec.name == TEXT for spec in specs):
            raise ConfigError(
                f"codec {TEXT!r}", "is the language model's own", "give the others only"
            )
        own = {
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
        missing = [name for name, id in own.items() if id is None]
        added = [*missing, *boundaries, *AFTER_MEDIA, *(TASK_TOKENS if tasks else ())]
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in added])
        ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in added}
        special_ids = {**{name: int(id) for name, id in own.items() if id is not None}, **ids}
        first = max(vocabulary, len(tokenizer))
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
        """Return the layout of a new model with some codecs. `tasks`: with tokens that say what is
        asked.

        Raises ConfigError where two codecs have one name, or share a codebook and differ in its
        size.
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
        """Return a codec's spec. Raises KeyError for a codec that the model has not."""
        for spec in self.codecs:
            if spec.name == name:
                return spec
        raise KeyError(name)

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
        """Whether the layout has tokens that say what is asked; models from before them have
        none."""
        return TASK_TOKENS[0] in self.special_ids

    def task(self, task: Task | None) -> list[int]:
        """Return the token that says what is asked; nothing where the layout has no such tokens."""
        return [self.special(f"<|{task}|>")] if task and self.tasks else []

    @property
    def size(self) -> int:
        """Return the rows of the embedding: all ids, and what fills them up."""
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
        """Return the ids [first, last) of a codebook; text's holds all before the first codes: the
        special tokens too."""
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
        """Return the tokens before an item's codes: its boundary, and a language where its length
        is free."""
        spec = self.spec(name)
        tagged = (
            [self.special(LANGUAGE_TOKENS[language])] if language and spec.slots is None else []
        )
        return [self.special(spec.open), *tagged]

    @property
    def languages(self) -> tuple[int, int]:
        """Return the ids [lo, hi) of the tokens that name a language."""
        tokens = [self.special(t) for t in LANGUAGE_TOKENS.values()]
        return min(tokens), max(tokens) + 1

    def segment(self, name: str, codes: np.ndarray, language: Language | None = None) -> list[int]:
        """Return the ids of an item between its boundaries."""
        return [
            *self.opening(name, language),
            *self.ids(name, codes).tolist(),
            self.special(self.spec(name).close),
        ]

    def spoken(
        self, words: Sequence[np.ndarray], sounds: Sequence[np.ndarray], language: Language
    ) -> list[int]:
        """Return the model's own speech between its boundaries: every word's text codes, its
        sound's codes and `<|word|>`."""
        ids = self.opening(AUDIO, language)
        for word, sound in zip(words, sounds, strict=True):
            ids += [
                *self.ids(TEXT, word).tolist(),
                *self.ids(AUDIO, sound).tolist(),
                self.special("<|word|>"),
            ]
        return [*ids, self.special(self.spec(AUDIO).close)]

    def allowed(self, name: str) -> list[tuple[int, int]] | None:
        """Return, for every position of an item, the ids [lo, hi) that may stand there; None where
        the length is free."""
        spec = self.spec(name)
        start = self.start(spec.codebook)
        return (
            [(start + lo, start + hi) for lo, hi in spec.slots.position_ranges]
            if spec.slots
            else None
        )

    def candidate_sets(self) -> list[CandidateSet]:
        """Return the sets of ids among which a target is scored, in the order of ids; every id is
        in exactly one.

        Codes in slots compete within their field, as in generation; a sound's codes with the token
        that ends a word; text with all other special tokens.
        """
        word = self.special("<|word|>")
        sets = [CandidateSet(codebook=TEXT, lo=0, hi=self.span(TEXT)[1])]
        layouts = {spec.codebook: spec for spec in self.codecs if spec.codebook != TEXT}
        for codebook, spec in layouts.items():
            lo, hi = self.span(codebook)
            if spec.slots is None:
                sets.append(
                    CandidateSet(
                        codebook=codebook, lo=lo, hi=hi, extra=word if spec.name == AUDIO else None
                    )
                )
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

    def segments(self, ids: Sequence[int]) -> list[tuple[Medium, Language | None, np.ndarray]]:
        """Return (codec, language, codes int64 [K]) of every item that is opened in a sequence; the
        inverse of `segment`.

        An item that is not closed goes on to the end of the sequence; ids outside items are passed
        over, and so are the words within the model's own speech.
        """
        opens = {self.special(spec.open): cast(Medium, spec.name) for spec in self.codecs}
        tags = {
            self.special(t): cast(Language, language) for language, t in LANGUAGE_TOKENS.items()
        }
        found: list[tuple[Medium, Language | None, np.ndarray]] = []
        at = 0
        while at < len(ids):
            name, at = opens.get(ids[at]), at + 1
            if name is None:
                continue
            language = tags.get(ids[at]) if at < len(ids) else None
            at += language is not None
            lo, hi = self.own(name)
            within = (0, self.text_codes, self.special("<|word|>")) if name == AUDIO else (0, 0, -1)
            stop = next(
                (
                    k
                    for k in range(at, len(ids))
                    if not lo <= ids[k] < hi
                    and not within[0] <= ids[k] < within[1]
                    and ids[k] != within[2]
                ),
                len(ids),
            )
            own = [i for i in ids[at:stop] if lo <= i < hi]
            found.append((name, language, self.codes(name, np.array(own, dtype=np.int64))))
            at = stop
        return found


def _boundaries(specs: Sequence[CodecSpec]) -> list[str]:
    """Return the tokens before and after an item of every codec."""
    return [token for spec in specs for token in (spec.open, spec.close)]


def _ranges(specs: Sequence[CodecSpec], first: int) -> dict[str, tuple[int, int]]:
    """Return the ids [first, last) of every codebook but text's, one behind the other."""
    ranges: dict[str, tuple[int, int]] = {}
    for spec in specs:
        if spec.codebook not in (TEXT, *ranges):
            ranges[spec.codebook] = (first, first + spec.num_codes)
            first += spec.num_codes
    return ranges


def _check(specs: Sequence[CodecSpec]) -> None:
    """Raise ConfigError where two codecs have one name, or share a codebook and differ in what its
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
