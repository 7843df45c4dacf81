"""What a model of several media is trained on: sequences as ids with weights, packed into rows.

Every target is scored only among the ids that generation would choose from (`loss.py`): generation
never leaves a slot's field or a modality's codes, so the head need not score the others, and the loss
is that of a modality at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnuri.data.pack import PackedRow, PackedSequence, pack
from onnuri.data.segment import Segment, SequenceSource
from onnuri.inference.hf_forward import head
from onnuri.modality import MEDIA
from onnuri.model.backbone import embedding, hidden_states
from onnuri.model.balance import Balance
from onnuri.model.loss import LossParts, grouped_loss, target_groups
from onnuri.model.token_layout import CandidateSet, TokenLayout

Weighted = tuple[list[int], list[float]]
"""ids, and the weight in the loss of predicting each"""
Split = Callable[[np.ndarray], list[np.ndarray]]
"""text codes to the codes of each word"""


def sequence_ids(segments: list[Segment], layout: TokenLayout, split: Split) -> PackedSequence:
    """`<bos> … <eos>` of segments, the weight in the loss of predicting each id, and the index of
    its modality in MEDIA."""
    ids, weights, media = [layout.special("<bos>")], [0.0], [0]
    for s in segments:
        asked = layout.task(s.task)
        ids += asked
        weights += [0.0] * len(asked)
        media += [0] * len(asked)
        more, counts = _spoken(s, layout, split) if s.words else _item(s, layout)
        ids += more
        weights += counts
        media += [MEDIA.index(layout.modality(s.codec))] * len(more)
    return [*ids, layout.special("<eos>")], [*weights, 0.05], [*media, media[-1]]


def _item(s: Segment, layout: TokenLayout) -> Weighted:
    """A segment's codes between its boundaries."""
    slots, opening = layout.spec(s.codec).slots, layout.opening(s.codec, s.language)
    weights = [0.05, s.weight][: len(opening)]  # the language is told apart with the item
    weights += [s.weight * w for w in slots.weights] if slots else [s.weight] * len(s.codes)
    return layout.segment(s.codec, s.codes, s.language), [*weights, 0.05 if slots else s.weight]


def _spoken(s: Segment, layout: TokenLayout, split: Split) -> Weighted:
    """The model's own speech: every word before its sound. Words are given; sounds and where they
    end are foretold."""
    assert s.words and s.language
    words, frames = split(s.words.codes), s.words.frames_per_word
    assert len(words) == len(frames), (len(words), len(frames))
    ids = layout.spoken(words, np.split(s.codes, np.cumsum(frames)[:-1]), s.language)
    weights = [0.0, 0.0]
    for word, count in zip(words, frames, strict=True):
        weights += [0.0] * len(word) + [s.weight] * (int(count) + 1)
    return ids, [*weights, 0.0]


def omni_loss(
    model: nn.Module,
    sets: tuple[CandidateSet, ...],
    row: PackedRow,
    soft: bool = False,
    ordinal_weight: float = 1.0,
) -> LossParts:
    """Return the loss of a packed row, every target scored in its candidate set, on the model's
    device.

    `soft`: targets whose codes are in order are spread over their neighbours. `ordinal_weight`:
    their weight, which the loss's divisor leaves out.
    """
    groups = target_groups(sets, row.ids[0], row.weights[0], row.modality_ids[0], ordinal_weight)
    device = embedding(model).device
    weight = row.weight.to(device, non_blocking=True)
    hidden = hidden_states(model, *row.to(device))[0, :-1]
    return grouped_loss(
        hidden, head(model), sets, [group.to(device) for group in groups], weight, len(MEDIA), soft
    )


class OmniObjective:
    """Trains a backbone on the sequences of a source, in rows of a fixed length."""

    def __init__(
        self,
        module: nn.Module,
        layout: TokenLayout,
        source: SequenceSource,
        split: Split,
        tokens: int = 2048,
        seed: int = 0,
        soft: bool = False,
        ordinal_weight: float = 1.0,
    ) -> None:
        """`soft`, `ordinal_weight`: as `omni_loss` takes them."""
        self.module, self.layout, self.source, self.split = module, layout, source, split
        self.soft, self.ordinal_weight = soft, ordinal_weight
        self.tokens, self.seed, self.balance = tokens, seed, Balance(module)
        self.sets = tuple(layout.candidate_sets())

    def batch(self, step: int) -> PackedRow:
        """Return a row of `tokens` ids: a pure function of the step."""
        rng = np.random.default_rng([self.seed, step])
        return pack(
            lambda: sequence_ids(self.source.sample(rng), self.layout, self.split),
            self.tokens,
            self.layout.special("<pad>"),
        )

    def weight(self, batch: PackedRow) -> Tensor:
        """Return the weight of all targets of a row []."""
        return batch.weight

    def watching(self) -> AbstractContextManager[None]:
        """Count the experts' loads while this lasts: a step's forward and backward passes."""
        return self.balance.watching()

    def after_step(self, norm: Tensor) -> None:
        """Even out the experts' loads, after the optimizer; not where the norm of all gradients []
        is not finite."""
        self.balance.apply(norm)

    def loss(self, batch: PackedRow) -> tuple[LossParts, dict[str, LossParts | float]]:
        """Return the loss and figures for the log, which leave out what keeps experts busy: some
        families have none of it."""
        tokens = batch.ids.numel() - batch.padding
        self.balance.tokens = tokens
        parts = omni_loss(self.module, self.sets, batch, self.soft, self.ordinal_weight)
        present = (
            batch.modality_ids[0, 1:][batch.weights[0, 1:] > 0].unique().tolist()
        )  # on the host: what a row has is known
        assert parts.by_modality is not None
        by_modality = {f"loss_{MEDIA[k]}": LossParts(*parts.by_modality[k]) for k in present}
        whole = LossParts(parts.sum.detach(), parts.weight)
        figures: dict[str, LossParts | float] = {
            **by_modality,
            "loss": whole,
            "tokens": float(tokens),
        }
        return parts._replace(sum=parts.sum + self.balance.loss() * parts.weight), figures


@torch.no_grad()
def start_from_features(
    model: nn.Module, layout: TokenLayout, codecs: dict[str, Any], seed: int = 0
) -> None:
    """Codes that say alike begin alike: rows = features × a random matrix + noise, at the
    embedding's own scale."""
    table = embedding(model)
    scale = float(table.std())
    draw = torch.Generator().manual_seed(seed)
    owners = {spec.codebook: codecs[spec.name] for spec in layout.codecs}
    for codebook in layout.ranges:
        features = owners[codebook].code_features()
        if features is None:
            continue
        mixed = features @ torch.randn(features.shape[1], table.shape[1], generator=draw)
        mixed = mixed / mixed.std(1, keepdim=True).clamp_min(1e-3)
        lo, hi = layout.span(codebook)
        table[lo:hi] = scale * (0.85 * mixed + 0.5 * torch.randn(mixed.shape, generator=draw))
