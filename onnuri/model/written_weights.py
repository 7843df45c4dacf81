"""This module says which tensors transformers' `save_pretrained` writes for a model, and of which
elements of the model's own tensors each consists, without reading a weight.

transformers fuses the experts of a layer when it loads them, and takes them apart when it saves;
some classes rename weights, and tied weights are written once. All this is left to its own
functions, which run here on the meta device. The same boxes say which elements of such a checkpoint
a box of the model's own tensor consists of. The module knows no rank and no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from onnuri.errors import ConfigError


class Part(NamedTuple):
    """A Part is a box of elements of one tensor of a model's state."""

    source: str
    """name of the tensor in the model's state"""
    starts: tuple[int, ...]
    """first index per dimension of the tensor"""
    sizes: tuple[int, ...]
    """number of indices per dimension of the tensor"""
    order: tuple[int, ...]
    """dimensions in the order in which the elements are written, the slowest first"""

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.sizes)


class WrittenWeight(NamedTuple):
    """A WrittenWeight is a tensor as it stands in a checkpoint."""

    part: Part
    shape: tuple[int, ...]
    dtype: torch.dtype

    def place(self, box: Part) -> tuple[slice, ...]:
        """Return where a box of elements of the part lies in the checkpoint's tensor."""
        dims = iter(self._dims())
        place = []
        for size in self.shape:
            if size == 1:
                place.append(slice(0, 1))
                continue
            dim = next(dims)
            first = box.starts[dim] - self.part.starts[dim]
            place.append(slice(first, first + box.sizes[dim]))
        return tuple(place)

    def restore(self, values: Tensor, box: Part) -> Tensor:
        """Return what a checkpoint's tensor holds at `place(box)` in the shape and the order of the
        dimensions that the model's tensor has."""
        dims = self._dims()
        values = values.reshape([box.sizes[dim] for dim in dims])
        ascending = sorted(range(len(dims)), key=dims.__getitem__)
        return values.permute(ascending).reshape(box.sizes)

    def _dims(self) -> list[int]:
        """Return the model's dimension for each dimension of the checkpoint's tensor that has more
        than one index."""
        return [dim for dim in self.part.order if self.part.sizes[dim] > 1]


def written_weights(
    network: Any, dtype: torch.dtype | Mapping[str, torch.dtype]
) -> dict[str, WrittenWeight]:
    """Return the tensors that `network.to(dtype).save_pretrained` writes, by name.

    `dtype` is that of all floating-point weights, or of each by its name in the model's state. The
    network may be sharded; the result depends on names and whole shapes alone. Raises ConfigError
    if transformers computes a tensor from others instead of cutting it out of one.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    shapes = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        written_dtype = dtype[name] if isinstance(dtype, Mapping) else dtype
        if not tensor.is_floating_point():
            written_dtype = tensor.dtype
        shapes[name] = torch.empty(tensor.shape, dtype=written_dtype, device="meta")
    for name in network._keys_to_ignore_on_save or ():
        shapes.pop(name, None)
    names = {id(tensor): name for name, tensor in shapes.items()}
    untied = remove_tied_weights_from_state_dict(dict(shapes), network)
    with _KeepViews():
        written = revert_weight_conversion(network, untied)
    return {
        name: WrittenWeight(_part(name, view, shapes, names), tuple(view.shape), view.dtype)
        for name, view in written.items()
    }


class _KeepViews(TorchFunctionMode):
    """Within this mode a tensor is not copied to be contiguous, so that a view still tells of which
    tensor it is one."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, or return a tensor as it is instead of a contiguous copy."""
        if function is Tensor.contiguous:
            return args[0]
        return function(*args, **(kwargs or {}))


def _part(name: str, view: Tensor, shapes: dict[str, Tensor], names: dict[int, str]) -> Part:
    """Return the box that a view takes from one of the tensors `shapes`, which are named by their
    ids too. Raises ConfigError for anything but such a view."""
    source = view if view._base is None else view._base
    part = box_of(view, source, names[id(source)]) if id(source) in names else None
    if part is None:
        raise _not_a_view(name)
    return part


def box_of(view: Tensor, source: Tensor, name: str) -> Part | None:
    """Return the box that a view takes from its source, the tensor `name`; None if it takes
    anything but a box."""
    strides, whole = source.stride(), source.shape
    if not source.numel():
        return whole_part(name, whole)
    offset = view.storage_offset()
    starts = tuple(offset // step % size for step, size in zip(strides, whole, strict=True))
    # dimensions of one index have no stride of their own, and their place does not matter
    dims = {strides[d]: d for d in range(source.ndim) if whole[d] > 1}
    sizes, order = [1] * source.ndim, []
    for size, step in zip(view.shape, view.stride(), strict=True):
        if size == 1:
            continue
        if step not in dims or starts[dims[step]] + size > whole[dims[step]]:
            return None
        sizes[dims[step]] = size
        order.append(dims[step])
    rest = [d for d in range(source.ndim) if d not in order]
    return Part(name, starts, tuple(sizes), (*rest, *order))


def whole_part(name: str, shape: Sequence[int]) -> Part:
    """Return all elements of a tensor of some shape."""
    return Part(name, (0,) * len(shape), tuple(shape), tuple(range(len(shape))))


def _not_a_view(name: str) -> ConfigError:
    """Return the error for a tensor that is not a box of one tensor of the model."""
    return ConfigError(
        f"weight {name}",
        "is computed from the model's weights by transformers, and only boxes of them are exported",
        "use save_pretrained in one process",
    )


def split(part: Part, limit: int) -> Iterator[Part]:
    """Yield the parts of at most `limit` elements that make up a part, in the order in which its
    elements are written."""
    if part.numel <= limit:
        yield part
        return
    dim = next(d for d in part.order if part.sizes[d] > 1)
    size = part.sizes[dim]
    step = max(1, limit // (part.numel // size))
    for first in range(0, size, step):
        starts, sizes = list(part.starts), list(part.sizes)
        starts[dim] += first
        sizes[dim] = min(step, size - first)
        yield from split(part._replace(starts=tuple(starts), sizes=tuple(sizes)), limit)
