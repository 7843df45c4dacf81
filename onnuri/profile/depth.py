"""What a step of many equal layers counts, from steps of few: each further layer adds the same.

Knows no model, layout or tensor's values: it sees a row of layers and what a trace counted
(`trace.py`). A row is cut to 4, 5 and 6 repeats of the unit that repeats (one layer, or a pattern
of several). Whatever a step counts then lies on a line, and so does the most that lives while one
layer runs, if layers are counted from the side that they are near to; the whole row's figures are
where the lines lead. Where they are not lines, exactly, `NotAffine` says so and the whole row must
be traced.
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

from onnuri.profile.trace import Name, Window, fullest

REPEATS = (4, 5, 6)
"""units that are traced: fewer feel both ends of the row at once; the third step shows that the
first two are a line"""
LONGEST_UNIT = 8
"""layers"""
WORTH = 0.6
"""share of the layers above which the whole row is traced: little would be saved"""
_SKIPPED = ("layer_idx", "training")
Call = tuple[str, int, int, str]


class NotAffine(Exception):
    """A figure does not grow by the same with every unit."""


@dataclasses.dataclass(frozen=True)
class LayerPattern:
    """Layers as `before + unit · repeats + after`."""

    before: int
    unit: int
    repeats: int
    after: int = 0

    @property
    def layers(self) -> int:
        """Return how many layers the pattern has."""
        return self.before + self.unit * self.repeats + self.after

    def cut(self, repeats: int) -> LayerPattern:
        """Return the pattern with fewer repeats."""
        return dataclasses.replace(self, repeats=repeats)

    def kept(self, repeats: int) -> list[int]:
        """Return the indices of the layers of this pattern that a shorter one has."""
        return [
            *range(self.before + self.unit * repeats),
            *range(self.layers - self.after, self.layers),
        ]

    def places(self, layer: int) -> list[Name]:
        """Return where a layer is, counted from each end that is near; nowhere within the middle
        units."""
        names: list[Name] = [("first", layer)] if layer < self.before + 2 * self.unit else []
        left = self.layers - layer
        return [*names, ("last", left)] if left <= self.after + 2 * self.unit else names


@dataclasses.dataclass(frozen=True)
class Counted:
    """What one rank's step counts."""

    living: Counter[str]
    """bytes that parameters and optimizer hold"""
    saved: int
    """bytes of activations that are kept for the backward pass"""
    flops: int
    calls: Counter[Call]
    sizes: Tensor
    """parameters that each rank holds [world]"""
    windows: dict[Name, Window]
    """the most that lived, by the part of the step: `marked`'s names"""

    @property
    def peak(self) -> Window:
        """Return the part of the step in which most bytes lived."""
        return fullest(self.windows.values())

    def most(self, kind: str) -> int:
        """Return the most bytes that lived of a kind at any time."""
        return max(window.most[kind] for window in self.windows.values())


def layers_of(network: nn.Module) -> nn.ModuleList:
    """Return the longest list of modules within."""
    return max((m for m in network.modules() if isinstance(m, nn.ModuleList)), key=len)


def row_of(layers: nn.ModuleList) -> LayerPattern | None:
    """Return how the layers repeat; None where tracing fewer of them would save little."""
    likes = [_likeness(layer) for layer in layers]
    count, best = len(likes), None
    for unit in range(1, LONGEST_UNIT + 1):
        for before in range(count - unit):
            end = before + unit
            while end < count and likes[end] == likes[end - unit]:
                end += 1
            repeats = (end - before) // unit
            row = LayerPattern(before, unit, repeats, count - before - unit * repeats)
            traced = sum(row.cut(r).layers for r in REPEATS)
            if (
                repeats > max(REPEATS)
                and traced <= WORTH * count
                and (best is None or traced < best[0])
            ):
                best = traced, row
    return best[1] if best else None


def _likeness(layer: nn.Module) -> Any:
    """Whatever tells one layer's step from another's: its modules, their plain settings, shapes of
    parameters."""
    modules = tuple(
        (
            name,
            type(m),
            tuple(
                sorted(
                    (k, v)
                    for k, v in vars(m).items()
                    if k not in _SKIPPED
                    and not k.startswith("_")
                    and isinstance(v, int | float | str | None)
                )
            ),
        )
        for name, m in layer.named_modules()
    )
    return modules, tuple(
        (name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in layer.named_parameters()
    )


@contextmanager
def marked(layers: nn.ModuleList, begin: Callable[[Name], None]) -> Iterator[None]:
    """Within, `begin` is told ("forward", k) and ("backward", k) as layer k begins, and ("head", 0)
    after the last one."""

    def enter(k: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if not _backward():
                begin(("forward", k))

        return hook

    def leave(k: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if _backward():  # a recomputation
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


def _backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def extend(row: LayerPattern, counted: Sequence[Counted]) -> Counted:
    """Return what the whole row's step counts, from steps of it cut to each of REPEATS. Raises
    NotAffine."""

    def line(values: Sequence[Any]) -> Any:
        a, b, c = values
        if bool(torch.any(torch.as_tensor(b - a != c - b))):
            raise NotAffine(f"{values}")
        return a + (b - a) * (row.repeats - REPEATS[0])

    def every(counters: Sequence[Counter[Any]]) -> Counter[Any]:
        keys = set(counters[0])
        if any(set(c) != keys for c in counters):
            raise NotAffine("other kinds of calls or bytes")
        return Counter({k: line([c[k] for c in counters]) for k in keys})

    placed = [_placed(row.cut(r), c.windows) for r, c in zip(REPEATS, counted, strict=True)]
    if any(set(p) != set(placed[0]) for p in placed):
        raise NotAffine("other parts of a step")
    _middle(row.cut(REPEATS[-1]), counted[-1].windows)
    windows = {
        name: Window(
            every([p[name].most for p in placed]), every([p[name].at_peak for p in placed])
        )
        for name in placed[0]
    }
    return Counted(
        living=every([c.living for c in counted]),
        saved=line([c.saved for c in counted]),
        flops=line([c.flops for c in counted]),
        calls=every([c.calls for c in counted]),
        sizes=line([c.sizes for c in counted]),
        windows=windows,
    )


def _placed(row: LayerPattern, windows: dict[Name, Window]) -> dict[Name, Window]:
    """Windows by where their layer is, seen from the ends."""
    placed: dict[Name, Window] = {}
    for name, window in windows.items():
        if name[0] not in ("forward", "backward"):
            placed[name] = window
            continue
        for side, k in row.places(name[1]):
            placed[f"{name[0]} {side}", k] = window
    return placed


def _middle(row: LayerPattern, windows: dict[Name, Window]) -> None:
    """Raises NotAffine where a middle unit is not halfway between its neighbours, so that no line
    leads past it."""
    for phase in ("forward", "backward"):
        for layer in range(row.before + 2 * row.unit, row.layers - row.after - 2 * row.unit):
            one, two, three = (windows[phase, layer + step * row.unit] for step in (-1, 0, 1))
            if 2 * two.peak != one.peak + three.peak:
                raise NotAffine(f"{phase} of layer {layer}")
