"""Pictures as training reads them: what is written is read, and nothing half-written is left."""

import numpy as np
import pytest

from onnuri.data.picture_store import PictureItem, PictureStore, within_square, write
from onnuri.errors import ConfigError


def item(number, split="train"):
    return PictureItem(concept=f"thing {number}", names=(f"thing {number}", "물건"), split=split)


def picture(seed, height=30, width=20, channels=4):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def test_what_is_written_is_read(tmp_path):
    splits = ["train", "dev", "train", "test"]
    pairs = [(item(k, split), picture(k)) for k, split in enumerate(splits)]
    write(tmp_path / "store", pairs, 4, 30)
    store = PictureStore(tmp_path / "store")
    assert len(store) == 4 and store.pixels.shape == (4, 4, 30, 30)
    assert [store.items[k] for k in range(4)] == [one for one, _ in pairs]
    assert store.of_split("train").tolist() == [0, 2] and store.of_split("none").tolist() == []
    middle = store.pixels[1].transpose(1, 2, 0)[:, 5:25]
    assert (middle[..., 3] == pairs[1][1][..., 3]).all()
    assert not store.pixels[:, 3, :, :5].any() and not store.pixels[:, 3, :, 25:].any()


def test_an_opaque_picture_fills_the_square_and_others_stay_whole():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 255
    filled = within_square(wide, 20)
    colors = filled[..., :3]
    assert (filled[..., 3] == 255).all() and colors[:, :8].max() < 40 < 215 < colors[:, 12:].min()
    cut_out = np.dstack([wide, np.full((10, 40), 255, np.uint8)])
    cut_out[0, 0, 3] = 0
    kept = within_square(cut_out, 40)
    assert (kept[16:24, 1:, 3] > 200).all() and not kept[:14, :, 3].any()


def test_hidden_colours_do_not_bleed_where_a_picture_is_resized():
    red = np.zeros((64, 64, 4), np.uint8)
    red[..., 1] = 255  # green, and not to be seen
    red[16:48, 16:48] = (255, 0, 0, 255)
    made = within_square(red, 20)
    assert made[made[..., 3] > 8][:, 1].max() < 20


def test_which_pictures_have_a_ground_of_their_own(tmp_path):
    write(tmp_path / "s", [(item(0), picture(0, 20, 20, 3)), (item(1), picture(1, 20, 20))], 2, 20)
    assert [item.is_whole for item in PictureStore(tmp_path / "s").items] == [True, False]


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_of_pictures_is_one_line_and_leaves_nothing(tmp_path, count):
    with pytest.raises(ConfigError) as error:
        write(tmp_path / "s", [(item(k), picture(k)) for k in range(3)], count, 16)
    assert "pictures" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["gone", "lines", "pixels", "json"])
def test_a_damaged_store_is_one_line(tmp_path, damage):
    write(tmp_path / "s", [(item(k), picture(k)) for k in range(3)], 3, 16)
    lines = tmp_path / "s/items.jsonl"
    if damage == "gone":
        lines.unlink()
    elif damage == "lines":
        lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:2]))
    elif damage == "json":
        lines.write_text("{\n" * 3)
    else:
        pixels = tmp_path / "s/pixels.npy"
        pixels.write_bytes(pixels.read_bytes()[:500])
    with pytest.raises(ConfigError) as error:
        PictureStore(tmp_path / "s")
    assert "write it anew" in str(error.value) and "\n" not in str(error.value)
