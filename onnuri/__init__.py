"""Onnuri (온누리, "the whole world"): any backbone, any modality: text, image, audio, video and 3D in
and out.

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

    from onnuri.model.omni import OmniModel
    from onnuri.planner.hardware import Cluster
    from onnuri.planner.plan import Plan
    from onnuri.planner.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["load", "plan"]

WEIGHTS = Path(__file__).parent / "weights"
"""Weights that ship: `laptop/` (the model and its codecs) and `recogniser/` (the oracle of
speech)."""


def load(folder: str | Path | None = None) -> OmniModel:
    """The model in a folder that `train` or `export` wrote; without one, the laptop model that
    ships.

    Raises WeightsError for a folder without a model, or whose files are not what was written.
    """
    from onnuri.model.omni import OmniModel  # here, so that `import onnuri` stays quick

    return OmniModel.load(Path(folder) if folder else WEIGHTS / "laptop")


def plan(
    recipe: Recipe | str,
    cluster: Cluster | Mapping[str, Any] | Path | str | None = None,
    **wanted: Any,
) -> Plan:
    """What it takes to train `recipe`, one of `onnuri.recipes`, its name or any other model's (a
    config.json, ORG/NAME, a listed shape, a size such as "70B"), on a cluster such as "1024xH200";
    without one, on the recipe's own. A cluster of one's own is a dict or a TOML file
    (`planner/own_cluster.py`). `wanted`: layout, tokens, days, budget_usd and the rest of
    `planner.plan.plan`'s arguments.

        onnuri.plan("axk1", "1024xH200", days=75)
        onnuri.plan("axk1", {"gpu": "H100", "gpus": 512, "price_usd": 2.1}, days=75)
    """
    from onnuri import recipes
    from onnuri.planner import own_cluster
    from onnuri.planner.plan import plan

    asked = (
        recipes.resolve(recipe, *own_cluster.named(cluster)) if isinstance(recipe, str) else recipe
    )
    place = own_cluster.cluster({} if cluster is None else cluster, asked.gpu, asked.gpus)
    return plan(asked, place, **wanted)
