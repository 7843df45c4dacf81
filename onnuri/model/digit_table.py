"""This module lets codes of several digits share their rows of the vocabulary's tables while a
model is trained.

A code of finite scalar quantization is a number of a few digits, and codes that share digits look
alike. With a row per code, a model learns each of 12,800 codes by itself; here a code's row is the
sum of a row per digit and, with `pairs`, of one per pair of neighbouring digits. What is learned of
one code then holds for those near it. The head is tied to the embedding, so a code's logit is the
same sum of its digits' logits: a chain, over which the sum of all codes' probabilities costs a few
hundred products instead of one per code (`digit_cross_entropy`). `fold` writes the sums out as
stock tables, so that the saved model is a plain one.

The module knows no codec: the digits' levels are numbers.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.errors import ConfigError


class DigitEmbedding(nn.Module):
    """A DigitEmbedding is an embedding [V, C] in which the codes `start` … have sums over their
    digits' rows; all other ids have rows of their own."""

    numbers: Tensor

    def __init__(self, table: Tensor, start: int, levels: tuple[int, ...], pairs: bool):
        """Take a table [V, C]; its rows of prod(levels) codes, of which the first level varies
        fastest, become sums. Their rows begin at random, with the table's standard deviation."""
        super().__init__()
        self.start, self.levels, self.pairs = start, levels, pairs
        self.end = start + math.prod(levels)
        numbers = digit_numbers(levels, pairs)
        self.register_buffer("numbers", numbers, persistent=False)
        self.plain = nn.Parameter(torch.cat([table[:start], table[self.end :]]).clone())
        rows = torch.randn(int(numbers.max()) + 1, table.shape[1], dtype=table.dtype)
        self.rows = nn.Parameter(rows * float(table.std()) / math.sqrt(numbers.shape[1]))
        self.to(table.device)

    @property
    def weight(self) -> Tensor:
        """Return the whole table [V, C], with gradients."""
        shared = self._sums(self.numbers)
        return torch.cat([self.plain[: self.start], shared, self.plain[self.start :]])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows [..., C] of ids [...]."""
        is_code = (ids >= self.start) & (ids < self.end)
        # shapes that depend on no value: every id is looked up both ways
        own = torch.where(ids < self.start, ids, ids - (self.end - self.start))
        plain = F.embedding(torch.where(is_code, 0, own), self.plain)
        codes = torch.where(is_code, ids - self.start, 0)
        shared = self._sums(self.numbers[codes.flatten()]).view_as(plain)
        return torch.where(is_code[..., None], shared, plain)

    def _sums(self, numbers: Tensor) -> Tensor:
        """Return the sums [N, C] of the rows that each line of `numbers` [N, n] names."""
        return F.embedding_bag(numbers, self.rows, mode="sum")


class DigitHead(nn.Module):
    """A DigitHead is the head that is tied to a DigitEmbedding; it has no weights of its own."""

    def __init__(self, embedding: DigitEmbedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # no submodule: its weights are the embedding's

    @property
    def embedding(self) -> DigitEmbedding:
        """Return the embedding whose table it is."""
        return self._embedding[0]

    @property
    def weight(self) -> Tensor:
        """Return the whole table [V, C], with gradients."""
        return self.embedding.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., V] of hidden states [..., C]."""
        return F.linear(hidden, self.weight)


class SharedCodes(NamedTuple):
    """A SharedCodes holds what the loss needs of codes that share their rows."""

    start: int
    """first id of the codes"""
    rows: Tensor
    """[R, C], a row per digit, then per pair of neighbouring digits"""
    levels: tuple[int, ...]
    numbers: Tensor
    """int64 [codes, n]: rows that each code is the sum of"""
    plain: Tensor
    """[V - codes, C]: the rows of all other ids"""


def shared_codes(model: nn.Module) -> SharedCodes | None:
    """Return what codes of a model share, None where each has a row of its own."""
    core: Any = model
    embedding = core.get_input_embeddings()
    if not isinstance(embedding, DigitEmbedding):
        return None
    return SharedCodes(
        embedding.start, embedding.rows, embedding.levels, embedding.numbers, embedding.plain
    )


def digit_numbers(levels: tuple[int, ...], pairs: bool) -> Tensor:
    """Return which rows a code is the sum of, int64 [prod(levels), n]: one per digit, then with
    `pairs` one per pair of neighbouring digits."""
    codes = torch.arange(math.prod(levels))
    strides = [math.prod(levels[:k]) for k in range(len(levels))]
    digits = [codes // stride % level for stride, level in zip(strides, levels, strict=True)]
    numbers, first = [], 0
    for digit, level in zip(digits, levels, strict=True):
        numbers.append(first + digit)
        first += level
    for (one, size), (other, other_size) in itertools.pairwise(zip(digits, levels, strict=True)):
        if pairs:
            numbers.append(first + one + size * other)
            first += size * other_size
    return torch.stack(numbers, 1)


def digit_cross_entropy(
    hidden: Tensor,
    shared: SharedCodes,
    labels: Tensor,
    weights: Tensor,
    losses: Tensor | None = None,
) -> Tensor:
    """Return the sum [] of weight x cross-entropy over the codes alone: hidden [N, C], labels [N]
    codes, weights [N]. `losses` [N] is filled with weight x loss of every target.

    The partition sum over all codes goes along the chain of digits (the forward algorithm of
    linear-chain models): exactly that of a softmax over the codes' logits.
    """
    logits = (hidden @ shared.rows.T).to(weights.dtype)
    target = logits.gather(1, shared.numbers[labels]).sum(1)
    singles = logits[:, : sum(shared.levels)].split(list(shared.levels), 1)
    rest, first = logits[:, sum(shared.levels) :], 0
    total = singles[0]
    for before, after in itertools.pairwise(range(len(shared.levels))):
        size = shared.levels[before] * shared.levels[after]
        total = total[:, None, :]
        if rest.shape[1]:
            pair = rest[:, first : first + size]
            total = total + pair.view(-1, shared.levels[after], shared.levels[before])
        total = total.logsumexp(2) + singles[after]
        first += size
    each = (total.logsumexp(1) - target) * weights
    if losses is not None:
        losses.copy_(each.detach())
    return each.sum()


def share_digits(model: nn.Module, start: int, levels: tuple[int, ...], pairs: bool = True) -> None:
    """Let the codes from id `start` on share their rows of a model's embedding and head by their
    digits, in place.

    Raises ConfigError for a model whose head is not tied to its embedding, and for codes beyond its
    vocabulary.
    """
    core: Any = model
    embedding, head = core.get_input_embeddings(), core.get_output_embeddings()
    rows = len(embedding.weight)
    if head.weight is not embedding.weight:
        raise ConfigError(
            "digits of codes", "are shared by tied tables alone", "tie the head to the embedding"
        )
    if start + math.prod(levels) > rows:
        raise ConfigError(
            f"codes {start} to {start + math.prod(levels) - 1}",
            f"are beyond the vocabulary of {rows}",
            "extend the vocabulary first",
        )
    shared = DigitEmbedding(embedding.weight.detach(), start, levels, pairs)
    core.set_input_embeddings(shared)
    core.set_output_embeddings(DigitHead(shared))


def fold(model: nn.Module) -> None:
    """Write the shared rows out as a model's own tables, in place; a model without any stays as it
    is. Both tables stay one."""
    core: Any = model
    shared = core.get_input_embeddings()
    if not isinstance(shared, DigitEmbedding):
        return
    table = shared.weight.detach()
    rows, width = table.shape
    embedding = nn.Embedding(rows, width, _weight=table)
    head = nn.Linear(width, rows, bias=False, device="meta")
    head.weight = embedding.weight
    core.set_input_embeddings(embedding)
    core.set_output_embeddings(head)
