"""Codes of many views of pictures, against the codec's own codes of pictures made by Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from onnuri.codecs.grid import GridCodec, GridConfig
from onnuri.data import code_store, picture_store
from onnuri.data.augment import AugmentConfig, apply, draw
from onnuri.data.code_store import DRAWN, CodeStore, Views, write
from onnuri.data.picture_store import PictureItem, PictureStore
from onnuri.errors import ConfigError

SPLITS = ("train", "train", "dev", "train", "test")


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    settings = GridConfig(side=16, stem=4, strides=(), widths=(16,), cell_blocks=1)
    return GridCodec(settings).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    pairs = []
    for number, split in enumerate(SPLITS):
        pixels = rng.integers(0, 256, (16, 16, 4)).astype(np.uint8)
        pixels[..., 3] = 255 * (rng.random((16, 16)) < 0.5)
        pairs.append((PictureItem(concept=str(number), split=split, names=("x",)), pixels))
    folder = tmp_path_factory.mktemp("store") / "pictures"
    picture_store.write(folder, pairs, len(pairs), 16)
    return PictureStore(folder)


def test_the_first_view_is_the_picture_on_white(store, codec, tmp_path):
    write(tmp_path / "codes", store, codec, Views(drawn=1, seen=2))
    codes = CodeStore(tmp_path / "codes")
    for number in range(len(store)):
        image = Image.fromarray(store.pixels[number].transpose(1, 2, 0)).convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        expected = codec.encode(np.asarray(white.convert("RGB")))
        assert (codes.plain(number) == expected).mean() > 0.9  # Pillow rounds to 8 bits


def test_trained_pictures_vary_and_others_do_not(store, codec, tmp_path):
    write(tmp_path / "codes", store, codec, Views(drawn=2, seen=3))
    codes = CodeStore(tmp_path / "codes")
    assert codes.codes.shape == (5, 6, 16) and codes.views.count == 6
    for number, split in enumerate(SPLITS):
        differ = len(np.unique(codes.codes[number], axis=0))
        assert (differ > 4) if split == "train" else (differ == 1)
    rng = np.random.default_rng(0)
    drawn = {codes.drawn(0, rng).tobytes() for _ in range(60)}
    seen = {codes.seen(0, rng).tobytes() for _ in range(60)}
    own = [codes.codes[0, view].astype(np.int64).tobytes() for view in range(6)]
    assert drawn == set(own[:3]) and seen == set(own)


def test_what_is_to_be_drawn_is_on_white(store):
    drawn = draw(np.random.default_rng(0), DRAWN, np.zeros(5, bool), np.zeros(5, bool))
    pictures, cover = apply(torch.from_numpy(np.array(store.pixels)), drawn, 16)
    hidden = (cover == 0).expand_as(pictures)
    assert hidden.any() and (pictures[hidden] == 1).all()
    other = draw(
        np.random.default_rng(0), AugmentConfig(plain=0), np.zeros(5, bool), np.zeros(5, bool)
    )
    pictures, cover = apply(torch.from_numpy(np.array(store.pixels)), other, 16)
    assert (pictures[(cover == 0).expand_as(pictures)] != 1).any()


def test_an_interrupted_store_goes_on_and_is_the_same(store, codec, tmp_path, monkeypatch):
    monkeypatch.setattr(code_store, "CHUNK", 2)
    views = Views(drawn=1, seen=1)
    write(tmp_path / "whole", store, codec, views)
    made, chunk = [], code_store._chunk

    def cut_off(store, numbers, *more):
        """Fail at the third chunk of the first run."""
        if len(made) == 2:
            made.append(None)
            raise KeyboardInterrupt
        made.append(numbers)
        return chunk(store, numbers, *more)

    monkeypatch.setattr(code_store, "_chunk", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "codes", store, codec, views)
    assert not (tmp_path / "codes").exists()
    write(tmp_path / "codes", store, codec, views)
    assert made == [range(0, 2), range(2, 4), None, range(4, 5)]
    assert (CodeStore(tmp_path / "codes").codes == CodeStore(tmp_path / "whole").codes).all()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["codes", "whole"]


def test_mistakes_are_one_line(tmp_path, codec, store):
    with pytest.raises(ConfigError, match="holds no codes of pictures"):
        CodeStore(tmp_path)
    many = GridCodec(GridConfig(side=8, stem=8, strides=(), widths=(8,), levels=(41, 41, 41)))
    with pytest.raises(ConfigError, match="68921 codes: has more than 16 bits hold"):
        write(tmp_path / "codes", store, many, Views())
