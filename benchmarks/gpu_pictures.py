"""Trains the language model of pictures on one GPU from the codes that a run made on a CPU: one stage
that ends whole in a window of minutes. Pictures stay at home.

    python benchmarks/gpu_pictures.py pack RUN PACK                 at home: codecs, codes, names; some 28 MB
    python benchmarks/gpu_pictures.py train PACK OUT --minutes 7    on the GPU: weights in files of at most 15 MB
    python benchmarks/gpu_pictures.py finish RUN OUT MODEL          at home: the model's folder

`train --tiny` is the same on a CPU in seconds. What is expected (steps a second, losses) is written
to PACK/forecast.json by hand before the window, and printed with what came.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from onnuri.data.code_store import CodeStore
from onnuri.data.collage.store import CollageStore
from onnuri.data.picture_store import ITEMS, PictureItem, PictureStore
from onnuri.evaluation.machine import machine
from onnuri.files import write_json
from onnuri.parallel import launch
from onnuri.recipes import pictures as recipe

FILE_BYTES = 15 * 10**6
PARTS = ("codecs", "codes", "collages")


class Names:
    """A store's items without their pixels."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / ITEMS).read_text(encoding="utf-8").splitlines()
        self.items = [PictureItem.from_json(json.loads(line)) for line in lines]

    def of_split(self, split: str) -> np.ndarray:
        """Return the numbers int64 [n] of the pictures of a split."""
        return np.array([k for k, item in enumerate(self.items) if item.split == split], np.int64)


def window(minutes: float, tiny: bool) -> recipe.PicturesConfig:
    """Return the settings of a window: a model that its minutes fill, as `gpu`, on codes of the
    `cpu` preset's codec."""
    model, cpu = recipe.gpu().model, recipe.cpu()
    loop = model.loop.replace(minutes=minutes)
    if tiny:
        small = {"width": 64, "layers": 2, "heads": 2, "hidden": 96, "tokens": 1024}
        loop = loop.replace(minutes=None, steps=6, loader_workers=1, log_every=2, warmup_steps=2)
        model = model.replace(**small)
    return cpu.replace(model=model.replace(loop=loop), workers=16 if not tiny else 2)


def pack(run: Path, folder: Path) -> None:
    """Copy what the window needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        shutil.copytree(run / part, folder / part, dirs_exist_ok=True)
    shutil.copyfile(run / "pictures" / ITEMS, folder / ITEMS)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB")


def prepared(folder: Path, store: Any, settings: recipe.PicturesConfig) -> tuple[Any, ...]:
    """Return an untrained network, its layout, codecs and sequences."""
    views, composed = CodeStore(folder / "codes"), CollageStore(folder / "collages")
    codecs = recipe.all_codecs(store, views, composed, settings, folder)
    sequences = recipe.tasks(store, views, composed, settings, codecs["text"])
    network, layout = recipe.blank(codecs, settings)
    return network, layout, codecs, sequences


def train(folder: Path, out: Path, minutes: float, tiny: bool) -> None:
    """Train, and write weights and figures."""
    began = time.time()
    settings = window(minutes, tiny)
    torch.set_num_threads(settings.workers)
    network, layout, _, sequences = prepared(folder, Names(folder), settings)
    out.mkdir(parents=True, exist_ok=True)
    count = sum(p.numel() for p in network.parameters())
    print(
        f"{count / 1e6:.1f}M weights on {launch.device()}, {time.time() - began:.0f} s", flush=True
    )
    recipe.learn(network, layout, sequences, settings, out / "state")
    state = {k: v.detach().cpu().half() for k, v in network.state_dict().items()}
    save_torch_state_dict(state, out, max_shard_size=FILE_BYTES)
    lines = (out / "state/lm/metrics.jsonl").read_text().splitlines()
    forecast = folder / "forecast.json"
    values = {
        "machine": machine(),
        "settings": settings.to_json(),
        "forecast": json.loads(forecast.read_text()) if forecast.exists() else None,
        "last": json.loads(lines[-1]),
        "seconds": round(time.time() - began),
    }
    write_json(values, out / "window.json")
    shutil.rmtree(out / "state/lm/checkpoint", ignore_errors=True)
    print(json.dumps({k: values[k] for k in ("forecast", "last", "seconds")}), flush=True)


def finish(run: Path, weights: Path, model: Path, minutes: float, tiny: bool) -> None:
    """Write the folder of the model that a window trained."""
    settings, store = window(minutes, tiny), PictureStore(run / "pictures")
    network, layout, codecs, sequences = prepared(run, store, settings)
    state: dict[str, torch.Tensor] = {}
    for path in sorted(weights.glob("*.safetensors")):
        state |= load_file(path)
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    )
    recipe.finish(network, layout, codecs, sequences, store).save(model)
    print(f"wrote {model}")


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("pack", "train", "finish"))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.what == "pack":
        pack(*given.paths)
    elif given.what == "train":
        train(*given.paths, given.minutes, given.tiny)
    else:
        finish(*given.paths, given.minutes, given.tiny)


if __name__ == "__main__":
    main()
