"""Held-out compositions never occur in training: a real table, made with the codecs that ship, is
read back."""

import pytest

from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGES
from onnuri.toyworld.data.token_store import PARTS, TokenStore, _merge, write_shard
from onnuri.toyworld.oracles.scan import named_compositions, scan
from onnuri.toyworld.scene import (
    HELD_OUT,
    compositions,
    generator,
    held_out,
    sample_edit,
    sample_scene,
)
from onnuri.toyworld.tasks import instruction, question
from onnuri.toyworld.text import caption


def write(folder, scenes, codecs):
    for part, make in PARTS.items():
        write_shard(folder, 0, part, make(scenes, codecs))
    _merge(folder, [0], len(scenes))
    return TokenStore(folder)


def test_a_table_of_training_holds_nothing_held_out(tmp_path, codecs):
    found = scan(write(tmp_path, [sample_scene(k) for k in range(8)], codecs), codecs)
    assert found["records"] == found["texts"] == [] and len(found["codes"]) <= 1, found


@pytest.mark.long
def test_a_larger_table_too(tmp_path, codecs):
    found = scan(write(tmp_path, [sample_scene(k) for k in range(400)], codecs), codecs)
    assert found["records"] == found["texts"] == [] and len(found["codes"]) <= 8, found


@pytest.mark.parametrize("broken", ["table.json", "image.values.npy", "image.offsets.npy"])
@pytest.mark.parametrize("left", [None, 0, 20])
def test_a_table_that_is_not_whole_is_one_line(tmp_path, codecs, broken, left):
    write(tmp_path, [sample_scene(0)], codecs)
    whole = (tmp_path / broken).read_bytes()
    (tmp_path / broken).unlink()
    if left is not None:
        (tmp_path / broken).write_bytes(whole[:left])
    with pytest.raises(ConfigError, match="no whole token table"):
        TokenStore(tmp_path)


def test_the_scan_finds_what_is_there(tmp_path, codecs):
    """The same scan on a table of held-out scenes finds them in texts and in codes."""
    scenes = [sample_scene(k, "held_out") for k in range(4)]
    found = scan(write(tmp_path, scenes, codecs), codecs)
    assert len({line.split(",")[0] for line in found["texts"]}) == 4 and len(found["codes"]) >= 3


def test_captions_questions_and_instructions_of_training_name_nothing_held_out():
    for k in range(150):
        scene, rng = sample_scene(k), generator("train", k)
        edit = sample_edit(rng, scene, allow_motion=True)
        assert not held_out(scene) and not (edit and held_out(edit.apply(scene)))
        for language in LANGUAGES:
            for sentence in (
                caption(scene, language, rng),
                question(scene, language, rng)[0],
                instruction(scene, edit, language, rng) if edit else "",
            ):
                assert not named_compositions(sentence) & HELD_OUT, sentence


def test_what_is_said_is_what_is_there():
    for k in range(60):
        scene = sample_scene(k, "held_out")
        for language in LANGUAGES:
            named = named_compositions(caption(scene, language, generator("held_out", k)))
            assert named <= compositions(scene.description())
            assert {c for c in compositions(scene.description()) if c[0] == "color"} <= named
