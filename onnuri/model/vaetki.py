"""This module implements VAETKI (NC AI) as a model class of transformers, which has none: config,
model, causal LM, cache, SDPA, TP and EP plans.

It is written as transformers' modular files are: what equals A.X K1 is inherited (latent attention,
gated feed-forward, experts). Importing it registers the classes with the Auto classes. It knows
nothing of Onnuri. Source of the architecture: llama.cpp PR 18719.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.axk1 import modeling_axk1
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

axk1: Any = modeling_axk1
"""module of the inherited classes; as Any, since its annotations would make every deviation from
them an error of types"""


@strict
class VaetkiConfig(axk1.AXK1Config):
    """A VaetkiConfig has A.X K1's fields and a sliding window, and no groups of experts. The
    defaults are VAETKI 112B-A10B."""

    model_type = "vaetki"
    base_model_tp_plan = axk1.AXK1Config.base_model_tp_plan
    base_model_ep_plan = axk1.AXK1Config.base_model_ep_plan
    base_model_pp_plan = axk1.AXK1Config.base_model_pp_plan

    vocab_size: int = 137_216
    hidden_size: int = 3072
    num_hidden_layers: int = 48
    num_attention_heads: int = 24
    num_key_value_heads: int = 24
    n_routed_experts: int = 128
    max_position_embeddings: int = 131_072
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = 512
    layer_types: list[str] | None = None
    """"sliding_attention" or "full_attention" per layer; without it every sixth layer is full"""
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the layers' types: every sixth has full attention, the first three are dense."""
        if self.layer_types is None:
            self.layer_types = [
                "full_attention" if (k + 1) % 6 == 0 else "sliding_attention"
                for k in range(self.num_hidden_layers)
            ]
        kwargs.setdefault("first_k_dense_replace", 3)
        super().__post_init__(**kwargs)


class VaetkiRMSNorm(nn.Module):
    """A zero-centred RMSNorm multiplies by (1 + w), so that weight decay pulls towards no
    change."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., C] normed over C in float32, in the type of x."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return ((1.0 + self.weight.float()) * normed).type_as(x)


class VaetkiAttention(axk1.AXK1Attention):
    """This is A.X K1's latent attention with a sliding window in some layers (rotary embedding
    interleaved in the weights, half-split in the computation)."""

    def __init__(self, config: VaetkiConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_a_layernorm = VaetkiRMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.kv_a_layernorm = VaetkiRMSNorm(config.kv_lora_rank, config.rms_norm_eps)
        sliding = (
            config.layer_types is not None and config.layer_types[layer_idx] == "sliding_attention"
        )
        self.sliding_window = config.sliding_window if sliding else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return attention's output [B, T, C] and weights, as A.X K1's class does."""
        return super().forward(*args, sliding_window=self.sliding_window, **kwargs)


class VaetkiTopkRouter(nn.Module):
    """This router chooses the top k experts by a sigmoid, without groups or bias; weights sum to 1
    and are then scaled."""

    def __init__(self, config: VaetkiConfig) -> None:
        super().__init__()
        self.top_k, self.scale, self.renormalise = (
            config.num_experts_per_tok,
            config.routed_scaling_factor,
            config.norm_topk_prob,
        )
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [T, experts], weights [T, k] and chosen experts int64 [T, k]."""
        logits = F.linear(hidden_states.flatten(0, -2).float(), self.weight.float())
        weights, experts = logits.sigmoid().topk(self.top_k, dim=-1, sorted=False)
        if self.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return logits, weights * self.scale, experts


class VaetkiExperts(axk1.AXK1Experts):
    """These are A.X K1's routed experts, under a name of VAETKI's own as transformers expects."""


class VaetkiMoE(nn.Module):
    """This layer adds the outputs of routed experts and of a shared one."""

    def __init__(self, config: VaetkiConfig) -> None:
        super().__init__()
        self.experts, self.gate = VaetkiExperts(config), VaetkiTopkRouter(config)
        self.shared_experts = axk1.AXK1MLP(
            config, config.moe_intermediate_size * config.n_shared_experts
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the layer's output [B, T, C]."""
        _, weights, experts = self.gate(hidden_states)
        routed = self.experts(hidden_states.flatten(0, -2), experts, weights).view_as(hidden_states)
        return routed + self.shared_experts(hidden_states)


class VaetkiDecoderLayer(GradientCheckpointingLayer):
    """This decoder layer norms both before and after attention and feed-forward."""

    def __init__(self, config: VaetkiConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = VaetkiAttention(config, layer_idx)
        assert config.mlp_layer_types is not None
        self.mlp = (
            VaetkiMoE(config)
            if config.mlp_layer_types[layer_idx] == "sparse"
            else axk1.AXK1MLP(config)
        )
        self.input_layernorm = VaetkiRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = VaetkiRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_mlp_layernorm = VaetkiRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_mlp_layernorm = VaetkiRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Return the next hidden states [B, T, C]."""
        # attention's output has no name here, so that its memory is freed before the feed-forward
        hidden_states = hidden_states + self.post_attention_layernorm(
            self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        )
        return hidden_states + self.post_mlp_layernorm(
            self.mlp(self.pre_mlp_layernorm(hidden_states))
        )


class VaetkiPreTrainedModel(axk1.AXK1PreTrainedModel):
    """This base class tells transformers how to initialise, record and load VAETKI's modules."""

    config: VaetkiConfig
    config_class = VaetkiConfig
    _no_split_modules = ["VaetkiDecoderLayer"]
    _can_record_outputs = {
        "hidden_states": VaetkiDecoderLayer,
        "attentions": VaetkiAttention,
        "router_logits": OutputRecorder(VaetkiTopkRouter, index=0),
    }
    _keep_in_fp32_modules_strict = None
    _keys_to_ignore_on_load_unexpected = None
    _keys_to_ignore_on_load_missing = None

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Return True, for inherited experts can; transformers would look for their decorator in
        this file's source."""
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module's weights as A.X K1 does, and the two classes that differ from it."""
        super()._init_weights(module)
        if isinstance(module, VaetkiTopkRouter):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, VaetkiRMSNorm):
            init.zeros_(module.weight)  # the scale is 1 + w


class VaetkiModel(VaetkiPreTrainedModel):
    """This is VAETKI's decoder without a head."""

    def __init__(self, config: VaetkiConfig) -> None:
        super().__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            [VaetkiDecoderLayer(config, k) for k in range(config.num_hidden_layers)]
        )
        self.norm = VaetkiRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = axk1.AXK1RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """Return the last hidden states [B, T, C] and the KV cache. Raises ValueError unless
        exactly one of `input_ids` and `inputs_embeds` is given."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            cached = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(
                cached, cached + hidden_states.shape[1], device=hidden_states.device
            )[None]
        mask_inputs: dict[str, Any] = {
            "config": self.config,
            "inputs_embeds": hidden_states,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "position_ids": position_ids,
        }
        mask_functions: dict[str, Any] = {
            "full_attention": create_causal_mask,
            "sliding_attention": create_sliding_window_causal_mask,
        }
        types = self.config.layer_types or []
        masks = {kind: mask_functions[kind](**mask_inputs) for kind in set(types)}
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer, kind in zip(self.layers, types, strict=True):
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=masks[kind],
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class VaetkiForCausalLM(VaetkiPreTrainedModel, axk1.AXK1ForCausalLM):
    """This is VAETKI's decoder with a language model head, as A.X K1's."""

    def __init__(self, config: VaetkiConfig) -> None:
        PreTrainedModel.__init__(self, config)  # not A.X K1's, which would build its model first
        self.model = VaetkiModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register("vaetki", VaetkiConfig)
AutoModel.register(VaetkiConfig, VaetkiModel)
AutoModelForCausalLM.register(VaetkiConfig, VaetkiForCausalLM)
