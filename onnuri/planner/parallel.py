"""How a job is laid over GPUs: degrees of parallelism, sharding, schedule, precision. Data only;
applied elsewhere.

Rank order, the innermost first: tensor, context, data (expert parallelism takes its ranks from data
and context), pipeline.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.architecture import Architecture

Sharding = Literal["ddp", "zero1", "fsdp", "hsdp"]
"""ddp: nothing; zero1: optimizer over data ranks; fsdp: parameters, gradients and optimizer; hsdp:
the same within `shard` ranks, copies beyond"""
Recompute = Literal["none", "selective", "full"]
Precision = Literal["bf16", "fp8", "mxfp8", "nvfp4"]


class ParallelConfig(Config):
    """Degrees multiply to the GPUs: dp · tp · cp · pp; `ep` divides dp · cp."""

    dp: int = 1
    tp: int = 1
    """tensor parallel"""
    sequence_parallel: bool = True
    """between tensor-parallel products, tokens are split over the same ranks (Korthikanti et al.
    2022, arXiv 2205.05198)"""
    cp: int = 1
    """context parallel"""
    pp: int = 1
    """pipeline stages"""
    ep: int = 1
    """expert parallel"""
    sharding: Sharding = "fsdp"
    shard: int | None = None
    """hsdp: ranks that share one copy"""
    virtual_stages: int = 1
    """interleaved chunks of layers a pipeline rank"""
    micro_batch: int = 1
    """sequences a data rank and pass"""
    recompute: Recompute = "selective"
    precision: Precision = "bf16"

    @property
    def gpus(self) -> int:
        return self.dp * self.tp * self.cp * self.pp

    @property
    def engine(self) -> str | None:
        """None where Onnuri's trainer runs it; else the engine that does."""
        split = (
            self.tp > 1 and self.sequence_parallel
        )  # the plans that transformers ships reduce whole sequences
        if (self.pp > 1 or split) and self.sharding in ("fsdp", "hsdp"):
            return "torchtitan"  # measured: DESIGN.md, "PP does not combine with FSDP"
        if (
            self.pp > 1
            or self.cp > 1
            or split
            or self.precision != "bf16"
            or self.sharding == "zero1"
        ):
            return "Megatron-Core"
        return None

    def check(self, architecture: Architecture, gpus: int, tokens: int, batch_tokens: int) -> None:
        """Raises ConfigError for a layout that does not divide."""
        self.check_degrees()
        for rule, value, by in self._divisions(architecture, gpus, tokens, batch_tokens):
            if by < 1 or value % by:
                raise ConfigError(
                    f"{rule} {value}",
                    Phrase("is not a multiple of {}", by),
                    "choose a layout that divides",
                )
        if self.gpus != gpus:
            raise ConfigError(
                f"dp {self.dp} x tp {self.tp} x cp {self.cp} x pp {self.pp} = {self.gpus}",
                Phrase("is not {} GPUs", gpus),
                "let the degrees multiply to the GPUs",
            )
        if self.pp * self.virtual_stages > architecture.layers:
            raise ConfigError(
                Phrase("{} stages", self.pp * self.virtual_stages),
                Phrase("are more than {} layers", architecture.layers),
                "use fewer stages",
            )

    def check_degrees(self) -> None:
        """Raises ConfigError for a degree below 1, whatever is laid out."""
        for name in _DEGREES:
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} {getattr(self, name)}",
                    "is less than 1",
                    "give a whole number from 1 on",
                )

    def _divisions(
        self, a: Architecture, gpus: int, tokens: int, batch_tokens: int
    ) -> list[tuple[str, int, int]]:
        heads = min(
            (b.attention.heads for b in a.blocks if b.attention), default=self.tp
        )  # a state-space model has none
        pairs = [
            ("gpus", gpus, self.tp * self.cp * self.pp),
            ("dp x cp", self.dp * self.cp, self.ep),
            ("heads", heads, self.tp),
            ("sequence", tokens, self.cp * self.tp),
            ("batch tokens", batch_tokens, tokens * self.dp * self.micro_batch),
        ]
        pairs += [("experts", b.experts.routed, self.ep) for b in a.blocks if b.experts]
        if self.shard:
            pairs.append(("dp", self.dp, self.shard))
        if (
            self.engine is None
        ):  # Onnuri's trainer holds a copy's experts on the ranks that share the copy
            pairs.append(("ranks of a copy", self.shards * self.tp, self.ep))
        return pairs

    @property
    def shards(self) -> int:
        """Data ranks that share one copy of the dense weights."""
        return {"ddp": 1, "hsdp": self.shard or self.dp}.get(self.sharding, self.dp)


_DEGREES = ("dp", "tp", "cp", "pp", "ep", "virtual_stages", "micro_batch")


def to_string(layout: ParallelConfig) -> str:
    """A layout as it is typed, `dp=1024,ep=64,hsdp:64,recompute=full,bf16`: degrees of 1 are left
    out."""
    said = [f"{name}={getattr(layout, name)}" for name in _DEGREES if getattr(layout, name) > 1]
    shard = f":{layout.shard}" if layout.shard else ""
    return ",".join(
        [*said, f"{layout.sharding}{shard}", f"recompute={layout.recompute}", layout.precision]
    )


def parse(text: str, gpus: int) -> ParallelConfig:
    """What `to_string` writes; without `dp`, it fills the GPUs. Raises ConfigError for what is not
    part of a layout."""
    found: dict[str, Any] = {}
    if not text.strip():
        raise ConfigError(
            "--layout ''",
            "is empty",
            Phrase("write such as {}, or leave it out", to_string(ParallelConfig(dp=64, ep=8))),
        )
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        sharding, _, shard = part.partition(":")
        if name in found:
            raise ConfigError(
                f"--layout {part!r}", Phrase("gives {} again", name), "leave one of them out"
            )
        if name in _DEGREES and value.isdecimal():
            found[name] = int(value)
        elif name == "recompute" and value in get_args(Recompute):
            found[name] = value
        elif part in get_args(Precision):
            found["precision"] = part
        elif part in get_args(Sharding) or (
            sharding == "hsdp" and shard.isdecimal() and int(shard)
        ):
            found |= {"sharding": sharding, "shard": int(shard) if shard else None}
        else:
            raise ConfigError(
                f"--layout {part!r}",
                "is not part of a layout",
                Phrase("write such as {}", to_string(ParallelConfig(dp=64, ep=8))),
            )
    if "dp" not in found:
        found["dp"] = max(
            1, gpus // max(1, math.prod(found.get(name, 1) for name in ("tp", "cp", "pp")))
        )
    return ParallelConfig(**found)
