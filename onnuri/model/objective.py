"""This module trains a model of several modalities: it writes sequences as ids with loss weights,
packs them into rows and computes their loss.

Every target is scored only among the ids that generation would choose from (`loss.py`): generation
never leaves a slot's field or a modality's codes, so the head need not score the others, and the
loss per modality follows from the same sums.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from onnuri.data.loader import RowSource
from onnuri.data.pack import PackedRow, PackedSequence, pack
from onnuri.data.segment import Segment, SequenceSource
from onnuri.inference.hf_forward import head
from onnuri.modality import MEDIA
from onnuri.model.backbone import compute_device, embedding, hidden_states
from onnuri.model.balance import Balance
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.digit_table import shared_codes
from onnuri.model.loss import LossParts, grouped_loss, target_groups
from onnuri.model.token_layout import CandidateSet, TokenLayout

Weighted = tuple[list[int], list[float]]
"""ids, and the loss weight of predicting each"""
Split = Callable[[np.ndarray], list[np.ndarray]]
"""function that splits text codes int64 [K] into those of each word"""


def sequence_ids(segments: list[Segment], layout: TokenLayout, split: Split) -> PackedSequence:
    """Return the ids `<bos> … <eos>` of a sequence's segments, the loss weight of predicting each
    id, and the index of each id's modality in MEDIA."""
    ids, weights, media = [layout.special("<bos>")], [0.0], [0]
    for s in segments:
        task = layout.task(s.task)
        ids += task
        weights += [0.0] * len(task)
        media += [0] * len(task)
        more, counts = _speech_ids(s, layout, split) if s.words else _item_ids(s, layout)
        ids += more
        weights += counts
        media += [MEDIA.index(layout.modality(s.codec))] * len(more)
    return [*ids, layout.special("<eos>")], [*weights, 0.05], [*media, media[-1]]


def _item_ids(s: Segment, layout: TokenLayout) -> Weighted:
    """Return a segment's ids from its opening to its closing token, and the loss weight of each."""
    slots, opening = layout.spec(s.codec).slots, layout.opening(s.codec, s.language)
    weights = [0.05, s.weight][: len(opening)]  # an opening with a language has two tokens
    weights += [s.weight * w for w in slots.weights] if slots else [s.weight] * len(s.codes)
    return layout.segment(s.codec, s.codes, s.language), [*weights, 0.05 if slots else s.weight]


def _speech_ids(s: Segment, layout: TokenLayout, split: Split) -> Weighted:
    """Return the ids of speech as the model generates it, every word's text before its sound, and
    the loss weight of each: 0 for text, which generation forces, the segment's for sounds and the
    tokens that end them."""
    assert s.words and s.language
    words, frames = split(s.words.codes), s.words.frames_per_word
    assert len(words) == len(frames), (len(words), len(frames))
    ids = layout.spoken(words, np.split(s.codes, np.cumsum(frames)[:-1]), s.language)
    weights = [0.0, 0.0]
    for word, count in zip(words, frames, strict=True):
        weights += [0.0] * len(word) + [s.weight] * (int(count) + 1)
    return ids, [*weights, 0.0]


def row_loss(model: nn.Module, row: PackedRow) -> LossParts:
    """Return the loss of a packed row, every target scored among all ids, on the model's device."""
    device = compute_device(model)
    weights = row.weights[0, 1:].to(device, non_blocking=True)
    targets = row.ids[0, 1:].to(device, non_blocking=True)
    hidden = hidden_states(model, *row.to(device))[0, :-1]
    total = cross_entropy(hidden, whole_head(model), targets, weights)
    return LossParts(total, row.weight.to(device, non_blocking=True))


def whole_head(model: nn.Module) -> Tensor:
    """Return the output projection [vocabulary, C] of a model, gathered over its tensor-parallel
    ranks: each of them then computes the same loss of the same hidden states."""
    table = head(model)
    return table.full_tensor() if isinstance(table, DTensor) else table


def omni_loss(
    model: nn.Module,
    sets: tuple[CandidateSet, ...],
    row: PackedRow,
    soft: bool = False,
    ordinal_weight: float = 1.0,
) -> LossParts:
    """Return the loss of a packed row, every target scored in its candidate set, on the model's
    device.

    With `soft`, ordinal targets are distributed over their neighbours. `ordinal_weight` multiplies
    their weights, which the loss's divisor leaves out.
    """
    groups = target_groups(sets, row.ids[0], row.weights[0], row.modality_ids[0], ordinal_weight)
    device = compute_device(model)
    weight = row.weight.to(device, non_blocking=True)
    hidden = hidden_states(model, *row.to(device))[0, :-1]
    shared = shared_codes(model)
    return grouped_loss(
        hidden,
        whole_head(model) if shared is None else shared.plain,
        sets,
        [group.to(device) for group in groups],
        weight,
        len(MEDIA),
        soft,
        shared,
    )


class RowObjective:
    """A RowObjective trains a causal language model on packed rows, each target scored among all
    ids."""

    def __init__(self, module: nn.Module, rows: RowSource) -> None:
        """Build the objective of a model `module` of transformers on a source of rows."""
        self.module, self.rows, self.balance = module, rows, Balance(module)

    def batch(self, step: int) -> PackedRow:
        """Return row number `step`."""
        row: PackedRow = self.rows.row(step)
        return row

    def weight(self, batch: PackedRow) -> Tensor:
        """Return the sum [] of the loss weights of a row's targets."""
        return batch.weight

    def sequence_lengths(self, batch: PackedRow) -> Tensor:
        """Return the tokens of each sequence [sequences] of a row, without its padding."""
        return batch.lengths[:-1] if batch.padding else batch.lengths

    def watching(self) -> AbstractContextManager[None]:
        """Return a context that counts experts' loads, to span a step's forward and backward
        passes."""
        return self.balance.watching()

    def after_step(self, norm: Tensor) -> None:
        """Move the routers' biases towards even loads after the optimizer's update, unless the
        gradient norm [] is not finite."""
        self.balance.apply(norm)

    def loss(self, batch: PackedRow) -> tuple[LossParts, dict[str, LossParts | float]]:
        """Return a row's loss, and figures for the log: loss and number of tokens.

        The figures leave out the loss that balances experts, for some families have none.
        """
        tokens = batch.ids.numel() - batch.padding
        self.balance.start_row(tokens)
        parts = self.parts(batch)
        figures: dict[str, LossParts | float] = {
            "loss": LossParts(parts.sum.detach(), parts.weight),
            "tokens": float(tokens),
        }
        return parts._replace(sum=parts.sum + self.balance.loss() * parts.weight), figures

    def parts(self, batch: PackedRow) -> LossParts:
        """Return a row's next-token loss, without the loss that balances experts."""
        return row_loss(self.module, batch)


class OmniObjective(RowObjective):
    """An OmniObjective trains a backbone on the sequences of a source, in rows of a fixed
    length."""

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
        """Build the objective of a causal language model `module`; a row has `tokens` ids.

        `split` splits text codes into words; `soft` and `ordinal_weight` are those of `omni_loss`.
        """
        super().__init__(module, self)
        self.layout, self.source, self.split = layout, source, split
        self.soft, self.ordinal_weight = soft, ordinal_weight
        self.tokens, self.seed = tokens, seed
        self.sets = tuple(layout.candidate_sets())

    def row(self, index: int) -> PackedRow:
        """Return packed row number `index`, `tokens` ids long, a pure function of the number."""
        rng = np.random.default_rng([self.seed, index])
        return pack(
            lambda: sequence_ids(self.source.sample(rng), self.layout, self.split),
            self.tokens,
            self.layout.special("<pad>"),
        )

    def parts(self, batch: PackedRow) -> LossParts:
        """Return a row's loss, every target scored in its candidate set."""
        return omni_loss(self.module, self.sets, batch, self.soft, self.ordinal_weight)

    def loss(self, batch: PackedRow) -> tuple[LossParts, dict[str, LossParts | float]]:
        """Return a row's loss, and figures for the log: loss, loss per modality, number of
        tokens."""
        parts, figures = super().loss(batch)
        # on the host, so that no device is waited for
        present = batch.modality_ids[0, 1:][batch.weights[0, 1:] > 0].unique().tolist()
        assert parts.by_modality is not None
        by_modality = {f"loss_{MEDIA[k]}": LossParts(*parts.by_modality[k]) for k in present}
        return parts, {**by_modality, **figures}


@torch.no_grad()
def start_from_features(
    model: nn.Module, layout: TokenLayout, codecs: dict[str, Any], seed: int = 0
) -> None:
    """Initialise the embedding rows of codes in place so that codes with similar features start
    with similar rows.

    Rows are the codec's features times a random matrix plus noise, at the embedding's own scale;
    codebooks without features stay as they are.
    """
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
