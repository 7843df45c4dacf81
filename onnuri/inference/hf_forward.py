"""The forward pass of any stock class on its own code, for decoding: slower than `LlamaForward`,
and as right. Knows no requests.

The class is run as it is; what is ours is where keys and values lie. `CacheView` stands where
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
from onnuri.inference.cpu_llama import logits_of

NAME = "onnuri_rows"
"""under which `rows_attention` is known to transformers (`model/backbone.py` sees to that)"""


class CacheView:
    """Rows of a cache as a layer of transformers sees them."""

    def __init__(self, cache: Cache, rows: Tensor, lengths: Tensor) -> None:
        """`rows` [N] are gone on with; they hold `lengths` [N]."""
        self.cache, self.rows, self.lengths = cache, rows, lengths

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Put [N, heads, T, size] behind what the rows hold; return all that they then hold, [N,
        heads, longest, size]."""
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
        """Return the length of the longest row."""
        return int(self.lengths.max())


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    cache_view: CacheView | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of [N, heads, T, size] to what each row holds and itself: [N, T, heads, size].

    Without a shelf the query is the end of the keys, as in transformers' own.
    """
    tokens, longest = query.shape[2], key.shape[2]
    lengths = cache_view.lengths if cache_view else torch.tensor([longest - tokens])
    own = (lengths[:, None] + torch.arange(tokens))[:, None, :, None]
    there = torch.arange(longest)
    seen = there <= own
    if sliding_window:
        seen = seen & (there > own - sliding_window)
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return attended.transpose(1, 2), None


def head(model: nn.Module) -> Tensor:
    """Return what scores ids, [vocabulary, C]: the embedding itself, where they are tied."""
    core: Any = model
    weight: Tensor = core.get_output_embeddings().weight
    scale = getattr(core.config, "logits_scaling", 1.0)  # HyperCLOVA X
    return weight if scale == 1.0 else weight * scale


class HFForward:
    """`LlamaForward`'s interface over a stock model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.width = int(model.config.hidden_size)
        self.positions = int(model.config.max_position_embeddings)
        self.head = head(model).detach()

    def decode(self, ids: list[int], lengths: list[int], cache: Cache) -> Tensor:
        """Return [N, C] of one id per row, as `LlamaForward` does."""
        view = CacheView(cache, torch.arange(len(ids)), torch.tensor(lengths))
        return self._states(torch.tensor(ids)[:, None], view)[:, 0]

    def prefill(self, ids: Tensor, row: int, at: int, cache: Cache) -> Tensor:
        """Return [T, C] of ids [T] of one row, as `LlamaForward` does."""
        view = CacheView(cache, torch.tensor([row]), torch.tensor([at]))
        return self._states(ids[None], view)[0]

    @torch.inference_mode()
    def _states(self, ids: Tensor, view: CacheView) -> Tensor:
        core = self.model.model
        if core.config._attn_implementation != NAME:
            core.set_attn_implementation(NAME)
        positions = view.lengths[:, None] + torch.arange(ids.shape[1])
        states: Tensor = core(
            input_ids=ids,
            position_ids=positions,
            past_key_values=view,
            use_cache=True,
            cache_view=view,
        ).last_hidden_state
        return states

    def logits(self, hidden: Tensor, lo: int, hi: int, extra: int | None = None) -> Tensor:
        """Return logits as `LlamaForward` does."""
        return logits_of(hidden, self.head.T, lo, hi, extra)
