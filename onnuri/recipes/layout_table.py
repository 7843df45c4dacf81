"""This module runs `onnuri verify-table`: it verifies every kind of layout on small models, one per
property of an architecture, and prints one table of layouts by properties.

The layouts of the recipes' plans are among the rows, scaled down to the ranks that run. Expert
parallelism of a model without experts is no cell.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from onnuri import recipes
from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_json
from onnuri.model.base import load_base
from onnuri.parallel.apply import experts_of
from onnuri.planner.parallel import ParallelConfig, to_string
from onnuri.recipes.verify import print_difference, typed_layouts
from onnuri.training.verify import Verification, layouts_for, verify
from onnuri.training.verify_config import VerifyConfig

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""settings that the table's models share: grouped heads that four ranks divide"""
WINDOW = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}


class Column(NamedTuple):
    """A Column is one property of an architecture, and the small model that has it."""

    name: str
    family: str
    """model type in transformers"""
    values: dict[str, Any]
    """settings that differ from SHAPE"""
    about: str
    unpacked: bool = False
    """whether the one process reads the sequences of a packed row one by one"""

    def build(self) -> nn.Module:
        """Return the model with random weights, on the default device."""
        from transformers import AutoConfig

        config = AutoConfig.for_model(self.family, **{**SHAPE, **self.values})
        return load_base(config, device=str(torch.get_default_device()))

    def outline(self) -> nn.Module:
        """Return the model on the meta device."""
        with torch.device("meta"):
            return self.build()

    def cells(self, rows: Sequence[ParallelConfig]) -> list[ParallelConfig]:
        """Return the layouts that the model is verified in: without experts, none of expert
        parallelism."""
        has_experts = experts_of(self.outline().config) > 0
        return [layout for layout in rows if has_experts or layout.ep == 1]

    def verify(
        self, layouts: Sequence[ParallelConfig], config: VerifyConfig, console: Console
    ) -> Verification:
        """Return how far each layout's run is from one process's, and print a line per layout."""
        outline = self.outline()
        console.print(f"[bold]{self.name}[/] ({self.family}: {self.about})")
        report = functools.partial(print_difference, console)
        return verify(self.name, self.build, outline, config, layouts, report, self.unpacked)


COLUMNS = (
    Column("llama", "llama", {}, "dense, grouped heads"),
    Column(
        "MLA",
        "deepseek_v3",
        {
            "head_dim": 4,  # of rotary positions
            "num_key_value_heads": 8,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "first_k_dense_replace": 1,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 32,
        },
        "latent attention, a dense layer, then shared and routed experts with biased routers",
    ),
    Column("windows", "exaone4", WINDOW, "a layer of sliding windows, one without; norms of heads"),
    Column(
        "mixture",
        "qwen3_moe",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        "routed experts in every layer, grouped heads",
    ),
    Column("tied", "qwen3", {"tie_word_embeddings": True}, "embedding and head are one matrix"),
    Column(
        "packed",
        "exaone4",
        WINDOW,
        "packed rows in the layout, their sequences one by one in the one process",
        unpacked=True,
    ),
)


class PlannedLayout(Config):
    """A PlannedLayout is the layout of a recipe's plan, and the row of the table that runs its kind
    of parallelism."""

    recipe: str
    plan: str
    """as a user types it"""
    row: str | None
    """the same scaled down to the ranks that run; None if Onnuri's trainer does not run it"""
    engine: str | None = None
    """the engine that it needs, None for Onnuri's trainer"""


class LayoutTable(Config):
    """A LayoutTable holds what was compared, a Verification per column."""

    machine: str
    config: VerifyConfig
    seconds: float
    plans: tuple[PlannedLayout, ...]
    models: tuple[Verification, ...]

    @property
    def layouts(self) -> list[str]:
        """Return the rows' layouts, as a user types them."""
        return list(dict.fromkeys(each.layout for m in self.models for each in m.differences))

    @property
    def cells(self) -> int:
        """Return the number of layouts, over all columns, that were to be compared."""
        return sum(len(model.differences) for model in self.models)

    @property
    def refusals(self) -> list[str]:
        """Return the reasons for which cells are refused, each once."""
        every = (each.refused for model in self.models for each in model.differences)
        return list(dict.fromkeys(reason for reason in every if reason))

    @property
    def refused(self) -> int:
        """Return the number of refused cells."""
        return sum(bool(each.refused) for model in self.models for each in model.differences)

    def failures(self) -> list[str]:
        """Return what is wrong over all cells, a line each; that a plan's layout is refused, or
        every layout, is wrong too."""
        wrong = [line for model in self.models for line in model.failures()]
        if self.refused == self.cells:
            wrong.append("no layout was compared")
        rows = {plan.row: plan.recipe for plan in self.plans if plan.row}
        for model in self.models:
            for each in model.differences:
                if each.refused and each.layout in rows:
                    text = f"{model.name}, {each.layout}: refused, and the plan of "
                    wrong.append(f"{text}{rows[each.layout]} needs it")
        return wrong

    def texts(self) -> list[list[str]]:
        """Return the table's texts, row by row, the layout first."""
        return [
            [layout.replace(",bf16", ""), *(self._text(model, layout) for model in self.models)]
            for layout in self.layouts
        ]

    def _text(self, model: Verification, layout: str) -> str:
        """Return the text of a cell: the largest relative difference, or why there is none."""
        difference = next((each for each in model.differences if each.layout == layout), None)
        if difference is None:
            return "–"
        if difference.refused:
            return f"refused {self.refusals.index(difference.refused) + 1}"
        if difference.crashed:
            return "ended"
        wrong = "wrong " if difference.failures(model.allowed) else ""
        return f"{wrong}{difference.largest:.0e}"


def rows_for(ranks: int) -> tuple[list[ParallelConfig], tuple[PlannedLayout, ...]]:
    """Return the layouts of the table over some ranks, and those of the five recipes' plans, of
    which the layouts hold every one that Onnuri's trainer runs."""
    layouts, plans = layouts_for(ranks, has_experts=True, combinations=True), []
    known = set(map(to_string, layouts))
    for name in recipes.NAMES:
        plan = recipes.find(name).layout
        row = None if plan.other_engine else scaled(plan, ranks)
        if row and to_string(row) not in known:
            layouts.append(row)
            known.add(to_string(row))
        plans.append(
            PlannedLayout(
                recipe=name,
                plan=to_string(plan),
                row=to_string(row) if row else None,
                engine=plan.other_engine,
            )
        )
    return layouts, tuple(plans)


def scaled(plan: ParallelConfig, ranks: int) -> ParallelConfig:
    """Return a plan's layout over few ranks: each kind of parallelism in two, data parallelism over
    the rest."""
    tp = 2 if plan.tp > 1 else 1
    return plan.replace(
        dp=ranks // tp,
        tp=tp,
        ep=2 if plan.ep > 1 else 1,
        shard=max(1, ranks // tp // 2) if plan.sharding == "hsdp" else None,
        sequence_parallel=plan.sequence_parallel and tp > 1,
        micro_batch=1,
    )


def run(config: VerifyConfig, layouts: tuple[str, ...], out: Path | None) -> bool:
    """Verify every kind of layout on every column's model, print lines and the table, and return
    whether all cells train what one process trains.

    Raises ConfigError for fewer than four ranks, and for layouts that need other ranks.
    """
    check_place(out)
    config.check()
    if config.world_size < 4:
        raise ConfigError(
            f"--world-size {config.world_size}",
            "is less than 4, which two kinds of parallelism at once need",
            "give 4, or use `onnuri verify`",
        )
    start = time.perf_counter()
    rows, plans = rows_for(config.world_size)
    if layouts:
        rows, plans = typed_layouts(layouts, config.world_size), ()
    console = Console(highlight=False, soft_wrap=True)
    models: list[Verification] = []
    for column in COLUMNS:
        cells = column.cells(rows)
        if not cells:
            continue
        models.append(column.verify(cells, config, console))
        table = LayoutTable(
            machine=machine(),
            config=config,
            seconds=round(time.perf_counter() - start, 1),
            plans=plans,
            models=tuple(models),
        )
        if out:
            write_json(table.to_json(), out)
    _print(console, table)
    return not table.failures()


def _print(console: Console, table: LayoutTable) -> None:
    """Print the table, the reasons of refused cells, the recipes' plans and what is wrong."""
    names = [model.name for model in table.models]
    for layout, *texts in [["largest relative difference", *names], *table.texts()]:
        console.print(f"{layout:<37}" + "".join(f"{text:>11}" for text in texts))
    for number, reason in enumerate(table.refusals, 1):
        console.print(f"refused {number}: {reason}", markup=False)
    console.print("–: no experts to be parallel")
    for plan in table.plans:
        console.print(
            f"plan of {plan.recipe}: {plan.plan}, here {plan.row or f'not run: {plan.engine}'}"
        )
    for line in table.failures():
        console.print(line, style="red", markup=False)
    text = f"{table.cells} cells, {table.refused} refused, {table.seconds / 60:.1f} min"
    console.print(text, style="red" if table.failures() else "green")
