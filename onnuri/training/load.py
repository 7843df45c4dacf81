"""This module gives a sharded model its first values, from a folder's weights or at random, by all
ranks together and without holding the whole model in any. It is the counterpart of `export.py`.

    loader = Loader(folder, network, seed)      # before the network, on the meta device, is sharded
    give_memory(network, device)                # afterwards
    loader.load(network, meshes)

A rank reads from the folder's safetensors files, or draws, the boxes that its shards hold. Where
the folder or the class does not allow that, the first rank has the whole model in its host's memory
and sends it tensor by tensor (`why_whole` says why). Whichever way, weights are the same for any
number of ranks. The module knows no modality.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from onnuri.errors import ConfigError, WeightsError
from onnuri.model.base import has_weights, load_base
from onnuri.model.initial_weights import InitialWeights
from onnuri.model.written_weights import Part, WrittenWeight, whole_part, written_weights
from onnuri.parallel import group, launch
from onnuri.parallel.fill import fill, fill_from_first, named_tensors
from onnuri.parallel.mesh import Meshes
from onnuri.parallel.pieces import Shards
from onnuri.training.export import DTYPES

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""the file with a folder's weights, or the list of its several files"""
FLOATS = ("F64", "F32", "F16", "BF16")
"""dtypes in a safetensors file of which each number is a weight, without scales"""
OPEN_BYTES = 1 << 30
"""bytes of tensors after which a file is opened anew: what was read of a mapped file stays in a
process's memory until it is closed"""
ALWAYS_LEFT_OUT = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
"""tensors in old checkpoints that transformers no longer reads, for any class"""


class Loader:
    """A Loader knows from where every tensor of a model takes its first values."""

    def __init__(self, folder: Path, network: Any, seed: int, resumes: bool = False) -> None:
        """Look at a folder's files, and at what the class of its `network`, on the meta device and
        whole, writes to each tensor at the start.

        If a run `resumes`, what its state holds is not loaded. Raises WeightsError if a file cannot
        be read.
        """
        self.folder, self.seed = folder, seed
        self.has_weights = has_weights(folder)
        self.initial = InitialWeights(network, seed)
        self.files: dict[Path, dict[str, WrittenWeight]] = {}
        """tensors that are read from each file, by name"""
        self.why_whole: str | None = None
        """why the first rank must have the whole model; None: it need not"""
        needed = set(named_tensors(network))
        if resumes:
            needed -= set(network.state_dict())
        elif self.has_weights:
            try:
                self.files = find_weights(folder, network)
            except ConfigError as error:
                self.why_whole = str(error)
        read = {w.part.source for weights in self.files.values() for w in weights.values()}
        self.drawn = needed - read
        """tensors whose first values are those that the class writes"""
        unknown = sorted(self.drawn & set(self.initial.unknown))
        if unknown and not self.why_whole:
            self.why_whole = f"weight {unknown[0]}: is computed by {type(network).__name__}"

    def load(self, network: Any, meshes: Meshes | None) -> None:
        """Give a network's tensors, which have memory, their first values; every rank must call
        this.

        `meshes` are those over which it is sharded, None for a whole one. Raises WeightsError, at
        every rank, if the folder cannot be read.
        """
        shards = Shards(named_tensors(network), meshes)
        if self.why_whole:
            fill_from_first(shards, self._whole(shards.names))
            return
        parts = [whole_part(n, shards.shape(n)) for n in shards.names if n in self.drawn]
        with group.failing_together():
            fill(shards, parts, self.initial.values)
            for path, weights in self.files.items():
                _fill_from_file(shards, path, weights)

    def _whole(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Return the tensors of the whole model in the first rank, nothing in the others, which
        wait. Raises WeightsError for a folder that cannot be read."""
        with launch.first_rank_first("whole model"):
            if not launch.is_first():
                return {}
            torch.manual_seed(self.seed)
            whole = load_base(self.folder, weights=self.has_weights, dtype=torch.float32)
            tensors = named_tensors(whole)
            if other := tensors.keys() ^ set(names):
                raise WeightsError(
                    f"{self.folder}: {min(other)}",
                    "is tied to another weight in config.json alone, or in the weights alone",
                    "set tie_word_embeddings as the weights are",
                )
            return tensors


def find_weights(folder: Path, network: Any) -> dict[Path, dict[str, WrittenWeight]]:
    """Return the tensors of a folder's safetensors files, by file and name, and which boxes of the
    network's own tensors they are.

    Raises ConfigError if they are not those that transformers writes for the network's class
    (another version's, quantised ones, other files), and WeightsError for a file that is damaged.
    """
    weights = written_weights(network, torch.float32)
    files: dict[Path, dict[str, WrittenWeight]] = {}
    for path in _paths(folder):
        with _reading(path) as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            files[path] = {n: weights.pop(n) for n in found if n in weights}
            for name, weight in files[path].items():
                _check_tensor(path, name, weight, found[name])
        _check_others(path, found.keys() - files[path].keys(), network)
    if weights:
        raise _unusual(folder, min(weights), "is missing")
    return files


def _paths(folder: Path) -> list[Path]:
    """Return the files that transformers reads. Raises ConfigError if they are not safetensors, and
    WeightsError for a damaged list."""
    if (folder / FILE).exists():
        return [folder / FILE]
    index = folder / INDEX
    if not index.exists():
        raise _unusual(folder, FILE, "is missing")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(index, error) from None


def _check_tensor(path: Path, name: str, weight: WrittenWeight, stored: Any) -> None:
    """Raise ConfigError unless a stored tensor has the shape of a weight, and numbers of its
    kind."""
    kinds = FLOATS if weight.dtype.is_floating_point else (DTYPES[weight.dtype],)
    if stored.get_dtype() not in kinds:
        raise _unusual(path, name, f"is stored in {stored.get_dtype()}")
    if tuple(stored.get_shape()) != weight.shape:
        raise _unusual(path, name, f"has the shape {stored.get_shape()}")


def _check_others(path: Path, names: Iterable[str], network: Any) -> None:
    """Raise ConfigError if a file holds tensors that the network has not, but for those that its
    class leaves out, as layers that predict further tokens."""
    patterns = [*ALWAYS_LEFT_OUT, *(network._keys_to_ignore_on_load_unexpected or ())]
    for name in sorted(names):
        if not any(re.search(pattern, name) for pattern in patterns):
            raise _unusual(path, name, "is no weight of the class as it is")


def _fill_from_file(shards: Shards, path: Path, weights: Mapping[str, WrittenWeight]) -> None:
    """Set this rank's elements of the weights that a file holds. Raises WeightsError if it cannot
    be read."""
    for names in _groups(weights):
        with _reading(path) as file:
            for name in names:
                weight = weights[name]
                stored = file.get_slice(name) if weight.shape else file.get_tensor(name)
                fill(shards, [weight.part], functools.partial(_read, stored, weight))


def _read(stored: Any, weight: WrittenWeight, box: Part) -> Tensor:
    """Return a box of a weight from its tensor in a file."""
    return weight.restore(stored[weight.place(box)], box)


def _groups(weights: Mapping[str, WrittenWeight]) -> Iterator[list[str]]:
    """Yield the names of a file's weights in groups of about OPEN_BYTES."""
    names, size = list[str](), 0
    for name, weight in weights.items():
        names.append(name)
        size += weight.part.numel * weight.dtype.itemsize
        if size > OPEN_BYTES:
            yield names
            names, size = [], 0
    yield names


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Yield an opened safetensors file. Raises WeightsError if it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _unusual(path: Path, name: str, why: str) -> ConfigError:
    """Return the error for weights that only transformers itself can read."""
    return ConfigError(f"{path}: {name}", why, "save the model again with save_pretrained")


def _damaged(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that cannot be read."""
    return WeightsError(
        str(path), f"cannot be read ({error})", "give a folder that save_pretrained wrote"
    )
