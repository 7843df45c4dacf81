"""Describe a decoder's architecture, and what follows from it before anything is built: parameters,
FLOPs, bytes of keys and values.

Knows no class of transformers and no hardware. Counts are exact: a test holds them against the
model on the meta device.
"""

from __future__ import annotations

import functools

from onnuri.config import Config


class Attention(Config):
    """One layer's attention: grouped queries, or multi-head latent attention (MLA) where `kv_rank`
    is set."""

    heads: int
    kv_heads: int
    head_dim: int
    """width of queries and keys per head; with MLA its part without positions (`nope`)"""
    value_dim: int | None = None
    """width of values per head; without it, `head_dim`"""
    window: int | None = None
    """tokens that a query sees; None for all before it"""
    query_rank: int = 0
    """MLA: width to which queries are compressed; 0 for none"""
    kv_rank: int = 0
    """MLA: width to which keys and values are compressed"""
    rope_dim: int = 0
    """MLA: width of the part of queries and keys with positions, shared by the heads on the key's
    side"""
    gated: bool = False
    """MLA: the output is gated, by one matrix with the queries that takes their compressed form
    before and behind its norm"""
    qk_norm: bool = False
    bias: bool = False
    """on queries, keys, values and output"""
    sinks: bool = False
    """a learned logit per head that takes attention away from all tokens (GPT-OSS)"""

    @property
    def values(self) -> int:
        """Return the width of values per head."""
        return self.value_dim or self.head_dim

    def projections(self, hidden: int) -> int:
        """Return the number of weights in the matrices that project queries, keys, values and the
        output of one layer, for hidden states of width `hidden`."""
        if not self.kv_rank:
            return hidden * self.head_dim * (self.heads + self.kv_heads) + hidden * self.values * (
                self.kv_heads + self.heads
            )
        query = self.query_outputs()
        queries = (
            hidden * self.query_rank + (1 + self.gated) * self.query_rank * query
            if self.query_rank
            else hidden * query
        )
        return (
            queries
            + hidden * (self.kv_rank + self.rope_dim)
            + self.kv_rank * self.heads * (self.head_dim + self.values)
            + self.heads * self.values * hidden
        )

    def query_outputs(self) -> int:
        """Return how many numbers MLA's queries are projected to, gates counted."""
        return self.heads * (self.head_dim + self.rope_dim + self.gated * self.values)

    def num_params(self, hidden: int) -> int:
        """Return the number of parameters of one layer's attention: projections, norms, biases and
        sinks."""
        vectors = (
            self.query_rank
            + self.kv_rank
            + 2 * self.head_dim * self.qk_norm
            + self.heads * self.sinks
        )
        if self.bias:
            vectors += (
                (self.heads + self.kv_heads) * self.head_dim + self.kv_heads * self.values + hidden
            )
        return self.projections(hidden) + vectors

    def score_flops(self, context: float) -> float:
        """Return the forward multiplications and additions of one token's scores and weighted sum
        over `context` tokens that it sees."""
        return 2 * context * self.heads * (self.head_dim + self.rope_dim + self.values)

    def seen(self, tokens: int, causal: bool = True) -> float:
        """Return the mean number of tokens that a query of a sequence sees; without `causal`, all
        tokens count for every query, as in figures that count attention in full."""
        if self.window and self.window < tokens:
            return (
                self.window - self.window * (self.window - 1) / (2 * tokens)
                if causal
                else self.window
            )
        return (tokens + 1) / 2 if causal else tokens

    def kv_values(self) -> int:
        """Return how many numbers are kept for one token while decoding."""
        return (
            self.kv_rank + self.rope_dim
            if self.kv_rank
            else self.kv_heads * (self.head_dim + self.values)
        )


class Experts(Config):
    """A layer's mixture of experts; `shared` ones see every token."""

    routed: int
    topk: int
    width: int
    shared: int = 0
    shared_width: int | None = None
    """width of one shared expert; without it, `width`"""
    bias: bool = False
    """vectors on the experts' matrices and on the router (GPT-OSS)"""
    latent: int = 0
    """width to which routed experts' tokens are compressed by two more matrices per layer; 0 for
    none"""
    router_bias: int = 0
    """numbers that correct the router's choice without a gradient: buffers, not parameters; 0 or
    `routed`"""


class Block(Config):
    """A block of `count` equal layers."""

    count: int
    attention: Attention | None = None
    mixer_params: int = 0
    """parameters of what stands in attention's place (a state-space layer)"""
    mixer_width: int = 0
    """its inner width"""
    mixer_state: int = 0
    """numbers of state per unit of the inner width"""
    mlp: int = 0
    """width of a dense feed-forward; 0 for none"""
    experts: Experts | None = None
    gated: bool = True
    """three matrices per feed-forward instead of two"""
    norms: int = 2
    """number of vectors of the hidden width"""
    gated_norms: int = 0
    """number of those norms whose output passes a gate of two matrices"""
    gate_rank: int = 0
    """width between the two matrices of such a gate"""
    centred: bool = False
    """norms multiply by 1 + weight, in 32 bits"""
    mlp_bias: bool = False
    other_params: int = 0
    """weights of matrices that every token passes and that no other field holds; negative where two
    projections share one"""
    vector_params: int = 0
    """numbers that no product multiplies and no other field holds: biases, further norms, tables"""
    idle_params: int = 0
    """numbers that text alone never passes: attention to an encoder, rows without an expert"""
    repeated_params: int = 0
    """of the layer's weights, those that are another layer's own: computed with again, not counted
    again"""

    @property
    def outer_norms(self) -> int:
        """Return the number of norms between attention and feed-forward: A.X K1's third one is a
        part of the mixture."""
        return self.norms - (self.norms == 3)

    def mlp_params(self, hidden: int, width: int) -> int:
        """Return the weights of a feed-forward of this width: three matrices where it is gated,
        else two."""
        return (2 + self.gated) * hidden * width

    def num_params(self, hidden: int) -> int:
        """Return the number of parameters of one of the block's layers, for hidden states of width
        `hidden`."""
        rest = self.other_params + self.vector_params + self.idle_params - self.repeated_params
        return (
            self.mixer(hidden)
            + self.feed_forward(hidden)
            + self.routed(hidden)
            + self.norms * hidden
            + rest
        )

    def matrices(self, hidden: int) -> int:
        """Return the weights of the matrices that the fields name, all routed experts counted,
        without `other_params`."""
        total = (
            2 * hidden * self.gate_rank * self.gated_norms
            + self.mixer_params
            + self._feed_forward_matrices(hidden)
        )
        if self.attention:
            total += self.attention.projections(hidden)
        if e := self.experts:
            total += e.routed * self.mlp_params(e.latent or hidden, e.width)
        return total

    def vectors(self, hidden: int) -> int:
        """Return the numbers that the fields name and that are no matrix's: norms and biases,
        without `vector_params`."""
        named = (
            self.mixer(hidden)
            + self.feed_forward(hidden)
            + self.routed(hidden)
            + self.norms * hidden
        )
        return named - self.matrices(hidden)

    def mixer(self, hidden: int) -> int:
        """Return the number of parameters of one layer's attention or of what stands in its place,
        gates of norms counted."""
        gates = 2 * hidden * self.gate_rank * self.gated_norms
        return (
            (self.attention.num_params(hidden) if self.attention else 0) + self.mixer_params + gates
        )

    def feed_forward(self, hidden: int) -> int:
        """Return the number of one layer's feed-forward parameters that every token passes: dense
        feed-forward, shared experts and router."""
        total = self._feed_forward_matrices(hidden)
        if self.mlp:
            total += self.mlp_bias * ((1 + self.gated) * self.mlp + hidden)
        if e := self.experts:
            total += e.bias * e.routed
        return total

    def _feed_forward_matrices(self, hidden: int) -> int:
        """Return the weights of one layer's feed-forward matrices that every token passes: dense
        feed-forward, shared experts, router, compression of experts' tokens."""
        total = self.mlp_params(hidden, self.mlp)
        if e := self.experts:
            shared = e.shared * self.mlp_params(hidden, e.shared_width or e.width)
            total += shared + e.routed * hidden + 2 * hidden * e.latent
        return total

    def routed(self, hidden: int) -> int:
        """Return the number of parameters of all routed experts of one layer."""
        e = self.experts
        return e.routed * self.expert(hidden) if e else 0

    def expert(self, hidden: int) -> int:
        """Return the number of parameters of one routed expert; 0 without experts."""
        e = self.experts
        return (
            self.mlp_params(e.latent or hidden, e.width)
            + e.bias * ((1 + self.gated) * e.width + hidden)
            if e
            else 0
        )


class Architecture(Config):
    """A decoder: embedding, blocks, head."""

    name: str
    vocabulary: int
    hidden: int
    blocks: tuple[Block, ...]
    tied: bool = False
    """one matrix for embedding and head"""
    positions: int = 0
    """number of learned position embeddings; 0 with RoPE"""
    mtp: tuple[Block, ...] = ()
    """layers that predict tokens further on, each with a projection of two hidden states and three
    norms; not in `num_params` (published totals leave them out), but in training's cost"""
    context: int = 131_072
    """longest sequence in tokens"""
    embedding_width: int = 0
    """width of embedding and head where it is not `hidden`"""
    other_params: int = 0
    """weights of matrices outside the layers, embedding and head that every token passes"""
    table_params: int = 0
    """numbers outside the layers that no product multiplies: further tables, biases and norms, less
    one norm"""
    extra_flops: float = 0.0
    """forward FLOPs per token that no weight above explains, as torch counts them: recurrences,
    layers that run again"""
    unsure: float = 0.0
    """what widens every range: 0 for an architecture that the formulas hold whole, 1 for one that
    is assumed"""

    @functools.cached_property
    def layers(self) -> int:
        """Return the number of layers in all blocks."""
        return sum(b.count for b in self.blocks)

    @functools.cached_property
    def alike(self) -> tuple[int, ...]:
        """Return for every block the index of the first one that differs in nothing but the number
        of layers, so that costs are counted once for all of them."""
        shapes = [b.replace(count=1) for b in self.blocks]
        return tuple(map(shapes.index, shapes))

    @functools.cached_property
    def mixture(self) -> bool:
        """Return whether any block has experts, so that the model is a mixture of experts."""
        return any(b.experts for b in self.blocks)

    def merged(self) -> Architecture:
        """Return the architecture with layers of one kind side by side, so that costs that no order
        changes are counted faster."""
        counts: dict[int, int] = {}
        for k, block in zip(self.alike, self.blocks, strict=True):
            counts[k] = counts.get(k, 0) + block.count
        return self.replace(
            blocks=tuple(self.blocks[k].replace(count=count) for k, count in counts.items())
        )

    def num_params(self) -> int:
        """Return the number of parameters of embedding, blocks and head."""
        return self._num_params

    @functools.cached_property
    def _num_params(self) -> int:
        """Return the number of parameters of embedding, blocks and head, counted once and
        cached."""
        outside = self.hidden * (1 + self.positions) + self.other_params + self.table_params
        return (
            self.embedding() * (2 - self.tied)
            + outside
            + sum(b.count * b.num_params(self.hidden) for b in self.blocks)
        )

    def num_active_params(self) -> int:
        """Return the number of parameters that one token passes, embedding and head counted."""
        return self._num_active_params

    @functools.cached_property
    def _num_active_params(self) -> int:
        """Return the number of parameters that one token passes, counted once and cached."""
        idle = sum(
            b.count * (b.experts.routed - b.experts.topk) * b.expert(self.hidden)
            for b in self.blocks
            if b.experts
        )
        return self.num_params() - idle - sum(b.count * b.idle_params for b in self.blocks)

    def embedding(self) -> int:
        """Return the number of weights in the embedding's matrix, vocabulary times width."""
        return self.vocabulary * (self.embedding_width or self.hidden)

    def flops_per_token(self, tokens: int, causal: bool = True) -> float:
        """Return the model FLOPs of forward and backward of one token in sequences of `tokens`,
        without recomputation.

        They are 6 per weight in a product (Kaplan et al. 2020, arXiv 2001.08361), and for
        attention's scores thrice their forward pass.
        """
        weights = (
            self.num_active_params()
            - self.embedding() * (1 - self.tied)
            - self.hidden * (1 + self.positions)
        )
        weights -= self.table_params
        weights -= sum(
            b.count * (b.norms * self.hidden + b.vector_params - b.repeated_params)
            for b in self.blocks
        )
        scores = sum(
            b.count * b.attention.score_flops(b.attention.seen(tokens, causal))
            for b in self.blocks
            if b.attention
        )
        return 6 * weights + 3 * scores + 3 * self.extra_flops
