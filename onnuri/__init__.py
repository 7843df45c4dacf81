"""Onnuri (온누리, "the whole world") makes any backbone understand and generate any modality: text,
image, audio, video and 3D.

    import onnuri
    model = onnuri.load()
    model.generate("image", text="작은 빨간 구가 파란 정육면체 왼쪽에 있다")

Shapes in docstrings use one legend: B batch, T tokens or samples, C channels, H height, W width, D
depth, F frames, K codes of an item, N items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnuri.inference.device import DeviceName
    from onnuri.model.omni import OmniModel
    from onnuri.model.router import Router
    from onnuri.planner.hardware import Cluster
    from onnuri.planner.plan import Plan
    from onnuri.planner.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["load", "plan", "shipped"]

WEIGHTS = Path(__file__).parent / "weights"
"""Weights that ship: `laptop/` (the model and its codecs) and `recogniser/` (the oracle of
speech)."""
PICTURES = WEIGHTS / "pictures"
"""folder of the model of real pictures that ships, if any does"""
LAPTOP, PICTURED = "onnuri-laptop", "onnuri-pictures"
"""names of the models that ship"""


def load(folder: str | Path | None = None, *, device: DeviceName = "cpu") -> OmniModel:
    """Return the model in a folder that `train` or `export` wrote; without one, the laptop model
    that ships. `device` is "cpu", or "cuda" for a GPU.

    Raises WeightsError for a folder without a model, or whose files are not what was written, and
    ConfigError for "cuda" without a GPU.
    """
    from onnuri.model.omni import OmniModel  # here, so that `import onnuri` stays quick

    return OmniModel.load(Path(folder) if folder else WEIGHTS / "laptop", device=device)


def shipped(folder: str | Path | None = None, *, device: DeviceName = "cpu") -> Router:
    """Return what asks the models that ship: of each question the one that knows most of it, the
    laptop's of coloured solids or that of real pictures. With a `folder`, its model alone. Raises
    as `load` does.

        onnuri.shipped().reply("image", text="고양이").item
    """
    from onnuri.model.router import Router

    if folder:
        return Router({Path(folder).resolve().name: load(folder, device=device)}, device)
    folders = {LAPTOP: WEIGHTS / "laptop"}
    if PICTURES.exists():
        folders[PICTURED] = PICTURES
    return Router(folders, device)


def plan(
    recipe: Recipe | str,
    cluster: Cluster | Mapping[str, Any] | Path | str | None = None,
    **options: Any,
) -> Plan:
    """Return the plan of a training run: memory, time, cost and loss, each with its range.

    `recipe` is one of `onnuri.recipes`, its name, or any other model's (a config.json, ORG/NAME, a
    listed shape, a size such as "70B"). `cluster` is such as "1024xH200", by default the recipe's
    own; a dict or a TOML file describes a cluster of your own (`planner/own_cluster.py`). `options`
    are layout, tokens, days, budget_usd and the other arguments of `planner.plan.plan`.

        onnuri.plan("axk1", "1024xH200", days=75)
        onnuri.plan("axk1", {"gpu": "H100", "gpus": 512, "price_usd": 2.1}, days=75)
    """
    from onnuri import recipes
    from onnuri.planner import own_cluster
    from onnuri.planner.plan import plan

    if isinstance(recipe, str):
        recipe = recipes.resolve(recipe, *own_cluster.named(cluster))
    hardware = own_cluster.cluster({} if cluster is None else cluster, recipe.gpu, recipe.gpus)
    return plan(recipe, hardware, **options)
