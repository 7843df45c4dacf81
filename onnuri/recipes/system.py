"""This module holds what the systems' recipes share: the codecs that give a text model its other
modalities, the training stages, and the function that builds a recipe.

It knows no system. A value is written with its source, `(7168, CARD)`; `ASSUMED` marks what nobody
published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import ModalityPlan, Recipe, TrainingStage
from onnuri.planner.stock import architecture

ASSUMED = "assumed"
TOKENS = 4_096
"""tokens per sequence in all stages but the last"""
Sourced = Mapping[str, tuple[Any, str]]
"""(value, source) by the name of a field of a model class's configuration"""

TEXT = ModalityPlan(
    modality="text", codec="the model's own tokenizer", codes=0, source="the model's own"
)
IMAGE = ModalityPlan(
    modality="image",
    codec="Cosmos-Tokenizer DV8x16x16, 256 x 256 px",
    codes=64_000,
    tokens_per_item=256,
    encode_flops_per_token=5e9,
    source="arXiv 2501.03575; that it is used, and its FLOPs: assumed",
)
VIDEO = ModalityPlan(
    modality="video",
    codec="Cosmos-Tokenizer DV8x16x16, 256 x 256 px at 16 frames/s: the image's ids",
    codes=0,
    tokens_per_second=512,
    encode_flops_per_token=5e9,
    source=IMAGE.source,
)
AUDIO = ModalityPlan(
    modality="audio",
    codec="X-Codec2",
    codes=65_536,
    tokens_per_second=50,
    encode_flops_per_token=1.2e9,
    source="arXiv 2502.04128; that it is used, and its FLOPs (twice w2v-bert's 600M a frame): "
    "assumed",
)
SHAPE = ModalityPlan(
    modality="shape",
    codec="ShapeLLM-Omni 3D VQ-VAE",
    codes=8_192,
    tokens_per_item=1_024,
    encode_flops_per_token=1e9,
    source="arXiv 2506.01853; that it is used, and its FLOPs: assumed",
)
MEDIA = (TEXT, IMAGE, AUDIO, VIDEO)


def stages(
    text: float, source: str, gpus: int, shares: dict[str, float]
) -> tuple[TrainingStage, ...]:
    """Return a system's training stages: text as published, then new embeddings alone, all
    modalities together, and better data in long sequences.

    `text` is the number of text tokens and `source` where it was published. `shares` gives each
    modality's share of the tokens once all are trained. A step has eight sequences per GPU, in the
    last stage one that is eight times as long.
    """
    batch, half = 8 * TOKENS * gpus, {modality: share / 2 for modality, share in shares.items()}
    return (
        TrainingStage(
            name="text",
            tokens=text,
            tokens_per_sequence=TOKENS,
            batch_tokens=batch,
            source=f"tokens: {source}; sequence and batch: {ASSUMED}",
        ),
        TrainingStage(
            name="alignment",
            tokens=20e9,
            tokens_per_sequence=TOKENS,
            batch_tokens=batch,
            media_share=shares,
            trains="new embeddings",
        ),
        TrainingStage(
            name="omni",
            tokens=0.04 * text,
            tokens_per_sequence=TOKENS,
            batch_tokens=batch,
            media_share=shares,
        ),
        TrainingStage(
            name="annealing",
            tokens=0.01 * text,
            tokens_per_sequence=8 * TOKENS,
            batch_tokens=batch,
            media_share=half,
        ),
    )


def system(
    name: str,
    team: str,
    title: str,
    family: str,
    values: Sourced,
    media: tuple[ModalityPlan, ...],
    stages: tuple[TrainingStage, ...],
    layout: ParallelConfig,
    gpu: str,
    gpus: int,
    total: float,
    active: float,
) -> Recipe:
    """Return a system's recipe; its architecture follows from `values`, the configuration of its
    model class in `family`.

    `total` and `active` are the published numbers of parameters.
    """
    plain = without_sources(values)
    return Recipe(
        name=name,
        team=team,
        title=title,
        family=family,
        values=plain,
        sources={key: source for key, (_, source) in values.items()},
        architecture=architecture(name, family, plain),
        media=media,
        stages=stages,
        layout=layout,
        gpu=gpu,
        gpus=gpus,
        published_total=total,
        published_active=active,
    )


def without_sources(values: Sourced) -> dict[str, Any]:
    """Return configuration values by name, without their sources."""
    return {key: value for key, (value, _) in values.items()}


def layers(first: int, kind: str, count: int, rest: str) -> list[str]:
    """Return the kind of each of `count` layers: one kind for the `first` layers, another for the
    rest."""
    return [kind] * first + [rest] * (count - first)


def every(period: int, count: int) -> list[str]:
    """Return the attention type of each of `count` layers: sliding windows, but full attention in
    every `period`-th layer."""
    return [
        "full_attention" if (k + 1) % period == 0 else "sliding_attention" for k in range(count)
    ]
