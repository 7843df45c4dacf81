"""Sweeps how a model of pictures samples its drawings, on pairs of dev: guidance and temperature.

Run: `python benchmarks/sweep_pictures.py RUN [--model MODEL] [--items N]`. The same names, the same
seeds, every setting. Writes benchmarks/results/picture_sampling.json; the recipe's `SAMPLING` has
what it found.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

import onnuri
from onnuri.data.picture_store import PictureStore
from onnuri.data.real.style_words import STYLE_WORDS
from onnuri.evaluation import real
from onnuri.evaluation.judges.efficientnet import EfficientNetJudge
from onnuri.evaluation.machine import machine
from onnuri.evaluation.retrieval import right_at, share
from onnuri.files import write_json
from onnuri.model.omni import override

GUIDANCE, TEMPERATURE = (1.0, 1.5, 2.0, 3.0, 5.0), (0.0, 0.3, 0.6, 0.9)
SEED = 5
RESULT = Path(__file__).parent / "results" / "picture_sampling.json"


def main() -> None:
    """Draw with every setting, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--guidance", type=float, nargs="*", default=GUIDANCE)
    parser.add_argument("--temperature", type=float, nargs="*", default=TEMPERATURE)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model: Any = onnuri.load(arguments.model or arguments.run / "model")
    store, judge = PictureStore(arguments.run / "pictures"), EfficientNetJudge()
    everyone = [
        i for i in real.held_out(store, "dev", model.codecs["image"].side) if i.group != "unseen"
    ]
    pairs = [k for k, item in enumerate(everyone) if item.group == "pairs"]
    order = np.random.default_rng(SEED).permutation(pairs)[: arguments.items].tolist()
    items = [everyone[k] for k in order]
    gallery = judge.features([item.picture for item in everyone])
    concepts, wanted = [item.concept for item in everyone], [item.concept for item in items]
    own, rows = model.sampling["image"], []
    for guidance, temperature in itertools.product(arguments.guidance, arguments.temperature):
        model.sampling["image"] = override(own, temperature, None, guidance)
        _, drawn = real.draw(model, items, STYLE_WORDS)
        features = judge.features(drawn)
        figures = {k: share(right_at(features, wanted, gallery, concepts, k)) for k in (1, 5)}
        rows.append(
            {
                "guidance": guidance,
                "temperature": temperature,
                "at_1": figures[1].to_json(),
                "at_5": figures[5].to_json(),
            }
        )
        print(
            f"guidance {guidance:g}, temperature {temperature:g}: R@1 {figures[1].told()}, "
            f"R@5 {figures[5].told()}",
            flush=True,
        )
    values = {"machine": machine(), "gallery": len(everyone), "rows": rows}
    write_json(values, RESULT)


if __name__ == "__main__":
    main()
