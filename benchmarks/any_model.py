"""Read every config class behind `AutoModelForCausalLM`, plan every shipped shape: `python
benchmarks/any_model.py`.

For each class the planner's parameters stand beside those that torch counts, and its FLOPs a token
beside torch's `FlopCounterMode`, all on the meta device. A default that builds nothing is completed
(`COMPLETED`) or named with its reason. Writes benchmarks/results/any_model.json; takes some
minutes, most of it the searches of the shapes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import warnings
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "any_model.json"
INDEXER = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 4,
}
ROPE = {"rope_type": "default", "rope_theta": 50_000.0}
COMPLETED: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 8, "rope_theta": 500_000.0},
        "ffn_config": {"ffn_hidden_size": 10_752, "moe_num_experts": 16, "moe_top_k": 4},
        "d_model": 6144,
        "n_heads": 48,
        "n_layers": 40,
        "vocab_size": 100_352,
    },
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
    "qwen4_exp": {"text_config": {"model_type": "qwen4_exp_text", **INDEXER}},
    "qwen4_exp_text": INDEXER,
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {
        "n_routed_experts": 128,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
    },
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 16, "moe_topk": 1},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "reformer": {"is_decoder": True},
}
"""values that a class's default lacks, of public models of the class"""
CLOSE = 0.02
"""of torch's counts"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", nargs="*", help="model types; without it, all, and the shapes")
    arguments.add_argument(
        "--gpus", type=int, default=1024, help="H100 that shapes and sizes are planned for"
    )
    asked = arguments.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    classes = {
        kind: read(kind) for kind in (asked.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    }
    if asked.only:
        print(json.dumps(classes, indent=1))
        return
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "summary": summary(classes),
        "classes": classes,
        "shapes": shapes(asked.gpus),
    }
    found["summary"]["shapes_planned"] = sum("days" in s for s in found["shapes"].values())
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["summary"], indent=1))


def read(kind: str) -> dict[str, Any]:
    """One class: the planner's figures over torch's, or why there are none."""
    import transformers

    from onnuri.errors import ConfigError
    from onnuri.planner import meta_model, named_models

    row: dict[str, Any] = {"completed": COMPLETED.get(kind)}
    try:
        reading = meta_model.read(
            transformers.CONFIG_MAPPING[kind](**COMPLETED.get(kind, {})), kind
        )
    except Exception as error:  # a default that no class builds: named with its reason
        return row | {
            "error": error.rule
            if isinstance(error, ConfigError)
            else " ".join(str(error).split())[:200]
        }
    a = reading.architecture
    counted = a.num_params() + sum(reading.left_out.values())
    again = reading.run_again
    attention = next((b.attention for b in a.blocks if b.attention), None)
    experts = next((b.experts for b in a.blocks if b.experts), None)
    share = sum(reading.unplaced.values()) / a.num_params()
    tokens = min(512, a.context)
    # forward FLOPs with the correction that the planner takes over from torch
    corrected = (
        None
        if again is None
        else (
            meta_model.forward(a, 64) / ((meta_model.forward(a, 64) - a.extra_flops) * (1 + again))
        )
    )
    return row | {
        "class": reading.model_class,
        "parameters": reading.total,
        "counted_over_torch": counted / reading.total,
        "active": a.num_active_params(),
        "layers": a.layers,
        "hidden": a.hidden,
        "heads": attention and [attention.heads, attention.kv_heads, attention.head_dim],
        "experts": experts and [experts.topk, experts.routed, experts.width],
        "formula_flops_over_torch": None if again is None else 1 / (1 + again),
        "planner_flops_over_torch": corrected,
        "training_flops_per_token": a.flops_per_token(tokens),
        "not_placed": round(share, 4),
        "recurrent": round(reading.recurrent / a.num_params(), 4),
        "named": dict(meta_model.parts(reading)),
        "left_out": reading.left_out,
        "notes": list(meta_model.notes(reading)),
        "planned_gpus": named_models.training(named_models.Named(architecture=a, notes=())).gpus,
    }


def summary(classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many hold each bar."""
    built = {k: r for k, r in classes.items() if "error" not in r}
    flops = {k: r["formula_flops_over_torch"] for k, r in built.items()}
    return {
        "classes": len(classes),
        "read": len(built),
        "completed": sum(bool(r["completed"]) for r in built.values()),
        "errors": {k: r["error"] for k, r in classes.items() if "error" in r},
        "parameters_within": sum(abs(r["counted_over_torch"] - 1) <= CLOSE for r in built.values()),
        "flops_counted_by_torch": sum(f is not None for f in flops.values()),
        "formula_flops_within": sum(f is not None and abs(f - 1) <= CLOSE for f in flops.values()),
        "planner_flops_within": sum(
            r["planner_flops_over_torch"] is not None
            and abs(r["planner_flops_over_torch"] - 1) <= CLOSE
            for r in built.values()
        ),
        "formula_flops_beyond": {
            k: f for k, f in flops.items() if f is not None and abs(f - 1) > CLOSE
        },
        "without_torch_count": [k for k, f in flops.items() if f is None],
        "not_placed_below_5_percent": sum(r["not_placed"] < 0.05 for r in built.values()),
        "not_placed_named": {
            k: r["not_placed"] for k, r in built.items() if r["not_placed"] >= 0.05
        },
    }


def shapes(gpus: int) -> dict[str, dict[str, Any]]:
    """A whole plan of each shipped shape on `gpus` H100, layouts that are runnable here
    searched."""
    from onnuri import recipes
    from onnuri.errors import ConfigError
    from onnuri.planner import hardware, plan
    from onnuri.planner import shapes as listed

    rows: dict[str, dict[str, Any]] = {}
    for name in (*listed.names(), "70B", "300B-A15B", "1.5B", "500M"):
        try:
            recipe = recipes.resolve(name, "H100", gpus)
            found = plan.plan(recipe, hardware.cluster("H100", gpus), here=True)
            rows[name] = {
                "parameters": found.total_params,
                "active": found.active_params,
                "days": found.days.mid,
                "tokens_per_s_per_gpu": found.tokens_per_s_per_gpu.mid,
            }
        except ConfigError as error:
            rows[name] = {"error": str(error)}
    return rows


if __name__ == "__main__":
    main()
