"""Measures greedy decoding of a batch: transformers' `generate` beside our forward pass in fixed
shapes and our whole engine, one random model, the same prompts.

    python benchmarks/gpu_decode.py --out gpu.json              on one GPU, in bfloat16
    python benchmarks/gpu_decode.py --profile                   and the kernels of a captured step
    python benchmarks/gpu_decode.py --tiny --device cpu         a small model in float32, as a check

Takes about a minute on an H100. Tokens a second count new ids of all rows over the whole time,
prompts included. `agree` is the share of rows whose first 32 ids equal those of transformers; in
bfloat16 other kernels round otherwise, and a random model's likeliest ids lie close together.
`behind` says whether that is all: by how much the same weights in float32 prefer another id to the
one that was chosen, on average over the first 32, and the worst; transformers' own is beside it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from own_step import LLAMA

from onnuri.errors import ConfigError
from onnuri.inference import static_forward
from onnuri.inference.device import DeviceName, find
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import SamplingConfig, TokenConstraint
from onnuri.inference.static_forward import PromptChunk
from onnuri.model.backbone import build_hf_model

BATCH, PROMPT, NEW = 64, 128, 256
COMPARED = 32
"""first ids of each row that are compared"""
TINY = LLAMA | {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
}

Ids = list[list[int]]


class Case:
    """One model and the prompts that every way of decoding gets."""

    def __init__(self, device: DeviceName, tiny: bool) -> None:
        self.device: DeviceName = device
        self.where = torch.device(device)
        self.batch, self.prompt, self.new = (8, 16, 40) if tiny else (BATCH, PROMPT, NEW)
        self.positions = self.prompt + self.new
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with self.where:
            model: Any = build_hf_model("llama", TINY if tiny else LLAMA)
        torch.set_default_dtype(torch.float32)
        # made in bfloat16 they would be rounded
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(self.where)
        self.model: Any = model.eval().requires_grad_(False)
        draw = torch.Generator().manual_seed(1)
        size = (self.batch, self.prompt)
        self.graphs: dict[tuple[int, int], Any] = {}
        """the forward pass's captured steps, by rows and positions"""
        self.ids: Ids = torch.randint(0, model.config.vocab_size, size, generator=draw).tolist()

    def transformers(self, new: int) -> Ids:
        """Decode by `generate` as it comes."""
        ids = torch.tensor(self.ids, device=self.where)
        made = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new,
            max_new_tokens=new,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers: Ids = made[:, self.prompt :].tolist()
        return answers

    def forward_pass(self) -> Callable[[int], Ids]:
        """Return a function that decodes with our forward pass alone: prefill, then a loop of
        steps and the likeliest ids."""
        cache, forward = static_forward.build(self.model, self.batch, self.where, self.positions)
        self.graphs = forward.graphs
        vocabulary = self.model.config.vocab_size

        @torch.inference_mode()
        def decode(new: int) -> Ids:
            chunks = [PromptChunk(ids, row, 0) for row, ids in enumerate(self.ids)]
            states = torch.stack(forward.prefill_last(chunks, cache))
            made: Ids = []
            for step in range(new):
                made.append(forward.logits(states, 0, vocabulary).argmax(-1).tolist())
                if step < new - 1:
                    states = forward.decode(made[-1], [self.prompt + step] * self.batch, cache)
            return [list(row) for row in zip(*made, strict=True)]

        return decode

    def engine(self) -> Callable[[int], Ids]:
        """Return a function that decodes with our engine: requests, sampling and all."""
        settings = EngineConfig(
            rows=self.batch,
            device=self.device,
            positions=self.positions,
            static=True,
            prefix_bytes=0,  # else a second run would reuse the first's prompts
        )
        engine = Engine(self.model, settings)
        sizes = ((0, self.model.config.vocab_size),)

        def decode(new: int) -> Ids:
            return engine.generate(
                self.ids,
                TokenConstraint(position_ranges=sizes * new),
                SamplingConfig(temperature=0),
                [0] * self.batch,
            )

        return decode


@torch.inference_mode()
def behind(case: Case, ids: Ids, rows: int = 8) -> list[float]:
    """Return how far the logits of chosen ids are behind the largest, in float32 and after the same
    ids: mean and worst."""
    exact: Any = copy.deepcopy(case.model).float()
    exact.set_attn_implementation("sdpa")
    missing = []
    for first in range(0, case.batch, rows):
        chosen = torch.tensor([own[:COMPARED] for own in ids[first : first + rows]])
        whole = torch.cat([torch.tensor(case.ids[first : first + rows]), chosen], 1)
        logits = exact(whole.to(case.where), logits_to_keep=COMPARED + 1).logits[:, :-1]
        of_chosen = logits.gather(2, chosen.to(case.where)[:, :, None])[:, :, 0]
        missing.append(logits.amax(2) - of_chosen)
    all_missing = torch.cat(missing)
    return [round(float(all_missing.mean()), 5), round(float(all_missing.max()), 5)]


def replay_ms(graph: Any, times: int = 50) -> float:
    """Return the milliseconds that a captured step takes on the GPU, none of it on the host."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return round(begin.elapsed_time(end) / times, 3)


def kernels(graph: Any) -> str:
    """Return a table of the kernels of a captured step, those that take longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        graph.replay()
        torch.cuda.synchronize()
    table: str = profile.key_averages().table(sort_by="cuda_time_total", row_limit=25)
    return table


def seconds_of(decode: Callable[[int], Ids], new: int, where: torch.device) -> tuple[float, Ids]:
    """Return how long decoding takes until the GPU is done, and the ids."""
    if where.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    ids = decode(new)
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, ids


def measure(case: Case, decode: Callable[[int], Ids], warm_up: int, runs: int) -> dict[str, Any]:
    """Return tokens a second of the fastest run, what the runs took, the peak of memory and the
    ids."""
    if case.where.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    first, _ = seconds_of(decode, warm_up, case.where)
    taken = []
    for _ in range(runs):
        seconds, ids = seconds_of(decode, case.new, case.where)
        taken.append(seconds)
    peak = torch.cuda.max_memory_allocated() / 2**30 if case.where.type == "cuda" else 0.0
    return {
        "tokens_per_second": round(case.batch * case.new / min(taken), 1),
        "seconds": [round(seconds, 3) for seconds in taken],
        "warm_up_seconds": round(first, 2),
        "peak_GiB": round(peak, 2),
        "ids": ids,
    }


def run(device: DeviceName, tiny: bool, profile: bool = False) -> dict[str, Any]:
    """Return the figures of the three ways of decoding, printed as they come."""
    case = Case(device, tiny)
    size = sum(p.numel() for p in case.model.parameters())
    gpu = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    about = {
        "device": gpu,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": size,
        "dtype": str(case.model.dtype).removeprefix("torch."),
        "batch": case.batch,
        "prompt": case.prompt,
        "new": case.new,
    }
    print(about, flush=True)
    figures: dict[str, dict[str, Any]] = {}
    # transformers first, while the class still has its own attention; ours warm up on every shape
    # that they will meet, so that no graph is captured in a timed run
    for name, decode, warm_up, runs in (
        ("transformers", lambda: case.transformers, 8, 2),
        ("forward", case.forward_pass, case.new, 3),
        ("engine", case.engine, case.new, 3),
    ):
        way = decode()  # kept: a captured step reads and writes its tensors
        figures[name] = measure(case, way, warm_up, runs)
        known, own = figures["transformers"], figures[name]
        own["ratio"] = round(own["tokens_per_second"] / known["tokens_per_second"], 2)
        equal = [
            ours[:COMPARED] == theirs[:COMPARED]
            for ours, theirs in zip(own["ids"], known["ids"], strict=True)
        ]
        own["agree"] = round(sum(equal) / len(equal), 3)
        if profile:
            for shape, graph in case.graphs.items():
                own.setdefault("replay_ms", {})[str(shape)] = replay_ms(graph)
            if case.graphs:
                print(kernels(list(case.graphs.values())[-1]), flush=True)
        case.graphs = {}
        del way
        own["behind"] = behind(case, own["ids"])
        print(name, {k: v for k, v in own.items() if k != "ids"}, flush=True)
    for own in figures.values():
        del own["ids"]
    return about | {"ways": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        find(options.device)
    except ConfigError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    figures = run(options.device, options.tiny, options.profile)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
