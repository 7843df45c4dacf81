"""This module is the oracle of speech: an independent recogniser of the world's words, and the
grammar that reads them.

It shares no weights and no training signal with the model or its codecs: a small convolutional CTC
network (Graves et al. 2006) is trained on raw synthetic speech of training scenes, with noise,
filtering and blur, so that it can read decoded speech too. Weights are in
`onnuri/weights/recogniser`. Train: `python -m onnuri.toyworld.oracles.audio OUT MINUTES [THREADS]`
(28 1).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from onnuri import WEIGHTS
from onnuri.codecs.audio import mels
from onnuri.data.pool import build
from onnuri.errors import WeightsError
from onnuri.modality import LANGUAGES, Language
from onnuri.toyworld.audio import sample_voice, speak, speak_aligned
from onnuri.toyworld.grammar import parse
from onnuri.toyworld.scene import Description, generator, sample_scene
from onnuri.toyworld.tasks import question
from onnuri.toyworld.text import caption
from onnuri.training.loop import TrainConfig, fit

LONGEST = 128_000
"""most samples of a training utterance"""
PACE = (190, 291)
"""range of the rate in words per minute, upper bound excluded; wider than the world's voices, so
that an odd rhythm is recognised too"""


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.sub(r"[.,?!]", "", text.lower()).split()


class _Residual(nn.Module):
    """A _Residual is a dilated convolution with batch normalization and a skip connection."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [B, C, T] for an input of that shape."""
        return x + F.silu(self.norm(self.conv(x)))


class Recogniser(nn.Module):
    """A Recogniser maps log-mel [B, 80, T at 100 Hz] to log probabilities of words [B, T / 4, words
    + 1], where 0 is the blank."""

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self.words = words
        self.fine = nn.Sequential(
            nn.Conv1d(80, 128, 5, 2, 2),
            nn.BatchNorm1d(128),
            nn.SiLU(),
            _Residual(128, 1),
            _Residual(128, 2),
        )
        self.coarse = nn.Sequential(
            nn.Conv1d(128, 192, 5, 2, 2),
            nn.BatchNorm1d(192),
            nn.SiLU(),
            *(_Residual(192, d) for d in (1, 1, 2, 2)),
        )
        self.head = nn.Conv1d(192, len(words) + 1, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Return the log probabilities [B, T / 4, words + 1] of log-mel [B, 80, T]."""
        return self.head(self.coarse(self.fine(mel * 0.5 + 1))).transpose(1, 2).log_softmax(-1)

    def save(self, folder: Path) -> None:
        """Write the weights in 16 bits, the words and the weights' hash to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        data = save(
            {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        )
        (folder / "model.safetensors").write_bytes(data)
        about = {"words": self.words, "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "config.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the recogniser that `save` wrote. Raises WeightsError if there is none or its hash
        differs."""
        if not (folder / "config.json").exists():
            raise WeightsError(
                str(folder), "has no recogniser", "fetch the repository's weights again"
            )
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data = (folder / "model.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise WeightsError(
                str(folder), "is not what was written", "fetch the repository's weights again"
            )
        recogniser = cls(about["words"])
        recogniser.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in load(data).items()}
        )
        return recogniser.eval()


@functools.cache
def recogniser() -> Recogniser:
    """Return the recogniser that ships with the library."""
    return Recogniser.load(WEIGHTS / "recogniser")


@torch.inference_mode()
def transcribe(samples: np.ndarray, model: Recogniser | None = None) -> str:
    """Return the words of a sound float32 [T], by the likeliest word at every frame; "" if none is
    recognised."""
    model = model or recogniser()
    if len(samples) < 1600:
        return ""
    best = model(mels(torch.from_numpy(np.ascontiguousarray(samples))[None]))[0].argmax(-1)
    word_ids = torch.unique_consecutive(best)
    return " ".join(model.words[k - 1] for k in word_ids.tolist() if k)


def observe(samples: np.ndarray) -> Description | None:
    """Return the description that a sound states; None if it cannot be read."""
    return parse(transcribe(samples))


def render_row(seed: int) -> dict[str, np.ndarray]:
    """Return one row of the training pool: an utterance of a training scene, its length and its
    words as UTF-8 bytes. The rate is random; half of the utterances are aligned with frames."""
    rng, scene = generator("train", 2**41 + seed), sample_scene(2**41 + seed)
    language: Language = LANGUAGES[seed % 2]
    sentence = (
        caption(scene, language, rng)
        if rng.random() < 0.85
        else str(rng.choice(question(scene, language, rng)))
    )
    voice = dataclasses.replace(sample_voice(rng), rate_wpm=int(rng.integers(*PACE)))
    aligned = rng.random() < 0.5
    sound = (
        speak_aligned(sentence, language, voice)[0] if aligned else speak(sentence, language, voice)
    )[:LONGEST]
    text = "\n".join(words_of(sentence)).encode()[:1024]
    return {
        "sound": np.pad((sound * 32767).astype(np.int16), (0, LONGEST - len(sound))),
        "length": np.array(len(sound)),
        "text": np.frombuffer(text.ljust(1024, b"\0"), np.uint8).copy(),
    }


class RecogniserObjective:
    """A RecogniserObjective trains a Recogniser by CTC on augmented speech from a pool."""

    def __init__(self, folder: Path, size: int = 16, seed: int = 0) -> None:
        self.sound, self.length = (
            np.load(folder / "sound.npy", mmap_mode="r"),
            np.load(folder / "length.npy"),
        )
        texts = [bytes(t).rstrip(b"\0").decode().split("\n") for t in np.load(folder / "text.npy")]
        words = sorted({w for t in texts for w in t})
        index = {w: k + 1 for k, w in enumerate(words)}
        self.targets = [torch.tensor([index[w] for w in t]) for t in texts]
        self.module, self.size, self.seed = Recogniser(words), size, seed
        self.order = np.argsort(self.length)

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step: sounds float32 [size, T], their word ids, and their numbers
        of output frames."""
        rng = np.random.default_rng([self.seed, step])
        start = int(
            rng.integers(len(self.order) - self.size)
        )  # neighbours in length: little padding
        rows = self.order[start : start + self.size]
        longest = int(self.length[rows].max()) // 640 * 640
        sound = self.sound[np.sort(rows)][:, :longest].astype(np.float32) / 32767
        return {
            "sound": torch.from_numpy(sound),
            "targets": [self.targets[r] for r in np.sort(rows)],
            "lengths": torch.tensor([self.length[r] // 640 for r in np.sort(rows)]).clamp(
                max=longest // 640
            ),
        }

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Return the CTC loss [] of a batch under random disturbances, and no metrics."""
        log = self.module(augment(mels(disturb(batch["sound"]))))
        lengths = torch.tensor([len(t) for t in batch["targets"]])
        loss = F.ctc_loss(
            log.transpose(0, 1),
            torch.cat(batch["targets"]),
            batch["lengths"].clamp(max=log.shape[1]),
            lengths,
            zero_infinity=True,
        )
        return loss, {}


def disturb(sound: Tensor) -> Tensor:
    """Return sounds [B, T] with a random gain and white noise."""
    gain = torch.exp(torch.randn(len(sound), 1) * 0.3)
    return sound * gain + torch.randn_like(sound) * 0.01 * torch.rand(len(sound), 1)


def augment(mel: Tensor) -> Tensor:
    """Return log-mel [B, 80, T] tilted, blurred over time and pitch, stretched in pitch and
    jittered at random, as a codec might change speech."""
    batch, bins, _ = mel.shape
    mel = (
        mel
        + torch.randn(batch, 1, 1) * 0.2
        + torch.randn(batch, bins, 1) * 0.15
        + torch.randn_like(mel) * 0.3 * torch.rand(batch, 1, 1)
    )
    if torch.rand(()) < 0.5:
        mel = F.avg_pool2d(mel[:, None], (3, 3), 1, 1)[:, 0]
    if torch.rand(()) < 0.3:
        scale = float(torch.rand(()) * 0.16 + 0.92)
        warped = F.interpolate(mel[:, None], (round(bins * scale), mel.shape[2]), mode="bilinear")[
            :, 0
        ]
        mel = F.pad(warped, (0, 0, 0, bins), value=-4.6)[:, :bins]
    start = int(torch.randint(bins, ()))
    mel[:, start : start + int(torch.randint(8, ()))] = -2.0
    return mel


def train(out: Path, minutes: float, rows: int = 16_000) -> Recogniser:
    """Train a recogniser for some minutes on a pool of `rows` utterances, save it to OUT/recogniser
    and return it."""
    build(out / "pool", rows, render_row, 2, "speech")
    torch.manual_seed(0)
    objective = RecogniserObjective(out / "pool")
    fit(
        objective,
        TrainConfig(minutes=minutes, learning_rate=3e-3, weight_decay=0.01, decay=0.5),
        out / "run",
        "recogniser",
    )
    objective.module.save(out / "recogniser")
    return objective.module


def accuracy(model: Recogniser, split: str, items: int) -> dict[str, float]:
    """Return the share of utterances of unseen scenes whose description is read exactly, by
    language."""
    right: dict[str, list[bool]] = {language: [] for language in LANGUAGES}
    for seed in range(items):
        scene, rng = sample_scene(seed, split), generator("seen", seed)  # type: ignore[arg-type]
        language = LANGUAGES[seed % 2]
        sentence = caption(scene, language, rng)
        transcript = transcribe(speak(sentence, language, sample_voice(rng)), model)
        right[language].append(parse(transcript) == parse(sentence))
    return {k: float(np.mean(v)) for k, v in right.items()}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    made = train(Path(sys.argv[1]), float(sys.argv[2]))
    print({split: accuracy(made, split, 200) for split in ("seen", "held_out")})
