"""The matrix on models whose answers are known: one that always answers with the truth, one with
another scene."""

import numpy as np
import pytest

from onnuri.errors import ConfigError
from onnuri.modality import MEDIA
from onnuri.toyworld.oracles import report
from onnuri.toyworld.oracles.matrix import SPOKEN, Items, matrix, render
from onnuri.toyworld.scene import sample_scene
from onnuri.toyworld.tasks import answer


class Copy:
    """A codec that loses nothing."""

    def encode_batch(self, items):
        return items

    decode_batch = encode_batch


class Known:
    """Answers with scene k + shift in the modality asked for; a picture opens a still."""

    codecs = {m: Copy() for m in MEDIA}

    def __init__(self, split: str, shift: int) -> None:
        self.split, self.shift = split, shift

    def generate_batch(self, to, inputs, *, language, seeds):
        made = []
        for k, given in enumerate(inputs):
            scene = sample_scene(k + self.shift, self.split)
            if len(given) == 3:
                made.append("the first")
            elif given[-1][0] == "audio" and len(given) == 2:
                made.append("?" if to == "text" else np.zeros(8000, np.float32))
            elif len(given) == 2 and to == "text":
                made.append(answer(scene.description(), given[1][1]) or "?")
            else:
                made.append(render(scene, to, language[k], self.split))
        return made


@pytest.fixture(scope="module")
def right():
    return matrix(Known("seen", 0), 2, splits=("seen",))


def test_schema_is_the_promised_one(right):
    assert right["items"] == 2
    wanted = {
        "from",
        "to",
        "split",
        "objects",
        "language",
        "task",
        "n",
        "attribute_accuracy",
        "scene_accuracy",
        "interval",
        "ceiling",
        "chance",
    }
    assert all(wanted <= set(c) for c in right["cells"])
    assert {(c["from"], c["to"]) for c in right["cells"]} == {(a, b) for a in MEDIA for b in MEDIA}
    assert {c["task"] for c in right["cells"] if c["from"] == c["to"]} == {
        "translation",
        "question answering",
        "edit",
    }


def test_the_truth_is_all_right_where_nothing_moves_unasked(right):
    for c in right["cells"]:
        if (
            c["from"] != c["to"]
            and c["from"] in (*SPOKEN, "video")
            and "audio" not in (c["from"], c["to"])
        ):
            assert c["attribute_accuracy"] == 1.0 and c["scene_accuracy"] == 1.0, c
            assert c["chance"] < 1.0 and c["ceiling"] == 1.0
    asked = next(c for c in right["cells"] if c["task"] == "question answering")
    assert asked["attribute_accuracy"] == 1.0


def test_the_second_renderer_and_mixed_inputs_are_told_apart(right):
    rows = {(r["name"], r["to"]): r for r in right["further"]}
    assert rows["second renderer", "shape"]["attribute_accuracy"] == 1.0
    assert rows["picture and spoken question", "text"]["attribute_accuracy"] == 0.0
    assert {"n", "interval", "chance"} <= set(rows["two pictures: which has more", "text"])


def test_an_unchanged_copy_keeps_everything_and_edits_nothing(right):
    for c in right["cells"]:
        if c["task"] == "edit" and c["objects"] == c["language"] == "all":
            assert c["edited"] == 0.0 and c["kept"] == 1.0
            assert c["attribute_accuracy"] == pytest.approx(c["unchanged_copy"])


@pytest.mark.slow
def test_another_scene_is_no_better_than_chance():
    wrong = matrix(Known("seen", 1), 3, splits=("seen",))
    assert report.mean(wrong, "seen") < 0.75


@pytest.mark.slow
def test_report_writes_figures_picture_and_page(tmp_path, capsys):
    report.run(Known("seen", 0), 1, tmp_path / "m.json")
    assert {p.name for p in tmp_path.iterdir()} == {"m.json", "m.png", "m.html"}
    assert (
        "from" in capsys.readouterr().out and "data:image/png" in (tmp_path / "m.html").read_text()
    )


def test_items_are_rendered_once():
    items = Items("seen", 2, Known.codecs)
    assert items.media("image", 1) is items.media("image", 1)


@pytest.mark.parametrize("name", ["a.png", "a.html"])
def test_figures_do_not_lie_where_the_pictures_go(tmp_path, name):
    with pytest.raises(ConfigError, match=r"end the name in \.json"):
        report.run(None, 1, tmp_path / name)
