"""A full-size step of the five recipes, traced on a CPU by each one's own plan, and A.X K1 by
PyTorch's default sharding.

Writes benchmarks/results/dryrun.json: bytes, FLOPs, collectives and imbalance of rank 0, with
seconds and memory taken. Run: `python benchmarks/dryrun.py [RECIPE …]`; each in a process of its
own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from onnuri import recipes
from onnuri.planner.parallel import ParallelConfig
from onnuri.profile import dryrun

RESULTS = Path(__file__).parent / "results" / "dryrun.json"
DEFAULT = "axk1, default sharding"
"""what PyTorch does unless told otherwise: all ranks together, experts cut between experts"""


def one(name: str) -> dict[str, Any]:
    if name == DEFAULT:
        found = dryrun.run(
            recipes.find("axk1"), 1024, ParallelConfig(dp=1024, recompute="full"), placement="first"
        )
    else:
        found = dryrun.run(recipes.find(name), recipes.find(name).gpus)
    print(found, file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        **found.to_json(),
        "name": name,
        "collective_bytes": found.collective_bytes,
        "resident_gib": round(peak / 2**20, 2),
    }


def main() -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[1:] or [*recipes.NAMES, DEFAULT]:
        made = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True
        )
        known[name] = json.loads(made.stdout)
        print(made.stderr)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])))
    else:
        main()
