"""Kills a training run of two ranks twenty times, each time a random rank, and starts it again:
`python benchmarks/kill.py [KILLS]` writes benchmarks/results/kill.json.

Four of five kills come at a moment uniform over the run, start, saves and export included; every
fifth comes inside a save, at a place where the rank stands still. Each run must end with the
weights of a run that nothing interrupted, to the bit, and every row must count once, in its step.
The runs are those of `tests/parallel/kills.py`.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from onnuri.evaluation.machine import machine

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/parallel")]
RESULT = Path(__file__).parent / "results/kill.json"
SEED = 14


def measure(count: int) -> dict[str, object]:
    """Return what happened in `count` killed runs; ends with AssertionError at one that differs."""
    kills: Any = importlib.import_module("kills")  # of the tests, which are no package

    steps, rows = kills.DEFAULTS["steps"], kills.DEFAULTS["rows"]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = kills.attempt(place / "straight", 2)
        assert first.statuses == [0, 0], kills.texts(place / "straight")
        again = kills.attempt(place / "again", 2)
        kills.check_equal(place / "again", place / "straight", steps, rows)
        for k, kill in enumerate(kills.random_kills(count, again.seconds, SEED)):
            out = place / f"killed-{k}"
            killed, resumed = kills.run_killed(out, kill)
            kills.check_equal(out, place / "straight", steps, rows)
            went_on_from = kills.resumed_step(out, steps)
            runs.append(
                {
                    "rank": kill.rank,
                    "killed_after_seconds": round(killed.seconds, 2),
                    "in_a_save_while": kill.place,
                    "statuses": killed.statuses,
                    "went_on_from_step": went_on_from,
                    "resumed_seconds": round(resumed.seconds, 2),
                }
            )
            print(json.dumps(runs[-1]), flush=True)
    return {
        "machine": machine(),
        "steps": steps,
        "rows": steps * rows,
        "seconds_without_a_kill": round(again.seconds, 2),
        "kills": len(runs),
        "kills_in_a_save": sum(run["in_a_save_while"] is not None for run in runs),
        "weights_equal_to_the_bit": len(runs),
        "every_row_once": len(runs),
        "runs": runs,
    }


def main() -> None:
    """Kill, and write the result."""
    result = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
