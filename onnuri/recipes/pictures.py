"""This module trains a model of real pictures from nothing, on a table of ingested media: the whole
road in one file, on two CPU cores or one GPU.

    table → pictures with names → picture codec → codes of many views and of collages → text codec
    → model

Every stage resumes where it was interrupted. `cpu` takes pictures of 64 pixels, `gpu` of 128;
`smoke` is the same code in a minute. Run: `onnuri data fetch real -o TABLE`, then `onnuri train
pictures TABLE [--preset …]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from onnuri import config
from onnuri.codecs import registry
from onnuri.codecs.grid import CONFIGS, GridCodec, GridConfig
from onnuri.codecs.text import TextCodec
from onnuri.data import code_store, picture_table
from onnuri.data.augment import AugmentConfig
from onnuri.data.code_store import CodeStore, Views
from onnuri.data.collage import store as collage_store
from onnuri.data.collage.store import CollageStore
from onnuri.data.picture_store import PictureStore
from onnuri.data.picture_tasks import PictureMixture, PictureTasks, sentences
from onnuri.data.real.style_words import STYLE_WORDS
from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
from onnuri.evaluation.pictures import CodecFigures, measure, of_store, photographs
from onnuri.evaluation.real import first_names, held_out
from onnuri.files import whole_folder, write_json
from onnuri.inference.request import SamplingConfig
from onnuri.modality import LANGUAGES
from onnuri.model.backbone import BackboneConfig
from onnuri.model.digit_table import fold, share_digits
from onnuri.model.objective import OmniObjective
from onnuri.model.omni import OmniModel, load_codecs, new_layout
from onnuri.model.token_layout import TokenLayout
from onnuri.model.word_list import WordListFrontEnd
from onnuri.parallel import launch
from onnuri.parallel.model import ParallelModel
from onnuri.training.grid_codebook import PATCHES, fit_codebook
from onnuri.training.grid_codec import GridLossConfig, GridObjective
from onnuri.training.loop import TrainConfig, fit
from onnuri.training.record_config import NO_RECORD, RecordConfig
from onnuri.training.run_settings import RUN, check_same_run

PHOTOGRAPHS = {"tuxpaint": 0.2, "scratch-background": 0.05}
"""shares of the styles that are photographs, most of them cut out, so that the codec does not learn
drawings alone"""
FEWER = {"clipart": 0.4, "scratch": 0.5, "scratch-background": 0.3}
"""weights of styles whose pictures are of other things than the other styles', in English alone"""
SAMPLING = {
    "text": SamplingConfig(temperature=0.0),
    "image": SamplingConfig(temperature=0.6, guidance=2.0),
}
"""how a model of pictures answers, if it is not asked otherwise"""
UNSURE = 0.05
"""share of its right names that the model doubts"""
CALIBRATED = 400
"""pictures of dev by which this is measured"""
LEAST_RIGHT = 30
"""right names that this needs; with fewer, the model doubts every name"""
MARGIN = 1.125
"""side of stored pictures over that of the codec, so that turned and shifted ones stay sharp"""


class ModelConfig(config.Config):
    """A ModelConfig holds what the language model needs."""

    text_codes: int = 4096
    width: int = 256
    layers: int = 7
    heads: int = 4
    hidden: int = 704
    longest: int = 512
    """longest sequence, in tokens"""
    tokens: int = 4096
    """tokens per step"""
    views: Views = Views()
    collages: int = 12_000
    """collages of a few concepts that the model draws and tells; 0: none"""
    mixture: PictureMixture = PictureMixture()
    loop: TrainConfig


class PicturesConfig(config.Config):
    """A PicturesConfig holds everything a run needs; it is written to `run.json`."""

    codec: GridConfig
    loop: TrainConfig
    size: int
    """pictures per step of the codec"""
    patches: int = PATCHES
    """cells in which the codebook is found, if the codec has one"""
    losses: GridLossConfig = GridLossConfig()
    augment: AugmentConfig = AugmentConfig()
    shares: dict[str, float]
    """shares of a step's pictures that some styles have, where the table has pictures of them"""
    model: ModelConfig
    workers: int = 2
    """threads of a CPU"""
    seed: int = 0


def cpu() -> PicturesConfig:
    """Return the config of three and a half hours of two cores, on pictures of 64 pixels."""
    return PicturesConfig(
        codec=CONFIGS["64"](),
        loop=TrainConfig(
            minutes=60, optimizer="muon", learning_rate=6e-4, warmup_steps=50, decay=0.8
        ),
        size=24,
        losses=GridLossConfig(absolute=0.2, squared=20.0, edges=0.2, buckets=2**13),
        augment=AugmentConfig(plain=0.4),
        shares=PHOTOGRAPHS,
        model=ModelConfig(
            width=192,
            layers=6,
            heads=3,  # of 64: the decoding kernel knows powers of two
            hidden=512,
            tokens=3072,
            loop=TrainConfig(
                minutes=140, optimizer="muon", learning_rate=3e-3, warmup_steps=100, decay=0.4
            ),
            mixture=PictureMixture(styles=FEWER),
        ),
    )


def gpu() -> PicturesConfig:
    """Return the config of sixteen minutes of one GPU, on pictures of 128 pixels."""
    return PicturesConfig(
        codec=CONFIGS["128"](),
        loop=TrainConfig(
            minutes=8,
            optimizer="muon",
            learning_rate=2e-3,
            warmup_steps=50,
            decay=0.5,
            loader_workers=12,
        ),
        size=256,
        shares=PHOTOGRAPHS,
        workers=16,
        model=ModelConfig(
            width=512,
            layers=8,
            heads=8,
            hidden=1408,
            tokens=2**16,
            loop=TrainConfig(
                minutes=8,
                optimizer="muon",
                learning_rate=2e-3,
                warmup_steps=100,
                decay=0.5,
                loader_workers=12,
            ),
            mixture=PictureMixture(styles=FEWER),
        ),
    )


def smoke() -> PicturesConfig:
    """Return the config of a minute, which tests every stage and learns nothing."""
    return cpu().replace(
        codec=CONFIGS["64"]().replace(
            widths=(16, 32), blocks=1, cell_blocks=1, levels=(8, 8), components=8
        ),
        patches=2_000,
        loop=TrainConfig(steps=4, log_every=1),
        losses=GridLossConfig(buckets=256),
        size=4,
        shares={},
        model=ModelConfig(
            text_codes=300,
            collages=8,
            width=32,
            layers=1,
            heads=2,
            hidden=48,
            tokens=512,
            views=Views(drawn=1, seen=1),
            loop=TrainConfig(steps=4, log_every=1),
        ),
    )


PRESETS = {"cpu": cpu, "gpu": gpu, "smoke": smoke}


def train(table: Path, preset: str, out: Path, record: RecordConfig = NO_RECORD) -> None:
    """Train or resume a preset on the pictures of a table, in a folder; the codec ends in
    OUT/codecs/grid, the model in OUT/model. Raises ConfigError for a table without pictures to
    train on, and for a folder of another run."""
    settings = PRESETS[preset]()
    _begin(table, settings, out)
    torch.set_num_threads(settings.workers)
    store = pictures(table, settings, out)
    codec(store, settings, out, record)
    if not (out / "codec.json").exists():
        figures(store, settings, out)
    views = codes(store, settings, out)
    model(store, views, collages(store, settings, out), settings, out, record)


def _begin(table: Path, settings: PicturesConfig, out: Path) -> None:
    """Write the settings, and what the table holds, to OUT/run.json, or compare them with what is
    there. Raises ConfigError if they differ."""
    # read first: a wrong table leaves no folder
    values = {**settings.to_json(), "table_sha256": picture_table.digest(table)}
    check_same_run(out, values)
    write_json(values, out / RUN)


def pictures(table: Path, settings: PicturesConfig, out: Path) -> PictureStore:
    """Return the table's pictures with their names, taken from it once."""
    folder = out / "pictures"
    if not folder.exists():
        side = round(settings.codec.side * MARGIN)
        count = picture_table.build(table, folder, side)
        print(f"took {count:,} pictures of {side} pixels")
    return PictureStore(folder)


def codec(
    store: PictureStore, settings: PicturesConfig, out: Path, record: RecordConfig = NO_RECORD
) -> None:
    """Train the codec on the pictures and save it in OUT/codecs/grid, unless it is there."""
    folder = out / "codecs/grid"
    if folder.exists():
        return
    torch.manual_seed(settings.seed)
    device = launch.device()
    objective = GridObjective(
        GridCodec(settings.codec),
        store,
        settings.size,
        settings.losses,
        settings.augment,
        {style: share for style, share in settings.shares.items() if style in store.styles},
        settings.seed,
    )
    if settings.codec.components:
        begin_with_codebook(objective, settings.patches, out / "codebook")
    objective.module.to(device)
    fit(objective, settings.loop.replace(record=record), out / "codec", "picture codec")
    with whole_folder(folder) as part:
        objective.module.codec.cpu().save(part)


def begin_with_codebook(objective: GridObjective, patches: int, folder: Path) -> None:
    """Set an objective's codec to one whose codes were found in data and whose networks have
    learned nothing, which is made once."""
    trained = objective.module.codec
    if not folder.exists():
        fit_codebook(trained, objective, patches)
        with whole_folder(folder) as part:
            trained.save(part)
    trained.load_state_dict(GridCodec.load(folder).state_dict())


def figures(store: PictureStore, settings: PicturesConfig, out: Path) -> CodecFigures:
    """Measure the codec on pictures of concepts and pairs that it was not trained on, and on
    photographs of other packages; print the figures and write them to OUT/codec.json."""
    trained = registry.load(out / "codecs")["image"]
    side = settings.codec.side
    measured = {
        "dev": measure(trained, of_store(store, store.of_split("dev"), side)),
        "photographs": measure(trained, photographs(side)),
    }
    values = {split: each.to_json() for split, each in measured.items()}
    write_json({"machine": machine(), "run": settings.to_json(), **values}, out / "codec.json")
    _show(measured)
    return measured["dev"]


def codec_of(model: OmniModel, folder: Path) -> GridCodec:
    """Return the picture codec of a model that a folder holds. Raises ConfigError for a model that
    has another kind, or none."""
    found = model.codecs.get("image")
    if not isinstance(found, GridCodec):
        raise ConfigError(
            str(folder), "is no model of any pictures", "give one of `onnuri train pictures`"
        )
    return found


def codes(store: PictureStore, settings: PicturesConfig, out: Path) -> CodeStore:
    """Return the codes of many views of the pictures, which the codec makes once."""
    folder = out / "codes"
    if not folder.exists():
        trained = registry.load(out / "codecs")["image"]
        assert isinstance(trained, GridCodec)
        device = launch.device()
        code_store.write(folder, store, trained.to(device), settings.model.views)
    return CodeStore(folder)


def collages(store: PictureStore, settings: PicturesConfig, out: Path) -> CollageStore:
    """Return collages of the pictures and their codes, made once."""
    folder = out / "collages"
    if not folder.exists():
        trained = registry.load(out / "codecs")["image"]
        assert isinstance(trained, GridCodec)
        encode = trained.to(launch.device()).encode_batch
        collage_store.write(
            folder, store, encode, settings.codec.side, settings.model.collages, settings.seed
        )
    return CollageStore(folder)


def tasks(
    store: PictureStore,
    views: CodeStore,
    composed: CollageStore,
    settings: PicturesConfig,
    text: TextCodec | None,
) -> PictureTasks:
    """Return the sequences about a store's pictures that are trained on, and about collages of
    them. Without a text codec they are sentences alone."""
    return PictureTasks(settings.model.mixture, store, views, text, STYLE_WORDS, collages=composed)


def model(
    store: PictureStore,
    views: CodeStore,
    composed: CollageStore,
    settings: PicturesConfig,
    out: Path,
    record: RecordConfig = NO_RECORD,
) -> None:
    """Train the language model on sequences about the pictures and write its folder OUT/model,
    unless it is there."""
    folder = out / "model"
    if folder.exists():
        return
    codecs = all_codecs(store, views, composed, settings, out)
    sequences = tasks(store, views, composed, settings, codecs["text"])
    network, layout = blank(codecs, settings)
    learn(network, layout, sequences, settings, out, record)
    finish(network, layout, codecs, sequences, store).save(folder)


def all_codecs(
    store: PictureStore,
    views: CodeStore,
    composed: CollageStore,
    settings: PicturesConfig,
    out: Path,
) -> dict[str, Any]:
    """Return the codecs of pictures and of text; the latter learns its words once."""
    if not (out / "codecs/text").exists():
        told = sentences(tasks(store, views, composed, settings, None))
        learned = TextCodec.learn(told, settings.model.text_codes)
        with whole_folder(out / "codecs/text") as part:
            learned.save(part)
    return load_codecs(out / "codecs", ("text", "image"))


def blank(codecs: dict[str, Any], settings: PicturesConfig) -> tuple[Any, TokenLayout]:
    """Return a language model that has learned nothing, whose rows of picture codes are sums over
    digits, and its token layout."""
    own, layout, image = settings.model, new_layout(codecs, tasks=True), codecs["image"]
    torch.manual_seed(settings.seed)
    network = BackboneConfig(
        vocabulary=layout.size,
        width=own.width,
        layers=own.layers,
        heads=own.heads,
        hidden=own.hidden,
        longest=own.longest,
    ).build()
    share_digits(network, layout.start(image.spec.codebook), image.config.levels)
    return network, layout


def learn(
    network: Any,
    layout: TokenLayout,
    sequences: PictureTasks,
    settings: PicturesConfig,
    out: Path,
    record: RecordConfig = NO_RECORD,
) -> None:
    """Train a language model on sequences; its state is in OUT/lm."""
    device, dtype, compiled = launch.computing(None)
    own = settings.model
    trained = OmniObjective(
        network.to(device), layout, sequences, sequences.text.words, own.tokens, settings.seed
    )
    parallel = ParallelModel(network, trained.loss, None, dtype, compiled)
    fit(trained, own.loop.replace(record=record), out / "lm", "model", parallel)


def finish(
    network: Any,
    layout: TokenLayout,
    codecs: dict[str, Any],
    sequences: PictureTasks,
    store: PictureStore,
) -> OmniModel:
    """Return the whole model of a trained network, whose sums over digits become plain tables."""
    fold(network.cpu())
    front_end = WordListFrontEnd.learn(sentences(sequences))
    made = OmniModel(network, codecs, layout, SAMPLING, front_end=front_end)
    calibrate(made, front_end, store)
    return made


def calibrate(made: OmniModel, front_end: WordListFrontEnd, store: PictureStore) -> None:
    """Set how improbable a name must be for the model to say that it may not know the picture: less
    probable than all but UNSURE of its right names of pictures of dev."""
    items = held_out(store, "dev", made.codecs["image"].side)
    pairs = [item for item in items if item.group == "pairs"][:CALIBRATED]
    right: list[float] = []
    for language in LANGUAGES:
        own = [item for item in pairs if language in item.names]
        replies = first_names(made, [item.picture for item in own], language)
        right += [
            reply.logprob
            for item, reply in zip(own, replies, strict=True)
            if reply.item == item.names[language].name and reply.logprob is not None
        ]
    enough = len(right) >= LEAST_RIGHT
    front_end.least["text"] = float(np.quantile(right, UNSURE)) if enough else 0.0


def _show(figures_by_split: dict[str, CodecFigures]) -> None:
    """Print figures of each split and group."""
    table = Table("pictures", "n", "PSNR", "inside", "thumbnail")
    for split, measured in figures_by_split.items():
        for group, each in measured.groups.items():
            name = split if group in ("all", split) else f"{split}: {group}"
            if group == "all" and len(measured.groups) == 2:
                continue  # the same as its one group
            spread = (each.psnr_high - each.psnr_low) / 2
            row = (f"{each.n:,}", f"{each.psnr:.2f} ± {spread:.2f}", f"{each.psnr_inside:.2f}")
            table.add_row(name, *row, f"{each.thumbnail:.2f}")
    console = Console(highlight=False)
    console.print(table)
    for split, measured in figures_by_split.items():
        console.print(f"{split}: {measured.codes_in_use:,} of {measured.codes:,} codes in use")
