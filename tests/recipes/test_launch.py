"""Ranks that torchrun starts learn what one process does, go on in another number, and end
together with one line."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from processes import ForkedProcess, run_onnuri, start_python, wait_until

import onnuri
from onnuri.cli import main
from onnuri.recipes.nano import NanoConfig, smoke
from onnuri.training import state
from onnuri.training.loop import read_metrics

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "onnuri")


def start_torchrun(*arguments):
    """Start `onnuri ARGUMENTS` over two ranks."""
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return start_python(*TORCHRUN, *arguments, **outputs)


def run_torchrun(*arguments):
    """Run `onnuri ARGUMENTS` over two ranks and return exit status, output and errors."""
    process = start_torchrun(*arguments)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def train(recipe, out, *more):
    return ["train", recipe, "--preset", "smoke", "--out", out, *more]


def last_state(out):
    """Every tensor of a run's newest state, whole."""
    reader = dcp.FileSystemReader(state.latest(out / "lm"))
    entries = reader.read_metadata().state_dict_metadata
    tensors = {n: torch.empty(e.size, dtype=e.properties.dtype) for n, e in entries.items()}
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def check_equal(found, expected):
    """States are equal up to the rounding of 32-bit sums in another order."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name].float(), tensor.float(), rtol=1e-3, atol=1e-6, msg=name
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs, which share one token table."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(runs):
    """The state that one process ends in with two rows per step."""
    done = run_onnuri(*train("axk1", runs / "axk1-alone", "--rows", "2"))
    assert done.returncode == 0, done.stderr
    return last_state(runs / "axk1-alone")


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param("fsdp", marks=pytest.mark.slow),
        pytest.param("dp=2,ep=2,fsdp", marks=pytest.mark.slow),
        pytest.param("hsdp:1,recompute=full", marks=pytest.mark.long),
        pytest.param("tp=2,ddp", marks=pytest.mark.long),
    ],
)
def test_two_ranks_learn_what_one_process_does(runs, alone, layout):
    out = runs / f"axk1-{layout.replace(':', '-')}"
    status, output, errors = run_torchrun(*train("axk1", out, "--layout", layout, "--rows", "2"))
    assert status == 0, errors
    check_equal(last_state(out), alone)
    assert output.count("parameters, 4 steps") == output.count("wrote ") == 1
    assert [line["step"] for line in read_metrics(out / "lm")] == [1, 2, 3, 4]
    assert NanoConfig.load(out / "run.json") == smoke("axk1").replace(rows=2)
    # what is written is what was trained, whole, in the 16 bits of the folder
    written = onnuri.load(out / "model").network.state_dict()
    for name, weight in written.items():
        if f"model.{name}" in alone:
            torch.testing.assert_close(weight, alone[f"model.{name}"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_plain_transformers_reads_what_two_ranks_wrote(runs):
    from transformers import AutoModelForCausalLM

    out = runs / "hyperclovax_omni"
    status, _, errors = run_torchrun(*train("hyperclovax_omni", out))
    assert status == 0, errors
    network = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    ids = torch.arange(12)[None]
    ours = onnuri.load(out / "model").network(input_ids=ids).logits
    torch.testing.assert_close(network.eval()(input_ids=ids).logits, ours)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_run_of_two_ranks_that_was_stopped_goes_on_in_one(runs, alone, number):
    out = runs / f"axk1-{number.name}"
    process = start_torchrun(*train("axk1", out))
    metrics = out / "lm/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n"), "a step")
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    words = {signal.SIGINT: "onnuri: interrupted", signal.SIGTERM: "onnuri: stopped by SIGTERM"}
    assert process.returncode != 0 and errors.count(words[number]) == 1
    assert 0 < state.read_position(state.latest(out / "lm")).step < 4
    assert not (out / "model").exists()
    done = run_onnuri(*train("axk1", out))  # two rows per step, as the run began
    assert done.returncode == 0, done.stderr
    check_equal(last_state(out), alone)


@pytest.mark.slow
def test_ranks_that_torchrun_starts_again_go_on(runs, alone):
    """A rank that is killed ends the other with one line; torchrun starts both anew."""
    out, outputs = runs / "axk1-killed", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    elastic = [*TORCHRUN[:3], "--max-restarts", "1", *TORCHRUN[3:]]
    process = start_python(*elastic, *train("axk1", out), text=True, **outputs)
    metrics = out / "lm/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n"), "a step")
    children = psutil.Process(process.pid).children()
    (rank_1,) = [child for child in children if child.environ().get("RANK") == "1"]
    rank_1.kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors.count("onnuri: rank 0 of 2: lost another rank") <= 1
    assert "onnuri/cli.py" not in errors
    check_equal(last_state(out), alone)


@pytest.mark.long
def test_all_stages_of_the_laptop_recipe_learn_over_two_ranks(tmp_path):
    """Stages start from averages of those before them; codecs are trained by the first rank."""
    status, _, errors = run_torchrun(*train("laptop", tmp_path / "two"))
    assert status == 0, errors
    done = run_onnuri(*train("laptop", tmp_path / "one", "--rows", "2"))
    assert done.returncode == 0, done.stderr
    two, one = (
        onnuri.load(tmp_path / name / "model").network.state_dict() for name in ("two", "one")
    )
    for name, weight in one.items():  # 16 bits
        torch.testing.assert_close(two[name], weight, rtol=2e-3, atol=1e-4)


STUBS = {
    # one node: runs the command itself, whose number `scancel` reads
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo $$ > "$STUBS/pid"; exec "$@"',
    "scancel": 'kill -TERM "$(cat "$STUBS/pid")"',
    "scontrol": '[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> "$STUBS/requeued"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


@pytest.mark.long
def test_the_file_for_slurm_trains_stops_in_time_and_goes_on(runs, alone, tmp_path):
    out, file = runs / "axk1-slurm", tmp_path / "job.sbatch"
    main(["launch", "axk1", "--preset", "smoke", "--gpus", "2", "--run", str(out), "-o", str(file)])
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "STUBS": str(tmp_path),
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "node[1]",
    }

    def start():
        with (tmp_path / "job.log").open("w") as log:
            environment = {**os.environ, **variables}
            return subprocess.Popen(["bash", file], stdout=log, stderr=log, env=environment)

    job, metrics = start(), out / "lm/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n"), "a step")
    job.send_signal(signal.SIGTERM)  # as Slurm does before the time limit
    assert job.wait(300) != 0 and not (out / "model").exists()
    assert (tmp_path / "requeued").read_text() == f"requeue {variables['SLURM_JOB_ID']}\n"
    assert start().wait(300) == 0, (tmp_path / "job.log").read_text()
    assert (tmp_path / "requeued").read_text().count("\n") == 1
    check_equal(last_state(out), alone)


@pytest.mark.slow
def test_a_mistake_of_all_ranks_is_one_line(runs):
    status, output, errors = run_torchrun(*train("axk1", runs / "axk1-three", "--rows", "3"))
    assert status != 0 and output == ""
    # torchrun itself says more, with a traceback of its own
    ours = [line for line in errors.splitlines() if line.startswith("onnuri: ")]
    assert len(ours) == 1 and "--rows 3" in ours[0] and "1024 tokens" in ours[0]
    assert "onnuri/cli.py" not in errors and not (runs / "axk1-three/lm").exists()


def rank_environment(rank=0, ranks=1, port=0, **changes):
    """The environment that torchrun gives a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port or free_port()),
        **changes,
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "layout, complaint",
    [
        ("warp=2", "'warp=2'"),
        ("dp=2", "takes 2 ranks, and 1 run"),
        ("dp=0", "dp 0: is less than 1"),
        ("dp=1,pp=2", "takes 2 ranks"),
        ("fp8", "needs "),
        ("", "is empty"),
    ],
)
def test_a_layout_that_does_not_fit_is_one_line(tmp_path, layout, complaint):
    arguments = train("axk1", tmp_path / "axk1", "--rows", "2", "--layout", layout)
    check_one_line(run_onnuri(*arguments, environment=rank_environment()), complaint)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"RANK": "one"}, "RANK='one': is no whole number"),
        ({"MASTER_PORT": ""}, "MASTER_PORT='': is not set"),
        ({"RANK": "1"}, "RANK='1': is not below WORLD_SIZE 1"),
        ({"MASTER_PORT": "99999"}, "did not meet the others at 127.0.0.1:99999"),
    ],
)
def test_a_broken_environment_is_one_line(tmp_path, changes, complaint):
    environment = rank_environment(**changes)
    done = run_onnuri(*train("axk1", tmp_path / "axk1"), environment=environment)
    check_one_line(done, complaint)


@pytest.mark.parametrize(
    "arguments, environment, complaint",
    [
        (["train", "axk1", "--layout", "dp=2"], {}, "this process is alone"),
        (["train", "axk1", "--rows", "7", "--preset", "smoke"], {}, "give such as 8"),
        (
            ["train", "finetune", "--base", "b", "--data", "d"],
            {"ranks": 2},
            "onnuri train finetune on 2 ranks",
        ),
    ],
)
def test_what_needs_another_number_of_ranks_is_one_line(
    tmp_path, arguments, environment, complaint
):
    variables = rank_environment(**environment) if environment else {}
    done = run_onnuri(*arguments, "--out", tmp_path / "out", environment=variables)
    check_one_line(done, complaint)


def check_one_line(done, complaint):
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("onnuri: ") and done.stderr.count("\n") == 1
    assert complaint in done.stderr


PROGRAM = """
import os, signal, sys, time
from onnuri.cli import error_line, raising_terminated
from onnuri.errors import ConfigError, OnnuriError, Terminated
from onnuri.parallel import launch

def be_stopped():
    # SIGTERM once another rank has failed, as from torchrun
    while not launch._PLACE.get().store.check(["failed"]):
        time.sleep(0.01)
    with raising_terminated():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

try:
    with launch.ranks(limit_seconds=float(sys.argv[1])):
        with launch.first_rank_first("data"):
            if launch.is_first() and sys.argv[2] == "mistake":
                raise ConfigError("the data", "is wrong", "mend it")
            launch.console().print(sys.argv[2])
        if sys.argv[2] == "late":
            if launch.is_first():
                be_stopped()
            raise ConfigError("the second rank", "is wrong", "mend it")
        launch.join()
except Terminated:
    print("stopped", file=sys.stderr)
    raise SystemExit(75) from None
except OnnuriError as error:
    print(f"onnuri: {error}", file=sys.stderr)
    raise SystemExit(2) from None
"""


@pytest.fixture
def ranks(tmp_path):
    """Run the program above in ranks 0 … count - 1 of `ranks`; return statuses and outputs."""
    program = tmp_path / "ranks.py"
    program.write_text(PROGRAM)

    def run(word, limit_seconds=60.0, count=2, of=2, port=0, **variables):
        port, logs = port or free_port(), [tmp_path / f"{rank}.log" for rank in range(count)]
        processes = [
            ForkedProcess(
                program,
                limit_seconds,
                word,
                log=log,
                environment=rank_environment(k, of, port, **variables),
            )
            for k, log in enumerate(logs)
        ]
        statuses = [process.wait() for process in processes]
        return statuses, [log.read_text() for log in logs]

    return run


def test_only_the_first_rank_prints(ranks):
    assert ranks("hello") == ([0, 0], ["hello\n", ""])


def test_a_mistake_of_the_first_rank_ends_those_that_wait(ranks):
    assert ranks("mistake") == ([2, 2], ["onnuri: the data: is wrong; mend it\n", ""])


def test_a_rank_that_is_stopped_since_another_failed_ends_silently(ranks):
    expected = ["late\n", "onnuri: the second rank: is wrong; mend it\n"]
    assert ranks("late") == ([2, 2], expected)


def test_ranks_that_came_end_silently_where_one_is_missing(ranks):
    """As under torchrun, whose agent serves the store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    statuses, (first, second) = ranks(
        "hello", limit_seconds=3.0, of=3, port=store.port, TORCHELASTIC_USE_AGENT_STORE="True"
    )
    assert (statuses, second) == ([2, 2], "")
    assert first.startswith("onnuri: rank 2 of 3: did not come") and first.count("\n") == 1


def test_a_missing_rank_is_one_line(ranks):
    statuses, (text,) = ranks("hello", limit_seconds=2.0, count=1)
    assert statuses == [2], text
    assert text.startswith("onnuri: rank 0 of 2: ") and text.count("\n") == 1
    assert "within 2 s" in text
