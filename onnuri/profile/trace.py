"""What a step does, counted while it runs: bytes that live, FLOPs, and every collective. Knows no
model and no layout.

Works on fake tensors and on real ones alike, so that one can be held against the other. Bytes are
those of storages, each counted once, as they are made, resized and freed.
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
"""gathered: whole weights and what collectives read and write; activations: all else that lives
during a step"""
KINDS: tuple[Kind, ...] = ("parameters", "gradients", "optimizer", "gathered", "activations")


class TracedCollective(Config):
    """Calls of one kind over groups of one size with equal bytes."""

    name: str
    """all_gather, reduce_scatter, all_reduce, all_to_all, broadcast"""
    ranks: int
    """of the group"""
    bytes: int
    """a call: the larger of what a rank gives and gets"""
    calls: int
    group: str = ""
    """axis of the mesh, where known"""


Name = tuple[str, int]
"""of a part of a step: what runs, and which of its kind"""


@dataclasses.dataclass
class Window:
    """The most that lived during a part of a step, in bytes."""

    most: Counter[str] = dataclasses.field(default_factory=Counter)
    """of each kind at any time"""
    at_peak: Counter[str] = dataclasses.field(default_factory=Counter)
    """of each kind when most lived of all together"""

    @property
    def peak(self) -> int:
        """Return the most bytes that lived of all kinds together."""
        return sum(self.at_peak.values())


def fullest(windows: Iterable[Window]) -> Window:
    """Return the one in which most lived; the earliest of equals."""
    return max(windows, key=lambda w: w.peak)


def calls(counted: Counter[tuple[str, int, int, str]]) -> tuple[TracedCollective, ...]:
    """Return (name, ranks, bytes, group) and how often, as collectives."""
    return tuple(
        TracedCollective(name=name, ranks=ranks, bytes=size, calls=number, group=group)
        for (name, ranks, size, group), number in sorted(counted.items())
    )


_PASSING = (None, "activations")
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
    """Counts while it is entered."""

    def __init__(self, groups: dict[str, str] | None = None) -> None:
        """`groups`: axis of each process group, by its name."""
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
        """Begin a part of the step; what lives already counts to it."""
        self._window = self.windows.setdefault(name, Window())
        self._peak = self._window.peak
        self._seen(KINDS)

    @property
    def peak(self) -> int:
        """Return the most bytes that lived at any time."""
        return fullest(self.windows.values()).peak

    @property
    def at_peak(self) -> dict[str, int]:
        """Return the bytes that lived at the peak, by kind."""
        living = fullest(self.windows.values()).at_peak
        return {k: living[k] for k in KINDS}

    def hold(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Count tensors' storages as of a kind from now on."""
        for tensor in tensors:
            self._note(_local(tensor), kind, always=True)

    @property
    def collectives(self) -> tuple[TracedCollective, ...]:
        """Return the collectives that were called."""
        return calls(self.calls)

    def __enter__(self) -> Self:
        resize, shapes = (
            torch.UntypedStorage.resize_,
            ShardingPropagator._propagate_tensor_meta_non_cached,
        )

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(
                storage, size
            )  # fully_shard frees and fills whole weights this way, past all modes
            self._resized(storage)
            return result

        def unseen(*args: Any) -> Any:
            self._paused += (
                1  # DTensor runs an operator that is new to it on whole tensors, to learn shapes
            )
            try:
                return shapes(*args)
            finally:
                self._paused -= 1

        self._replaced = contextlib.ExitStack()
        self._replaced.enter_context(fake_ops.replaced(torch.UntypedStorage, "resize_", resized))
        self._replaced.enter_context(
            fake_ops.replaced(ShardingPropagator, "_propagate_tensor_meta_non_cached", unseen)
        )
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._replaced.close()
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        if any(issubclass(t, _WRAPPERS) for t in types):
            return NotImplemented  # what they hold comes by once more
        named = named or {}
        out = function(*args, **named)
        if self._paused:
            return out
        packet, space = function._overloadpacket, function.namespace
        if space == "prim" or space == "profiler":
            return out
        if space in ("c10d", "_c10d_functional", "fsdp"):
            self._communicated(packet.__name__, args, named, out, counted=space != "fsdp")
            return out
        if formula := FORMULAS.get(packet._qualified_op_name):
            self.flops += formula(*args, **named, out_val=out)
        for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor, "activations")
        return out

    def _communicated(
        self, name: str, args: tuple[Any, ...], named: dict[str, Any], out: Any, counted: bool
    ) -> None:
        tensors = [t for t in tree_leaves((args, named, out)) if isinstance(t, Tensor)]
        known = next((k for k in _NAMES if k in name), None)
        for tensor in tensors:
            # dispatched tokens and reduced activations stay what they are
            whole = not counted or known in ("allgather", "reduce_scatter")
            self._note(
                tensor,
                "gathered" if whole else "activations",
                always=whole and self._of(tensor) in _PASSING,
            )
        if counted and known and (group := _group(args)).size() > 1:
            size = max((t.numel() * t.element_size() for t in tensors), default=0)
            self.calls[
                _NAMES[known], group.size(), size, self.groups.get(group.group_name, "")
            ] += 1

    def _of(self, tensor: Tensor) -> Kind | None:
        entry = self._storages.get(tensor.untyped_storage()._cdata)
        return entry[2] if entry else None

    def _note(self, tensor: Tensor, kind: Kind, always: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        size, known = storage.nbytes(), self._storages.get(key)
        if known and not always and known[1] == size:
            return
        if known:
            self.living[known[2]] -= known[1]
            kind = kind if always else known[2]
        reference = known[0] if known else weakref.ref(storage, lambda _, key=key: self._freed(key))  # type: ignore[misc]
        self._storages[key] = (reference, size, kind)
        self._grown(kind, size)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        if known := self._storages.get(storage._cdata):
            self.living[known[2]] -= known[1]
            self._storages[storage._cdata] = (known[0], storage.nbytes(), "gathered")
            self._grown("gathered", storage.nbytes())

    def _freed(self, key: int) -> None:
        if known := self._storages.pop(key, None):
            self.living[known[2]] -= known[1]

    def _grown(self, kind: Kind, size: int) -> None:
        self.living[kind] += size
        self._seen((kind,))

    def _seen(self, kinds: tuple[Kind, ...]) -> None:
        """Some kinds may have grown beyond what lived before."""
        for kind in kinds:
            self._window.most[kind] = max(self._window.most[kind], self.living[kind])
        if (total := sum(self.living.values())) > self._peak:
            self._peak, self._window.at_peak = total, Counter({k: self.living[k] for k in KINDS})


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]


def _group(args: tuple[Any, ...]) -> dist.ProcessGroup:
    """The process group of a collective's arguments: an object of c10d's, a name of the functional
    ones'."""
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


def _grouped(a: Tensor, b: Tensor, *rest: Any, **named: Any) -> int:
    """Rows [S, K] by one matrix a group [E, K, N], or a matrix a group [E, K, N] from [K, S] and
    [S, N]: each row is multiplied once either way."""
    return 2 * math.prod(a.shape) * b.shape[-1]


def _shaped(formula: Any) -> Any:
    """A formula of shapes as one of tensors."""

    def count(*args: Any, out_val: Any, **named: Any) -> int:
        return int(formula(*(a.shape if isinstance(a, Tensor) else a for a in args)))

    return count


FORMULAS: dict[str, Any] = {
    packet._qualified_op_name: formula
    for packet, formula in flop_registry.items()
    if hasattr(packet, "_qualified_op_name")
} | {
    "aten::addmm_": flop_registry[torch.ops.aten.addmm],
    "aten::_grouped_mm": _grouped,
    "transformers::grouped_mm_fallback": _grouped,
    "transformers::grouped_mm_fallback_backward": lambda a, b, *rest, **named: 2 * _grouped(a, b),
    "onnuri::fused_attention": _shaped(fake_ops.attention_flops),
    "onnuri::fused_attention_backward": _shaped(fake_ops.attention_backward_flops),
}
"""PyTorch's, and those it lacks, by an operator's name"""
