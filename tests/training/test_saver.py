"""States that are written in the background: what is stored is what was, one at a time, an error is
raised and leaves the state before."""

import errno
import os
import textwrap
import threading
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp
from processes import ForkedProcess
from torch import nn

from onnuri.errors import ConfigError
from onnuri.training import loop, state
from onnuri.training.loop import TrainConfig, fit
from onnuri.training.optim import Optimizers
from onnuri.training.saver import Saver
from onnuri.training.state import Position


def network(value=0.0):
    module = nn.Linear(3, 2)
    for p in module.parameters():
        nn.init.constant_(p, value)
    return module


def saver(out, module):
    return Saver(out, module, Optimizers(module, False, 1e-2, 0.1, (0.9, 0.95)))


def restored(out):
    module = network()
    position = state.restore(out, module, Optimizers(module, False, 1e-2, 0.1, (0.9, 0.95)))
    return position, module.weight.detach()


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_changes_while_it_is_written_is_stored_as_it_was(tmp_path, monkeypatch):
    change, write = threading.Event(), dcp.save

    def late(*args, **kwargs):
        change.wait(60)
        return write(*args, **kwargs)

    monkeypatch.setattr(state.dcp, "save", late)
    module = network(1.0)
    with saver(tmp_path, module) as background:
        background.save(Position(1))
        with torch.no_grad():
            module.weight.fill_(7.0)
        change.set()
    position, weight = restored(tmp_path)
    assert position.step == 1 and torch.equal(weight, torch.ones(2, 3))


def test_one_state_is_written_at_a_time_in_order(tmp_path, monkeypatch):
    events, write = [], state.write

    def noted(out, tensors, position, group):
        events.append(("begin", position.step))
        time.sleep(0.05)
        write(out, tensors, position, group)
        events.append(("end", position.step))

    monkeypatch.setattr(state, "write", noted)
    with saver(tmp_path, network()) as background:
        for step in (1, 2):
            background.save(Position(step))
        background.finish(Position(3))
        assert state.latest(tmp_path).name == "00000003"
    assert events == [(word, step) for step in (1, 2, 3) for word in ("begin", "end")]


def test_a_step_is_stored_once_also_over_sittings(tmp_path, monkeypatch):
    module = network()
    for _ in range(2):
        with saver(tmp_path, module) as background:
            background.save(Position(4))
            background.finish(Position(4))
        monkeypatch.setattr(state, "write", lambda *args: pytest.fail("stored again"))


class Steady:
    """An objective that fails at a step if asked to, and notes its steps."""

    def __init__(self, fails_at=None):
        self.module, self.fails_at, self.steps = network(), fails_at, []

    def batch(self, step):
        return step

    def loss(self, step):
        self.steps.append(step)
        if step == self.fails_at:
            raise ZeroDivisionError
        return self.module(torch.ones(3)).sum(), {}


def test_a_full_disk_ends_the_run_at_the_next_step_with_one_line(tmp_path, monkeypatch):
    state.store(tmp_path, (task := Steady()).module, optimizers_of(task), Position(3, 3, 1.0))
    monkeypatch.setattr(state.dcp, "save", full_disk)
    clock = {"now": 0.0}
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock["now"])

    class Waits(Steady):
        def loss(self, step):
            """Let ten seconds go by, and a state that is being written come to its end."""
            clock["now"] += 10.0
            for thread in threading.enumerate():
                if thread.name == "onnuri-state":
                    thread.join()
            return super().loss(step)

    task = Waits()
    with pytest.raises(ConfigError, match="No space left on device") as caught:
        fit(task, TrainConfig(steps=100, checkpoint_seconds=35.0), tmp_path)
    # it begins to be written before step 7, and the next would be before step 11
    assert "\n" not in str(caught.value) and task.steps == [3, 4, 5, 6, 7]
    monkeypatch.undo()
    assert state.latest(tmp_path).name == "00000003" and restored(tmp_path)[0] == (3, 3, 1.0, 0)
    fit(Steady(), TrainConfig(steps=5), tmp_path)
    assert [each.name for each in (tmp_path / state.FOLDER).iterdir()].count("00000005") == 1


def optimizers_of(task):
    return Optimizers(task.module, False, 1e-3, 0.05, (0.9, 0.95))


def test_a_last_state_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(state.files, "write_json", full_disk)
    with pytest.raises(ConfigError, match="No space left on device"):
        fit(Steady(), TrainConfig(steps=2), tmp_path)
    assert state.latest(tmp_path) is None


def test_an_error_of_training_waits_for_the_state_that_is_being_written(tmp_path, monkeypatch):
    write = state.write

    def slow(*args):
        time.sleep(0.3)
        write(*args)

    monkeypatch.setattr(state, "write", slow)
    with pytest.raises(ZeroDivisionError):
        fit(Steady(fails_at=1), TrainConfig(steps=4, checkpoint_seconds=0.0), tmp_path)
    assert state.latest(tmp_path).name == "00000001"


TWO_RANKS = textwrap.dedent("""
    import errno, os, sys, torch
    import torch.distributed as dist
    from pathlib import Path
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from onnuri.training import loop, state
    from onnuri.training.optim import Optimizers
    from onnuri.training.saver import Saver

    rank, out, fault = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    module = nn.Linear(3, 5)
    whole = module.weight.detach().clone()
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    hashes = state._own_hashes

    def broken(part):
        if rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return hashes(part)

    if fault == "full":
        state._own_hashes = broken
    try:
        with Saver(out, module, Optimizers(module, False, 1e-2, 0.1, (0.9, 0.95))) as saver:
            saver.save(state.Position(1))
            with torch.no_grad():
                module.weight.to_local().zero_()
            dist.all_reduce(torch.zeros(1))  # training's collectives go on
    except Exception as error:
        sys.exit(f"{type(error).__name__} {error}")
    state.restore(out, module, Optimizers(module, False, 1e-2, 0.1, (0.9, 0.95)))
    assert torch.equal(module.weight.full_tensor(), whole)
    dist.destroy_process_group()
""")


@pytest.mark.parametrize("fault", ["none", "full"])
def test_two_ranks_store_their_shards_or_say_that_one_cannot(tmp_path, fault):
    program = tmp_path / "two.py"
    program.write_text(TWO_RANKS)
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    ranks = [ForkedProcess(program, k, tmp_path, fault, log=logs[k]) for k in range(2)]
    statuses = [rank.wait() for rank in ranks]
    texts = [log.read_text() for log in logs]
    if fault == "none":
        assert statuses == [0, 0], texts
        names = {file.name for file in state.latest(tmp_path).iterdir()}
        assert names == {"__0_0.distcp", "__1_0.distcp", ".metadata", state.SUMMARY}
        return
    assert statuses == [1, 1] and state.latest(tmp_path) is None
    assert texts[0] == texts[1] and texts[0].startswith("ConfigError") and "No space" in texts[0]


def test_a_kill_while_an_old_state_is_deleted_leaves_no_half_state(tmp_path, monkeypatch):
    module = network()
    with saver(tmp_path, module) as background:
        for step in (1, 2):
            background.finish(Position(step))

        def killed(path):
            os.unlink(path / ".metadata")
            raise ZeroDivisionError  # what the process would not live to raise

        monkeypatch.setattr(state.shutil, "rmtree", killed)
        with pytest.raises(ZeroDivisionError):
            background.finish(Position(3))
    monkeypatch.undo()
    for folder in (tmp_path / state.FOLDER).glob("[0-9]*"):
        assert (folder / ".metadata").exists()
    with saver(tmp_path, module) as background:
        background.finish(Position(4))
    names = sorted(each.name for each in (tmp_path / state.FOLDER).iterdir())
    assert names == ["00000003", "00000004"]
