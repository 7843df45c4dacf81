"""How long the shipped model takes for one item of every modality, and how many the world renders:
`make bench-speed`.

Model loaded, two threads, batch of one, different sentences. Writes benchmarks/results/speed.json.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import onnuri
from onnuri.evaluation.machine import machine
from onnuri.modality import MEDIA
from onnuri.toyworld import audio, image, mesh, video
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

ROUNDS = 20


def timed(call: Callable[[int], Any]) -> dict[str, float]:
    call(0)
    taken = []
    for k in range(1, ROUNDS + 1):
        start = time.perf_counter()
        call(k)
        taken.append(time.perf_counter() - start)
    return {"median": round(statistics.median(taken), 4), "worst": round(max(taken), 4)}


def generating() -> dict[str, dict[str, float]]:
    model = onnuri.load()
    scenes = [sample_scene(k, "seen") for k in range(ROUNDS + 1)]
    said = [caption(s, "ko" if k % 2 else "en", generator("seen", k)) for k, s in enumerate(scenes)]
    pictures = [image.render(s).image for s in scenes]
    found = {}
    for modality in MEDIA[1:]:
        found[modality] = timed(
            lambda k, m=modality: model.generate(
                m, text=said[k], language="ko" if k % 2 else "en", seed=k
            )
        )
    found["caption"] = timed(
        lambda k: model.generate("text", image=pictures[k], language="ko" if k % 2 else "en")
    )
    return found


def rendering() -> dict[str, float]:
    scenes = [sample_scene(k) for k in range(40)]
    rng = generator("train", 0)
    voice = audio.sample_voice(rng)
    render: dict[str, Callable[[Any], Any]] = {
        "text": lambda s: caption(s, "ko", rng),
        "image": image.render,
        "video": video.render,
        "shape": mesh.voxels,
        "audio": lambda s: audio.speak(caption(s, "ko", rng), "ko", voice),
    }
    found = {}
    for modality, one in render.items():
        start = time.perf_counter()
        for scene in scenes:
            one(scene)
        found[modality] = round(len(scenes) / (time.perf_counter() - start), 1)
    return found


def main() -> None:
    torch.set_num_threads(2)
    found = {"machine": machine(), "seconds": generating(), "rendered_a_second": rendering()}
    path = Path(__file__).parent / "results" / "speed.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
