"""This module tells whether a machine can train: one line per thing that training needs.

    onnuri doctor                                               this machine
    torchrun --nproc-per-node 8 -m onnuri doctor                and the ranks' clocks

Nothing is assumed that can be tried: attention runs, two processes talk, a file is written. The
module knows no recipe.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from onnuri.model import attention
from onnuri.parallel import launch

Status = Literal["ok", "warning", "missing"]
"""warning: training runs, but slower or on less; missing: it does not run"""
OLDEST_TORCH = (2, 11)
FREE_BYTES = 20e9
"""free space below which a run's states and token table may not fit"""
WRITTEN_BYTES = 128 << 20
"""bytes that are written to measure the disk"""
SLOW_DISK = 100e6
"""bytes per second below which a checkpoint takes long"""
EXCHANGED_NUMBERS = 1 << 20
"""float32 numbers that two processes add up"""
CLOCK_SECONDS, CLOCK_ERROR = 0.5, 0.01
"""how long the two clocks are compared, and the largest relative difference"""
SKEW_SECONDS = 1.0
"""largest difference between ranks' clocks with which logs of several machines can be read
together"""


class Check(NamedTuple):
    """A Check is one line: what was checked, how it is, and what to do."""

    name: str
    status: Status
    text: str
    repair: str = ""

    def __str__(self) -> str:
        """Return the line."""
        repair = f"; {self.repair}" if self.repair else ""
        return f"{self.status:8}{self.name:11}{self.text}{repair}"


def run(folder: Path) -> None:
    """Print every check's line as soon as it is known; `folder` is where runs are written.

    Under torchrun the first rank checks its machine and all ranks compare their clocks. Raises
    SystemExit with status 1 if something that training needs is missing.
    """
    with launch.ranks():
        missing = []
        if launch.is_first():
            missing = [check.name for check in _printed(machine_checks(folder))]
        launch.join()
        skew = check_skew()
        if launch.is_first() and skew:
            print(skew)
    if missing:
        raise SystemExit(1)


def machine_checks(folder: Path) -> Iterator[Check]:
    """Yield the checks of this machine, one after the other."""
    checks: tuple[Callable[[], Check], ...] = (
        check_torch,
        check_cuda,
        check_nccl,
        check_links,
        check_attention,
        check_gloo,
        lambda: check_disk(folder),
        check_clock,
    )
    for check in checks:
        yield check()


def _printed(checks: Iterable[Check]) -> Iterator[Check]:
    """Print checks and yield those of what is missing."""
    for check in checks:
        print(check, flush=True)
        if check.status == "missing":
            yield check


def check_torch() -> Check:
    """Return whether torch is one that Onnuri trains with."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    oldest = ".".join(map(str, OLDEST_TORCH))
    if numbers < OLDEST_TORCH:
        repair = f"install torch {oldest} or newer"
        return Check("torch", "missing", f"{torch.__version__} is too old", repair)
    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_cuda() -> Check:
    """Return which GPUs torch sees, and why none where the machine has one."""
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        names = sorted({f"{d.name} of {d.total_memory / 2**30:.0f} GiB" for d in devices})
        return Check("CUDA", "ok", f"{torch.version.cuda}, {len(devices)} GPU: {', '.join(names)}")
    if _nvidia_smi("-L"):
        build = torch.version.cuda or "CPU only"
        return Check(
            "CUDA",
            "missing",
            f"this machine has a GPU that torch does not use (built for CUDA: {build})",
            "install torch for the driver's CUDA from pytorch.org",
        )
    return Check("CUDA", "warning", "no GPU", "training runs on the CPU")


def check_nccl() -> Check:
    """Return NCCL's version, which GPUs need to talk to each other."""
    if not torch.cuda.is_available():
        return Check("NCCL", "warning", "not needed without a GPU")
    if not dist.is_nccl_available():
        repair = "install torch for CUDA on Linux"
        return Check("NCCL", "missing", "torch was built without it", repair)
    return Check("NCCL", "ok", ".".join(map(str, torch.cuda.nccl.version())))


def check_links() -> Check:
    """Return how the GPUs of this machine are connected."""
    count = torch.cuda.device_count()
    if count < 2:
        text = "one GPU has none" if count else "no GPU"
        return Check("links", "ok" if count else "warning", text)
    matrix = _nvidia_smi("topo", "-m")
    if not matrix:
        repair = "install nvidia-smi, or measure with nccl-tests"
        return Check("links", "warning", "nvidia-smi does not tell them", repair)
    kinds = gpu_links(matrix)
    text = ", ".join(sorted(kinds))
    if all(kind.startswith("NV") for kind in kinds):
        return Check("links", "ok", f"NVLink between all {count} GPUs ({text})")
    repair = "tensor and expert parallelism are slow over PCIe: prefer fsdp"
    return Check("links", "warning", f"not all are NVLink ({text})", repair)


def gpu_links(matrix: str) -> set[str]:
    """Return the kinds of links between GPUs in the table that `nvidia-smi topo -m` prints, such as
    NV18, PIX or SYS."""
    lines = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", matrix).splitlines()]
    rows = [cells for cells in lines if len(cells) > 1 and re.fullmatch(r"GPU\d+", cells[0])]
    rows = [cells for cells in rows if not cells[1].startswith("GPU")]  # the heading
    return {kind for cells in rows for kind in cells[1 : 1 + len(rows)] if kind != "X"}


def check_attention() -> Check:
    """Return whether packed rows keep sequences apart, and which kernel computes them."""
    device, dtype = torch.device("cpu"), torch.float32
    if torch.cuda.is_available():
        device, dtype = torch.device("cuda"), torch.bfloat16
        if not attention.varlen_works(device, dtype, (4, 4, 64, 64), False):
            return Check(
                "attention",
                "warning",
                "torch's kernel for packed rows does not run on this GPU",
                "each sequence is computed apart, which is slower",
            )
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 4, 24, 64, generator=draw).to(device, dtype) for _ in range(3)
    )
    sequences = attention.RowSequences([8, 16], device)
    together, _ = attention.packed_attention(
        torch.nn.Module(), query, key, value, None, 0.125, sequences
    )
    apart = attention.by_sequence(query, key, value, 0.125, [8, 16], None)
    error = float((together - apart).abs().max())
    if error > (2e-2 if dtype is torch.bfloat16 else 1e-5):
        repair = "use another torch: training would be wrong"
        return Check("attention", "missing", f"packed rows differ by {error:.2g}", repair)
    kernel = "one kernel per row" if device.type == "cuda" else "one call per sequence"
    return Check("attention", "ok", f"packed rows on {device.type}, {kernel}")


def check_gloo() -> Check:
    """Return whether two processes of this machine reach each other over gloo, and how fast."""
    repair = "check the loopback interface, or set GLOO_SOCKET_IFNAME=lo"
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.multiprocessing.spawn(_exchange, (folder,), nprocs=2)
            latency, seconds = map(float, Path(folder, "seconds").read_text().split())
        except Exception as error:  # whatever a broken network raises in another process
            lines = str(error).strip().splitlines()
            text = f"two processes do not reach each other ({lines[-1][:200] if lines else error})"
            return Check("gloo", "missing", text, repair)
    speed = 4 * EXCHANGED_NUMBERS / seconds / 1e9
    return Check("gloo", "ok", f"two processes: {latency * 1e6:.0f} µs, {speed:.2g} GB/s summed")


def _exchange(rank: int, folder: str) -> None:
    """Be one of two processes that add up numbers; the first writes the seconds that one number
    and that EXCHANGED_NUMBERS take."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    seconds = []
    for size in (1, EXCHANGED_NUMBERS):
        numbers, times = torch.ones(size), []
        for _ in range(5):
            numbers.fill_(1.0)
            start = time.perf_counter()
            dist.all_reduce(numbers)
            times.append(time.perf_counter() - start)
        assert bool((numbers == 2.0).all())
        seconds.append(min(times))
    dist.destroy_process_group()
    if rank == 0:
        Path(folder, "seconds").write_text(f"{seconds[0]} {seconds[1]}")


def check_disk(folder: Path) -> Check:
    """Return the free space and the measured speed of writing where runs are written."""
    above = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    repair = "give another folder with --out"
    if not above.is_dir():
        return Check("disk", "missing", f"{above} is a file", repair)
    try:
        free = shutil.disk_usage(above).free
        if free < 2 * WRITTEN_BYTES:
            return Check("disk", "missing", f"{above} is full", repair)
        seconds = _write_seconds(above)
    except OSError as error:
        return Check("disk", "missing", f"{above} cannot be written ({error.strerror})", repair)
    speed = WRITTEN_BYTES / seconds
    text = f"{folder}: {free / 1e9:,.0f} GB free, {speed / 1e6:,.0f} MB/s written"
    if free < FREE_BYTES:
        return Check("disk", "warning", text, f"free {FREE_BYTES / 1e9:.0f} GB for states")
    if speed < SLOW_DISK:
        return Check("disk", "warning", text, "write less often: TrainConfig.checkpoint_seconds")
    return Check("disk", "ok", text)


def _write_seconds(folder: Path) -> float:
    """Return the seconds in which WRITTEN_BYTES reach the disk of a folder; the file is removed."""
    block = os.urandom(1 << 20)  # a disk that compresses must not seem fast
    with tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(WRITTEN_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return time.perf_counter() - start


def check_clock() -> Check:
    """Return whether the wall clock goes as fast as the monotonic one: a clock that is being set
    makes times in logs wrong, though budgets count monotonic time."""
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(CLOCK_SECONDS)
    passed = time.monotonic() - monotonic
    error = (time.time() - wall) / passed - 1
    if abs(error) > CLOCK_ERROR:
        repair = "let NTP settle: times in logs are wrong"
        return Check("clock", "warning", f"wall clock is {error:+.1%} off the monotonic", repair)
    return Check("clock", "ok", f"wall and monotonic clock agree to {abs(error):.2%}")


def check_skew() -> Check | None:
    """Return how far the ranks' wall clocks are apart, after all have met; None for one process.

    Every rank must call it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    dist.barrier()
    clock = torch.tensor([time.time()], dtype=torch.float64)
    clocks = [torch.zeros_like(clock) for _ in range(dist.get_world_size())]
    dist.all_gather(clocks, clock)
    skew = float(torch.cat(clocks).max() - torch.cat(clocks).min())
    text = f"{len(clocks)} ranks' clocks are at most {skew * 1e3:,.0f} ms apart"
    if skew > SKEW_SECONDS:
        repair = "let NTP set all machines: their logs cannot be read together"
        return Check("skew", "warning", text, repair)
    return Check("skew", "ok", text)


def _nvidia_smi(*arguments: str) -> str:
    """Return what nvidia-smi prints, an empty text where it is missing or fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
