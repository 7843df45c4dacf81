"""This module proves that a layout trains what one process trains: same rows, same loss, same
gradients, in 64 bits on a CPU, where a parallel mode that is silently wrong cannot hide in
rounding.

One process takes some training steps of a small model; then as many gloo processes as a layout has
ranks take the same ones in every layout, with the code that trains (`loop.train_step`). Compared
are the loss of every step, the norm and every tensor of the gradients of the first one, gathered
whole, what the routers chose, the weights at the end, and the logits that plain transformers
computes from the folder which all ranks export. In the middle of its run each layout's state is
stored, and the next layout goes on from it, so that every state is read by another layout. The
reference itself is checked: a packed row gives the loss and the gradients of its sequences one by
one.

It knows no recipe: whoever calls it builds the model.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import tempfile
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.data.loader import BatchRamp, RowLoader
from onnuri.data.pack import PackedRow
from onnuri.errors import ConfigError, OnnuriError
from onnuri.model.backbone import embedding
from onnuri.model.balance import in_backward
from onnuri.model.loss import LossParts
from onnuri.model.objective import RowObjective, row_loss
from onnuri.parallel.apply import experts_of
from onnuri.parallel.model import ParallelModel
from onnuri.parallel.whole import gather, named_state
from onnuri.planner.parallel import ParallelConfig, to_string
from onnuri.training import state
from onnuri.training.export import export
from onnuri.training.loop import TrainConfig, mean_of, train_step
from onnuri.training.optim import Optimizers
from onnuri.training.verify_config import VerifyConfig
from onnuri.training.verify_export import logits_of_folder, logits_of_training

Build = Callable[[], nn.Module]
"""function that returns the model with its first weights, the same on every call and rank"""


class Tolerances(Config):
    """A Tolerances holds the largest relative differences that pass."""

    first_loss: float = 1e-12
    last_loss: float = 1e-10
    norm: float = 1e-11
    gradient: float = 1e-11
    """of a tensor: the largest difference over the largest number in it"""
    weights: float = 1e-9
    """of a tensor after all steps. AdamW's first updates are the gradient's sign, so rounding shows
    where a gradient is nearly zero"""
    exported: float = 1e-11
    """of the logits; the export is written in 64 bits, so only the order of sums may differ"""


MIXTURE = Tolerances(last_loss=1e-9)
"""for models with experts, whose routers may be near a tie"""


class Difference(Config):
    """A Difference holds how far a layout's run is from that of one process; relative, and 0 where
    both are equal."""

    layout: str
    refused: str | None = None
    """why the layout cannot run; the figures then say nothing"""
    crashed: str | None = None
    """the error that ended its ranks"""
    first_loss: float = 0.0
    last_loss: float = 0.0
    norm: float = 0.0
    gradient: float = 0.0
    gradient_name: str = ""
    """the parameter whose gradient differs most"""
    routing: int = 0
    """choices of experts that differ, over all tokens of the first and the last step"""
    weights: float = 0.0
    resumed: float = 0.0
    """of the last loss, where the run goes on in this layout from another layout's state"""
    exported: float = 0.0
    """of the logits of the exported folder in plain transformers, from those that one process
    computes as in training with the gathered weights"""
    recomputed: bool = True
    """whether layers ran again in the backward pass exactly where the layout says so"""
    seconds: float = 0.0

    @property
    def largest(self) -> float:
        """Return the largest of all relative differences."""
        losses = (self.first_loss, self.last_loss, self.resumed)
        return max(*losses, self.norm, self.gradient, self.weights, self.exported)

    def failures(self, allowed: Tolerances) -> list[str]:
        """Return what is wrong, in words; an empty list where the layout trains rightly."""
        if self.refused:
            return []
        if self.crashed:
            return [f"ended with an error: {self.crashed}"]
        limits = {
            "loss of the first step": (self.first_loss, allowed.first_loss),
            "loss of the last step": (self.last_loss, allowed.last_loss),
            "gradient norm": (self.norm, allowed.norm),
            f"gradient of {self.gradient_name}": (self.gradient, allowed.gradient),
            "weights at the end": (self.weights, allowed.weights),
            "last loss after a resume": (self.resumed, allowed.last_loss),
            "exported model": (self.exported, allowed.exported),
            "choices of experts": (float(self.routing), 0.0),
        }
        wrong = [
            f"{name} differs by {value:.1e} (allowed {limit:.0e})"
            for name, (value, limit) in limits.items()
            if not value <= limit  # a value that is no number fails too
        ]
        if not self.recomputed:
            wrong.append("layers are not recomputed as the layout says")
        return wrong


class Verification(Config):
    """A Verification holds what was compared for one model."""

    name: str
    differences: tuple[Difference, ...]
    packing: float
    """relative difference of loss and gradients between packed rows and sequences one by one"""
    allowed: Tolerances

    def failures(self) -> list[str]:
        """Return what is wrong over all layouts, a line each."""
        wrong = [
            f"{self.name}, {each.layout}: {words}"
            for each in self.differences
            for words in each.failures(self.allowed)
        ]
        if not self.packing <= self.allowed.gradient:
            wrong.append(f"{self.name}: packed rows differ by {self.packing:.1e} from sequences")
        return wrong


class RandomRows:
    """A RandomRows gives rows of random sequences of unequal length and weight."""

    def __init__(self, vocabulary: int, tokens: int) -> None:
        """Give rows of `tokens` ids below `vocabulary`."""
        self.vocabulary, self.tokens = vocabulary, tokens

    def row(self, index: int) -> PackedRow:
        """Return row number `index`; the last of its sequences is padding."""
        rng = np.random.default_rng([7, index])
        padding = int(rng.integers(1, self.tokens // 8))
        cuts = rng.choice(np.arange(2, self.tokens - padding - 1), 2, replace=False)
        ends = [*sorted(cuts.tolist()), self.tokens - padding, self.tokens]
        lengths = np.diff([0, *ends])
        # rows weigh differently, so that a mean of ranks' means is not the mean of all
        weights = rng.choice([0.05, 0.5, 1.0], self.tokens) * (1 + 2 * (index % 2))
        weights[np.cumsum(lengths) - lengths] = 0.0
        weights[self.tokens - padding :] = 0.0
        return PackedRow(
            ids=torch.from_numpy(rng.integers(0, self.vocabulary, (1, self.tokens))),
            positions=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
            lengths=torch.from_numpy(lengths),
            weights=torch.from_numpy(weights)[None],
            modality_ids=torch.zeros(1, self.tokens, dtype=torch.int64),
            padding=padding,
        )


def layouts_for(
    world_size: int, has_experts: bool, combinations: bool = False
) -> list[ParallelConfig]:
    """Return the layouts of some ranks that are compared: every way to share a model that Onnuri
    runs, and every kind of recomputation.

    With `combinations`, tensor parallelism stands beside each of the others, as it always does for
    a model without experts, which takes a fraction of the time.
    """
    dp, half = world_size, world_size // 2
    plain = ParallelConfig(dp=dp, sequence_parallel=False, recompute="none")
    found = [
        plain.replace(sharding="ddp"),
        plain,
        plain.replace(recompute="selective"),
        plain.replace(recompute="full"),
    ]
    if half > 1:
        found.append(plain.replace(sharding="hsdp", shard=half))
    found.append(plain.replace(offload=True))
    tensors = plain.replace(sequence_parallel=True, dp=half, tp=2)
    whole_rows = tensors.replace(sequence_parallel=False)
    found.append(tensors.replace(dp=1, tp=world_size))
    if half > 1:
        found += [tensors, whole_rows.replace(recompute="full")]
    if combinations or not has_experts or half == 1:  # two ranks have no other of whole rows
        found.append(whole_rows.replace(dp=1, tp=world_size))
        if half > 1:
            found += [
                tensors.replace(sharding="ddp", recompute="full"),
                tensors.replace(recompute="selective"),
                tensors.replace(sharding="hsdp", shard=half // 2),
            ]
    if has_experts:
        found += [plain.replace(ep=world_size), plain.replace(ep=world_size, recompute="full")]
        if half > 1:
            found += [
                plain.replace(ep=2, recompute="selective"),
                plain.replace(ep=2, sharding="hsdp", shard=half),
                tensors.replace(ep=2),
                tensors.replace(ep=world_size, recompute="full"),
                whole_rows.replace(ep=2),
            ]
    return found


def verify(
    name: str,
    build: Build,
    outline: nn.Module,
    config: VerifyConfig,
    layouts: Sequence[ParallelConfig] | None = None,
    report: Callable[[Difference], None] | None = None,
    unpacked: bool = False,
) -> Verification:
    """Return how far each layout's run of a model is from that of one process.

    `build` runs in every process; they are forked from this one, which computes nothing itself.
    `outline` is the model on the meta device, made here, so that its classes are imported once.
    `report` is called with each layout's difference as soon as it is known. With `unpacked` the one
    process reads each row's sequences one by one, while layouts read packed rows; only for models
    without experts, whose balance is counted per row.
    """
    has_experts = experts_of(outline.config) > 0
    vocabulary = len(embedding(outline))
    chosen = layouts_for(config.world_size, has_experts) if layouts is None else layouts
    differences: list[Difference] = []
    with tempfile.TemporaryDirectory() as folder:
        job = _Job(Path(folder), build, vocabulary, config, unpacked)
        if error := _run_ranks(1, _reference, job):
            raise ConfigError(
                name, f"does not train in one process ({error})", "see `onnuri train`"
            )
        previous = job.place / "reference"
        for layout in chosen:
            difference = _verify_layout(job, layout, previous)
            if not difference.refused and state.latest(job.state_of(layout)):
                previous = job.state_of(layout)
            differences.append(difference)
            if report:
                report(difference)
        packing = float(json.loads((job.place / "packing.json").read_text()))
    return Verification(
        name=name,
        differences=tuple(differences),
        packing=packing,
        allowed=MIXTURE if has_experts else Tolerances(),
    )


class _Job(NamedTuple):
    """What every process of a verification knows."""

    place: Path
    """folder in which processes meet and leave what they measured"""
    build: Build
    vocabulary: int
    config: VerifyConfig
    unpacked: bool
    """whether the one process reads sequences one by one"""

    def network(self) -> nn.Module:
        """Return the model with its first weights, in 64 bits."""
        torch.manual_seed(0)
        network: Any = self.build().double()
        network.config._experts_implementation = "eager"  # grouped products are of 32 bits at most
        return cast(nn.Module, network)

    def state_of(self, layout: ParallelConfig) -> Path:
        """Return the folder of the state that a layout's run leaves."""
        return self.place / to_string(layout).replace("=", "").replace(",", "_")


def _verify_layout(job: _Job, layout: ParallelConfig, previous: Path) -> Difference:
    """Return the difference of one layout, run by ranks of its own."""
    start = time.perf_counter()
    path = job.state_of(layout).with_suffix(".json")
    error = _run_ranks(layout.gpus, _measure, job, layout, previous, path)
    if error:
        return Difference(layout=to_string(layout), crashed=error)
    return Difference.load(path).replace(seconds=round(time.perf_counter() - start, 2))


def _run_ranks(count: int, work: Callable[..., None], job: _Job, *arguments: Any) -> str | None:
    """Run `work(job, *arguments)` in `count` processes that form a group, and return the last line
    of the first error, None if all went well."""
    context = multiprocessing.get_context("fork")
    store = job.place / uuid.uuid4().hex  # where the processes of this group meet
    errors = [Path(f"{store}.{rank}.error") for rank in range(count)]
    ranks = [
        context.Process(target=_rank, args=(rank, count, store, errors[rank], work, job, arguments))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    # when one dies, the others wait for it in a collective: they are ended
    running = list(ranks)
    while running and not any(process.exitcode for process in ranks):
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.is_alive()]
    for process in ranks:
        process.terminate()
        process.join()
    if not any(process.exitcode for process in ranks):
        return None
    for error in errors:
        if error.exists():
            lines = error.read_text().strip().splitlines()
            named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
            return (named or lines)[-1]
    return f"a rank ended with {next(p.exitcode for p in ranks if p.exitcode)}"


def _rank(
    rank: int,
    count: int,
    store: Path,
    error: Path,
    work: Callable[..., None],
    job: _Job,
    arguments: tuple[Any, ...],
) -> None:
    """Be one rank: join the group, work, and leave a traceback where that fails."""
    try:
        torch.set_num_threads(1)
        _keep_double()
        # gathering a weight that two axes cut along one dimension is slow, and is warned of
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        # nothing writes in place into what an embedding returns
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        if count > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=rank, world_size=count
            )
        work(job, *arguments)
        if count > 1:
            dist.destroy_process_group()
    except BaseException:
        error.write_text(traceback.format_exc())
        os._exit(1)  # the other ranks wait in a collective: no clean end is possible


def _reference(job: _Job) -> None:
    """Take the steps in one process and write what it gave, with the check of packing."""
    run = _Run(job, None)
    run.train(job.place / "reference")
    torch.save(run.results(), job.place / "reference.pt")
    (job.place / "packing.json").write_text(json.dumps(_packing_difference(job)))


def _measure(job: _Job, layout: ParallelConfig, previous: Path, path: Path) -> None:
    """Take the steps in a layout and write its difference; every rank calls this."""
    reference = torch.load(job.place / "reference.pt", weights_only=True)
    try:
        run = _Run(job, layout)
    except OnnuriError as error:
        if dist.get_rank() == 0:
            Difference(layout=to_string(layout), refused=str(error)).save(path)
        return
    run.train(job.state_of(layout))
    resumed = _Run(job, layout)
    resumed.train(None, previous)
    results = run.results()
    gradients = _differences(results["gradients"], reference["gradients"])
    worst = max(gradients, key=lambda name: gradients[name])
    folder = path.with_suffix(".model")
    export(run.objective.module, folder, run.model.meshes, dtype=torch.float64)
    wrong_choices = torch.tensor(run.wrong_choices(reference["choices"]))
    dist.all_reduce(wrong_choices)
    if dist.get_rank():
        return
    expected_calls = 1 if layout.recompute == "none" else 2
    difference = Difference(
        layout=to_string(layout),
        first_loss=_relative(results["losses"][0], reference["losses"][0]),
        last_loss=_relative(results["losses"][-1], reference["losses"][-1]),
        norm=_relative(results["norms"][0], reference["norms"][0]),
        gradient=gradients[worst],
        gradient_name=worst,
        routing=int(wrong_choices),
        weights=max(_differences(results["weights"], reference["weights"]).values()),
        resumed=_relative(resumed.losses[-1], reference["losses"][-1]),
        exported=_exported_difference(job, results["weights"], folder),
        recomputed=run.layer_calls == expected_calls * len(run.first_rows),
    )
    difference.save(path)


@torch.no_grad()
def _exported_difference(job: _Job, weights: dict[str, Tensor], folder: Path) -> float:
    """Return how far the logits of an exported folder, which is then removed, are from those of the
    gathered weights."""
    network = job.network()
    for name, tensor in named_state(network):
        tensor.copy_(weights[name])
    row = RandomRows(job.vocabulary, job.config.tokens).row(0)
    exported = logits_of_folder(folder, row)
    shutil.rmtree(folder)
    return _difference(exported, logits_of_training(network, row))


def _relative(value: float, expected: float) -> float:
    """Return the relative difference of two numbers."""
    return abs(value - expected) / abs(expected) if value != expected else 0.0


def _differences(values: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Return each tensor's difference (`_difference`); infinity for one that only one side has."""
    return {
        name: _difference(values[name], expected[name])
        if name in values and name in expected
        else math.inf
        for name in values.keys() | expected.keys()
    }


def _difference(values: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors over the largest number expected; infinity where
    a value is no number, which no maximum would show."""
    largest = float((values - expected).abs().max())
    if math.isnan(largest):
        return math.inf
    scale = float(expected.abs().max())
    if not scale:
        return 0.0 if not largest else math.inf
    return largest / scale


class _Run:
    """Some training steps of a model in one layout, and what is recorded of them."""

    def __init__(self, job: _Job, layout: ParallelConfig | None) -> None:
        """Build the model and spread it; raises what `ParallelModel` raises."""
        self.job, self.config = job, job.config
        network = job.network()
        rows = RandomRows(job.vocabulary, job.config.tokens)
        unpacked = job.unpacked and layout is None
        self.objective = (_Unpacked if unpacked else RowObjective)(network, rows)
        self.model = ParallelModel(network, self.objective.loss, layout)
        network.train()
        self.optimizer = _RecordingOptimizers(network, job.config)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.choices: dict[str, Tensor] = {}
        """what each router chose, int64 [tokens, k], by "step/row/router" """
        self.layer_calls = 0
        """how often the first layer ran in the first step"""
        self.first_rows: range = range(0)
        """rows of the first step that this rank read"""

    def train(self, out: Path | None, start: Path | None = None) -> None:
        """Take the steps, from the state in `start` on if given; store a state in `out`."""
        position = state.Position()
        if start:
            position = state.restore(start, self.objective.module, self.optimizer)
        loader = RowLoader(
            self.objective.rows,
            BatchRamp(rows=self.config.rows),
            self.model.data_rank,
            self.model.data_ranks,
            position.step,
        )
        settings = TrainConfig(steps=self.config.steps, clip=self.config.clip)
        for step in range(position.step, self.config.steps):
            if out and step == self.config.stored_step:
                at = state.Position(step, loader.position)
                state.store(out, self.objective.module, self.optimizer, at)
            with self._recording(step, loader.row_numbers()):
                figures = train_step(
                    self.objective,
                    self.model,
                    loader,
                    self.optimizer,
                    settings,
                    self.config.learning_rate,
                )
            self.losses.append(self._global_mean(figures["loss"]))
            self.norms.append(mean_of(figures["grad_norm"]))

    def _global_mean(self, parts: Any) -> float:
        """Return the mean loss over all data ranks."""
        both = torch.stack([parts.sum.double(), torch.as_tensor(parts.weight).double()])
        total = self.model.meshes.sum_over_data(both) if self.model.meshes else both
        return float(total[0] / total[1])

    @contextmanager
    def _recording(self, step: int, rows: range) -> Iterator[None]:
        """Record in this context which experts are chosen in the first and the last step, and in
        the first step how often the first layer runs."""
        if step not in (0, self.config.steps - 1):
            yield
            return
        network: Any = self.objective.module
        hooks = []
        for number, router in enumerate(_routers(network)):
            hooks.append(router.register_forward_hook(self._record_choices(step, rows, number)))
        if step == 0:
            self.first_rows = rows
            part = next(network.model.layers[0].children())  # a layer is recomputed within its call
            hooks.append(part.register_forward_pre_hook(self._count_call))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _record_choices(self, step: int, rows: range, router: int) -> Callable[..., None]:
        """Return a hook that records what a router chooses for row after row."""
        left = iter(rows)

        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            """Record one row, unless its layer is being recomputed."""
            if not in_backward():
                self.choices[f"{step}/{next(left)}/{router}"] = outputs[2].detach().clone()

        return hook

    def _count_call(self, module: nn.Module, inputs: Any) -> None:
        """Count one call of the first layer's first part."""
        self.layer_calls += 1

    def wrong_choices(self, expected: dict[str, Tensor]) -> int:
        """Return how many choices of experts differ from those expected; every rank asks for its
        own rows."""
        return sum(
            int((chosen.sort(-1).values != expected[name].sort(-1).values).sum())
            for name, chosen in self.choices.items()
        )

    def results(self) -> dict[str, Any]:
        """Return what was recorded, tensors whole; every rank must call it."""
        return {
            "losses": self.losses,
            "norms": self.norms,
            "gradients": self.optimizer.gradients,
            # routers' biases are among a state's tensors that are no parameters
            "weights": {n: gather(t).clone() for n, t in named_state(self.objective.module)},
            "choices": self.choices,
        }


def _routers(network: nn.Module) -> list[nn.Module]:
    """Return the routers of a model by their class's name, those too that nothing balances; there
    may be none."""
    return [m for m in network.modules() if type(m).__name__.lower().endswith("topkrouter")]


class _Unpacked(RowObjective):
    """The objective of one process that reads a row's sequences one by one."""

    def parts(self, batch: PackedRow) -> LossParts:
        """Return a row's next-token loss, summed over its sequences."""
        losses = [row_loss(self.module, sequence).sum for sequence in sequences(batch)]
        return LossParts(torch.stack(losses).sum(), batch.weight)


def _keep_double() -> None:
    """Let casts of 64 bits to 32 leave 64 bits as they are, in this process, which does nothing
    else: model code so protects 16-bit numbers, in norms, routers and softmax.

    A mode of torch's would not do, since none is active where a backward pass recomputes a layer.
    """
    owners = ((Tensor, "to"), (Tensor, "type"), (Tensor, "float"), (torch, "softmax"))
    for owner, name in (*owners, (torch.nn.functional, "softmax")):
        setattr(owner, name, _without_cast(getattr(owner, name), name))


def _without_cast(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function of a tensor that keeps 64 bits where it is asked for 32."""

    def call(tensor: Any, *arguments: Any, **named: Any) -> Any:
        """Call the function, with float64 for float32 if the tensor has 64 bits."""
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64:
            return function(tensor, *arguments, **named)
        if name == "float":
            return tensor
        wide = [torch.float64 if a is torch.float32 else a for a in arguments]
        if named.get("dtype") is torch.float32:
            named["dtype"] = torch.float64
        return function(tensor, *wide, **named)

    return call


class _RecordingOptimizers(Optimizers):
    """Optimizers that keep the gradients of their first step."""

    def __init__(self, network: nn.Module, config: VerifyConfig) -> None:
        """Build the optimizers of a network."""
        betas = (0.9, 0.95)
        super().__init__(network, config.optimizer == "muon", config.learning_rate, 0.1, betas)
        self.named = dict(network.named_parameters())
        self.gradients: dict[str, Tensor] = {}
        """whole gradients of the first step by the parameter's name, after clipping"""

    def step(self, lr: float, skip: Tensor | None = None, divisor: Tensor | None = None) -> None:
        """Update all weights, after recording the gradients of the first step."""
        if not self.gradients:
            self.gradients = {
                name: gather(p.grad).clone() for name, p in self.named.items() if p.grad is not None
            }
        super().step(lr, skip, divisor)


def _packing_difference(job: _Job) -> float:
    """Return the largest relative difference, of loss and of each gradient, between a packed row
    and its sequences one by one."""
    row = RandomRows(job.vocabulary, job.config.tokens).row(1)
    network = job.network()
    whole = _loss_and_gradients(network, [row])
    alone = _loss_and_gradients(network, sequences(row))
    return max(_differences(alone, whole).values())


def sequences(row: PackedRow) -> list[PackedRow]:
    """Return a row's sequences as rows of their own, without the padding."""
    ends = row.lengths.cumsum(0).tolist()
    return [
        PackedRow(
            ids=row.ids[:, end - n : end],
            positions=row.positions[:, end - n : end],
            lengths=torch.tensor([n]),
            weights=row.weights[:, end - n : end],
            modality_ids=row.modality_ids[:, end - n : end],
        )
        for n, end in zip(row.lengths.tolist(), ends, strict=True)
        if n > 1 and end <= row.ids.shape[1] - row.padding
    ]


def _loss_and_gradients(network: nn.Module, rows: list[PackedRow]) -> dict[str, Tensor]:
    """Return the summed loss of rows and its gradients, by the parameter's name."""
    network.zero_grad(set_to_none=True)
    loss = torch.stack([row_loss(network, row).sum for row in rows]).sum()
    torch.autograd.backward(loss)
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}
