"""Which sentences the empty page may show: those that come out right in every output. `make
bench-examples`.

A candidate is made in all five media under 20 seeds and judged by the oracles against what its own
words state. Those that are right in at least 18 of 20 in every modality are made once more under 20
fresh seeds, and only what holds there as well is written to the page. The fresh seeds choose
nothing: of the sentences that hold, the page shows the first three of each language in the order of
the list, so that the list's order is the only taste in it.

    python benchmarks/page_examples.py            # all candidates
    python benchmarks/page_examples.py --first 4  # of each language the first four: whether it works
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import onnuri
from onnuri.modality import LANGUAGES, MEDIA, Language, Modality
from onnuri.toyworld.oracles import text
from onnuri.toyworld.oracles.matrix import OBSERVE, counted
from onnuri.toyworld.oracles.score import score
from onnuri.toyworld.scene import Description

CANDIDATES: dict[Language, tuple[str, ...]] = {
    "ko": (
        "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다",
        "큰 노란 도넛이 작은 초록 원뿔 위에 있다",
        "보라 별이 튄다",
        "작은 초록 원뿔이 큰 빨간 구 오른쪽에 있다",
        "큰 파란 정육면체가 있다",
        "노란 구가 튄다",
        "큰 주황 원기둥이 작은 검은 별 왼쪽에 있다",
        "작은 하얀 캡슐이 오른쪽으로 간다",
        "빨간 도넛이 돈다",
        "파란 구가 초록 정육면체 아래에 있다",
        "큰 분홍 십자가가 있다",
        "작은 주황 팔면체가 올라간다",
    ),
    "en": (
        "A small red sphere circles to the left of a blue cube",
        "A large yellow torus is above a small green cone",
        "A purple star bounces",
        "A small green cone is to the right of a large red sphere",
        "There is a large blue cube",
        "A yellow sphere bounces",
        "A large orange cylinder is to the left of a small black star",
        "A small white capsule moves right",
        "A red torus circles",
        "A blue sphere is below a green cube",
        "There is a large pink cross",
        "A small orange octahedron rises",
    ),
}
"""sentences that a newcomer would type, the ones to be shown first first"""
CHOOSING_SEEDS, FRESH_SEEDS = range(20), range(1000, 1020)
RIGHT_OF_20 = 18
SHOWN = 3
"""examples of each language on the page"""
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "page_examples.json"
PAGE = ROOT / "onnuri" / "server" / "web" / "examples.json"


def expected_from(sentence: str) -> Description:
    """What a sentence states. A candidate that the oracle of text does not read is a mistake in the
    list."""
    stated = text.observe(sentence)
    if stated is None:
        raise SystemExit(
            f"page_examples: {sentence!r}: states nothing that the oracle reads; reword or drop it"
        )
    return stated


def right_of(model: Any, sentence: str, language: Language, seeds: range) -> dict[Modality, int]:
    """Return, for each modality, under how many seeds all that the sentence states is right."""
    expected = expected_from(sentence)
    stated = frozenset(
        r for r in expected.relations if r[0] < r[2]
    )  # the oracle reads each both ways round
    right: dict[Modality, int] = {}
    for modality, items in outputs_of(model, sentence, language, seeds).items():
        right[modality] = sum(
            score(expected, OBSERVE[modality](item), counted("text", modality), stated).scene
            for item in items
        )
    return right


def outputs_of(
    model: Any, sentence: str, language: Language, seeds: range
) -> dict[Modality, list[Any]]:
    """Return what the page answers under each seed: words in the language of a text answer, and
    speech that says them."""
    spoken = text_language(language)

    def make(modality: Modality, sentences: list[str], to: Language) -> list[Any]:
        given = [[("text", s)] for s in sentences]
        made: list[Any] = model.generate_batch(
            modality, given, language=[to] * len(given), seeds=list(seeds)
        )
        return made

    asked = [sentence] * len(seeds)
    words = make("text", asked, spoken)
    drawn: tuple[Modality, ...] = ("image", "video", "shape")
    return {
        "text": words,
        **{modality: make(modality, asked, language) for modality in drawn},
        "audio": make("audio", words, spoken),
    }


def text_language(language: Language) -> Language:
    """Return the language in which the server answers a lone statement in words: the other one
    (docs/server.md)."""
    return next(other for other in LANGUAGES if other != language)


def measured(model: Any, sentence: str, language: Language) -> dict[str, Any]:
    """A candidate's row: its figures under the choosing seeds and, where those suffice, under the
    fresh ones."""
    choosing = right_of(model, sentence, language, CHOOSING_SEEDS)
    fresh = right_of(model, sentence, language, FRESH_SEEDS) if holds(choosing) else None
    return {"language": language, "sentence": sentence, "choosing": choosing, "fresh": fresh}


def holds(right: dict[Modality, int] | None) -> bool:
    """Whether a sentence is right often enough in every modality."""
    return right is not None and min(right.values()) >= RIGHT_OF_20


def examples_of(rows: list[dict[str, Any]]) -> dict[Language, list[str]]:
    """Return the page's examples by language: the first few rows that hold under the fresh seeds
    too."""
    return {
        language: [
            row["sentence"] for row in rows if row["language"] == language and holds(row["fresh"])
        ][:SHOWN]
        for language in LANGUAGES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--first", type=int, default=None, help="of each language only so many candidates"
    )
    arguments = parser.parse_args()
    model, began, rows = onnuri.load(), time.process_time(), []
    for language in LANGUAGES:
        for sentence in CANDIDATES[language][: arguments.first]:
            rows.append(measured(model, sentence, language))
            spent = time.process_time() - began
            print(
                f"{spent:6.1f} s of CPU  {sentence}  {rows[-1]['choosing']}  {rows[-1]['fresh']}",
                flush=True,
            )
    result = {
        "right_of_20": RIGHT_OF_20,
        "choosing_seeds": [CHOOSING_SEEDS.start, CHOOSING_SEEDS.stop],
        "fresh_seeds": [FRESH_SEEDS.start, FRESH_SEEDS.stop],
        "media": list(MEDIA),
        "candidates": rows,
        "shown": examples_of(rows),
    }
    RESULTS.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(
        json.dumps(examples_of(rows), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    print(f"wrote {RESULTS} and {PAGE}")


if __name__ == "__main__":
    main()
