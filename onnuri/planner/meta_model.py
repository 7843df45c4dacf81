"""Read any causal language model of transformers as an `Architecture`, from its modules on the meta
device.

Parameter shapes are the count: nothing is allocated and no list of families is kept. A weight's
part (attention, dense feed-forward, routed or shared experts, router, state-space mixer) follows
from its path and shape; what belongs to none of them stays in the counts and is named. torch and
transformers are imported here alone, and only when a config is read.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase, joined
from onnuri.planner import meta_flops, stock
from onnuri.planner.architecture import Architecture, Attention, Block, Experts

TOWER = re.compile(
    r"vision|visual|multi_?modal|audio|image|speech|video|"
    r"(^|[._])(vit|sam|vq|vqmodel|tower|whisper)([._]|$)",
    re.I,
)
"""paths of modules that turn other modalities into hidden states"""
NOT_MULTIPLIED = re.compile(
    r"(^|[._])(a_log|d|bias|position_bias|seg_embed|time_mix_\w+|scale|static_weight|rel_pos_\w|"
    r"r_r_bias|r_s_bias|r_w_bias|input_gate_bias|recurrent_gate_bias|dt_proj_bias|\w+_bias)$",
    re.I,
)
"""names of parameters of two or more dimensions that no product multiplies"""
EXPERTS = re.compile(r"(^|\.)experts\.", re.I)
SHARED = re.compile(r"shared_(expert|mlp)", re.I)
ROUTER = re.compile(r"(^|\.)(router|gate)(\.|$)|router", re.I)
CROSS = re.compile(r"encoder_attn|crossattention|cross_attn", re.I)
MIXER = re.compile(
    r"a_log$|dt_bias$|dt_proj|time_decay|rg_lru|igate|mamba|ssm|linear_attn|"
    r"conv\.conv|conv_1d|forget_gate",
    re.I,
)
"""paths of a layer's sequence mixer: parts that only state-space, recurrent and linear-attention
layers have"""
ATTENTION = re.compile(r"att|(^|\.)(q|k|v|out)_lin\.|(^|\.)(q|k|v|o)_proj\.", re.I)
QUERY = re.compile(
    r"(^|\.)(q_proj|query|q_lin|wq|q|project_q|query_proj|q)(\.linear)?(\.weight)?$", re.I
)
KEY = re.compile(r"(^|\.)(k_proj|key|k_lin|wk|k|project_k|key_proj)(\.linear)?(\.weight)?$", re.I)
VALUE = re.compile(
    r"(^|\.)(v_proj|value|v_lin|wv|v|project_v|value_proj)(\.linear)?(\.weight)?$", re.I
)
FUSED = re.compile(
    r"(^|\.)(qkv|qkv_proj|query_key_value|c_attn|wqkv|att_proj|in_proj)(\.weight)?$", re.I
)
OUTPUT = re.compile(
    r"(^|\.)(o_proj|out_proj|dense|c_proj|out_lin|wo|o|proj|attention_out|output\.dense)(\.linear)?"
    r"(\.weight)?$",
    re.I,
)
DOWN = re.compile(
    r"(^|\.)(down_proj|down|w2|wo|w_out|output_linear|fc2|fc_out|c_proj|dense_4h_to_h|lin2|"
    r"layer_2|output|output\.dense|proj_down|out_proj|value)(\.linear)?(\.weight)?$",
    re.I,
)
TOPK = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
    "top_k",
    "topk",
    "num_selected_experts",
    "moe_k",
    "experts_per_token",
)
ASSUMED_TOPK = 8
"""experts per token where a config names none: the commonest of the shipped shapes"""
ALL_EXPERTS = "the chosen experts alone, though transformers' own code computes all of them"
"""note on classes of transformers that compute every expert for every token"""
CHUNKS = ("chunk_size", "mamba_chunk_size", "chunk_length")
"""names of the config's value that says how many tokens a state-space layer takes at once"""
HEADS = ("num_heads", "num_attention_heads", "n_heads", "head_dim", "num_key_value_heads")
"""attributes of which an attention's module has one"""
CLOSE = 0.005
"""share of torch's count of FLOPs within which the formulas' count needs no correction"""
RECURRENT = ("linear", "mamba", "conv", "recurrent", "ssm", "rwkv")
"""words in `layer_types` that name layers without attention"""


class ModelReading(Config):
    """What is read of one config, and what the planner's formulas do not hold of it."""

    architecture: Architecture
    total: int
    """parameters of the class as transformers builds it, those that are left out counted"""
    left_out: dict[str, int]
    """towers of other modalities by path: parameters that the architecture does not hold"""
    unplaced: dict[str, int]
    """parts that the model of cost has no formula for: parameters by name, counted as products of
    every token"""
    run_again: float | None
    """share by which torch counts more FLOPs per token than the formulas; None where the class does
    not run on the meta device"""
    assumed: tuple[str, ...]
    """sentences on values that the config does not name"""
    recurrent: int
    """parameters of state-space, recurrent and linear-attention mixers, whose cost is rough"""
    context: int | None
    """longest sequence in tokens that the config names"""
    model_class: str
    model_type: str


class _Weight(NamedTuple):
    """One parameter of a layer."""

    path: str
    """inside the layer"""
    shape: tuple[int, ...]
    """output features first"""
    matrix: bool
    """whether products multiply it"""
    again: bool
    """whether it is another layer's own"""

    stacked: bool = False
    """whether it is one matrix per expert in one tensor"""

    @property
    def size(self) -> int:
        """Return how many numbers the parameter has."""
        return math.prod(self.shape)


def read(config: Any, name: str = "") -> ModelReading:
    """Return what the planner reads of a config of transformers. Raises ConfigError where no class
    builds it."""
    model = build(config)
    return _Reader(model, config.get_text_config(decoder=True), name or config.model_type).reading()


def build(config: Any) -> Any:
    """Return the causal language model of a config on the meta device, without allocating any
    weight.

    A config of several modalities that has no causal class itself is built as its text's, or as the
    class that reads images and text. Raises ConfigError where no class builds it.
    """
    errors: list[Exception] = []
    for part in _parts(config):
        for model_class in dict.fromkeys((_class(part), _class(config))):
            try:
                if model_class is not None:
                    return _on_meta(model_class, part)
            except Exception as error:
                errors.append(error)
    if not errors:
        raise ConfigError(
            Phrase("model type {!r}", config.model_type),
            "has no causal language model in transformers",
            "give a decoder's config",
        )
    why = " ".join(str(errors[0]).split())[:160]
    raise ConfigError(
        f"config of {config.model_type}",
        Phrase("builds no model ({}: {})", type(errors[0]).__name__, why),
        "complete the config",
    )


def _parts(config: Any) -> list[Any]:
    """Return a config and the configs inside it of a text decoder, where it holds several
    modalities."""
    configs = [config]
    for part in (config.get_text_config(decoder=True), getattr(config, "decoder", None)):
        if hasattr(part, "model_type") and all(part is not f for f in configs):
            configs.append(part)
    return configs


def _class(config: Any) -> Any:
    """Return the class of transformers that a config builds, causal ones first, or None."""
    from transformers.models.auto import modeling_auto

    for mapping in (
        "MODEL_FOR_CAUSAL_LM_MAPPING",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    ):
        known = getattr(modeling_auto, mapping, {})
        if type(config) in known:
            model_class = known[type(config)]
            return model_class[0] if isinstance(model_class, (tuple, list)) else model_class
    return None


def _on_meta(model_class: Any, config: Any) -> Any:
    """Return the model of a class and a config on the meta device."""
    import torch

    with torch.device("meta"):
        return model_class._from_config(config)


def _size(weights: Iterable[_Weight]) -> int:
    """Return how many numbers the matrices among these weights have."""
    return sum(w.size for w in weights if w.matrix)


def _rows(weights: Iterable[_Weight], hidden: int) -> int:
    """Return the number of output features of matrices that read the hidden states."""
    return sum(w.size // (w.shape[-1] if len(w.shape) == 2 else hidden) for w in weights)


def _positive_integer(owner: Any, *names: str) -> int | None:
    """Return the first of some attributes that is a whole number above 0, or None."""
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _of_layer(values: Any, index: int) -> Any:
    """Return a layer's own value where a config has one per layer, else None."""
    if isinstance(values, (list, tuple)) and index < len(values):
        return values[index]
    return None


def _unnumbered(path: str) -> str:
    """Return a parameter's path without the layers' and experts' numbers in it, and without
    `.weight`."""
    return re.sub(r"\.\d+(?=\.|$)", "", path).removesuffix(".weight")


class _Reader:
    """Sorts one model's parameters by layer and part, and makes an architecture of them."""

    def __init__(self, model: Any, config: Any, name: str) -> None:
        self.model, self.config, self.name = model, config, name
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.unplaced: dict[str, int] = defaultdict(int)
        self.recurrent = 0
        self.assumed: dict[str, None] = {}
        self.parameters: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
        self.first: dict[int, str] = {}
        for path, value in self.parameters.items():
            self.first.setdefault(id(value), path)
        self.head = self._embedding("get_output_embeddings")
        self.table = self._embedding("get_input_embeddings")

    def _embedding(self, method: str) -> Any:
        """Return the weight of the embedding or the head by transformers' method that gets its
        module, or None."""
        try:
            module = getattr(self.model, method)()
        except (AttributeError, NotImplementedError, TypeError):
            return None
        return getattr(module, "weight", None)

    def reading(self) -> ModelReading:
        """Return the architecture of the model, with what is left out, unplaced or assumed."""
        layers, outside = self._layers_and_rest()
        left_out: dict[str, int] = {}
        for path in [p for p in outside if TOWER.search(p) and self._is_layer_weight(p)]:
            tower = self._tower(path)
            left_out[tower] = left_out.get(tower, 0) + self._own_numbers(path)
            del outside[path]
        hidden = self._hidden(layers)
        self.hidden = hidden
        blocks = [self._block(index, weights) for index, weights in layers]
        architecture = self._architecture(stock.merged(blocks), hidden, outside)
        again, extra = self._flops_beyond_formulas(architecture)
        architecture = architecture.replace(extra_flops=extra)
        total = sum(p.numel() for p in {id(p): p for p in self.parameters.values()}.values())
        counted = architecture.num_params() + sum(left_out.values())
        if counted != total:  # what stands nowhere else
            architecture = architecture.replace(
                table_params=architecture.table_params + total - counted
            )
        return ModelReading(
            architecture=architecture,
            total=total,
            left_out=left_out,
            run_again=again,
            assumed=tuple(self.assumed),
            unplaced={k: v for k, v in self.unplaced.items() if v},
            recurrent=self.recurrent,
            context=_positive_integer(self.config, "max_position_embeddings"),
            model_class=type(self.model).__name__,
            model_type=str(getattr(self.model.config, "model_type", "")),
        )

    def _flops_beyond_formulas(self, architecture: Architecture) -> tuple[float | None, float]:
        """Return the share by which torch counts more FLOPs than the formulas, and the difference
        per token where it matters.

        A class that computes every expert for every token makes no difference: engines compute the
        chosen ones.
        """
        chunks = (_positive_integer(self.config, name) or 0 for name in CHUNKS)
        tokens = max(meta_flops.TOKENS, min(max(chunks), 512))
        counted = meta_flops.forward_flops(self.model, tokens)
        if counted is None:
            return None, 0.0
        formula = forward(architecture, tokens)
        idle = architecture.num_params() - architecture.num_active_params()
        if idle and abs(counted / (formula + 2 * idle) - 1) < 4 * CLOSE:
            self.assumed[ALL_EXPERTS] = None
            return 0.0, 0.0
        more = counted / formula - 1
        return more, 0.0 if abs(more) < CLOSE else counted - formula

    def _own_numbers(self, path: str) -> int:
        """Return how many numbers a parameter has; 0 for a shared one that was counted under an
        earlier path."""
        value = self.parameters[path]
        return value.numel() if self.first[id(value)] == path else 0

    def _is_layer_weight(self, path: str) -> bool:
        """Return whether a parameter is neither the embedding nor the head."""
        return all(self.parameters[path] is not w for w in (self.table, self.head) if w is not None)

    def _tower(self, path: str) -> str:
        """Return a parameter's path up to the module that names another modality."""
        parts = path.split(".")
        return next(
            ".".join(parts[:n])
            for n in range(1, len(parts) + 1)
            if TOWER.search(".".join(parts[:n]))
        )

    def _layers_and_rest(self) -> tuple[list[tuple[int, list[_Weight]]], dict[str, Any]]:
        """Return the layers as pairs of index and weights, and the parameters outside all layers by
        path.

        The layers are those of the largest list of modules, with lists of its length beside it
        joined. What towers hold makes no list large. Raises ConfigError for a model without
        repeated layers.
        """
        lists: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        sizes: dict[str, int] = defaultdict(int)
        for path, value in self.parameters.items():
            if match := re.match(r"(.*?)\.(\d+)\.", path):
                lists[match[1]][int(match[2])].append(path)
                if not TOWER.search(path):
                    sizes[match[1]] += value.numel()
        if not sizes:
            raise ConfigError(
                f"config of {self.name}",
                "builds a model without repeated layers",
                "give a decoder's config",
            )
        main = self.main = max(sizes, key=lambda name: sizes[name])
        parent, count = main.rpartition(".")[0], len(lists[main])
        beside = [
            name
            for name in sizes
            if name.rpartition(".")[0] == parent and len(lists[name]) == count and count > 1
        ]
        outside = dict(self.parameters)
        layers: dict[int, list[_Weight]] = defaultdict(list)
        for name in beside or [main]:
            prefix = "" if name == main else f"{name.rpartition('.')[2]}."
            for place, paths in lists[name].items():
                for path in filter(self._is_layer_weight, paths):
                    inside = path.removeprefix(f"{name}.{place}.")
                    layers[place].append(self._weight(path, prefix + inside, outside.pop(path)))
        return sorted(layers.items()), outside

    def _weight(self, path: str, inside: str, value: Any) -> _Weight:
        """Return one parameter of a layer as a weight with output features first."""
        owner = self.modules.get(path.rpartition(".")[0])
        shape = tuple(value.shape)
        kind = type(owner).__name__
        matrix = len(shape) > 1 and "Embedding" not in kind and not NOT_MULTIPLIED.search(path)
        if matrix and kind == "Conv1D" and len(shape) == 2:  # of GPT-2: input features first
            shape = shape[::-1]
        stacked = matrix and len(shape) == 3 and "Conv" not in kind and min(shape) > 1
        return _Weight(inside, shape, matrix, self.first[id(value)] != path, stacked)

    def _hidden(self, layers: list[tuple[int, list[_Weight]]]) -> int:
        """Return the width that most of the layers' matrices share, because a config may call it
        anything."""
        votes: dict[int, int] = defaultdict(int)
        named = getattr(self.config, "hidden_size", None)
        for _, weights in layers:
            for w in weights:
                if w.matrix:
                    for size in set(w.shape[-2:]):
                        votes[size] += 1
        if isinstance(named, int) and votes.get(named):
            return named
        return max(votes, key=lambda size: votes[size])

    # ---- one layer

    def _block(self, index: int, weights: list[_Weight]) -> Block:
        """Return one layer as a block: its attention, mixer, feed-forward and experts, and what the
        formulas do not hold."""
        parts: dict[str, list[_Weight]] = defaultdict(list)
        experts = self.routed = self._routed(weights)
        recurrent = self._recurrent(index, weights)
        for w in weights:
            parts[self._part(w, weights, bool(experts), recurrent)].append(w)
        vectors = sum(w.size for w in weights if not w.matrix)
        repeated = sum(w.size for w in weights if w.again)
        block = Block(count=1, norms=0, repeated_params=repeated)
        mlp, gated = self._feed_forward(parts["mlp"])
        routed = self._experts(index, parts, gated if mlp else None)
        if routed:
            block = block.replace(experts=routed[0], gated=routed[1])
        if mlp:
            block = block.replace(mlp=mlp, gated=gated if not routed else block.gated)
        attention = self._attention(index, parts["attention"])
        if attention:
            block = block.replace(attention=attention)
        if parts["mixer"]:
            mixer = parts["mixer"]
            block = block.replace(mixer_params=_size(mixer), mixer_width=self._inner(mixer))
            self.recurrent += _size(w for w in mixer if not w.again)
        idle = sum(w.size for w in parts["cross"])
        if idle and not (parts["attention"] or parts["mixer"]):
            # a layer of its own for an encoder's states
            block, idle = Block(count=1, norms=0, repeated_params=repeated), _size(weights)
        elif routed:
            e = routed[0]
            spare = _size(parts["experts"]) - e.routed * block.mlp_params(
                e.latent or self.hidden, e.width
            )
            if spare > 0:
                idle += spare
                self.unplaced["rows of experts' tensors beyond the experts"] += spare
        norms = [
            w
            for w in weights
            if w.shape == (self.hidden,) and re.search("(norm|ln).*weight$", w.path, re.I)
        ]
        block = block.replace(norms=min(len(norms), 4))
        # what the formulas do not hold: products of every token, and numbers that no product
        # multiplies
        other = _size(weights) - idle - block.matrices(self.hidden)
        block = block.replace(other_params=other)
        block = block.replace(vector_params=vectors - block.vectors(self.hidden), idle_params=idle)
        self._name_rest(parts, block)
        return block

    def _name_rest(self, parts: dict[str, list[_Weight]], block: Block) -> None:
        """Record the weights that no formula holds in `unplaced`: by name where they are a part of
        their own, else as the rest of a part."""
        for w in parts["other"]:
            if w.matrix:
                self.unplaced[_unnumbered(w.path)] += w.size
        if cross := sum(w.size for w in parts["cross"]):
            self.unplaced["attention to an encoder, which text alone does not use"] += cross
        if block.idle_params and not (block.attention or block.mixer_params):
            return  # a layer of its own for an encoder's states: its feed-forward is idle too
        projections = block.attention.projections(self.hidden) if block.attention else 0
        feed_forward = block.mlp_params(self.hidden, block.mlp)
        self.unplaced["further projections of attention"] += abs(
            _size(parts["attention"]) - projections
        )
        self.unplaced["further products of feed-forwards"] += abs(
            _size(parts["mlp"]) - feed_forward
        )

    def _part(self, w: _Weight, weights: list[_Weight], mixture: bool, recurrent: set[str]) -> str:
        """Return which part of a layer a weight belongs to: attention, mixer, mlp, experts, shared,
        router, cross or other.

        `mixture` says whether the layer has routed experts, `recurrent` which first parts of paths
        have a state instead of scores.
        """
        path, inside = w.path, w.path.split(".")[0] in recurrent
        if CROSS.search(path):
            return "cross"
        if SHARED.search(path):
            if mixture and not re.search(
                r"shared_expert_gate|shared_\w*\.(router|gate)(\.|$)", path
            ):
                return "shared"
            return "other" if mixture else "mlp"
        stacked = w.stacked and w.shape[0] == self.routed
        if mixture and "router" not in path and (EXPERTS.search(path) or stacked):
            return "experts"
        routes = re.search(r"(^|[._])(router|gate|classifier)([._]|$)", path)
        if mixture and w.matrix and routes and "att" not in path:
            return "router"
        if re.search(
            r"indexer|compressor|sconv|adapter|altup|laurel|per_layer|_hc\.|"
            r"norm[^.]*(\.mlp\..*|\.\w+)?$",
            path,
        ):
            return "other"
        if MIXER.search(path):
            return "mixer"
        if ATTENTION.search(path) or re.search(r"^(mixer|temporal_block)\.(q|k|v|o)_proj", path):
            return "mixer" if inside else "attention"
        if re.search(r"^(mixer|temporal_block|mlstm_layer|conv)\.|(^|\.)conv\.", path):
            return (
                "mixer" if inside or not re.search(r"mixer\.(up|down|gate)_proj", path) else "mlp"
            )
        if re.search(
            r"mlp|ff|feed_forward|fc\d|fc_|intermediate|output\.dense|lin\d|dense_|"
            r"up_proj|down_proj|gate_proj",
            path,
        ):
            return "mlp"
        return "other"

    def _recurrent(self, index: int, weights: list[_Weight]) -> set[str]:
        """Return the first parts of the paths of this layer's weights that have a state instead of
        attention scores."""
        heads = {w.path.split(".")[0] for w in weights if ATTENTION.search(w.path)}
        kinds = getattr(self.config, "layer_types", None) or getattr(
            self.config, "layers_block_type", None
        )
        kind = str(_of_layer(kinds, index) or "")
        if any(word in kind for word in RECURRENT) and "hybrid" not in kind:
            return heads
        return {w.path.split(".")[0] for w in weights if MIXER.search(w.path)}

    def _inner(self, mixer: list[_Weight]) -> int:
        """Return a mixer's inner width: the input of its last product."""
        inputs = [
            w.shape[1]
            for w in mixer
            if w.matrix
            and len(w.shape) == 2
            and w.shape[0] == self.hidden
            and re.search(r"out|o_proj|down", w.path)
        ]
        return max(inputs, default=self.hidden)

    def _feed_forward(self, weights: list[_Weight]) -> tuple[int, bool]:
        """Return the width of a feed-forward and whether it has three matrices; two feed-forwards
        of a layer count as one of both widths."""
        matrices = [w for w in weights if w.matrix]
        downs = [w for w in matrices if DOWN.search(w.path) and w.shape[0] == self.hidden]
        width = sum(w.size // self.hidden for w in downs)
        if not width:
            return 0, True
        return width, _size(matrices) > 2.5 * width * self.hidden

    def _routed(self, weights: list[_Weight]) -> int:
        """Return the number of routed experts of a layer, whether they are in one tensor or a
        module each."""
        routers = {
            w.shape[0] for w in weights if w.matrix and ROUTER.search(w.path) and len(w.shape) == 2
        }
        stacked = [
            w.shape[0]
            for w in weights
            if w.stacked
            and not SHARED.search(w.path)
            and (EXPERTS.search(w.path) or w.shape[0] in routers)
        ]
        if stacked:
            return min(stacked)
        if len(routers) == 1 and any(
            re.search(r"experts\.(?!\d)", w.path) and w.matrix for w in weights
        ):
            return min(routers)  # all experts' rows in one matrix (DBRX)
        return len(
            {
                m[1]
                for w in weights
                if not SHARED.search(w.path) and (m := re.search(r"experts\.(\d+)\.", w.path))
            }
        )

    def _experts(
        self, index: int, parts: dict[str, list[_Weight]], gated: bool | None
    ) -> tuple[Experts, bool] | None:
        """Return a layer's mixture of experts and whether they are gated; None without routed
        experts. `gated` is that of a dense feed-forward beside them, None without one."""
        count = self.routed
        if not count or not parts["experts"]:
            return None
        matrices = [w for w in parts["experts"] if w.matrix]
        downs = [w for w in matrices if DOWN.search(w.path)]
        down = _size(downs)
        inputs = {s for w in downs for s in w.shape[-2:]}
        latent = 0
        inner = self.hidden
        if self.hidden not in inputs:
            ups = {s for w in matrices if w not in downs for s in w.shape[-2:]}
            latent = inner = min(inputs & ups, default=min(inputs))
        width = down // count // inner
        three = _size(matrices) > 2.5 * down
        bias = any(not w.matrix and w.size >= count * self.hidden for w in parts["experts"])
        each = (2 + (three if gated is None else gated)) * self.hidden
        shared_width = _size(parts["shared"]) // each
        experts = Experts(
            routed=count,
            topk=min(count, self._topk(index)),
            width=width,
            latent=latent,
            bias=bias,
            shared=int(bool(shared_width)),
            shared_width=shared_width or None,
        )
        return experts, three

    def _topk(self, index: int) -> int:
        """Return the experts per token that the config, one of its parts, or the routing module
        names; `ASSUMED_TOPK` where none does."""
        inner = [
            v
            for v in vars(self.config).values()
            if hasattr(v, "model_type") and hasattr(v, "to_dict")
        ]
        modules = [
            m
            for p, m in self.modules.items()
            if p.startswith(self.main)
            and re.search(r"mlp|moe|router|gate|feed_forward|ffn|experts|mixer", p)
        ]
        for owner in (self.config, *inner, *modules):
            for name in TOPK:
                value = getattr(owner, name, None)
                if isinstance(value, (list, tuple)) and value:
                    value = value[min(index, len(value) - 1)]
                # generation's own top_k is 50 in every old config and no number of experts
                if isinstance(value, int) and 0 < value <= self.routed:
                    return value
        self.assumed[f"{ASSUMED_TOPK} experts a token"] = None
        return ASSUMED_TOPK

    def _attention(self, index: int, weights: list[_Weight]) -> Attention | None:
        """Return a layer's attention by its matrices and its module's attributes; None for a layer
        without an output projection."""
        matrices = [w for w in weights if w.matrix]
        outputs = [w for w in matrices if OUTPUT.search(w.path)]
        if not outputs:
            return None
        copies = max(1, len({m[1] for w in outputs if (m := re.search(r"\.(\d+)\.", w.path))}))
        module = self._module(index, outputs[0])

        def value(*names: str) -> int | None:
            """Return the first positive whole number that the module or the config has under one of
            some names; None without one."""
            for owner in (module, self.config):
                for name in names:
                    attribute = getattr(owner, name, None)
                    attribute = _of_layer(attribute, index) or attribute
                    if (
                        isinstance(attribute, int)
                        and not isinstance(attribute, bool)
                        and attribute > 0
                    ):
                        return attribute
            return None

        heads = value("num_heads", "num_attention_heads", "n_heads", "n_head") or 1
        window = self._window(index, module)
        if any("kv_b_proj" in w.path for w in matrices):
            return self._latent(value, heads * copies, window, matrices)
        output = max(outputs, key=lambda w: w.size)
        width = output.size // self.hidden  # all heads' values
        query, key, values = (
            _rows((w for w in matrices if pattern.search(w.path)), self.hidden)
            for pattern in (QUERY, KEY, VALUE)
        )
        named = value(
            "head_dim", "head_size", "attention_head_size", "kv_channels", "size_per_head"
        )
        fused = [w for w in matrices if FUSED.search(w.path) and not query]
        value_dim = max(1, width // heads)
        head_dim = named or value_dim
        if query and query % heads == 0 and query // heads not in (head_dim, 2 * head_dim):
            head_dim = query // heads
        groups = (
            value("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv")
            or heads
        )
        if fused:
            rows = sum(w.size // w.shape[-1] for w in fused) - heads * head_dim
            groups = max(1, round(rows / (head_dim + value_dim)))
        elif key:
            groups = max(1, key // head_dim) if key % head_dim == 0 else groups
        elif query and not any(re.search(r"kv", w.path) for w in matrices):
            groups = 0  # keys and values of another layer
        if values and groups and values % groups == 0 and heads * (values // groups) == width:
            value_dim = values // groups
        return Attention(
            heads=heads,
            kv_heads=groups,
            head_dim=head_dim,
            window=window,
            value_dim=None if value_dim == head_dim else value_dim,
        )

    def _latent(
        self, value: Any, heads: int, window: int | None, matrices: list[_Weight]
    ) -> Attention:
        """Return a layer's multi-head latent attention (DeepSeek-V2, arXiv 2405.04434); `value`
        looks up a number by its names."""
        rank, rope = value("kv_lora_rank") or 0, value("qk_rope_head_dim") or 0
        nope, values = value("qk_nope_head_dim") or 0, value("v_head_dim") or 0
        query = (
            value("q_lora_rank")
            if any("q_a" in w.path or "q_gate" in w.path for w in matrices)
            else 0
        )
        return Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=nope,
            value_dim=values,
            window=window,
            query_rank=query or 0,
            kv_rank=rank,
            rope_dim=rope,
            gated=any("q_gate" in w.path for w in matrices),
        )

    def _module(self, index: int, out: _Weight) -> Any:
        """Return the module that holds an attention's output projection and has an attribute that
        says its heads; None without one."""
        base = (
            self.main
            if f"{self.main}.{index}.{out.path}" in self.parameters
            else self.main.rpartition(".")[0]
        )
        path = f"{base}.{index}.{out.path}" if base == self.main else self.main
        for _ in range(3):
            path = path.rpartition(".")[0]
            module = self.modules.get(path)
            if any(hasattr(module, name) for name in HEADS):
                return module
        return None

    def _window(self, index: int, module: Any) -> int | None:
        """Return how many tokens a query of this layer sees, where they are fewer than all; else
        None."""
        kind = _of_layer(getattr(self.config, "layer_types", None), index)
        if kind == "full_attention":
            return None
        if kind == "chunked_attention":
            chunk = getattr(self.config, "attention_chunk_size", None)
            return chunk if isinstance(chunk, int) else None
        window = getattr(module, "sliding_window", None)
        if window is None and (kind is None or "sliding" in str(kind)):
            window = getattr(self.config, "sliding_window", None) or getattr(
                self.config, "attention_window_size", None
            )
        if isinstance(window, (tuple, list)):
            window = _of_layer(window, index)
        if getattr(self.config, "use_sliding_window", None) is False:
            return None
        return window if isinstance(window, int) and window > 0 else None

    # ---- the whole

    def _architecture(
        self, blocks: tuple[Block, ...], hidden: int, outside: dict[str, Any]
    ) -> Architecture:
        """Return the architecture of the blocks and of the parameters `outside` the layers, which
        are placed as tables, positions or products."""
        table, head = self.table, self.head
        if table is None:
            table = max(
                (v for p, v in outside.items() if len(v.shape) == 2 and "emb" in p.lower()),
                key=lambda v: v.numel(),
                default=None,
            )
        main = head if head is not None and len(head.shape) == 2 else table
        vocabulary, width = (int(x) for x in main.shape) if main is not None else (0, hidden)
        tied = (
            head is None
            or table is None
            or head is table
            or tuple(table.shape) != tuple(head.shape)
        )
        positions = other = numbers = 0
        placed = {id(main)} | ({id(table)} if not tied else set())
        for path, value in outside.items():
            if id(value) in placed or self.first[id(value)] != path:
                continue
            kind = type(self.modules.get(path.rpartition(".")[0])).__name__
            if (
                re.search(r"pos|wpe", path, re.I)
                and "Embedding" in kind
                and value.shape[-1] == hidden
                and not positions
            ):
                positions = value.shape[0]
            elif (
                len(value.shape) < 2
                or "Embedding" in kind
                or value is table
                or NOT_MULTIPLIED.search(path)
            ):
                numbers += value.numel()
                if len(value.shape) > 1:
                    self.unplaced[f"table {_unnumbered(path)}"] += value.numel()
            else:
                other += value.numel()
                self.unplaced[".".join(_unnumbered(path).split(".")[:4])] += value.numel()
        return Architecture(
            name=self.name,
            vocabulary=vocabulary,
            hidden=hidden,
            blocks=blocks,
            tied=tied,
            positions=positions,
            embedding_width=0 if width == hidden else width,
            other_params=other,
            table_params=numbers - hidden,
            context=_positive_integer(self.config, "max_position_embeddings") or 131_072,
        )


def forward(architecture: Architecture, tokens: int) -> float:
    """Return the formulas' forward FLOPs per token with every score of a sequence computed, as with
    a whole mask."""
    whole = (
        b.replace(attention=b.attention and b.attention.replace(window=None))
        for b in architecture.blocks
    )
    return architecture.replace(blocks=tuple(whole)).flops_per_token(tokens, causal=False) / 3


def parts(reading: ModelReading) -> Iterable[tuple[str, int]]:
    """Return the parts that no formula holds, with their parameters, the largest first."""
    return sorted(reading.unplaced.items(), key=lambda item: -item[1])


def unplaced_share(reading: ModelReading) -> float:
    """Return the share of the weights for which the planner has no exact formula, mixers counted; 1
    where experts are assumed."""
    if any("experts a token" in value for value in reading.assumed):
        return 1.0
    return (sum(reading.unplaced.values()) + reading.recurrent) / max(
        reading.architecture.num_params(), 1
    )


def notes(reading: ModelReading) -> Iterator[str]:
    """Yield sentences for a plan: what is left out, and for what its cost is rough."""
    total = reading.architecture.num_params()
    for path, size in reading.left_out.items():
        yield Phrase(
            "{} ({:.2f}B parameters) is left out: the plan trains the language model alone",
            path,
            size / 1e9,
        )
    if reading.recurrent:
        yield Phrase(
            "state-space or linear-attention layers hold {:.1%} of the parameters; their cost is"
            " rough, so the ranges of speed and memory are wider",
            reading.recurrent / total,
        )
    named = [f"{name} {size / total:.1%}" for name, size in parts(reading) if size >= 0.001 * total]
    if named:
        rest = Phrase(" and {} more", len(named) - 4) if len(named) > 4 else ""
        yield Phrase(
            "counted as plain products or tables, for the model of cost has no formula for them:"
            " {}{}",
            ", ".join(named[:4]),
            rest,
        )
    if reading.run_again and abs(reading.run_again) > 0.02:
        yield Phrase(
            "torch counts {:.2f} times the FLOPs that the weights explain (recurrences, layers that"
            " run again, or parts that text does not use); the plan takes torch's count",
            1 + reading.run_again,
        )
    if reading.assumed:
        yield Phrase("assumed, for the config does not say: {}", joined(", ", reading.assumed))
    if any(b.repeated_params for b in reading.architecture.blocks):
        yield (
            "layers that share one set of weights are computed as often as they run and counted"
            " once"
        )
