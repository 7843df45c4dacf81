"""The examples of the empty page are sentences that were measured to come out right, under seeds
that chose nothing."""

import importlib.util
import json
from pathlib import Path

import pytest

from onnuri.modality import LANGUAGES, MEDIA, language_of
from onnuri.toyworld.oracles import text

ROOT = Path(__file__).parents[2]
RESULTS = json.loads(
    (ROOT / "benchmarks" / "results" / "page_examples.json").read_text(encoding="utf-8")
)
SHOWN = json.loads(
    (ROOT / "onnuri" / "server" / "web" / "examples.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_example_is_right_in_18_of_20_fresh_seeds_in_every_output(language):
    measured = {row["sentence"]: row for row in RESULTS["candidates"]}
    assert SHOWN[language]
    for sentence in SHOWN[language]:
        assert language_of(sentence) == language == measured[sentence]["language"]
        assert set(measured[sentence]["fresh"]) == set(MEDIA)
        assert min(measured[sentence]["fresh"].values()) >= 18


def test_the_fresh_seeds_are_twenty_that_did_not_choose():
    choosing, fresh = (set(range(*RESULTS[seeds])) for seeds in ("choosing_seeds", "fresh_seeds"))
    assert len(choosing) == len(fresh) == 20 and not choosing & fresh


def benchmark():
    spec = importlib.util.spec_from_file_location(
        "page_examples", ROOT / "benchmarks" / "page_examples.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fixed:
    """A model whose text is one sentence and whose other outputs are nothing that an oracle can
    see."""

    def __init__(self, said):
        self.said = said

    def generate_batch(self, to, inputs, *, language, seeds):
        return [self.said if to == "text" else None for _ in seeds]


@pytest.mark.parametrize(
    "said, right",
    [
        ("작은 빨간 구가 파란 정육면체 왼쪽에 있다.", 20),
        ("작은 빨간 구가 파란 정육면체 오른쪽에 있다.", 0),
        ("작은 빨간 구가 있다.", 0),
        ("보라 정육면체", 0),
    ],
)
def test_an_output_counts_only_where_all_that_the_sentence_states_is_right(
    said, right, monkeypatch
):
    pages = benchmark()
    monkeypatch.setattr(
        pages, "OBSERVE", {**dict.fromkeys(MEDIA, lambda item: None), "text": text.observe}
    )
    found = pages.right_of(
        Fixed(said), "A small red sphere is to the left of a blue cube", "en", range(20)
    )
    assert found == {**dict.fromkeys(MEDIA, 0), "text": right}


def test_candidates_are_read_by_the_oracle_and_the_first_that_hold_are_shown():
    pages = benchmark()
    for language, sentences in pages.CANDIDATES.items():
        assert len(set(sentences)) == len(sentences)
        assert all(
            language_of(sentence) == language and pages.expected_from(sentence).things
            for sentence in sentences
        )
    good, bad = dict.fromkeys(MEDIA, 20), {**dict.fromkeys(MEDIA, 20), "video": 17}
    rows = [
        {"language": "ko", "sentence": str(k), "fresh": fresh}
        for k, fresh in enumerate([None, bad, good, good, good, good])
    ]
    assert pages.examples_of(rows) == {"ko": ["2", "3", "4"], "en": []}
