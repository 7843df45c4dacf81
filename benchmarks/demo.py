"""What README's first command costs: seconds, megabytes installed, size of the model. `make
bench-demo`.

Runs `onnuri demo` in a process of its own, as `make demo` does after it has installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnuri
from onnuri.evaluation.machine import machine
from onnuri.files import write_json

ROOT = Path(__file__).parents[1]


def megabytes(folder: Path) -> float:
    """Return the size of a folder's files in 10^6 bytes."""
    return (
        sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6
    )


def main() -> None:
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as out:
            began = time.perf_counter()
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "onnuri.cli",
                    "demo",
                    "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다",
                    "-o",
                    out,
                ],
                check=True,
                capture_output=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            seconds.append(round(time.perf_counter() - began, 2))
    model = onnuri.load()
    found = {
        "machine": machine(),
        "demo_seconds": sorted(seconds),
        "weights_mb": round(megabytes(onnuri.WEIGHTS), 1),
        "installed_mb": round(megabytes(ROOT / ".venv")),
        "params": sum(p.numel() for p in model.network.parameters()),
        "layers": model.network.config.num_hidden_layers,
        "width": model.network.config.hidden_size,
    }
    write_json(found, ROOT / "benchmarks/results/demo.json")
    print(found)


if __name__ == "__main__":
    main()
