"""A team's own text: files become a store, and any class that packed rows train learns from it; what
one process learns, two ranks learn, and so does a run that was stopped."""

import gzip
import json
import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import small_models
import torch
from processes import ForkedProcess, start_python
from small_models import written
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import onnuri
from onnuri.cli import main
from onnuri.data.document_store import DocumentStore, StoreRows, write_store
from onnuri.errors import ConfigError
from onnuri.model.base import load_base, reads_packed_rows
from onnuri.parallel import apply
from onnuri.training import memory_check, state
from onnuri.training import pretrain as pretraining
from onnuri.training.loop import read_metrics
from onnuri.training.pretrain_config import read_data

DOCS = Path(onnuri.__file__).parents[1] / "docs" / "training.md"
COLOURS = ["red", "blue", "빨간"]
TEXTS = [f"a {COLOURS[k % 3]} cube is left of ball {k}" for k in range(120)]


def lines(texts):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def model(folder, weights=True, family="llama", **more):
    """A folder with a small model and its tokenizer; without weights, its config.json alone."""
    values = {**small_models.SMALL, **more}
    config = AutoConfig.for_model(family, **values)
    if weights:
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    config.save_pretrained(folder)
    small_models.tokenizer().save_pretrained(folder)
    return folder


def call(*arguments):
    main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """Return the one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.err.count("\n") == 1 and told.out == "", told
    return told.err


def store(folder, base, texts=TEXTS):
    path = folder.with_suffix(".jsonl")
    path.write_text(lines(texts), encoding="utf-8")
    call("tokenize", path, "-o", folder, "--tokenizer", base)
    return folder


def train(base, data, out, *more):
    flags = ["--tokens", 48, "--rows", 4, "--steps", 6, "--warmup-steps", 0]
    flags += ["--learning-rate", "1e-2", "-o", out]
    # a flag that is given again replaces the one before
    call("train", "pretrain", base, "--data", data, *flags, *more)


def weights(out):
    return AutoModelForCausalLM.from_pretrained(out / "model").state_dict()


def test_files_become_the_ids_of_their_tokenizer(tmp_path, capsys):
    base = model(tmp_path / "base", weights=False)
    (tmp_path / "one.txt").write_bytes("\ufeffa red\r\ncube".encode())
    (tmp_path / "two.jsonl").write_text(lines(["빨간 공", " ", "spells </s> out"]) + "\n")
    with gzip.open(tmp_path / "three.txt.gz", "wt", encoding="utf-8") as file:
        file.write("a blue ball\n\nleft\n")
    inputs = [tmp_path / name for name in ("one.txt", "two.jsonl", "three.txt.gz")]
    call("tokenize", *inputs, "-o", tmp_path / "whole", "--tokenizer", base)
    call("tokenize", *inputs, "-o", tmp_path / "split", "--tokenizer", base, "--split-lines")
    assert "wrote" in capsys.readouterr().out
    words = AutoTokenizer.from_pretrained(base)
    for name, expected in {
        "whole": ["a red\ncube", "빨간 공", "spells </s> out", "a blue ball\n\nleft\n"],
        "split": ["a red", "cube", "빨간 공", "spells </s> out", "a blue ball", "left"],
    }.items():
        found = DocumentStore(tmp_path / name)
        documents = [found.document(k).tolist() for k in range(len(found))]
        assert [words.decode(ids[:-1]) for ids in documents] == expected
        assert [ids.count(1) for ids in documents] == [1] * len(expected)  # </s>, at the end alone
        assert {ids[-1] for ids in documents} == {1} and found.vocabulary == small_models.WORDS


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl:2: is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n{"words": "b"}\n', 'a.jsonl:3: has no "text"; write'),
        ("a.jsonl", b'["text"]\n', 'a.jsonl:1: has no "text"'),
        ("a.jsonl", b'{"text": "a"}\n\xff\n', "a.jsonl:2: is not UTF-8 (byte 0 is 0xff)"),
        ("a.txt", b"a\n\xb0\xa1", "a.txt: is not UTF-8 (byte 2 is 0xb0)"),
        ("a.txt", b" \n", "a.txt: holds no document; give a file with some text"),
        ("a.jsonl", b"", "a.jsonl: holds no document"),
        ("a.csv", b"a", "a.csv: ends neither in .txt nor in .jsonl"),
        ("a.txt.gz", b"no gzip", "a.txt.gz: cannot be read to its end"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9],
            "cannot be read to its end",
        ),
        ("missing.txt", None, "missing.txt: cannot be read (No such file"),
    ],
)
def test_files_that_cannot_be_read_are_one_line_and_leave_nothing(
    tmp_path, name, content, why, capsys
):
    base = model(tmp_path / "base", weights=False)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    command = ["tokenize", tmp_path / name, "-o", tmp_path / "store", "--tokenizer", base]
    assert why in refused(capsys, *command)
    assert sorted(tmp_path.iterdir()) == before


def test_tokenizers_and_places_that_cannot_be_used(tmp_path, capsys):
    base = model(tmp_path / "base", weights=False)
    (tmp_path / "a.txt").write_text("a")
    command = ["tokenize", tmp_path / "a.txt", "-o", tmp_path / "store", "--tokenizer"]
    assert "holds no tokenizer that" in refused(capsys, *command, tmp_path)
    assert "--end <eot>: is no token" in refused(capsys, *command, base, "--end", "<eot>")
    words = small_models.tokenizer()
    words.eos_token = None
    words.save_pretrained(tmp_path / "endless")
    assert "name its token with --end" in refused(capsys, *command, tmp_path / "endless")
    assert not (tmp_path / "store").exists()
    call(*command, tmp_path / "endless", "--end", "</s>")
    assert DocumentStore(tmp_path / "store").document(0).tolist()[-1] == 1
    assert "is there already" in refused(capsys, *command, base)
    folder = ["tokenize", tmp_path, "-o", tmp_path / "t", "--tokenizer", base]
    assert "is a folder; give its files" in refused(capsys, *folder)


def test_a_model_without_weights_learns_and_plain_transformers_reads_it(tmp_path, capsys):
    base = model(tmp_path / "base", weights=False, dtype="bfloat16")
    store(tmp_path / "train", base)
    store(tmp_path / "held", base, [f"a red cube is left of ball {k}" for k in range(200, 240)])
    data = tmp_path / "data.toml"
    data.write_text('held_out = "held"\n[sources]\nown = "train"\n')
    train(base, data, tmp_path / "run")
    told = capsys.readouterr().out
    losses = [float(x) for x in re.findall(r"held out: loss ([\d.]+) per token", told)]
    assert len(losses) == 2 and losses[1] < losses[0] - 1 and "6 steps of 4 rows of 48" in told
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    words = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert words.get_vocab() == small_models.tokenizer().get_vocab()
    # the same loss by transformers' own code, of the same rows' sequences one by one
    held = StoreRows(DocumentStore(tmp_path / "held"), 48)
    total = count = 0.0
    for index in range(held.store.tokens // 48):
        row = held.row(index)
        for ids in row.ids[0].split(row.lengths.tolist()):
            if len(ids) > 1:
                with torch.no_grad():
                    loss = found.float()(input_ids=ids[None], labels=ids[None]).loss
                total, count = total + float(loss) * (len(ids) - 1), count + len(ids) - 1
    assert total / count == pytest.approx(losses[1], abs=0.02)  # its weights have 16 bits


def test_a_model_with_weights_is_trained_further(tmp_path):
    base = model(tmp_path / "base")
    data = store(tmp_path / "train", base)
    train(base, data, tmp_path / "run", "--steps", 1, "--learning-rate", "1e-5")
    before, after = load_base(base).state_dict(), weights(tmp_path / "run")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=3e-5)
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    base = model(tmp_path / "base", weights=False)
    data = store(tmp_path / "train", base)
    train(base, data, tmp_path / "whole")
    own = StoreRows.row

    def stopping(self, index):
        if index == 13 and not state.latest(tmp_path / "stopped"):
            os.kill(os.getpid(), signal.SIGTERM)
        return own(self, index)

    monkeypatch.setattr(pretraining.StoreRows, "row", stopping)
    with pytest.raises(SystemExit) as stop:
        train(base, data, tmp_path / "stopped")
    assert stop.value.code == 75 and not (tmp_path / "stopped" / "model").exists()
    assert state.read_position(state.latest(tmp_path / "stopped")).step == 4
    train(base, data, tmp_path / "stopped", "--workers", 2)
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    losses = [[x["loss"] for x in read_metrics(tmp_path / n)] for n in ("whole", "stopped")]
    assert losses[0] == losses[1]


def test_stages_weigh_sources_and_without_them_ids_do(tmp_path, monkeypatch, capsys):
    base = model(tmp_path / "base", weights=False)
    for name, count in (("a", 90), ("b", 30)):
        store(tmp_path / name, base, TEXTS[:count])
    data = tmp_path / "data.toml"
    data.write_text(
        '[sources]\na = "a"\nb = "b"\n[[stages]]\nrows = 8\nweights = {a = 1}\n'
        "[[stages]]\nrows = 16\nweights = {a = 1, b = 3}\n"
    )
    read = []
    own = StoreRows.row

    def noted(self, index):
        read.append(self.store.folder.name)
        return own(self, index)

    monkeypatch.setattr(pretraining.StoreRows, "row", noted)
    call(
        "train", "pretrain", base, "--data", data, "--tokens", 48, "--rows", 4, "-o", tmp_path / "r"
    )
    assert len(read) == 24 and read[:8] == ["a"] * 8 and read[8:].count("b") == 12
    read.clear()
    data.write_text('[sources]\na = "a"\nb = "b"\n')
    train(base, data, tmp_path / "s")
    assert len(read) == 24 and read.count("b") == 6


@pytest.mark.parametrize(
    "text, why",
    [
        ("sources = 3", "sources: names no store"),
        ("[sources]\na = 3", "a = 3: is no folder"),
        ('[source]\na = "a"', "'source': is not a field of TrainingData; did you mean 'sources'"),
        ("", "needs sources"),
        ("[sources", "is not TOML"),
        ('[sources]\na = "a"\n[[stages]]\nweights = {a = 0}', "mixture: has no source with a"),
        ('[sources]\na = "a"\n[[stages]]\nweights = {a = "x"}', "weight 'x' of a: is no number"),
        ('[sources]\na = "a"\n[[stages]]\nweights = {a = -1}', "weight -1 of a: is no weight"),
        ('[sources]\na = "a"\n[[stages]]\nweights = {b = 1}', "'b' in a stage: is no source; use"),
        ('[sources]\na = "a"\n[[stages]]\nweights = 3', "weights = 3: is no table"),
        ('[sources]\na = "a"\n[[stages]]\nrows = 0\nweights = {a = 1}', "has 0 rows"),
        (
            '[sources]\na = "a"\n[[stages]]\nrows = 1.5\nweights = {a = 1}',
            "rows = 1.5: is no whole",
        ),
        ('[sources]\na = "a"\n[[stages]]\nrow = 1', "'row': is not a field of MixtureStage"),
        ('stages = 3\n[sources]\na = "a"', "stages: is no list of tables"),
        ('held_out = "./a"\n[sources]\na = "a"', "a: is also what is held out"),
        ('[sources]\na = "nothing"', "nothing: holds no store of tokens"),
        ('held_out = "nothing"\n[sources]\na = "a"', "nothing: holds no store of tokens"),
        ('[sources]\na = "other"', "other: holds ids of another vocabulary"),
        ('[sources]\na = "short"', "short: holds 9 ids, less than one row of 48"),
        ('[sources]\na = "large"', "large: has 999 ids, and the model's embedding 320 rows"),
    ],
)
def test_data_that_cannot_be_is_one_line(tmp_path, text, why, capsys):
    base = model(tmp_path / "base", weights=False)
    name = DocumentStore(store(tmp_path / "a", base)).ids_from
    write_store(tmp_path / "other", [[1] * 99], 320, "another")
    write_store(tmp_path / "short", [[1] * 9], 320, name)
    write_store(tmp_path / "large", [[1] * 99], 999, name)
    data = tmp_path / "data.toml"
    data.write_text(text)
    command = ["train", "pretrain", base, "--data", data, "--tokens", 48, "-o", tmp_path / "run"]
    assert why in refused(capsys, *command)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--tokens", "512"], "--tokens 512: is more than the model's longest sequence of 256"),
        (["--rows", "0"], "--rows 0: is less than 1; give 1 or more"),
        (["--steps", "0"], "--steps 0: is less than 1"),
        (["--learning-rate", "3"], "--learning-rate 3.0: is not within 0 and 1"),
        (["--decay", "nan"], "--decay nan: is not from 0 to 1"),
        (["--seed", "-1"], "--seed -1"),
        (["--workers", "-1"], "--workers -1: is less than 0"),
        (["--layout", "tp=2"], "--layout tp=2: takes 2 ranks, and this process is alone"),
        (["--layout", "offload"], "--layout offload: offloads weights to the host"),
        (["--profile-steps", "9-2"], "--profile-steps 9-2: is not a first and a last step"),
        (["--optimizer", "sgd"], "--optimizer 'sgd': is not known; use"),
        (["--data", "{t}/nothing"], "nothing: cannot be read (No such file"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, flags, why, capsys):
    base = model(tmp_path / "base", weights=False)
    data = store(tmp_path / "a", base)
    given = {"--data": str(data), "--tokens": "48", "-o": str(tmp_path / "run")}
    given[flags[0]] = flags[1].format(t=tmp_path)
    command = [x for pair in given.items() for x in pair]
    assert why in refused(capsys, "train", "pretrain", base, *command)
    assert not (tmp_path / "run").exists()


def test_one_process_computes_activations_again_as_its_layout_says(tmp_path, monkeypatch):
    asked, checkpoint = [], apply.checkpoint_activations

    def noted(network, recompute):
        asked.append(recompute)
        checkpoint(network, recompute)

    monkeypatch.setattr(apply, "checkpoint_activations", noted)
    base = model(tmp_path / "base", weights=False)
    data = store(tmp_path / "a", base)
    for name, more in (("plain", []), ("again", ["--layout", "recompute=full"])):
        train(base, data, tmp_path / name, *more)
    assert asked == ["full"]
    plain, again = weights(tmp_path / "plain"), weights(tmp_path / "again")
    assert all(torch.equal(again[name], weight) for name, weight in plain.items())


def test_layers_are_not_compiled_without_a_compiler(tmp_path, monkeypatch, capsys):
    base = model(tmp_path / "base", weights=False)
    data = store(tmp_path / "a", base)
    monkeypatch.setenv("CXX", "no-compiler")
    flags = ["--data", data, "--tokens", 48, "-o", tmp_path / "run", "--compiled", "True"]
    assert "need a C++ compiler" in refused(capsys, "train", "pretrain", base, *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compiled_layers_learn_what_others_do(tmp_path):
    """On a CPU, in rows whose sequences differ in length; and a run goes on without the compiler."""
    base = model(tmp_path / "base")
    data = store(tmp_path / "a", base)
    train(base, data, tmp_path / "plain", "--steps", 3)
    train(base, data, tmp_path / "compiled", "--steps", 3, "--compiled", "True")
    for name, tensor in weights(tmp_path / "plain").items():
        torch.testing.assert_close(
            weights(tmp_path / "compiled")[name], tensor, rtol=1e-4, atol=1e-5
        )
    train(base, data, tmp_path / "compiled", "--steps", 3)


def test_models_that_cannot_be_trained_are_one_line(tmp_path, capsys):
    base = model(tmp_path / "base", weights=False)
    data = store(tmp_path / "a", base)
    flags = ["--data", data, "--tokens", 48, "-o", tmp_path / "run"]
    assert "holds no tokenizer" in refused(capsys, "train", "pretrain", tmp_path, *flags)
    for family in ("gemma2", "gpt2"):
        written(tmp_path / family, family)
        told = refused(capsys, "train", "pretrain", tmp_path / family, *flags)
        assert "that packed rows do not train" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "family, more, reads",
    [
        ("llama", {"attention_dropout": 0.1}, True),
        ("mistral", {"sliding_window": 4}, True),
        ("qwen3", {}, True),
        ("olmo2", {}, True),
        ("exaone4", {}, True),
        ("cohere", {}, False),
        ("gemma2", {"final_logit_softcapping": None, "query_pre_attn_scalar": 8}, False),
        ("gpt_neox", {}, False),
    ],
)
def test_packed_rows_are_tried_by_the_class_itself(tmp_path, family, more, reads):
    torch.manual_seed(0)
    values = {**small_models.SMALL, **more}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values))
    before = network.config._attn_implementation
    assert reads_packed_rows(network) == reads
    assert network.training and network.config._attn_implementation == before


def test_a_folder_of_another_run_is_not_gone_on_with(tmp_path, capsys):
    base = model(tmp_path / "base", weights=False)
    data = store(tmp_path / "a", base)
    train(base, data, tmp_path / "run", "--steps", 1)
    other = store(tmp_path / "b", base, TEXTS[::-1])  # as many ids
    flags = ["--tokens", 48, "--rows", 4, "--steps", 1, "--warmup-steps", 0]
    flags += ["--learning-rate", "1e-2", "-o", tmp_path / "run"]
    told = refused(capsys, "train", "pretrain", base, "--data", other, *flags)
    assert "holds a run with another data; give another --out" in told


MIXTURE = {"n_routed_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
"""of a Solar Open model, whose routers' biases stay in 32 bits"""


def mixture(folder, **more):
    return model(folder, family="solar_open", dtype="bfloat16", **{**MIXTURE, **more})


def ranks_train(tmp_path, *arguments):
    """Run `onnuri train pretrain ARGUMENTS` over two ranks, and return each one's exit status,
    output and errors."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = []
    for rank in range(2):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        files = [tmp_path / f"{rank}.{name}" for name in ("out", "err")]
        for file in files:
            file.unlink(missing_ok=True)
        process = ForkedProcess(
            "onnuri",
            *("train", "pretrain", *arguments),
            log=files[0],
            errors=files[1],
            environment={name: str(value) for name, value in environment.items()},
        )
        started.append((process, files))
    return [(p.wait(300), *(file.read_text() for file in files)) for p, files in started]


@pytest.mark.parametrize(
    "family, more, layout, why",
    [
        ("solar_open", MIXTURE, "dp=2,ep=2,ddp", "ep 2: does not divide the 1 ranks that share"),
        ("phi3", {"resid_pdrop": 0.1}, "tp=2,ddp", "dropout 0.1 in model.layers.0.resid_attn_drop"),
    ],
)
def test_a_layout_that_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path, family, more, layout, why
):
    base = model(tmp_path / "base", weights=False, family=family, **more)
    data = store(tmp_path / "train", base)
    flags = [base, "--data", data, "--tokens", 48, "--rows", 4, "-o", tmp_path / "run"]
    ended = ranks_train(tmp_path, *flags, "--layout", layout)
    assert [status for status, _, _ in ended] == [2, 2]
    told = "".join(out + err for _, out, err in ended)
    assert told.startswith("onnuri: ") and told.count("\n") == 1 and why in told
    assert not (tmp_path / "run").exists()


def test_two_ranks_train_a_mixture_further(tmp_path):
    base = mixture(tmp_path / "base", tie_word_embeddings=True)
    data = store(tmp_path / "train", base)
    flags = [base, "--data", data, "--tokens", 48, "--rows", 4, "--steps", 3]
    flags += ["--warmup-steps", 0, "--learning-rate", "1e-3", "-o"]
    call("train", "pretrain", *flags, tmp_path / "one")
    layout = "dp=2,ep=2,fsdp"
    for status, _, errors in ranks_train(tmp_path, *flags, tmp_path / "two", "--layout", layout):
        assert status == 0, errors
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert [x["loss"] for x in two] == pytest.approx([x["loss"] for x in one], rel=1e-6, abs=0)
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert {t.dtype for t in found.values()} == {torch.bfloat16, torch.float32}
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype == before[name].dtype
        # a 16-bit weight may be rounded to its neighbour
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-5)
    assert sum(not torch.equal(found[n], t) for n, t in before.items()) > len(before) / 2


def test_what_is_written_is_what_transformers_writes_of_the_whole(tmp_path, monkeypatch):
    base = mixture(tmp_path / "base")
    settings = {"eos_token_id": 1, "bos_token_id": 0, "max_new_tokens": 77}
    (base / "generation_config.json").write_text(json.dumps(settings))
    data = store(tmp_path / "train", base)
    train(base, data, tmp_path / "own", "--steps", 1)

    def refuse(*_):
        raise ConfigError("weight w", "is computed", "gather it")

    monkeypatch.setattr(pretraining, "written_weights", refuse)  # as of a class that computes some
    train(base, data, tmp_path / "whole", "--steps", 1)
    own, whole = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "model").iterdir()}
        for name in ("own", "whole")
    )
    assert own == whole and json.loads(own["generation_config.json"])["max_new_tokens"] == 77


def test_a_model_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    base = model(tmp_path / "base")
    data = store(tmp_path / "train", base)
    flags = ["train", "pretrain", base, "--data", data, "--tokens", 48, "-o", tmp_path / "run"]
    monkeypatch.setattr(memory_check, "available_bytes", lambda: 500_000)
    told = refused(capsys, *flags)
    assert f"{base}: needs at least 0.0 GiB of memory per rank" in told
    assert not (tmp_path / "run").exists()
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.undo()
    assert "model.safetensors: cannot be read" in refused(capsys, *flags)
    assert not (tmp_path / "run").exists()


def doc_blocks(language):
    section = DOCS.read_text(encoding="utf-8").split("## Train on your own text")[1].split("\n## ")
    return re.findall(rf"```{language}\n(.*?)```", section[0], re.S)


def test_the_commands_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "my-llm", weights=False, max_position_embeddings=2048)
    (tmp_path / "news.jsonl").write_text(lines(TEXTS * 2))
    with gzip.open("books.txt.gz", "wt", encoding="utf-8") as file:
        file.write("a red cube is left of a blue ball\n" * 2000)
    for line in doc_blocks("bash")[0].splitlines():
        call(*shlex.split(line, comments=True)[1:])
    AutoModelForCausalLM.from_pretrained(tmp_path / "my-run" / "model")
    Path("data.toml").write_text(doc_blocks("toml")[0])
    data = read_data(Path("data.toml"))
    assert data.held_out and len(data.sources) == 2 and len(data.stages) == 2


@pytest.mark.parametrize(
    "layout, more",
    [
        pytest.param("fsdp", [], marks=pytest.mark.slow),
        pytest.param("tp=2,ddp", [], marks=pytest.mark.long),
        pytest.param("fsdp,recompute=full", ["--compiled", "True"], marks=pytest.mark.long),
    ],
)
def test_two_ranks_learn_what_one_process_does(tmp_path, layout, more, capsys):
    base = model(tmp_path / "base", weights=False)
    store(tmp_path / "train", base)
    store(tmp_path / "held", base, TEXTS[:41])
    data = tmp_path / "data.toml"
    data.write_text('held_out = "held"\n[sources]\nown = "train"\n')
    capsys.readouterr()
    train(base, data, tmp_path / "one")
    held_out = re.findall(r"held out: .*", capsys.readouterr().out)
    flags = ["--tokens", 48, "--rows", 4, "--steps", 6, "--warmup-steps", 0, "--layout", layout]
    flags += ["--learning-rate", "1e-2", "-o", tmp_path / "two", "--workers", 1, *more]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m"]
    command = [*torchrun, "onnuri", "train", "pretrain", base, "--data", data, *flags]
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start_python(*command, **outputs)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert re.findall(r"held out: .*", output) == held_out and len(held_out) == 2
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    # relative: the log itself is rounded to 1e-6
    assert [x["loss"] for x in two] == pytest.approx([x["loss"] for x in one], rel=1e-6, abs=0)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, rtol=1e-3, atol=1e-5)
    if layout == "fsdp":
        bad = start_python(*command, "--rows", 3, "-o", tmp_path / "bad", **outputs)
        _, errors = bad.communicate(timeout=300)
        ours = [line for line in errors.splitlines() if line.startswith("onnuri: ")]
        assert bad.returncode != 0 and len(ours) == 1 and "3 rows per step" in ours[0]
        assert not (tmp_path / "bad").exists()
