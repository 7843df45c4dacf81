"""This module writes and reads a run's state: weights, optimizer state and position, as
torch.distributed.checkpoint shards that any number of ranks and any layout can read.

    out/checkpoint/00000120/        one state per step that was stored, the newest last
        __0_0.distcp, .metadata     tensors, each rank's shards in files of its own
        state.json                  the position, and a SHA-256 per file

A state is written under a temporary name and renamed when all ranks have written, so a folder with
a number is whole. `saver.py` writes it while training goes on. It holds tensors and plain numbers
only, so reading it runs no pickled code but the list of tensors that torch itself writes. This
module knows no objective.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, Replicate

from onnuri import files
from onnuri.errors import ConfigError, WeightsError
from onnuri.parallel.group import gather_objects, rank, ranks
from onnuri.parallel.whole import named_state
from onnuri.training.optim import Optimizers

T = TypeVar("T")
FOLDER, SUMMARY = "checkpoint", "state.json"
KEPT = 2
"""states that are kept: the newest, and the one before it in case a disk damages the newest"""


class Position(NamedTuple):
    """A Position tells how far a run has come."""

    step: int = 0
    rows: int = 0
    """rows of data that were consumed"""
    elapsed_seconds: float = 0.0
    """seconds in training steps, over all sittings"""
    rewinds: int = 0
    """times that the run went back to an earlier state, and left out the rows read since"""


def latest(out: Path) -> Path | None:
    """Return the folder of the newest whole state of a run, None if there is none."""
    states = _states(out)
    return states[-1] if states else None


def _states(out: Path) -> list[Path]:
    """Return the folders of a run's whole states, the newest last."""
    return sorted((out / FOLDER).glob("[0-9]*"), key=lambda folder: int(folder.name))


def read_position(folder: Path) -> Position:
    """Return the position that a state's folder holds. Raises WeightsError for a damaged one."""
    return Position(**_summary(folder)["position"])


def store(out: Path, module: nn.Module, optimizer: Optimizers, position: Position) -> None:
    """Write the state of a run, and return when it is whole. Every rank must call it.

    A step that is stored already is left as it is. Raises ConfigError if it cannot be written.
    """
    if not state_folder(out, position.step).exists():
        write(out, tensors_to_store(module, optimizer), position)


def state_folder(out: Path, step: int) -> Path:
    """Return the folder of a run's state after some steps."""
    return out / FOLDER / f"{step:08}"


def write(
    out: Path,
    tensors: Mapping[str, Tensor],
    position: Position,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Write tensors of `tensors_to_store` as a run's newest state, and delete states beyond KEPT.

    Every rank must call it, in a thread of its own if the `group` is used by that thread alone; the
    tensors must not change meanwhile. Raises ConfigError if a rank cannot write, on every rank.
    """
    folder = state_folder(out, position.step)
    part = _part_of(folder)
    try:
        _on_all(lambda: _make_empty(part), group)
        with _quiet():
            # copy-ahead is for tensors on a GPU, and would take a stream there
            writer = dcp.FileSystemWriter(part, per_thread_copy_ahead=0)
            dcp.save(
                dict(tensors),
                storage_writer=writer,
                process_group=group,
                no_dist=not dist.is_initialized(),
            )
        hashes = _on_all(lambda: _own_hashes(part), group)
        _on_all(lambda: _publish(part, folder, position, hashes), group)
    except (OSError, dcp.CheckpointException) as error:
        raise _unwritable(folder, error) from None


def _part_of(folder: Path) -> Path:
    """Return the name of a state's folder that is not whole: not yet, or no longer."""
    return folder.with_name(f".{folder.name}.part")


def _make_empty(part: Path) -> None:
    """Make the folder in which all ranks write, by the first rank."""
    if rank():
        return
    for killed in part.parent.glob(".*.part"):  # what an earlier sitting did not finish
        shutil.rmtree(killed)
    part.mkdir(parents=True)


def _own_hashes(part: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that this rank wrote."""
    own = [file for file in part.iterdir() if file.name.startswith(f"__{rank()}_")]
    if rank() == 0:
        own.append(part / ".metadata")
    return {file.name: _hash(file) for file in own}


def _publish(
    part: Path, folder: Path, position: Position, hashes: Iterable[Mapping[str, str]]
) -> None:
    """Give a state its name once every rank's files are there, by the first rank, and delete the
    oldest states."""
    if rank():
        return
    all_hashes = {name: value for each in hashes for name, value in each.items()}
    files.write_json({"position": position._asdict(), "sha256": all_hashes}, part / SUMMARY)
    _sync(part / SUMMARY)
    _sync(part)
    os.rename(part, folder)
    _sync(folder.parent)
    for old in _states(folder.parent.parent)[:-KEPT]:
        removed = _part_of(old)  # a kill in the middle must leave no half state with a number
        os.rename(old, removed)
        shutil.rmtree(removed)


def _on_all(work: Callable[[], T], group: dist.ProcessGroup | None) -> list[T]:
    """Do some work on every rank and return what each one's work returned, on all ranks; what one
    raises is raised by all, for none may wait for one that has failed."""
    value, raised = None, None
    try:
        value = work()
    except Exception as error:
        raised = error
    outcomes = gather_objects((value, raised), group)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [value for value, _ in outcomes]


def _unwritable(folder: Path, error: BaseException) -> ConfigError:
    """Return the error for a state that some rank cannot write."""
    if isinstance(error, dcp.CheckpointException):  # torch's, which holds what each rank raised
        error = next(iter(error.failures.values()))[0]
    why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return ConfigError(
        str(folder),
        f"cannot be written ({why})",
        "repair that; the same command goes on from the state before",
    )


def restore(out: Path, module: nn.Module, optimizer: Optimizers) -> Position:
    """Load the newest state of a run into module and optimizer and return its position.

    Every rank must call it; their number and layout may be others than those that wrote. Return
    the start if there is no state. Raises WeightsError for a damaged state or another run's.
    """
    folder = latest(out)
    if folder is None:
        return Position()
    summary = _summary(folder)
    _check_files(folder, summary["sha256"])
    tensors = _tensors(module, optimizer)
    _check_names(folder, tensors)
    storable = {name: _storable(tensor) for name, tensor in tensors.items()}
    with _quiet():
        dcp.load(storable, checkpoint_id=folder, no_dist=not dist.is_initialized())
    for name, tensor in tensors.items():
        stored = storable[name]
        if stored is not tensor and isinstance(tensor, DTensor) and isinstance(stored, DTensor):
            tensor.copy_(stored.redistribute(tensor.device_mesh, tensor.placements))
    return Position(**summary["position"])


def _storable(tensor: Tensor) -> Tensor:
    """Return a tensor in a form that the checkpoint can describe: a shard must be one block.

    Tensor parallelism of experts cuts gate and up, which are one matrix, each: a rank's shard is
    then two blocks, and is gathered over those ranks.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    placements = list(tensor.placements)
    for axis, placement in enumerate(placements):
        # torch's own strided shard, of FSDP over tensor parallelism, is completed by a later axis
        pieces = getattr(placement, "split_factor", 1)
        later = range(axis + 1, len(placements))
        completing = [k for k in later if _dim(placements[k]) == _dim(placement)]
        if pieces > math.prod(tensor.device_mesh.size(k) for k in completing):
            placements[axis] = Replicate()
    if placements == list(tensor.placements):
        return tensor
    return tensor.redistribute(tensor.device_mesh, placements)


def _dim(placement: Any) -> int | None:
    """Return the dimension that a placement shards, None if it shards none."""
    return getattr(placement, "dim", None)


def optimizer_bytes(folder: Path) -> int:
    """Return the bytes of the optimizer's moments in a state; step counts, which have no dimension,
    are left out."""
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    return sum(
        entry.size.numel() * entry.properties.dtype.itemsize
        for name, entry in stored.items()
        if name.startswith("optimizer.") and isinstance(entry, TensorStorageMetadata) and entry.size
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out torch's warning that one process is alone, which is no surprise here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def tensors_to_store(module: nn.Module, optimizer: Optimizers) -> dict[str, Tensor]:
    """Return every tensor of a run's state in a form that the checkpoint can describe. Most share
    memory with those that train. Every rank must call it."""
    return {name: _storable(tensor) for name, tensor in _tensors(module, optimizer).items()}


def _tensors(module: nn.Module, optimizer: Optimizers) -> dict[str, Tensor]:
    """Return every tensor of a run's state by a name that no layout changes; a weight with two
    names comes once. The tensors share memory with those that train."""
    tensors = {f"model.{name}": tensor for name, tensor in named_state(module)}
    return tensors | {f"optimizer.{n}": t for n, t in optimizer.state_tensors(module).items()}


def _summary(folder: Path) -> dict[str, Any]:
    """Return what a state's summary holds. Raises WeightsError if it cannot be read."""
    try:
        summary = dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
        Position(**summary["position"])
        summary["sha256"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(folder / SUMMARY, type(error).__name__) from None
    return summary


def _damaged(path: Path, why: str) -> WeightsError:
    """Return the error for a file of a state that is not as it was written."""
    return WeightsError(
        str(path),
        f"is not a state of this run as it was written ({why})",
        f"delete {path.parent}: the state before it is used, if one is left",
    )


def _check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise WeightsError, on every rank, if a file of a state is not as it was written; the ranks
    share the reading."""
    own = list(hashes.items())[rank() :: ranks()]
    wrong = [name for name, value in own if _hash(folder / name) != value]
    if names := sorted(name for each in gather_objects(wrong) for name in each):
        raise _damaged(folder / names[0], "its SHA-256 differs")


def _check_names(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise WeightsError if a state's tensors have other names or shapes than a run's."""
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    shapes = {name: tuple(getattr(entry, "size", ())) for name, entry in stored.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise WeightsError(
                str(folder),
                f"is another run's: it holds {shapes.get(name, 'no')} for {name}, and this run "
                f"has {expected.get(name, 'none')}",
                "delete the run's folder or give another with --out",
            )


def _hash(path: Path) -> str:
    """Return a file's SHA-256, an empty text if it cannot be read."""
    try:
        return files.sha256_of(path)
    except OSError:
        return ""


def _sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk: a power cut must not undo a rename."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
