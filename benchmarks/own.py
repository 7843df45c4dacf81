"""Measures `onnuri train own` on fifty pictures that nobody trained on: what it teaches, and what it
costs elsewhere.

Run: `python benchmarks/own.py RUN MODEL -o OUT`. RUN is a run of `onnuri train pictures`, MODEL the
folder that is taught. The fifty are unseen concepts of the test split, drawn without looking; the
command is run as a user runs it. Then the model draws and names them: names on views that were not
trained on, drawings by EfficientNet among the fifty. Beside these stand the same before, and dev
pairs before and after. Writes benchmarks/results/own.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import onnuri
from onnuri.data.augment import apply
from onnuri.data.code_store import SEEN
from onnuri.data.picture_store import PictureStore
from onnuri.data.picture_tasks import names_of
from onnuri.data.real.style_words import STYLE_WORDS
from onnuri.evaluation import real
from onnuri.evaluation.judges.efficientnet import EfficientNetJudge
from onnuri.evaluation.machine import machine
from onnuri.evaluation.retrieval import right_at, share
from onnuri.files import write_json
from onnuri.modality import fold

COUNT, SEED, VIEWS, ELSEWHERE = 50, 77, 4, 150
VARIATION = SEEN.replace(plain=0.0)
RESULT = Path(__file__).parent / "results" / "own.json"


def chosen(store: PictureStore) -> list[int]:
    """Return the numbers of the pictures, one per concept and per English name."""
    trained = {item.concept for item in store.items if item.split == "train"}
    seen, numbers = set[str](), list[int]()
    for number in np.random.default_rng(SEED).permutation(store.of_split("test")).tolist():
        item = store.items[number]
        names = names_of(item)
        key = names["en"].name if "en" in names else ""
        if item.concept not in trained and key and key not in seen and key.isascii():
            seen.add(key)
            numbers.append(number)
    return numbers[:COUNT]


def measure(
    folder: Path, store: PictureStore, numbers: list[int], dev: list[real.HeldOut]
) -> dict[str, Any]:
    """Return what a model knows of the fifty, and of pairs of dev."""
    model, judge = onnuri.load(folder), EfficientNetJudge()
    side = model.codecs["image"].side
    names = [names_of(store.items[number])["en"].name for number in numbers]
    pixels, drawn_as = store.vary(numbers * VIEWS, VARIATION, np.random.default_rng(SEED))
    views, _ = apply(pixels, drawn_as, side)
    shown = list((views * 255).round().byte().permute(0, 2, 3, 1).numpy())
    told = [fold(reply.item) for reply in real.first_names(model, shown, "en")]
    sentences = [[("text", name)] for name in names]
    drawn = model.generate_batch("image", sentences, seeds=list(range(COUNT)))
    gallery = [given.pixels for given in real.of_store(store, numbers, side)]
    right = right_at(judge.features(drawn), names, judge.features(gallery), names, 1)
    replies = real.first_names(model, [item.picture for item in dev], "en")
    dev_names = [item.names["en"].name for item in dev]
    _, dev_drawn = real.draw(model, dev, STYLE_WORDS)
    concepts = [item.concept for item in dev]
    dev_gallery = judge.features([item.picture for item in dev])
    dev_right = right_at(judge.features(dev_drawn), concepts, dev_gallery, concepts, 1)
    figures = {
        "named": share([a == b for a, b in zip(told, names * VIEWS, strict=True)]),
        "drawn": share(right),
        "dev_named": share([r.item == n for r, n in zip(replies, dev_names, strict=True)]),
        "dev_drawn": share(dev_right),
    }
    return {name: each.to_json() for name, each in figures.items()}


def main() -> None:
    """Write the folder, teach the model, and measure it before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="of training; without it, the command's own")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    store = PictureStore(arguments.run / "pictures")
    numbers = chosen(store)
    folder = arguments.out / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        item = store.items[number]
        image = Image.fromarray(store.pixels[number].transpose(1, 2, 0))
        name = names_of(item)["en"].name.replace("/", " ")
        image.save(folder / f"{name}.png")
    side = onnuri.load(arguments.model).codecs["image"].side
    dev = [i for i in real.held_out(store, "dev", side) if i.group == "pairs" and "en" in i.names]
    before = measure(arguments.model, store, numbers, dev[:ELSEWHERE])
    began = time.perf_counter()
    command = ["train", "own", folder, "--base", arguments.model, "-o", arguments.out / "run"]
    command += ["--minutes", f"{arguments.minutes:g}"] if arguments.minutes else []
    subprocess.run([Path(sys.executable).with_name("onnuri"), *command], check=True)
    minutes = (time.perf_counter() - began) / 60
    after = measure(arguments.out / "run/model", store, numbers, dev[:ELSEWHERE])
    values = {"machine": machine(), "minutes": round(minutes, 1), "before": before, "after": after}
    write_json(values, RESULT)
    print(values)


if __name__ == "__main__":
    main()
