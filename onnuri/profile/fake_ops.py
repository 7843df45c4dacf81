"""What a step does that no CPU can trace, or only slowly, replaced by something of equal shapes,
bytes and FLOPs.

Which expert a token goes to, known only from values, and the fused attention of a GPU are entered
where transformers lets others enter (`EPImplementationInterface`, `AttentionInterface`); the
model's code stays. A tensor that is cut into as many pieces as there are ranks, of which one is
used or all are joined along another dimension, is cut where it is looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BALANCED = "onnuri_balanced"
FUSED = "onnuri_fused"


@functools.cache
def register() -> None:
    """Make both known to transformers under their names."""
    from transformers import AttentionInterface
    from transformers.distributed.expert_parallel import EPImplementationInterface

    EPImplementationInterface.register(BALANCED, _balanced())
    AttentionInterface.register(FUSED, attention)


@functools.cache
def _balanced() -> type:
    from torch.distributed import all_to_all_single
    from torch.distributed._functional_collectives import all_to_all_single_autograd
    from transformers.distributed.expert_parallel import AllToAllEP, _AllToAllState
    from transformers.distributed.parallel_utils import _WaitTensor

    class Balanced(AllToAllEP):  # type: ignore[misc]
        """transformers' dispatch where every expert gets as many tokens: its sizes follow from
        shapes alone.

        Runs on real tensors too, so that a trace can be held against a real run's bytes. Tokens
        past a multiple of the experts go to the first ones.
        """

        def _dispatch_tokens(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Any:
            tokens, group = hidden.shape[0], self.ep_mesh.get_group()
            if self.tp_mesh.size() > 1:
                hidden, index, weights = (self._mine(t) for t in (hidden, index, weights))
            experts, mine = int(self.num_local_experts), self.ep_mesh.get_local_rank()  # type: ignore[arg-type]
            sent = counts(index.numel(), self.ep_mesh.size(), experts)
            gives, gets = [sum(each) for each in sent], [sum(sent[mine])] * len(sent)
            # the real one tells every rank how much comes for which expert
            told = torch.tensor(sent, device=hidden.device)
            all_to_all_single(torch.empty_like(told), told, group=group)
            order = torch.argsort(torch.arange(index.numel(), device=hidden.device) % told.numel())
            rows = _WaitTensor.apply(
                all_to_all_single_autograd(hidden[order // index.shape[1]], gets, gives, group)
            )
            ids = (
                torch.arange(len(sent[mine]), device=hidden.device)
                .repeat_interleave(told[mine], output_size=gets[0])
                .repeat(len(sent))[:, None]
            )
            return (
                rows,
                ids,
                torch.ones_like(ids, dtype=rows.dtype),
                _AllToAllState(weights, order, gives, gets, tokens),
            )

        def _mine(self, rows: Tensor) -> Tensor:
            """This rank's part of rows that the ranks of a tensor-parallel group share, as
            `AllToAllEP` cuts them."""
            from torch.distributed.tensor import DTensor, Replicate, Shard

            whole = DTensor.from_local(rows, self.tp_mesh, [Replicate()], run_check=False)
            return whole.redistribute(self.tp_mesh, [Shard(0)]).to_local()

    return Balanced


def counts(pairs: int, ranks: int, experts: int) -> list[list[int]]:
    """Return how many of a rank's pairs of token and expert go to each rank's experts, as equal as
    numbers allow."""
    every = [len(range(e, pairs, ranks * experts)) for e in range(ranks * experts)]
    return [every[k : k + experts] for k in range(0, len(every), experts)]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    scaling: float,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Return attention's output as a fused kernel makes it, [B, heads, T, size] to [B, T, heads,
    size].

    Grouped keys and values are not copied, a window's far scores not computed, and only inputs,
    output and the scores' log-sums kept.
    """
    window = sliding_window or getattr(module, "sliding_window", None) or 0
    return torch.ops.onnuri.fused_attention(query, key, value, window)[0].transpose(1, 2), None


def _seen(tokens: int, window: int) -> int:
    """Pairs of query and key of a causal sequence, within a window."""
    window = min(window or tokens, tokens)
    return tokens * window - window * (window - 1) // 2


def _forward(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("a stand-in has shapes only")


torch.library.custom_op(
    "onnuri::fused_attention",
    _forward,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int window) -> (Tensor, Tensor)",
)
torch.library.custom_op(
    "onnuri::fused_attention_backward",
    _forward,
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor out, Tensor sums, int window)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("onnuri::fused_attention")
def _(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    # [B, T, heads, size] in memory, as kernels write it: what follows is a view
    out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3]).transpose(
        1, 2
    )
    return out, query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.register_fake("onnuri::fused_attention_backward")
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.window = inputs[3]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    return *torch.ops.onnuri.fused_attention_backward(grad, *ctx.saved_tensors, ctx.window), None


torch.library.register_autograd("onnuri::fused_attention", _backward, setup_context=_keep)


def attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, window: int, *rest: Any, **named: Any
) -> int:
    """Return the FLOPs of scores and sums over what a query sees, 2 per multiplication and
    addition."""
    return 2 * query[0] * query[1] * _seen(query[2], window) * (query[3] + value[3])


def attention_backward_flops(
    grad: torch.Size,
    query: torch.Size,
    key: torch.Size,
    value: torch.Size,
    out: torch.Size,
    sums: torch.Size,
    window: int,
    *rest: Any,
    **named: Any,
) -> int:
    """Return the FLOPs of the scores again and of four gradients' products (Dao 2023, arXiv
    2307.08691, section 3.1: five products to two)."""
    return 2 * query[0] * query[1] * _seen(query[2], window) * (3 * query[3] + 2 * value[3])


FEW = 8
"""pieces that are made at once: a view takes microseconds"""


class Pieces(Sequence[Tensor]):
    """What `torch.chunk` returns, each piece made when it is asked for; past the last, empty ones
    up to `number`."""

    def __init__(self, whole: Tensor, chunks: int, dim: int, number: int | None = None) -> None:
        self.whole, self.dim = whole, dim % whole.dim()
        self.size = max(-(-whole.shape[self.dim] // chunks), 1)
        self.parts = max(-(-whole.shape[self.dim] // self.size), 1)
        self.number = number or self.parts

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, k: Any) -> Any:
        if not -self.number <= k < self.number:
            raise IndexError(k)
        begin = k % self.number * self.size
        length = min(self.size, self.whole.shape[self.dim] - begin)
        return (
            self.whole.new_empty(0)
            if k % self.number >= self.parts
            else self.whole.narrow(self.dim, begin, length)
        )

    def joined(self, dim: int) -> list[int]:
        """Return the shape of all pieces, which must be equal, along a dimension."""
        shape = list(self.whole.shape)
        shape[self.dim] = self.size
        shape[dim] *= self.number
        return shape


@contextmanager
def lazy_pieces() -> Iterator[None]:
    """Within, PyTorch's fully sharded parameters are cut into a piece a rank without making views
    for the other ranks."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param

    chunk, cat = torch.chunk, torch.cat

    def cut(whole: Tensor, chunks: int, dim: int = 0) -> Any:
        even = whole.shape[dim] % chunks == 0
        return Pieces(whole, chunks, dim) if even and chunks > FEW else chunk(whole, chunks, dim)

    def join(pieces: Any, dim: int = 0, *, out: Tensor | None = None) -> Tensor:
        if not isinstance(pieces, Pieces):
            return cat(pieces, dim) if out is None else cat(pieces, dim, out=out)
        shape = pieces.joined(dim)
        if out is None:
            return pieces.whole.new_empty(shape)
        assert list(out.shape) == shape
        return out

    def padded(whole: Tensor, chunks: int, dim: int) -> Pieces:
        return Pieces(whole, chunks, dim, chunks)

    with (
        replaced(torch, "chunk", cut),
        replaced(torch, "cat", join),
        replaced(_fsdp_param, "_chunk_with_empty", padded),
    ):
        yield


@contextmanager
def replaced(owner: Any, name: str, substitute: Any) -> Iterator[None]:
    """Within, an attribute of a module or class is another."""
    before = getattr(owner, name)
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        setattr(owner, name, before)
