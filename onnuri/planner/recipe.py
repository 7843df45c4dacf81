"""Define a recipe: a system's model, media, stages and layout, each value with where it was
published.

Knows no recipe: they stand above, one file each, and differ only in what is different.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from onnuri.config import Config
from onnuri.planner.architecture import Architecture
from onnuri.planner.parallel import ParallelConfig

BOUNDARIES = 2
"""ids per modality that open and close an item of it"""
ALIGNED = 128
"""divisor to which the rows of an embedding are padded: tensor cores and every degree of tensor
parallelism like it"""


class ModalityPlan(Config):
    """How one modality becomes tokens of the model's vocabulary."""

    modality: str
    """a name of `modality.MEDIA`"""
    codec: str
    codes: int
    """ids that it adds to the vocabulary"""
    tokens_per_item: float | None = None
    """tokens of an item of a fixed length"""
    tokens_per_second: float | None = None
    encode_flops_per_token: float = 0.0
    """forward FLOPs of the codec's encoder that one token costs, once"""
    source: str = "assumed"


class TrainingStage(Config):
    """A part of training: text, alignment, omni, annealing."""

    name: str
    tokens: float
    """of the whole stage"""
    tokens_per_sequence: int
    batch_tokens: int
    """tokens per optimizer step"""
    media_share: dict[str, float] = dataclasses.field(default_factory=dict)
    """share of its tokens by modality; the rest is text"""
    trains: str = "all"
    """what learns: "all", or the embeddings of new ids only"""
    source: str = "assumed"


class Recipe(Config):
    """One system: its model, media, stages of training and layout."""

    name: str
    team: str
    title: str
    family: str
    """a class that `model/backbone.py` knows"""
    values: dict[str, Any]
    """the configuration of that class"""
    sources: dict[str, str]
    """for every one of `values`, where it was published, or `assumed`"""
    architecture: Architecture
    media: tuple[ModalityPlan, ...]
    stages: tuple[TrainingStage, ...]
    layout: ParallelConfig
    """its own plan, which Onnuri's trainer runs"""
    gpu: str
    gpus: int
    published_total: float | None = None
    """parameters, as its team published them"""
    published_active: float | None = None
    """active parameters, as its team published them"""
    notes: tuple[str, ...] = ()
    """what was assumed, for a plan of it"""
    own_layout: bool = True
    """whether `layout` is a team's or this project's plan, and not a stand-in"""

    @property
    def tokens(self) -> float:
        """Return the tokens of all stages."""
        return sum(s.tokens for s in self.stages)

    @property
    def omni(self) -> Architecture:
        """Return the model with the ids that media and boundaries add: what is trained after the
        text stage."""
        if not self.media:
            return self.architecture
        added = sum(m.codes for m in self.media) + BOUNDARIES * len(self.media)
        return self.architecture.replace(
            vocabulary=-(-(self.architecture.vocabulary + added) // ALIGNED) * ALIGNED
        )


def best_batch(flops: float, unit: int) -> int:
    """Return the tokens of the best batch for a budget of FLOPs, in whole units (DeepSeek's law,
    arXiv 2401.02954)."""
    return max(1, round(0.2920 * flops**0.3271 / unit)) * unit


def text_recipe(a: Architecture, stage: TrainingStage, gpu: str, gpus: int, **more: Any) -> Recipe:
    """Return a recipe of one stage of text for a model that no team's recipe trains; `more`
    replaces its fields."""
    return Recipe(
        **{
            "name": a.name,
            "team": "",
            "title": a.name,
            "family": "",
            "values": {},
            "sources": {},
            "architecture": a,
            "media": (),
            "stages": (stage,),
            "layout": ParallelConfig(dp=gpus),
            "gpu": gpu,
            "gpus": gpus,
            **more,
        }
    )
