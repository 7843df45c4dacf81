"""This module holds the settings of a pretraining run, which are also the command line's flags, and
reads the file that says on what a model is trained.

    held_out = "stores/held-out"        # optional: the loss on it is measured before and after

    [sources]                           # stores that `onnuri tokenize` wrote, by names of your own
    web = "stores/web"
    books = "stores/books"

    [[stages]]                          # optional; without stages, each source by its number of ids
    rows = 80_000
    weights = { web = 4, books = 1 }

    [[stages]]                          # the last stage may go on to the end
    weights = { web = 1, books = 1 }

Folders are relative to the file's. It imports nothing slow, so that `--help` answers at once.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from onnuri.config import Config
from onnuri.data.schedule import MixtureStage, RowSchedule
from onnuri.errors import ConfigError


class PretrainConfig(Config):
    """A PretrainConfig says on what data a language model is trained, how, and for how long."""

    data: str
    """a store that `onnuri tokenize` wrote, or a TOML file with several and how they are mixed
    (docs/training.md)"""
    tokens: int = 2048
    """ids per row, at most as many as the model's longest sequence; documents are packed into rows
    end to end, and a row is what is in memory at once"""
    rows: int = 8
    """rows per step over all ranks, a multiple of the ranks that read rows of their own"""
    steps: int | None = None
    """number of optimizer steps; without it, as many as the stages have rows, or as read every
    source once"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for matrices of the layers (Jordan et al. 2024), AdamW for
    embeddings and vectors"""
    learning_rate: float = 3e-4
    """highest learning rate"""
    warmup_steps: int = 100
    """steps over which the learning rate rises to its highest"""
    decay: float = 0.3
    """last share of the steps, over which the learning rate falls to zero"""
    weight_decay: float = 0.1
    """on matrices only"""
    held_out_rows: int = 64
    """most rows of the held-out source on which the loss is measured"""
    layout: str | None = None
    """how ranks share the model, such as dp=4,tp=2,fsdp,recompute=full (in the words of `onnuri
    plan`), and how one process saves memory: recompute=full,offload keeps weights and optimizer in
    the host's memory; without it, FSDP over all ranks"""
    workers: int = 0
    """processes per rank that cut the next rows while a step runs; 0: each is cut when needed"""
    compiled: bool | None = None
    """whether torch.compile compiles the layers; without it, on a GPU alone. On a CPU it needs a
    C++ compiler and a minute at the first step, so it is for longer runs"""
    seed: int = 0
    """seed of the order of documents, and of the weights of a model that has none yet"""

    def check(self) -> None:
        """Raise ConfigError if a value is out of range."""
        least = {
            "tokens": (self.tokens, 2),
            "rows": (self.rows, 1),
            "steps": (self.steps, 1),
            "warmup_steps": (self.warmup_steps, 0),
            "held_out_rows": (self.held_out_rows, 1),
            "workers": (self.workers, 0),
        }
        for name, (value, lowest) in least.items():
            if value is not None and value < lowest:
                raise ConfigError(
                    _flag(name, value), f"is less than {lowest}", f"give {lowest} or more"
                )
        if not 0 < self.learning_rate < 1:
            raise ConfigError(
                _flag("learning_rate", self.learning_rate), "is not within 0 and 1", "give 3e-4"
            )
        for name, share, example in (
            ("decay", self.decay, "0.3"),
            ("weight_decay", self.weight_decay, "0.1"),
        ):
            if not 0 <= share <= 1:
                raise ConfigError(_flag(name, share), "is not from 0 to 1", f"give {example}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(
                _flag("seed", self.seed), "is not within 0 and 4,294,967,295", "give such as 0"
            )


class TrainingData(Config):
    """A TrainingData names the stores that a model is trained on, and how they are mixed."""

    sources: dict[str, str]
    """folder of each store by its name"""
    stages: tuple[MixtureStage, ...] = ()
    """how sources are mixed over the rows of a run; none: each by its number of ids"""
    held_out: str | None = None
    """folder of a store that is not trained on"""

    @property
    def rows(self) -> int | None:
        """Return the rows of all stages together; None if there is no stage or the last one has no
        end."""
        return RowSchedule(self.stages).rows if self.stages else None


def read_data(path: Path) -> TrainingData:
    """Return what a TOML file names, or a single store of a folder. Raises ConfigError for a file
    that is not as this module's docstring says."""
    if path.is_dir():
        return TrainingData(sources={"data": str(path)})
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--data {path}",
            f"cannot be read ({error.strerror})",
            "give a store that onnuri tokenize wrote, or a TOML file",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--data {path}", f"is not TOML ({error})", "mend it there") from None
    try:
        _check_types(values)
        data = TrainingData.from_json(values)
        if data.stages:
            RowSchedule(data.stages)
    except ConfigError as error:
        raise ConfigError(f"--data {path}: {error.value}", error.rule, error.repair) from None
    for stage in data.stages:
        for name in stage.weights:
            if name not in data.sources:
                raise ConfigError(
                    f"--data {path}: {name!r} in a stage",
                    "is no source",
                    f"use one of {', '.join(data.sources)}",
                )
    folder = path.parent
    held_out = str(folder / data.held_out) if data.held_out else None
    sources = {name: str(folder / source) for name, source in data.sources.items()}
    for name, source in sources.items():
        if held_out and Path(source).resolve() == Path(held_out).resolve():
            raise ConfigError(
                f"--data {path}: {name}", "is also what is held out", "give two stores"
            )
    return data.replace(sources=sources, held_out=held_out)


def _check_types(values: dict[str, Any]) -> None:
    """Raise ConfigError for a value of a TOML file that is of another type than its field."""
    sources = values.get("sources", {})
    if "sources" in values and not (isinstance(sources, dict) and sources):
        raise ConfigError("sources", "names no store", 'write [sources] and web = "stores/web"')
    folders = {**sources, "held_out": values.get("held_out", "")}
    for name, folder in folders.items():
        if not isinstance(folder, str):
            raise ConfigError(f"{name} = {folder}", "is no folder", 'write such as "stores/web"')
    stages = values.get("stages", [])
    if not (isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages)):
        raise ConfigError("stages", "is no list of tables", "write [[stages]]")
    for stage in stages:
        weights, rows = stage.get("weights", {}), stage.get("rows")
        if not isinstance(weights, dict):
            raise ConfigError(
                f"weights = {weights}", "is no table", "write weights = { web = 4, books = 1 }"
            )
        for name, weight in weights.items():
            if not _is_number(weight):
                raise ConfigError(f"weight {weight!r} of {name}", "is no number", "give such as 4")
        if rows is not None and not (_is_number(rows) and isinstance(rows, int)):
            raise ConfigError(f"rows = {rows}", "is no whole number", "give such as 80_000")


def _is_number(value: object) -> bool:
    """Return whether a value of a TOML file is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flag(name: str, value: object) -> str:
    """Return a field and its value as they are typed on the command line."""
    return f"--{name.replace('_', '-')} {value}"
