"""Describe how a job is laid out over GPUs: degrees of parallelism, sharding, schedule, precision.
Data only; applied elsewhere.

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
"""what data ranks share. ddp: nothing; zero1: the optimizer; fsdp: parameters, gradients and
optimizer; hsdp: the same within `shard` ranks, copies beyond"""
Recompute = Literal["none", "selective", "full"]
Precision = Literal["bf16", "fp8", "mxfp8", "nvfp4"]


Kernels = Literal["vendor", "torch", "compiled", "eager"]
"""vendor: those of Transformer Engine, cuDNN, FlashAttention's newest; torch: PyTorch's own, fused
by hand; compiled: fused by its compiler; eager: one per operation"""


class EngineProfile(Config):
    """What a training engine runs, keeps in memory, moves and sends, where engines differ."""

    name: str
    transformers: bool = False
    """whether it runs the model code and the parallel plans of transformers, operator by
    operator"""

    # which layouts it runs
    shardings: tuple[Sharding, ...] = get_args(Sharding)
    """that it runs"""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """that it runs"""
    model_parallel: bool = True
    """whether it runs pipelines and context parallelism"""
    sharded_pipelines: bool = False
    """whether it runs full sharding beside pipelines or sequence parallelism"""

    # what its kernels do
    kernels: Kernels = "vendor"
    async_tp: bool = False
    """whether PyTorch's tensor parallelism sends pieces beside its products (asynchronous tensor
    parallelism) instead of waiting"""
    graphs: float = 0.5
    """probability that kernels are replayed from captured graphs instead of launched one by one"""
    loss_bytes: float = 2 + 4 + 4 + 4
    """bytes moved per logit: read in 16 bits, written in 32, read for the loss, its gradient
    written"""
    update_bytes: float = 2.0
    """bytes moved per weight beside Adam's own: a copy in 16 bits is written"""

    # what it sends
    gradient_bytes: float = 4.0
    """bytes of one number that data ranks sum; 2 where all training is in 16 bits"""
    deduplicates_tokens: bool = True
    """whether a token goes once to each rank and domain that has experts of it, not once to each
    expert (DeepEP, github.com/deepseek-ai/DeepEP)"""
    sums_copies_every_pass: bool = False
    """whether copies add their gradients up in every micro-batch instead of once per step"""
    whole_weights: bool = False
    """whether it keeps whole weights in 32 bits and a copy of them in 16 that lives as long as the
    run, instead of FSDP's gathers (`parallel/working_weights.py`)"""

    @property
    def pytorch(self) -> bool:
        """Return whether PyTorch's own kernels run, compiled or not."""
        return self.kernels != "vendor"


COMPILED_LOSS_BYTES = 4 * 2.0
"""bytes moved per logit where the loss is one kernel: 16-bit logits are read for their largest, for
their sum and for their gradient, which is written (`model/cross_entropy.py`)"""
ONNURI = EngineProfile(
    name="onnuri",
    transformers=True,
    shardings=("ddp", "fsdp", "hsdp"),
    precisions=("bf16",),
    model_parallel=False,
    sharded_pipelines=True,  # it has none, but runs sequence parallelism
    kernels="torch",
    graphs=0.0,
    loss_bytes=46.0,  # `model/cross_entropy.py`
    update_bytes=4 + 8,  # clipping reads for the norm, reads and writes (`training/step.py`)
    deduplicates_tokens=False,
    sums_copies_every_pass=True,  # `fully_shard` reduces after each backward pass
)
ONNURI_ONE_GPU = ONNURI.replace(
    name="onnuri on one GPU",
    whole_weights=True,
    loss_bytes=COMPILED_LOSS_BYTES,
    update_bytes=4.0,  # the norm reads gradients; clipping is in the optimizer's own pass
)
"""Onnuri's trainer where nothing is shared, from December 2026 on; before, FSDP of one rank"""
MEGATRON = EngineProfile(name="Megatron-Core")
TORCHTITAN = EngineProfile(name="torchtitan", sharded_pipelines=True, kernels="torch")
ENGINES = (ONNURI, MEGATRON, TORCHTITAN)
"""all engines, in the order in which they are tried: the first that supports a layout runs it"""


class ParallelConfig(Config):
    """A layout of a job over GPUs: degrees multiply to the GPUs, dp · tp · cp · pp; `ep` divides dp
    · cp."""

    dp: int = 1
    """data parallel"""
    tp: int = 1
    """tensor parallel"""
    sequence_parallel: bool = True
    """whether tokens are split over the tensor-parallel ranks between their products (Korthikanti
    et al. 2022, arXiv 2205.05198)"""
    cp: int = 1
    """context parallel"""
    pp: int = 1
    """pipeline stages"""
    ep: int = 1
    """expert parallel"""
    sharding: Sharding = "fsdp"
    shard: int | None = None
    """hsdp: ranks that share one copy of the model"""
    virtual_stages: int = 1
    """interleaved chunks of layers per pipeline rank"""
    micro_batch: int = 1
    """sequences per data rank and pass"""
    recompute: Recompute = "selective"
    precision: Precision = "bf16"
    offload: bool = False
    """whether weights, gradients and optimizer are kept and updated in the host's memory, and a GPU
    holds what it computes with; trained, and not planned yet"""

    @property
    def gpus(self) -> int:
        """Return the number of GPUs that the layout takes, the product of its degrees."""
        return self.dp * self.tp * self.cp * self.pp

    def supported_by(self, engine: EngineProfile) -> str | None:
        """Return what of this layout an engine does not run, or None where it runs it."""
        if self.precision not in engine.precisions:
            return self.precision
        if self.sharding not in engine.shardings:
            return self.sharding
        if (self.pp > 1 or self.cp > 1) and not engine.model_parallel:
            return "pipelines or context parallelism"
        split = self.pp > 1 or (self.tp > 1 and self.sequence_parallel)
        if split and self.sharded and not engine.sharded_pipelines:
            return f"{self.sharding} beside pipelines or sequence parallelism"
        return None

    @property
    def sharded(self) -> bool:
        """Return whether data ranks share parameters, gradients and optimizer."""
        return self.sharding in ("fsdp", "hsdp")

    @property
    def engine(self) -> EngineProfile:
        """Return the first engine of `ENGINES` that runs this layout, Onnuri's as it runs on that
        many GPUs."""
        engine = next(engine for engine in ENGINES if self.supported_by(engine) is None)
        return ONNURI_ONE_GPU if engine is ONNURI and self.gpus == 1 else engine

    @property
    def other_engine(self) -> str | None:
        """Return the name of the engine that this layout needs, None where Onnuri's runs it."""
        engine = self.engine
        return None if engine.transformers else engine.name

    def check(self, architecture: Architecture, gpus: int, tokens: int, batch_tokens: int) -> None:
        """Raise ConfigError for a layout that does not divide the model, the GPUs, the sequence or
        the batch."""
        self.check_degrees()
        if self.offload:
            raise ConfigError(
                "offload",
                "is trained and not planned yet: no host's memory is in the tables",
                "leave it out of the plan, or measure some steps of it",
            )
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
        """Raise ConfigError for a degree of parallelism, a micro-batch or a number of stages below
        1."""
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
        """Return what must divide: the name of a number, the number, and its divisor."""
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
        if self.other_engine is None:
            # Onnuri's trainer holds a copy's experts on the ranks that share the copy, and cuts no
            # key/value head; latent attention is not cut
            grouped = (b.attention for b in a.blocks if b.attention and not b.attention.kv_rank)
            kv_heads = math.gcd(*(attention.kv_heads for attention in grouped))
            pairs.append(("key/value heads", kv_heads, self.tp))
            pairs.append(("ranks of a copy", self.shards * self.tp, self.ep))
        return pairs

    @property
    def shards(self) -> int:
        """Return the number of data ranks that share one copy of the dense weights."""
        return {"ddp": 1, "hsdp": self.shard or self.dp}.get(self.sharding, self.dp)


_DEGREES = ("dp", "tp", "cp", "pp", "ep", "virtual_stages", "micro_batch")


def to_string(layout: ParallelConfig) -> str:
    """Return a layout as a user types it, `dp=1024,ep=64,hsdp:64,recompute=full,bf16`; degrees of 1
    are left out, `sp=off` is said where tensor-parallel ranks compute whole sequences, and
    `offload` where the host keeps the weights."""
    degrees = [f"{name}={getattr(layout, name)}" for name in _DEGREES if getattr(layout, name) > 1]
    sequences = ["sp=off"] if layout.tp > 1 and not layout.sequence_parallel else []
    shard = f":{layout.shard}" if layout.shard else ""
    sharing = [f"{layout.sharding}{shard}", f"recompute={layout.recompute}", layout.precision]
    offload = ["offload"] if layout.offload else []
    return ",".join([*degrees, *sequences, *sharing, *offload])


def parse(text: str, gpus: int) -> ParallelConfig:
    """Return the layout that a text such as `to_string`'s describes; without `dp`, it fills the
    GPUs. Raises ConfigError for what is not part of a layout."""
    fields: dict[str, Any] = {}
    given: set[str] = set()
    if not text.strip():
        raise ConfigError(
            "--layout ''",
            "is empty",
            Phrase("write such as {}, or leave it out", to_string(ParallelConfig(dp=64, ep=8))),
        )
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        sharding, _, shard = part.partition(":")
        if name in given:
            raise ConfigError(
                f"--layout {part!r}", Phrase("gives {} again", name), "leave one of them out"
            )
        given.add(name)
        if name in _DEGREES and value.isdecimal():
            fields[name] = int(value)
        elif name == "sp" and value in ("on", "off"):
            fields["sequence_parallel"] = value == "on"
        elif name == "recompute" and value in get_args(Recompute):
            fields[name] = value
        elif part in get_args(Precision):
            fields["precision"] = part
        elif part == "offload":
            fields["offload"] = True
        elif part in get_args(Sharding) or (
            sharding == "hsdp" and shard.isdecimal() and int(shard)
        ):
            fields |= {"sharding": sharding, "shard": int(shard) if shard else None}
        else:
            raise ConfigError(
                f"--layout {part!r}",
                "is not part of a layout",
                Phrase("write such as {}", to_string(ParallelConfig(dp=64, ep=8))),
            )
    if "dp" not in fields:
        fields["dp"] = max(
            1, gpus // max(1, math.prod(fields.get(name, 1) for name in ("tp", "cp", "pp")))
        )
    return ParallelConfig(**fields)
