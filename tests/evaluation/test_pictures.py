"""Figures of a picture codec: right where they can be known, and of what the split has."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from onnuri.data.picture_store import PictureItem, PictureStore, write
from onnuri.evaluation import pictures
from onnuri.evaluation.pictures import GivenPicture, measure, of_store, photographs, psnr, thumbnail


class Shift:
    """A codec whose pictures come back some levels darker; its one code is the first pixel."""

    num_codes = 256

    def __init__(self, levels):
        self.levels, self.items = levels, []

    def encode_batch(self, items):
        """Return the first level of each picture, which is kept."""
        self.items = items
        return [np.array([item[0, 0, 0]]) for item in items]

    def decode_batch(self, codes):
        """Return the pictures, darker."""
        return [item - np.uint8(self.levels) for item in self.items]


def picture(seed, group="a", cover=None):
    pixels = np.random.default_rng(seed).integers(20, 256, (16, 16, 3)).astype(np.uint8)
    return GivenPicture(group, pixels, np.ones((16, 16), bool) if cover is None else cover)


def test_psnr_is_scikit_images():
    one, other = picture(0).pixels, picture(1).pixels
    assert psnr(one, other) == pytest.approx(peak_signal_noise_ratio(other, one))
    half = np.zeros((16, 16), bool)
    half[:8] = True
    assert psnr(one, other, half) == pytest.approx(peak_signal_noise_ratio(other[:8], one[:8]))


@pytest.mark.parametrize("at_once", [3, 64])
def test_figures_are_means_over_pictures_of_a_group(at_once, monkeypatch):
    monkeypatch.setattr(pictures, "AT_ONCE", at_once)
    items = [picture(seed, "ab"[seed % 2]) for seed in range(7)]
    found = measure(Shift(5), items)
    assert {name: figures.n for name, figures in found.groups.items()} == {"all": 7, "a": 4, "b": 3}
    expected = 10 * np.log10(255**2 / 25)
    assert found.groups["all"].psnr == pytest.approx(expected, abs=1e-3)
    assert found.groups["a"].psnr_low == found.groups["a"].psnr_high  # all are alike
    assert found.codes_in_use == len({int(item.pixels[0, 0, 0]) for item in items})
    small = [psnr(thumbnail(item.pixels), item.pixels) for item in items]
    assert found.groups["all"].thumbnail == pytest.approx(np.mean(small), abs=1e-3)


def test_inside_counts_only_what_is_covered():
    cover = np.zeros((16, 16), bool)
    cover[:4] = True

    class Half(Shift):
        """What is not covered comes back darker than what is."""

        def decode_batch(self, codes):
            """Return the pictures, darker from their fifth row on."""
            made = [item.copy() for item in self.items]
            for item in made:
                item[4:] -= 10
                item[:4] -= 1
            return made

    found = measure(Half(0), [picture(0, cover=cover), picture(1, cover=np.zeros_like(cover))])
    assert found.groups["all"].psnr_inside == pytest.approx(20 * np.log10(255), abs=1e-3)


def test_a_stores_pictures_lie_on_white_by_style(tmp_path):
    pixels = np.zeros((10, 20, 4), np.uint8)
    pixels[:, :10] = (255, 0, 0, 255)
    items = [
        PictureItem(concept=split, style=style, split=split)
        for split, style in (("train", "x"), ("test", "x"), ("test", "y"))
    ]
    write(tmp_path / "s", [(item, pixels) for item in items], 3, 20)
    store = PictureStore(tmp_path / "s")
    found = list(of_store(store, store.of_split("test"), 20))
    assert [each.group for each in found] == ["x", "y"]
    assert (found[0].pixels[10, 3] == (255, 0, 0)).all() and (found[0].pixels[10, 15] == 255).all()
    assert (found[0].pixels[1] == 255).all()
    assert found[0].cover[10, 3] and not found[0].cover[10, 15] and not found[0].cover[1].any()


def test_photographs_are_whole_squares():
    found = list(photographs(32))
    assert len(found) >= 12 and {each.pixels.shape for each in found} == {(32, 32, 3)}
    assert len({each.pixels.tobytes() for each in found}) == len(found)
    assert all(each.cover.all() and each.pixels.std() > 5 for each in found)
