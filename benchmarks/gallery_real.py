"""Twenty-four random answers of the model of pictures that ships, chosen by nobody: twelve pictures
from names, twelve names of pictures, of test pairs that it was not trained on.

Run: `python benchmarks/gallery_real.py RUN`, on the run that it was trained in. Writes
docs/gallery-pictures.png and benchmarks/results/gallery_real.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import onnuri
from onnuri.data.picture_store import PictureStore
from onnuri.data.real.style_words import STYLE_WORDS
from onnuri.evaluation import real
from onnuri.evaluation.machine import machine
from onnuri.files import write_json
from onnuri.modality import LANGUAGES

COUNT, SEED, TILE, GAP, IN_ROW = 12, 9000, 96, 6, 6
GIVEN = ("noto", "twemoji", "fluent-3d", "fluent-flat")
"""styles whose licence lets a picture of them stand in docs; others are drawn, and not shown"""
ROOT = Path(__file__).parents[1]


def sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures in rows of IN_ROW, white between them."""
    rows = -(-len(pictures) // IN_ROW)
    step = TILE + GAP
    whole = np.full((rows * step, IN_ROW * step, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        top, left = k // IN_ROW * step, k % IN_ROW * step
        tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC)
        whole[top : top + TILE, left : left + TILE] = np.asarray(tile)
    return whole


def main() -> None:
    """Draw, name, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    model, store = onnuri.load(onnuri.PICTURES), PictureStore(run / "pictures")
    items = [
        i
        for i in real.held_out(store, "test", model.codecs["image"].side)
        if i.group == "pairs" and len(i.names) == 2
    ]
    order = np.random.default_rng(SEED).permutation(len(items)).tolist()
    to_draw = [items[k] for k in order[:COUNT]]
    to_name = [items[k] for k in order[COUNT:] if items[k].style in GIVEN][:COUNT]
    asked, drawn = real.draw(model, to_draw, STYLE_WORDS)
    told = []
    for k, item in enumerate(to_name):
        language = LANGUAGES[k % 2]
        (reply,) = real.first_names(model, [item.picture], language)
        told.append(
            {
                "name": item.names[language].name,
                "answer": reply.item,
                "doubted": real.is_unsure(reply),
            }
        )
    shown = [*drawn, *(item.picture for item in to_name)]
    Image.fromarray(sheet(shown)).save(ROOT / "docs/gallery-pictures.png", optimize=True)
    values = {"machine": machine(), "seed": SEED, "drawn": asked, "named": told}
    write_json(values, ROOT / "benchmarks/results/gallery_real.json")
    right = sum(each["name"] == each["answer"] for each in told)
    print(f"drew {len(drawn)}; {right} of {len(told)} names right")


if __name__ == "__main__":
    main()
