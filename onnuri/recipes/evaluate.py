"""This module runs `onnuri evaluate`: the toy world's oracles judge a model of the laptop's recipe,
its codecs, or the data it was trained on; real pictures judge a model of the pictures' recipe."""

from __future__ import annotations

from pathlib import Path

import onnuri
from onnuri.data.picture_store import PictureStore
from onnuri.data.real.style_words import STYLE_WORDS
from onnuri.evaluation import real_report
from onnuri.modality import Modality
from onnuri.recipes.pictures import codec_of
from onnuri.toyworld.oracles import quality, report, scan, words
from onnuri.toyworld.oracles import speech as speech_report


def matrix(model: Path | None, items: int, json: Path | None) -> None:
    """Measure every modality to every modality on `items` scenes per cell, and write JSON, a heat
    map and a page."""
    report.run(onnuri.load(model), items, json)


def sentences(model: Path | None, items: int, to: Modality, json: Path | None) -> None:
    """Measure whether whole scenes generated from words in modality `to` are what the words say,
    and write JSON."""
    words.run(onnuri.load(model), items, to, json)


def real(run: Path, model: Path | None, split: str, items: int | None, json: Path | None) -> None:
    """Measure the model of a run on pictures that it was not trained on, and write JSON and a
    page."""
    store = PictureStore(run / "pictures")
    folder, out = model or run / "model", json or run / f"real-{split}.json"
    loaded = onnuri.load(folder)
    codec_of(loaded, folder)
    real_report.run(loaded, store, STYLE_WORDS, split, items, out)


def speech(model: Path | None, items: int, json: Path | None) -> None:
    """Measure how well a recogniser of others understands the model's speech, and write JSON."""
    speech_report.run(onnuri.load(model), items, json)


def codecs(model: Path | None, items: int, json: Path | None) -> None:
    """Measure every codec's quality on `items` held-out items per modality, and write JSON."""
    quality.run(onnuri.load(model), items, json)


def table(folder: Path, every: int, json: Path | None) -> None:
    """Look for held-out compositions in a run's token table, decoding one row in `every`, and write
    JSON."""
    scan.run(folder, every, json)
