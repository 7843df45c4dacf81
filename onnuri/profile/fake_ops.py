"""This module replaces the operations that a CPU cannot trace, or only slowly, by others of equal
shapes, bytes and FLOPs.

The dispatch of tokens to experts, which depends on values, and a GPU's fused attention are
registered in transformers (`EPImplementationInterface`, `AttentionInterface`), so the models' code
stays as it is. FSDP cuts tensors into one piece per rank, of which one is used or all are joined
again; here a piece is made only when it is read.
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
    """Register the balanced dispatch and the fused attention in transformers as BALANCED and
    FUSED."""
    from transformers import AttentionInterface
    from transformers.distributed.expert_parallel import EPImplementationInterface

    EPImplementationInterface.register(BALANCED, _balanced())
    AttentionInterface.register(FUSED, attention)


@functools.cache
def _balanced() -> type:
    """Return a class of transformers' expert dispatch in which every expert received_rows equally
    many tokens; defined here because the import is slow."""
    from torch.distributed import all_to_all_single
    from torch.distributed._functional_collectives import all_to_all_single_autograd
    from transformers.distributed.expert_parallel import AllToAllEP, _AllToAllState
    from transformers.distributed.parallel_utils import _WaitTensor

    class Balanced(AllToAllEP):  # type: ignore[misc]
        """A Balanced dispatches equally many tokens to every expert, so that sizes follow from
        shapes alone.

        It runs on real tensors too, so that a trace can be compared with a real run's bytes. Tokens
        past a multiple of the experts go to the first ones.
        """

        def _dispatch_tokens(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Any:
            """Return rows for this rank's experts [R, C], their experts' ids and weights [R, 1],
            and the state for the way back, from hidden states [T, C], experts [T, k] and weights
            [T, k]."""
            tokens, group = hidden.shape[0], self.ep_mesh.get_group()
            if self.tp_mesh.size() > 1:
                hidden, index, weights = (self._own_rows(t) for t in (hidden, index, weights))
            experts = int(self.num_local_experts)  # type: ignore[arg-type]
            own_rank = self.ep_mesh.get_local_rank()
            sent = pair_counts(index.numel(), self.ep_mesh.size(), experts)
            sent_rows, received_rows = (
                [sum(each) for each in sent],
                [sum(sent[own_rank])] * len(sent),
            )
            # the real one tells every rank how much comes for which expert
            sent_counts = torch.tensor(sent, device=hidden.device)
            all_to_all_single(torch.empty_like(sent_counts), sent_counts, group=group)
            order = torch.argsort(
                torch.arange(index.numel(), device=hidden.device) % sent_counts.numel()
            )
            rows = _WaitTensor.apply(
                all_to_all_single_autograd(
                    hidden[order // index.shape[1]], received_rows, sent_rows, group
                )
            )
            ids = (
                torch.arange(len(sent[own_rank]), device=hidden.device)
                .repeat_interleave(sent_counts[own_rank], output_size=received_rows[0])
                .repeat(len(sent))[:, None]
            )
            return (
                rows,
                ids,
                torch.ones_like(ids, dtype=rows.dtype),
                _AllToAllState(weights, order, sent_rows, received_rows, tokens),
            )

        def _own_rows(self, rows: Tensor) -> Tensor:
            """Return this rank's part of rows that all ranks of a tensor-parallel group have, cut
            as `AllToAllEP` does."""
            from torch.distributed.tensor import DTensor, Replicate, Shard

            whole = DTensor.from_local(rows, self.tp_mesh, [Replicate()], run_check=False)
            return whole.redistribute(self.tp_mesh, [Shard(0)]).to_local()

    return Balanced


def pair_counts(pairs: int, ranks: int, experts: int) -> list[list[int]]:
    """Return how many of a rank's `pairs` of token and expert go to each expert, as a list per rank
    with a number per each of its `experts`, as equal as numbers allow."""
    by_expert = [len(range(e, pairs, ranks * experts)) for e in range(ranks * experts)]
    return [by_expert[k : k + experts] for k in range(0, len(by_expert), experts)]


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
    """Return attention's output [B, T, heads, size] for inputs [B, heads, T, size], and None for
    its weights, with the bytes and FLOPs of a GPU's fused kernel.

    Grouped keys and values are not copied, scores outside a window are not computed, and only
    inputs, output and the scores' log-sums are saved for the backward pass.
    """
    window = sliding_window or getattr(module, "sliding_window", None) or 0
    return torch.ops.onnuri.fused_attention(query, key, value, window)[0].transpose(1, 2), None


def _causal_pairs(tokens: int, window: int) -> int:
    """Return the number of pairs of a query and a key that it attends to in a causal sequence of
    `tokens`, at most `window` keys per query (0: all before it)."""
    window = min(window or tokens, tokens)
    return tokens * window - window * (window - 1) // 2


def _forward(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Refuse to compute: the operator exists for traces with fake tensors alone."""
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
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor out, Tensor sums, "
    "int window) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("onnuri::fused_attention")
def _(query: Tensor, key: Tensor, value: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the fused attention's output [B, heads, T, size] and log-sums [B, heads, T] as fake
    tensors."""
    # [B, T, heads, size] in memory, as kernels write it: what follows is a view
    out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3]).transpose(
        1, 2
    )
    return out, query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.register_fake("onnuri::fused_attention_backward")
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value as fake tensors."""
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save query, key, value, output, log-sums and the window for the backward pass."""
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.window = inputs[3]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    """Return the gradients of query, key and value, and None for the window."""
    return *torch.ops.onnuri.fused_attention_backward(grad, *ctx.saved_tensors, ctx.window), None


torch.library.register_autograd(
    "onnuri::fused_attention", _backward, setup_context=_save_for_backward
)


def attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, window: int, *rest: Any, **named: Any
) -> int:
    """Return the FLOPs of fused attention's forward pass from its inputs' shapes [B, heads, T,
    size], 2 per multiplication and addition."""
    return 2 * query[0] * query[1] * _causal_pairs(query[2], window) * (query[3] + value[3])


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
    """Return the FLOPs of fused attention's backward pass: the scores again and four products for
    gradients (Dao 2023, arXiv 2307.08691, section 3.1: five products for the forward pass's
    two)."""
    return 2 * query[0] * query[1] * _causal_pairs(query[2], window) * (3 * query[3] + 2 * value[3])


EAGER_PIECES = 8
"""number of pieces up to which a tensor is cut at once: a view takes microseconds"""


class Pieces(Sequence[Tensor]):
    """A Pieces is the sequence that `torch.chunk` returns, but makes a piece only when it is read;
    empty pieces follow the last one up to `number`."""

    def __init__(self, whole: Tensor, chunks: int, dim: int, number: int | None = None) -> None:
        """Cut `whole` along `dim` into `chunks` pieces, as `torch.chunk` does, at least
        `number`."""
        self.whole, self.dim = whole, dim % whole.dim()
        self.size = max(-(-whole.shape[self.dim] // chunks), 1)
        self.parts = max(-(-whole.shape[self.dim] // self.size), 1)
        self.number = number or self.parts

    def __len__(self) -> int:
        """Return the number of pieces, empty ones counted."""
        return self.number

    def __getitem__(self, k: Any) -> Any:
        """Return piece k as a view; an empty tensor past the last one. Raises IndexError."""
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
        """Return the shape of all pieces, which must be equal, concatenated along a dimension."""
        shape = list(self.whole.shape)
        shape[self.dim] = self.size
        shape[dim] *= self.number
        return shape


@contextmanager
def lazy_pieces() -> Iterator[None]:
    """Make PyTorch's FSDP, in this context, cut parameters into one piece per rank without a view
    for every other rank, of which there may be thousands."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param

    chunk, cat = torch.chunk, torch.cat

    def lazy_chunk(whole: Tensor, chunks: int, dim: int = 0) -> Any:
        """Replace `torch.chunk` for many equal pieces."""
        even = whole.shape[dim] % chunks == 0
        return (
            Pieces(whole, chunks, dim)
            if even and chunks > EAGER_PIECES
            else chunk(whole, chunks, dim)
        )

    def lazy_cat(pieces: Any, dim: int = 0, *, out: Tensor | None = None) -> Tensor:
        """Replace `torch.cat`: joined lazy pieces are a new tensor of their shape."""
        if not isinstance(pieces, Pieces):
            return cat(pieces, dim) if out is None else cat(pieces, dim, out=out)
        shape = pieces.joined(dim)
        if out is None:
            return pieces.whole.new_empty(shape)
        assert list(out.shape) == shape
        return out

    def lazy_padded_chunk(whole: Tensor, chunks: int, dim: int) -> Pieces:
        """Replace FSDP's `_chunk_with_empty`, which adds empty pieces for ranks without any."""
        return Pieces(whole, chunks, dim, chunks)

    with (
        replace_attribute(torch, "chunk", lazy_chunk),
        replace_attribute(torch, "cat", lazy_cat),
        replace_attribute(_fsdp_param, "_chunk_with_empty", lazy_padded_chunk),
    ):
        yield


@contextmanager
def replace_attribute(owner: Any, name: str, substitute: Any) -> Iterator[None]:
    """Replace an attribute of a module or class within this context."""
    before = getattr(owner, name)
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        setattr(owner, name, before)
