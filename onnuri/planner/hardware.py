"""Read GPUs and clusters from one table, `data/hardware.csv`, each row with its source. Knows no
model."""

from __future__ import annotations

import csv
import difflib
import functools
import re
import statistics
from pathlib import Path

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.parallel import Precision

DATA = Path(__file__).parent / "data"
MOST_GPUS = 1_000_000
"""GPUs of a cluster, several times the largest announced"""


class Gpu(Config):
    """One row of the hardware table; rates are peaks of dense products and of wires, not what is
    reached."""

    name: str
    bf16_tflops: float
    fp8_tflops: float | None
    fp4_tflops: float | None
    memory_gb: float
    """1e9 bytes that programs can allocate, as the card's driver reports them: an "80 GB" H100 has
    84.9 (79.1 GiB)"""
    memory_tb_per_s: float
    link_gb_per_s: float
    """one way to GPUs of the same domain, 1e9 bytes"""
    domain: int
    """GPUs that the fast links join"""
    nic_gb_per_s: float
    """one way per GPU to other domains, 1e9 bytes"""
    gemm_share: float
    """share of the bf16 peak that large products reach (stas00/ml-engineering); unmeasured, the
    median of the table's"""
    power_w: float | None
    usd_low: float | None
    """per hour, the lowest list price"""
    usd_high: float | None
    """per hour, the highest list price"""
    launched: float
    """year in which kernels for its instruction set were first used in training"""
    special_tera_per_s: float
    """exponentials, 1e12 per second: multiprocessors x 16 per clock x clock; unknown, the median of
    the table's to the peak"""
    usd_median: float | None = None
    """per hour, the median of many sellers' list prices, where one was published"""
    gemm_fp8_share: float = 0.0
    """share of the fp8 peak that large products reach; unmeasured, the bf16 share times the table's
    median of the two's ratio"""

    @property
    def memory_bytes(self) -> float:
        """Return the bytes of memory that programs can allocate on one GPU."""
        return self.memory_gb * 1e9

    def peak_tflops(self, precision: Precision) -> float:
        """Return the peak of dense products in TFLOPS; a format that the GPU lacks is computed in
        the next wider one."""
        wider = {
            "bf16": self.bf16_tflops,
            "fp8": self.fp8_tflops,
            "mxfp8": self.fp8_tflops,
            "nvfp4": self.fp4_tflops or self.fp8_tflops,
        }[precision]
        return wider or self.bf16_tflops

    def check(self, *precisions: Precision) -> None:
        """Raise ConfigError for a precision in which the GPU has no products of its own."""
        for precision in precisions:
            # products of blocks with scales of their own, 8-bit ones too, came with 4-bit ones:
            # Blackwell, CDNA 4
            block = precision in ("mxfp8", "nvfp4") and not self.fp4_tflops
            if block or (precision == "fp8" and not self.fp8_tflops):
                raise ConfigError(
                    Phrase("precision {}", precision),
                    Phrase("is not what a {} multiplies", self.name),
                    "leave it out, or take another GPU",
                )


class Cluster(Config):
    """GPUs of one kind in nodes."""

    gpu: str
    gpus: int
    node: int = 8
    """GPUs per node: what fails together"""
    nic_gb_per_s: float | None = None
    """one way per GPU to other domains, 1e9 bytes, where it is not the table's"""
    power_w: float | None = None
    """cap per GPU, where it is not the table's"""
    memory_tb_per_s: float | None = None
    """where it is not the table's"""
    gemm_share: float | None = None
    """share of the bf16 peak that large products reach, where it was measured on the machine:
    boards of one name differ by 1.6"""
    gemm_fp8_share: float | None = None
    """share of the fp8 peak that large products reach, where it was measured on the machine"""
    compiled: bool = False
    """whether Onnuri's own step runs the kernels that PyTorch's compiler fuses"""
    own: Gpu | None = None
    """the GPU that is planned with, where it is not the table's row as it stands"""
    yours: tuple[str, ...] = ()
    """sentences of what the user says of the machine, for a plan's evidence"""

    @property
    def nic(self) -> float:
        """Return the 1e9 bytes per second and GPU, one way, to other domains."""
        return self.nic_gb_per_s or self.kind.nic_gb_per_s or self.kind.link_gb_per_s

    @property
    def kind(self) -> Gpu:
        """Return the GPU that is planned with: the user's own, or the table's."""
        return self.own or gpu(self.gpu)

    @property
    def fp8_gain(self) -> float:
        """Return the measured rate of fp8 products over the one that the GPU's row stands for; 1
        where it is not measured."""
        row = self.kind.gemm_fp8_share
        return self.gemm_fp8_share / row if self.gemm_fp8_share and row else 1.0


@functools.cache
def table() -> dict[str, Gpu]:
    """Return the GPUs of the hardware table by name, with medians where a row lacks a figure."""
    with (DATA / "hardware.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    share = statistics.median(s for row in rows if (s := _number(row, "gemm_fraction_bf16")))
    special = statistics.median(
        s / (_number(row, "peak_bf16_dense_tflops") or 1)
        for row in rows
        if (s := _number(row, "special_tera_per_s"))
    )
    narrow = _fp8_ratio(rows)
    return {row["gpu"]: _gpu(row, share, special, narrow) for row in rows}


def defaults() -> tuple[float, float, float]:
    """Return three medians of the table for a GPU whose owner does not say them: the share of its
    bf16 peak that large products reach, exponentials (1e12 per second) per TFLOPS of that peak, and
    the fp8 share over the bf16 share."""
    rows = table().values()
    share = statistics.median(g.gemm_share for g in rows)
    special = statistics.median(g.special_tera_per_s / g.bf16_tflops for g in rows)
    return share, special, statistics.median(g.gemm_fp8_share / g.gemm_share for g in rows)


def _fp8_ratio(rows: list[dict[str, str]]) -> float:
    """Return the median share of the fp8 peak over the share of the bf16 peak, of GPUs on which
    both were measured."""
    pairs = (
        (_number(row, "gemm_fraction_fp8"), _number(row, "gemm_fraction_bf16")) for row in rows
    )
    return statistics.median(fp8 / bf16 for fp8, bf16 in pairs if fp8 and bf16)


@functools.cache  # a search asks for it a hundred thousand times
def gpu(name: str) -> Gpu:
    """Return a GPU of the table by its name in any case. Raises ConfigError for an unknown one,
    with the nearest names."""
    known = {n.lower(): n for n in table()}
    if name.lower() not in known:
        near = [n for n in known if name and n.startswith(name.lower())]
        near = near or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.0)
        raise ConfigError(
            f"GPU {name!r}",
            "is not in the hardware table",
            Phrase("use {}", ", ".join(known[n] for n in near)),
        )
    return table()[known[name.lower()]]


def cluster(name: str, gpus: int) -> Cluster:
    """Return a cluster of so many GPUs of the table. Raises ConfigError for an unknown GPU or less
    than one."""
    check_count(gpus)
    return Cluster(gpu=gpu(name).name, gpus=gpus)


def check_count(gpus: int) -> None:
    """Raise ConfigError for a number of GPUs below 1 or above the largest cluster, `MOST_GPUS`."""
    if not 1 <= gpus <= MOST_GPUS:
        raise ConfigError(
            Phrase("{} GPUs", gpus),
            Phrase("are not from 1 to {:,}", MOST_GPUS),
            "give a whole number between",
        )


def parse(text: str) -> Cluster:
    """Return the cluster that a text such as `1024xH200` names. Raises ConfigError for other
    texts."""
    count, x, name = text.partition("x")
    if not x or not count.isdecimal():
        raise ConfigError(
            Phrase("cluster {!r}", text),
            "is not a number of GPUs and their name",
            "write such as 1024xH200",
        )
    return cluster(name, int(count))


def _number(row: dict[str, str], column: str) -> float | None:
    """Return the number at the start of a table's cell, or None for a cell without one."""
    match = re.match(r"[\d.]+", row[column])
    return float(match[0]) if match else None


def _gpu(row: dict[str, str], share: float, special: float, narrow: float) -> Gpu:
    """Return the GPU of a row of the table; `share`, `special` and `narrow` are medians for what it
    lacks."""
    number = functools.partial(_number, row)
    gemm = number("gemm_fraction_bf16") or share
    peak = number("peak_bf16_dense_tflops") or 0.0
    return Gpu(
        name=row["gpu"],
        bf16_tflops=peak,
        fp8_tflops=number("peak_fp8_dense_tflops"),
        fp4_tflops=number("peak_fp4_dense_tflops"),
        memory_gb=(number("memory_gib") or 0.0) * 2**30 / 1e9,
        memory_tb_per_s=number("hbm_TBps") or 0.0,
        link_gb_per_s=number("nvlink_GBps_per_dir") or 0.0,
        domain=int(number("scaleup_domain_gpus") or 1),
        nic_gb_per_s=(number("nic_Gbps_per_gpu") or 0.0) / 8,
        gemm_share=gemm,
        gemm_fp8_share=number("gemm_fraction_fp8") or gemm * narrow,
        power_w=number("power_W"),
        usd_low=number("price_usd_per_gpu_hour_low"),
        usd_high=number("price_usd_per_gpu_hour_high"),
        usd_median=number("price_usd_per_gpu_hour_median"),
        launched=float(row["launched"]),
        special_tera_per_s=number("special_tera_per_s") or special * peak,
    )
