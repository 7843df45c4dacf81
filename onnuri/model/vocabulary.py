"""Where every code stands among the model's ids: text first, then special tokens, then one range a codebook.

Knows no network. A sequence is `<bos> <|image|> codes <|/image|> <|text|> <|ko|> ids <|/text|> … <eos>`: any number
of media in any order. Before the answer may stand what is asked, `<|describe|>` and so on (`tasks`): a picture and a
sentence are followed by an answer, a description or an edited picture, and a caption is never a question. Speech that
the model makes has its words in it, `<|audio|> <|ko|> word codes <|word|> word codes <|word|> <|/audio|>`: what is to
be said stands right before its sound (as in Moshi's inner monologue, Défossez et al. 2024, arXiv 2410.00037).
`<|embed|>` is reserved for continuous inputs (an encoder's embeddings), which nothing fills yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np

from onnuri.modality import LANGUAGE_TOKENS, MEDIA, TABLE, TASKS, Language, Medium, Task

SPECIALS = ("<pad>", "<bos>", "<eos>", *(t for m in MEDIA for t in (TABLE[m].open, TABLE[m].close)),
            *LANGUAGE_TOKENS.values(), "<|embed|>", "<|word|>")
TASK_TOKENS = tuple(f"<|{task}|>" for task in TASKS)
CODEBOOKS = tuple(dict.fromkeys(TABLE[m].codebook for m in MEDIA))
"""text, visual, audio, shape: image and video share one"""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Ids [lo, hi) and perhaps one more, among which a target is scored."""

    codebook: str
    lo: int
    hi: int
    extra: int | None = None
    spread: float = 0.0
    """of a target over its neighbours, if they are in order"""
    ordered: int = 0
    """how many ids from lo on are in order"""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The layout that follows from the size of the text tokenizer."""

    text_codes: int
    tasks: bool = False
    """whether it has tokens that say what is asked; models from before them have none"""

    @property
    def specials(self) -> tuple[str, ...]:
        return (*SPECIALS, *TASK_TOKENS) if self.tasks else SPECIALS

    def task(self, task: Task | None) -> list[int]:
        """Return the token that says what is asked; nothing where the vocabulary has no such tokens."""
        return [self.special(f"<|{task}|>")] if task and self.tasks else []

    @property
    def size(self) -> int:
        return self.start("shape") + TABLE["shape"].codes

    def special(self, token: str) -> int:
        return self.text_codes + self.specials.index(token)

    def start(self, codebook: str) -> int:
        """First id of a codebook."""
        if codebook == "text":
            return 0
        at = self.text_codes + len(self.specials)
        for name in CODEBOOKS[1:]:
            if name == codebook:
                return at
            at += next(m.codes for m in TABLE.values() if m.codebook == name)
        raise KeyError(codebook)

    def span(self, codebook: str) -> tuple[int, int]:
        """Ids [first, last) of a codebook; text's holds the special tokens too."""
        if codebook == "text":
            return 0, self.text_codes + len(self.specials)
        start = self.start(codebook)
        return start, start + next(m.codes for m in TABLE.values() if m.codebook == codebook)

    def own(self, medium: Medium) -> tuple[int, int]:
        """Ids [first, last) of a medium's codes; text's without the special tokens."""
        return (0, self.text_codes) if medium == "text" else self.span(TABLE[medium].codebook)

    def ids(self, medium: Medium, codes: np.ndarray) -> np.ndarray:
        """Codes of a medium as ids."""
        return np.asarray(codes, dtype=np.int64) + self.start(TABLE[medium].codebook)

    def codes(self, medium: Medium, ids: np.ndarray) -> np.ndarray:
        """The inverse of `ids`."""
        return np.asarray(ids, dtype=np.int64) - self.start(TABLE[medium].codebook)

    def opening(self, medium: Medium, language: Language | None = None) -> list[int]:
        """The tokens before an item's codes: its boundary, and a language where it has one."""
        tagged = [self.special(LANGUAGE_TOKENS[language])] if language and TABLE[medium].grid is None else []
        return [self.special(TABLE[medium].open), *tagged]

    @property
    def languages(self) -> tuple[int, int]:
        """Ids [lo, hi) of the tokens that name a language."""
        tokens = [self.special(t) for t in LANGUAGE_TOKENS.values()]
        return min(tokens), max(tokens) + 1

    def segment(self, medium: Medium, codes: np.ndarray, language: Language | None = None) -> list[int]:
        """An item between its boundaries."""
        return [*self.opening(medium, language), *self.ids(medium, codes).tolist(),
                self.special(TABLE[medium].close)]

    def spoken(self, words: Sequence[np.ndarray], sounds: Sequence[np.ndarray], language: Language) -> list[int]:
        """The model's own speech between its boundaries: every word's text codes, its sound's codes and `<|word|>`."""
        ids = self.opening("audio", language)
        for word, sound in zip(words, sounds, strict=True):
            ids += [*self.ids("text", word).tolist(), *self.ids("audio", sound).tolist(), self.special("<|word|>")]
        return [*ids, self.special(TABLE["audio"].close)]

    def allowed(self, medium: Medium) -> list[tuple[int, int]] | None:
        """For every position of a grid the ids [lo, hi) that may stand there; None where the length is free."""
        grid, start = TABLE[medium].grid, self.start(TABLE[medium].codebook)
        return [(start + lo, start + hi) for lo, hi in grid.ranges] if grid else None

    def choices(self) -> list[Choice]:
        """The sets of ids among which a target is scored, in the vocabulary's order; every id is in exactly one.

        A grid's codes compete within their field, as in generation; a sound's codes with the token that ends a word;
        text with all other special tokens.
        """
        word = self.special("<|word|>")
        found = [Choice("text", 0, self.span("text")[1]), Choice("audio", *self.span("audio"), extra=word)]
        for codebook, grid in {TABLE[m].codebook: TABLE[m].grid for m in MEDIA}.items():
            for field in grid.fields if grid else ():
                lo = self.start(codebook) + grid.base(field.name)  # type: ignore[union-attr]
                found.append(Choice(codebook, lo, lo + field.span, spread=field.spread, ordered=field.codes))
        return sorted(found, key=lambda c: c.lo)

    def segments(self, ids: Sequence[int]) -> list[tuple[Medium, Language | None, np.ndarray]]:
        """(medium, language, codes int64 [K]) of every item that is opened in a sequence; the inverse of `segment`.

        An item that is not closed goes on to the end of the sequence; ids outside items are passed over, and so are the
        words within the model's own speech.
        """
        opens = {self.special(TABLE[m].open): m for m in MEDIA}
        tags = {self.special(t): cast(Language, language) for language, t in LANGUAGE_TOKENS.items()}
        found: list[tuple[Medium, Language | None, np.ndarray]] = []
        at = 0
        while at < len(ids):
            medium, at = opens.get(ids[at]), at + 1
            if medium is None:
                continue
            language = tags.get(ids[at]) if at < len(ids) else None
            at += language is not None
            lo, hi = self.own(medium)
            within = (0, self.text_codes, self.special("<|word|>")) if medium == "audio" else (0, 0, -1)
            stop = next((k for k in range(at, len(ids)) if not lo <= ids[k] < hi
                         and not within[0] <= ids[k] < within[1] and ids[k] != within[2]), len(ids))
            own = [i for i in ids[at:stop] if lo <= i < hi]
            found.append((medium, language, self.codes(medium, np.array(own, dtype=np.int64))))
            at = stop
        return found
