"""Judges of speech and print: they are those that figures are measured by, or say so in one line."""

import importlib.util
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from onnuri.errors import ConfigError
from onnuri.evaluation.judges import tesseract, whisper
from onnuri.evaluation.judges.tesseract import TesseractJudge
from onnuri.evaluation.judges.whisper import WhisperJudge


def test_without_it_the_mistake_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Whisper base: needs .*part1.*onnuri\[judges\]"):
        WhisperJudge()


def test_other_weights_are_refused(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.json").write_text("{}")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match=r"config\.json: is not the judge by which figures"):
        WhisperJudge()


def test_english_speech_is_written_down():
    for package in (whisper.NETWORK, *whisper.PARTS, "espeakng_loader"):
        pytest.importorskip(package)
    from onnuri.toyworld.audio import Voice, speak

    said = "a small red cube is above a blue cone"
    (heard,) = WhisperJudge().hear([speak(said, "en", Voice(variant="m3", rate_wpm=180))], "en")
    assert len({*said.split()} & {*heard.casefold().replace(".", "").split()}) >= 6


def answers(monkeypatch, **by_option):
    """Let the program say something by its first option."""
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/tesseract")

    def run(command, **more):
        return SimpleNamespace(stdout=by_option.get(command[1].strip("-"), "").encode())

    monkeypatch.setattr(subprocess, "run", run)


def test_without_the_reader_of_print_the_mistake_says_what_to_install(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="Tesseract: is not installed; install Debian's tess"):
        TesseractJudge()
    answers(monkeypatch, version="tesseract 3.04.01")
    with pytest.raises(ConfigError, match=r"has version 3\.04\.01"):
        TesseractJudge()
    answers(monkeypatch, version="tesseract 5.3.0\n leptonica", **{"list-langs": "eng\nosd"})
    with pytest.raises(ConfigError, match="reads no Korean"):
        TesseractJudge()
    answers(monkeypatch, version="tesseract 5.3.0", **{"list-langs": "List:\neng\nkor", "": " A\n"})
    judge = TesseractJudge()
    assert judge.version == "5.3.0" and judge.read([np.zeros((9, 9, 3), np.uint8)]) == ["A"]


def test_print_is_read():
    try:
        judge = TesseractJudge()
    except ConfigError as error:
        pytest.skip(str(error))
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).text((10, 20), "HOT", "black", ImageFont.load_default(40))
    assert judge.read([np.asarray(image)]) == ["HOT"]
    assert tesseract.SIDE > 96
