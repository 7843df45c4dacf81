"""This module trains a model of pictures further on a folder of one's own pictures, on two CPU
cores within twenty minutes: `onnuri train own FOLDER`.

    folder → table → pictures with names → codes of many views → model

Captions are in text files or a CSV beside the pictures (`data/ingest`), else a picture is named by
its file. What the model knew is rehearsed: it draws some pictures without being asked for anything
and names them, and half of what it learns from is these. So no training data has to be there.
Every stage resumes where it was interrupted.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

import onnuri
from onnuri import config
from onnuri.codecs.grid import GridCodec
from onnuri.data import code_store, picture_table
from onnuri.data.code_store import CodeStore, Views
from onnuri.data.ingest.run import ingest
from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.picture_store import PictureItem, PictureStore
from onnuri.data.picture_tasks import PictureMixture, PictureTasks, sentences
from onnuri.data.segment import MixedSource
from onnuri.errors import ConfigError
from onnuri.files import sha256_of, write_bytes, write_json
from onnuri.modality import LANGUAGES
from onnuri.model.objective import OmniObjective
from onnuri.model.omni import OmniModel
from onnuri.model.word_list import WordListFrontEnd
from onnuri.parallel import launch
from onnuri.parallel.model import ParallelModel
from onnuri.recipes.pictures import MARGIN, codec_of
from onnuri.training.loop import TrainConfig, fit
from onnuri.training.run_settings import RUN, check_same_run

AT_ONCE = 64
"""pictures that are drawn or named together"""


class OwnConfig(config.Config):
    """An OwnConfig holds everything a run needs; it is written to `run.json`."""

    views: Views = Views(drawn=4, seen=24)
    rehearsed: int = 384
    """pictures that the model draws and names before it learns, so that it does not forget"""
    own: float = 0.5
    """share of sequences that are about the folder's pictures"""
    tokens: int = 2048
    """tokens per step"""
    mixture: PictureMixture = PictureMixture(draw=0.5, name=0.45, restyle=0.0, unconditional=0.02)
    loop: TrainConfig = TrainConfig(
        minutes=12, optimizer="muon", learning_rate=5e-4, warmup_steps=20, decay=0.5
    )
    workers: int = 2
    """threads of a CPU"""
    seed: int = 0


def train(folder: Path, out: Path, base: Path, minutes: float | None) -> None:
    """Train the model in the folder `base` further on a folder of pictures; it ends in OUT/model.

    `minutes` are those of training steps; None: as many as the recipe has. Raises ConfigError for a
    folder without pictures, for pictures without a name, for a model that draws no pictures, and
    for minutes that are not above 0.
    """
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g}", "teach nothing", "give more than 0")
    model = onnuri.load(base)
    codec = codec_of(model, base)
    settings = OwnConfig()
    if minutes is not None:
        settings = settings.replace(loop=settings.loop.replace(minutes=minutes))
    torch.set_num_threads(settings.workers)
    ingest(folder, out / "table", IngestConfig(near_duplicates="keep"))
    values = {
        **settings.to_json(),
        "base_sha256": sha256_of(base / "onnuri.json"),  # which has the hashes of all files
        "table_sha256": picture_table.digest(out / "table"),
    }
    check_same_run(out, values)
    store = pictures(codec.config.side, out)
    write_json(values, out / RUN)
    views = codes(store, codec, settings, out)
    rehearsal = rehearse(model, settings, out)
    learn(model, store, views, rehearsal, settings, out)


def pictures(side: int, out: Path) -> PictureStore:
    """Return the table's pictures with their names, taken from it once."""
    if not (out / "pictures").exists():
        count = picture_table.build(out / "table", out / "pictures", round(side * MARGIN), own=True)
        print(f"took {count:,} pictures")
    return PictureStore(out / "pictures")


def codes(store: PictureStore, codec: GridCodec, settings: OwnConfig, out: Path) -> CodeStore:
    """Return the codes of many views of the pictures, made once."""
    if not (out / "codes").exists():
        code_store.write(out / "codes", store, codec, settings.views)
    return CodeStore(out / "codes")


class Rehearsal:
    """A Rehearsal holds what a model drew and how it named that: a store of pictures and of their
    codes at once."""

    def __init__(self, codes: np.ndarray, names: list[tuple[str, ...]]) -> None:
        """Take codes int64 [N, K] and each one's names."""
        self.codes = codes
        self.items = [
            PictureItem(concept=str(number), names=each) for number, each in enumerate(names)
        ]

    def of_split(self, split: str) -> np.ndarray:
        """Return the numbers int64 [N] of all pictures."""
        return np.arange(len(self.items))

    def drawn(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Return the codes int64 [K] of a picture."""
        return np.asarray(self.codes[number], np.int64)

    seen = drawn


def rehearse(model: Any, settings: OwnConfig, out: Path) -> Rehearsal:
    """Return pictures that a model draws without being asked for anything, and its names for
    them."""
    path = out / "rehearsal.npz"
    if not path.exists():
        drawn: list[np.ndarray] = []
        names: dict[str, list[str]] = {language: [] for language in LANGUAGES}
        starts = range(0, settings.rehearsed, AT_ONCE)
        for start in track(starts, "rehearsal", transient=True):
            seeds = list(range(start, min(start + AT_ONCE, settings.rehearsed)))
            made = model.generate_batch(
                "image", [[] for _ in seeds], seeds=seeds, temperature=1.0, guidance=1.0
            )
            drawn += model.codecs["image"].encode_batch(made)
            for language in LANGUAGES:
                inputs = [[("image", picture)] for picture in made]
                names[language] += model.generate_batch("text", inputs, language=language)
        file = io.BytesIO()
        np.savez_compressed(file, codes=np.stack(drawn), ko=names["ko"], en=names["en"])
        write_bytes(file.getvalue(), path)
    with np.load(path) as saved:
        pairs = zip(*(saved[language].tolist() for language in LANGUAGES), strict=True)
        return Rehearsal(saved["codes"], [tuple(pair) for pair in pairs])


def learn(
    model: OmniModel,
    store: PictureStore,
    views: CodeStore,
    rehearsal: Rehearsal,
    settings: OwnConfig,
    out: Path,
) -> None:
    """Train a model on the folder's pictures and on what it rehearses, and write OUT/model, unless
    it is there."""
    if (out / "model").exists():
        return
    text = model.codecs["text"]
    own = PictureTasks(settings.mixture, store, views, text)
    known = PictureTasks(settings.mixture, rehearsal, rehearsal, text)
    trained = OmniObjective(
        model.network.train(),
        model.layout,
        MixedSource([own, known], [settings.own, 1 - settings.own]),
        text.words,
        settings.tokens,
        settings.seed,
    )
    device, dtype, compiled = launch.computing(None)
    model.network.to(device)
    parallel = ParallelModel(model.network, trained.loss, None, dtype, compiled)
    fit(trained, settings.loop, out / "lm", "model", parallel)
    model.network.cpu().eval()
    if isinstance(model.front_end, WordListFrontEnd):
        new = WordListFrontEnd.learn(sentences(own))
        model.front_end = WordListFrontEnd(model.front_end.words | new.words, model.front_end.least)
    model.save(out / "model")
    print(f"wrote {out / 'model'}")
