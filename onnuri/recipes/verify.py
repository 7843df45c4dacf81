"""This module runs `onnuri verify`: it builds the model of a recipe, small, or that of a folder,
and prints how far every layout's training is from one process's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from onnuri import recipes
from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_json
from onnuri.model.backbone import BackboneConfig, build_hf_model
from onnuri.model.base import load_base
from onnuri.parallel.layout import parse_layout
from onnuri.planner.parallel import ParallelConfig
from onnuri.training.verify import Build, Difference, Verification, VerifyConfig, verify
from onnuri.training.verify_device import MODES, DeviceDifference, Mode, verify_on_device

LAPTOP = "laptop"
VOCABULARY, WIDTH = 64, 48
WINDOW = 12
"""tokens of sliding windows, shorter than a row's sequences"""
KINDS = ("layer_types", "mlp_layer_types")
"""lists with a word for each layer, by which layers differ"""
LAYERS = 3
"""fewest layers of a small model: one between the first and the last"""
"""ids and channels of the recipes' small models: every feature of the class, no more than that"""
LARGEST_PARAMS = 60_000_000
"""parameters of a folder's model, which every rank trains in 64 bits"""


def run(what: str | None, config: VerifyConfig, layouts: tuple[str, ...], out: Path | None) -> bool:
    """Verify a recipe's small model, a folder's model, or the laptop's and all recipes', print a
    line per layout, and return whether all layouts train what one process trains.

    Raises ConfigError for an unknown recipe, a folder without a model or with one that is too
    large, and layouts that need other ranks.
    """
    check_place(out)
    config.check()
    chosen = typed_layouts(layouts, config.world_size)
    console = Console(highlight=False, soft_wrap=True)
    names = [what] if what else [LAPTOP, *recipes.NAMES]
    verifications = []
    for name in names:
        build, outline = _model_of(name)
        console.print(f"[bold]{name}[/] over {config.world_size} ranks, {config.steps} steps")
        verification = verify(
            name,
            build,
            outline,
            config,
            chosen or None,
            functools.partial(print_difference, console),
        )
        console.print(f"  packed rows against sequences one by one: {verification.packing:.1e}")
        verifications.append(verification)
        if out:
            _save(verifications, config, out)
    failures = [line for each in verifications for line in each.failures()]
    for line in failures:
        console.print(f"[red]{line}[/]", markup=True)
    count = sum(not d.refused for v in verifications for d in v.differences)
    if not count:
        console.print("[red]no layout was compared[/]")
        return False
    if not failures:
        console.print(f"[green]{count} layouts train what one process trains[/]")
    return not failures


def run_on_device(what: str | None, device: str, out: Path | None) -> bool:
    """Compare a step in 16 bits, compiled and with recomputation, with the same in 32 bits on a
    device, for the models that `run` verifies; print a line each and return whether all are within
    what is allowed.

    Raises ConfigError for an unknown recipe or folder, and where torch has no such device.
    """
    check_place(out)
    console = Console(highlight=False, soft_wrap=True)
    found: dict[str, list[DeviceDifference]] = {}
    modes: tuple[Mode, ...] = MODES
    if device == "cpu":  # a compiler takes a minute per mode, and the host has the weights anyway
        modes = tuple(mode for mode in MODES if not (mode.compiled or mode.offload))
    for name in [what] if what else [LAPTOP, *recipes.NAMES]:
        build = _builder(name, _large_laptop, device_twin, torch.float32)
        console.print(f"[bold]{name}[/] on {device}")
        found[name] = verify_on_device(
            build, device, modes, functools.partial(_print_on_device, console)
        )
        if out:
            models = {key: [each.to_json() for each in value] for key, value in found.items()}
            write_json({"machine": device_name(device), "models": models}, out)
    wrong = [f"{name}, {each.mode}" for name in found for each in found[name] if not each.passes]
    for line in wrong:
        console.print(f"[red]{line} is beyond what rounding explains[/]")
    if not wrong:
        count = sum(map(len, found.values()))
        console.print(f"[green]{count} ways of computing a step agree on {device}[/]")
    return not wrong


def device_name(device: str) -> str:
    """Return the machine of a comparison in words, with its GPU where that computed."""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return gpu + machine()


def _print_on_device(console: Console, each: DeviceDifference) -> None:
    """Print one mode's line."""
    figures = f"loss {each.loss:.0e} of {each.allowed_loss:.0e}"
    figures += f"  gradients {each.gradients:.0e} of {each.allowed_gradients:.0e}"
    figures += f"  learned {each.learned:.0e}"
    console.print(f"  {each.mode:<32} {figures}  worst {each.worst:.0e} {each.worst_name}")


def device_twin(name: str) -> nn.Module:
    """Return a recipe's nano twin with few ids and a layer of each kind."""
    from onnuri.recipes.nano import nano

    values = {**few_layers(nano(name).values), "vocab_size": 512}
    return build_hf_model(recipes.find(name).family, values)


def _save(verifications: list[Verification], config: VerifyConfig, out: Path) -> None:
    """Write what was compared so far, with the machine."""
    write_json(
        {
            "machine": machine(),
            "config": config.to_json(),
            "models": [each.to_json() for each in verifications],
        },
        out,
    )


def typed_layouts(texts: Sequence[str], ranks: int) -> list[ParallelConfig]:
    """Return the layouts that a user typed after --layouts. Raises ConfigError for a wrong one, and
    for one of other ranks."""
    return [
        parse_layout(
            text,
            ranks,
            f"--layouts {text}",
            "takes {} ranks, and --world-size is {}",
            "let both be the same",
        )
        for text in texts
    ]


def print_difference(console: Console, difference: Difference) -> None:
    """Print a layout's line."""
    name = f"  {difference.layout:<42}"
    if difference.refused or difference.crashed:
        console.print(f"{name} {difference.refused or difference.crashed}")
        return
    figures = {
        "loss": max(difference.first_loss, difference.last_loss),
        "norm": difference.norm,
        "gradients": difference.gradient,
        "weights": difference.weights,
        "resumed": difference.resumed,
        "exported": difference.exported,
    }
    text = "  ".join(f"{key} {value:.0e}" for key, value in figures.items())
    console.print(f"{name} {text}  routing {difference.routing}  {difference.seconds:.0f} s")


def _model_of(name: str) -> tuple[Build, nn.Module]:
    """Return the function that builds a model, and the model on the meta device."""
    build = _builder(name, _laptop, _twin, torch.float64)
    if name != LAPTOP and Path(name).is_dir():
        return build, load_base(Path(name), device="meta")
    with torch.device("meta"):
        return build, build()


def _builder(
    name: str, laptop: Build, twin: Callable[[str], nn.Module], dtype: torch.dtype
) -> Build:
    """Return the function that builds the model of a name: the laptop's, a recipe's `twin`, or that
    of a folder in a dtype. Raises ConfigError for an unknown recipe and for a folder's model that
    is too large."""
    folder = Path(name)
    if name == LAPTOP:
        return laptop
    if folder.is_dir():
        _check_size(folder)
        return functools.partial(load_base, folder, dtype=dtype)
    if folder.name != name:
        raise ConfigError(name, "is no folder", "give a recipe, or a folder of transformers")
    recipes.module(name)
    return functools.partial(twin, name)


def _check_size(folder: Path) -> None:
    """Raise ConfigError for a folder whose model is too large to be verified."""
    params = sum(p.numel() for p in load_base(folder, device="meta").parameters())
    if params > LARGEST_PARAMS:
        raise ConfigError(
            f"{folder}",
            f"has {params / 1e6:,.0f}M parameters",
            f"verify its recipe, or a folder of at most {LARGEST_PARAMS / 1e6:.0f}M: every rank "
            "trains in 64 bits",
        )


def _laptop() -> nn.Module:
    """Return a model of the laptop's class."""
    return BackboneConfig(vocabulary=VOCABULARY, width=WIDTH, layers=3, heads=4, hidden=96).build()


def _large_laptop() -> nn.Module:
    """Return a model of the laptop's class whose heads have a size that kernels take."""
    return BackboneConfig(vocabulary=512, width=256, layers=3, heads=4, hidden=512).build()


def _twin(name: str) -> nn.Module:
    """Return a model of a recipe's class with all its features, and a layer of each kind."""
    from onnuri.recipes.nano import nano

    values = {**few_layers(nano(name).values), "vocab_size": VOCABULARY, "hidden_size": WIDTH}
    if "sliding_window" in values:
        values["sliding_window"] = WINDOW
    return build_hf_model(recipes.find(name).family, values)


def few_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a model with the first of its layers of each kind, by attention and
    feed-forward, and with at least LAYERS layers."""
    total = values["num_hidden_layers"]
    names = [name for name in KINDS if name in values]
    kinds = list(zip(*(values[name] for name in names), strict=True)) or [()] * total
    chosen = {kinds.index(kind) for kind in kinds}
    chosen |= set([k for k in range(total) if k not in chosen][: max(0, LAYERS - len(chosen))])
    lists = {name: [values[name][k] for k in sorted(chosen)] for name in names}
    return {**values, **lists, "num_hidden_layers": len(chosen)}
