"""Of several models the one answers that knows most of what it is asked."""

import numpy as np
import pytest
import small_models
from skimage import data

import onnuri
from onnuri.errors import ConfigError, WeightsError
from onnuri.model.omni import OmniModel
from onnuri.model.router import Router
from onnuri.toyworld.image import render
from onnuri.toyworld.scene import sample_scene


@pytest.fixture(scope="module")
def pictures():
    return small_models.pictures()


@pytest.fixture(scope="module")
def router(pictures):
    return Router({"world": onnuri.load(), "pictures": pictures})


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("작은 빨간 구가 파란 정육면체 왼쪽에 있다", "world"),
        ("a small red sphere", "world"),
        ("사과", "pictures"),
        ("사과를 그려 줘", "pictures"),
        ("red apple", "pictures"),
        ("dog and cat", "pictures"),
        ("ball", "world"),  # both know it: the first answers
    ],
)
def test_words_choose_the_model_that_knows_them(router, sentence, name):
    assert router.choose("image", [("text", sentence)]) == name


def test_pictures_choose_the_model_that_knows_what_they_show(router):
    scene = render(sample_scene(3)).image
    assert router.choose("text", [("image", scene)]) == "world"
    assert router.choose("text", [("image", data.chelsea())]) == "pictures"


def test_what_one_model_has_alone_is_asked_of_it(router):
    assert router.choose("audio", [("text", "사과")]) == "world"
    sound = ("audio", np.zeros(100, np.float32))
    assert router.choose("image", [sound]) == "world"
    # though the other one knows the words
    assert router.choose("image", [sound, ("text", "사과")]) == "world"


def test_of_several_wanted_modalities_one_is_enough_for_the_model_that_knows(router):
    wanted = {"text", "image", "audio"}
    assert router.choose(wanted, [("text", "사과")]) == "pictures"
    assert router.choose(wanted, [("text", "a red sphere")]) == "world"
    assert router.choose(wanted, [("text", "ball")]) == "world"
    backwards = Router({name: router.model(name) for name in reversed(router.names)})
    # both know it: the one that has more of what is wanted, else the first
    assert backwards.choose(wanted, [("text", "ball")]) == "world"
    assert backwards.choose("image", [("text", "ball")]) == "pictures"


def test_the_reply_names_its_model(router, pictures):
    reply = router.reply("image", [("text", "사과")], seed=3)
    assert reply.model == "pictures" and reply.notices == ()
    assert (reply.item == pictures.generate("image", text="사과", seed=3)).all()
    assert router.reply("image", [("text", "a red sphere")]).model == "world"
    assert Router({"pictures": pictures}).reply("image", [("text", "사과")]).model is None


def test_a_folder_is_loaded_when_it_is_needed(pictures, tmp_path, monkeypatch):
    pictures.save(tmp_path / "pictures")
    loaded, load = [], OmniModel.load

    def noted(folder, **more):
        loaded.append(folder)
        return load(folder, **more)

    monkeypatch.setattr("onnuri.model.router.OmniModel.load", noted)
    lazy = Router({"world": onnuri.WEIGHTS / "laptop", "pictures": tmp_path / "pictures"})
    assert lazy.choose("audio", [("text", "사과")]) == "world" and loaded == []
    assert lazy.choose("image", [("text", "사과")]) == "pictures" and len(loaded) == 2
    assert lazy.model("pictures") is lazy.model("pictures") and len(loaded) == 2
    with pytest.raises(WeightsError, match=r"has no onnuri\.json"):
        Router({"none": tmp_path})


def test_modalities_of_no_model_are_one_line(pictures):
    with pytest.raises(ConfigError, match=r"audio and text: is more .* pictures \(text image\)"):
        Router({"pictures": pictures}).choose("audio", [("text", "사과")])
