"""The search against asking every layout of the grid one by one, on the systems that are recipes:
slow, minutes each.

    python benchmarks/search_exhaustive.py --gpus 600 960 992 1000 1008 1024 1100 2000 \
        --json benchmarks/results/search_exhaustive.json

Every layout that divides is given to `memory.memory` and `routing.real_step`, and the fastest that
fits is compared with what `search.search` finds, for what runs here and for any engine. `--every`
asks one layout in so many, of which none may be faster than the search's.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

from onnuri import recipes
from onnuri.planner import counts, grid
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.moe_imbalance import real_step
from onnuri.planner.search import search
from onnuri.planner.step_time import newest

GPUS = {
    "axk1": "H200",
    "solar_open": "B200",
    "k_exaone": "B200",
    "vaetki": "H100",
    "hyperclovax_omni": "H100",
}


def jobs(
    a: Architecture, cluster: Cluster, tokens: int, batch: int, here: bool, every: int
) -> Iterator[Job]:
    """Every layout that divides, or one in so many."""
    n = 0
    for cell, dp in grid.grid(a, cluster, tokens, batch, here=here):
        for sharding, shard in cell.shardings(dp):
            for recompute in grid.RECOMPUTE:
                if n % every == 0:
                    yield Job(
                        architecture=a,
                        layout=cell.layout(dp, sharding, shard, recompute),
                        cluster=cluster,
                        tokens=tokens,
                        batch_tokens=batch,
                        software_year=newest(),
                    )
                n += 1


def fastest(
    a: Architecture, cluster: Cluster, tokens: int, batch: int, here: bool, every: int
) -> tuple[float, int]:
    """Tokens a second and GPU of the fastest layout that fits, 0 where none does; and layouts
    asked."""
    best, asked = 0.0, 0
    for job in jobs(a, cluster, tokens, batch, here, every):
        asked += 1
        speed = real_step(job).tokens_per_s_per_gpu
        if speed > best and memory(job).high <= cluster.kind.memory_bytes:
            best = speed
    return best, asked


def main() -> None:
    """Print a row for each recipe, count of GPUs and choice of engines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipes", nargs="+", default=list(recipes.NAMES))
    parser.add_argument("--gpus", nargs="+", type=int, default=[992, 1000, 1024])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="only what runs here")
    parser.add_argument("--json", type=Path)
    options, rows = parser.parse_args(), []
    print(
        f"{'recipe':<18}{'GPUs':>6} {'engines':<8}{'search':>10}{'every one':>11}{'ratio':>8}{'layouts':>10}{'CPU s':>8}"
    )
    for name in options.recipes:
        recipe = recipes.find(name)
        stage = max(recipe.stages, key=lambda s: s.tokens)
        for gpus in options.gpus:
            cluster, tokens = Cluster(gpu=GPUS[name], gpus=gpus), stage.tokens_per_sequence
            batch = counts.sequences_on(stage, gpus, False) * tokens
            for here in (True,) if options.here else (True, False):
                began = time.process_time()
                best, asked = fastest(
                    recipe.architecture, cluster, tokens, batch, here, options.every
                )
                found = (
                    search(
                        recipe.architecture,
                        cluster,
                        tokens,
                        batch,
                        here=here,
                        software_year=newest(),
                    ).best[0]
                    if best
                    else None
                )
                speed = found.tokens_per_s_per_gpu.mid if found else math.nan
                rows.append(
                    {
                        "recipe": name,
                        "gpu": cluster.gpu,
                        "gpus": gpus,
                        "engines": "here" if here else "any",
                        "search_tokens_per_s_per_gpu": speed,
                        "every_tokens_per_s_per_gpu": best,
                        "layouts": asked,
                    }
                )
                print(
                    f"{name:<18}{gpus:>6} {'here' if here else 'any':<8}{speed:>10,.1f}{best:>11,.1f}"
                    f"{speed / best if best else math.nan:>8.4f}{asked:>10,}{time.process_time() - began:>8.0f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps({"every": options.every, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
