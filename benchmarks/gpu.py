"""What Onnuri does on one GPU: training steps, transformers' `Trainer` beside them, the planner's
forecast frozen before each, and decoding.

    python benchmarks/gpu.py                     everything, at most 8 minutes; results/gpu.json
    python benchmarks/gpu.py --only dense,card   only parts whose name begins so
    python benchmarks/gpu.py --tiny              small models on a CPU: a trial of the script
    python benchmarks/gpu.py --profile dense-compiled   and the kernels of a step, by time

Each part is a process of its own: what one leaves behind would count into the next one's peak.
Results are written after each part, so that a run that ends early has told what it found.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from own_step import values
from torch import Tensor

from onnuri.calibration import measured
from onnuri.data.loader import BatchRamp, RowLoader
from onnuri.data.pack import PackedRow
from onnuri.model.backbone import build_hf_config, build_hf_model
from onnuri.model.loss import LossParts
from onnuri.model.objective import RowObjective, omni_loss
from onnuri.model.token_layout import CandidateSet
from onnuri.parallel.model import ParallelModel
from onnuri.planner import hardware
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import GIB, memory
from onnuri.planner.parallel import ParallelConfig, Recompute
from onnuri.planner.step_time import step_time
from onnuri.training.loop import TrainConfig, mean_of, train_step
from onnuri.training.optim import Optimizers
from onnuri.training.verify_device import MODES, DeviceDifference, verify_on_device

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/gpu.json"
TOKENS, MICRO_BATCH, STEPS, WARM = 4096, 4, 12, 4
LEARNING_RATE, DECAY, BETAS = 1e-4, 0.1, (0.9, 0.95)
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
}
"""sizes of the trial"""


class Case(NamedTuple):
    """A training step that is measured."""

    family: str
    compiled: bool = False
    recompute: Recompute = "none"
    offload: bool = False
    """whether the host keeps weights and optimizer"""
    packed: bool = False
    """whether rows hold many sequences of media instead of four of equal length"""
    planned: bool = True
    """whether the planner forecasts it"""


CASES = {
    "dense": Case("llama"),
    "dense-compiled": Case("llama", True),
    "dense-compiled-packed": Case("llama", True, packed=True, planned=False),
    "dense-compiled-full": Case("llama", True, "full"),
    "dense-compiled-offload": Case("llama", True, offload=True, planned=False),
    "mixture": Case("solar_open"),
    "mixture-compiled": Case("solar_open", True),
    "mixture-compiled-packed": Case("solar_open", True, packed=True, planned=False),
}


VERIFIED = ("hyperclovax_omni", "solar_open", "axk1")
"""recipes whose twins' steps are compared with 32 bits: dense, mixture, latent attention"""
LIMIT_SECONDS = 75.0
"""of one part"""


class Scale(NamedTuple):
    """Sizes of a run: the card's, or the trial's."""

    device: str
    tokens: int
    steps: int
    warm: int
    tiny: bool

    def config(self, family: str) -> dict[str, Any]:
        """Return the values of a family's configuration."""
        found = values(family)
        return {k: TINY.get(k, v) for k, v in found.items()} if self.tiny else found

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self) -> float:
        """Return the GiB that were allocated at the peak; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / GIB if self.device == "cuda" else 0.0


class Rows:
    """Rows of random ids by number: four sequences of equal length, or many as media have them."""

    def __init__(self, scale: Scale, vocabulary: int, packed: bool) -> None:
        """Make rows of the scale's tokens."""
        self.scale, self.vocabulary, self.packed = scale, vocabulary, packed

    def row(self, index: int) -> PackedRow:
        """Return row number `index`."""
        draw = np.random.default_rng([7, index])
        total = self.scale.tokens * MICRO_BATCH
        lengths = [self.scale.tokens] * MICRO_BATCH
        if self.packed:  # a caption of some words up to a clip of some seconds
            lengths = []
            while (left := total - sum(lengths)) > 0:
                drawn = int(draw.lognormal(np.log(self.scale.tokens / 8), 0.9))
                lengths.append(min(left, max(8, drawn), self.scale.tokens))
        ids = torch.from_numpy(draw.integers(0, self.vocabulary, (1, total)))
        weights = torch.ones(1, total)
        weights[0, np.cumsum([0, *lengths[:-1]])] = 0.0
        places = np.concatenate([np.arange(n) for n in lengths])
        parts = np.repeat(np.arange(len(lengths)) % 3, lengths)
        return PackedRow(
            ids,
            torch.from_numpy(places)[None],
            torch.tensor(lengths),
            weights,
            torch.from_numpy(parts)[None],
        )


class Media(RowObjective):
    """Rows whose targets are scored in the set of their modality, as a model of several does."""

    def parts(self, batch: PackedRow) -> LossParts:
        """Return a row's loss."""
        rows: Any = self.rows
        third, v = rows.vocabulary // 4, rows.vocabulary
        sets = (
            CandidateSet(codebook="text", lo=0, hi=v - 2 * third),
            CandidateSet(codebook="image", lo=v - 2 * third, hi=v - third),
            CandidateSet(codebook="audio", lo=v - third, hi=v),
        )
        return omni_loss(self.module, sets, batch)


def join(scale: Scale) -> None:
    """Make this process the only rank."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("nccl" if scale.device == "cuda" else "gloo")


def build(scale: Scale, family: str) -> Any:
    """Return a model with the same random weights at every call, in float32 on the device."""
    torch.manual_seed(0)
    with torch.device(scale.device):
        network: Any = build_hf_model(family, scale.config(family))
    network.config._experts_implementation = "grouped_mm"
    return network


def train(name: str, scale: Scale, profiled: bool) -> dict[str, Any]:
    """Return tokens/s, GiB at the peak and losses of a case, by the code that `fit` runs."""
    case = CASES[name]
    join(scale)
    network = build(scale, case.family)
    rows = Rows(scale, network.config.vocab_size, case.packed)
    objective = (Media if case.packed else RowObjective)(network, rows)
    layout = ParallelConfig(micro_batch=MICRO_BATCH, recompute=case.recompute, offload=case.offload)
    dtype = torch.bfloat16 if scale.device == "cuda" else None
    model = ParallelModel(network, objective.loss, layout, dtype, case.compiled)
    network.train()
    optimizer = Optimizers(network, False, LEARNING_RATE, DECAY, BETAS)
    loader = RowLoader(rows, BatchRamp(rows=1))
    config = TrainConfig(steps=scale.steps, weight_decay=DECAY, learning_rate=LEARNING_RATE)
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began, losses = time.perf_counter(), []

    def step() -> Any:
        """Run one training step and return its loss, on the device."""
        return train_step(objective, model, loader, optimizer, config, LEARNING_RATE)["loss"]

    losses.append(step())
    scale.synchronize()
    first_seconds = time.perf_counter() - began
    losses += [step() for _ in range(scale.warm - 1)]
    scale.synchronize()
    began = time.perf_counter()
    losses += [step() for _ in range(scale.steps)]
    scale.synchronize()
    seconds = (time.perf_counter() - began) / scale.steps
    found = {
        "tokens_per_s": round(scale.tokens * MICRO_BATCH / seconds, 1),
        "peak_gib": round(scale.peak_gib(), 2),
        "first_step_s": round(first_seconds, 2),
        "loss_first": round(mean_of(losses[0]), 5),
        "loss_last": round(mean_of(losses[-1]), 5),
        "loss_mean": round(sum(map(mean_of, losses)) / len(losses), 5),
    }
    if not case.packed:
        flops = step_flops(scale, case.family)
        found["model_tflops"] = round(flops / seconds / 1e12, 1)
    if profiled:
        found["profile"] = show_profile(step, scale)
    return found


def step_flops(scale: Scale, family: str) -> float:
    """Return the model FLOPs of a step of unpacked rows: six per active weight and token, and
    causal attention."""
    config = build_hf_config(family, scale.config(family))
    with torch.device("meta"):
        network = build_hf_model(family, scale.config(family))
    active = 0.0
    for name, p in network.named_parameters():
        if p.ndim == 3 and "experts" in name:
            active += p.numel() * config.num_experts_per_tok / p.shape[0]
        elif p.ndim == 2 and "embed" not in name:
            active += p.numel()
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return (6 * active + attention * scale.tokens) * scale.tokens * MICRO_BATCH


def show_profile(step: Callable[[], Any], scale: Scale) -> dict[str, float]:
    """Print the kernels of two steps by time, and where the device waited for the host; return the
    milliseconds of both per step."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (scale.device == "cuda")
    with profile(activities=kinds) as found:
        step()
        step()
        scale.synchronize()
    kernels: dict[str, list[float]] = {}
    spans: list[tuple[float, float, str]] = []
    for event in found.events() or []:
        if scale.device == "cuda" and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        if event.name.startswith("Optimizer."):  # a mark, not a kernel
            continue
        spent = event.self_device_time_total if scale.device == "cuda" else event.cpu_time
        kernels.setdefault(event.name, []).append(spent / 1e3)
        spans.append((event.time_range.start, event.time_range.end, event.name))
    for name, each in sorted(kernels.items(), key=lambda x: -sum(x[1]))[:32]:
        print(f"  {sum(each):8.2f} ms {len(each):5.0f}x {name[:110]}", flush=True)
    idle = idle_spans(spans)
    for waited, name in sorted(idle, reverse=True)[:12]:
        print(f"  {waited / 1e3:8.2f} ms idle before {name[:100]}", flush=True)
    of_step = {
        "kernels_ms": round(sum(map(sum, kernels.values())) / 2, 1),
        "idle_ms": round(sum(waited for waited, _ in idle) / 2e3, 1),
    }
    print(f"  {of_step} a step", flush=True)
    return of_step


def idle_spans(spans: list[tuple[float, float, str]]) -> list[tuple[float, str]]:
    """Return the times between kernels, given by start, end and name, in which none ran, each with
    the name of the kernel that ended it."""
    reached, idle = -1.0, []
    for start, end, name in sorted(spans):
        if 0 <= reached < start:
            idle.append((start - reached, name))
        reached = max(reached, end)
    return idle


def forecast(name: str, gpu: str) -> dict[str, Any]:
    """Return the planner's forecast of a case, which no measurement of this run has touched."""
    case = CASES[name]
    layout = ParallelConfig(micro_batch=MICRO_BATCH, sharding="fsdp", recompute=case.recompute)
    job = Job(
        architecture=measured.shapes()[f"{case.family} shape"],
        layout=layout,
        cluster=Cluster(gpu=gpu, gpus=1, compiled=case.compiled),
        tokens=TOKENS,
        batch_tokens=TOKENS * MICRO_BATCH,
        software_year=measured.RELEASE,
    )
    speed = step_time(job)
    return {
        "tokens_per_s": round(speed.tokens_per_s_per_gpu, 1),
        "low": round(speed.low, 1),
        "high": round(speed.high, 1),
        "peak_gib": round(memory(job).allocated / GIB, 2),
    }


class _Steps(transformers.TrainerCallback):  # type: ignore[misc]
    """Times a Trainer's steps, waiting for the device at both ends only."""

    def __init__(self, scale: Scale) -> None:
        self.scale, self.began, self.ended = scale, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step in (self.scale.warm, self.scale.warm + self.scale.steps):
            self.scale.synchronize()
            self.began, self.ended = self.ended, time.perf_counter()


class _Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The sequences of `Rows`, one by one."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows.row(index // MICRO_BATCH)
        ids = row.ids[0].view(MICRO_BATCH, -1)[index % MICRO_BATCH]
        return {"input_ids": ids, "labels": ids}


class _InOrder(transformers.Trainer):  # type: ignore[misc]
    """A Trainer that takes the examples in their order, as Onnuri does."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(name: str, scale: Scale, profiled: bool) -> dict[str, Any]:
    """Return what `train` does, by transformers' Trainer: same weights, rows, optimizer, rate."""
    family, compiled = name.split("-")[1], name.endswith("compiled")
    network = build(scale, {"dense": "llama", "mixture": "solar_open"}[family])
    gpu = scale.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=MICRO_BATCH,
            max_steps=scale.warm + scale.steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=1.0,
            bf16=gpu,
            use_cpu=not gpu,
            torch_compile=compiled,
            logging_steps=scale.warm + scale.steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        timer = _Steps(scale)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        run = _InOrder(
            network,
            settings,
            train_dataset=_Examples(Rows(scale, network.config.vocab_size, False)),
            callbacks=[timer],
        )
        run.train()
    seconds = (timer.ended - timer.began) / scale.steps
    losses = [line["loss"] for line in run.state.log_history if "loss" in line]
    return {
        "tokens_per_s": round(scale.tokens * MICRO_BATCH / seconds, 1),
        "peak_gib": round(scale.peak_gib(), 2),
        "loss_mean": round(losses[-1], 5) if losses else None,
    }


def card(name: str, scale: Scale, profiled: bool) -> dict[str, Any]:
    """Return the machine: name, memory, rate of a large product and of copies."""
    from onnuri.training import doctor

    checks = [doctor.check_torch, doctor.check_cuda, doctor.check_nccl, doctor.check_attention]
    lines = [check() for check in checks]
    for line in lines:
        print("  " + " ".join(str(part) for part in line if part), flush=True)
    n, dtype = (8192, torch.bfloat16) if scale.device == "cuda" else (512, torch.float32)
    one, other = (torch.randn(n, n, device=scale.device, dtype=dtype) for _ in range(2))
    product = min(_seconds(lambda: one @ other, scale) for _ in range(5))
    big = torch.randn((1 << 30) if scale.device == "cuda" else (1 << 20), device=scale.device)
    copy = torch.empty_like(big)
    copied = min(_seconds(lambda: copy.copy_(big), scale) for _ in range(3))
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "product_tflops": round(2 * n**3 / product / 1e12, 1),
        "copy_tb_per_s": round(2 * big.nbytes / copied / 1e12, 3),
        "doctor": [[str(part) for part in line] for line in lines],
    }
    if scale.device == "cuda":
        found |= {
            "name": torch.cuda.get_device_name(),
            "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / GIB, 1),
        }
    return found


def _seconds(call: Callable[[], Any], scale: Scale, calls: int = 10) -> float:
    """Return the seconds of a call, mean of some after a warm-up."""
    call()
    scale.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    scale.synchronize()
    return (time.perf_counter() - began) / calls


def verify(name: str, scale: Scale, profiled: bool) -> dict[str, Any]:
    """Return how far 16 bits, compiled layers and recomputation are from 32 bits."""
    from onnuri.recipes.verify import device_twin

    recipe = name.removeprefix("verify-")
    # compilations of latent attention take a minute
    modes = MODES[:2] if scale.tiny else MODES[:5] if recipe == "axk1" else MODES

    def report(each: DeviceDifference) -> None:
        """Print how far a mode is off."""
        words = f"loss {each.loss:.1e}  gradients {each.gradients:.1e}  learned {each.learned:.1e}"
        print(f"  {recipe:18} {each.mode:32} {words}  {each.passes}", flush=True)

    build = functools.partial(device_twin, recipe)
    differences = verify_on_device(build, scale.device, modes, report)
    return {"modes": [{**each.to_json(), "passes": each.passes} for each in differences]}


def decode(name: str, scale: Scale, profiled: bool) -> dict[str, Any]:
    """Return what `gpu_decode.py` measures."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/decode.json"
        tiny = ["--tiny"] if scale.tiny else []
        command = [sys.executable, str(ROOT / "benchmarks/gpu_decode.py"), *tiny, "--out", out]
        subprocess.run([*command, "--device", scale.device], check=True)
        return dict(json.loads(Path(out).read_text(encoding="utf-8")))


def parts() -> dict[str, Callable[[str, Scale, bool], dict[str, Any]]]:
    """Return every part by name, in the order in which they run."""
    found: dict[str, Any] = {"card": card}
    found |= dict.fromkeys(("dense-compiled", "trainer-dense", "trainer-dense-compiled"))
    found |= {"mixture-compiled": None, "decode": decode}
    found |= {f"verify-{recipe}": verify for recipe in VERIFIED}
    found |= dict.fromkeys(CASES)
    for name in found:
        if name in CASES:
            found[name] = train
        elif name.startswith("trainer"):
            found[name] = trainer
    return found


def _child(out: str, name: str, scale: Scale, profiled: bool) -> None:
    """Run one part and leave its result in a file."""
    began = time.perf_counter()
    try:
        found = parts()[name](name, scale, profiled)
    except Exception as error:  # the other parts go on
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"[:300]}
    found["part_s"] = round(time.perf_counter() - began, 1)
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def run_part(name: str, scale: Scale, profiled: bool, limit: float) -> dict[str, Any]:
    """Return the result of one part, run in a process of its own for at most `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/found.json"
        # forked: torch and transformers are imported once; no GPU has been touched yet
        process = multiprocessing.get_context("fork").Process(
            target=_child, args=(out, name, scale, profiled)
        )
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            return {"error": f"took more than {limit:.0f} s"}
        if not Path(out).exists():
            return {"error": f"ended with status {process.exitcode}"}
        return dict(json.loads(Path(out).read_text(encoding="utf-8")))


def _check_losses(results: dict[str, Any]) -> None:
    """Note in the results by how much each way of training the same rows from the same weights is
    off the Trainer's mean loss: a fast step that learns nothing is no result."""
    expected = results.get("trainer-dense", {}).get("loss_mean")
    ways = [name for name, case in CASES.items() if case == case._replace(packed=False)]
    for name in ways:
        own = results.get(name, {}).get("loss_mean")
        if expected and own and CASES[name].family == "llama":
            results[name]["loss_off_trainer"] = round(own / expected - 1, 6)


def table_name(card: str) -> str | None:
    """Return the name of a card in the planner's table, None for one that it does not have."""
    words = set(re.split(r"[ -]", card.replace("GB", "")))
    named = [name for name in hardware.table() if set(name.split("-")) <= words]
    return max(named, key=len, default=None)


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    read.add_argument("--tiny", action="store_true", help="small models on a CPU")
    read.add_argument("--only", default="", help="parts whose names begin so, by commas")
    read.add_argument("--profile", default="", help="parts whose kernels are printed, by commas")
    read.add_argument("--minutes", type=float, default=8.0, help="no part begins after this")
    read.add_argument("--out", type=Path, default=RESULT)
    asked = read.parse_args()
    scale = Scale("cuda", TOKENS, STEPS, WARM, False)
    if asked.tiny:
        scale = Scale("cpu", 64, 2, 2, True)
    gpu = "none"
    if not asked.tiny:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
        gpu = listed.stdout.strip().splitlines()[0]
    results: dict[str, Any] = {"gpu": gpu, "tiny": asked.tiny}
    kind = "H200" if asked.tiny else table_name(gpu)
    results["forecasts"] = {
        name: forecast(name, kind) for name, case in CASES.items() if case.planned and kind
    }
    print("forecasts", json.dumps(results["forecasts"]), flush=True)
    began = time.perf_counter()
    wanted = tuple(part for part in asked.only.split(",") if part)
    for name in parts():
        left = asked.minutes * 60 - (time.perf_counter() - began)
        if left <= 0 or (wanted and not name.startswith(wanted)):
            continue
        profiled = name in asked.profile.split(",")
        results[name] = run_part(name, scale, profiled, min(left, LIMIT_SECONDS))
        _check_losses(results)
        print(
            f"{time.perf_counter() - began:6.1f} s  {name}  {json.dumps(results[name])}", flush=True
        )
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
