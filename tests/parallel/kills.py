"""Runs of `trained_rank.py` that are killed and started again until they end, and what is true of
them: the weights are those of a run that nothing interrupted, and every row counts once.

Used by `test_kill.py` and `benchmarks/kill.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import socket
import time
from pathlib import Path
from typing import NamedTuple

from processes import ForkedProcess

PROGRAM = Path(__file__).parent / "trained_rank.py"
SAVE_PLACES = ("copying", "writing", "hashing", "naming", "deleting")
"""places in a save where a kill is certain to hit; `trained_rank.py` stands still there"""
GRACE_SECONDS = 1.0, 10.0
"""seconds that the ranks left over have to end by themselves, and then after SIGTERM"""
STOPPED, KILLED = 75, -9
DEFAULTS = {
    "steps": 24,
    "rows": 2,
    "layout": "dp=2,fsdp",
    "dropout": 0.0,
    "save_seconds": 0.4,
    "pause": 0.04,
    "attempt": 0,
    "stop_after": None,
    "nan_row": None,
    "hold": None,
    "hold_rank": 0,
    "hold_save": 1,
}


class Kill(NamedTuple):
    """A Kill says when which rank is killed."""

    rank: int
    seconds: float | None = None
    """after the start; None: in a save"""
    place: str | None = None
    """of SAVE_PLACES"""
    save: int = 1
    """which save of the sitting"""


class Attempt(NamedTuple):
    """An Attempt says how one sitting of a run ended."""

    statuses: list[int]
    killed: bool
    seconds: float


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def attempt(out: Path, ranks: int, kill: Kill | None = None, **options) -> Attempt:
    """Start all ranks of a run and wait until they have ended; kill one of them on the way."""
    out.mkdir(exist_ok=True)
    start, number = time.monotonic(), len(list(out.glob("attempt-*-0.log")))
    values = {**DEFAULTS, **options, "attempt": number}
    if kill and kill.place:
        # only the first rank gives a state its name and deletes the oldest
        holder = 0 if kill.place in ("naming", "deleting") else kill.rank
        values |= {"hold": kill.place, "hold_rank": holder, "hold_save": kill.save}
    port, processes = free_port(), []
    for rank in range(ranks):
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {name: str(value) for name, value in place.items()} if ranks > 1 else {}
        log = out / f"attempt-{number}-{rank}.log"
        processes.append(
            ForkedProcess(PROGRAM, out, json.dumps(values), log=log, environment=environment)
        )
    killed = _kill(processes, kill, out) if kill else False
    if killed:
        _end(processes)
    statuses = [process.wait() for process in processes]
    return Attempt(statuses, killed, time.monotonic() - start)


def _kill(processes: list[ForkedProcess], kill: Kill, out: Path) -> bool:
    """Kill a rank at its moment and return whether any was still running."""
    hold, start = out / "hold", time.monotonic()
    while any(process.poll() is None for process in processes):
        due = hold.exists() if kill.place else time.monotonic() - start >= (kill.seconds or 0)
        if due:
            victims = [processes[kill.rank], *processes]
            running = [process for process in victims if process.poll() is None]
            if running:
                running[0].send_signal(9)
                running[0].wait()
            hold.unlink(missing_ok=True)
            return bool(running)
        time.sleep(0.005)
    return False


def _end(processes: list[ForkedProcess]) -> None:
    """End the ranks that are left as torchrun does, unless they end of themselves."""
    for number, seconds in zip((15, 9), GRACE_SECONDS, strict=True):
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.poll() is None for process in processes):
            time.sleep(0.01)
        for process in processes:
            process.send_signal(number)


def run_killed(out: Path, kill: Kill) -> list[Attempt]:
    """Run two ranks, kill one of them, and start both again until the run ends.

    A run that ends before its moment is run anew with an earlier moment. Raises
    AssertionError if a sitting that was not killed does not end well.
    """
    first = attempt(out, 2, kill)
    while not first.killed:
        assert set(first.statuses) == {0}, texts(out)
        shutil.rmtree(out)
        kill = kill._replace(seconds=0.9 * kill.seconds) if kill.seconds else kill
        first = attempt(out, 2, kill)
    attempts = [first, attempt(out, 2)]
    assert attempts[-1].statuses == [0, 0], texts(out)
    return attempts


def texts(out: Path) -> str:
    """Return the last lines of what the ranks printed."""
    return "\n".join(
        f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(out.glob("attempt-*.log"))
    )


def weights(out: Path) -> str:
    """Return the SHA-256 of the weights that a run exported."""
    return hashlib.sha256((out / "model/model.safetensors").read_bytes()).hexdigest()


def rows_that_count(out: Path, steps: int) -> list[dict]:
    """Return the notes of the rows whose steps are part of the run that ended, in the order of
    their numbers; a row that two ranks of a tensor-parallel group read comes once.

    A sitting begins at the state that it loaded, so what earlier sittings did from that step on was
    never stored.
    """
    notes = []
    for path in sorted(out.glob("rows-*.jsonl")):
        for line in path.read_text().splitlines():
            if line.endswith("}"):  # a kill may leave half a line
                notes.append({**json.loads(line), "rank": path.stem})
    began: dict[int, int] = {}
    for note in notes:
        began[note["attempt"]] = min(note["step"], began.get(note["attempt"], steps))
    counted: dict[tuple[int, int], dict] = {}
    for note in notes:
        later = [step for number, step in began.items() if number > note["attempt"]]
        if note["step"] < min(later, default=steps):
            counted[note["attempt"], note["row"]] = note
    return sorted(counted.values(), key=lambda note: note["row"])


def resumed_step(out: Path, steps: int) -> int:
    """Return the step from which a run's last sitting went on; `steps` if all were done."""
    last = len(list(out.glob("attempt-*-0.log"))) - 1
    notes = [note["step"] for note in rows_that_count(out, steps) if note["attempt"] == last]
    return min(notes, default=steps)


def check_equal(out: Path, straight: Path, steps: int, rows: int) -> None:
    """Raise AssertionError unless a run ended as another that was not interrupted: the same weights
    to the bit, every row once, in its step, with its content and its loss."""
    assert weights(out) == weights(straight), texts(out)
    notes = rows_that_count(out, steps)
    assert [note["row"] for note in notes] == list(range(steps * rows)), texts(out)
    expected = rows_that_count(straight, steps)
    for note, other in zip(notes, expected, strict=True):
        for name in ("step", "row", "content", "loss"):
            assert note[name] == other[name], (note, other)
    left = {file.name for file in out.iterdir()} & {".model.part", "hold"}
    assert not left
    assert not list((out / "checkpoint").glob(".*"))


def random_kills(count: int, seconds: float, seed: int) -> list[Kill]:
    """Return kills of a random rank of two at moments uniform over a run's seconds, every fifth at
    a random place in a save."""
    draw = random.Random(seed)
    kills = []
    for k in range(count):
        rank, moment = draw.randrange(2), draw.uniform(0, seconds)
        if k % 5 == 4:
            place = SAVE_PLACES[(k // 5) % len(SAVE_PLACES)]
            kills.append(Kill(rank, place=place, save=draw.choice([1, 2])))
        else:
            kills.append(Kill(rank, moment))
    return kills
