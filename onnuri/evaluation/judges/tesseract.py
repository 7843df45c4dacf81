"""This module judges letters and digits in pictures by what Tesseract reads in them, a reader of
print that nobody here trained (Debian's `tesseract-ocr` and `tesseract-ocr-kor`).

A picture of a sign is small: it is enlarged, and read as one word or as one letter. The module
knows no model.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np
from PIL import Image

from onnuri.errors import ConfigError

PROGRAM = "tesseract"
LANGUAGES = "kor+eng"
VERSIONS = ("5.",)
"""beginnings of the versions by which figures are measured"""
SIDE = 320
"""pixels per side of a picture as it is read"""
BORDER = 40
"""pixels of white around it"""
SECONDS = 60
"""for one picture"""


class TesseractJudge:
    """A TesseractJudge writes down what it reads in pictures."""

    name = "Tesseract"

    def __init__(self) -> None:
        """Find the program. Raises ConfigError if it, its Korean or the right version is not
        there."""
        if shutil.which(PROGRAM) is None:
            raise self._missing("is not installed")
        version = _run(["--version"]).split()[1:2]
        if not version or not version[0].startswith(VERSIONS):
            raise self._missing(f"has version {' '.join(version)}, and figures are of 5")
        self.version = version[0]
        if not {"kor", "eng"} <= set(_run(["--list-langs"]).split()):
            raise self._missing("reads no Korean")

    def _missing(self, rule: str) -> ConfigError:
        """Return the error of a judge that is not there."""
        return ConfigError(
            f"the judge {self.name}", rule, "install Debian's tesseract-ocr and tesseract-ocr-kor"
        )

    def read(self, pictures: Sequence[np.ndarray], one_letter: bool = False) -> list[str]:
        """Return what is read in each picture uint8 [H, W, 3]: one word, or `one_letter`; "" where
        nothing is."""
        mode = "10" if one_letter else "8"
        return [
            "".join(_run(["-", "-", "-l", LANGUAGES, "--psm", mode], _png(picture)).split())
            for picture in pictures
        ]


def _png(picture: np.ndarray) -> bytes:
    """Return a picture uint8 [H, W, 3] enlarged, with white around it, as a file."""
    image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    whole = Image.new("RGB", (SIDE + 2 * BORDER, SIDE + 2 * BORDER), "white")
    whole.paste(image, (BORDER, BORDER))
    file = io.BytesIO()
    whole.save(file, "PNG", dpi=(300, 300))
    return file.getvalue()


def _run(arguments: Sequence[str], data: bytes = b"") -> str:
    """Return what the program prints; "" where it fails or takes too long."""
    try:
        done = subprocess.run(
            [PROGRAM, *arguments],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.decode("utf-8", "replace")
