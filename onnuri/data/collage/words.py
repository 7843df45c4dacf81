"""This module tells a collage's scene in Korean and English, and reads such sentences.

`PHRASINGS` has those that are trained on and those that are held out; `read` knows both. Whether a
scene was told rightly is therefore a question of equal scenes, not of equal sentences. Names are
given by whoever calls: one per concept and language (`names_to_tell`). The module knows no pixels.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from onnuri.data.collage.scene import CollageScene, CollageThing, Kind, Place, Size, Tint
from onnuri.data.korean import particle
from onnuri.modality import Language, fold

Names = Mapping[str, Mapping[Language, str]]
"""a concept's name in each language, in small letters"""
SIZE_WORDS: Mapping[Language, Mapping[Size, str]] = {
    "ko": {"small": "작은", "large": "큰"},
    "en": {"small": "small", "large": "large"},
}
TINT_WORDS: Mapping[Language, Mapping[Tint, str]] = {
    "ko": {"red": "빨간", "green": "초록", "blue": "파란", "gray": "회색"},
    "en": {"red": "red", "green": "green", "blue": "blue", "gray": "gray"},
}
COUNT_WORDS: Mapping[Language, Mapping[int, str]] = {
    "ko": {2: "둘", 3: "셋", 4: "넷"},
    "en": {2: "two", 3: "three", 4: "four"},
}
SIDES: Mapping[Place, tuple[str, str]] = {
    "left": ("왼쪽", "on the left"),
    "right": ("오른쪽", "on the right"),
    "top": ("위쪽", "at the top"),
    "bottom": ("아래쪽", "at the bottom"),
}
"""places in Korean, without a particle, and in English"""


class Phrasing(NamedTuple):
    """A Phrasing is a way of telling scenes of one kind: {a}, {b} are things, {이a}, {이b} the
    Korean particle after them, {n} a number, {all} a list."""

    kind: Kind
    place: Place | None
    language: Language
    pattern: str
    is_held: bool = False
    """whether it is kept from training"""


def _phrasings() -> Iterator[Phrasing]:
    """Yield all ways of telling a scene."""
    patterns: dict[tuple[Kind, Place | None, Language], tuple[str, ...]] = {
        # the last of each is held out
        ("one", None, "ko"): ("{a}", "{a}{이a} 있다", "{a}{이a} 보인다"),
        ("one", None, "en"): ("{a}", "there is {a}", "one sees {a}"),
        ("count", None, "ko"): ("{a} {n}", "{a}{이a} {n} 있다", "{a}{이a} {n} 보인다"),
        ("count", None, "en"): ("{n} {a}", "there are {n} {a}", "one sees {n} {a}"),
        ("many", None, "ko"): ("{all}", "{all} 있다", "{all} 보인다"),
        ("many", None, "en"): ("{all}", "there are {all}", "one sees {all}"),
    }
    for place, (ko, en) in SIDES.items():
        patterns["one", place, "ko"] = (
            f"{ko}에 {{a}}",
            f"{ko}에 {{a}}{{이a}} 있다",
            f"{{a}}{{이a}} {ko}에 보인다",
        )
        patterns["one", place, "en"] = (
            f"{{a}} {en}",
            f"there is {{a}} {en}",
            f"{en} one sees {{a}}",
        )
    patterns["two", "left", "ko"] = (
        "{b} 왼쪽에 {a}",
        "{a}{이a} {b} 왼쪽에 있다",
        "{a} 오른쪽에 {b}",
        "{b}{이b} {a} 오른쪽에 있다",
        "왼쪽에 {a}, 오른쪽에 {b}",
    )
    patterns["two", "left", "en"] = (
        "{a} to the left of {b}",
        "{a} is left of {b}",
        "{b} to the right of {a}",
        "{b} is right of {a}",
        "on the left {a}, on the right {b}",
    )
    patterns["two", "top", "ko"] = (
        "{b} 위에 {a}",
        "{a}{이a} {b} 위에 있다",
        "{a} 아래에 {b}",
        "{b}{이b} {a} 아래에 있다",
        "위쪽에 {a}, 아래쪽에 {b}",
    )
    patterns["two", "top", "en"] = (
        "{a} above {b}",
        "{a} is over {b}",
        "{b} below {a}",
        "{b} is under {a}",
        "at the top {a}, at the bottom {b}",
    )
    for (kind, at, language), own in patterns.items():
        for pattern in own:
            yield Phrasing(kind, at, language, pattern, pattern == own[-1])


PHRASINGS = tuple(_phrasings())
GRAMMAR_WORDS = frozenset(
    word
    for phrasing in PHRASINGS
    for word in re.findall(r"[a-z]+|[가-힣]+", re.sub(r"{.*?}", " ", phrasing.pattern))
) | {
    word
    for table in (SIZE_WORDS, TINT_WORDS, COUNT_WORDS)
    for words in table.values()
    for word in words.values()
}
GRAMMAR_WORDS |= {ko for ko, _ in SIDES.values()}
"""words of the phrasings, which no name may have"""


def names_to_tell(names: Names) -> dict[str, Mapping[Language, str]]:
    """Return the concepts that sentences can tell and be read of: with a name in both languages
    that no other one has, of one English word in the singular, and of no word of the phrasings."""
    taken: dict[str, int] = {}
    for each in names.values():
        for language, name in each.items():
            for form in {name, plural(name)} if language == "en" else {name}:
                taken[form] = taken.get(form, 0) + 1
    return {
        concept: each
        for concept, each in names.items()
        if len(each) == 2
        and all(taken[name] == 1 for name in each.values())
        and taken[plural(each["en"])] == 1
        and re.fullmatch(r"[a-z]+", each["en"])
        and not re.search(r"[^su]s$", each["en"])
        and re.fullmatch(r"[가-힣]+( [가-힣]+)*", each["ko"])
        and not GRAMMAR_WORDS & {*each["en"].split(), *each["ko"].split()}
    }


def tell(
    scene: CollageScene,
    names: Names,
    language: Language,
    rng: np.random.Generator,
    held: bool = False,
) -> str:
    """Return a random sentence that tells a scene; a held-out one, if `held`."""
    ways = [
        phrasing.pattern
        for phrasing in PHRASINGS
        if (phrasing.kind, phrasing.place) == (scene.kind, scene.place)
        and phrasing.language == language
        and phrasing.is_held == held
    ]
    pattern = ways[int(rng.integers(len(ways)))]
    return write(pattern, scene, names, language)


def write(pattern: str, scene: CollageScene, names: Names, language: Language) -> str:
    """Return a scene as a phrasing's pattern tells it."""
    alike = scene.kind == "count"
    told = [phrase(thing, names, language, alike) for thing in scene.things]
    fields = {
        "a": told[0],
        "b": told[-1],
        "이a": particle(told[0], "이/가"),
        "이b": particle(told[-1], "이/가"),
    }
    fields["n"] = COUNT_WORDS[language].get(scene.number, "")
    *before, last = told
    if language == "en":
        fields["all"] = f"{', '.join(before)} and {last}"
    else:
        end = "" if pattern == "{all}" else particle(last, "이/가")
        fields["all"] = f"{', '.join(before)} 그리고 {last}{end}"
    return pattern.format(**fields)


def phrase(thing: CollageThing, names: Names, language: Language, alike: bool = False) -> str:
    """Return a thing's name with its size and tint; an English one with its article, or in the
    plural if there are several `alike`."""
    words = [SIZE_WORDS[language][thing.size]] if thing.size else []
    words += [TINT_WORDS[language][thing.tint]] if thing.tint else []
    name = names[thing.concept][language]
    words.append(plural(name) if alike and language == "en" else name)
    told = " ".join(words)
    if language == "ko" or alike:
        return told
    return f"{article(told)} {told}"


def article(word: str) -> str:
    """Return the English indefinite article before a word, by its first sound as it is spelt."""
    starts_like_you_or_one = re.match(r"uni|eu|use|usu|ut[ei]|one\b|once", word)
    return "an" if word[:1] in "aeiou" and not starts_like_you_or_one else "a"


def plural(name: str) -> str:
    """Return an English noun's regular plural."""
    if re.search(r"(s|x|z|ch|sh)$", name):
        return f"{name}es"
    return f"{name[:-1]}ies" if re.search(r"[^aeiou]y$", name) else f"{name}s"


def read(sentence: str, names: Names, language: Language) -> CollageScene | None:
    """Return the scene that a sentence tells; None if it tells none."""
    folded = fold(sentence).rstrip(".! ")
    for phrasing, expression in _expressions(language):
        found = expression.fullmatch(folded)
        if found and (scene := _scene(phrasing, found.groupdict(), names)):
            return scene
    return None


@functools.cache
def _expressions(language: Language) -> list[tuple[Phrasing, re.Pattern[str]]]:
    """Return the phrasings of a language as regular expressions."""
    groups = {"a": "(?P<a>.+)", "b": "(?P<b>.+)", "이a": "[이가]", "이b": "[이가]"}
    groups |= {"n": "(?P<n>[a-z가-힣]+)", "all": "(?P<all>.+)"}
    made = []
    for phrasing in PHRASINGS:
        if phrasing.language == language:
            parts = re.split(r"{(.*?)}", phrasing.pattern)
            text = "".join(groups[p] if k % 2 else re.escape(p) for k, p in enumerate(parts))
            made.append((phrasing, re.compile(text)))
    return made


def _scene(phrasing: Phrasing, told: Mapping[str, str], names: Names) -> CollageScene | None:
    """Return the scene of a phrasing with what stands in its fields, None if that is of none."""
    language = phrasing.language
    if phrasing.kind == "many":
        joint, ending = {"en": (", | and ", ""), "ko": (", | 그리고 ", "[이가]")}[language]
        listed = told["all"]
        if ending and phrasing.pattern != "{all}":
            listed = re.sub(f"{ending}$", "", listed)
        phrases = re.split(joint, listed)
        if not 3 <= len(phrases) <= 4:
            return None
    else:
        phrases = [told[key] for key in ("a", "b") if key in told]
    things = [_thing(each, names, language, phrasing.kind == "count") for each in phrases]
    counts = {word: number for number, word in COUNT_WORDS[language].items()}
    count = counts.get(told["n"]) if phrasing.kind == "count" else 1
    known = [thing for thing in things if thing]
    if len(known) < len(things) or not count:
        return None
    return CollageScene(phrasing.kind, tuple(known), phrasing.place, count)


def _thing(told: str, names: Names, language: Language, alike: bool) -> CollageThing | None:
    """Return the thing that a phrase names, None if it names none."""
    words = told.split(" ")
    if language == "en" and not alike:
        if words[0] not in ("a", "an"):
            return None
        words = words[1:]
    size, words = _leading(words, SIZE_WORDS[language])
    tint, words = _leading(words, TINT_WORDS[language])
    name = " ".join(words)
    for concept, own in names.items():
        form = plural(own[language]) if alike and language == "en" else own[language]
        if form == name:
            return CollageThing(concept, size, tint)
    return None


def _leading(words: list[str], table: Mapping[Any, str]) -> tuple[Any, list[str]]:
    """Return what the first of some words means by a table, None if it is not in it, and the words
    behind it."""
    found = next((meaning for meaning, word in table.items() if words[:1] == [word]), None)
    return found, words if found is None else words[1:]
