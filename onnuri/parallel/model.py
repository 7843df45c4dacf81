"""This module holds a model as a training step calls it: one object for one process and for many
ranks.

It hides which weights are whole. It knows no optimizer and no file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.errors import ConfigError
from onnuri.model.backbone import compute_device
from onnuri.model.loss import LossParts
from onnuri.parallel.apply import parallelize, prepare_layers
from onnuri.parallel.fill import keep_weights
from onnuri.parallel.working_weights import WorkingWeights
from onnuri.planner.parallel import ParallelConfig, to_string

Figures = Mapping[str, Tensor | float | LossParts]
"""figures of one batch for the log, by name"""
Loss = Callable[[Any], tuple[Tensor | LossParts, Figures]]
"""function that returns the loss of a batch, a mean [] or sum and weight apart, and its figures"""


class Untouched:
    """An Untouched holds a batch that FSDP must leave as it is: of a tuple it would move all
    tensors to the GPU, and wait for them where the host reads them."""

    def __init__(self, batch: Any) -> None:
        """Hold a batch."""
        self.batch = batch


class ModelWithLoss(nn.Module):
    """A ModelWithLoss wraps a network and its loss in one module.

    FSDP gathers the weights of the outermost sharded module, the head's too, only while that
    module's `forward` runs; a loss that reads the head must run inside it.
    """

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module, Any], Any]) -> None:
        """Wrap a network and the function that returns its loss of a batch."""
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, batch: Any) -> Any:
        """Return the loss of a batch, which may be held by an `Untouched`."""
        return self._loss(self.network, batch.batch if isinstance(batch, Untouched) else batch)


class ParallelModel:
    """A ParallelModel computes the loss of a rank's rows and accumulates its gradients."""

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        layout: ParallelConfig | None = None,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        device: torch.device | None = None,
    ) -> None:
        """Spread a network in place over the ranks of a layout; without one, and on one rank,
        leave it whole.

        `loss` computes with the network itself. `dtype` is that of matrix products (None: the
        weights' own). With `compiled`, layers are compiled. `device` is that on which the model
        will compute, if its tensors lie on the meta device as yet. A layout with `offload` moves
        the weights to the host's memory. Raises ConfigError if the layout needs another number of
        ranks than run.
        """
        self.network, self.layout, self.meshes, self.dtype = network, layout, None, dtype
        self.root: nn.Module = ModelWithLoss(network, lambda _, batch: loss(batch))
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        if layout and layout.gpus != ranks:
            raise ConfigError(
                f"layout {to_string(layout)}",
                f"takes {layout.gpus} ranks, and {ranks} run",
                "let torchrun start as many as the layout takes",
            )
        self.device = device or compute_device(network)
        if self.offloads:
            keep_weights(network, self.weights_device)
        if layout is None or ranks == 1:  # nothing to share
            prepare_layers(network, layout, compiled)
            return
        self.meshes = parallelize(
            network, layout, self.root, device=self.device.type, dtype=dtype, compiled=compiled
        )

    @functools.cached_property
    def working_weights(self) -> WorkingWeights | None:
        """Return the copies with which one rank computes in another dtype than the weights have, or
        elsewhere; they are made when they are asked for, since weights may come after the model."""
        if self.meshes or not (self.dtype or self.offloads):
            return None
        return WorkingWeights(self.network, self.dtype, self.device if self.offloads else None)

    @property
    def offloads(self) -> bool:
        """Return whether weights, gradients and optimizer are in the host's memory."""
        return self.layout is not None and self.layout.offload

    @property
    def weights_device(self) -> torch.device:
        """Return the device that keeps the weights; buffers are where the model computes."""
        return torch.device("cpu") if self.offloads else self.device

    @property
    def data_rank(self) -> int:
        """Return this rank's number among those that read different rows."""
        return self.meshes.data_rank if self.meshes else 0

    @property
    def data_ranks(self) -> int:
        """Return the number of ranks that read different rows."""
        return self.meshes.data_ranks if self.meshes else 1

    def total_weight(self, weights: Sequence[Tensor | float]) -> Tensor | float:
        """Return the weight [] of a step's targets, summed over this rank's micro-batches and over
        the data ranks.

        Weights that are plain numbers are equal on every rank, so they need no collective.
        """
        if not isinstance(weights[0], Tensor):
            return sum(weights) * self.data_ranks
        # in 64 bits, where the order of the sum changes no loss
        total = torch.stack([torch.as_tensor(weight) for weight in weights]).double().sum()
        return self.meshes.sum_over_data(total) if self.meshes else total

    @torch.no_grad()
    def mean_loss(self, batches: Sequence[Any]) -> float:
        """Return the mean loss per target of batches, without what balances experts; every rank
        must call it with all of them, and computes its share.

        The network is in evaluation mode meanwhile. The batches' figures must hold their "loss" as
        sum and weight.
        """
        training = self.network.training
        self.network.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for first in range(0, len(batches), self.data_ranks):
            # every rank calls the network equally often, since its shards are gathered from all
            own = first + self.data_rank
            batch = batches[min(own, len(batches) - 1)]
            with self.working_weights.in_place() if self.working_weights else nullcontext():
                _, figures = self.root(Untouched(batch))
            parts = figures["loss"]
            if own < len(batches):
                total += torch.tensor([float(parts.sum), float(parts.weight)], dtype=total.dtype)
        if self.meshes:
            total = self.meshes.sum_over_data(total)
        self.network.train(training)
        return float(total[0] / total[1])

    def forward_backward(self, batch: Any, total: Tensor | float) -> tuple[LossParts, Figures]:
        """Add the gradients of one micro-batch's loss, divided by the `total` weight of the step's
        targets, and return its loss and figures."""
        with self.working_weights.in_place() if self.working_weights else nullcontext():
            loss, figures = self.root(Untouched(batch))
            parts = loss if isinstance(loss, LossParts) else LossParts(loss, 1.0)
            (parts.sum / total).backward()
        return parts._replace(sum=parts.sum.detach()), figures
