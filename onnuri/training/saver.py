"""This module stores a run's state while training goes on: it copies the tensors to the host's
memory, and a thread writes the copy (`state.py`).

    with Saver(out, module, optimizer) as saver:
        saver.save(position)       # returns when the copy is complete; weights may change again
        saver.finish(position)     # the last state: returns when it is whole

At most one state is being written: the next waits for it. The thread's collectives have a process
group of their own, since those of training run at the same time. It knows no objective.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from onnuri.training import state
from onnuri.training.optim import Optimizers
from onnuri.training.state import Position


class Saver:
    """A Saver writes the states of one run in the background. Every rank has one, and calls the
    same methods in the same order."""

    def __init__(self, out: Path, module: nn.Module, optimizer: Optimizers) -> None:
        """Store the state of a module and its optimizer below a run's folder `out`."""
        self.out, self.module, self.optimizer = out, module, optimizer
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        newest = state.latest(out)
        self._step = int(newest.name) if newest else None
        """step of the newest state, written or being written"""
        self._pinned: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        """Return the saver."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the state that is being written, also after an error of training; raise why it
        could not be written, unless there is such an error."""
        if self._thread:
            self._thread.join()
        if error is None:
            self.wait()
            if self.group is not None:
                dist.destroy_process_group(self.group)

    @property
    def failed(self) -> bool:
        """Return whether a state could not be written; ranks learn it at different moments."""
        return self._error is not None

    def save(self, position: Position) -> None:
        """Copy the state and begin to write it; wait for the one before.

        Raises ConfigError if that one could not be written.
        """
        self.wait()
        if position.step == self._step:
            return
        self._step = position.step
        staged = self._stage()
        # a daemon: no hanging disk may keep a process that has failed from ending
        self._thread = threading.Thread(
            target=self._write, args=(staged, position), name="onnuri-state", daemon=True
        )
        self._thread.start()

    def finish(self, position: Position) -> None:
        """Write the last state of a sitting, without a copy since nothing changes any more.

        Raises ConfigError if it, or the one before, could not be written.
        """
        self.wait()
        if position.step == self._step:
            return
        self._step = position.step
        tensors = state.tensors_to_store(self.module, self.optimizer)
        state.write(self.out, tensors, position, self.group)

    def wait(self) -> None:
        """Wait until no state is being written. Raises ConfigError if it could not be written."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _stage(self) -> dict[str, Tensor]:
        """Return a copy of the state's tensors in the host's memory, complete on return."""
        staged: dict[str, Tensor] = {}
        on_gpu = False
        for name, tensor in state.tensors_to_store(self.module, self.optimizer).items():
            own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            on_gpu = on_gpu or own.is_cuda
            copy = self._buffer(name, own)
            copy.copy_(own, non_blocking=True)
            if isinstance(tensor, DTensor):
                # `from_local` would move the copy back to the mesh's devices
                copy = DTensor(copy, tensor._spec, requires_grad=False)
            staged[name] = copy
        if on_gpu:
            torch.cuda.synchronize()
        return staged

    def _buffer(self, name: str, own: Tensor) -> Tensor:
        """Return memory of the host for a copy. That for tensors on a GPU is pinned, which copies
        at the link's full speed but is slow to allocate, and so it is kept for the next state."""
        if not own.is_cuda:
            return torch.empty_like(own)
        if name not in self._pinned:
            self._pinned[name] = torch.empty_like(own, device="cpu", pin_memory=True)
        return self._pinned[name]

    def _write(self, staged: dict[str, Tensor], position: Position) -> None:
        """Write a copy and keep the error if that fails; runs in the thread."""
        try:
            state.write(self.out, staged, position, self.group)
        except BaseException as error:  # torch's errors of a checkpoint are no Exceptions
            self._error = error
