"""Collages show their scenes' things where and as the scenes say, and are made once."""

import numpy as np
import pytest
from scipy.ndimage import label

from onnuri.data import picture_store
from onnuri.data.collage import store as collage_store
from onnuri.data.collage.render import COLORS, boxes, render, tinted
from onnuri.data.collage.scene import TINTS, CollageScene, CollageThing
from onnuri.data.collage.store import CollageStore, concepts_of
from onnuri.data.picture_store import PictureItem, PictureStore
from onnuri.errors import ConfigError
from onnuri.evaluation import collages

SIDE, WORDS = 32, ("cat", "dog", "owl", "bell", "fox", "bee")
KOREAN = ("고양이", "개", "부엉이", "종", "여우", "벌")


def cut(color, width=20, height=12):
    """A rectangle of one colour, the rest transparent."""
    pixels = np.zeros((4, SIDE, SIDE), np.uint8)
    pixels[:, 4 : 4 + height, 3 : 3 + width] = np.array([*color, 255])[:, None, None]
    return pixels


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six concepts in two styles each; the last in dev too; a whole picture; a flag."""
    pairs = []
    for k, (word, korean) in enumerate(zip(WORDS, KOREAN, strict=True)):
        color = [200 * (k + 1 >> bit & 1) for bit in range(3)]
        for style in ("a", "b"):
            item = PictureItem(concept=word, style=style, names=(korean, word), split="train")
            pairs.append((item, cut(color).transpose(1, 2, 0)))
        if k == 5:
            pairs.append((item.replace(split="dev"), cut(color).transpose(1, 2, 0)))
    whole = PictureItem(concept="sea", style="a", names=("바다", "sea"))
    pairs.append((whole, np.full((SIDE, SIDE, 3), 90, np.uint8)))
    flag = PictureItem(concept="flag", style="a", kind="flag", names=("깃발", "flag"))
    pairs.append((flag, cut((9, 9, 9)).transpose(1, 2, 0)))
    folder = tmp_path_factory.mktemp("collage") / "pictures"
    picture_store.write(folder, pairs, len(pairs), SIDE)
    return PictureStore(folder)


def middle(picture, color):
    """Where the pixels of a colour lie on average, right and down, as shares of the side."""
    near = np.abs(picture.astype(int) - np.array(color)).max(-1) < 30
    assert near.any()
    return [float(v.mean()) / picture.shape[0] for v in np.nonzero(near)[::-1]]


@pytest.mark.parametrize("place", ["left", "top"])
def test_the_first_of_two_things_is_left_or_above(place):
    red, blue = (200, 30, 30), (30, 30, 200)
    scene = CollageScene("two", (CollageThing("cat"), CollageThing("dog")), place)
    for seed in range(6):
        picture = render(scene, [cut(red), cut(blue)], 64, np.random.default_rng(seed))
        first, second = middle(picture, red), middle(picture, blue)
        axis = ("left", "top").index(place)
        assert second[axis] - first[axis] > 0.4 and abs(first[1 - axis] - second[1 - axis]) < 0.1


def test_sizes_places_and_numbers_are_seen():
    red = (200, 30, 30)

    def drawn(*about, **more):
        scene = CollageScene("one", (CollageThing("cat", *about),), **more)
        return render(scene, [cut(red)], 64, np.random.default_rng(3))

    sizes = [
        int((np.abs(drawn(size).astype(int) - red).max(-1) < 30).sum())
        for size in ("small", None, "large")
    ]
    assert sizes[0] * 1.5 < sizes[1] and sizes[1] * 1.5 < sizes[2]
    x, y = zip(
        *(middle(drawn(place=p), red) for p in ("left", "right", "top", "bottom")), strict=True
    )
    assert x[0] < 0.35 and x[1] > 0.65 and y[2] < 0.35 and y[3] > 0.65
    for number in (2, 3, 4):
        scene = CollageScene("count", (CollageThing("cat"),), None, number)
        assert len(boxes(scene)) == number
        for seed in range(4):
            picture = render(scene, [cut(red)], 96, np.random.default_rng(seed))
            near = np.abs(picture.astype(int) - red).max(-1) < 30
            assert label(near)[1] == number


def test_a_tint_is_the_strongest_colour():
    picture = cut((120, 150, 140))
    for tint in TINTS:
        pixel = tinted(picture, tint)[:3, 6, 6].astype(int)
        if tint == "gray":
            assert pixel.max() - pixel.min() < 12
        else:
            assert pixel.argmax() == int(np.argmax(COLORS[tint])), tint
    assert (tinted(picture, None) == picture).all()


def encode(pictures):
    """Codes that tell the mean brightness."""
    return [np.full(4, int(picture.mean()), np.int64) for picture in pictures]


def test_collages_are_of_cut_outs_that_are_trained_on(store, tmp_path):
    pictures, names = concepts_of(store)
    assert sorted(pictures) == sorted(WORDS) and all(len(of) == 2 for of in pictures.values())
    assert names["cat"] == {"ko": "고양이", "en": "cat"}
    collage_store.write(tmp_path / "collages", store, encode, SIDE, 70, seed=1)
    made = CollageStore(tmp_path / "collages")
    assert len(made) == 70 and made.codes.shape == (70, 4) and made.codes.dtype == np.uint16
    assert {thing.concept for scene in made.scenes for thing in scene.things} <= set(WORDS)
    assert isinstance(made.scenes[0], CollageScene) and isinstance(
        made.scenes[0].things[0], CollageThing
    )
    collage_store.write(tmp_path / "again", store, encode, SIDE, 70, seed=1)
    assert (CollageStore(tmp_path / "again").codes == made.codes).all()
    with pytest.raises(ConfigError, match="holds no collages"):
        CollageStore(tmp_path)


def test_pictures_of_few_concepts_make_no_collages(store, tmp_path):
    few = PictureStore.__new__(PictureStore)
    few.items, few.pixels = store.items[:4], store.pixels[:4]
    collage_store.write(tmp_path / "none", few, encode, SIDE, 70)
    assert len(CollageStore(tmp_path / "none")) == 0


class Mean:
    """A judge that sees the mean colour of what is not white."""

    name = "mean"

    def features(self, pictures):
        flat = [p.reshape(-1, 3).astype(float) for p in pictures]
        means = np.array(
            [(f[f.min(1) < 215] if (f.min(1) < 215).any() else f).mean(0) for f in flat]
        )
        means = np.concatenate([means - 128, np.full((len(means), 1), 40.0)], 1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


class Exact:
    """A codec that loses nothing."""

    side = 48

    def encode_batch(self, pictures):
        return pictures

    def decode_batch(self, codes):
        return codes


class Oracle:
    """A model that tells and draws any collage; `wrong` exchanges the things of pairs."""

    def __init__(self, store, scenes, pictures, wrong=False):
        self.codecs, self.wrong, self.store = {"image": Exact()}, wrong, store
        self.known = {
            picture.tobytes(): scene for scene, picture in zip(scenes, pictures, strict=True)
        }
        self.chosen, self.names = concepts_of(store)

    def _seen(self, scene):
        return scene._replace(things=scene.things[::-1]) if self.wrong else scene

    def generate_batch(self, to, inputs, language="en", seeds=None, temperature=None):
        rng = np.random.default_rng(0)
        if to == "text":
            scenes = [self._seen(self.known[each[0][1].tobytes()]) for each in inputs]
            return [collages.tell(scene, self.names, language, rng) for scene in scenes]
        drawn = []
        for ((_, sentence),) in inputs:
            spoken = "ko" if any("가" <= c <= "힣" for c in sentence) else "en"
            scene = self._seen(collages.read(sentence, self.names, spoken))
            of = [self.store.pixels[self.chosen[t.concept][0]] for t in scene.things]
            drawn.append(render(scene, of, Exact.side, rng))
        return drawn


def plain(pictures, count, side, monkeypatch):
    """Collages without tints and grounds, which a judge of colours could not see through."""
    from onnuri.data.collage import scene

    monkeypatch.setattr(scene, "TINTED", 0.0)
    monkeypatch.setattr("onnuri.data.collage.render.WHITE", 1.0)
    monkeypatch.setattr(scene, "OF_TWO_TINTED", 0.0)
    return collage_store.make(*pictures, count, side, collages.SEED)


def test_an_oracle_is_right_and_one_that_exchanges_things_is_not(store, monkeypatch):
    made = plain((store, concepts_of(store)[0]), 60, Exact.side, monkeypatch)
    figures = collages.measure(Oracle(store, *made), store, Mean(), 60)
    assert {k: (s.right, s.n) for k, s in figures.told.items()} == {
        k: (s.n, s.n) for k, s in figures.told.items()
    }
    assert sum(s.n for s in figures.told.values()) == 120  # in both languages
    assert all(s.right == s.n for s in figures.relations.values()) and len(figures.relations) == 2
    for each in (figures.drawn, figures.real, figures.round_trip):
        assert set(each) == {"one", "two"} and all(s.right == s.n > 10 for s in each.values()), each
    wrong = collages.measure(Oracle(store, *made, wrong=True), store, Mean(), 60)
    assert wrong.told["two"].right == 0 and wrong.told["one"].right == wrong.told["one"].n
    assert all(s.right == 0 and s.n for s in wrong.relations.values())
    assert wrong.drawn["two"].right == 0 and wrong.drawn["one"].right == wrong.drawn["one"].n
