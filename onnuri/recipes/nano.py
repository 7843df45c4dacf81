"""The five systems in a few million parameters: same classes, same features, same media, trained by
a laptop in twenty minutes.

    shipped codecs → token table (one for all, in DATA) → model → folder

All five get the same table, mix and seeds, and the same budget in FLOPs of the model, which each
turns into steps: what differs at the end is the architecture. Run: `onnuri train axk1 --preset
nano`.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import onnuri
from onnuri import config, media
from onnuri.codecs import registry
from onnuri.codecs.text import text_spec
from onnuri.modality import MEDIA
from onnuri.model import backbone
from onnuri.model.objective import start_from_features
from onnuri.model.omni import load_codecs, new_layout
from onnuri.model.token_layout import TokenLayout
from onnuri.planner.architecture import Architecture
from onnuri.planner.stock import architecture
from onnuri.recipes import NAMES, find, matrix, module
from onnuri.recipes.laptop import PLACES, Stage, learn, note
from onnuri.toyworld.data.mixture import MixtureWeights
from onnuri.toyworld.data.token_store import TokenStore, make_store
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.training.loop import TrainConfig, read_metrics

MIX = PLACES.replace(asr=0.14, tts=0.12)
TEXT_CODES = 4_096
"""the world's own words are 972; the other ids stand for nothing, as most of a large vocabulary
does here"""
SEQUENCE = 88
"""tokens of the sequence that a token is in, in the mean over the mix: what attention costs"""


class NanoConfig(config.Config):
    """Everything a run needs; written to `run.json`, which reruns it."""

    recipe: str
    values: dict[str, Any]
    """the class's configuration, but for the vocabulary, which follows from the codecs"""
    flops: float
    """budget: FLOPs of the model, forward and backward"""
    loop: TrainConfig = TrainConfig(
        optimizer="muon", learning_rate=2e-3, warmup_steps=100, decay=0.4
    )
    """how fast; its steps follow from the budget"""
    mix: MixtureWeights = MIX
    scenes: int = 8_192
    """rows of the token table"""
    tokens: int = 3_072
    """a step, of sequences packed end to end"""
    workers: int = 2
    seed: int = 0

    @property
    def architecture(self) -> Architecture:
        values = {**self.values, "vocab_size": ids()}
        return architecture(f"{self.recipe} nano", find(self.recipe).family, values)

    @property
    def steps(self) -> int:
        return max(
            round(self.flops / (self.architecture.flops_per_token(SEQUENCE) * self.tokens)), 1
        )


@functools.cache
def ids() -> int:
    """Return how many ids a model has with the shipped codecs and TEXT_CODES codes of text."""
    _, *media = registry.read_specs(onnuri.WEIGHTS / "laptop" / "codecs", MEDIA)
    return TokenLayout.of([text_spec(TEXT_CODES), *media]).size


def nano(name: str) -> NanoConfig:
    """Twenty minutes of two cores."""
    return NanoConfig(
        recipe=name, values={**find(name).values, **module(name).NANO, **SMALL}, flops=BUDGET
    )


def smoke(name: str) -> NanoConfig:
    """Seconds: every stage runs, nothing is learned."""
    made = nano(name)
    return made.replace(
        scenes=32,
        tokens=1_024,
        workers=1,
        loop=made.loop.replace(log_every=1),
        flops=4 * 1_024 * made.architecture.flops_per_token(SEQUENCE),
    )


PRESETS: dict[str, Callable[[str], NanoConfig]] = {"nano": nano, "smoke": smoke}
BUDGET = 1.45e14
"""what the slowest of the five (K-EXAONE, 3,290 tokens a second of 38 MFLOP, the whole head
counted) does in 20 minutes"""
SMALL = {"hidden_size": 192, "tie_word_embeddings": True, "max_position_embeddings": 2_048}
"""what all five have alike: tied embeddings, for most of so small a model would be these twice"""


def train(name: str, preset: str, out: Path, data: Path | None = None) -> None:
    """Run or go on with a preset in a folder; the model ends in OUT/model. DATA beside it holds
    what all five share."""
    settings, console, began = PRESETS[preset](name), Console(), time.time()
    torch.set_num_threads(settings.workers)
    media.make_folder(out)
    settings.save(out / "run.json")
    made = prepare(settings, data or out.parent / f"nano-data-{settings.scenes}")
    console.print(
        f"{settings.architecture.num_params() / 1e6:.2f}M parameters, {settings.steps} steps"
    )
    start = time.time()
    torch.manual_seed(settings.seed)
    network = backbone.build_hf_model(
        find(name).family, {**settings.values, "vocab_size": settings.architecture.vocabulary}
    )
    stage = Stage(
        name="lm",
        loop=settings.loop.replace(steps=settings.steps, seed=settings.seed),
        mix=settings.mix,
    )
    start_from_features(network, new_layout(made[0]), made[0], settings.seed)
    learn(network, *made, (stage,), settings.tokens, settings.seed, out, earlier(settings, out))
    note(out, "model", time.time() - start)
    console.print(
        f"wrote {out / 'model'} after {(time.time() - began) / 60:.1f} min in this sitting"
    )


def earlier(settings: NanoConfig, out: Path) -> dict[str, float]:
    """Last losses of the other systems' runs on this budget: of those that lie beside this one,
    else of those kept with the recipes."""
    found = {}
    for other in (n for n in NAMES if n != settings.recipe):
        beside = out.parent / out.name.replace(settings.recipe, other)
        if (beside / "model").exists() and NanoConfig.load(
            beside / "run.json"
        ).flops == settings.flops:
            found[other] = read_metrics(beside / "lm")[-1]["loss"]
        elif settings.flops == BUDGET and matrix(other).exists():
            found[other] = json.loads(matrix(other).read_text(encoding="utf-8"))["loss"]
    return found


def prepare(settings: NanoConfig, data: Path) -> tuple[dict[str, Any], TokenStore, ToyFrontEnd]:
    """Return the shipped codecs with more text ids, the table that they make of scenes, and the
    shipped front end."""
    if not (data / "codecs/shape/config.json").exists():
        folder = onnuri.WEIGHTS / "laptop" / "codecs"
        shipped = load_codecs(folder)
        registry.save({**shipped, "text": shipped["text"].padded(TEXT_CODES)}, data / "codecs")
        ToyFrontEnd.load(folder).save(data / "codecs")
    make_store(data / "table", settings.scenes, load_codecs, data / "codecs", settings.workers)
    folder = data / "codecs"
    return load_codecs(folder), TokenStore(data / "table"), ToyFrontEnd.load(folder)
