"""This module computes the next-token loss as a sum and a weight, for training and for the dry run.

Sums and weights are reduced separately over micro-batches and data ranks and divided once, so that
the result does not depend on how a step's rows are distributed. A target is scored among the ids of
its candidate set: all ids for a language model alone, the ids that decoding would choose from for a
model of several modalities (a slot's field, a sound's codes, text). Logits of a large vocabulary
are never in memory together (`cross_entropy.py`). Nothing here waits for a device: targets are
sorted by candidate set on the host, before the row is moved.

B sequences, T tokens, C channels, V ids, N targets of a set, M modalities.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from onnuri.inference.hf_forward import head
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.digit_table import SharedCodes, digit_cross_entropy
from onnuri.model.token_layout import CandidateSet


class LossParts(NamedTuple):
    """A LossParts holds a loss before the division: sums and weights of micro-batches and ranks are
    added separately."""

    sum: Tensor
    """sum [] of weight x loss over targets, differentiable"""
    weight: Tensor | float
    """sum [] of all targets' weights; a number if every batch has the same weight, so that ranks
    need no collective"""
    by_modality: Tensor | None = None
    """[M, 2]: sum and weight of each modality's targets, without gradient"""

    @property
    def mean(self) -> Tensor:
        """Return the loss of this batch alone []."""
        return self.sum / self.weight


class TargetGroup(NamedTuple):
    """A TargetGroup holds a row's N targets that are scored in one candidate set."""

    candidates: CandidateSet
    rows: Tensor
    """int64 [N]: positions of the hidden states that predict the targets"""
    labels: Tensor
    """int64 [N]: indices of the targets in the candidate set"""
    weights: Tensor
    """float32 [N]"""
    modality_ids: Tensor
    """int64 [N]"""

    def to(self, device: torch.device) -> TargetGroup:
        """Return the group on a device, without waiting for the copy."""
        moved = (tensor.to(device, non_blocking=True) for tensor in self[1:])
        return TargetGroup(self.candidates, *moved)


def target_groups(
    sets: tuple[CandidateSet, ...],
    ids: Tensor,
    weights: Tensor,
    modality_ids: Tensor,
    ordinal_weight: float = 1.0,
) -> list[TargetGroup]:
    """Return a packed row's targets grouped by candidate set, on the host.

    `ids`, `weights` and `modality_ids` are [T]. Targets of weight 0 are left out. The weights of
    ordinal targets are multiplied by `ordinal_weight`, which the loss's divisor leaves out.
    """
    targets, weights, modality_ids = ids[1:], weights[1:], modality_ids[1:]
    groups = []
    positions = torch.nonzero(weights > 0)[:, 0]
    set_indices = _set_indices(sets)[targets[positions]]
    for k, candidates in enumerate(sets):
        rows = positions[set_indices == k]
        if not len(rows):
            continue
        labels, extra = targets[rows] - candidates.lo, candidates.extra
        if extra is not None:
            labels = torch.where(targets[rows] == extra, candidates.hi - candidates.lo, labels)
        factor = ordinal_weight if candidates.label_smoothing_sigma else 1.0
        groups.append(
            TargetGroup(candidates, rows, labels, weights[rows] * factor, modality_ids[rows])
        )
    return groups


@functools.cache
def _set_indices(sets: tuple[CandidateSet, ...]) -> Tensor:
    """Return the index in `sets` of the set in which each id is scored, int64 [V]; -1 for none."""
    indices = torch.full((max(each.hi for each in sets),), -1)
    for k, each in enumerate(sets):
        indices[each.lo : each.hi] = k
    for k, each in enumerate(sets):  # an extra id competes in the set that names it, not in its own
        if each.extra is not None:
            indices[each.extra] = k
    return indices


def grouped_loss(
    hidden: Tensor,
    table: Tensor,
    sets: Sequence[CandidateSet],
    groups: Sequence[TargetGroup],
    weight: Tensor | float,
    modalities: int,
    soft: bool = False,
    shared: SharedCodes | None = None,
) -> LossParts:
    """Return the loss of hidden states [T, C] with a head's weights `table` [V, C], each target
    scored in its candidate set.

    `weight` is the divisor, `modalities` the number M of modality ids. With `soft`, the target
    distribution of an ordinal code includes its neighbours, so that what is learned for one code
    serves those next to it. The set of codes that share their rows, if any do, is scored by
    `shared`, and `table` holds the other rows alone.
    """
    # one split, not a slice per set: the gradient of a slice is a whole table of zeros. The rows
    # behind the last set are padding
    own = [each for each in sets if shared is None or each.lo != shared.start]
    sizes = [each.hi - each.lo for each in own]
    parts = table.split([*sizes, len(table) - sum(sizes)])
    slices = dict(zip((each.lo for each in own), parts[: len(own)], strict=True))
    # sums in 16 bits stop growing
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    total = torch.zeros((), dtype=dtype, device=hidden.device)
    by_modality = torch.zeros(modalities, 2, dtype=dtype, device=hidden.device)
    if not groups:
        # a rank without targets still needs a loss, for other ranks' backward passes wait for its
        total = (hidden.sum() + table.sum()) * 0.0
    for group in groups:
        candidates = group.candidates
        losses = torch.empty(len(group.rows), dtype=dtype, device=hidden.device)
        sums = (group.modality_ids, losses, group.weights.to(dtype))
        if shared is not None and candidates.lo == shared.start:
            states, weights = hidden[group.rows], sums[2]
            total = total + digit_cross_entropy(states, shared, group.labels, weights, losses)
            _add(by_modality, *sums)
            continue
        head_rows, extra = slices[candidates.lo], candidates.extra
        if extra is not None:
            owner = next(each for each in sets if each.lo <= extra < each.hi)
            head_rows = torch.cat([head_rows, slices[owner.lo][extra - owner.lo][None]])
        goal, sigma = None, candidates.label_smoothing_sigma
        if soft and sigma:
            size = candidates.hi - candidates.lo
            goal = soft_targets(candidates.ordered, sigma, size, hidden.device)
        total = total + cross_entropy(
            hidden[group.rows], head_rows, group.labels, group.weights, soft=goal, losses=losses
        )
        _add(by_modality, *sums)
    return LossParts(total, weight, by_modality)


def _add(by_modality: Tensor, modality_ids: Tensor, losses: Tensor, weights: Tensor) -> None:
    """Add targets' losses [N] and weights [N] to their modalities' in place."""
    by_modality.index_add_(0, modality_ids, torch.stack([losses, weights], 1))


@functools.cache
def soft_targets(
    ordered: int, sigma: float, size: int, device: torch.device | None = None
) -> Tensor:
    """Return the target distribution of each of `size` codes, float32 [size, size], one per row.

    For the first `ordered` codes it is a normal distribution with a standard deviation of `sigma`
    codes; for the others one-hot. The table is cached per device.
    """
    line = torch.arange(ordered, dtype=torch.float64)
    table = torch.eye(size, dtype=torch.float64)
    table[:ordered, :ordered] = torch.exp(-0.5 * ((line - line[:, None]) / sigma) ** 2)
    return (table / table.sum(1, keepdim=True)).float().to(device)


def next_token_loss(model: nn.Module, ids: Tensor) -> LossParts:
    """Return the loss of all next tokens of sequences [B, T], each scored among all ids.

    No shape depends on values, so it can be traced with fake tensors. With a head that tensor
    parallelism shards, all logits are gathered.
    """
    whole: Any = model
    table, weight = head(model), float(ids.numel() - len(ids))
    if isinstance(table, DTensor):
        mean: Tensor = whole(input_ids=ids, labels=ids, use_cache=False).loss
        return LossParts(mean * weight, weight)
    hidden = whole.model(input_ids=ids, use_cache=False).last_hidden_state
    weights = torch.full(ids.shape, 1.0, device=ids.device)
    weights[:, -1] = 0.0  # the last token has no next one
    return LossParts(
        cross_entropy(hidden.flatten(0, 1), table, ids.roll(-1, 1).flatten(), weights.flatten()),
        weight,
    )
