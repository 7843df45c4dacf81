"""Small random language models, written by transformers: codes are added, some steps are trained,
and plain transformers reads the folder again with the same logits. No family is named in the
library."""

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_codecs import small_emu3, small_mimi
from small_models import FAMILIES, ROWS, SMALL, TEMPLATE, WORDS, tokenizer, written
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from onnuri import recipes
from onnuri.codecs.registry import load, save
from onnuri.codecs.tokenizer import TokenizerCodec
from onnuri.errors import ConfigError, WeightsError
from onnuri.model.base import extend, layout_of, load_base, save_base
from onnuri.model.token_layout import TokenLayout

SPECS = [small_emu3().spec, small_mimi().spec]


@pytest.mark.parametrize(
    "family",
    [
        f if f in ("mistral", "gemma2", "gpt2") else pytest.param(f, marks=pytest.mark.slow)
        for f in FAMILIES
    ],
)
def test_codes_are_added_trained_saved_and_read_by_plain_transformers(tmp_path, family):
    before = written(tmp_path / "base", family)
    layout, words = extend(tmp_path / "base", SPECS)
    model = load_base(tmp_path / "base", layout)
    assert (
        type(model) is type(before)
        and model.get_input_embeddings().num_embeddings == layout.size == layout.padded
    )
    assert layout.size % 128 == 0 and min(lo for lo, _ in layout.ranges.values()) == ROWS
    old = torch.arange(2, 40)[None]
    with torch.no_grad():  # what the model knew, it knows
        torch.testing.assert_close(
            model(input_ids=old).logits[..., :ROWS], before(input_ids=old).logits
        )
    draw = np.random.default_rng(0)
    ids = [
        *layout.segment("emu3", draw.integers(0, 50, 20)),
        *layout.segment("mimi", draw.integers(0, 96, 20), "en"),
        *layout.segment(
            "text", np.array(words("a red cube", add_special_tokens=False).input_ids), "en"
        ),
    ]
    batch, optimizer = torch.tensor([ids]), torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    save_base(model, words, layout, tmp_path / "after")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "after")
    model.eval()
    with torch.no_grad():
        assert torch.equal(plain(input_ids=batch).logits, model(input_ids=batch).logits)
    assert layout_of(tmp_path / "after") == layout and not list(tmp_path.glob(".*"))
    planned = recipes.resolve(str(tmp_path / "after")).architecture
    assert planned.num_params() == sum(p.numel() for p in plain.parameters())
    again = load_base(tmp_path / "after", layout)
    assert all(
        torch.equal(p, q) for p, q in zip(again.parameters(), model.parameters(), strict=True)
    )
    kept = AutoTokenizer.from_pretrained(tmp_path / "after")
    assert (
        kept.chat_template == TEMPLATE
        and kept("a red cube").input_ids == tokenizer()("a red cube").input_ids
    )
    own = ("<bos>", "<eos>")
    assert all(
        kept.convert_tokens_to_ids(token) == id
        for token, id in layout.special_ids.items()
        if token not in own
    )


def test_own_special_tokens_stay_and_missing_ones_are_added(tmp_path):
    words = tokenizer()
    layout = TokenLayout.extend(words, 320, SPECS)
    assert (layout.special("<bos>"), layout.special("<eos>")) == (0, 1) and layout.special(
        "<pad>"
    ) == WORDS
    assert layout.text_codes == WORDS and layout.specials[:2] == ("<bos>", "<eos>")
    bare = TokenLayout.extend(tokenizer(begins=False), 320, SPECS)
    assert bare.special("<bos>") == WORDS + 1 and bare.special("<eos>") == 1
    ids = [
        *layout.segment("emu3", np.arange(9)),
        *layout.segment("text", np.arange(5, 9), "ko"),
        *layout.segment("mimi", np.arange(4)),
    ]
    assert [(name, codes.tolist()) for name, _, codes in layout.segments(ids)] == [
        ("emu3", list(range(9))),
        ("text", [5, 6, 7, 8]),
        ("mimi", [0, 1, 2, 3]),
    ]
    sets = layout.candidate_sets()
    assert sets[0].lo == 0 and sets[0].hi == ROWS and sets[-1].hi <= layout.size


def test_a_vocabulary_beyond_sixteen_bits_has_room_for_codes():
    layout = TokenLayout.extend(tokenizer(), 151_936, SPECS, multiple=256)
    lo, hi = layout.ranges["emu3"]
    assert lo == 151_936 and layout.size % 256 == 0 and layout.size > hi
    assert layout.ids("emu3", np.array([7])).tolist() == [151_943]


def test_text_that_spells_a_special_token_is_text_and_the_codec_comes_back(tmp_path):
    words = tokenizer()
    layout = TokenLayout.extend(words, 320, SPECS)
    codec = TokenizerCodec(words, layout.spec("text"))
    said = "a red cube <|image|> </s> 빨간 공"
    assert (
        codec.decode(codec.encode(said)) == said
        and codec.encode(said).max() < WORDS
        and 1 not in codec.encode(said)
    )
    save({"text": codec}, tmp_path)
    (again,) = load(tmp_path).values()
    assert again.spec == codec.spec and (again.encode(said) == codec.encode(said)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_keep_their_type(tmp_path, dtype):
    written(tmp_path / "base", "mistral", dtype)
    layout, words = extend(tmp_path / "base", SPECS)
    model = load_base(tmp_path / "base", layout)
    save_base(model, words, layout, tmp_path / "after")
    assert (
        model.dtype
        == dtype
        == AutoModelForCausalLM.from_pretrained(tmp_path / "after", dtype="auto").dtype
    )
    assert load_base(tmp_path / "base", layout, dtype=torch.float64).dtype == torch.float64


def test_shapes_alone_cost_nothing(tmp_path):
    before = written(tmp_path / "base", "mistral")
    layout, _ = extend(tmp_path / "base", SPECS)
    outline = load_base(tmp_path / "base", layout, device="meta")
    assert (
        all(p.is_meta for p in outline.parameters())
        and outline.get_input_embeddings().num_embeddings == layout.size
    )
    fresh = load_base(before.config, layout, weights=False)
    assert not torch.equal(next(fresh.parameters())[:320], next(before.parameters()))


def test_what_cannot_be_a_base_is_one_line(tmp_path):
    written(tmp_path / "base", "mistral")
    with pytest.raises(WeightsError, match="holds no causal language model that can be loaded"):
        load_base(tmp_path / "nothing")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="holds no causal language model"):
        load_base(tmp_path / "base")
    small = TokenLayout.extend(tokenizer(), 100, [])
    with pytest.raises(ConfigError, match="a layout of 384 ids: is less than the model's 640 rows"):
        load_base(AutoConfig.for_model("mistral", **{**SMALL, "vocab_size": 640}), small)
    with pytest.raises(ConfigError, match="codec 'text': is the language model's own"):
        TokenLayout.extend(tokenizer(), 320, [SPECS[0].replace(name="text")])
    with pytest.raises(WeightsError, match="is no token layout"):
        layout_of(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_base(
            load_base(AutoConfig.for_model("mistral", **SMALL)),
            tokenizer(),
            small,
            Path("/dev/null/model"),
        )
    with pytest.raises(WeightsError, match="holds no tokenizer or configuration"):
        extend(tmp_path / "nothing", SPECS)
