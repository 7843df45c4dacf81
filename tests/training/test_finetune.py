"""Fine-tuning of small random language models of transformers: its loss is theirs, a run that was
stopped ends as one that was not, and plain transformers and peft read what comes out."""

import json
import os
import signal

import pytest
import small_models
import torch
import torch.distributed.checkpoint as dcp
from foreign_codecs import small_mimi
from small_models import written
from transformers import AutoModelForCausalLM, AutoTokenizer

from onnuri.cli import main
from onnuri.data.chat import ChatSequence
from onnuri.model.base import extend, has_plain_head, layout_of, load_base, save_base
from onnuri.training import finetune as finetuning
from onnuri.training import state
from onnuri.training.finetune import ChatObjective, FinetuneConfig, finetune

ENDED = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def chat(tmp_path):
    path = tmp_path / "chat.jsonl"
    things = ["cube", "ball", "빨간 공", "a blue cube"]
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"say {things[k % 4]} {k}"},
                {"role": "assistant", "content": things[k % 4]},
            ]
        }
        for k in range(24)
    ]
    path.write_text("\n".join(json.dumps(t, ensure_ascii=False) for t in talks))
    return path


def base(tmp_path, family="mistral", dtype=torch.float32):
    written(tmp_path / "base", family, dtype)
    words = AutoTokenizer.from_pretrained(tmp_path / "base")
    words.chat_template = ENDED
    words.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def asked(folder, chat, **more):
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 3e-3, "device": "cpu"}
    return FinetuneConfig(base=str(folder), data=str(chat), **{**settings, **more})


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("family, plain", [("mistral", True), ("gemma2", False), ("cohere", False)])
def test_the_loss_is_that_of_transformers(tmp_path, family, plain):
    """Which classes cap or scale their logits is not written anywhere: it is tried."""
    written(tmp_path, family)
    model = load_base(tmp_path, dtype=torch.float64).eval()
    assert has_plain_head(model) == plain
    draw = torch.Generator().manual_seed(0)
    sequences = []
    for length in (5, 9, 12):
        ids = torch.randint(2, 300, (length,), generator=draw).tolist()
        sequences.append(ChatSequence(ids, [0.0, 0.0, *[1.0] * (length - 2)]))
    task = ChatObjective(model, model, sequences, 3, 1, 0, padding=0)
    ids, mask, weight = task.rows(sequences)
    labels = torch.where(weight > 0, ids, -100)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    parts, figures = task.loss((ids, mask, weight))
    assert float(parts.weight) == 3 + 7 + 10 and figures["tokens"] == 26
    # theirs scores logits in 32 bits
    torch.testing.assert_close(parts.mean, expected, rtol=1e-6, atol=0, check_dtype=False)
    assert task.evaluate(sequences) == pytest.approx(float(expected), rel=1e-6)


def test_what_is_learned_is_read_by_plain_transformers(tmp_path, chat, capsys):
    folder = base(tmp_path, dtype=torch.bfloat16)
    command = ["train", "finetune", "--base", str(folder), "--data", str(chat), "--device", "cpu"]
    main([*command, "--epochs", "40", "--learning-rate", "1e-2", "-o", str(tmp_path / "run")])
    told = capsys.readouterr().out
    assert "24 conversations" in told and "held out" in told and "wrote" in told
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    words = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert words.chat_template == ENDED
    prompt = words("user:say a blue cube 3</s>assistant:", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0]
    answer = answer[prompt.input_ids.shape[1] :]
    assert words.decode(answer) == "a blue cube</s>"


def test_generation_stops_at_what_ended_the_answers(tmp_path, chat):
    folder = base(tmp_path)
    words = AutoTokenizer.from_pretrained(folder)
    words.add_special_tokens({"extra_special_tokens": ["<|end|>"]})
    words.chat_template = ENDED.replace("{{ eos_token }}", "<|end|>")
    words.save_pretrained(folder)
    finetune(asked(folder, chat, steps=1), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.generation_config.eos_token_id == [1, words.convert_tokens_to_ids("<|end|>")]


def test_one_conversation_in_twenty_is_held_out_and_not_trained_on(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": "q", "completion": f"a{k}"}) for k in range(60))
    )
    words = small_models.tokenizer()
    words.chat_template = ENDED
    all_of_it = finetuning.split(path, words, 99, 0)
    held, trained = (
        {tuple(s.ids) for s in part} for part in (all_of_it.held_out, all_of_it.training)
    )
    assert len(held) == 3 and len(trained) == 57 and not held & trained
    path.write_text("\n".join(path.read_text().splitlines()[:19]))
    assert not finetuning.split(path, words, 99, 0).held_out


def test_dropout_counts_in_training_and_not_where_the_loss_is_measured(tmp_path):
    written(tmp_path, "gpt2")
    model = load_base(tmp_path)
    model.train()
    sequence = ChatSequence(list(range(2, 30)), [0.0, *[1.0] * 27])
    task = ChatObjective(model, model, [sequence], 1, 1, 0, padding=0)
    assert model.training  # trying the head leaves it so
    trained = {float(task.loss(task.batch(0))[0].mean.detach()) for _ in range(3)}
    assert len(trained) == 3 and len({task.evaluate([sequence]) for _ in range(3)}) == 1


def test_adapters_count_twice_unless_said_otherwise(tmp_path, chat):
    peft = pytest.importorskip("peft")
    folder = base(tmp_path)
    for alpha, expected in ((None, 8), (3, 3)):
        out = tmp_path / f"run-{alpha}"
        finetune(asked(folder, chat, steps=1, lora=4, lora_alpha=alpha), out)
        assert peft.PeftConfig.from_pretrained(out / "adapter").lora_alpha == expected


@pytest.mark.parametrize("lora", [None, 4])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, chat, lora, monkeypatch):
    folder = base(tmp_path)
    finetune(asked(folder, chat, lora=lora), tmp_path / "whole")
    own = ChatObjective.batch

    def stopping(self, step):
        if step == 3 and not state.latest(tmp_path / "stopped"):
            os.kill(os.getpid(), signal.SIGTERM)
        return own(self, step)

    monkeypatch.setattr(finetuning.ChatObjective, "batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(asked(folder, chat, lora=lora), tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "model").exists()
    finetune(asked(folder, chat, lora=lora), tmp_path / "stopped")
    whole, stopped = (weights(tmp_path / name / "model") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert any(not torch.equal(whole[name], tensor) for name, tensor in weights(folder).items())


def test_micro_batches_change_no_weight(tmp_path, chat):
    folder = base(tmp_path)
    for parts in (1, 3):
        finetune(asked(folder, chat, batch_size=5, micro_batches=parts), tmp_path / f"{parts}")
    one, three = (weights(tmp_path / name / "model") for name in ("1", "3"))
    for name in one:
        torch.testing.assert_close(one[name], three[name], rtol=1e-4, atol=1e-5)


class Headless(torch.nn.Linear):
    """What is never asked for a loss."""

    def __init__(self):
        super().__init__(1, 1)

    def get_output_embeddings(self):
        return None


def test_an_epoch_sees_every_sequence_once_and_in_another_order():
    sequences = [ChatSequence([k] * (k % 7 + 2), [0.0, *[1.0] * (k % 7 + 1)]) for k in range(23)]
    network = Headless()
    task = ChatObjective(network, network, sequences, 4, 2, 0, 99)
    steps = task.steps_per_epoch
    assert steps == 6

    def seen(epoch):
        batches = [task.batch(2 * steps * epoch + k)[0] for k in range(2 * steps)]
        return [int(row[0]) for ids in batches for row in ids if len(ids)]

    assert sorted(seen(0)) == sorted(seen(1)) == list(range(23)) and seen(0) != seen(1)


def test_adapters_are_small_and_peft_reads_them(tmp_path, chat):
    peft = pytest.importorskip("peft")
    folder = base(tmp_path)
    finetune(asked(folder, chat, lora=4, learning_rate=3e-2), tmp_path / "run")
    bare = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    adapted = peft.PeftModel.from_pretrained(bare, tmp_path / "run" / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            adapted(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=1e-4, atol=1e-5
        )
    after = merged.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("proj" in name for name in changed)
    reader = dcp.FileSystemReader(state.latest(tmp_path / "run"))
    stored = reader.read_metadata().state_dict_metadata
    assert stored and all("lora_" in name for name in stored)


def test_codes_of_an_extended_base_stay(tmp_path, chat):
    folder = base(tmp_path)
    layout, words = extend(folder, [small_mimi().spec])
    save_base(load_base(folder, layout), words, layout, tmp_path / "extended")
    finetune(asked(tmp_path / "extended", chat, steps=1), tmp_path / "run")
    assert layout_of(tmp_path / "run" / "model") == layout
    assert weights(tmp_path / "run" / "model")["lm_head.weight"].shape[0] == layout.size


def test_a_base_without_a_template_is_given_a_plain_one(tmp_path, chat, capsys):
    folder = base(tmp_path)
    (folder / "chat_template.jinja").unlink()
    finetune(asked(folder, chat, steps=1), tmp_path / "run")
    assert "no chat template" in capsys.readouterr().out
    words = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    text = words.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False)
    assert text == "user: q\n"


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--base", "{t}/nothing"], "holds no tokenizer or configuration"),
        (["--data", "{t}/nothing.jsonl"], "cannot be read"),
        (["--data", "{t}/base/config.json"], "is not JSON"),
        (["--batch-size", "0"], "--batch-size 0: is less than 1; give 1 or more"),
        (["--epochs", "nan"], "--epochs nan: is no number above 0"),
        (["--learning-rate", "2"], "--learning-rate 2.0: is not within 0 and 1"),
        (["--lora-alpha", "4"], "--lora-alpha 4: is of adapters; give --lora too"),
        (["--micro-batches", "9"], "--micro-batches 9: is more than the 8 sequences of a step"),
        (["--seed", "-1"], "--seed -1: is not within 0 and 4,294,967,295; give such as 0"),
        (["--max-tokens", "2"], "leaves no room"),
        (["--max-tokens", "8"], "has no answer within 8 tokens"),
        (["--device", "cuda"], "--device cuda: is not there"),
        (["--device", "tpu"], "--device 'tpu': is not known; use"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, chat, flags, why, capsys):
    folder = base(tmp_path)
    asked = {"--base": str(folder), "--data": str(chat), "--out": str(tmp_path / "run")}
    asked |= {name: value.format(t=tmp_path) for name, value in [flags]}
    capsys.readouterr()  # transformers draws a bar for what it wrote
    with pytest.raises(SystemExit) as stop:
        main(["train", "finetune", *(x for pair in asked.items() for x in pair)])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and why in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_failed_before_it_began_stands_in_nobody_s_way(tmp_path, chat, capsys):
    folder = base(tmp_path)
    command = ["train", "finetune", "--base", str(folder), "--data", str(chat), "--steps", "1"]
    lines = chat.read_text()
    chat.write_text(lines + "\n{")
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path / "run")])
    chat.write_text(lines)
    main([*command, "--out", str(tmp_path / "run")])
    for content in ("", "{", "[1]"):
        (tmp_path / "run" / "run.json").write_text(content)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*command, "--out", str(tmp_path / "run")])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and "run.json: is damaged" in told and told.count("\n") == 1


def test_a_folder_of_another_run_is_not_gone_on_with(tmp_path, chat, capsys):
    folder = base(tmp_path)
    command = ["train", "finetune", "--base", str(folder), "--data", str(chat), "--steps", "1"]
    main([*command, "--out", str(tmp_path / "run")])
    chat.write_text(chat.read_text() + '\n{"prompt": "q", "completion": "a"}')
    with pytest.raises(SystemExit) as stop:
        main([*command, "--seed", "1", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "holds a run with another data_sha256, seed; give another --out" in (
        capsys.readouterr().err
    )
