"""This module extrapolates what a traced step counts from a network of few layers to one of many
equal layers, since each further layer adds the same.

It knows no model, no layout and no tensor's values: it sees a list of layers and what a trace
counted (`trace.py`). The network is cut to 4, 5 and 6 repeats of the unit that repeats (one layer,
or a pattern of several). Every figure of a step then lies on a line, and so do the most bytes that
live while one layer runs, if layers are numbered from the end that they are near to; the lines are
followed to the whole network. If three figures are not exactly on a line, `NotAffine` is raised and
the whole network must be traced.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from onnuri.model.balance import in_backward
from onnuri.model.layers import layer_signature
from onnuri.profile.trace import Name, Window, largest_window

REPEATS = (4, 5, 6)
"""repeats of the unit in the three traced networks: with fewer, a layer is near both ends at once;
the third network shows that the figures are on a line"""
LONGEST_UNIT = 8
"""most layers of a unit that is looked for"""
LARGEST_TRACED_SHARE = 0.6
"""largest share of the layers that the three cut networks may have together; above it the whole
network is traced, since little time would be saved"""
Call = tuple[str, int, int, str]
"""(name, ranks, bytes, group) of a collective's call"""


class NotAffine(Exception):
    """A NotAffine reports that a figure does not grow by the same with every further unit."""


@dataclasses.dataclass(frozen=True)
class LayerPattern:
    """A LayerPattern describes a network's layers as `before + unit · repeats + after`, each a
    number of layers."""

    before: int
    unit: int
    repeats: int
    after: int = 0

    @property
    def layers(self) -> int:
        """Return the number of layers of the whole pattern."""
        return self.before + self.unit * self.repeats + self.after

    def cut(self, repeats: int) -> LayerPattern:
        """Return the pattern with another number of repeats."""
        return dataclasses.replace(self, repeats=repeats)

    def layers_of_cut(self, repeats: int) -> list[int]:
        """Return the indices of the layers that remain when the pattern is cut to some repeats."""
        return [
            *range(self.before + self.unit * repeats),
            *range(self.layers - self.after, self.layers),
        ]

    def end_positions(self, layer: int) -> list[Name]:
        """Return a layer's number from each end of the network that is near, ("first", k) or
        ("last", k); an empty list for a layer in the middle units.

        Layers of networks of different depth correspond if they have such a number in common.
        """
        names: list[Name] = [("first", layer)] if layer < self.before + 2 * self.unit else []
        left = self.layers - layer
        return [*names, ("last", left)] if left <= self.after + 2 * self.unit else names


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """A StepCounts holds what one rank's training step counts: bytes, FLOPs and collectives."""

    living: Counter[str]
    """bytes that live between steps, by kind: parameters and optimizer state"""
    saved: int
    """bytes of activations that live when the backward pass begins"""
    flops: int
    calls: Counter[Call]
    """number of calls per kind of collective"""
    sizes: Tensor
    """number of parameters that each rank holds, int64 [world]"""
    windows: dict[Name, Window]
    """the most bytes that lived, by part of the step, as `mark_layers` names them"""

    @property
    def peak(self) -> Window:
        """Return the window of the part of the step in which most bytes lived."""
        return largest_window(self.windows.values())

    def most(self, kind: str) -> int:
        """Return the most bytes of a kind that lived at any time of the step."""
        return max(window.most[kind] for window in self.windows.values())


def find_pattern(layers: nn.ModuleList) -> LayerPattern | None:
    """Return the pattern in which the layers repeat that needs the fewest traced layers; None if
    tracing a part of them would save little."""
    signatures = [layer_signature(layer) for layer in layers]
    count, best = len(signatures), None
    for unit in range(1, LONGEST_UNIT + 1):
        for before in range(count - unit):
            end = before + unit
            while end < count and signatures[end] == signatures[end - unit]:
                end += 1
            repeats = (end - before) // unit
            row = LayerPattern(before, unit, repeats, count - before - unit * repeats)
            traced_layers = sum(row.cut(r).layers for r in REPEATS)
            if (
                repeats > max(REPEATS)
                and traced_layers <= LARGEST_TRACED_SHARE * count
                and (best is None or traced_layers < best[0])
            ):
                best = traced_layers, row
    return best[1] if best else None


@contextmanager
def mark_layers(layers: nn.ModuleList, begin: Callable[[Name], None]) -> Iterator[None]:
    """Call `begin` at each part of the steps that run in this context: with ("forward", k) and
    ("backward", k) when layer k begins, and ("head", 0) after the last layer."""

    def enter(k: int) -> Callable[..., None]:
        """Return the hook that runs before layer k's forward pass."""

        def hook(*_: Any) -> None:
            if not in_backward():  # not a recomputation
                begin(("forward", k))

        return hook

    def leave(k: int) -> Callable[..., None]:
        """Return the hook that runs after layer k's forward pass; its output's gradient begins the
        layer's backward pass."""

        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if in_backward():  # a recomputation
                return
            if k == len(layers) - 1:
                begin(("head", 0))
            hidden = next(t for t in tree_leaves(out) if isinstance(t, Tensor))
            if hidden.requires_grad:
                hidden.register_hook(lambda _: begin(("backward", k)))

        return hook

    handles = [
        h
        for k, layer in enumerate(layers)
        for h in (layer.register_forward_pre_hook(enter(k)), layer.register_forward_hook(leave(k)))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def extrapolate(row: LayerPattern, counted: Sequence[StepCounts]) -> StepCounts:
    """Return what a step of the whole network counts, from what steps of it cut to each of REPEATS
    counted.

    Raises NotAffine if a figure of the three is not on a line.
    """

    def line(values: Sequence[Any]) -> Any:
        """Return the value at the whole network's repeats on the line through three values."""
        a, b, c = values
        if bool(torch.any(torch.as_tensor(b - a != c - b))):
            raise NotAffine(f"{values}")
        return a + (b - a) * (row.repeats - REPEATS[0])

    def lines(counters: Sequence[Counter[Any]]) -> Counter[Any]:
        """Return a counter each of whose values is `line` of those of three counters."""
        keys = set(counters[0])
        if any(set(c) != keys for c in counters):
            raise NotAffine("other kinds of calls or bytes")
        return Counter({k: line([c[k] for c in counters]) for k in keys})

    windows_by_end = [_by_end(row.cut(r), c.windows) for r, c in zip(REPEATS, counted, strict=True)]
    if any(set(p) != set(windows_by_end[0]) for p in windows_by_end):
        raise NotAffine("other parts of a step")
    _check_middle(row.cut(REPEATS[-1]), counted[-1].windows)
    windows = {
        name: Window(
            lines([p[name].most for p in windows_by_end]),
            lines([p[name].at_peak for p in windows_by_end]),
        )
        for name in windows_by_end[0]
    }
    return StepCounts(
        living=lines([c.living for c in counted]),
        saved=line([c.saved for c in counted]),
        flops=line([c.flops for c in counted]),
        calls=lines([c.calls for c in counted]),
        sizes=line([c.sizes for c in counted]),
        windows=windows,
    )


def _by_end(row: LayerPattern, windows: dict[Name, Window]) -> dict[Name, Window]:
    """Return windows under the numbers of their layers from each end of the network that is near,
    so that networks of different depth can be compared; others keep their names."""
    windows_by_end: dict[Name, Window] = {}
    for name, window in windows.items():
        if name[0] not in ("forward", "backward"):
            windows_by_end[name] = window
            continue
        for side, k in row.end_positions(name[1]):
            windows_by_end[f"{name[0]} {side}", k] = window
    return windows_by_end


def _check_middle(row: LayerPattern, windows: dict[Name, Window]) -> None:
    """Raise NotAffine if a middle layer's peak bytes are not the mean of those one unit before and
    after it, for then nothing can be said of further units."""
    for phase in ("forward", "backward"):
        for layer in range(row.before + 2 * row.unit, row.layers - row.after - 2 * row.unit):
            one, two, three = (windows[phase, layer + step * row.unit] for step in (-1, 0, 1))
            if 2 * two.peak != one.peak + three.peak:
                raise NotAffine(f"{phase} of layer {layer}")
