"""The mix: a pure function of its random numbers, weights as set, and no still is followed by motion it cannot show."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from onnuri.data.mix import MixConfig, Mixer
from onnuri.modality import LANGUAGES, MEDIA, TABLE

ROWS = 40
NAMES = ["image", "video", "shape", "edit_image", "edit_video", "edit_shape", "still", "phrase", "count",
         *(f"{c}_{x}" for x in LANGUAGES for c in ("audio", "voice", "ask", "tell", "edit", "say", "reply")),
         *(f"{x}_{k}" for x in LANGUAGES for k in "012s")]


PHRASES: list[str] = []


class Made:
    """A table whose entries tell their column and row: [column, row, …]. Even rows are still."""

    rows = ROWS

    def get(self, row, column):
        assert row in self.having(column), (row, column)
        return np.array([row]) if column == "count" else np.array([NAMES.index(column), row])

    def phrase(self, name):
        PHRASES.append(name)
        return np.array([NAMES.index("phrase"), 0])

    def having(self, column):
        step = {"still": 2, "say_ko": 8, "say_en": 8, "reply_ko": 8, "reply_en": 8,
                "edit_video": 3, "edit_image": 6, "edit_shape": 6,
                "edit_ko": 3, "edit_en": 3}.get(column, 1)
        return np.arange(0, ROWS, step)


EQUAL = {"loss_text": 1.0, "loss_audio": 1.0}


def only(**weights: float) -> MixConfig:
    kinds = ("pair", "chain", "alone", "translate_text", "translate_audio", "ask", "edit", "compare")
    return MixConfig(**(EQUAL | {k: 0.0 for k in kinds} | weights))


def drawn(config, count=600, seed=0):
    rng = np.random.default_rng(seed)
    mixer = Mixer(config, Made())
    return [[SimpleNamespace(medium=s.medium, column=NAMES[s.codes[0]], row=int(s.codes[1]), language=s.language,
                             weight=s.weight) for s in mixer.draw(rng)] for _ in range(count)]


def test_draws_follow_from_the_random_numbers():
    assert drawn(MixConfig(), 100, 7) == drawn(MixConfig(), 100, 7) != drawn(MixConfig(), 100, 8)


def test_every_pair_of_media_occurs_and_a_sequence_is_of_one_scene():
    sequences = drawn(only(pair=1.0), 2000)
    ends = Counter((s[0].medium, s[-1].medium) for s in sequences)
    assert set(ends) == {(a, b) for a in MEDIA for b in MEDIA if a != b}
    assert all(len({x.row for x in s}) == 1 for s in sequences)
    for first, *rest in sequences:
        assert first.weight == (0.0 if first.medium == "audio" else MixConfig().source_loss)
        assert all(x.weight == 1.0 for x in rest)


def test_speech_stands_beside_its_words():
    for sequence in drawn(MixConfig(**EQUAL, alone=0.0), 3000):
        for k, s in enumerate(sequence):
            if s.medium != "audio":
                continue
            given = s.language is None
            words = sequence[k + 1 if given else k - 1]
            assert words.medium == "text" and s.column.split("_")[1] == words.language
            assert words.column == {"say": f"ask_{words.language}", "reply": f"tell_{words.language}"}.get(
                s.column.split("_")[0], f"{words.language}_0")
            assert s.weight == (0.0 if given else 1.0)
            assert s.column.startswith(("voice", "reply")) != given


@pytest.mark.parametrize("kind", ["pair", "chain"])
def test_after_a_still_nothing_tells_of_motion(kind):
    for first, *rest in drawn(only(**{kind: 1.0}), 1500):
        if "motion" in TABLE[first.medium].carries:
            continue
        moving = first.row % 2 == 1
        for s in rest:
            assert not moving or (s.column.endswith("_s") if s.medium == "text" else s.medium not in ("audio", "video"))


def test_languages_of_columns_and_tags_agree_and_translations_cross():
    for sequence in drawn(MixConfig(**EQUAL), 1500):
        for s in sequence:
            assert (s.language is None) == (TABLE[s.medium].grid is not None or (s.medium == "audio" and s.weight < 1))
            assert s.language is None or s.column == "phrase" or s.language in s.column.split("_")
    for a, b in drawn(only(translate_text=1.0), 200):
        assert a.language != b.language and a.row == b.row
    for heard, words, said, spoken in drawn(only(translate_audio=1.0), 200):
        assert [s.medium for s in (heard, words, said, spoken)] == ["audio", "text", "text", "audio"]
        assert words.language != said.language == spoken.language


def test_chains_are_of_three_or_four_media_without_sound_and_alone_has_one():
    assert {len(s) for s in drawn(only(chain=1.0))} == {3, 4}
    assert all(len({x.medium for x in s} - {"audio"}) == len(s) for s in drawn(only(chain=1.0)))
    assert all(len(s) == 1 and s[0].weight == 1.0 for s in drawn(only(alone=1.0)))


def test_questions_and_edits_have_their_shape():
    for sequence in drawn(only(ask=1.0)):
        *about, asked, told = sequence if sequence[-1].medium == "text" else sequence[:-1]
        assert asked.column == f"ask_{asked.language}" and told.column == f"tell_{asked.language}"
        assert len({s.row for s in about} | {asked.row, told.row}) == 1 and told.weight == 1.0
        assert 1 <= len(about) <= 3
    for before, said, after in drawn(only(edit=1.0)):
        assert after.column == f"edit_{before.medium}" and said.column == f"edit_{said.language}"


def test_comparisons_say_which_has_more():
    PHRASES.clear()
    for k, (first, second, asked, told) in enumerate(drawn(only(compare=1.0), 200)):
        which, more = PHRASES[2 * k : 2 * k + 2]
        assert which == f"which_{asked.language}" and told.language == asked.language
        # `Made` counts as many objects as the row's number
        expected = 0 if first.row > second.row else 1 if second.row > first.row else 2
        assert first.medium == second.medium and more == f"more{expected}_{asked.language}"


def test_a_medium_s_weight_multiplies_its_own_items_only():
    plain, weighted = drawn(MixConfig(**EQUAL), 300), drawn(MixConfig(**EQUAL | {"loss_audio": 0.5}), 300)
    for a, b in zip(plain, weighted, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x.column, x.row) == (y.column, y.row)
            assert y.weight == pytest.approx(x.weight * (0.5 if x.medium == "audio" else 1.0))
