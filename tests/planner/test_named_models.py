"""A model by any name: sizes, listed shapes, configs of Hugging Face; unknown names are never
another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import onnuri
from onnuri import cli, recipes
from onnuri.errors import ConfigError
from onnuri.planner import hf_config, named_models, shapes, sizes
from onnuri.planner.architecture import Architecture

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder(tmp_path: Path, values: dict[str, Any], name: str = "mine") -> Path:
    made = tmp_path / name
    made.mkdir()
    (made / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return made


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a mistake prints; it must exit with 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", *arguments])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("onnuri: ") and said.count("\n") == 1
    return said


# ---- sizes


@pytest.mark.parametrize(
    "text",
    [
        "100M",
        "500M",
        "1.5B",
        "8b",
        "70B",
        "405B",
        "2T",
        "30B-A3B",
        "300B-A15B",
        "671B-A37B",
        "1T-A32B",
        "47BA13B",
    ],
)
def test_size_is_met_in_all_and_in_active_parameters(text: str) -> None:
    total, active = sizes.parse(text) or (0.0, None)
    a = named_models.find(text).architecture
    assert a.num_params() == pytest.approx(total, rel=0.05)
    assert a.num_active_params() == pytest.approx(active or total, rel=0.05)
    heads = {b.attention.heads for b in a.blocks if b.attention}
    assert all(h % 4 == 0 for h in heads)  # tensor parallelism divides them


@pytest.mark.parametrize("text", ["50M", "1000T", "5B-A9B", "5B-A5B", "0B"])
def test_size_that_the_rule_does_not_reach_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        named_models.find(text)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Mistral-Large-123B", (123e9, None)),
        ("Foo-30B-A3B-Instruct", (30e9, 3e9)),
        ("GPT-5", None),
        ("Qwen2.5-7B", (7e9, None)),
        ("Mixtral-8x7B", None),
        ("Gemma-3-27B", (27e9, None)),
        ("7B-or-13B", None),
    ],
)
def test_size_in_a_name(name: str, size: tuple[float, float | None] | None) -> None:
    assert sizes.in_name(name) == size


# ---- listed shapes


@pytest.mark.parametrize("name", shapes.names())
def test_every_listed_shape_is_a_model_with_a_training_plan(name: str) -> None:
    recipe = recipes.resolve(name, "H100", 64)
    spec = shapes.listed(name) or {}
    assert spec.get("family") or recipe.architecture.num_params() == shapes.shape(name).num_params()
    stage = recipe.stages[0]
    assert stage.batch_tokens % stage.tokens_per_sequence == 0
    assert any("assumed, for it is no recipe" in note for note in recipe.notes)
    assert recipe.omni == recipe.architecture


def test_recipes_go_before_all_else_and_keep_their_plan() -> None:
    assert (
        recipes.resolve("A.X-K1".replace(".", "").replace("-", "")).name
        == recipes.find("axk1").name
    )
    changed = recipes.resolve("axk1", seq_len=8192, batch_tokens=8192 * 2048)
    assert {(s.tokens_per_sequence, s.batch_tokens) for s in changed.stages} == {
        (8192, 8192 * 2048)
    }
    assert any("asked for" in note for note in changed.notes)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Lama3-8B", "Llama3-8B"),
        ("axk3", "axk1"),
        ("mixtrall-8x7b", "Mixtral-8x7B"),
        ("zzz", "axk1"),
        ("gpt-6", "GPT"),
    ],
)
def test_unknown_name_lists_the_nearest_and_is_no_model(
    name: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = one_line(capsys, name, "--gpu", "H100", "--gpus", "8")
    assert near in said and "ORG/NAME" in said and "300B-A15B" in said


# ---- configs


def test_folder_and_file_are_read_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder(tmp_path, LLAMA)
    first = hf_config.read(str(made))
    head, inner = 32, 512
    layer = 256 * head * (8 + 4) * 2 + 3 * 256 * inner + 2 * 256
    assert first.architecture.num_params() == 2 * 1024 * 256 + 2 * layer + 256
    assert first.architecture.name == "mine"

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(hf_config, "_read", never)  # the second time nothing is built
    assert hf_config.read(str(made / "config.json")) == first
    with pytest.raises(AssertionError):
        hf_config.read(str(folder(tmp_path, LLAMA | {"vocab_size": 2048}, "other")))


def test_damaged_reading_is_made_anew(tmp_path: Path) -> None:
    made = folder(tmp_path, LLAMA)
    first = hf_config.read(str(made))
    kept = next((tmp_path / "cache").rglob("*.json"))
    kept.write_text("{", encoding="utf-8")
    assert hf_config.read(str(made)) == first


def test_plan_of_a_config_says_what_was_assumed(tmp_path: Path) -> None:
    made = onnuri.plan(str(folder(tmp_path, LLAMA)), "8xH100", layout="dp=8")
    said = "; ".join(made.notes)
    assert "LlamaForCausalLM" in said and "--seq-len" in said and "--tokens" in said
    assert made.stages[0].tokens_per_sequence == 512  # no more than the config's longest
    assert made.total_params == hf_config.read(str(tmp_path / "mine")).architecture.num_params()


def test_flags_of_sequence_and_batch_are_taken(tmp_path: Path) -> None:
    recipe = recipes.resolve(
        str(folder(tmp_path, LLAMA)), "H100", 8, seq_len=256, batch_tokens=256 * 64
    )
    assert (recipe.stages[0].tokens_per_sequence, recipe.stages[0].batch_tokens) == (256, 256 * 64)
    assert not any("--seq-len" in note or "--batch-tokens" in note for note in recipe.notes)


def test_quantized_weights_are_trained_as_their_model(tmp_path: Path) -> None:
    plain = hf_config.read(str(folder(tmp_path, LLAMA)))
    packed = hf_config.read(
        str(folder(tmp_path, LLAMA | {"quantization_config": {"quant_method": "fp8"}}, "packed"))
    )
    assert packed.total == plain.total


def test_infinity_as_transformers_writes_it_is_read() -> None:
    assert hf_config._floats({"a": [0.0, {"__float__": "Infinity"}]}) == {"a": [0.0, float("inf")]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "phantom", "auto_map": {"AutoConfig": "a.B"}}, "trust_remote_code"),
        ({"model_type": "llamma"}, "use llama"),
        ({"hidden_size": 4}, "names no model_type"),
        (LLAMA | {"num_hidden_layers": 0}, "not from 1"),
        (LLAMA | {"hidden_size": "x"}, "is not a llama's"),
        (LLAMA | {"num_hidden_layers": 10**9}, "not from 1"),
        ({"model_type": "vit"}, "no causal language model"),
    ],
)
def test_config_that_cannot_be_is_one_line(
    tmp_path: Path, values: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in one_line(capsys, str(folder(tmp_path, values)), "--gpu", "H100", "--gpus", "8")


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[1]", "names no model_type"), ("", "is not JSON")]
)
def test_file_that_is_no_config(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    assert said in one_line(capsys, str(path), "--gpu", "H100", "--gpus", "8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seq-len", "0"], "--seq-len 0"),
        (["--batch-tokens", "-1"], "--batch-tokens -1"),
        (["--seq-len", "4096", "--batch-tokens", "5000"], "whole sequences"),
        (["--layout", "own"], "is a recipe's"),
        (["--precision", "mxfp8"], "is not what a H100 multiplies"),
        (["--gpu", "H1OO"], "use H100"),
    ],
)
def test_bad_flags_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [] if "--gpu" in arguments else ["--gpu", "H100"]
    assert said in one_line(capsys, "8B", "--gpus", "8", *rest, *arguments)


def test_learned_positions_are_not_exceeded() -> None:
    a = Architecture(name="old", vocabulary=512, hidden=64, blocks=(), positions=1024)
    with pytest.raises(ConfigError, match="positions"):
        named_models.check(2048, None, a)


# ---- the hub


class _Answer:
    def __init__(self, status: int, text: str = "") -> None:
        self.status_code, self.text, self.content = status, text, text.encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub without a cache; what it answers is `answer`, or raised."""
    import huggingface_hub
    from huggingface_hub import constants

    state: dict[str, Any] = {"asked": [], "answer": _Answer(404)}

    class Session:
        def get(self, url: str, **settings: Any) -> Any:
            state["asked"].append((url, settings))
            if isinstance(state["answer"], Exception):
                raise state["answer"]
            return state["answer"]

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: state.get("cached"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return state


def test_hub_is_asked_once_and_for_seconds(hub: dict[str, Any]) -> None:
    hub["answer"] = _Answer(200, json.dumps(LLAMA))
    assert hf_config.load("some/model") == (LLAMA, "some/model")
    assert len(hub["asked"]) == 1 and 0 < hub["asked"][0][1]["timeout"] <= 10


def test_local_cache_goes_before_the_hub(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["cached"] = str(folder(tmp_path, LLAMA) / "config.json")
    assert hf_config.load("some/model")[0] == LLAMA and not hub["asked"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OSError("Name or service not known"), "cannot be reached"),
        (TimeoutError(), "cannot be reached"),
        (_Answer(404), "has no config.json"),
        (_Answer(401), "is not public"),
        (_Answer(403), "is not public"),
        (_Answer(200, "<html>"), "is not JSON"),
    ],
)
def test_hub_that_does_not_help_is_one_line(
    hub: dict[str, Any], answer: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub["answer"] = answer
    assert said in one_line(capsys, "some/model", "--gpu", "H100", "--gpus", "8")


def test_hub_offline_is_not_asked(hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE.*Llama-3.1-8B of the shipped shapes"):
        hf_config.load("meta-llama/Llama-3.1-8B")
    assert not hub["asked"]
