"""Ingestion, measured: items a second, the share of time in decoders and encoders, and whether five
kills at random moments lose or double anything.

    python benchmarks/ingest.py             5,000 pictures, 1,000 sounds, 300 meshes
    python benchmarks/ingest.py --scale 50  a fiftieth of them, to try the script

The files are made here, of real formats. A second run over the same files is killed five times
(SIGKILL, at moments spread over the first run's duration) and then ends; its tables must be the
first one's, row by row and byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import media_files  # noqa: E402

from onnuri.data.ingest.table import DOCUMENTS, MEDIA, Tables, read_lines  # noqa: E402
from onnuri.evaluation.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "ingest.json"
PICTURES, SOUNDS, MESHES = 5_000, 1_000, 300
KILLS = 5


def make(folder: Path, scale: int) -> Counter[str]:
    """Write the files with their captions. Return the number of each format."""
    formats: Counter[str] = Counter()

    def add(name: str, data: bytes, kind: str, caption: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        formats[kind] += 1

    for k in range(PICTURES // scale):
        kind = ("JPEG", "JPEG", "JPEG", "PNG", "WEBP", "GIF")[k % 6]
        suffix = {"JPEG": "jpg"}.get(kind, kind.lower())
        side = (128, 256, 384, 512)[k % 4]
        data = media_files.picture(k, kind, side)
        add(f"pictures/{k % 10}/{k:05}.{suffix}", data, kind, f"picture number {k}")
    for k in range(SOUNDS // scale):
        kind = ("MP3", "OGG", "WAV", "M4A")[k % 4]
        data = media_files.sound(k, kind, 1 + k % 5, 1 + k % 2)
        add(f"sounds/{k:05}.{kind.lower()}", data, kind, f"소리 {k}")
    for k in range(MESHES // scale):
        kind = ("glb", "obj", "ply", "stl")[k % 4]
        add(f"meshes/{k:05}.{kind}", media_files.mesh(k, kind), kind.upper(), f"mesh number {k}")
    return formats


def command(source: Path, out: Path, workers: int) -> list[str]:
    """The command that ingests."""
    arguments = ["data", "ingest", source, "-o", out, "--workers", workers]
    return [sys.executable, "-m", "onnuri.cli", *map(str, arguments)]


def rows(out: Path) -> dict[str, str]:
    """Hashes of everything that a folder's tables and lists say, in order."""
    tables = Tables(out)
    digests = {}
    for name in (MEDIA, DOCUMENTS):
        dataset = tables.media if name == MEDIA else tables.documents
        columns = [column for column in dataset.schema.names if column != "data"]
        digest = hashlib.sha256()
        for row in tables.rows(name, columns):
            digest.update(repr(sorted(row.items())).encode())
            if name == MEDIA:
                data = tables.bytes_of([row["hash"]])[row["hash"]]
                assert hashlib.sha256(data).hexdigest() == row["hash"], row["key"]
        digests[name] = digest.hexdigest()
        digests[f"{name} rows"] = str(dataset.count_rows())
    for name in ("rejected.jsonl", "duplicates.jsonl"):
        digests[name] = hashlib.sha256((out / name).read_bytes()).hexdigest()
    return digests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="where files are made, or were made before")
    parser.add_argument("--make", action="store_true", help="make the files and end")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="ingest-"))
    source, whole, killed = (folder / name for name in ("source", "whole", "killed"))
    for out in (whole, killed):
        shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    made = folder / "made.json"
    if not made.exists():
        made.write_text(json.dumps(make(source, arguments.scale)))
    formats = Counter(json.loads(made.read_text()))
    print(f"made {formats.total()} files in {time.perf_counter() - start:.0f} s: {dict(formats)}")
    if arguments.make:
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    run = subprocess.run(
        command(source, whole, arguments.workers),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    print(run.stdout)
    chance = random.Random(0)
    done = []
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(source, killed, arguments.workers),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(3 + chance.uniform(0, seconds / KILLS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        ended = process.returncode == 0
        done.append(_rows_so_far(killed))
        print(f"killed at {done[-1]} documents" if not ended else "ended before it was killed")
    subprocess.run(
        command(source, killed, arguments.workers), env=environment, check=True, capture_output=True
    )
    first, second = rows(whole), rows(killed)
    equal = first == second
    print(f"tables equal after {KILLS} kills: {equal}")
    lines = run.stdout.split("\n")
    reasons = Counter(line["code"] for line in read_lines(whole / "rejected.jsonl"))
    result = {
        "machine": machine(),
        "formats": formats,
        "workers": arguments.workers,
        "summary": [line for line in lines if line],
        "seconds_with_start": round(seconds, 1),
        "items_per_second_with_start": round(formats.total() / seconds, 1),
        "rejected": reasons,
        "documents_at_each_kill": done,
        "equal_after_kills": equal,
        "rows": {name: int(n) for name, n in first.items() if name.endswith(" rows")},
    }
    if arguments.scale == 1:
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {RESULT}")
    if not equal:
        raise SystemExit(1)
    if not arguments.folder:
        shutil.rmtree(folder)


def _rows_so_far(out: Path) -> int:
    """Documents in a folder's table, 0 before there is one."""
    try:
        return int(Tables(out).documents.count_rows())
    except Exception:  # killed before there was a table
        return 0


if __name__ == "__main__":
    main()
