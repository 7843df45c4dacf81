"""This module joins the processes that torchrun starts into the ranks of one run.

    with launch.ranks():                        # waits until every rank has come
        with launch.first_rank_first("data"):   # the first rank works, the others wait
            ...
        launch.join()                           # from here on there are collectives

Without torchrun's environment all of these do nothing, and the process is the first and only rank.
What ranks tell each other before `join` goes through torchrun's key-value store, where waiting has
no time limit. The module also decides which rank prints. It knows no model and no file.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console

from onnuri.errors import STOPPED, ConfigError, OnnuriError, Terminated
from onnuri.parallel.layout import parse_layout
from onnuri.planner.parallel import ParallelConfig

Job = TypeVar("Job")
LIMIT_SECONDS = 600.0
"""seconds within which every rank must come, and after which a collective that a rank does not join
fails"""
LEAVE_SECONDS = 5.0
"""longest wait of the first rank, before it ends, for others that still read what it has told"""
POLL_SECONDS = 0.1
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""environment variables by which torchrun tells a process its place"""
MISTAKE, BUG, INTERRUPTED = 2, 1, 130
"""exit statuses of `onnuri`"""


class Place(NamedTuple):
    """A Place says which of how many ranks this process is."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    """its number among the ranks of its machine"""
    local_ranks: int = 1
    """number of ranks on its machine"""
    store: dist.Store | None = None
    """key-value store that all ranks share; None: the process is alone"""


_ALONE = Place()
_ALONE_WORDS = {
    "rule": "takes {} ranks, and this process is alone",
    "repair": "start it with torchrun --nproc-per-node N -m onnuri train",
}
"""what is wrong with a layout of several ranks in a process that is alone, and what mends it"""
_PLACE: ContextVar[Place] = ContextVar("place", default=_ALONE)


def is_first() -> bool:
    """Return whether this process is the first rank, which prints and writes what is one for all;
    a process that is alone is."""
    rank = dist.get_rank() if dist.is_initialized() else _PLACE.get().rank
    return rank == 0


def console() -> Console:
    """Return a console that prints if this process is the first rank, and nothing elsewhere."""
    return Console(quiet=not is_first())


def threads(workers: int) -> int:
    """Return the threads that each rank of this machine may use, if they share `workers`."""
    return max(1, workers // local_ranks())


def local_ranks() -> int:
    """Return the number of ranks on this machine."""
    return _PLACE.get().local_ranks


def device() -> torch.device:
    """Return the device on which this rank trains: its GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", _PLACE.get().local_rank)
    return torch.device("cpu")


class Computing(NamedTuple):
    """A Computing says how a rank computes training steps."""

    device: torch.device
    dtype: torch.dtype | None
    """dtype of matrix products; None: the weights' own"""
    compiled: bool
    """whether layers are compiled"""


def computing(layout: ParallelConfig | None, compiled: bool | None = None) -> Computing:
    """Return how a rank of a layout computes: in bf16 on a GPU, in the weights' own dtype on a CPU.

    `compiled` says whether layers are compiled (None: on a GPU). Raises ConfigError if they cannot
    be.
    """
    place = device()
    on_gpu = place.type == "cuda"
    if compiled is None:
        # on a CPU a short run would lose more than it wins; collectives within a layer are not
        # compiled
        compiled = on_gpu and (layout is None or layout.tp == layout.ep == 1)
    elif compiled and not on_gpu and not _has_compiler():
        raise ConfigError(
            "compiled layers on a CPU",
            "need a C++ compiler, and there is no g++ or clang++",
            "install g++, or leave --compiled out",
        )
    return Computing(place, torch.bfloat16 if on_gpu else None, compiled)


def _has_compiler() -> bool:
    """Return whether there is a C++ compiler that `torch.compile` would call on a CPU."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    return any(shutil.which(name) for name in names)


def layout(text: str | None) -> ParallelConfig | None:
    """Return the layout that a text such as "dp=2,ep=2,fsdp" describes for the ranks that run;
    without a text, FSDP over all of them, and for a process that is alone, None.

    Raises ConfigError for a wrong text, for one that needs another engine or number of ranks, and
    for one that offloads where there is no GPU.
    """
    place = _PLACE.get()
    if text is None:
        if place.store is None:
            return None
        return ParallelConfig(dp=place.ranks, recompute="none")
    words = _ALONE_WORDS if place.store is None else {}
    found = parse_layout(text, place.ranks, **words)
    if found.offload and device().type == "cpu":
        raise ConfigError(
            f"--layout {text}",
            "offloads weights to the host, where there is no GPU that computes",
            "leave offload out",
        )
    return found


def refuse_ranks(command: str) -> None:
    """Raise ConfigError if torchrun started this process as one of several, for a command that runs
    in one; ranks but the first end without a word."""
    place = _read_environment()
    if place is None or place.ranks == 1:
        return
    if place.rank:
        raise SystemExit(MISTAKE)
    raise ConfigError(
        f"{command} on {place.ranks} ranks", "runs in one process", "start it without torchrun"
    )


@contextmanager
def ranks(limit_seconds: float = LIMIT_SECONDS) -> Iterator[None]:
    """Meet all ranks that torchrun started, and end together: a mistake ends every rank with
    status 2 and is printed once.

    Raises ConfigError for a broken environment variable, a machine with fewer GPUs than ranks, a
    rank that does not come within `limit_seconds`, and one that is lost later on.
    """
    place = _read_environment()
    if place is None:
        yield
        return
    if torch.cuda.is_available():
        _choose_gpu(place)
    place = place._replace(store=_open_store(place, limit_seconds))
    try:
        place = _meet(place, limit_seconds)
    except RuntimeError as error:  # the store's process has ended
        raise _lost_rank(place, error) from None
    token = _PLACE.set(place)
    if place.rank:
        _quieten_transformers()
    try:
        yield
    except OnnuriError as error:
        _tell(place, MISTAKE)
        _end_silently_if_said(place, error)
        raise
    except KeyboardInterrupt as stop:
        status = STOPPED if isinstance(stop, Terminated) else INTERRUPTED
        first = _tell(place, status)
        # torchrun stops the others once a rank has failed, which has said why
        if place.rank or first != status:
            raise SystemExit(first) from None
        raise
    except RuntimeError as error:
        _tell(place, BUG)
        if not _is_lost_rank(error):
            raise
        raise _lost_rank(place, error) from None
    except Exception:
        _tell(place, BUG)
        raise
    finally:
        _PLACE.reset(token)
        if dist.is_initialized():
            with suppress(RuntimeError):  # of a group whose other ranks have gone
                dist.destroy_process_group()
        _leave(place)


def join(limit_seconds: float = LIMIT_SECONDS) -> None:
    """Initialise the process group, over gloo and, where there are GPUs, NCCL; nothing for a
    process that is alone.

    A collective fails after `limit_seconds`. Raises ConfigError if the ranks cannot connect.
    """
    place = _PLACE.get()
    if place.store is None or dist.is_initialized():
        return
    settings: dict[str, Any] = {"backend": "gloo"}
    if device().type == "cuda":
        # without a device_id: with one, the groups of a mesh are split from NCCL's alone in some
        # versions, and cannot add up what is on the host
        settings = {"backend": "cpu:gloo,cuda:nccl"}
    try:
        dist.init_process_group(
            store=dist.PrefixStore("group", place.store),
            rank=place.rank,
            world_size=place.ranks,
            timeout=timedelta(seconds=limit_seconds),
            **settings,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"rank {place.rank} of {place.ranks}",
            f"cannot connect to the others ({_first_sentence(error)})",
            "let all machines reach each other; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose "
            "the network",
        ) from None


@contextmanager
def first_rank_first(name: str) -> Iterator[None]:
    """Run a `with` block in the first rank, and in the others once it is done there, however long
    that takes.

    The block does nothing where its result is there already. If it fails in the first rank, the
    others end with its status, without a word.
    """
    place = _PLACE.get()
    if place.store is None:
        yield
        return
    key = f"done/{name}"
    if place.rank:
        while not place.store.check([key]):
            _end_if_another_failed(place.store)
            time.sleep(POLL_SECONDS)
    yield
    if place.rank == 0:
        place.store.set(key, "")


def share(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of this rank: every so many-th, all of them for a process that is alone."""
    place = _PLACE.get()
    return list(jobs[place.rank :: place.ranks])


def wait_for_all(name: str) -> None:
    """Wait until every rank has come here, however long that takes.

    If one fails instead, this one ends with its status, without a word.
    """
    place = _PLACE.get()
    if place.store is None:
        return
    place.store.set(f"here/{name}/{place.rank}", "")
    for rank in range(place.ranks):
        while not place.store.check([f"here/{name}/{rank}"]):
            _end_if_another_failed(place.store)
            time.sleep(POLL_SECONDS)


def _read_environment() -> Place | None:
    """Return this process's place as torchrun's environment says, None without it. Raises
    ConfigError for a variable that is missing or wrong."""
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    for name in VARIABLES:
        if not os.environ.get(name):
            _refuse_variable(name, "is not set")
    rank, world = _whole_number("RANK"), _whole_number("WORLD_SIZE")
    local_rank, _ = _whole_number("LOCAL_RANK"), _whole_number("MASTER_PORT")
    if rank >= world:
        _refuse_variable("RANK", f"is not below WORLD_SIZE {world}")
    # torchrun sets it; who sets the others by hand may leave it out
    os.environ.setdefault("LOCAL_WORLD_SIZE", "1")
    return Place(rank, world, local_rank, max(1, _whole_number("LOCAL_WORLD_SIZE")))


def _whole_number(name: str) -> int:
    """Return an environment variable's value. Raises ConfigError if it is no whole number."""
    if not os.environ[name].isdecimal():
        _refuse_variable(name, "is no whole number from 0 on")
    return int(os.environ[name])


def _refuse_variable(name: str, rule: str) -> NoReturn:
    """Raise ConfigError for an environment variable that torchrun would have set otherwise."""
    raise ConfigError(
        f"environment variable {name}={os.environ.get(name, '')!r}",
        rule,
        "start with torchrun, which sets it, or unset RANK and WORLD_SIZE",
    )


def _choose_gpu(place: Place) -> None:
    """Make this rank's GPU the default one. Raises ConfigError if the machine has too few."""
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise ConfigError(
            f"local rank {place.local_rank}",
            f"has no GPU: this machine has {count}",
            f"start torchrun with --nproc-per-node {count}",
        )
    torch.cuda.set_device(place.local_rank)


def _quieten_transformers() -> None:
    """Leave out transformers' warnings, which the first rank prints for all."""
    from transformers.utils import logging

    logging.set_verbosity_error()


def _open_store(place: Place, limit_seconds: float) -> dist.Store:
    """Return the key-value store of torchrun, or of the first rank where torchrun has none. Raises
    ConfigError if it cannot be reached in time."""
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=limit_seconds)))
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConfigError(
            f"rank {place.rank} of {place.ranks}",
            f"did not meet the others at {address} within {limit_seconds:g} s "
            f"({_first_sentence(error)})",
            f"start all {place.ranks} ranks, with one MASTER_ADDR that each can reach",
        ) from None
    return dist.PrefixStore("onnuri", store)


def _meet(place: Place, limit_seconds: float) -> Place:
    """Wait until every rank has come, and return this one's place with a store of this attempt
    alone: torchrun's store still holds what ranks wrote that it has since started again.

    The first rank gives the attempt a name. Each other rank asks for it with a word of its own,
    which no earlier process has used. Raises ConfigError if some do not come in time.
    """
    assert place.store is not None
    end = time.monotonic() + limit_seconds
    if place.rank == 0:
        return _gather_ranks(place, place.store, end, limit_seconds)
    word = uuid.uuid4().hex
    place.store.set(f"hello/{place.rank}", word)
    _wait_for(place.store, f"answer/{word}", 0, place, end, limit_seconds)
    attempt = place.store.get(f"answer/{word}").decode()
    store = dist.PrefixStore(attempt, place.store)
    store.set(f"here/{place.rank}", "")
    # a moment more than the first rank waits, which knows who is missing
    _wait_for(store, "met", 0, place, end + LEAVE_SECONDS, limit_seconds)
    return place._replace(store=store)


def _gather_ranks(place: Place, store: dist.Store, end: float, limit_seconds: float) -> Place:
    """Answer the other ranks until all have come, and return the first rank's place with the
    attempt's store."""
    attempt = uuid.uuid4().hex
    own = dist.PrefixStore(attempt, store)
    missing = list(range(1, place.ranks))
    while missing := [rank for rank in missing if not own.check([f"here/{rank}"])]:
        for rank in missing:
            if store.check([f"hello/{rank}"]):
                word = store.get(f"hello/{rank}").decode()
                store.set(f"answer/{word}", attempt)
        if time.monotonic() > end:
            own.set("failed", str(MISTAKE))
            time.sleep(10 * POLL_SECONDS)  # those that have come read it and end
            numbers = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
            _refuse_missing(numbers, place, limit_seconds)
        time.sleep(POLL_SECONDS)
    own.set("met", "")
    return place._replace(store=own)


def _wait_for(
    store: dist.Store, key: str, rank: int, place: Place, end: float, limit_seconds: float
) -> None:
    """Wait for a key that another rank sets. Raises ConfigError if it does not in time."""
    while not store.check([key]):
        _end_if_another_failed(store)
        if time.monotonic() > end:
            _refuse_missing(str(rank), place, limit_seconds)
        time.sleep(POLL_SECONDS)


def _refuse_missing(numbers: str, place: Place, limit_seconds: float) -> NoReturn:
    """Raise ConfigError for ranks that have not come."""
    raise ConfigError(
        f"rank {numbers} of {place.ranks}",
        f"did not come within {limit_seconds:g} s",
        "look at what its machine printed, and start all of them again",
    )


def _tell(place: Place, status: int) -> int:
    """Tell the ranks that wait for this one with which exit status it ends, and return that of the
    first rank that ended, which says it for all."""
    assert place.store is not None
    with suppress(RuntimeError):  # the store is gone where its process has ended first
        return int(place.store.compare_set("failed", "", str(status)))
    return status


def _leave(place: Place) -> None:
    """Tell the first rank that this one is done with the store; the first rank waits a moment for
    the others if it serves the store itself, as it does without torchrun's agent."""
    store, end = place.store, time.monotonic() + LEAVE_SECONDS
    assert store is not None
    with suppress(RuntimeError):
        if place.rank:
            store.set(f"left/{place.rank}", "")
            return
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        others = [f"left/{rank}" for rank in range(1, place.ranks)]
        while time.monotonic() < end and others and not store.check(others):
            time.sleep(POLL_SECONDS)


def _end_if_another_failed(store: dist.Store) -> None:
    """Raise SystemExit with the status of a rank that has failed, if one has."""
    if store.check(["failed"]):
        raise SystemExit(int(store.get("failed")))


def _end_silently_if_said(place: Place, error: OnnuriError) -> None:
    """Raise SystemExit if another rank has already printed the same mistake."""
    assert place.store is not None
    with suppress(RuntimeError):
        if place.store.add(f"said/{error}", 1) > 1:
            raise SystemExit(MISTAKE) from None


def _lost_rank(place: Place, error: RuntimeError) -> ConfigError:
    """Return the error for a rank that has gone."""
    return ConfigError(
        f"rank {place.rank} of {place.ranks}",
        f"lost another rank ({_first_sentence(error)})",
        "read what that one printed; the same command goes on",
    )


def _is_lost_rank(error: RuntimeError) -> bool:
    """Return whether an error is that of a collective whose other ranks have gone: gloo raises
    plain RuntimeErrors that name its files, NCCL and the store dist.DistError."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of an error of torch, without the place in torch's code that stands
    before it and the stack behind it."""
    line = re.sub(r"^\[[^\]]*\] ?", "", str(error).strip().split("\n")[0])
    return line.split(". ")[0][:200].rstrip(".")
