"""The forward pass of any stock class on its own code, for decoding: slower than `Forward`, and as
right. Knows no requests.

The class is run as it is; what is ours is where keys and values lie. `Shelf` stands where
transformers' cache would: it puts what a layer has computed into rows of `Cache` and gives back all
that these rows hold. `rows_attention` lets every row see its own length, and within a window where
the layer has one. Latent attention (MLA) keeps its latents, not keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.inference.cache import Cache

NAME = "onnuri_rows"
"""under which `rows_attention` is known to transformers (`model/backbone.py` sees to that)"""


class Shelf:
    """Rows of a cache as a layer of transformers sees them."""

    def __init__(self, cache: Cache, rows: Tensor, lengths: Tensor) -> None:
        """`rows` [N] are gone on with; they hold `lengths` [N]."""
        self.cache, self.rows, self.lengths = cache, rows, lengths

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Put [N, heads, T, size] behind what the rows hold; all that they then hold, [N, heads,
        longest, size]."""
        count = keys.shape[2]
        at = self.lengths[:, None] + torch.arange(count)
        store, longest = self.cache.layers[layer], int(self.lengths.max()) + count
        held = []
        for half, new in zip(store, (keys, values), strict=True):
            heads, size = new.shape[1], new.shape[3]
            half[self.rows[:, None], :heads, at, :size] = new.transpose(1, 2)
            held.append(half[self.rows, :heads, :longest, :size])
        return held[0], held[1]

    def get_seq_length(self, layer: int = 0) -> int:
        return int(self.lengths.max())


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    shelf: Shelf | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of [N, heads, T, size] to what each row holds and itself: [N, T, heads, size].

    Without a shelf the query is the end of the keys, as in transformers' own.
    """
    tokens, longest = query.shape[2], key.shape[2]
    lengths = shelf.lengths if shelf else torch.tensor([longest - tokens])
    own = (lengths[:, None] + torch.arange(tokens))[:, None, :, None]
    there = torch.arange(longest)
    seen = there <= own
    if sliding_window:
        seen = seen & (there > own - sliding_window)
    made = F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return made.transpose(1, 2), None


def head(model: nn.Module) -> Tensor:
    """What scores ids [vocabulary, C]: the embedding itself, where they are tied."""
    core: Any = model
    weight: Tensor = core.get_output_embeddings().weight
    scale = getattr(core.config, "logits_scaling", 1.0)  # HyperCLOVA X
    return weight if scale == 1.0 else weight * scale


class StockForward:
    """`Forward`'s interface over a stock model."""

    def __init__(self, model: Any) -> None:
        self.model, settings = model, model.config
        self.width, self.positions = (
            int(settings.hidden_size),
            int(settings.max_position_embeddings),
        )
        self.embedding = model.get_input_embeddings().weight.detach()
        self.head = head(model).detach()

    def one(self, ids: Tensor, lengths: Tensor, cache: Cache, longest: int, even: bool) -> Tensor:
        """As in `Forward`: one id [N] a row, [N, C]."""
        return self._states(ids[:, None], Shelf(cache, torch.arange(len(ids)), lengths))[:, 0]

    def chunk(self, ids: Tensor, row: int, at: int, cache: Cache) -> Tensor:
        """As in `Forward`: ids [T] of one row, [T, C]."""
        return self._states(ids[None], Shelf(cache, torch.tensor([row]), torch.tensor([at])))[0]

    @torch.inference_mode()
    def _states(self, ids: Tensor, shelf: Shelf) -> Tensor:
        core = self.model.model
        if core.config._attn_implementation != NAME:
            core.set_attn_implementation(NAME)
        positions = shelf.lengths[:, None] + torch.arange(ids.shape[1])
        states: Tensor = core(
            input_ids=ids,
            position_ids=positions,
            past_key_values=shelf,
            use_cache=True,
            shelf=shelf,
        ).last_hidden_state
        return states

    def logits(self, hidden: Tensor, lo: int, hi: int, extra: int | None = None) -> Tensor:
        """As in `Forward`."""
        found = hidden @ self.head[lo:hi].T
        return (
            found
            if extra is None
            else torch.cat([found, hidden @ self.head[extra : extra + 1].T], 1)
        )
