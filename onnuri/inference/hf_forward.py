"""The forward pass of any Hugging Face class by its own code, for decoding: slower than
`LlamaForward`, and as exact. Knows no requests.

The class runs unchanged; only its keys and values lie in our `Cache`. `CacheView` stands where
transformers' cache would: it appends a layer's keys and values to rows of the cache and returns all
that these rows hold. `rows_attention` limits every row to its own length, and to a window where the
layer has one. Latent attention (MLA) caches its latents, not keys and values.
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
    """Some rows of a `Cache`, with the interface of a key/value cache that transformers' layers
    call."""

    def __init__(self, cache: Cache, rows: Tensor, lengths: Tensor) -> None:
        """View the rows `rows` [N] of a cache, which hold `lengths` [N] ids."""
        self.cache, self.rows, self.lengths = cache, rows, lengths

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Append a layer's keys and values [N, heads, T, size] to the rows; return all that the
        rows then hold, each [N, heads, longest, size]."""
        count = keys.shape[2]
        at = self.lengths[:, None] + torch.arange(count)
        store, longest = self.cache.layers[layer], int(self.lengths.max()) + count
        stored = []
        for half, new in zip(store, (keys, values), strict=True):
            heads, size = new.shape[1], new.shape[3]
            half[self.rows[:, None], :heads, at, :size] = new.transpose(1, 2)
            stored.append(half[self.rows, :heads, :longest, :size])
        return stored[0], stored[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Return how many ids the longest row holds."""
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
    """Return attention [N, T, heads, size] of queries [N, heads, T, size] to the ids of their own
    row, up to themselves and within the sliding window.

    Without a cache view the queries are the last of the keys, as in transformers' own attention.
    """
    tokens, longest = query.shape[2], key.shape[2]
    where = query.device
    lengths = cache_view.lengths if cache_view else torch.tensor([longest - tokens], device=where)
    own = (lengths[:, None] + torch.arange(tokens, device=where))[:, None, :, None]
    there = torch.arange(longest, device=where)
    seen = there <= own
    if sliding_window:
        seen = seen & (there > own - sliding_window)
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return attended.transpose(1, 2), None


def head(model: nn.Module) -> Tensor:
    """Return the output projection [vocabulary, C] of a Hugging Face model, scaled where the class
    scales its logits; where embeddings are tied it is the embedding itself."""
    core: Any = model
    weight: Tensor = core.get_output_embeddings().weight
    scale = getattr(core.config, "logits_scaling", 1.0)  # HyperCLOVA X
    return weight if scale == 1.0 else weight * scale


class HFForward:
    """A forward pass with `LlamaForward`'s interface that runs a Hugging Face model's own code."""

    def __init__(self, model: Any) -> None:
        """Take a transformers causal language model; its output projection is read once."""
        self.model = model
        self.width = int(model.config.hidden_size)
        self.positions = int(model.config.max_position_embeddings)
        self.head = head(model).detach()

    def decode(self, ids: list[int], lengths: list[int], cache: Cache) -> Tensor:
        """Return the last hidden states [N, C] of one new id per row, as `LlamaForward.decode`
        does."""
        view = CacheView(cache, torch.arange(len(ids)), torch.tensor(lengths))
        return self._states(torch.tensor(ids)[:, None], view)[:, 0]

    def prefill(self, ids: Tensor, row: int, at: int, cache: Cache) -> Tensor:
        """Return the last hidden states [T, C] of prompt ids [T] of one row, as
        `LlamaForward.prefill` does."""
        view = CacheView(cache, torch.tensor([row]), torch.tensor([at]))
        return self._states(ids[None], view)[0]

    @torch.inference_mode()
    def _states(self, ids: Tensor, view: CacheView) -> Tensor:
        """Return the last hidden states [N, T, C] of ids [N, T], which are appended to a view's
        rows."""
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
        """Return logits [N, hi - lo], with one more column for `extra`, as `LlamaForward.logits`
        does."""
        return logits_of(hidden, self.head.T, lo, hi, extra)
