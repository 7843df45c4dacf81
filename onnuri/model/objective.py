"""The one loss: next token, every target scored only among the ids that generation would choose from.

Generation never leaves a grid's field or a medium's codes, so the head need not score the others: a softmax over a
slice of the tied embedding is cheaper, and is the loss of a medium at the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from onnuri.data.mix import Mixer, Segment
from onnuri.data.pack import Sequence, pack
from onnuri.decoding.stock import head
from onnuri.modality import MEDIA
from onnuri.model.backbone import embedding, hidden_states
from onnuri.model.balance import Balance
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.token_layout import TokenLayout

Weighted = tuple[list[int], list[float]]
"""ids, and the weight in the loss of predicting each"""
Split = Callable[[np.ndarray], list[np.ndarray]]
"""text codes to the codes of each word"""


def sequence_ids(segments: list[Segment], layout: TokenLayout, split: Split) -> Sequence:
    """`<bos> … <eos>` of segments, the weight in the loss of predicting each id, and the index of its medium in MEDIA."""
    ids, weights, media = [layout.special("<bos>")], [0.0], [0]
    for s in segments:
        asked = layout.task(s.task)
        ids += asked
        weights += [0.0] * len(asked)
        media += [0] * len(asked)
        more, counts = _spoken(s, layout, split) if s.words else _item(s, layout)
        ids += more
        weights += counts
        media += [MEDIA.index(s.medium)] * len(more)
    return [*ids, layout.special("<eos>")], [*weights, 0.05], [*media, media[-1]]


def _item(s: Segment, layout: TokenLayout) -> Weighted:
    """A segment's codes between its boundaries."""
    slots, opening = layout.spec(s.medium).slots, layout.opening(s.medium, s.language)
    weights = [0.05, s.weight][: len(opening)]  # the language is told apart with the item
    weights += [s.weight * w for w in slots.weights] if slots else [s.weight] * len(s.codes)
    return layout.segment(s.medium, s.codes, s.language), [*weights, 0.05 if slots else s.weight]


def _spoken(s: Segment, layout: TokenLayout, split: Split) -> Weighted:
    """The model's own speech: every word before its sound. Words are given; sounds and where they end are foretold."""
    assert s.words and s.language
    words, beats = split(s.words.codes), s.words.beats
    assert len(words) == len(beats), (len(words), len(beats))
    ids = layout.spoken(words, np.split(s.codes, np.cumsum(beats)[:-1]), s.language)
    weights = [0.0, 0.0]
    for word, count in zip(words, beats, strict=True):
        weights += [0.0] * len(word) + [s.weight] * (int(count) + 1)
    return ids, [*weights, 0.0]


@functools.cache
def soft_targets(ordered: int, spread: float, size: int) -> Tensor:
    """Row k: what a target k is as a distribution over `size` codes, a normal one of a width in codes among the first
    `ordered`; the others stay as they are. float32 [size, size]."""
    line = torch.arange(ordered, dtype=torch.float64)
    table = torch.eye(size, dtype=torch.float64)
    table[:ordered, :ordered] = torch.exp(-0.5 * ((line - line[:, None]) / spread) ** 2)
    return (table / table.sum(1, keepdim=True)).float()


def omni_loss(model: nn.Module, layout: TokenLayout, batch: dict[str, Tensor],
              soft: bool = False, place: float = 1.0) -> tuple[Tensor, dict[str, float]]:
    """Weighted mean over all targets, and that of each medium's.

    `soft`: a target whose codes are in order (a place, a side) is a distribution over its neighbours too, and its loss
    the divergence from it, so that what is learned of one code serves those beside it. `place`: such targets' weight,
    which the mean's divisor leaves out.
    """
    ids = batch["ids"]
    hidden = hidden_states(model, ids, batch["positions"], batch["lengths"])[0, :-1]
    targets, weights, media = ids[0, 1:], batch["weights"][0, 1:], batch["kinds"][0, 1:]
    total = hidden.new_zeros(())
    sums, shares = hidden.new_zeros(len(MEDIA)), hidden.new_zeros(len(MEDIA))
    choices = layout.candidate_sets()
    # one split, not a slice a choice: the gradient of a slice is a whole table of zeros
    tables = head(model).split([c.hi - c.lo for c in choices])
    extras = [c.extra for c in choices if c.extra is not None]
    for choice, table in zip(choices, tables, strict=True):
        chosen = (targets >= choice.lo) & (targets < choice.hi) & (weights > 0)
        for extra in extras:
            chosen = chosen & (targets != extra)
        if choice.extra is not None:
            chosen = chosen | ((targets == choice.extra) & (weights > 0))
        if not chosen.any():
            continue
        states, wanted = hidden[chosen], targets[chosen] - choice.lo
        weight = weights[chosen] * (place if choice.label_smoothing_sigma else 1.0)
        logits = states @ table.T
        if choice.extra is not None:
            logits = torch.cat([logits, states @ tables[0][choice.extra][:, None]], 1)
            wanted = torch.where(targets[chosen] == choice.extra, choice.hi - choice.lo, wanted)
        if soft and choice.label_smoothing_sigma:
            goal = soft_targets(choice.ordered, choice.label_smoothing_sigma, choice.hi - choice.lo)[wanted]
            losses = F.kl_div(logits.log_softmax(1), goal, reduction="none").sum(1) * weight
        else:
            losses = F.cross_entropy(logits, wanted, reduction="none") * weight
        total = total + losses.sum()
        sums.index_add_(0, media[chosen], losses.detach())
        shares.index_add_(0, media[chosen], weight)
    return total / weights.sum(), {f"loss_{m}": float(sums[k] / shares[k]) for k, m in enumerate(MEDIA) if shares[k] > 0}


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean over all targets, each scored among the whole vocabulary, text and media alike: [B, T] ids to []. Its shapes
    do not follow from values, so it can be traced without any. A head that tensor parallelism cuts gathers all logits."""
    whole: Any = model
    table = head(model)
    if isinstance(table, DTensor):
        loss: Tensor = whole(input_ids=ids, labels=ids, use_cache=False).loss
        return loss
    hidden = whole.model(input_ids=ids, use_cache=False).last_hidden_state
    weights = torch.full(ids.shape, 1 / (ids.numel() - len(ids)), device=ids.device)
    weights[:, -1] = 0.0  # nothing is known to follow
    return cross_entropy(hidden.flatten(0, 1), table, ids.roll(-1, 1).flatten(), weights.flatten())


class OmniTask:
    """Trains a backbone on a table's sequences."""

    def __init__(self, module: nn.Module, layout: TokenLayout, mixer: Mixer, split: Split, tokens: int = 2048,
                 seed: int = 0) -> None:
        self.module, self.layout, self.mixer, self.split = module, layout, mixer, split
        self.tokens, self.seed, self.balance = tokens, seed, Balance(module)

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, step])
        return pack(lambda: sequence_ids(self.mixer.draw(rng), self.layout, self.split), self.tokens)

    def watching(self) -> AbstractContextManager[None]:
        """Count the experts' loads while this lasts: a step's forward and backward passes."""
        return self.balance.watching()

    def after_step(self) -> None:
        """Even out the experts' loads, after the optimizer."""
        self.balance.apply()

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss [] and figures for the log, which leave out what keeps experts busy: some families have none of it."""
        mix = self.mixer.settings
        loss, figures = omni_loss(self.module, self.layout, batch, mix.soft, mix.loss_place)
        return loss + self.balance.loss(), {**figures, "loss": float(loss.detach()), "tokens": batch["ids"].numel()}


@torch.no_grad()
def start_from_features(model: nn.Module, layout: TokenLayout, codecs: dict[str, Any], seed: int = 0) -> None:
    """Codes that say alike begin alike: rows = features × a random matrix + noise, at the embedding's own scale."""
    table = embedding(model)
    scale = float(table.std())
    draw = torch.Generator().manual_seed(seed)
    for codebook, codec in (("visual", codecs["video"]), ("audio", codecs["audio"]), ("shape", codecs["shape"])):
        features = codec.code_features()
        mixed = features @ torch.randn(features.shape[1], table.shape[1], generator=draw)
        mixed = mixed / mixed.std(1, keepdim=True).clamp_min(1e-3)
        lo, hi = layout.span(codebook)
        table[lo:hi] = scale * (0.85 * mixed + 0.5 * torch.randn(mixed.shape, generator=draw))
