"""This module lets codes of several digits share their rows of the vocabulary's tables while a
model is trained.

A code of finite scalar quantization is a number of a few digits, and codes that share digits look
alike. With a row per code, a model learns each of 12,800 codes by itself; here a code's row is the
sum of a row per digit and, with `pairs`, of one per pair of neighbouring digits. What is learned of
one code then holds for those near it. Where the head is tied to the embedding it is factorised by
the same sums. `fold` writes the sums out as stock tables, so that the saved model is a plain one.

The module knows no codec: the digits' levels are numbers.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onnuri.errors import ConfigError


class DigitTable(nn.Module):
    """A DigitTable replaces rows `start` … of a table [V, C] by sums over their digits; all other
    rows are the table's own."""

    numbers: Tensor

    def __init__(self, start: int, levels: tuple[int, ...], width: int, pairs: bool, std: float):
        """Share the rows of prod(levels) codes, of which the first level varies fastest. Rows
        begin at random with a standard deviation `std` of their elements."""
        super().__init__()
        self.start, self.codes = start, math.prod(levels)
        numbers = digit_numbers(levels, pairs)
        self.register_buffer("numbers", numbers, persistent=False)
        rows = int(numbers.max()) + 1
        self.rows = nn.Parameter(torch.randn(rows, width) * (std / math.sqrt(numbers.shape[1])))

    def forward(self, table: Tensor) -> Tensor:
        """Return the table [V, C] with the codes' rows as the sums of their digits' rows."""
        end = self.start + self.codes
        rows = self.rows.to(table.dtype)
        shared = nn.functional.embedding_bag(self.numbers, rows, mode="sum")
        return torch.cat([table[: self.start], shared, table[end:]])


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


def share_digits(model: nn.Module, start: int, levels: tuple[int, ...], pairs: bool = True) -> None:
    """Let the codes from id `start` on share their rows of a model's embedding and head by their
    digits, in place.

    Raises ConfigError for a model whose head is not tied to its embedding, and for codes beyond its
    vocabulary.
    """
    core: Any = model
    embedding, head = core.get_input_embeddings(), core.get_output_embeddings()
    rows, width = embedding.weight.shape
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
    table = DigitTable(start, levels, width, pairs, float(embedding.weight.detach().std()))
    table = table.to(embedding.weight.device)
    for module in (embedding, head):  # one object, so that they stay tied
        parametrize.register_parametrization(module, "weight", table)


def fold(model: nn.Module) -> None:
    """Write the shared rows out as a model's own tables, in place; a model without any stays as it
    is. Both tables stay one."""
    core: Any = model
    for module in (core.get_input_embeddings(), core.get_output_embeddings()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
