"""This module reads the layout that a user gives a training run. It needs no torch."""

from __future__ import annotations

from onnuri.errors import ConfigError
from onnuri.planner.parallel import ParallelConfig, parse


def parse_layout(
    text: str,
    ranks: int,
    name: str | None = None,
    rule: str = "takes {} ranks, and {} run",
    repair: str = "let torchrun start as many as the layout takes",
) -> ParallelConfig:
    """Return the layout that a text such as "dp=2,ep=2,fsdp" describes for some ranks.

    Raises ConfigError, about `name` (--layout and the text), for a wrong text, for a layout of
    another number of ranks, which `rule` and `repair` put into words, and for one that needs
    another engine.
    """
    layout = parse(text, ranks)
    layout.check_degrees()
    name = name or f"--layout {text}"
    if layout.gpus != ranks:
        raise ConfigError(name, rule.format(layout.gpus, ranks), repair)
    if layout.other_engine:
        raise ConfigError(
            name, f"needs {layout.other_engine}", "use dp, tp and ep with fsdp, hsdp or ddp in bf16"
        )
    return layout
