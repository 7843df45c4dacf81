"""The command line as a user meets it: real processes, one line for a mistake, exit status 2."""

import json
import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch
from processes import run_onnuri

from onnuri.cli import main, parse, unboxed


def run(*arguments: str) -> subprocess.CompletedProcess:
    return run_onnuri(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"],
        ["generate", "--txt", "hi"],
        ["generate", "--to", "imag", "-o", "x.png"],
        ["demo"],
        ["train", "mainframe"],
        ["watch"],
        ["watch", "no-such-run", "--refresh", "soon"],
        ["evaluate", "matrix", "--items", "many"],
        ["plan"],
        ["plan", "budget", "--gpu", "B200"],
        ["plan", "axk1", "--gpus", "many"],
        ["plan", "axk1", "--days", "soon"],
        ["plan", "axk1", "--language", "fr"],
        ["plan", "axk1", "--precision", "fp7"],
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("onnuri: ") and done.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command",
    ["demo hi -o {out}", "generate --to image --text hi -o {out}", "chat", "serve --data {out}"],
)
def test_a_gpu_that_is_not_there_is_one_line_and_status_2(command, tmp_path, capsys):
    out = tmp_path / "out.png"
    with pytest.raises(SystemExit) as stop:
        main([*command.format(out=out).split(), "--device", "cuda"])
    said = capsys.readouterr()
    expected = "--device cuda: needs a CUDA GPU, and torch sees none; use --device cpu"
    assert stop.value.code == 2 and said.out == "" and said.err == f"onnuri: {expected}\n"
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("axk3", "axk1"),
        ("axk1 --gpu H2000", "H200"),
        ("axk1 --gpus 0", "0 GPUs"),
        ("axk1 --gpus -8", "-8 GPUs"),
        ("axk1 --days -1", "days -1"),
        ("axk1 --days nan", "days nan"),
        ("axk1 --tokens ten", "'ten'"),
        ("axk1 --tokens 0", "tokens 0"),
        ("axk1 --budget-usd 0", "budget 0"),
        ("axk1 --layout dp=3", "is not 1024 GPUs"),
        ("axk1 --layout pp=128", "more than 61 layers"),
        ("axk1 --layout dp=512,tp=3", "is not a multiple of 3"),
        ("axk1 --layout warp=9", "'warp=9'"),
        ("axk1 --gpus 7", "fit"),
        ("axk1 --layout own --gpus 64", "is not 64 GPUs"),
        ("axk1 --layout own --json /dev/null/p.json", "/dev/null"),
        ("axk1 --layout own --html /dev/null/p.html", "/dev/null"),
        ("budget --gpu B20 --gpus 8 --days 3", "B200"),
        ("budget --gpu B200 --gpus 0 --days 3", "0 GPUs"),
        ("budget --gpu B200 --gpus 8 --days 0", "days 0"),
        ("budget --gpu B200 --gpus 8 --days 1e-9", "is enough for none"),
        ("budget --gpu B200 --gpus 8 --days 1e300", "century"),
        ("axk1 --layout own --tokens 1e-300", "less than one step"),
        ("axk1 --tokens 1e300", "below 1e+18"),
        ("freeze nobody", "nobody"),
        ("dry-run nobody", "nobody"),
    ],
)
def test_a_wrong_plan_is_one_line_and_status_2(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments.split()])
    said = capsys.readouterr()
    assert (
        stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and says in said.err
    )


def test_a_plan_is_printed_and_written(tmp_path, capsys):
    main(
        [
            "plan",
            "solar_open",
            "--layout",
            "own",
            "--days",
            "60",
            "--json",
            str(tmp_path / "p.json"),
            "--html",
            str(tmp_path / "p.html"),
            "--language",
            "ko",
        ]
    )
    said = capsys.readouterr().out
    assert "Solar Open" in said and "60일 안에 배울 확률" in said
    written = json.loads((tmp_path / "p.json").read_text())
    assert (
        written["days"]["mid"] == pytest.approx(60)
        and 'lang="ko"' in (tmp_path / "p.html").read_text()
    )


def test_recipes_are_listed_with_what_they_count(tmp_path, capsys):
    main(["plan", "recipes", "--json", str(tmp_path / "r.json")])
    rows = json.loads((tmp_path / "r.json").read_text())
    assert [r["recipe"] for r in rows] == [
        "axk1",
        "solar_open",
        "k_exaone",
        "vaetki",
        "hyperclovax_omni",
        "axk2",
    ]
    assert all(
        set(r) == {"recipe", "total_params", "active_params", "published_total", "published_active"}
        for r in rows
    )
    said = capsys.readouterr().out
    assert all(r["recipe"] in said for r in rows)


def test_constants_are_listed(capsys):
    main(["plan", "constants"])
    assert capsys.readouterr().out.count("\n") <= 41 + 1  # a head, and at most 40


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("--gpus many", "--gpus 'many': is not a whole number; write such as --gpus 8"),
        (
            "--price-usd cheap",
            "--price-usd 'cheap': is not a number; write such as --price-usd 2.5",
        ),
        ("--isl long --osl 8", "--isl 'long': is not a whole number; write such as --isl 8"),
        ("--gpus", "--gpus: has no value; write one behind it, or leave it out"),
        ("--precision fp7", "--precision 'fp7': is not known; use 'bf16', 'fp8', 'mxfp8', 'nvfp4'"),
        ("--price 3", "--price 3: is not an option here; did you mean --price-usd?"),
        ("--largest-for 75d", "axk1: is not expected here; leave it out, or see onnuri --help"),
        ("--gpus many --language ko", "--gpus 'many': 정수가 아님; --gpus 8처럼 쓰세요"),
        ("--price 3 --language=ko", "--price 3: 여기에 없는 옵션임; --price-usd인가요?"),
        ("--precision fp7 --language ko", "알 수 없는 이름임"),
        ("--gpu B200 --gpus --language ko", "--gpus: 값이 없음"),
    ],
)
def test_what_the_parser_complains_of_has_a_value_a_rule_and_a_repair(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "axk1", *arguments.split()])
    said = capsys.readouterr()
    assert (
        stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and says in said.err
    )


def test_unknown_option_offers_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse(["generate", "--to", "image", "-o", "x.png", "--txt", "hi"])
    assert "--text" in capsys.readouterr().err


def test_boxes_become_one_line():
    assert unboxed("╭─ A ─╮\n│ one │\n│ ─── │\n│ two │\n╰─────╯") == "one; two"


def test_help_teaches_every_verb():
    done = run("--help")
    assert done.returncode == 0
    assert all(
        v in done.stdout
        for v in (
            "demo",
            "generate",
            "chat",
            "export",
            "train",
            "launch",
            "doctor",
            "evaluate",
            "plan",
        )
    )


def test_a_folder_may_be_named_before_or_after_what_is_done_with_it():
    before, after = parse(["keys", "--data", "d", "list"]), parse(["keys", "list", "--data", "d"])
    assert before == after and str(before.data) == "d"


@pytest.mark.parametrize(
    "number, status, words",
    [
        (signal.SIGTERM, 75, "onnuri: stopped by SIGTERM; the same command goes on\n"),
        (signal.SIGINT, 130, "onnuri: interrupted; the same command goes on where it can\n"),
    ],
)
def test_training_that_is_stopped_says_how_by_its_status(
    tmp_path, monkeypatch, capsys, number, status, words
):
    """Wherever it is: here before the training loop, which handles signals itself."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("onnuri.recipes.train", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as caught:
        main(["train", "axk1", "-o", str(tmp_path)])
    assert caught.value.code == status and capsys.readouterr().err == words
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_that_training_forked_ends_by_sigterm_without_a_word(monkeypatch, capfd):
    context = multiprocessing.get_context("fork")
    statuses = []

    def work(runs):
        runs.set()
        time.sleep(100)

    def train(*_):
        runs = context.Event()
        worker = context.Process(target=work, args=(runs,))
        worker.start()
        runs.wait()  # Python drops signals that a process gets while it is being forked
        worker.terminate()
        worker.join()
        statuses.append(worker.exitcode)

    monkeypatch.setattr("onnuri.recipes.train", train)
    main(["train", "axk1"])
    assert statuses == [128 + signal.SIGTERM]
    assert capfd.readouterr().err == ""
