"""VAETKI's class against a naive one, written from its description alone; transformers' Auto
classes and cache take it."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from onnuri.model.vaetki import VaetkiConfig, VaetkiForCausalLM

HEADS, NOPE, ROPE, VALUE, WINDOW, SCALE, TOPK = 3, 8, 4, 6, 5, 2.5, 2
SETTINGS = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": 10,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUE,
    "intermediate_size": 40,
    "moe_intermediate_size": 16,
    "n_routed_experts": 6,
    "num_experts_per_tok": TOPK,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "max_position_embeddings": 64,
    "pad_token_id": None,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = VaetkiForCausalLM(VaetkiConfig(**SETTINGS)).double().eval()
    with torch.no_grad():
        for p in made.parameters():  # norms too: at their start they would hide a forgotten one
            p.add_(0.3 * torch.randn_like(p))
    made.set_experts_implementation("eager")  # the others know no doubles
    return made


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 60, (14,), generator=torch.Generator().manual_seed(1))


def naive(model, ids):
    """Logits [T, vocabulary], one token, head and expert at a time."""
    w = dict(model.state_dict())

    def norm(x, name):
        return x / torch.sqrt((x * x).mean() + 1e-5) * (1 + w[name])

    def turned(x, position):
        pairs = torch.view_as_complex(x.reshape(-1, 2).contiguous())
        angles = torch.tensor(
            [position / 10_000 ** (2 * k / ROPE) for k in range(ROPE // 2)], dtype=x.dtype
        )
        return pairs * torch.polar(torch.ones_like(angles), angles)

    def forward(x, name):
        gate, up = w[f"{name}.gate_proj.weight"] @ x, w[f"{name}.up_proj.weight"] @ x
        return w[f"{name}.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)

    def attention(states, name, window):
        queries, keys, values = [], [], []
        for position, x in enumerate(states):
            q = w[f"{name}.q_b_proj.weight"] @ norm(
                w[f"{name}.q_a_proj.weight"] @ x, f"{name}.q_a_layernorm.weight"
            )
            both = w[f"{name}.kv_a_proj_with_mqa.weight"] @ x
            kv = w[f"{name}.kv_b_proj.weight"] @ norm(both[:-ROPE], f"{name}.kv_a_layernorm.weight")
            queries.append(
                [(h[:NOPE], turned(h[NOPE:], position)) for h in q.view(HEADS, NOPE + ROPE)]
            )
            keys.append(
                [(h[:NOPE], turned(both[-ROPE:], position)) for h in kv.view(HEADS, NOPE + VALUE)]
            )
            values.append([h[NOPE:] for h in kv.view(HEADS, NOPE + VALUE)])
        out = []
        for t in range(len(states)):
            seen = [s for s in range(t + 1) if window is None or t - s < window]
            heads = []
            for h in range(HEADS):
                scores = torch.stack(
                    [
                        queries[t][h][0] @ keys[s][h][0]
                        + (queries[t][h][1] * keys[s][h][1].conj()).real.sum()
                        for s in seen
                    ]
                ) / math.sqrt(NOPE + ROPE)
                heads.append(sum(p * values[s][h] for p, s in zip(scores.softmax(0), seen)))
            out.append(w[f"{name}.o_proj.weight"] @ torch.cat(heads))
        return out

    def experts(x, name):
        chosen = torch.sigmoid(w[f"{name}.gate.weight"] @ x)
        best = chosen.argsort(descending=True)[:TOPK]
        out = forward(x, f"{name}.shared_experts")
        for e in best:
            gate, up = (w[f"{name}.experts.gate_up_proj"][e] @ x).chunk(2)
            made = w[f"{name}.experts.down_proj"][e] @ (gate * torch.sigmoid(gate) * up)
            out = out + SCALE * chosen[e] / chosen[best].sum() * made
        return out

    states = [w["model.embed_tokens.weight"][i] for i in ids]
    for k in range(3):
        layer = f"model.layers.{k}"
        normed = [norm(x, f"{layer}.input_layernorm.weight") for x in states]
        seen = attention(normed, f"{layer}.self_attn", None if k == 2 else WINDOW)
        states = [
            x + norm(s, f"{layer}.post_attention_layernorm.weight") for x, s in zip(states, seen)
        ]
        for t, x in enumerate(states):
            y = norm(x, f"{layer}.pre_mlp_layernorm.weight")
            y = forward(y, f"{layer}.mlp") if k == 0 else experts(y, f"{layer}.mlp")
            states[t] = x + norm(y, f"{layer}.post_mlp_layernorm.weight")
    return torch.stack([w["lm_head.weight"] @ norm(x, "model.norm.weight") for x in states])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_the_naive_one(model, ids, attention):
    model.set_attn_implementation(attention)
    with torch.no_grad():
        assert torch.allclose(
            model(input_ids=ids[None]).logits[0], naive(model, ids), atol=1e-5
        )  # routers and norms in fp32
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("parts", [[1] * 14, [9, 1, 4], [6, 8]])
def test_cached_decoding_is_the_whole(model, ids, parts):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(input_ids=ids[None]).logits[0]
        made = [
            model(input_ids=part[None], past_key_values=cache, use_cache=True).logits[0]
            for part in ids.split(parts)
        ]
    assert torch.allclose(torch.cat(made), whole, atol=1e-5)
    assert [layer.is_sliding for layer in cache.layers] == [True, True, False]
    assert cache.layers[2].keys.shape[1:] == (1, 14, 12)  # latents, not keys


def test_the_auto_classes_load_what_was_saved(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    assert (
        type(again) is VaetkiForCausalLM
        and type(AutoConfig.from_pretrained(tmp_path)) is VaetkiConfig
    )
    with torch.no_grad():
        assert torch.allclose(
            again(input_ids=ids[None]).logits, model(input_ids=ids[None]).logits, atol=1e-9
        )


def test_fresh_norms_change_nothing_and_routers_choose():
    fresh = VaetkiForCausalLM(VaetkiConfig(**SETTINGS)).state_dict()
    assert all((fresh[n] == 0).all() for n in fresh if "norm" in n)
    assert all(fresh[n].std() > 0 for n in fresh if "gate.weight" in n)


def test_its_plans_name_weights_it_has(model):
    names = {
        n.removeprefix("model.").replace(f".{k}.", ".*.")
        for n, _ in model.named_parameters()
        for k in range(3)
    }
    names |= {
        n.removeprefix("model.").replace(f".{k}.", ".*.")
        for n, _ in model.named_modules()
        for k in range(3)
    }
    for plan in (VaetkiConfig.base_model_tp_plan, VaetkiConfig.base_model_ep_plan):
        assert {p for p in plan if p not in names and f"{p}.weight" not in names} == set()
