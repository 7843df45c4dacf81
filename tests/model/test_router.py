"""Of several models the one answers that knows most of what it is asked."""

import numpy as np
import pytest
import torch
from skimage import data

import onnuri
from onnuri.codecs.grid import GridCodec, GridConfig
from onnuri.codecs.text import TextCodec
from onnuri.errors import ConfigError
from onnuri.model.backbone import BackboneConfig
from onnuri.model.omni import OmniModel, new_layout
from onnuri.model.router import Router
from onnuri.model.word_list import WordListFrontEnd
from onnuri.toyworld.image import render
from onnuri.toyworld.scene import sample_scene

WORDS = ["사과", "red apple", "draw", "dog and cat", "그려 줘", "ball"]


@pytest.fixture(scope="module")
def pictures():
    """A model of pictures that has learned nothing but its words."""
    torch.manual_seed(0)
    codec = GridCodec(GridConfig(side=16, stem=4, strides=(), widths=(16,), cell_blocks=1))
    text = TextCodec.learn(WORDS, 300)
    codecs = {"text": text, "image": codec.eval().requires_grad_(False)}
    layout = new_layout(codecs, tasks=True)
    shape = {"width": 32, "layers": 1, "heads": 2, "hidden": 48, "longest": 512}
    network = BackboneConfig(vocabulary=layout.size, **shape).build()
    return OmniModel(network, codecs, layout, front_end=WordListFrontEnd.learn(WORDS))


@pytest.fixture(scope="module")
def router(pictures):
    return Router({"world": onnuri.load(), "pictures": lambda: pictures})


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
    assert router.choose("image", [("audio", np.zeros(100, np.float32))]) == "world"


def test_the_reply_names_its_model(router, pictures):
    reply = router.reply("image", [("text", "사과")], seed=3)
    assert reply.model == "pictures" and reply.notices == ()
    assert (reply.item == pictures.generate("image", text="사과", seed=3)).all()
    assert router.reply("image", [("text", "a red sphere")]).model == "world"


def test_modalities_of_no_model_are_one_line(pictures):
    with pytest.raises(ConfigError, match=r"audio and text: are of no one model; .* pictures"):
        Router({"pictures": pictures}).choose("audio", [("text", "사과")])
