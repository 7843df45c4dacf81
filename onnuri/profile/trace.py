"""This module counts what a training step does while it runs: bytes of living tensors, FLOPs, and
every collective.

It knows no model and no layout. It works on fake tensors and on real ones alike, so that one can be
compared with the other. Bytes are those of storages, each counted once, as they are allocated,
resized and freed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from onnuri.config import Config
from onnuri.profile import fake_ops

Kind = Literal["parameters", "gradients", "optimizer", "gathered", "activations"]
"""gathered: unsharded weights and collectives' buffers; activations: all else that lives during a
step"""
KINDS: tuple[Kind, ...] = ("parameters", "gradients", "optimizer", "gathered", "activations")


class TracedCollective(Config):
    """A TracedCollective counts the calls of one collective over groups of one size with equal
    bytes."""

    name: str
    """all_gather, reduce_scatter, all_reduce, all_to_all, broadcast"""
    ranks: int
    """ranks of the group"""
    bytes: int
    """bytes per call: the larger of what a rank sends and receives"""
    calls: int
    group: str = ""
    """axis of the mesh, if it is known"""


Name = tuple[str, int]
"""name of a part of a step: what runs, and its number, such as ("forward", 3)"""


@dataclasses.dataclass
class Window:
    """A Window holds the most bytes that lived during a part of a step."""

    most: Counter[str] = dataclasses.field(default_factory=Counter)
    """most bytes of each kind, each at its own time"""
    at_peak: Counter[str] = dataclasses.field(default_factory=Counter)
    """bytes of each kind at the time when most bytes lived in all"""

    @property
    def peak(self) -> int:
        """Return the most bytes of all kinds together that lived at one time."""
        return sum(self.at_peak.values())


def largest_window(windows: Iterable[Window]) -> Window:
    """Return the window with the largest peak; the earliest of equals."""
    return max(windows, key=lambda w: w.peak)


def calls(counted: Counter[tuple[str, int, int, str]]) -> tuple[TracedCollective, ...]:
    """Return collectives from the number of calls by (name, ranks, bytes, group)."""
    return tuple(
        TracedCollective(name=name, ranks=ranks, bytes=size, calls=number, group=group)
        for (name, ranks, size, group), number in sorted(counted.items())
    )


_TRANSIENT_KINDS = (None, "activations")
_WRAPPERS = (DTensor, AsyncCollectiveTensor)
_NAMES = {
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "broadcast": "broadcast",
}


class Trace(TorchDispatchMode):
    """A Trace counts bytes, FLOPs and collectives of all that runs while it is entered."""

    def __init__(self, groups: dict[str, str] | None = None) -> None:
        """Prepare a trace; `groups` gives the mesh axis of each process group by the group's
        name."""
        super().__init__()
        self.groups = groups or {}
        self.flops = 0
        self.calls: Counter[tuple[str, int, int, str]] = Counter()
        self.living: Counter[str] = Counter()
        self.windows: dict[Name, Window] = {}
        self._peak = self._paused = 0
        self.begin(("start", 0))
        self._storages: dict[int, tuple[weakref.ref[Any], int, Kind]] = {}

    def begin(self, name: Name) -> None:
        """Begin a named part of the step; bytes that already live count in it too."""
        self._window = self.windows.setdefault(name, Window())
        self._peak = self._window.peak
        self._update_peaks(KINDS)

    @property
    def peak(self) -> int:
        """Return the most bytes that lived at any time."""
        return largest_window(self.windows.values()).peak

    @property
    def at_peak(self) -> dict[str, int]:
        """Return the bytes that lived at the peak, by kind."""
        living = largest_window(self.windows.values()).at_peak
        return {k: living[k] for k in KINDS}

    def hold(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Count tensors' storages as bytes of a kind from now on."""
        for tensor in tensors:
            self._count_storage(_local(tensor), kind, always=True)

    @property
    def collectives(self) -> tuple[TracedCollective, ...]:
        """Return the collectives that were called."""
        return calls(self.calls)

    def __enter__(self) -> Self:
        """Begin to count; two functions of PyTorch are replaced that no dispatch mode sees."""
        resize, shapes = (
            torch.UntypedStorage.resize_,
            ShardingPropagator._propagate_tensor_meta_non_cached,
        )

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            """Resize a storage and count it: fully_shard frees and fills weights this way."""
            result = resize(storage, size)
            self._resized(storage)
            return result

        def uncounted(*args: Any) -> Any:
            """Count nothing while DTensor runs a new operator on whole tensors for its shapes."""
            self._paused += 1
            try:
                return shapes(*args)
            finally:
                self._paused -= 1

        self._replaced = contextlib.ExitStack()
        self._replaced.enter_context(
            fake_ops.replace_attribute(torch.UntypedStorage, "resize_", resized)
        )
        self._replaced.enter_context(
            fake_ops.replace_attribute(
                ShardingPropagator, "_propagate_tensor_meta_non_cached", uncounted
            )
        )
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop counting and restore PyTorch's functions."""
        self._replaced.close()
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count its FLOPs, its outputs' storages or its collective."""
        if any(issubclass(t, _WRAPPERS) for t in types):
            return NotImplemented  # the tensors that they wrap are dispatched once more
        named = named or {}
        out = function(*args, **named)
        if self._paused:
            return out
        packet, space = function._overloadpacket, function.namespace
        if space == "prim" or space == "profiler":
            return out
        if space in ("c10d", "_c10d_functional", "fsdp"):
            self._count_collective(packet.__name__, args, named, out, counted=space != "fsdp")
            return out
        if formula := FLOP_FORMULAS.get(packet._qualified_op_name):
            self.flops += formula(*args, **named, out_val=out)
        for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count_storage(tensor, "activations")
        return out

    def _count_collective(
        self, name: str, args: tuple[Any, ...], named: dict[str, Any], out: Any, counted: bool
    ) -> None:
        """Count a collective's call and its buffers; with `counted` False the buffers alone."""
        tensors = [t for t in tree_leaves((args, named, out)) if isinstance(t, Tensor)]
        known = next((k for k in _NAMES if k in name), None)
        for tensor in tensors:
            # dispatched tokens and reduced activations stay what they are
            whole = not counted or known in ("allgather", "reduce_scatter")
            self._count_storage(
                tensor,
                "gathered" if whole else "activations",
                always=whole and self._kind_of(tensor) in _TRANSIENT_KINDS,
            )
        if counted and known and (group := _process_group(args)).size() > 1:
            size = max((t.numel() * t.element_size() for t in tensors), default=0)
            self.calls[
                _NAMES[known], group.size(), size, self.groups.get(group.group_name, "")
            ] += 1

    def _kind_of(self, tensor: Tensor) -> Kind | None:
        """Return the kind under which a tensor's storage counts; None if it is not known."""
        entry = self._storages.get(tensor.untyped_storage()._cdata)
        return entry[2] if entry else None

    def _count_storage(self, tensor: Tensor, kind: Kind, always: bool = False) -> None:
        """Count a tensor's storage as bytes of a kind; with `always`, move one that already counts
        under another kind, else it keeps its kind and only its size is updated."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        size, known = storage.nbytes(), self._storages.get(key)
        if known and not always and known[1] == size:
            return
        if known:
            self.living[known[2]] -= known[1]
            kind = kind if always else known[2]
        if known:
            reference = known[0]
        else:
            reference = weakref.ref(
                storage,
                lambda _, key=key: self._freed(key),  # type: ignore[misc]
            )
        self._storages[key] = (reference, size, kind)
        self._add_bytes(kind, size)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        """Count a known storage by its new size, as gathered: only unsharded weights are
        resized."""
        if known := self._storages.get(storage._cdata):
            self.living[known[2]] -= known[1]
            self._storages[storage._cdata] = (known[0], storage.nbytes(), "gathered")
            self._add_bytes("gathered", storage.nbytes())

    def _freed(self, key: int) -> None:
        """Take a freed storage's bytes off those that live."""
        if known := self._storages.pop(key, None):
            self.living[known[2]] -= known[1]

    def _add_bytes(self, kind: Kind, size: int) -> None:
        """Add bytes of a kind to those that live, and update the peaks."""
        self.living[kind] += size
        self._update_peaks((kind,))

    def _update_peaks(self, kinds: tuple[Kind, ...]) -> None:
        """Raise the current window's peaks, after kinds may have grown, to what lives now."""
        for kind in kinds:
            self._window.most[kind] = max(self._window.most[kind], self.living[kind])
        if (total := sum(self.living.values())) > self._peak:
            self._peak, self._window.at_peak = total, Counter({k: self.living[k] for k in KINDS})


def _local(tensor: Any) -> Tensor:
    """Return the part of a sharded tensor that this rank holds; other tensors as they are."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _process_group(args: tuple[Any, ...]) -> dist.ProcessGroup:
    """Return the process group among a collective's arguments: c10d's operators take an object, the
    functional ones a name."""
    from torch.distributed.distributed_c10d import _resolve_process_group

    for arg in args:
        if isinstance(arg, torch.ScriptObject):
            try:
                return dist.ProcessGroup.unbox(arg)  # type: ignore[attr-defined, no-any-return]
            except RuntimeError:  # a reduction is such an object too
                continue
        if isinstance(arg, str) and arg not in ("sum", "avg", "max", "min", "product"):
            return _resolve_process_group(arg)  # type: ignore[arg-type]
    raise AssertionError(args)


def _grouped_product_flops(a: Tensor, b: Tensor, *rest: Any, **named: Any) -> int:
    """Return the FLOPs of a grouped product: rows [S, K] times one matrix per group [E, K, N], or
    matrices [E, K, N] from [K, S] and [S, N]; each row is multiplied once either way."""
    return 2 * math.prod(a.shape) * b.shape[-1]


def _by_shapes(formula: Any) -> Any:
    """Return a FLOP formula that takes tensors, from one that takes their shapes."""

    def flops(*args: Any, out_val: Any, **named: Any) -> int:
        """Return the FLOPs of an operator's call on tensors."""
        return int(formula(*(a.shape if isinstance(a, Tensor) else a for a in args)))

    return flops


FLOP_FORMULAS: dict[str, Any] = {
    packet._qualified_op_name: formula
    for packet, formula in flop_registry.items()
    if hasattr(packet, "_qualified_op_name")
} | {
    "aten::addmm_": flop_registry[torch.ops.aten.addmm],
    "aten::_grouped_mm": _grouped_product_flops,
    "transformers::grouped_mm_fallback": _grouped_product_flops,
    "transformers::grouped_mm_fallback_backward": lambda a, b, *rest, **named: (
        2 * _grouped_product_flops(a, b)
    ),
    "onnuri::fused_attention": _by_shapes(fake_ops.attention_flops),
    "onnuri::fused_attention_backward": _by_shapes(fake_ops.attention_backward_flops),
}
"""FLOP formulas by operator name: PyTorch's, and those that it lacks"""
