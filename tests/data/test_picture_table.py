"""Pictures of an ingested table as training reads them."""

import json

import numpy as np
import pytest
from PIL import Image

from onnuri.data import picture_table
from onnuri.data.ingest.run import ingest
from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.picture_store import PictureStore
from onnuri.errors import ConfigError


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    pixels[:, :10, 3] = 0
    return pixels


@pytest.fixture
def table(tmp_path):
    """Three pictures with names, a text alone, and a document of two pictures."""
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [
        {
            "text": {"en": ["red apple", "apple"], "ko": "빨간 사과"},
            "tags_en": ["fruit", "red apple"],
            "concept": "apple",
            "style": "flat",
            "kind": "food-drink",
            "split": "test",
        },
        {"text": "a clock", "concept": "clock", "kind": "travel-places", "split": "train"},
        {"text": ["one", "two"], "split": "train"},
    ]
    for number, line in enumerate(lines):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
        line["image"] = f"{number}.png"
    Image.fromarray(picture(8)).save(folder / "8.png")
    Image.fromarray(picture(9)).save(folder / "9.png")
    lines += [{"text": "words alone"}, {"images": ["8.png", "9.png"], "text": "two of them"}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "list.jsonl").write_text(text, encoding="utf-8")
    ingest(folder, tmp_path / "table", IngestConfig(workers=0))
    return tmp_path / "table"


@pytest.mark.parametrize("at_once", [2, 256])
def test_a_picture_keeps_its_pixels_and_what_is_said_of_it(table, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(picture_table, "AT_ONCE", at_once)
    assert picture_table.build(table, tmp_path / "store", 30) == 3
    store = PictureStore(tmp_path / "store")
    apple, clock, plain = store.items
    assert apple.names == ("red apple", "빨간 사과", "apple", "fruit") and apple.may_mirror
    assert (apple.concept, apple.style) == ("apple", "flat")
    assert (apple.kind, apple.split) == ("food-drink", "test")
    assert clock.names == ("a clock",) and not clock.may_mirror and clock.style == "in"
    assert plain.names == ("one", "two") and plain.concept == "in/list.jsonl/3"
    for number in range(3):
        middle = store.pixels[number].transpose(1, 2, 0)[5:25]
        expected = picture(number)
        assert (middle[..., 3] == expected[..., 3]).all()
        seen = expected[..., 3] == 255
        assert (middle[seen] == expected[seen]).all()


def test_a_table_without_pictures_is_one_line(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("words alone")
    ingest(tmp_path / "in", tmp_path / "table", IngestConfig(workers=0))
    with pytest.raises(ConfigError, match="has no picture") as error:
        picture_table.build(tmp_path / "table", tmp_path / "store", 16)
    assert "\n" not in str(error.value) and not (tmp_path / "store").exists()
