"""This module trains the systems in a few million parameters: same model classes, same features,
same modalities, on a laptop in twenty minutes.

    shipped codecs → token table (one for all, in DATA) → model → folder

All of them get the same token table, mixture and seeds, and the same budget in FLOPs of the model,
which gives each its number of steps: what differs at the end is the architecture. Run: `onnuri
train axk1 --preset nano`.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import onnuri
from onnuri import config
from onnuri.codecs import registry
from onnuri.codecs.text import text_spec
from onnuri.files import make_folder
from onnuri.modality import MEDIA
from onnuri.model import backbone
from onnuri.model.objective import start_from_features
from onnuri.model.omni import load_codecs, new_layout
from onnuri.model.token_layout import TokenLayout
from onnuri.parallel import launch
from onnuri.planner.architecture import Architecture
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.stock import architecture
from onnuri.recipes import NAMES, find, matrix, module
from onnuri.recipes.laptop import PLACES, Stage, add_time, learn, run_rows, with_rows
from onnuri.toyworld.data.mixture import MixtureWeights
from onnuri.toyworld.data.token_store import TokenStore, make_store
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.training.loop import TrainConfig, read_metrics
from onnuri.training.record_config import NO_RECORD, RecordConfig

MIX = PLACES.replace(asr=0.14, tts=0.12)
TEXT_CODES = 4_096
"""text ids of a nano model: the toy world has 972 words; the other ids are never used, as most of a
large vocabulary is not here"""
SEQUENCE = 88
"""mean length, in tokens, of the sequence that a token is in, which decides attention's FLOPs"""


class NanoConfig(config.Config):
    """A NanoConfig holds everything a nano run needs; it is written to `run.json`, which reruns
    it."""

    recipe: str
    values: dict[str, Any]
    """configuration of the model class, without the vocabulary, which follows from the codecs"""
    flops: float
    """training budget in FLOPs of the model, forward and backward"""
    loop: TrainConfig = TrainConfig(
        optimizer="muon", learning_rate=2e-3, warmup_steps=100, decay=0.4
    )
    """settings of the training loop; its steps follow from the budget"""
    mix: MixtureWeights = MIX
    scenes: int = 8_192
    """rows of the token table"""
    tokens: int = 3_072
    """tokens per step, of sequences packed end to end"""
    rows: int = 1
    """rows that a step's tokens are packed into, which ranks share among them"""
    workers: int = 2
    seed: int = 0

    @property
    def architecture(self) -> Architecture:
        """Return the planner's description of the nano model."""
        values = {**self.values, "vocab_size": ids()}
        return architecture(f"{self.recipe} nano", find(self.recipe).family, values)

    @property
    def steps(self) -> int:
        """Return the number of training steps that the budget in FLOPs allows, at least 1."""
        step_flops = self.architecture.flops_per_token(SEQUENCE) * self.tokens
        return max(round(self.flops / step_flops), 1)


@functools.cache
def ids() -> int:
    """Return the number of ids of a model with the shipped codecs and TEXT_CODES text ids."""
    _, *media = registry.read_specs(onnuri.WEIGHTS / "laptop" / "codecs", MEDIA)
    return TokenLayout.of([text_spec(TEXT_CODES), *media]).size


def nano(name: str) -> NanoConfig:
    """Return the config of a system's nano run: twenty minutes on two cores."""
    return NanoConfig(
        recipe=name, values={**find(name).values, **module(name).NANO, **SMALL}, flops=BUDGET
    )


def smoke(name: str) -> NanoConfig:
    """Return the config of a run of seconds that tests every stage and learns nothing."""
    base = nano(name)
    return base.replace(
        scenes=32,
        tokens=1_024,
        workers=1,
        loop=base.loop.replace(log_every=1),
        flops=4 * 1_024 * base.architecture.flops_per_token(SEQUENCE),
    )


PRESETS: dict[str, Callable[[str], NanoConfig]] = {"nano": nano, "smoke": smoke}
BUDGET = 1.45e14
"""FLOPs that the slowest of the five (K-EXAONE, 3,290 tokens per second of 38 MFLOP, the whole head
counted) does in 20 minutes"""
SMALL = {"hidden_size": 192, "tie_word_embeddings": True, "max_position_embeddings": 2_048}
"""settings that all nano models share; embeddings are tied, since two of them would be most of so
small a model"""


def train(
    name: str,
    preset: str,
    out: Path,
    data: Path | None = None,
    layout: ParallelConfig | None = None,
    rows: int | None = None,
    record: RecordConfig = NO_RECORD,
) -> None:
    """Train or resume a system's preset in a folder; the model ends in OUT/model.

    `data` is the folder of the codecs and token table that all systems share, by default beside
    OUT. With a `layout`, every rank must call it; `rows` is as in `laptop.run_rows`, `record` says
    what is recorded beside the figures.
    """
    settings, console, sitting_start = PRESETS[preset](name), launch.console(), time.time()
    with launch.first_rank_first("preparation"):
        make_folder(out)
        settings = settings.replace(
            rows=run_rows(out, settings.tokens, layout, rows),
            loop=settings.loop.replace(record=record),
        )
        if layout:
            row_tokens = settings.tokens // settings.rows
            layout.check(settings.architecture, layout.gpus, row_tokens, settings.tokens)
        if launch.is_first():
            torch.set_num_threads(settings.workers)
            settings.save(out / "run.json")
        codecs, store, front_end = prepare(
            settings, data or out.parent / f"nano-data-{settings.scenes}"
        )
    torch.set_num_threads(launch.threads(settings.workers))
    launch.join()
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
    start_from_features(network, new_layout(codecs), codecs, settings.seed)
    learn(
        network,
        codecs,
        store,
        front_end,
        with_rows((stage,), settings.rows),
        settings.tokens // settings.rows,
        settings.seed,
        out,
        earlier_losses(settings, out),
        layout=layout,
    )
    add_time(out, "model", time.time() - start)
    console.print(
        f"wrote {out / 'model'} after {(time.time() - sitting_start) / 60:.1f} min in this sitting"
    )


def earlier_losses(settings: NanoConfig, out: Path) -> dict[str, float]:
    """Return the last losses of the other systems' runs on this budget by name: of runs in folders
    beside this one, else those stored with the recipes."""
    losses = {}
    for other in (n for n in NAMES if n != settings.recipe):
        beside = out.parent / out.name.replace(settings.recipe, other)
        if (beside / "model").exists() and NanoConfig.load(
            beside / "run.json"
        ).flops == settings.flops:
            losses[other] = read_metrics(beside / "lm")[-1]["loss"]
        elif settings.flops == BUDGET and matrix(other).exists():
            losses[other] = json.loads(matrix(other).read_text(encoding="utf-8"))["loss"]
    return losses


def prepare(settings: NanoConfig, data: Path) -> tuple[dict[str, Any], TokenStore, ToyFrontEnd]:
    """Return the shipped codecs with TEXT_CODES text ids, the token table of scenes that they
    encode, and the shipped front end; all are written to the folder `data` if they are not
    there."""
    if not (data / "codecs/shape/config.json").exists():
        folder = onnuri.WEIGHTS / "laptop" / "codecs"
        shipped = load_codecs(folder)
        registry.save({**shipped, "text": shipped["text"].padded(TEXT_CODES)}, data / "codecs")
        ToyFrontEnd.load(folder).save(data / "codecs")
    make_store(data / "table", settings.scenes, load_codecs, data / "codecs", settings.workers)
    folder = data / "codecs"
    return load_codecs(folder), TokenStore(data / "table"), ToyFrontEnd.load(folder)
