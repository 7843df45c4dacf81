"""This module trains the model that ships, from nothing to a served any-to-any model, on two CPU
cores. It is README's first link: the whole recipe in one file.

    world → pools → codecs → token table → model → folder

Every stage resumes where it was interrupted. `full` and then `words` give what ships, `evening` is
a shorter `full`, `smoke` the same code in two minutes. Run: `onnuri train laptop [--preset …]`."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

import onnuri
from onnuri import config
from onnuri.codecs import registry
from onnuri.codecs.audio import AudioCodec
from onnuri.codecs.spec import SlotLayout
from onnuri.codecs.text import TextCodec
from onnuri.data.loader import BatchRamp
from onnuri.errors import ConfigError
from onnuri.files import make_folder
from onnuri.modality import LANGUAGES
from onnuri.model.backbone import BackboneConfig
from onnuri.model.graft import graft
from onnuri.model.objective import OmniObjective, start_from_features
from onnuri.model.omni import OmniModel, load_codecs, new_layout
from onnuri.model.token_layout import TokenLayout
from onnuri.parallel import launch
from onnuri.parallel.model import ParallelModel
from onnuri.parallel.whole import copy_weights
from onnuri.planner.parallel import ParallelConfig
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
from onnuri.training.record_config import NO_RECORD, RecordConfig


class Stage(config.Config):
    """A Stage is a part of the language model's training; it starts from the weights of the one
    before."""

    name: str
    """name of the stage's folder in the run"""
    loop: TrainConfig
    mix: MixtureWeights = MixtureWeights()
    share: float = 1.0
    """share of this stage's weights in the average with those before it, which is passed on:
    averages err less than either (Wortsman et al. 2022)"""


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
"""mixture with more speech, in and out, which is learned last"""
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
"""mixture for where objects are: soft targets for positions and sizes, more conversions between
pictures, videos and shapes, more scenes of several objects"""
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
"""mixture for intelligible speech, with as much of everything else as prevents forgetting"""

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
"""mixture for people's wordings: three of four input sentences are sampled anew in these"""


class LaptopConfig(config.Config):
    """A LaptopConfig holds everything a run needs; it is written to `run.json`, which reruns it."""

    pictures: int = 8_192
    """number of scenes that the visual codec is trained on"""
    utterances: int = 2_500
    """number of rows of four seconds that the audio codec is trained on"""
    crops: int = 10_000
    """number of object crops that the shape codec is trained on"""
    scenes: int = 16_384
    """rows of the token table"""
    text_codes: int = 1500
    start: str | None = None
    """"shipped": codecs and model start from those that ship; None: from nothing"""
    order: ObjectOrder = "left"
    """order of a scene's objects in the codes"""
    tasks: bool = False
    """whether the token layout has a token per task"""
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
    """tokens per step, of sequences packed end to end"""
    rows: int = 1
    """rows that a step's tokens are packed into, which ranks share among them"""
    workers: int = 2
    seed: int = 0


def full() -> LaptopConfig:
    """Return the config of the whole training, at most 6 hours on two cores."""
    return LaptopConfig()


def evening() -> LaptopConfig:
    """Return the config of two hours: the same data and codecs, a third of the model's time."""
    base = full()
    first, _, last, *_ = base.model
    return base.replace(
        model=(
            first.replace(loop=first.loop.replace(minutes=35)),
            last.replace(loop=last.loop.replace(minutes=20), mix=last.mix.replace(asr=0.18)),
        )
    )


def smoke() -> LaptopConfig:
    """Return the config of two minutes, which tests every stage and learns nothing."""
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
    """Return the config that trains the shipped weights further on people's wordings.

    The text codec is learned anew, objects are ordered along the picture's diagonal, and the token
    layout has task tokens. Budgets are steps, so that a busy machine learns as much.
    """
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
    """Return the config of a minute, which tests every stage of `words`."""
    few = TrainConfig(steps=4, log_every=1)
    base = words()
    return base.replace(
        scenes=32, tokens=1_024, workers=1, model=tuple(s.replace(loop=few) for s in base.model)
    )


PRESETS = {
    "full": full,
    "evening": evening,
    "words": words,
    "smoke": smoke,
    "words-smoke": words_smoke,
}


def train(
    preset: str,
    out: Path,
    layout: ParallelConfig | None = None,
    rows: int | None = None,
    record: RecordConfig = NO_RECORD,
) -> None:
    """Train or resume a preset in a folder, stage by stage; the model ends in OUT/model.

    With a `layout`, every rank must call it: the first makes codecs and token table, all of them
    train the model. `rows` is as in `run_rows`; `record` says what every stage records.
    """
    settings, console, sitting_start = PRESETS[preset](), launch.console(), time.time()
    with launch.first_rank_first("preparation"):
        make_folder(out)
        settings = settings.replace(rows=run_rows(out, settings.tokens, layout, rows))
        settings = with_record(settings, record)
        if launch.is_first():
            torch.set_num_threads(settings.workers)
            settings.save(out / "run.json")
            for stage in (pools, codecs, table):
                with _timed(stage.__name__, out):
                    stage(settings, out)
    torch.set_num_threads(launch.threads(settings.workers))
    launch.join()
    with _timed("model", out):
        model(settings, out, layout)
    console.print(
        f"wrote {out / 'model'} after {(time.time() - sitting_start) / 60:.1f} min in this sitting"
    )


@contextmanager
def _timed(stage: str, out: Path) -> Iterator[None]:
    """Add the seconds of a `with` block to a stage's in OUT/times.json and print them."""
    start = time.time()
    yield
    add_time(out, stage, time.time() - start)
    launch.console().print(f"{stage}: {(time.time() - start) / 60:.1f} min")


def run_rows(out: Path, tokens: int, layout: ParallelConfig | None, rows: int | None) -> int:
    """Return the rows that a step's `tokens` are packed into: `rows`, else those of the run so far
    in `out`, else one per rank that reads rows of its own.

    Raises ConfigError if the rows do not divide the tokens, or the ranks not the rows.
    """
    stored, ranks = out / "run.json", layout.dp if layout else 1
    if rows is None and stored.exists():
        try:
            rows = int(json.loads(stored.read_text(encoding="utf-8")).get("rows", 1))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{stored}", f"is damaged ({error})", "give another --out, or delete the file"
            ) from None
    rows = ranks if rows is None else rows
    if rows < 1 or tokens % rows:
        divisors = [n for n in range(1, tokens + 1) if tokens % n == 0]
        near = min(divisors, key=lambda divisor: abs(divisor - rows))
        raise ConfigError(
            f"--rows {rows}",
            f"does not divide the {tokens} tokens of a step",
            f"give such as {near}",
        )
    BatchRamp(rows=rows).check(ranks)
    return rows


def pools(settings: LaptopConfig, out: Path) -> None:
    """Render the codecs' training data into OUT/pool; nothing if the codecs are the shipped
    ones."""
    if settings.start:
        return
    visual.make_pool(out / "pool/visual", settings.pictures, settings.workers)
    audio.make_pool(out / "pool/audio", settings.utterances, settings.workers)
    mesh.make_pool(out / "pool/shape", settings.crops, settings.workers)


def codecs(settings: LaptopConfig, out: Path) -> None:
    """Train text, visual, audio and shape codecs, or take the shipped ones with a new text codec,
    and save them in OUT/codecs; codecs that are already there stay."""
    if settings.start:
        if not (out / "codecs/text/words.json").exists():
            adapt_shipped_codecs(settings, out / "codecs")
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


def adapt_shipped_codecs(settings: LaptopConfig, folder: Path) -> None:
    """Save the shipped codecs in a folder, with the settings' order of objects and a new text
    codec, and the front end that belongs to it."""
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
    """Return a text codec of `size` codes learned from the training sentences, and a front end with
    the list of their words."""
    sentences = sentences_of_training()
    text = TextCodec.learn(sentences, size)
    return text, ToyFrontEnd(Spelling.learn(sentences))


def sentences_of_training(scenes: int = 8_000) -> list[str]:
    """Return the toy world's and people's sentences about the first training scenes, in both
    languages."""
    sentences = [
        sentence
        for question_text, answers in COMPARISONS.values()
        for sentence in (question_text, *answers)
    ]
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
    """Encode the scenes of the settings into the token table OUT/table, so that every token is
    computed once."""
    make_store(out / "table", settings.scenes, load_codecs, out / "codecs", settings.workers)


def model(settings: LaptopConfig, out: Path, layout: ParallelConfig | None = None) -> None:
    """Train the language model on the token table, in every rank of a `layout`, and write its
    folder OUT/model."""
    codecs = load_codecs(out / "codecs")
    torch.manual_seed(settings.seed)
    token_layout = new_layout(codecs, settings.tasks)
    network = backbone_config(settings, token_layout).build()
    if settings.start:
        graft(onnuri.load(), network, token_layout, codecs["text"], settings.seed)
    else:
        start_from_features(network, token_layout, codecs, settings.seed)
    learn(
        network,
        codecs,
        TokenStore(out / "table"),
        ToyFrontEnd.load(out / "codecs"),
        with_rows(settings.model, settings.rows),
        settings.tokens // settings.rows,
        settings.seed,
        out,
        tasks=settings.tasks,
        layout=layout,
    )


def with_record(settings: LaptopConfig, record: RecordConfig) -> LaptopConfig:
    """Return settings whose stages, codecs and model, record what `record` says."""
    codec_loops = {name: getattr(settings, name) for name in ("visual", "audio", "shape")}
    return settings.replace(
        **{name: loop.replace(record=record) for name, loop in codec_loops.items()},
        model=tuple(s.replace(loop=s.loop.replace(record=record)) for s in settings.model),
    )


def with_rows(stages: tuple[Stage, ...], rows: int) -> tuple[Stage, ...]:
    """Return stages whose steps have `rows` rows."""
    return tuple(stage.replace(loop=stage.loop.replace(micro_batches=rows)) for stage in stages)


def learn(
    network: nn.Module,
    codecs: dict[str, Any],
    store: TokenStore,
    front_end: ToyFrontEnd,
    stages: tuple[Stage, ...],
    tokens: int,
    seed: int,
    out: Path,
    earlier: Mapping[str, float] = MappingProxyType({}),
    tasks: bool = False,
    layout: ParallelConfig | None = None,
) -> None:
    """Train a network on a token table, stage by stage, `tokens` per row; the model ends in
    OUT/model.

    Each stage is forecast before the first one starts; `earlier` gives the losses of similar runs
    for that. `tasks` says whether the token layout has task tokens. With a `layout`, every rank
    must call this with the same whole network; a sharded copy of it is trained, and the first rank
    writes the model.
    """
    token_layout = new_layout(codecs, tasks)
    slots: dict[str, SlotLayout] = {
        modality: codecs[modality].spec.slots for modality in VISUAL_MODALITIES
    }

    def objective(k: int, trainee: nn.Module) -> OmniObjective:
        """Return the objective of stage k for a network or a copy of it."""
        mix = stages[k].mix
        return OmniObjective(
            trainee,
            token_layout,
            TaskSampler(mix, store, codecs["text"], front_end, slots),
            codecs["text"].words,
            tokens,
            seed + k,
            mix.soft,
            mix.loss_place,
        )

    if launch.is_first():
        run_forecast.write_forecast(
            out,
            {stage.name: (objective(k, network), stage.loop) for k, stage in enumerate(stages)},
            earlier,
        )
    device, dtype, compiled = launch.computing(layout)
    for k, stage in enumerate(stages):
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        # the whole network stays as it is: the next stage and the model's folder start from it
        trainee = copy.deepcopy(network).to(device) if layout or dtype else network
        task = objective(k, trainee)
        model = ParallelModel(trainee, task.loss, layout, dtype, compiled)
        fit(task, stage.loop, out / stage.name, f"model: {stage.name}", model)
        if trainee is not network:
            copy_weights(trainee, network)
        if launch.is_first():
            run_forecast.write_outcome(out, stage.name, network)
        if stage.share < 1:
            network.load_state_dict(
                {
                    name: torch.lerp(before[name], weight, stage.share)
                    for name, weight in network.state_dict().items()
                }
            )
    if launch.is_first():
        OmniModel(network, codecs, token_layout, front_end=front_end).save(out / "model")


def backbone_config(settings: LaptopConfig, layout: TokenLayout) -> BackboneConfig:
    """Return the settings' backbone with as many ids as the token layout has."""
    return BackboneConfig(
        vocabulary=layout.size,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        hidden=settings.hidden,
    )


def add_time(out: Path, stage: str, seconds: float) -> None:
    """Add a stage's seconds in this sitting to its total in OUT/times.json, in the first rank."""
    if not launch.is_first():
        return
    path = out / "times.json"
    times: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    times[stage] = round(times.get(stage, 0.0) + seconds, 1)
    path.write_text(json.dumps(times, indent=2) + "\n", encoding="utf-8")
