"""This package holds the recipes: Python functions that return complete configs, one file per
system.

`find("axk1")` returns a system as its team published it, with the stages that teach it every
modality; `nano.nano("axk1")` the same model class in a few million parameters, which a laptop
trains. `laptop.py` is the recipe of the model that ships.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import runpy
from pathlib import Path
from typing import Any

from onnuri.errors import ConfigError, OnnuriError
from onnuri.phrases import Phrase
from onnuri.planner import named_models
from onnuri.planner.hardware import Gpu
from onnuri.planner.recipe import Recipe
from onnuri.training import slurm
from onnuri.training.record_config import NO_RECORD, RecordConfig
from onnuri.training.slurm import SlurmJob

NAMES = ("axk1", "solar_open", "k_exaone", "vaetki", "hyperclovax_omni")
LATER = ("axk2",)
"""systems of the programme's second stage"""


def find(name: str) -> Recipe:
    """Return a system's recipe by its name, or that of a Python file of the user's.

    Raises ConfigError for an unknown one, with the nearest names, and for a file that gives none.
    """
    if name.endswith(".py"):
        return _own_recipe(Path(name))
    return _built_in(name)


@functools.cache  # a user's own file is not: it may have changed since
def _built_in(name: str) -> Recipe:
    """Return the recipe of a file of this folder. Raises ConfigError for an unknown name."""
    recipe: Recipe = module(name).recipe()
    return recipe


def resolve(
    what: str,
    gpu: Gpu | str | None = None,
    gpus: int | None = None,
    seq_len: int | None = None,
    batch_tokens: int | None = None,
) -> Recipe:
    """Return the recipe that `what` names, or a recipe with assumed training for any other model: a
    folder or config.json of Hugging Face, ORG/NAME, a listed shape, or a size such as 70B.

    `seq_len` and `batch_tokens` replace the recipe's own. Raises ConfigError for an unknown name,
    with the nearest names of all kinds.
    """
    if known(what):
        return named_models.changed(find(what), seq_len, batch_tokens)
    return named_models.training(
        named_models.find(what, (*NAMES, *LATER)), gpu, gpus, seq_len, batch_tokens
    )


def known(name: str) -> bool:
    """Return whether a name is that of a recipe or of a Python file."""
    return _key(name) in (*NAMES, *LATER) or name.endswith(".py")


def _key(name: str) -> str:
    """Return a system's name as its file is called: "K-EXAONE" as "k_exaone"."""
    return name.lower().replace("-", "_").replace(".", "")


def summary() -> list[dict[str, Any]]:
    """Return, per system, its parameters as computed and as its team published them, in all and
    active; the rows of the ids that media add are not counted."""
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
    """Return the path of the planner's stored answer for a system's own layout."""
    return Path(__file__).parent / f"{find(name).name}.json"


def matrix(name: str) -> Path:
    """Return the path of the any-to-any matrix measured with a system's nano model (`make
    bench-nano`)."""
    return Path(__file__).parent / f"{find(name).name}.matrix.json"


def train(
    name: str,
    preset: str | None,
    out: Path | None,
    layout: str | None = None,
    rows: int | None = None,
    record: RecordConfig = NO_RECORD,
) -> None:
    """Train or resume a recipe's preset, its first one without a name, in a folder that defaults to
    runs/NAME-PRESET; under torchrun in every rank.

    `layout` says how ranks share the model, as `onnuri plan` writes it; without it, FSDP over all.
    `rows` is the number of rows that a step's tokens are packed into; without it, that of the run
    so far, or one per rank that reads its own. `record` says what is recorded beside the figures.
    Raises ConfigError for a preset that the recipe has not.
    """
    from onnuri.parallel import launch  # read only to train: it imports torch

    recipe_module = _training_module(name)
    preset = _preset(name, preset)
    folder = out or Path("runs") / f"{name}-{preset}"
    recipe = () if name == "laptop" else (name,)
    with launch.ranks():
        record.check()
        recipe_module.train(
            *recipe, preset, folder, layout=launch.layout(layout), rows=rows, record=record
        )


def write_job(name: str, job: SlurmJob, file: Path) -> None:
    """Write the batch file that trains a recipe under Slurm. Raises ConfigError for a preset that
    the recipe has not and for a job that cannot run."""
    if job.preset:
        _preset(name, job.preset)
    slurm.write(name, job, file)


def _training_module(name: str) -> Any:
    """Return the module whose `train` trains a recipe and whose PRESETS it has."""
    return importlib.import_module(f"onnuri.recipes.{'laptop' if name == 'laptop' else 'nano'}")


def _preset(name: str, preset: str | None) -> str:
    """Return a recipe's preset, its first one without a name. Raises ConfigError for one that it
    has not."""
    presets: dict[str, Any] = _training_module(name).PRESETS
    if preset is None:
        return next(iter(presets))
    if preset not in presets:
        raise ConfigError(
            f"preset {preset!r}",
            Phrase("is not one of {}'s", name),
            Phrase("use {}", ", ".join(presets)),
        )
    return preset


def module(name: str) -> Any:
    """Return a system's file as a module. Raises ConfigError for an unknown one."""
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


def _own_recipe(path: Path) -> Recipe:
    """Return the recipe of a user's Python file. Raises ConfigError if the file cannot be run or
    gives none."""
    name = Phrase("recipe {}", path)
    try:
        function = runpy.run_path(str(path)).get("recipe")  # no compiled copy is left beside it
        if not callable(function):
            raise ConfigError(name, "has no function recipe()", "write one that returns a Recipe")
        recipe = function()
    except OnnuriError:
        raise
    except Exception as error:  # the file is a program of the user's
        raise ConfigError(
            name, Phrase("cannot be run ({}: {})", type(error).__name__, error), "mend the file"
        ) from error
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            name, Phrase("recipe() returns {!r:.40}", recipe), "write one that returns a Recipe"
        )
    return recipe
