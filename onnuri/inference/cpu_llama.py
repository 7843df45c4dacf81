"""The forward pass of a Llama-class model on a CPU, laid out for decoding: few calls, no copies.
Knows no requests.

It differs from transformers' in three ways: projections are fused, norms' weights are folded into
them, and the two halves that rotary embedding rotates are neighbours, so that it is one complex
product. Weights lie as [inputs, outputs], which MKL multiplies with a few rows a third faster than
[outputs, inputs]. A test holds it against transformers'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.inference.cache import Cache


def is_plain_llama(model: nn.Module) -> bool:
    """Return whether `LlamaForward` can run a model: a Llama with as many key/value heads as query
    heads and tied embeddings."""
    c: Any = model.config
    return bool(
        c.model_type == "llama"
        and c.num_key_value_heads == c.num_attention_heads
        and c.tie_word_embeddings
        and c.head_dim * c.num_attention_heads == c.hidden_size
    )


class LlamaForward:
    """A Llama's weights in a layout for decoding, and its forward pass over a cache. Shapes: N
    rows, T ids per row, C width."""

    def __init__(self, model: nn.Module) -> None:
        """Copy a Hugging Face Llama's weights into fused matrices and tabulate its rotary
        embedding."""
        core: Any = model.model  # type: ignore[assignment]
        settings: Any = model.config
        self.heads, self.layers = settings.num_attention_heads, settings.num_hidden_layers
        self.width, self.positions = settings.hidden_size, settings.max_position_embeddings
        self.size = self.width // self.heads
        self.embedding = core.embed_tokens.weight.detach()
        self.final = core.norm.weight.detach()
        self.epsilon = torch.tensor(settings.rms_norm_eps)
        self.weights = [_fused_weights(layer, self.heads, self.size) for layer in core.layers]
        theta = settings.rope_parameters["rope_theta"]
        angles = torch.outer(
            torch.arange(self.positions, dtype=torch.float32),
            1.0 / theta ** (torch.arange(0, self.size, 2).float() / self.size),
        )
        turned = torch.polar(torch.ones_like(angles), angles)[:, None]
        self.turns = torch.stack([turned, turned, torch.ones_like(turned)], 1)
        """complex64 [positions, 3, 1, size / 2]: query and key are turned, the value is not"""

    @functools.cached_property
    def head(self) -> Tensor:
        """Return the output projection [C, vocabulary], the last norm's weight folded in."""
        return (self.embedding * self.final).T.contiguous()

    @torch.inference_mode()
    def decode(self, ids: list[int], lengths: list[int], cache: Cache) -> Tensor:
        """Return the last hidden states [N, C], normed, of one new id per row. The rows are the
        cache's first N and hold `lengths` ids; the new keys and values are appended."""
        count, rows, past = len(ids), torch.arange(len(ids)), torch.tensor(lengths)
        longest, mask = max(lengths), None
        if min(lengths) < longest:
            seen = torch.arange(longest + 1) <= past[:, None]
            mask = torch.where(seen, 0.0, -torch.inf)[:, None, None]

        def attend(turned: Tensor, store: Tensor) -> Tensor:
            """Append one layer's keys and values to its cache; return each row's attention over all
            that it holds."""
            store[:, rows, :, past] = turned[:, 1:]
            keys, values = store[:, :count, :, : longest + 1]
            query = turned[:, 0, :, None]
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

        return self._run_layers(torch.tensor(ids), self.turns[past], cache, attend)

    @torch.inference_mode()
    def prefill(self, ids: Tensor, row: int, at: int, cache: Cache) -> Tensor:
        """Return the last hidden states [T, C], normed, of prompt ids [T] that follow the `at` ids
        which one row of the cache holds; their keys and values are appended."""
        count, end = len(ids), at + len(ids)
        mask = torch.ones(count, end, dtype=torch.bool).tril(at) if at else None

        def attend(turned: Tensor, store: Tensor) -> Tensor:
            """Append one layer's keys and values to the row; return causal attention over all that
            it holds."""
            store[:, row, :, at:end] = turned[:, 1:].permute(1, 2, 0, 3)
            keys, values = store[:, row : row + 1, :, :end]
            query = turned[:, 0].transpose(0, 1)[None]
            attended = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=not at
            )
            return attended[0].transpose(0, 1)

        return self._run_layers(ids, self.turns[at:end], cache, attend)

    def _run_layers(
        self, ids: Tensor, turns: Tensor, cache: Cache, attend: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return the last hidden states [N, C], normed, of ids [N]. `attend` appends a layer's keys
        and values to its cache and returns the attention's output."""
        x = self.embedding[ids]
        for w, store in zip(self.weights, cache.layers, strict=True):
            turned = self._project(x, w, turns)
            x = self._finish_layer(x, attend(turned, store).reshape(len(ids), self.width), w)
        return self._norm(x)

    def logits(self, hidden: Tensor, lo: int, hi: int, extra: int | None = None) -> Tensor:
        """Return logits [N, hi - lo] of the ids [lo, hi), and one more column for `extra`, an id
        beyond them."""
        return logits_of(hidden, self.head, lo, hi, extra)

    def _project(self, x: Tensor, w: dict[str, Tensor], turns: Tensor) -> Tensor:
        """Return query, key and value [N, 3, heads, size] of hidden states [N, C], the first two
        rotated by their position (rotary embedding, Su et al. 2021)."""
        y = (self._norm(x) @ w["qkv"]).view(len(x), 3, self.heads, self.size // 2, 2)
        return torch.view_as_real(torch.view_as_complex(y) * turns).flatten(-2)

    def _finish_layer(self, x: Tensor, attended: Tensor, w: dict[str, Tensor]) -> Tensor:
        """Return hidden states [N, C] after a layer's output projection of the attention and its
        MLP, each with its residual connection."""
        x = torch.addmm(x, attended, w["out"])
        gate, up = (self._norm(x) @ w["gate_up"]).chunk(2, -1)
        return torch.addmm(x, F.silu(gate).mul_(up), w["down"])

    def _norm(self, x: Tensor) -> Tensor:
        """Return hidden states divided by their root mean square, without the norm's weight;
        F.rms_norm costs three times as much on few rows."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self.epsilon, size, size, value=1 / self.width).rsqrt_()


def logits_of(hidden: Tensor, head: Tensor, lo: int, hi: int, extra: int | None) -> Tensor:
    """Return logits [N, hi - lo] of hidden states [N, C] by an output projection `head` [C,
    vocabulary], and one more column for `extra`, an id beyond [lo, hi)."""
    logits = hidden @ head[:, lo:hi]
    if extra is None:
        return logits
    return torch.cat([logits, hidden @ head[:, extra : extra + 1]], 1)


def _fused_weights(layer: Any, heads: int, size: int) -> dict[str, Tensor]:
    """Return one layer's weights as matrices [inputs, outputs], projections fused and norms'
    weights folded in."""
    attention, mlp = layer.self_attn, layer.mlp
    before, behind = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    fused = {
        "qkv": queries_keys_values(attention, heads, size) * before,
        "out": attention.o_proj.weight,
        "gate_up": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * behind,
        "down": mlp.down_proj.weight,
    }
    return {name: weight.detach().T.contiguous() for name, weight in fused.items()}


def queries_keys_values(attention: Any, heads: int, size: int) -> Tensor:
    """Return the weights of query, key and value as one matrix [3 C, C]; in the first two, the rows
    that rotary embedding rotates together are neighbours."""
    turned = [
        _interleave_halves(p.weight, heads, size) for p in (attention.q_proj, attention.k_proj)
    ]
    return torch.cat([*turned, attention.v_proj.weight])


def _interleave_halves(weight: Tensor, heads: int, size: int) -> Tensor:
    """Return query or key weights [heads · size, C] with their rows reordered so that k and k +
    size / 2 of a head, which rotary embedding rotates together, are neighbours."""
    return weight.view(heads, 2, size // 2, -1).transpose(1, 2).reshape(heads * size, -1)
