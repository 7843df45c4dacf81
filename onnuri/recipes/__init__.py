"""Recipes: Python functions that return complete configs, one file a system.

`find("axk1")` is a system as its team published it, with what it takes to teach it every modality;
`nano("axk1")` the same class in a few million parameters, which a laptop trains. `laptop` is a road
of its own.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from onnuri.errors import ConfigError, OnnuriError
from onnuri.phrases import Phrase
from onnuri.planner import named_models
from onnuri.planner.hardware import Gpu
from onnuri.planner.recipe import Recipe

NAMES = ("axk1", "solar_open", "k_exaone", "vaetki", "hyperclovax_omni")
LATER = ("axk2",)
"""of the programme's second stage"""


@functools.cache
def find(name: str) -> Recipe:
    """A system by its name. Raises ConfigError for an unknown one, with the nearest names."""
    recipe: Recipe = module(name).recipe()
    return recipe


def resolve(
    what: str,
    gpu: Gpu | str | None = None,
    gpus: int | None = None,
    seq_len: int | None = None,
    batch_tokens: int | None = None,
) -> Recipe:
    """A recipe, or any other model with a training plan that is assumed: a folder or config.json of
    Hugging Face, ORG/NAME, a listed shape, or a size such as 70B. Raises ConfigError for an unknown
    one, with the nearest names of all kinds."""
    if known(what):
        return named_models.changed(find(what), seq_len, batch_tokens)
    return named_models.training(
        named_models.find(what, (*NAMES, *LATER)), gpu, gpus, seq_len, batch_tokens
    )


def known(name: str) -> bool:
    """Return whether a name is a recipe's, or a Python file's."""
    return _key(name) in (*NAMES, *LATER) or name.endswith(".py")


def _key(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "")


def summary() -> list[dict[str, Any]]:
    """Of every system, the later ones last, what it counts and what its team published;
    `total_params` without the ids that media add."""
    return [
        {
            "recipe": r.name,
            "total_params": r.architecture.num_params(),
            "active_params": r.architecture.num_active_params(),
            "published_total": r.published_total,
            "published_active": r.published_active,
        }
        for r in map(find, (*NAMES, *LATER))
    ]


def frozen(name: str) -> Path:
    """Where the planner's answer for a system's own layout lies."""
    return Path(__file__).parent / f"{find(name).name}.json"


def matrix(name: str) -> Path:
    """Where the measured matrix of a system's small twin lies (`make bench-nano`)."""
    return Path(__file__).parent / f"{find(name).name}.matrix.json"


def train(name: str, preset: str | None, out: Path | None) -> None:
    """Run or go on with a preset of a recipe; without one, what it is for. Raises ConfigError for a
    preset it has not."""
    road = importlib.import_module(f"onnuri.recipes.{'laptop' if name == 'laptop' else 'nano'}")
    chosen = preset or next(iter(road.PRESETS))
    if chosen not in road.PRESETS:
        raise ConfigError(
            f"preset {chosen!r}",
            Phrase("is not one of {}'s", name),
            Phrase("use {}", ", ".join(road.PRESETS)),
        )
    folder = out or Path("runs") / f"{name}-{chosen}"
    if name == "laptop":
        road.train(chosen, folder)
    else:
        road.train(name, chosen, folder)


def module(name: str) -> Any:
    """Return a system's file as a module; a name that ends in .py is a recipe of the user's own.

    Raises ConfigError for an unknown one.
    """
    if name.endswith(".py"):
        return _own_module(Path(name))
    key, names = _key(name), (*NAMES, *LATER)
    if key not in names:
        near = (
            [n for n in names if key and n.startswith(key)]
            or difflib.get_close_matches(key, names, n=3, cutoff=0.4)
            or names
        )
        raise ConfigError(
            Phrase("recipe {!r}", name), "is not known", Phrase("use {}", ", ".join(near))
        )
    return importlib.import_module(f"onnuri.recipes.{key}")


def _own_module(path: Path) -> Any:
    """Return the module of a recipe's file. Raises ConfigError where it cannot be run or has no
    recipe."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    try:
        assert spec and spec.loader
        own = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(own)
    except OnnuriError:
        raise
    except Exception as error:  # the file is a program of the user's
        raise ConfigError(
            Phrase("recipe {}", path),
            Phrase("cannot be run ({}: {})", type(error).__name__, error),
            "mend the file",
        ) from error
    if not callable(getattr(own, "recipe", None)):
        raise ConfigError(
            Phrase("recipe {}", path), "has no function recipe()", "write one that returns a Recipe"
        )
    return own
