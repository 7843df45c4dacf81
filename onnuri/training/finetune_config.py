"""This module holds the settings of a fine-tuning run, which are also the command line's flags.

It imports nothing slow, so that `--help` answers at once.
"""

from __future__ import annotations

import math
from typing import Literal

from onnuri.config import Config
from onnuri.errors import ConfigError


class FinetuneConfig(Config):
    """A FinetuneConfig says which model is trained, on what data, how, and for how long."""

    base: str
    """folder of the language model and its tokenizer, as save_pretrained writes them"""
    data: str
    """JSON Lines: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content":
    "…"}]} a line, or {"prompt": "…", "completion": "…"}; the loss is that of answers"""
    lora: int | None = None
    """rank of low-rank adapters (Hu et al. 2021, arXiv 2106.09685), such as 16, instead of training
    all weights; they are written to OUT/adapter and merged into OUT/model (needs the extra: pip
    install 'onnuri[finetune]')"""
    lora_alpha: int | None = None
    """adapters count alpha / rank; twice the rank without it"""
    epochs: float = 1.0
    """number of passes over all conversations"""
    steps: int | None = None
    """number of optimizer steps, instead of epochs"""
    batch_size: int = 8
    """sequences per step"""
    micro_batches: int = 1
    """parts into which a step is split, one in memory at a time; more need less memory and give
    the same result"""
    learning_rate: float | None = None
    """highest learning rate; without it 1e-5 for all weights, 2e-4 for adapters"""
    max_tokens: int | None = None
    """longest sequence in tokens, longer ones are cut; without it 2,048, or the model's own limit
    if that is less"""
    seed: int = 0
    """seed of all random numbers: the same seed gives the same model"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """device that trains; auto: a GPU if there is one"""

    def check(self) -> None:
        """Raise ConfigError if a value is out of range or two contradict each other."""
        at_least_one = {
            "lora": self.lora,
            "lora_alpha": self.lora_alpha,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "micro_batches": self.micro_batches,
        }
        for name, value in at_least_one.items():
            if value is not None and value < 1:
                raise ConfigError(_flag(name, value), "is less than 1", "give 1 or more")
        if not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise ConfigError(
                _flag("epochs", self.epochs), "is no number above 0", "give such as 3"
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ConfigError(
                _flag("learning_rate", self.learning_rate), "is not within 0 and 1", "give 1e-5"
            )
        if self.max_tokens is not None and self.max_tokens < 8:
            raise ConfigError(
                _flag("max_tokens", self.max_tokens),
                "leaves no room for an answer",
                "give 8 or more",
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(
                _flag("seed", self.seed), "is not within 0 and 4,294,967,295", "give such as 0"
            )
        if self.lora_alpha is not None and self.lora is None:
            raise ConfigError(
                _flag("lora_alpha", self.lora_alpha), "is of adapters", "give --lora too"
            )
        if self.micro_batches > self.batch_size:
            raise ConfigError(
                _flag("micro_batches", self.micro_batches),
                f"is more than the {self.batch_size} sequences of a step",
                "give at most --batch-size",
            )


def _flag(name: str, value: object) -> str:
    """Return a field and its value as they are typed on the command line."""
    return f"--{name.replace('_', '-')} {value}"
