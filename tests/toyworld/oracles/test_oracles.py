"""Oracles are at least 99 % right on ground truth that nobody trained on, seen and held-out
compositions alike."""

import collections

import numpy as np
import pytest

from onnuri.errors import WeightsError
from onnuri.modality import LANGUAGES
from onnuri.toyworld import audio, image, mesh, video
from onnuri.toyworld.attributes import CARRIES
from onnuri.toyworld.oracles import audio as hear
from onnuri.toyworld.oracles import image as see
from onnuri.toyworld.oracles import mesh as touch
from onnuri.toyworld.oracles import video as watch
from onnuri.toyworld.oracles.audio import Recogniser
from onnuri.toyworld.oracles.score import score
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption


def spoken(scene, seed):
    language, rng = LANGUAGES[seed % 2], generator("seen", seed)
    return audio.speak(caption(scene, language, rng), language, audio.sample_voice(rng))


CASES = {
    "image": (16, lambda s, k: image.render(s).image, see.observe),
    "shape": (16, lambda s, k: mesh.voxels(s), touch.observe),
    "video": (5, lambda s, k: video.render(s).frames, watch.observe),
    "audio": (40, spoken, hear.observe),
}


def accuracy(modality, count, start=500):
    _, make, observe = CASES[modality]
    right, asked = collections.Counter(), collections.Counter()
    for k in range(start, start + count):
        scene = sample_scene(k, "seen" if k % 4 < 2 else "held_out")
        got = score(
            scene.description(), observe(make(scene, k)), CARRIES[modality], frozenset(scene.stated)
        )
        right.update(got.right)
        asked.update(got.asked)
    return sum(right.values()) / sum(asked.values())


@pytest.mark.parametrize("modality", CASES)
def test_ground_truth_is_read(modality):
    assert accuracy(modality, CASES[modality][0]) >= 0.99


@pytest.mark.long
@pytest.mark.parametrize("modality", CASES)
def test_ground_truth_is_read_by_the_hundred(modality):
    assert accuracy(modality, 400 if modality != "video" else 120, start=2000) >= 0.99


def test_noise_pictures_and_silence_are_not_scenes():
    rng = np.random.default_rng(0)
    see.observe(rng.integers(0, 255, (128, 128, 3)).astype(np.uint8))
    assert see.observe(np.full((128, 128, 3), 120, np.uint8)).things == ()
    assert touch.observe(np.zeros((64, 64, 64, 4), np.uint8)).things == ()
    assert (
        hear.observe(np.zeros(16_000, np.float32)) is None
        and hear.observe(np.zeros(0, np.float32)) is None
    )


def test_a_recogniser_that_is_not_what_was_written_is_one_line(tmp_path):
    made = Recogniser(["red", "sphere"])
    made.save(tmp_path)
    assert Recogniser.load(tmp_path).words == made.words
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="is not what was written"):
        Recogniser.load(tmp_path)
