"""Twelve random outputs of the shipped model, chosen by nobody: `make gallery`.

Scenes are the next twelve seeds of scenes that training cannot reach (9000 …); languages and
targets take turns. What the oracle says of each stands beside it. Writes docs/gallery.png,
benchmarks/results/gallery.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import onnuri
from onnuri.evaluation.machine import machine
from onnuri.files import write_json
from onnuri.modality import LANGUAGES, Modality
from onnuri.toyworld.oracles.matrix import OBSERVE, counted
from onnuri.toyworld.oracles.report import front
from onnuri.toyworld.oracles.score import score
from onnuri.toyworld.scene import Scene, generator, sample_scene
from onnuri.toyworld.text import caption

FIRST_SEED, COUNT, TILE, GAP = 9000, 12, 128, 6
TARGETS: tuple[Modality, ...] = ("image", "video", "shape")
ROOT = Path(__file__).parents[1]


def tile_of(target: Modality, item: Any) -> np.ndarray:
    """Return uint8 [128, 256, 3]: a picture or a mesh beside white, or the first and the last frame
    of a video."""
    if target == "video":
        return np.concatenate([item[0], item[-1]], 1)
    picture = (
        item
        if target == "image"
        else np.asarray(Image.fromarray(front(item)).resize((TILE, TILE), Image.Resampling.NEAREST))
    )
    return np.concatenate([picture, np.full_like(picture, 255)], 1)


def judged(scene: Scene, target: Modality, item: Any) -> tuple[int, int]:
    """Return how many attributes the oracle finds right, and how many the sentence states."""
    true = scene.description()
    stated = frozenset(scene.stated)
    return score(true, OBSERVE[target](item), counted("text", target), stated).attributes


def main() -> None:
    model, rows, tiles = onnuri.load(), [], []
    for k in range(COUNT):
        scene, language, target = (
            sample_scene(FIRST_SEED + k, "held_out"),
            LANGUAGES[k % 2],
            TARGETS[k % 3],
        )
        sentence = caption(scene, language, generator("held_out", scene.seed))
        item = model.generate(target, text=sentence, language=language, seed=0)
        right, asked = judged(scene, target, item)
        rows.append({"sentence": sentence, "to": target, "right": right, "asked": asked})
        tiles.append(tile_of(target, item))
    white = np.full((TILE, GAP, 3), 255, np.uint8)
    lines = [
        np.concatenate([x for tile in tiles[k : k + 4] for x in (tile, white)], 1)
        for k in range(0, COUNT, 4)
    ]
    gap = np.full((GAP, lines[0].shape[1], 3), 255, np.uint8)
    sheet = np.concatenate([x for line in lines for x in (line, gap)], 0)
    Image.fromarray(sheet).save(ROOT / "docs/gallery.png", optimize=True)
    write_json(
        {"machine": machine(), "first_seed": FIRST_SEED, "rows": rows},
        ROOT / "benchmarks/results/gallery.json",
    )
    print(f"{sum(r['right'] == r['asked'] for r in rows)} of {COUNT} wholly right")


if __name__ == "__main__":
    main()
