"""This module says with which values a class of transformers starts every tensor of a model, box by
box, so that each of many ranks makes the values that it holds and none makes the whole.

    initial = InitialWeights(network, seed)      # of a network on the meta device
    initial.values(part)                         # what a box of one of its tensors holds at first

The class's own `_init_weights` runs on tensors without values, and what it writes is noted: a
constant, a copy (rotary frequencies), or numbers of a normal or uniform distribution. Random
numbers are then drawn in blocks that know only the seed, the tensor's name and their place in it,
so they do not depend on who draws them. A class that computes more than that, as linear attentions
do, leaves tensors `unknown`. The module knows no rank and no file.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from onnuri.model.written_weights import Part, box_of, whole_part

BLOCK = 1 << 16
"""random numbers that are drawn together"""
Kind = Literal["constant", "copy", "normal", "uniform"]
OPERATORS: dict[str, Kind] = {
    "aten::zero_": "constant",
    "aten::fill_": "constant",
    "aten::copy_": "copy",
    "aten::normal_": "normal",
    "aten::uniform_": "uniform",
}
"""operators that write a tensor without reading it"""
DEFAULTS = {"constant": (0.0,), "copy": (), "normal": (0.0, 1.0), "uniform": (0.0, 1.0)}
"""arguments of a kind's operator that a call may leave out"""


class Write(NamedTuple):
    """A Write is what one operator writes to a tensor."""

    part: Part
    """the elements that it writes"""
    kind: Kind
    numbers: tuple[float, ...]
    """the constant; mean and standard deviation; or lower and upper bound"""
    copied: Tensor | None
    """what is copied, in the tensor's shape"""


class InitialWeights:
    """An InitialWeights holds what a model's class writes to each tensor at the start."""

    def __init__(self, network: Any, seed: int) -> None:
        """Note what the class of a network on the meta device writes; the network is as before."""
        self.seed = seed
        self.dtypes = {name: tensor.dtype for name, tensor in _named_tensors(network)}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in _named_tensors(network)}
        self._writes = _noted_writes(network)
        self._block = functools.lru_cache(maxsize=2)(self._draw)

    @property
    def unknown(self) -> list[str]:
        """Return the names of tensors whose first values are not known."""
        return [name for name in self.dtypes if not self._writes.get(name)]

    def values(self, box: Part) -> Tensor:
        """Return the first values of a box of elements of a known tensor, on the CPU and in the
        tensor's dtype."""
        values = torch.empty(box.sizes, dtype=self.dtypes[box.source])
        for write in self._writes[box.source]:
            if write.kind == "constant":
                target = _overlap(box, write.part)
                if target is not None:
                    values[target] = write.numbers[0]
            elif write.kind == "copy":
                assert write.copied is not None
                place = zip(box.starts, box.sizes, strict=True)
                values.copy_(write.copied[tuple(slice(first, first + n) for first, n in place)])
            else:
                self._fill_random(values, box, write)
        return values

    def _fill_random(self, values: Tensor, box: Part, write: Write) -> None:
        """Fill `values` with a box's random numbers."""
        flat, place = values.view(-1), 0
        for first, count in _stretches(box, self._shapes[box.source]):
            for number in range(first // BLOCK, (first + count - 1) // BLOCK + 1):
                start = max(first, number * BLOCK)
                stop = min(first + count, (number + 1) * BLOCK)
                block = self._block(write.part.source, write.kind, write.numbers, number)
                drawn = block[start - number * BLOCK : stop - number * BLOCK]
                flat[place : place + len(drawn)] = drawn
                place += len(drawn)

    def _draw(self, name: str, kind: Kind, numbers: tuple[float, ...], number: int) -> Tensor:
        """Return block `number` of the random numbers of a tensor, float32 [BLOCK]."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        generator = np.random.default_rng([self.seed, key, number])
        if kind == "normal":
            mean, deviation = numbers
            drawn = torch.from_numpy(generator.standard_normal(BLOCK, dtype=np.float32))
            return drawn.mul_(deviation).add_(mean)
        low, high = numbers
        drawn = torch.from_numpy(generator.random(BLOCK, dtype=np.float32))
        return drawn.mul_(high - low).add_(low)


class _Notes(TorchDispatchMode):
    """Within this mode every write to some tensors, which are named by their storages, is noted."""

    def __init__(self, tensors: dict[int, tuple[str, Tensor]]) -> None:
        """Take name and tensor by the address of the tensor's storage."""
        super().__init__()
        self.tensors = tensors
        self.writes: dict[str, list[Write]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call an operator, and note what it writes."""
        for number, argument in enumerate(function._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[number] if number < len(args) else (kwargs or {}).get(argument.name)
            for view in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(view, Tensor) and _storage(view) in self.tensors:
                    self._note(function, view, args[1:])
        return function(*args, **(kwargs or {}))

    def _note(self, function: Any, view: Tensor, others: tuple[Any, ...]) -> None:
        """Note a write to a view of a tensor; what cannot be repeated leaves it without any."""
        name, tensor = self.tensors[_storage(view)]
        write = _write(function, box_of(view, tensor, name), tensor, others)
        before = self.writes.get(name, [])
        if write is None or (not before and write.part.sizes != tensor.shape):
            self.writes[name] = []
        elif write.part.sizes == tensor.shape:
            self.writes[name] = [write]  # nothing is left of those before
        else:
            self.writes[name] = [*before, write] if before else []


def _write(
    function: Any, part: Part | None, tensor: Tensor, others: tuple[Any, ...]
) -> Write | None:
    """Return what an operator with `others` as further arguments writes to a part of a tensor; None
    if that depends on more than the arguments, or is not constant in a part alone."""
    kind = OPERATORS.get(function._schema.name)
    if part is None or kind is None:
        return None
    if kind == "constant" or part == whole_part(part.source, tensor.shape):
        if kind != "copy":
            if any(isinstance(other, Tensor) for other in others):
                return None
            return Write(part, kind, (*others, *DEFAULTS[kind][len(others) :]), None)
        if others[0].device.type != "meta":
            return Write(part, kind, (), others[0].detach().clone().expand(tensor.shape))
    return None


def _noted_writes(network: Any) -> dict[str, list[Write]]:
    """Return what a network's class writes to every tensor, in the order in which it does; nothing
    for a tensor of which that is not known."""
    tied = dict(getattr(network, "all_tied_weights_keys", {}))
    with _untied(network, tied):
        tensors = {_storage(tensor): (name, tensor) for name, tensor in _named_tensors(network)}
        notes = _Notes(tensors)
        try:
            with notes, torch.no_grad():
                network.initialize_weights()
        except Exception:  # a class that looks at values may fail in any way
            return {}
        finally:
            for module in network.modules():
                vars(module).pop("_is_hf_initialized", None)
    return notes.writes | {name: notes.writes.get(source, []) for name, source in tied.items()}


@contextmanager
def _untied(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Make each of some parameters, by name, one of its own within this context, as it is while a
    class initialises a model: of tied weights the other's values are kept."""
    places = []
    for name in names:
        owner, _, own_name = name.rpartition(".")
        parameters = network.get_submodule(owner)._parameters
        tied = parameters[own_name]
        assert tied is not None
        places.append((parameters, own_name, tied))
        parameters[own_name] = nn.Parameter(torch.empty_like(tied))
    try:
        yield
    finally:
        for parameters, own_name, tied in places:
            parameters[own_name] = tied


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every parameter and buffer of a network."""
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def _storage(tensor: Tensor) -> int:
    """Return the address of a tensor's storage, which its views share."""
    return tensor.untyped_storage()._cdata


def _overlap(box: Part, other: Part) -> tuple[slice, ...] | None:
    """Return where a box's elements lie, within it, that another holds too; None if there are
    none."""
    place = []
    for first, size, other_first, other_size in zip(
        box.starts, box.sizes, other.starts, other.sizes, strict=True
    ):
        start, stop = max(first, other_first), min(first + size, other_first + other_size)
        if start >= stop:
            return None
        place.append(slice(start - first, stop - first))
    return tuple(place)


def _stretches(box: Part, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield first place and length of each stretch of a box's elements that lie side by side in the
    whole tensor, laid out row by row."""
    if math.prod(box.sizes) == 0:
        return
    steps = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    inner = len(shape)
    while inner and box.sizes[inner - 1 :] == shape[inner - 1 :]:
        inner -= 1
    outer = max(0, inner - 1)  # dimensions of which every index begins a stretch
    length = math.prod(box.sizes[outer:])
    last = sum(first * step for first, step in zip(box.starts[outer:], steps[outer:], strict=True))
    for index in itertools.product(*(range(n) for n in box.sizes[:outer])):
        first = sum(
            (start + k) * step
            for start, k, step in zip(box.starts[:outer], index, steps[:outer], strict=True)
        )
        yield first + last, length
