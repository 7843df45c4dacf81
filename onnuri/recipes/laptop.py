"""The laptop: from nothing to a served any-to-any model on two CPU cores. README's first link: one
file, the whole road.

    world → pools → codecs → token table → model → folder

Every stage goes on where it was left. `full` and then `words` are what ships, `evening` less of the
first, `smoke` the same code in two minutes. Run: `onnuri train laptop [--preset …]`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

import onnuri
from onnuri import config, media
from onnuri.codecs import registry
from onnuri.codecs.audio import AudioCodec
from onnuri.codecs.spec import SlotLayout
from onnuri.codecs.text import TextCodec
from onnuri.modality import LANGUAGES
from onnuri.model.backbone import BackboneConfig
from onnuri.model.graft import graft
from onnuri.model.objective import OmniObjective, start_from_features
from onnuri.model.omni import OmniModel, load_codecs, new_layout
from onnuri.model.token_layout import TokenLayout
from onnuri.profile import run_forecast
from onnuri.toyworld import wordings
from onnuri.toyworld.codecs.image import ImageCodec
from onnuri.toyworld.codecs.mesh import ShapeCodec
from onnuri.toyworld.codecs.objects import ObjectOrder
from onnuri.toyworld.codecs.video import VideoCodec
from onnuri.toyworld.data import audio, mesh, visual
from onnuri.toyworld.data.mixture import VISUAL_MODALITIES, MixtureWeights, TaskSampler
from onnuri.toyworld.data.token_store import TokenStore, make_store
from onnuri.toyworld.front_end.spelling import Spelling, plain
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.toyworld.scene import sample_edit, sample_scene
from onnuri.toyworld.tasks import COMPARISONS, corpus, question
from onnuri.toyworld.text import caption
from onnuri.training.loop import TrainConfig, fit


class Stage(config.Config):
    """A part of the language model's training; it goes on with the weights of the one before."""

    name: str
    """its folder in the run"""
    loop: TrainConfig
    mix: MixtureWeights = MixtureWeights()
    share: float = 1.0
    """of its weights in what goes on, the rest of those before it: averages err less than either
    (Wortsman et al. 2022)"""


SPEECH = MixtureWeights(
    text_to_x=0.28,
    caption=0.12,
    convert=0.03,
    chain=0.03,
    unconditional=0.03,
    translate=0.04,
    ask=0.05,
    edit=0.07,
    asr=0.22,
    tts=0.12,
)
"""more of what is learned last: to hear and to speak"""
PLACES = MixtureWeights(
    text_to_x=0.32,
    caption=0.18,
    convert=0.14,
    chain=0.03,
    unconditional=0.03,
    translate=0.03,
    ask=0.05,
    edit=0.06,
    asr=0.10,
    tts=0.08,
    soft=True,
    loss_place=2.0,
    single=0.35,
    video=0.4,
)
"""where things are: soft targets for places and sides, sights from sights, more scenes of several
objects"""
VOICE = PLACES.replace(
    text_to_x=0.16,
    caption=0.10,
    convert=0.05,
    chain=0.01,
    unconditional=0.02,
    translate=0.03,
    edit=0.05,
    ask=0.03,
    asr=0.12,
    tts=0.43,
)
"""to say every word so that it is understood; of all else as much as keeps it"""

WORDS = PLACES.replace(
    text_to_x=0.36,
    caption=0.16,
    convert=0.07,
    chain=0.02,
    unconditional=0.03,
    translate=0.06,
    ask=0.07,
    edit=0.07,
    compare=0.01,
    asr=0.06,
    tts=0.06,
    double=0.06,
    people=0.75,
    slips=0.06,
)
"""what people say: three of four given sentences are drawn anew in their wordings"""


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
    start: str | None = None
    """"shipped": codecs and model go on from those that ship; without it, from nothing"""
    order: ObjectOrder = "left"
    """in which codecs write objects down"""
    tasks: bool = False
    """whether the vocabulary has tokens that say what is asked"""
    visual: TrainConfig = TrainConfig(minutes=16, learning_rate=2e-3)
    audio: TrainConfig = TrainConfig(minutes=14, learning_rate=1.5e-3, weight_decay=0.01)
    shape: TrainConfig = TrainConfig(minutes=10, learning_rate=2e-3, weight_decay=0.01)
    model: tuple[Stage, ...] = (
        Stage(name="lm", loop=TrainConfig(minutes=70, optimizer="muon", learning_rate=2e-3)),
        Stage(
            name="speech",
            mix=SPEECH,
            loop=TrainConfig(
                minutes=24, optimizer="muon", learning_rate=1.5e-3, warmup_steps=100, decay=0.7
            ),
        ),
        Stage(
            name="places",
            mix=PLACES,
            loop=TrainConfig(
                minutes=75, optimizer="muon", learning_rate=2e-3, warmup_steps=100, decay=0.5
            ),
        ),
        Stage(
            name="voice",
            mix=VOICE,
            loop=TrainConfig(
                minutes=24, optimizer="muon", learning_rate=1.5e-3, warmup_steps=60, decay=0.8
            ),
        ),
        Stage(
            name="voice2",
            mix=VOICE,
            loop=TrainConfig(
                minutes=45, optimizer="muon", learning_rate=1.5e-3, warmup_steps=60, decay=0.7
            ),
            share=0.7,
        ),
    )
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
    return base.replace(
        model=(
            first.replace(loop=first.loop.replace(minutes=35)),
            last.replace(loop=last.loop.replace(minutes=20), mix=last.mix.replace(asr=0.18)),
        )
    )


def smoke() -> LaptopConfig:
    """Two minutes: every stage runs, nothing is learned."""
    few = TrainConfig(steps=4, log_every=1)
    return full().replace(
        pictures=32,
        utterances=8,
        crops=32,
        scenes=48,
        text_codes=600,
        visual=few,
        audio=few,
        shape=few,
        model=tuple(s.replace(loop=few) for s in full().model),
        width=64,
        layers=2,
        heads=2,
        hidden=128,
        workers=1,
        tokens=1024,
    )


def words() -> LaptopConfig:
    """People's wordings from the weights that ship: their text is tokenized anew, objects are
    written down by right plus down, and the vocabulary says what is asked. Budgets are steps, so
    that a busy machine learns as much."""
    voice = WORDS.replace(text_to_x=0.22, caption=0.10, convert=0.03, edit=0.05, asr=0.12, tts=0.33)
    more = WORDS.replace(
        text_to_x=0.42,
        caption=0.10,
        convert=0.04,
        ask=0.04,
        edit=0.05,
        translate=0.05,
        asr=0.08,
        tts=0.13,
        double=0.08,
        noise=0.2,
    )
    return full().replace(
        start="shipped",
        order="diagonal",
        tasks=True,
        text_codes=2_048,
        model=(
            Stage(
                name="words",
                mix=WORDS,
                loop=TrainConfig(
                    steps=4_500, optimizer="muon", learning_rate=2e-3, warmup_steps=100, decay=0.5
                ),
            ),
            Stage(
                name="words_voice",
                mix=voice,
                loop=TrainConfig(
                    steps=1_200, optimizer="muon", learning_rate=1.5e-3, warmup_steps=60, decay=0.8
                ),
                share=0.7,
            ),
            Stage(
                name="words_more",
                mix=more,
                loop=TrainConfig(
                    steps=7_900, optimizer="muon", learning_rate=1.5e-3, warmup_steps=60, decay=0.7
                ),
                share=0.75,
            ),
        ),
    )


def words_smoke() -> LaptopConfig:
    """The road of `words`, in a minute."""
    few = TrainConfig(steps=4, log_every=1)
    made = words()
    return made.replace(
        scenes=32, tokens=1_024, workers=1, model=tuple(s.replace(loop=few) for s in made.model)
    )


PRESETS = {
    "full": full,
    "evening": evening,
    "words": words,
    "smoke": smoke,
    "words-smoke": words_smoke,
}


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
    console.print(
        f"wrote {out / 'model'} after {(time.time() - began) / 60:.1f} min in this sitting"
    )


def pools(settings: LaptopConfig, out: Path) -> None:
    """Render what the codecs learn from, if they learn."""
    if settings.start:
        return
    visual.make_pool(out / "pool/visual", settings.pictures, settings.workers)
    audio.make_pool(out / "pool/audio", settings.utterances, settings.workers)
    mesh.make_pool(out / "pool/shape", settings.crops, settings.workers)


def codecs(settings: LaptopConfig, out: Path) -> None:
    """Train text, visual, audio and shape codecs, or take those that ship with a new text codec;
    save them in OUT/codecs."""
    if settings.start:
        if not (out / "codecs/text/words.json").exists():
            take_codecs(settings, out / "codecs")
        return
    if (out / "codecs/shape/config.json").exists():
        return
    torch.manual_seed(settings.seed)
    image, sound, solid = ImageCodec(), AudioCodec(), ShapeCodec()
    fit(
        visual.VisualObjective(image.visual, out / "pool/visual"),
        settings.visual,
        out / "visual",
        "visual codec",
    )
    fit(
        audio.AudioObjective(sound, out / "pool/audio"),
        settings.audio,
        out / "audio",
        "audio codec",
    )
    fit(
        mesh.ShapeObjective(solid, out / "pool/shape"), settings.shape, out / "shape", "shape codec"
    )
    text = TextCodec.learn(
        corpus([sample_scene(seed) for seed in range(1500)]), settings.text_codes
    )
    video = VideoCodec(image.config, image.visual)
    registry.save(
        {"text": text, "image": image, "audio": sound, "video": video, "shape": solid},
        out / "codecs",
    )


def take_codecs(settings: LaptopConfig, folder: Path) -> None:
    """Save the codecs that ship in a folder, with their objects in another order and a text codec
    of people's words."""
    shipped = load_codecs(onnuri.WEIGHTS / "laptop" / "codecs")
    visual_config = shipped["image"].config
    shipped["image"].config = visual_config.replace(
        visual=visual_config.visual.replace(order=settings.order)
    )
    shipped["shape"].config = shipped["shape"].config.replace(order=settings.order)
    shipped["text"], front_end = learn_text(settings.text_codes)
    registry.save(shipped, folder)
    front_end.save(folder)


def learn_text(size: int) -> tuple[TextCodec, ToyFrontEnd]:
    """Return a text codec of what the world and people say in training, and a front end with the
    list of its words."""
    sentences = sentences_of_training()
    text = TextCodec.learn(sentences, size)
    return text, ToyFrontEnd(Spelling.learn(sentences))


def sentences_of_training(scenes: int = 8_000) -> list[str]:
    """Return what the world and people say of the first scenes of training, in both languages."""
    sentences = [words for asked, answers in COMPARISONS.values() for words in (asked, *answers)]
    for seed in range(scenes):
        scene, rng = sample_scene(seed), np.random.default_rng([13, seed])
        edit = sample_edit(rng, scene, allow_motion=True)
        for language in LANGUAGES:
            own = [caption(scene, language, rng), *question(scene, language, rng)]
            people = [wordings.say(scene, language, rng) for _ in range(4)]
            people += [wordings.doubled(scene, language, rng), wordings.look(language, rng)]
            people += [wordings.inquire(scene, language, rng)[0]]
            people += [wordings.instruct(scene, edit, language, rng)] if edit else []
            sentences += [*own, *(plain(s) for s in (*own, *people))]
    return sentences


def table(settings: LaptopConfig, out: Path) -> None:
    """Compute every token once."""
    make_store(out / "table", settings.scenes, load_codecs, out / "codecs", settings.workers)


def model(settings: LaptopConfig, out: Path) -> None:
    """Train the language model and write the folder that ships."""
    made = load_codecs(out / "codecs")
    torch.manual_seed(settings.seed)
    layout = new_layout(made, settings.tasks)
    network = backbone_config(settings, layout).build()
    if settings.start:
        graft(onnuri.load(), network, layout, made["text"], settings.seed)
    else:
        start_from_features(network, layout, made, settings.seed)
    learn(
        network,
        made,
        TokenStore(out / "table"),
        ToyFrontEnd.load(out / "codecs"),
        settings.model,
        settings.tokens,
        settings.seed,
        out,
        tasks=settings.tasks,
    )


def learn(
    network: nn.Module,
    made: dict[str, Any],
    store: TokenStore,
    front_end: ToyFrontEnd,
    stages: tuple[Stage, ...],
    tokens: int,
    seed: int,
    out: Path,
    earlier: Mapping[str, float] = MappingProxyType({}),
    tasks: bool = False,
) -> None:
    """Train a network on a table, stage by stage, `tokens` a step; the model ends in OUT/model.
    `earlier`: losses of runs that the forecast leans on. `tasks`: whether the token layout says
    what is asked."""
    layout = new_layout(made, tasks)
    slots: dict[str, SlotLayout] = {
        modality: made[modality].spec.slots for modality in VISUAL_MODALITIES
    }
    omni_tasks = [
        OmniObjective(
            network,
            layout,
            TaskSampler(stage.mix, store, made["text"], front_end, slots),
            made["text"].words,
            tokens,
            seed + k,
            stage.mix.soft,
            stage.mix.loss_place,
        )
        for k, stage in enumerate(stages)
    ]
    run_forecast.write_forecast(
        out,
        {stage.name: (task, stage.loop) for stage, task in zip(stages, omni_tasks, strict=True)},
        earlier,
    )
    for stage, task in zip(stages, omni_tasks, strict=True):
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        fit(task, stage.loop, out / stage.name, f"model: {stage.name}")
        run_forecast.write_outcome(out, stage.name, network)
        if stage.share < 1:
            network.load_state_dict(
                {
                    name: torch.lerp(before[name], weight, stage.share)
                    for name, weight in network.state_dict().items()
                }
            )
    OmniModel(network, made, layout, front_end=front_end).save(out / "model")


def backbone_config(settings: LaptopConfig, layout: TokenLayout) -> BackboneConfig:
    """Return the backbone of as many ids as the layout has."""
    return BackboneConfig(
        vocabulary=layout.size,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        hidden=settings.hidden,
    )


def note(out: Path, stage: str, seconds: float) -> None:
    """Adds a stage's time in this sitting to OUT/times.json."""
    path = out / "times.json"
    times: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    times[stage] = round(times.get(stage, 0.0) + seconds, 1)
    path.write_text(json.dumps(times, indent=2) + "\n", encoding="utf-8")
