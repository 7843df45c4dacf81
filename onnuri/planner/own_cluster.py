"""Read a user's own cluster: what its owner measured and pays, from flags, a TOML file or a dict.
Knows no model.

    gpu = "H100"            # a row of the hardware table, or a table [gpu] with a row of one's own
    gpus = 512
    price_usd = 2.1         # dollars a GPU hour
    nic_gbps = 200          # gigabits a second and GPU, one way, to other nodes
    gemm_tflops = 690       # measured, large bf16 products

What the owner leaves out is the hardware table's. Every figure of the owner appears in the plan's
evidence as "yours".
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner import hardware
from onnuri.planner.hardware import MOST_GPUS, Cluster, Gpu


class Rule(NamedTuple):
    """The range that a figure of the owner must lie in."""

    low: float
    high: float
    unit: str
    """as it is written behind the figure"""
    example: str
    whole: bool = False
    """whether it must be a whole number"""


RULES = {
    "gpus": Rule(1, MOST_GPUS, "GPUs", "512", True),
    "price_usd": Rule(0.001, 1000, "dollars a GPU hour", "2.1"),
    "nic_gbps": Rule(0.1, 100_000, "Gb/s a GPU, one way", "400"),
    "nvlink_gbps": Rule(1, 100_000, "GB/s a GPU, one way", "450"),
    "gemm_tflops": Rule(1, 1_000_000, "TFLOPS of bf16 products", "690"),
    "gemm_fp8_tflops": Rule(1, 1_000_000, "TFLOPS of fp8 products", "1200"),
    "gpus_per_node": Rule(1, 100_000, "GPUs a node", "8", True),
    "nvlink_domain": Rule(1, 100_000, "GPUs that fast links join", "72", True),
    "power_w": Rule(10, 100_000, "W a GPU", "700"),
    "memory_gib": Rule(1, 100_000, "GiB a GPU", "79.1"),
    "memory_tb_per_s": Rule(0.01, 1000, "TB/s a GPU", "3.35"),
    "bf16_tflops": Rule(1, 1_000_000, "TFLOPS, peak of dense bf16 products", "989"),
    "fp8_tflops": Rule(1, 1_000_000, "TFLOPS, peak of dense fp8 products", "1979"),
    "fp4_tflops": Rule(1, 1_000_000, "TFLOPS, peak of dense fp4 products", "9000"),
    "launched": Rule(2016, 2035, "year", "2024.9"),
    "special_tera_per_s": Rule(0.01, 10_000, "1e12 exponentials a second", "3.9"),
}
NEW = 2024.9
"""year in which kernels for an unknown GPU's instructions were first used, where its owner does not
say: assumed, Blackwell's"""


class OwnGpu(Config):
    """A GPU that the hardware table does not have, described whole by its owner: the table [gpu] of
    a file."""

    name: str
    bf16_tflops: float
    """peak of dense products"""
    memory_gib: float
    memory_tb_per_s: float
    nvlink_gbps: float
    """GB/s one way to GPUs of the same domain"""
    nic_gbps: float
    """Gb/s per GPU, one way, to other domains"""
    nvlink_domain: int = 8
    """GPUs that the fast links join"""
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    gemm_tflops: float | None = None
    """measured, large bf16 products; without it, the table's median share of the peak"""
    gemm_fp8_tflops: float | None = None
    power_w: float | None = None
    price_usd: float | None = None
    """per GPU hour"""
    launched: float | None = None
    """year in which kernels for its instruction set were first used in training"""
    special_tera_per_s: float | None = None
    """exponentials, 1e12 per second"""

    def row(self) -> Gpu:
        """Return the GPU as the hardware table would hold it. Raises ConfigError for a name that
        the table has."""
        known = {name.lower(): name for name in hardware.table()}
        if self.name.lower() in known:
            raise ConfigError(
                f"gpu.name {self.name!r}",
                "is a GPU of the hardware table",
                Phrase(
                    'write gpu = "{}" and your figures beside it, or another name',
                    known[self.name.lower()],
                ),
            )
        share, special, narrow = hardware.defaults()
        if self.gemm_tflops:
            share = _share("gpu.gemm_tflops", self.gemm_tflops, self.bf16_tflops, "bf16", self.name)
        fp8 = share * narrow
        if self.gemm_fp8_tflops:
            fp8 = _share(
                "gpu.gemm_fp8_tflops", self.gemm_fp8_tflops, self.fp8_tflops, "fp8", self.name
            )
        return Gpu(
            name=self.name,
            bf16_tflops=self.bf16_tflops,
            fp8_tflops=self.fp8_tflops,
            fp4_tflops=self.fp4_tflops,
            memory_gb=self.memory_gib * 2**30 / 1e9,
            memory_tb_per_s=self.memory_tb_per_s,
            link_gb_per_s=self.nvlink_gbps,
            domain=self.nvlink_domain,
            nic_gb_per_s=self.nic_gbps / 8,
            gemm_share=share,
            gemm_fp8_share=fp8,
            power_w=self.power_w,
            usd_low=self.price_usd,
            usd_high=self.price_usd,
            launched=self.launched or NEW,
            special_tera_per_s=self.special_tera_per_s or special * self.bf16_tflops,
        )

    def evidence_sentences(self) -> tuple[str, ...]:
        """Return the sentences of the plan's evidence that say which figures of the GPU are the
        owner's and which are assumed."""
        assumed = [
            name
            for name in ("gemm_tflops", "launched", "special_tera_per_s")
            if getattr(self, name) is None
        ]
        lines = [Phrase("GPU {}, the whole row: yours", self.name)]
        return tuple(
            lines + [Phrase("assumed of {}: {}", self.name, ", ".join(assumed))] * bool(assumed)
        )


class Own(Config):
    """The figures of the owner's cluster; None is left to the hardware table."""

    gpu: str | None = None
    gpus: int | None = None
    row: OwnGpu | None = None
    """a GPU described whole, in place of `gpu`"""
    price_usd: float | None = None
    """dollars per GPU hour"""
    nic_gbps: float | None = None
    """gigabits per second and GPU, one way, to other nodes"""
    nvlink_gbps: float | None = None
    """gigabytes per second and GPU, one way: an H100's NVLink has 450"""
    gemm_tflops: float | None = None
    """measured, large bf16 products"""
    gemm_fp8_tflops: float | None = None
    """measured, large fp8 products"""
    gpus_per_node: int | None = None
    """they fail together, and fast links join them"""
    nvlink_domain: int | None = None
    """GPUs that fast links join, where that is not a node"""
    power_w: float | None = None
    """per GPU; below the table's it is a cap and slows products"""
    memory_gib: float | None = None
    memory_tb_per_s: float | None = None
    compiled: bool | None = None
    """Onnuri's own step runs compiled kernels"""

    def beneath(self, above: Own) -> Own:
        """Return these figures overridden by those of `above`. Raises ConfigError where the two
        name different GPUs."""
        overrides = {
            f.name: v
            for f in dataclasses.fields(above)  # type: ignore[arg-type]
            if (v := getattr(above, f.name)) is not None
        }
        mine = self.row.name if self.row else self.gpu
        if mine and above.gpu and above.gpu.lower() != mine.lower():
            raise ConfigError(
                f"GPU {above.gpu!r}",
                Phrase("stands beside the cluster file's {!r}", mine),
                "leave one of them out",
            )
        if self.row:
            overrides.pop("gpu", None)
        return self.replace(**overrides)

    def kind(self) -> Gpu | None:
        """Return the GPU that the owner names or describes; None where there is neither."""
        return self.row.row() if self.row else hardware.gpu(self.gpu) if self.gpu else None

    def cluster(self, gpu: str | None = None, gpus: int | None = None) -> Cluster:
        """Return the cluster; `gpu` and `gpus` are defaults where the owner names neither. Raises
        ConfigError for figures that cannot be."""
        check(dataclasses.asdict(self))
        name, count = self.gpu or gpu, gpus if self.gpus is None else self.gpus
        if not (self.row or name):
            raise ConfigError("cluster", "names no GPU", 'write such as gpu = "H200"')
        if count is None:
            raise ConfigError("cluster", "has no number of GPUs", "write such as gpus = 512")
        base = self.row.row() if self.row else hardware.gpu(name or "")
        plain = (
            hardware.cluster(name, count)
            if not self.row and name
            else Cluster(gpu=base.name, gpus=count)
        )
        own = base.replace(**self._row(base))
        changes: dict[str, Any] = {"own": own if self.row or own != base else None}
        if self.gpus_per_node:
            changes["node"] = self.gpus_per_node
        elif self.row or self.nvlink_domain:
            changes["node"] = min(own.domain, plain.node) if own.domain > 1 else plain.node
        if self.gemm_tflops:
            changes["gemm_share"] = _share(
                "gemm_tflops", self.gemm_tflops, base.bf16_tflops, "bf16", base.name
            )
        if self.gemm_fp8_tflops:
            changes["gemm_fp8_share"] = _share(
                "gemm_fp8_tflops", self.gemm_fp8_tflops, base.fp8_tflops, "fp8", base.name
            )
        changes |= {
            "power_w": self.power_w,
            "compiled": bool(self.compiled),
            "yours": self.evidence_sentences(base),
        }
        return plain.replace(**changes)

    def _row(self, base: Gpu) -> dict[str, Any]:
        """Return the fields of the GPU's row that are not the table's."""
        changed: dict[str, Any] = {}
        if self.price_usd:
            changed |= {"usd_low": self.price_usd, "usd_high": self.price_usd}
        if self.nic_gbps:
            changed["nic_gb_per_s"] = self.nic_gbps / 8
        if self.nvlink_gbps:
            changed["link_gb_per_s"] = self.nvlink_gbps
        if self.memory_gib:
            changed["memory_gb"] = self.memory_gib * 2**30 / 1e9
        if self.memory_tb_per_s:
            changed["memory_tb_per_s"] = self.memory_tb_per_s
        if domain := self._domain(base):
            changed["domain"] = domain
        return changed

    def _domain(self, base: Gpu) -> int | None:
        """Return how many GPUs fast links join; None leaves the table's number.

        A node's GPUs are joined, but for GPUs that a rack or a bridge joins: their domain is more
        than 8, or 2, in the table, and goes on whatever a node holds.
        """
        if self.nvlink_domain:
            return self.nvlink_domain
        return self.gpus_per_node if base.domain in (1, 8) and not self.row else None

    def evidence_sentences(self, base: Gpu) -> tuple[str, ...]:
        """Return a sentence of evidence for each of the owner's figures, with the table's beside
        it."""
        lines = list(self.row.evidence_sentences()) if self.row else []
        low, high = base.usd_low, base.usd_high
        listed = Phrase("{:g} to {:g}", low or high, high or low) if low or high else None
        table: dict[str, tuple[str, float | str | None]] = {
            "price_usd": ("price", listed),
            "nic_gbps": ("network", base.nic_gb_per_s * 8),
            "nvlink_gbps": ("fast links", base.link_gb_per_s),
            "gemm_tflops": ("products", base.gemm_share * base.bf16_tflops),
            "gemm_fp8_tflops": (
                "products",
                base.gemm_fp8_share * base.fp8_tflops if base.fp8_tflops else None,
            ),
            "gpus_per_node": ("node", Cluster(gpu="", gpus=1).node),
            "nvlink_domain": ("domain", base.domain),
            "power_w": ("power", base.power_w),
            "memory_gib": ("memory", base.memory_bytes / 2**30),
            "memory_tb_per_s": ("memory rate", base.memory_tb_per_s),
        }
        for key, (label, listed_value) in table.items():
            if (value := getattr(self, key)) is None:
                continue
            before = (
                f"{listed_value:.4g}"
                if isinstance(listed_value, int | float)
                else listed_value or "none"
            )
            twice = (
                isinstance(listed_value, int | float)
                and key == "nvlink_gbps"
                and value >= 1.9 * listed_value
            )
            lines.append(
                Phrase(
                    "{} (table: {}){}",
                    Phrase(f"{label}: yours, {{:g}} {RULES[key].unit}", value),
                    before,
                    ", twice the table's: data sheets count both ways" if twice else "",
                )
            )
        return tuple(lines + ["compiled kernels of Onnuri's own step: yours"] * bool(self.compiled))


def _share(key: str, tflops: float, peak: float | None, precision: str, name: str) -> float:
    """Return the share of the peak that a measured rate is. Raises ConfigError where there is no
    peak, or the rate is above it."""
    if not peak:
        raise ConfigError(
            f"{key} {tflops:g}",
            Phrase("is of {} products, which a {} has not", precision, name),
            "leave it out",
        )
    if tflops > peak:
        raise ConfigError(
            f"{key} {tflops:g}",
            Phrase("is above the peak of a {}, {:g} TFLOPS dense", name, peak),
            "give what large products were measured to reach, without sparsity",
        )
    return tflops / peak


# ---- checks


def check(values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ConfigError for the first figure that is out of its range; None is left to the
    table."""
    for key, value in values.items():
        if key == "row" and value is not None:
            check(value, "gpu.")
        elif key in RULES and value is not None:
            _check_figure(f"{prefix}{key}", value, RULES[key])
        elif (
            value is not None
            and key in ("gpu", "name")
            and not (isinstance(value, str) and value.strip())
        ):
            raise ConfigError(f"{prefix}{key} {value!r}", "is not a name", 'write such as "H200"')
        elif key == "compiled" and value is not None and not isinstance(value, bool):
            raise ConfigError(
                f"compiled {value!r}", "is not true or false", "write compiled = true"
            )


def _check_figure(key: str, value: Any, rule: Rule) -> None:
    """Raise ConfigError where a figure is no number, not whole though it must be, or out of its
    range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ConfigError(
            f"{key} {value!r}", "is not a number", Phrase("write such as {}", rule.example)
        )
    if rule.whole and value != int(value if math.isfinite(value) else 0):
        raise ConfigError(
            f"{key} {value:g}", "is not a whole number", Phrase("write such as {}", rule.example)
        )
    if key == "gpus":
        hardware.check_count(int(value))
    if not rule.low <= value <= rule.high:
        raise ConfigError(
            f"{key} {value:g}",
            Phrase("is not from {:g} to {:,g} {}", rule.low, rule.high, rule.unit),
            Phrase("write such as {}", rule.example),
        )


def of(values: Mapping[str, Any], where: str = "cluster") -> Own:
    """Return the owner's figures of a dict or a file. Raises ConfigError for an unknown key, with
    the nearest known one, for a missing one, and for a value out of its range."""
    named = dict(values)
    known = [f.name for f in dataclasses.fields(Own) if f.name != "row"]  # type: ignore[arg-type]
    _check_keys(named, known, where, "")
    if isinstance(named.get("gpu"), Mapping):
        row = dict(named.pop("gpu"))
        fields = dataclasses.fields(OwnGpu)  # type: ignore[arg-type]
        _check_keys(row, [f.name for f in fields], where, "gpu.")
        lacking = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in row]
        if lacking:
            raise ConfigError(
                f"{where}: [gpu]",
                Phrase("lacks {}", ", ".join(lacking)),
                "add them, or name a GPU of the hardware table",
            )
        check(row, "gpu.")
        named["row"] = OwnGpu(**row)
    check({k: v for k, v in named.items() if k != "row"})
    return Own(**named)


def _check_keys(values: Mapping[str, Any], known: list[str], where: str, prefix: str) -> None:
    """Raise ConfigError for the first key that is not known, with the nearest known one."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.0)[
                0
            ]
            raise ConfigError(
                f"{where}: {prefix}{key}",
                "is not a key of a cluster",
                Phrase("did you mean {}{}? known are {}", prefix, near, ", ".join(known)),
            )


def read(path: Path) -> Own:
    """Return the owner's figures of a TOML file. Raises ConfigError for a file that is not there or
    is no TOML."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            str(path),
            Phrase("cannot be read ({})", error.strerror),
            "give a TOML file with a cluster",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            str(path), Phrase("is not TOML ({})", error), 'write lines such as gpu = "H200"'
        ) from None
    if not values:  # else the plan would be of another cluster without a word
        raise ConfigError(
            str(path), "says nothing of a cluster", 'write lines such as gpu = "H200"'
        )
    return of(values, str(path))


def cluster(
    given_cluster: Cluster | Mapping[str, Any] | Path | str,
    gpu: str | None = None,
    gpus: int | None = None,
) -> Cluster:
    """Return the cluster that `1024xH200`, a TOML file or a dict with a file's keys describes; a
    cluster comes back as it is."""
    if isinstance(given_cluster, Cluster):
        return given_cluster
    if isinstance(given_cluster, Mapping):
        return of(given_cluster).cluster(gpu, gpus)
    if isinstance(given_cluster, Path) or given_cluster.endswith(".toml"):
        return read(Path(given_cluster)).cluster(gpu, gpus)
    return hardware.parse(given_cluster)


def named(
    given_cluster: Cluster | Mapping[str, Any] | Path | str | None,
) -> tuple[Gpu | None, int | None]:
    """Return the GPU and the number of GPUs that `cluster`'s argument names; None for what it
    leaves open."""
    if given_cluster is None:
        return None, None
    if isinstance(given_cluster, Mapping):
        own = of(given_cluster)
    elif isinstance(given_cluster, Path) or (
        isinstance(given_cluster, str) and given_cluster.endswith(".toml")
    ):
        own = read(Path(given_cluster))
    else:
        parsed = cluster(given_cluster)
        return parsed.kind, parsed.gpus
    return own.kind(), own.gpus
