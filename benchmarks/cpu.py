"""Measures what Onnuri's training does on a CPU: its steps beside those of transformers' `Trainer` and
of litgpt, the share of the processor's matrix products that a step reaches, and how fast rows come
from a store that memory cannot hold.

    python benchmarks/cpu.py                          everything: results/cpu.json
    python benchmarks/cpu.py --only trainer,gemm      only parts whose name begins so
    python benchmarks/cpu.py --tiny                   small models, no result: a trial of the script
    python benchmarks/cpu.py --litgpt ENV/bin/python  with litgpt, in an environment of its own:

        python -m venv ENV
        ENV/bin/pip install --no-deps litgpt lightning lightning-utilities pytorch-lightning \\
            torchmetrics 'jsonargparse<=4.41'
        .venv/bin/python -c 'import torch; print(*torch.__path__)' | xargs dirname \\
            > ENV/lib/python3.11/site-packages/project.pth     # torch is not downloaded again

trainer   a model of 10M weights by the code of `onnuri train pretrain` and by the `Trainer`: same
          weights, rows, AdamW and learning rate, fp32. Rows are packed documents, which neither lets
          attend to each other (trainer-packed), or one document each (trainer-documents).
litgpt    the same model by litgpt's pretraining steps, compiled as litgpt does and as they stand. It
          has no masks of documents: rows are one document each. Onnuri's steps, here and above, are
          those of the command as it comes and with `--compiled True`.
gemm      a model of 100M weights: FLOPs of its steps, as the run's meter counts them, over those of
          the fastest of several matrix products, each timed again and again between the steps
          (medians; beside them the luckiest moment of any, which on a shared machine is noise).
loader    rows per second from a store larger than this machine's memory, its cached pages dropped,
          by one worker process, over the rows that the small model's steps take.

Runs are processes of their own that take some steps in turn (`cpu_turns.py`); a ratio is of the
medians of all steps after the first 20, whose losses must be equal. Every figure is of this machine,
on which nothing else should run. Each part is written as soon as it is measured, and those of other
calls stay in the file; all of them take some half an hour on two cores.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from cpu_turns import Run, Steps
from tokenizers import Tokenizer, models

from onnuri import files
from onnuri.data.document_store import SUMMARY, DocumentStore, StoreRows, write_store
from onnuri.data.loader import BatchRamp, RowLoader
from onnuri.evaluation.machine import machine
from onnuri.model.backbone import build_hf_model
from onnuri.training.run_meter import SITTINGS
from onnuri.training.tokenize import vocabulary_name

FOLDER = Path(__file__).parent
RESULT = FOLDER / "results/cpu.json"
GIB = 1 << 30
TRAINER_BAR, LITGPT_BAR, GEMM_BAR, LOADER_BAR = 1.2, 1.0, 60.0, 5.0
"""issue 14: times the others' tokens per second, per cent of the products' FLOPs, times the rows that
steps take"""
LOSS_BAR = 1e-4
"""most relative difference of a step's loss"""
MEDIAN_DOCUMENT, SPREAD = 300, 0.9
"""of the documents' ids, lognormal: half as long again on average, as pages of the web are"""
SMALL = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 704,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
}
"""10.6M weights"""
LARGE = SMALL | {
    "vocab_size": 16384,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "intermediate_size": 2048,
    "tie_word_embeddings": True,
}
"""97.5M weights"""
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
}
"""sizes of the trial"""


class Scale(NamedTuple):
    """A Scale holds the sizes of a measurement."""

    threads: int
    tokens: int = 1024
    """ids per row"""
    rows: int = 4
    """rows per step of the small model"""
    large_rows: int = 2
    """rows per step of the large model"""
    checked: int = 20
    """first steps, whose losses are compared and whose times do not count"""
    rounds: int = 5
    steps: int = 3
    """steps of each run in a round"""
    large_rounds: int = 4
    large_steps: int = 2
    loader_rows: int = 1000
    """rows per pass of the loader"""
    passes: int = 3
    tiny: bool = False

    def model(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a model's sizes, or the trial's."""
        return values | (TINY if self.tiny else {})


class Place(NamedTuple):
    """A Place says where a measurement is made and with what."""

    folder: Path
    scale: Scale
    litgpt: str | None
    """Python of litgpt's environment"""


def random_documents(tokens: int, vocabulary: int, length: int | None) -> Iterator[np.ndarray]:
    """Yield documents of `tokens` ids in all, of a length or lognormal; half of all ids follow from
    the one before, so that there is something to learn."""
    draw = np.random.default_rng(0)
    follows = draw.permutation(vocabulary)
    left = tokens
    while left > 0:
        drawn = int(draw.lognormal(np.log(MEDIAN_DOCUMENT), SPREAD))
        size = min(left, length or max(8, drawn))
        ids = (draw.zipf(1.2, size) % vocabulary).astype(np.int64)
        ids[1:] = np.where(draw.random(size - 1) < 0.5, follows[ids[:-1]], ids[1:])
        left -= size
        yield ids


def write_model(folder: Path, values: dict[str, Any]) -> str:
    """Write a Llama with random weights and a tokenizer of as many words, and return the name of
    its vocabulary."""
    torch.manual_seed(0)
    network: Any = build_hf_model("llama", values)
    network.save_pretrained(folder)
    words = {f"w{k}": k for k in range(values["vocab_size"])}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0"))
    )
    tokenizer.save_pretrained(folder)
    return vocabulary_name(tokenizer)


def write_job(
    folder: Path, values: dict[str, Any], scale: Scale, rows: int, steps: int, packed: bool
) -> None:
    """Write what the runs of a comparison read: model, store, the same rows as arrays, settings."""
    name = write_model(folder / "model", values)
    count = (steps + 2) * rows
    vocabulary, length = values["vocab_size"], None if packed else scale.tokens
    documents = random_documents(count * scale.tokens, vocabulary, length)
    write_store(folder / "store", documents, vocabulary, name)
    source = StoreRows(DocumentStore(folder / "store"), scale.tokens)
    made = [source.row(index) for index in range(count)]
    np.save(folder / "ids.npy", torch.cat([row.ids for row in made]).numpy().astype(np.int32))
    positions = torch.cat([row.positions for row in made]).numpy()
    np.save(folder / "positions.npy", positions.astype(np.int32))
    job = {
        "threads": scale.threads,
        "tokens": scale.tokens,
        "rows": rows,
        "steps": steps + 1,
        "learning_rate": 3e-4,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "clip": 1.0,
    }
    files.write_json(job, folder / "job.json")


def command(side: str, place: Place, folder: Path) -> list[str]:
    """Return the command of a run, such as "onnuri", "trainer" or "litgpt eager"."""
    program, *way = side.split()
    python = sys.executable if program != "litgpt" else str(place.litgpt)
    return [python, str(FOLDER / f"cpu_{program}.py"), *way, str(folder)]


def compare(place: Place, packed: bool, others: list[str], bar: float) -> dict[str, Any]:
    """Return the figures of Onnuri's run and of others on the same rows, in turn."""
    scale = place.scale
    folder = place.folder / ("packed" if packed else "documents")
    folder.mkdir()
    total = scale.checked + scale.rounds * scale.steps
    write_job(folder, scale.model(SMALL), scale, scale.rows, total, packed)
    own = ["onnuri", "onnuri compiled"] if compiles(scale) else ["onnuri"]
    sides = [*own, *others]
    with ExitStack() as stack:
        runs = {
            side: stack.enter_context(Run(side, command(side, place, folder), folder))
            for side in sides
        }
        first = {side: run.take(scale.checked) for side, run in runs.items()}
        rounds: dict[str, list[Steps]] = {side: [] for side in sides}
        for _ in range(scale.rounds):
            for side, run in runs.items():
                rounds[side].append(run.take(scale.steps))
        starts = {side: run.start for side, run in runs.items()}
    found: dict[str, Any] = {
        "weights": count_weights(scale.model(SMALL)),
        "tokens_per_step": scale.rows * scale.tokens,
    }
    for side in sides:
        found[side] = figures(starts[side], first[side], rounds[side], scale)
    for side in others:
        found[side] |= {f"beside {name}": against(found[name], found[side], bar) for name in own}
    shutil.rmtree(folder)
    return found


def figures(start: Steps, first: Steps, rounds: list[Steps], scale: Scale) -> dict[str, Any]:
    """Return what one run of a comparison took."""
    seconds = [each for steps in rounds for each in steps.seconds]
    processor = [each for steps in rounds for each in steps.processor_seconds]
    return {
        "tokens_per_s": round(scale.rows * scale.tokens / statistics.median(seconds), 1),
        "step_s": round(statistics.median(seconds), 4),
        "step_processor_s": round(statistics.median(processor), 4),
        "first_step_s": round(first.seconds[0], 2),
        "peak_mib": round(rounds[-1].peak_bytes / 2**20, 1),
        "before_first_step_mib": round(start.resident_bytes / 2**20, 1),
        "losses": [round(loss, 6) for loss in first.losses],
        "step_s_by_round": [round(statistics.median(steps.seconds), 4) for steps in rounds],
    }


def against(own: dict[str, Any], other: dict[str, Any], bar: float) -> dict[str, Any]:
    """Return how many times as fast Onnuri's run is as another, what share of its memory it takes,
    how far its losses are off, and whether each passes its bar."""
    pairs = list(zip(own["losses"], other["losses"], strict=True))
    off = max(abs(mine / theirs - 1) for mine, theirs in pairs)
    by_round = zip(own["step_s_by_round"], other["step_s_by_round"], strict=True)
    speed = other["step_s"] / own["step_s"]
    memory = own["peak_mib"] / other["peak_mib"]
    return {
        "speed": round(speed, 3),
        "speed_by_round": [round(theirs / mine, 3) for mine, theirs in by_round],
        "speed_by_processor_seconds": round(other["step_processor_s"] / own["step_processor_s"], 3),
        "memory": round(memory, 3),
        "loss_off": float(f"{off:.2e}"),
        "passes": {"speed": speed >= bar, "memory": memory <= 1, "losses": off <= LOSS_BAR},
    }


def compiles(scale: Scale) -> bool:
    """Return whether runs with compiled layers are measured: not in a trial, and not without the C++
    compiler that they need."""
    return not scale.tiny and shutil.which(os.environ.get("CXX", "g++")) is not None


def count_weights(values: dict[str, Any]) -> int:
    """Return the number of a model's weights."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_hf_model("llama", values).parameters())


def trainer(place: Place, packed: bool) -> dict[str, Any]:
    """Return the comparison with the Trainer, on packed rows or on rows of one document."""
    return {
        "bar": f"{TRAINER_BAR} x Trainer, memory no higher",
        "transformers": transformers.__version__,
        **compare(place, packed, ["trainer"], TRAINER_BAR),
    }


def litgpt(place: Place) -> dict[str, Any]:
    """Return the comparison with litgpt on rows of one document."""
    found: dict[str, Any] = {"bar": f"{LITGPT_BAR} x litgpt, memory no higher"}
    if not place.litgpt:
        return found | {"not run": "needs litgpt's environment: --litgpt (--help says how)"}
    others = ["litgpt compiled", "litgpt eager"] if compiles(place.scale) else ["litgpt eager"]
    return found | compare(place, False, others, LITGPT_BAR)


def gemm(place: Place) -> dict[str, Any]:
    """Return the share of the fastest product's FLOPs that the large model's steps reach."""
    scale, folder = place.scale, place.folder / "gemm"
    folder.mkdir()
    values = scale.model(LARGE)
    total = 2 + scale.large_rounds * scale.large_steps
    write_job(folder, values, scale, scale.large_rows, total, True)
    torch.set_num_threads(scale.threads)
    rates: dict[str, list[float]] = {}
    names = ["onnuri", "onnuri compiled"] if compiles(scale) else ["onnuri"]
    with ExitStack() as stack:
        runs = [stack.enter_context(Run(n, command(n, place, folder), folder)) for n in names]
        first = [run.take(2) for run in runs]
        rounds: list[list[Steps]] = [[] for _ in runs]
        for _ in range(scale.large_rounds):
            for run, taken in zip(runs, rounds, strict=True):
                time_products(values, scale, rates)
                taken.append(run.take(scale.large_steps))
        time_products(values, scale, rates)
    sitting = json.loads((folder / "onnuri" / SITTINGS).read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    tokens = scale.large_rows * scale.tokens
    flops = sitting["flops_per_token"] * tokens
    fastest = max(map(statistics.median, rates.values()))
    luckiest = max(map(max, rates.values()))
    found: dict[str, Any] = {
        "bar": f"{GEMM_BAR} % of the fastest product",
        "weights": count_weights(values),
        "tokens_per_step": tokens,
        "flops_per_token": sitting["flops_per_token"],
        "products_gflops": {name: round(statistics.median(r), 1) for name, r in rates.items()},
        "luckiest_gflops": {name: round(max(r), 1) for name, r in rates.items()},
    }
    for name, begun, taken in zip(names, first, rounds, strict=True):
        seconds = statistics.median(each for steps in taken for each in steps.seconds)
        reached = flops / seconds / 1e9
        share = 100 * reached / fastest
        found[name] = {
            "step_s": round(seconds, 3),
            "step_s_by_round": [round(statistics.median(each.seconds), 3) for each in taken],
            "tokens_per_s": round(tokens / seconds, 1),
            "gflops": round(reached, 1),
            "percent": round(share, 1),
            "percent_of_luckiest": round(100 * reached / luckiest, 1),
            "first_losses": [round(loss, 4) for loss in begun.losses],
            "peak_mib": round(taken[-1].peak_bytes / 2**20, 1),
            "passes": share >= GEMM_BAR,
        }
    return found


def time_products(values: dict[str, Any], scale: Scale, rates: dict[str, list[float]]) -> None:
    """Time matrix products, squares and those of a model's layers, each over and over for half a
    second, and add the GFLOP/s of every single one to `rates`, by its sizes."""
    width, inner, vocabulary = (
        values[name] for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    rows = scale.tokens
    squares = [(n, n, n) for n in ((64, 128) if scale.tiny else (1024, 2048, 4096))]
    own = [(rows, width, width), (rows, width, inner), (rows, inner, width), (width, rows, inner)]
    for n, k, m in [*squares, *own, (rows, width, vocabulary)]:
        one, other = torch.randn(n, k), torch.randn(k, m)
        ends = time.perf_counter() + (0.01 if scale.tiny else 0.5)
        while True:
            began = time.perf_counter()
            one @ other
            now = time.perf_counter()
            rates.setdefault(f"{n} x {k} x {m}", []).append(2 * n * k * m / (now - began) / 1e9)
            if now > ends:
                break


def loader(place: Place) -> dict[str, Any]:
    """Return rows per second from a large store, over those that the small model's steps take."""
    scale, folder = place.scale, place.folder / "loader"
    folder.mkdir()
    write_job(folder, scale.model(SMALL), scale, scale.rows, 8, True)
    with Run("onnuri", command("onnuri", place, folder), folder) as run:
        run.take(3)
        step_seconds = statistics.median(run.take(4).seconds)
    store, size, larger = write_large_store(folder / "large", scale)
    began = time.perf_counter()
    rows = RowLoader(StoreRows(store, scale.tokens), BatchRamp(rows=scale.rows), workers=1)
    rows.next_step()
    first_seconds = time.perf_counter() - began
    rates, read = [], []
    for _ in range(scale.passes):
        before, began = _worker_read_bytes(), time.perf_counter()
        for _ in range(scale.loader_rows // scale.rows):
            rows.next_step()
        rates.append(scale.loader_rows / (time.perf_counter() - began))
        read.append(_worker_read_bytes() - before)
    del rows
    shutil.rmtree(folder)
    demand, rate = scale.rows / step_seconds, statistics.median(rates)
    return {
        "bar": f"{LOADER_BAR} x the rows that steps take",
        "store_gib": round(size / GIB, 2),
        "memory_gib": round(_memory_bytes() / GIB, 2),
        "store": "larger than memory, none of it cached when reading began"
        if larger
        else "smaller than memory, for lack of disk or in a trial; none of it cached when reading "
        "began",
        "documents": len(store),
        "rows_per_s": round(rate, 1),
        "rows_per_s_by_pass": [round(each, 1) for each in rates],
        "read_mib_by_pass": [round(each / 2**20, 1) for each in read],
        "seconds_to_first_step": round(first_seconds, 2),
        "rows_per_s_of_steps": round(demand, 3),
        "times": round(rate / demand, 1),
        "passes": rate / demand >= LOADER_BAR,
    }


def write_large_store(folder: Path, scale: Scale) -> tuple[DocumentStore, int, bool]:
    """Write a store of copies of one shard and drop its cached pages; return it, its bytes, and
    whether it is larger than this machine's memory, which it is if the disk allows."""
    tokens = 1 << 14 if scale.tiny else 1 << 28
    vocabulary = scale.model(SMALL)["vocab_size"]
    write_store(folder, random_documents(tokens, vocabulary, None), vocabulary, "random ids")
    shard_bytes = sum((folder / f"00000.{kind}.npy").stat().st_size for kind in ("ids", "ends"))
    free = shutil.disk_usage(folder).free - 6 * GIB
    wanted = 3 if scale.tiny else _memory_bytes() * 11 // 10 // shard_bytes + 1
    count = max(1, min(wanted, free // shard_bytes))
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    summary["shards"] *= count
    for number in range(1, count):
        for kind in ("ids", "ends"):
            shutil.copyfile(folder / f"00000.{kind}.npy", folder / f"{number:05}.{kind}.npy")
    files.write_json(summary, folder / SUMMARY)
    size = 0
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not written yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size += path.stat().st_size
    return DocumentStore(folder), size, size > _memory_bytes()


def _memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _worker_read_bytes() -> int:
    """Return the bytes that the loader's worker processes have had read from a disk."""
    total = 0
    for process in multiprocessing.active_children():
        lines = Path(f"/proc/{process.pid}/io").read_text(encoding="ascii").splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    return total


PARTS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "trainer-packed": functools.partial(trainer, packed=True),
    "trainer-documents": functools.partial(trainer, packed=False),
    "litgpt": litgpt,
    "gemm": gemm,
    "loader": loader,
}


def main() -> None:
    """Measure, print each part's figures and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="parts, by commas: " + ", ".join(PARTS))
    parser.add_argument("--litgpt", metavar="PYTHON", help="Python of an environment with litgpt")
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    parser.add_argument("--tiny", action="store_true", help="small models: a trial of the script")
    parser.add_argument("--out", type=Path, help="file of results (results/cpu.json; trial: none)")
    parser.add_argument("--folder", type=Path, help="folder for temporary files, 27 GiB or more")
    given = parser.parse_args()
    only = given.only.split(",")
    if unknown := [each for each in only if not any(part.startswith(each) for part in PARTS)]:
        parser.error(f"--only {unknown[0]} is no part: give some of {', '.join(PARTS)}")
    scale = Scale(given.threads)
    if given.tiny:
        scale = Scale(given.threads, 64, 2, 2, 3, 1, 2, 1, 1, 8, 1, tiny=True)
    out = given.out or (None if given.tiny else RESULT)
    results = json.loads(out.read_text(encoding="utf-8")) if out and out.exists() else {}
    torch.set_num_threads(scale.threads)
    for name in (part for part in PARTS if part.startswith(tuple(only))):
        began, load = time.perf_counter(), os.getloadavg()[0]
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            found = PARTS[name](Place(Path(folder), scale, given.litgpt))
        found |= {
            "machine": machine(),
            "load_before": round(load, 2),
            "part_s": round(time.perf_counter() - began, 1),
        }
        print(json.dumps({name: found}, indent=1), flush=True)
        results[name] = found
        if out:
            files.write_json(results, out)


if __name__ == "__main__":
    main()
