"""This module normalizes a sentence before it becomes tokens: case, Unicode, spaces and slips of
the keyboard, but not meaning.

It knows a list of words, not what they mean: a synonym stays as it is, for the model to understand.
The list lies beside the tokenizer (`codecs/text/words.json`); a model without one reads sentences
as they are. A word that is neither in the list nor one slip away from exactly one of its words is
unknown, and the user is told so (`notice.py`).
"""

from __future__ import annotations

import functools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from onnuri.model.asking import LONGEST_SENTENCE
from onnuri.model.front_end import Reading

PARTICLES = (
    "이에요",
    "예요",
    "에서는",
    "에서",
    "에는",
    "으로",
    "이랑",
    "이다",
    "은",
    "는",
    "이",
    "가",
    "을",
    "를",
    "와",
    "과",
    "의",
    "에",
    "로",
    "도",
    "만",
    "랑",
    "하고",
    "보다",
    "인데",
    "들",
    "다",
    "야",
    "고",
    "요",
)
"""particles and endings that may follow a Korean noun without a space"""
COMMON = frozenset(Path(__file__).with_name("common_words.txt").read_text(encoding="utf-8").split())
"""words of any sentence: never taken for a slip of a word of the world, and never reported as
unknown"""
REAL = frozenset(Path(__file__).with_name("real_words.txt").read_text(encoding="utf-8").split())
"""words of a language that are a slip away from one of the world and mean something else: "bell" is
no "ball", "고양이" no "모양이". Written by `benchmarks/real_words.py`"""
SELDOM, RARE = 0.1, 0.005
"""shares below which a word seldom begins a sentence: of its occurrences, and of all sentences
(docs/log.md, session 11)"""
_EDGE = ",.;:!?()[]\"'~…。·"
LONGEST = 24
"""most letters of a piece of run-together words that is looked up"""
LONGEST_RUN = 100
"""most characters of a token without spaces that is corrected or split; a longer one is unknown"""


def plain(sentence: str) -> str:
    """Return the sentence in lower case and composed Unicode, with single spaces, a comma for
    parentheses, and without quotes, faces (":)", "ㅎㅎ") and a final full stop."""
    text = unicodedata.normalize("NFKC", sentence).casefold()
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
    while (plainer := _plain_once(text)) != text:  # what one rule leaves, an earlier one may read
        text = plainer
    return text


def _plain_once(text: str) -> str:
    """Return the sentence after one pass of the rules of `plain`."""
    text = re.sub(
        r"[\"“”„«»`*_]|'(?!\w)|(?<!\w)'",
        " ",
        " ".join(text.split()).replace("’", "'").replace("‘", "'"),
    )
    text = re.sub(
        r"(?<![\u1100-\u11ff])[\u1100-\u11ff]+(?=[\s.,!?~]|$)", " ", text
    )  # "ㅎㅎ", as NFKC leaves it
    text = re.sub(r"(?<!\S)[^\w\s+&]+(?!\S)", " ", text)  # faces
    text = re.sub(
        r"\s*[(\[{]\s*", ", ", re.sub(r"\s*[)\]}]", "", text)
    )  # "a torus (blue)" is "a torus, blue"
    text = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))
    return text.rstrip(".!。…~").strip(" ,")


class Spelling:
    """A Spelling reads sentences against a list of words, with how often each occurred in the
    training sentences."""

    def __init__(
        self,
        counts: dict[str, int],
        starts: Mapping[str, int] = MappingProxyType({}),
        real: frozenset[str] = REAL,
    ) -> None:
        """Keep how often each word occurs and begins a sentence (`starts`, empty where that is not
        known). `real`: words that are never taken for a slip, though they are not known."""
        self.counts, self.starts, self.real = dict(counts), dict(starts), real
        self._sentences = sum(starts.values())
        total = sum(self.counts.values()) or 1
        self._cost = {w: -math.log(n / total) for w, n in self.counts.items()}
        self._by_jamo: dict[str, str] = {}
        for word in sorted(self.counts, key=lambda w: self.counts[w]):
            self._by_jamo[jamo(word)] = word
        self._longest = max(map(len, self._by_jamo), default=0)
        self._deletions: dict[str, set[str]] = {}
        for letters in self._by_jamo:
            for short in _deletions_of(letters):
                self._deletions.setdefault(short, set()).add(letters)

    @classmethod
    def learn(cls, sentences: Iterable[str]) -> Spelling:
        """Return the list of the words of some sentences."""
        counts: Counter[str] = Counter()
        starts: Counter[str] = Counter()
        for sentence in sentences:
            words = [core for word in plain(sentence).split() if (core := word.strip(_EDGE))]
            counts.update(words)
            starts.update(words[:1])
        return cls(dict(counts), dict(starts))

    def save(self, folder: Path) -> None:
        """Write the list to `words.json` in a folder."""
        lists = {"format": 1, "words": self.counts, "starts": self.starts}
        text = json.dumps(lists, ensure_ascii=False, indent=0, sort_keys=True)
        (folder / "words.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Spelling | None:
        """Return the list that `save` wrote; None if there is none."""
        path = folder / "words.json"
        if not path.exists():
            return None
        lists = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            lists["words"], lists.get("starts", {})
        )  # a list from before session 11 has none

    def seldom_first(self, sentence: str) -> bool:
        """Return whether a sentence begins with a word of the list that seldom begins one: fewer
        than `SELDOM` of its own occurrences, and fewer than `RARE` of all sentences ("is" begins
        few of its own, and many questions)."""
        first = next(iter(sentence.split()), "").strip(_EDGE)
        list_word = first if first in self.counts else self._stem(first)
        if list_word is None:
            return False
        start_count = self.starts.get(list_word, 0)
        return (
            start_count < SELDOM * self.counts[list_word] and start_count < RARE * self._sentences
        )

    def read(self, sentence: str) -> Reading:
        """Return the sentence as the model reads it, with its unknown words and the slips that were
        corrected."""
        tokens = self._join_tokens(plain(sentence[:LONGEST_SENTENCE]).split())
        pieces: list[str] = []
        unknown: list[str] = []
        corrected: list[tuple[str, str]] = []
        count = 0
        for token in tokens:
            core = token.strip(_EDGE)
            if not core:
                continue
            if not re.search(r"\w", core):  # "+" and "&" are no words to be ignorant of
                pieces.append(token)
                continue
            prefix, suffix = token.split(core, 1)
            count += 1
            reading = self.word(core)
            if reading is None:
                unknown.append(core)
            elif reading != core:
                corrected.append((core, reading))
            pieces.append(prefix.strip("\"'([") + (reading or core) + suffix.replace("!", "."))
        return Reading(" ".join(pieces).rstrip("."), tuple(unknown), count, tuple(corrected))

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (one list a process)
    def word(self, core: str) -> str | None:
        """Return how a word is read: as itself, as words that were run together, or as the one word
        that is a slip away; None if it is unknown."""
        if self.knows(core) or core in COMMON:
            return core
        if len(core) > LONGEST_RUN or self._is_real_word(core):
            return None
        return self._split_words(core) or self._correct_slip(core)

    def _is_real_word(self, word: str) -> bool:
        """Return whether a word means something of its own, alone or before a Korean particle."""
        return word in self.real or any(
            word.endswith(p) and word[: -len(p)] in self.real for p in PARTICLES
        )

    def knows(self, word: str) -> bool:
        """Return whether a word is in the list, alone or before a Korean particle, or a number."""
        return (
            word in self.counts
            or self._stem(word) is not None
            or re.fullmatch(r"\d{1,2}", word) is not None
        )

    def _stem(self, word: str) -> str | None:
        """Return the word of the list that remains without a Korean particle; None if there is
        none."""
        for particle in PARTICLES:
            if (
                word.endswith(particle)
                and word[: -len(particle)] in self.counts
                and "가" <= word[0] <= "힣"
            ):
                return word[: -len(particle)]
        return None

    def _join_tokens(self, tokens: list[str]) -> list[str]:
        """Return tokens in which neighbours are joined that are a word only together, such as a
        name with a space within."""
        joined: list[str] = []
        for token in tokens:
            if (
                joined
                and not self.knows(joined[-1].strip(_EDGE))
                and not self.knows(token.strip(_EDGE))
                and (joined[-1] + token).strip(_EDGE) in self.counts
            ):
                joined[-1] += token
            else:
                joined.append(token)
        return joined

    def _split_words(self, core: str) -> str | None:
        """Return words that were written without spaces, split in the likeliest way by word
        frequency; None if there is no such split."""
        if len(core) < 4:
            return None
        best: list[tuple[float, list[str]] | None] = [(0.0, [])] + [None] * len(core)
        for end in range(1, len(core) + 1):
            for start in range(max(0, end - LONGEST), end):
                best_before, piece = best[start], core[start:end]
                if best_before is None:
                    continue
                cost = self._cost.get(piece)
                if cost is None and (stem := self._stem(piece)):
                    cost = self._cost[stem] + 3.0
                if cost is None or (
                    piece.isascii() and len(piece) == 1 and piece not in ("a", "i")
                ):
                    continue
                whole = best_before[0] + cost + 1.0
                best_now = best[end]
                if best_now is None or whole < best_now[0]:
                    best[end] = whole, [*best_before[1], piece]
        last = best[-1]
        # many short pieces are no sentence: "information" is not "in for mat i on"
        return (
            " ".join(last[1])
            if last
            and len(last[1]) > 1
            and len(core) / len(last[1]) >= (2.6 if core.isascii() else 1.6)
            else None
        )

    def _correct_slip(self, core: str) -> str | None:
        """Return the one word that is a slip of the keyboard away: a letter more, less, different
        or swapped with its neighbour; None if there is none."""
        letters = jamo(core)
        if len(letters) > self._longest + 1:
            return None
        if len(letters) < 4:
            swapped = [
                w
                for w in self.counts
                if len(w) == 3 and core.isascii() and w != core and sorted(w) == sorted(core)
            ]
            return swapped[0] if len(core) == 3 and len(swapped) == 1 else None
        near: set[str] = set()
        for short in {letters, *_deletions_of(letters)}:
            near |= self._deletions.get(short, set())
            if short in self._by_jamo:
                near.add(short)
        near = {n for n in near if distance(letters, n) == 1 and min(len(n), len(letters)) >= 4}
        if near:
            return max((self._by_jamo[n] for n in near), key=lambda w: self.counts[w])
        for particle in PARTICLES:
            stem = core[: -len(particle)]
            if (
                "가" <= core[0] <= "힣"
                and core.endswith(particle)
                and len(stem) >= 2
                and (whole := self._correct_slip(stem))
            ):
                return whole + particle
        return None


def jamo(word: str) -> str:
    """Return the letters of a word, with Hangul syllables decomposed, so that one slip is one
    letter."""
    return unicodedata.normalize("NFD", word)


def _deletions_of(letters: str) -> set[str]:
    """Return every string that lacks one of the letters."""
    return {letters[:k] + letters[k + 1 :] for k in range(len(letters))}


def distance(a: str, b: str) -> int:
    """Return the number of slips between two words, where a swap of neighbours counts one (optimal
    string alignment distance)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
