"""The laptop: from nothing to a served any-to-any model on two CPU cores. README's first link: one file, the whole road.

    world → pools → codecs → token table → model → folder

Every stage goes on where it was left. `full` is what ships, `evening` less of it, `smoke` the same code in two minutes.
Run: `onnuri train laptop [--preset …]`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from rich.console import Console
from torch import nn

from onnuri import config, media
from onnuri.codecs.audio import AudioCodec
from onnuri.codecs.image import ImageCodec
from onnuri.codecs.shape import ShapeCodec
from onnuri.codecs.text import TextCodec
from onnuri.data import audio, shape, visual
from onnuri.data.mix import MixConfig, Mixer
from onnuri.data.table import Table, make_table
from onnuri.model.backbone import BackboneConfig
from onnuri.model.objective import OmniTask, start_from_features
from onnuri.model.omni import OmniModel, load_codecs, save_codecs
from onnuri.model.vocabulary import Vocabulary
from onnuri.training import forecast
from onnuri.training.loop import LoopConfig, fit
from onnuri.world.scene import sample_scene
from onnuri.world.tasks import corpus


class Stage(config.Config):
    """A part of the language model's training; it goes on with the weights of the one before."""

    name: str
    """its folder in the run"""
    loop: LoopConfig
    mix: MixConfig = MixConfig()
    share: float = 1.0
    """of its weights in what goes on, the rest of those before it: averages err less than either (Wortsman et al. 2022)"""


SPEECH = MixConfig(draw=0.28, describe=0.12, convert=0.03, chain=0.03, alone=0.03, translate=0.04, ask=0.05, edit=0.07,
                   hear=0.22, speak=0.12)
"""more of what is learned last: to hear and to speak"""
PLACES = MixConfig(draw=0.32, describe=0.18, convert=0.14, chain=0.03, alone=0.03, translate=0.03, ask=0.05, edit=0.06,
                   hear=0.10, speak=0.08, soft=True, loss_place=2.0, single=0.35, video=0.4)
"""where things are: soft targets for places and sides, sights from sights, more scenes of several objects"""
VOICE = PLACES.replace(draw=0.16, describe=0.10, convert=0.05, chain=0.01, alone=0.02, translate=0.03, edit=0.05, ask=0.03,
                       hear=0.12, speak=0.43)
"""to say every word so that it is understood; of all else as much as keeps it"""


class LaptopConfig(config.Config):
    """Everything a run needs; written to `run.json`, which reruns it."""

    pictures: int = 8_192
    """scenes that the visual codec learns from"""
    utterances: int = 2_500
    """rows of four seconds that the audio codec learns from"""
    crops: int = 10_000
    """components that the shape codec learns from"""
    scenes: int = 16_384
    """rows of the token table"""
    text_codes: int = 1500
    visual: LoopConfig = LoopConfig(minutes=16, learning_rate=2e-3)
    audio: LoopConfig = LoopConfig(minutes=14, learning_rate=1.5e-3, weight_decay=0.01)
    shape: LoopConfig = LoopConfig(minutes=10, learning_rate=2e-3, weight_decay=0.01)
    model: tuple[Stage, ...] = (
        Stage(name="lm", loop=LoopConfig(minutes=70, optimizer="muon", learning_rate=2e-3)),
        Stage(name="speech", mix=SPEECH,
              loop=LoopConfig(minutes=24, optimizer="muon", learning_rate=1.5e-3, warmup_steps=100, decay=0.7)),
        Stage(name="places", mix=PLACES,
              loop=LoopConfig(minutes=75, optimizer="muon", learning_rate=2e-3, warmup_steps=100, decay=0.5)),
        Stage(name="voice", mix=VOICE,
              loop=LoopConfig(minutes=24, optimizer="muon", learning_rate=1.5e-3, warmup_steps=60, decay=0.8)),
        Stage(name="voice2", mix=VOICE,
              loop=LoopConfig(minutes=45, optimizer="muon", learning_rate=1.5e-3, warmup_steps=60, decay=0.7), share=0.7))
    width: int = 192
    layers: int = 6
    heads: int = 3
    hidden: int = 576
    tokens: int = 3072
    """a step, of sequences packed end to end"""
    workers: int = 2
    seed: int = 0


def full() -> LaptopConfig:
    return LaptopConfig()


def evening() -> LaptopConfig:
    """Two hours: the same data and codecs, a third of the model's time."""
    base = full()
    first, _, last, *_ = base.model
    return base.replace(model=(
        first.replace(loop=first.loop.replace(minutes=35)),
        last.replace(loop=last.loop.replace(minutes=20), mix=last.mix.replace(hear=0.18))))


def smoke() -> LaptopConfig:
    """Two minutes: every stage runs, nothing is learned."""
    few = LoopConfig(steps=4, log_every=1)
    return full().replace(pictures=32, utterances=8, crops=32, scenes=48, text_codes=600, visual=few, audio=few, shape=few,
                          model=tuple(s.replace(loop=few) for s in full().model), width=64, layers=2, heads=2, hidden=128,
                          tokens=1024)


PRESETS = {"full": full, "evening": evening, "smoke": smoke}


def train(preset: str, out: Path) -> None:
    """Run or go on with a preset in a folder; the model ends in OUT/model."""
    settings, console, began = PRESETS[preset](), Console(), time.time()
    torch.set_num_threads(settings.workers)
    media.make_folder(out)
    settings.save(out / "run.json")
    for stage in (pools, codecs, table, model):
        start = time.time()
        stage(settings, out)
        note(out, stage.__name__, time.time() - start)
        console.print(f"{stage.__name__}: {(time.time() - start) / 60:.1f} min")
    console.print(f"wrote {out / 'model'} after {(time.time() - began) / 60:.1f} min in this sitting")


def pools(settings: LaptopConfig, out: Path) -> None:
    """Render what the codecs learn from."""
    visual.make_pool(out / "pool/visual", settings.pictures, settings.workers)
    audio.make_pool(out / "pool/audio", settings.utterances, settings.workers)
    shape.make_pool(out / "pool/shape", settings.crops, settings.workers)


def codecs(settings: LaptopConfig, out: Path) -> None:
    """Train text, visual, audio and shape codecs and save them in OUT/codecs."""
    if (out / "codecs/shape/config.json").exists():
        return
    torch.manual_seed(settings.seed)
    image, sound, solid = ImageCodec(), AudioCodec(), ShapeCodec()
    fit(visual.VisualTask(image.visual, out / "pool/visual"), settings.visual, out / "visual", "visual codec")
    fit(audio.AudioTask(sound, out / "pool/audio"), settings.audio, out / "audio", "audio codec")
    fit(shape.ShapeTask(solid, out / "pool/shape"), settings.shape, out / "shape", "shape codec")
    text = TextCodec.learn(corpus([sample_scene(seed) for seed in range(1500)]), settings.text_codes)
    save_codecs({"text": text, "image": image, "audio": sound, "shape": solid}, out / "codecs")


def table(settings: LaptopConfig, out: Path) -> None:
    """Compute every token once."""
    make_table(out / "table", settings.scenes, load_codecs, out / "codecs", settings.workers)


def model(settings: LaptopConfig, out: Path) -> None:
    """Train the language model and write the folder that ships."""
    made = load_codecs(out / "codecs")
    torch.manual_seed(settings.seed)
    network = backbone_config(settings, Vocabulary(made["text"].num_codes)).build()
    learn(network, made, Table(out / "table"), settings.model, settings.tokens, settings.seed, out)


def learn(network: nn.Module, made: dict[str, Any], table: Table, stages: tuple[Stage, ...], tokens: int, seed: int,
          out: Path, earlier: Mapping[str, float] = MappingProxyType({})) -> None:
    """Train a network with fresh weights on a table, stage by stage, `tokens` a step; the model ends in OUT/model. `earlier`:
    losses of runs that the forecast leans on."""
    vocabulary = Vocabulary(made["text"].num_codes)
    start_from_features(network, vocabulary, made, seed)
    tasks = [OmniTask(network, vocabulary, Mixer(stage.mix, table), made["text"].words, tokens, seed + k)
             for k, stage in enumerate(stages)]
    forecast.freeze(out, {stage.name: (task, stage.loop) for stage, task in zip(stages, tasks, strict=True)}, earlier)
    for stage, task in zip(stages, tasks, strict=True):
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        fit(task, stage.loop, out / stage.name, f"model: {stage.name}")
        forecast.score(out, stage.name, network)
        if stage.share < 1:
            network.load_state_dict({name: torch.lerp(before[name], weight, stage.share)
                                     for name, weight in network.state_dict().items()})
    OmniModel(network, made).save(out / "model")


def backbone_config(settings: LaptopConfig, vocabulary: Vocabulary) -> BackboneConfig:
    return BackboneConfig(vocabulary=vocabulary.size, width=settings.width, layers=settings.layers,
                          heads=settings.heads, hidden=settings.hidden)


def note(out: Path, stage: str, seconds: float) -> None:
    """Adds a stage's time in this sitting to OUT/times.json."""
    path = out / "times.json"
    times: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    times[stage] = round(times.get(stage, 0.0) + seconds, 1)
    path.write_text(json.dumps(times, indent=2) + "\n", encoding="utf-8")


