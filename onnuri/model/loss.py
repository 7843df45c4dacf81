"""The one loss, of what trains and of what is traced: the next token, its sum and its weight apart.

Sums and weights are reduced apart, over micro-batches and data ranks, and divided once, so that how
a step's rows are dealt out changes nothing. A target is scored among the ids of its candidate set:
all ids for a language model alone, the ids that decoding would choose from for a model of several
media (a slot's field, a sound's codes, text). Logits of a large vocabulary never stand in memory
together (`cross_entropy.py`). Nothing here waits for a device: which target belongs to which set is
known on the host, before the row is moved.

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
from onnuri.model.token_layout import CandidateSet


class LossParts(NamedTuple):
    """A loss before it is divided: micro-batches' and ranks' sums and weights are added apart."""

    sum: Tensor
    """of weight x loss over targets [], differentiable"""
    weight: Tensor | float
    """of all targets together []; a number where every batch weighs the same, so that ranks need
    not ask each other"""
    by_modality: Tensor | None = None
    """[M, 2]: sum and weight of each modality's targets, without gradient"""

    @property
    def mean(self) -> Tensor:
        """Return the loss of this batch alone []."""
        return self.sum / self.weight


class TargetGroup(NamedTuple):
    """The targets of a row that are scored in one candidate set."""

    candidates: CandidateSet
    rows: Tensor
    """int64 [N]: positions of the hidden states that foretell them"""
    labels: Tensor
    """int64 [N]: places of the targets in the set"""
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
    """Sort the targets of a packed row by candidate set, on the host: ids, weights and modality ids
    [T] of a row.

    Targets without weight are left out. `ordinal_weight`: factor of targets whose codes are in
    order; the loss's divisor leaves it out.
    """
    targets, weights, modality_ids = ids[1:], weights[1:], modality_ids[1:]
    groups = []
    counted = torch.nonzero(weights > 0)[:, 0]
    set_of = _owners(sets)[targets[counted]]
    for k, each in enumerate(sets):
        rows = counted[set_of == k]
        if not len(rows):
            continue
        labels = targets[rows] - each.lo
        if each.extra is not None:
            labels = torch.where(targets[rows] == each.extra, each.hi - each.lo, labels)
        factor = ordinal_weight if each.label_smoothing_sigma else 1.0
        groups.append(TargetGroup(each, rows, labels, weights[rows] * factor, modality_ids[rows]))
    return groups


@functools.cache
def _owners(sets: tuple[CandidateSet, ...]) -> Tensor:
    """Return the place in `sets` of the one that each id is scored in, int64 [V]; -1 for an id of
    none."""
    owners = torch.full((max(each.hi for each in sets),), -1)
    for k, each in enumerate(sets):
        owners[each.lo : each.hi] = k
    for k, each in enumerate(sets):  # an extra id competes in the set that names it, not in its own
        if each.extra is not None:
            owners[each.extra] = k
    return owners


def grouped_loss(
    hidden: Tensor,
    table: Tensor,
    sets: Sequence[CandidateSet],
    groups: Sequence[TargetGroup],
    weight: Tensor | float,
    modalities: int,
    soft: bool = False,
) -> LossParts:
    """Return the loss of hidden states [T, C] with a head's weights [V, C], every target scored in
    its own set.

    `soft`: a target whose codes are in order is a distribution over its neighbours too, so that
    what is learned of one code serves those beside it.
    """
    # one split, not a slice a set: the gradient of a slice is a whole table of zeros; what fills
    # the table up comes last
    sizes = [each.hi - each.lo for each in sets]
    parts = table.split([*sizes, len(table) - sum(sizes)])
    slices = dict(zip((each.lo for each in sets), parts[: len(sets)], strict=True))
    kind = (
        torch.float64 if hidden.dtype == torch.float64 else torch.float32
    )  # sums of 16 bits stop growing
    total = torch.zeros((), dtype=kind, device=hidden.device)
    by_modality = torch.zeros(modalities, 2, dtype=kind, device=hidden.device)
    if (
        not groups
    ):  # nothing to learn here, and yet a loss that other ranks' backward passes can wait for
        total = (hidden.sum() + table.sum()) * 0.0
    for group in groups:
        each = group.candidates
        rows = slices[each.lo]
        if each.extra is not None:
            own = next(one for one in sets if one.lo <= each.extra < one.hi)
            rows = torch.cat([rows, slices[own.lo][each.extra - own.lo][None]])
        goal = None
        if soft and each.label_smoothing_sigma:
            goal = soft_targets(
                each.ordered, each.label_smoothing_sigma, each.hi - each.lo, hidden.device
            )
        losses = torch.empty(len(group.rows), dtype=kind, device=hidden.device)
        total = total + cross_entropy(
            hidden[group.rows], rows, group.labels, group.weights, soft=goal, losses=losses
        )
        by_modality.index_add_(
            0, group.modality_ids, torch.stack([losses, group.weights.to(kind)], 1)
        )
    return LossParts(total, weight, by_modality)


@functools.cache
def soft_targets(
    ordered: int, sigma: float, size: int, device: torch.device | None = None
) -> Tensor:
    """Return what each of `size` codes is as a distribution: row k float32 [size] of the table
    [size, size].

    A normal distribution of a width in codes among the first `ordered`; the others stay as they
    are. Moved to a device once.
    """
    line = torch.arange(ordered, dtype=torch.float64)
    table = torch.eye(size, dtype=torch.float64)
    table[:ordered, :ordered] = torch.exp(-0.5 * ((line - line[:, None]) / sigma) ** 2)
    return (table / table.sum(1, keepdim=True)).float().to(device)


def next_token_loss(model: nn.Module, ids: Tensor) -> LossParts:
    """Return the loss of all targets of sequences [B, T], each scored among all ids.

    Its shapes do not follow from values, so it can be traced without any. A head that tensor
    parallelism cuts gathers all logits.
    """
    whole: Any = model
    table, weight = head(model), float(ids.numel() - len(ids))
    if isinstance(table, DTensor):
        mean: Tensor = whole(input_ids=ids, labels=ids, use_cache=False).loss
        return LossParts(mean * weight, weight)
    hidden = whole.model(input_ids=ids, use_cache=False).last_hidden_state
    weights = torch.full(ids.shape, 1.0, device=ids.device)
    weights[:, -1] = 0.0  # nothing is known to follow
    return LossParts(
        cross_entropy(hidden.flatten(0, 1), table, ids.roll(-1, 1).flatten(), weights.flatten()),
        weight,
    )
