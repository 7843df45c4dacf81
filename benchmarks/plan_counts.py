"""Tokens of the five systems over growing clusters: they never fall. Seconds of a cold plan in
loops. `make bench-counts`

A loop is a pure Python loop of 2e7 additions, timed in the same sitting: machines differ four times
in scalar speed.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import onnuri
from onnuri import recipes
from onnuri.evaluation.machine import machine
from onnuri.files import write_json

GPUS = (600, 960, 992, 1000, 1008, 1024, 1100, 2000)
KIND = {"axk1": "H200", "vaetki": "H100"}
DAYS = 75


def loop_seconds() -> float:
    """Return the least of three timings of one loop."""
    found = []
    for _ in range(3):
        start, total = time.perf_counter(), 0
        for i in range(20_000_000):
            total += i
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    unit, rows = loop_seconds(), []
    for name in recipes.NAMES:
        gpu = KIND.get(name, recipes.find(name).gpu)
        for gpus in GPUS:
            start = time.process_time()
            plan = onnuri.plan(name, f"{gpus}x{gpu}", days=DAYS)
            rows.append(
                {
                    "recipe": name,
                    "gpu": gpu,
                    "gpus": gpus,
                    "used": plan.cluster.gpus,
                    "tokens": plan.tokens,
                    "loops": round((time.process_time() - start) / unit, 2),
                }
            )
            print(
                f"{name} {gpus} {gpu}: {plan.tokens / 1e12:.3f}T on {plan.cluster.gpus}, {rows[-1]['loops']} loops",
                flush=True,
            )
    exact = {}
    for name, gpus in (("vaetki", 1000), ("axk1", 1000), ("axk1", 992)):
        exact[f"{name} {gpus}"] = onnuri.plan(
            name, f"{gpus}x{KIND[name]}", days=DAYS, exact_gpus=True
        ).tokens
    falls = [
        b
        for a, b in itertools.pairwise(rows)
        if a["recipe"] == b["recipe"] and b["tokens"] < a["tokens"]
    ]
    write_json(
        {
            "machine": machine(),
            "loop_seconds": unit,
            "days": DAYS,
            "falls": falls,
            "exact": exact,
            "rows": rows,
        },
        Path(__file__).parent / "results/plan_counts.json",
    )
    print(f"{len(falls)} falls; exact {exact}; at most {max(r['loops'] for r in rows)} loops")


if __name__ == "__main__":
    main()
