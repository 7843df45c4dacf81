"""A stand-in for vLLM, as far as `onnuri/inference/vllm_worker.py` and `vllm_processor.py` know it:
the same names, our own forward pass, and a scheduler that does by chance, and often, what vLLM's
does seldom: it admits half of a pair, moves rows, puts some aside and takes them in again.
"""

import argparse
import dataclasses
import enum
import json
import pathlib
import random
import sys
import types

import torch
from safetensors.torch import load_file

from onnuri.inference.cache import Cache
from onnuri.inference.cpu_llama import LlamaForward

__version__ = "0.0.stand-in"


class Refused(Exception):
    """vLLM's are no ValueErrors."""


class MoveDirectionality(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


@dataclasses.dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: list
    added: list
    moved: list


def process_dict_updates(entries, update, new_state):
    """As vLLM 0.32 does it."""
    for index, params, prompt, behind in update.added:
        if (state := new_state(params, prompt, behind)) is not None:
            entries[index] = state
        else:
            entries.pop(index, None)
    for index in update.removed:
        entries.pop(index, None)
    for a, b, direction in update.moved:
        first, second = entries.pop(a, None), entries.pop(b, None)
        if first is not None:
            entries[b] = first
        if second is not None and direction == MoveDirectionality.SWAP:
            entries[a] = second


@dataclasses.dataclass
class SamplingParams:
    temperature: float
    max_tokens: int
    ignore_eos: bool
    detokenize: bool
    output_kind: object
    extra_args: dict


class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
        parser.add_argument("--tensor-parallel-size", type=int, default=1)
        for name in ("--max-model-len", "--max-num-batched-tokens"):
            parser.add_argument(name, type=int)
        for name in ("--enable-chunked-prefill", "--async-scheduling"):
            parser.add_argument(name, action="store_true", default=None)
        return parser

    @staticmethod
    def from_cli_args(chosen):
        return chosen


@dataclasses.dataclass(eq=False)
class Row:
    id: str
    prompt: list
    params: SamplingParams
    behind: list
    slot: int = -1
    held: int = 0
    """where its keys and values are, and of how many ids"""


def model_of(folder):
    """The folder's weights as the stock model names them, without transformers, which takes seconds
    to import."""
    root = types.SimpleNamespace(
        config=types.SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    )
    for name, weight in load_file(folder / "model.safetensors").items():
        *parts, last = name.split(".")
        at = root
        for part in parts:
            at.__dict__.setdefault(part, types.SimpleNamespace())
            at = at.__dict__[part]
        at.__dict__[last] = weight.float()
    layers = vars(root.model.layers)
    root.model.layers = [layers[str(k)] for k in range(len(layers))]
    return root


class LLMEngine:
    def __init__(self, chosen):
        from onnuri.inference.vllm_processor import Processor

        assert (
            chosen.logits_processors == ["onnuri.inference.vllm_processor:Processor"]
            and chosen.skip_tokenizer_init
        )
        torch.set_num_threads(1)
        model = model_of(pathlib.Path(chosen.model))
        self.forward, self.cache = LlamaForward(model), Cache.of(model, chosen.max_num_seqs)
        self.chosen, self.chance = chosen, random.Random(0)
        self.processor = Processor(None, torch.device("cpu"), False)
        self.waiting, self.batch = [], []
        self.engine_core = types.SimpleNamespace(shutdown=lambda: None)
        parallel = types.SimpleNamespace(world_size=chosen.tensor_parallel_size)
        shape = types.SimpleNamespace(dtype=torch.float32, max_model_len=chosen.max_model_len)
        self.vllm_config = types.SimpleNamespace(model_config=shape, parallel_config=parallel)

    @classmethod
    def from_engine_args(cls, chosen):
        return cls(chosen)

    def add_request(self, id, prompt, params):
        ids = prompt["prompt_token_ids"]
        if len(ids) >= self.chosen.max_model_len:
            raise Refused(
                f"{len(ids)} tokens are more than a model of {self.chosen.max_model_len} takes"
            )
        self.waiting.append(Row(id, ids, params, []))

    def abort_request(self, ids):
        self.waiting = [row for row in self.waiting if row.id not in ids]
        for row in [row for row in self.batch if row and row.id in ids]:
            self.batch[self.batch.index(row)] = None

    def _update(self):
        """Put aside, close gaps, admit, move: what a step begins with."""
        if self.chance.random() < 0.02 and (held := [row for row in self.batch if row]):
            row = self.chance.choice(held)
            self.batch[self.batch.index(row)] = None
            self.waiting.insert(0, row)
        removed = [k for k in range(len(self.batch)) if self.batch[k] is None]
        added, moved = [], []
        for _ in range(self.chance.choice((1, 2, 2, 3))):
            if (
                self.waiting
                and sum(row is not None for row in self.batch) < self.chosen.max_num_seqs
            ):
                row, place = self.waiting.pop(0), removed.pop() if removed else len(self.batch)
                row.slot = min(
                    set(range(self.chosen.max_num_seqs))
                    - {other.slot for other in self.batch if other}
                )
                row.held = 0
                self.batch[place : place + 1] = [row]
                added.append((place, row.params, row.prompt, row.behind))
        for gap in sorted(removed):
            while self.batch and self.batch[-1] is None:
                self.batch.pop()
            if gap < len(self.batch):
                moved.append((len(self.batch) - 1, gap, MoveDirectionality.UNIDIRECTIONAL))
                self.batch[gap] = self.batch.pop()
        if len(self.batch) > 1 and self.chance.random() < 0.2:
            a, b = self.chance.sample(range(len(self.batch)), 2)
            self.batch[a], self.batch[b] = self.batch[b], self.batch[a]
            moved.append((a, b, MoveDirectionality.SWAP))
        self.processor.update_state(BatchUpdate(len(self.batch), removed, added, moved))

    @torch.inference_mode()
    def step(self):
        self._update()
        if not self.batch:
            return []
        hidden = []
        for row in self.batch:
            ids = row.prompt + row.behind
            hidden.append(
                self.forward.prefill(torch.tensor(ids[row.held :]), row.slot, row.held, self.cache)[
                    -1
                ]
            )
            row.held = len(ids)
        logits = self.forward.logits(torch.stack(hidden), 0, len(self.forward.embedding))
        drawn = self.processor.apply(logits).argmax(-1).tolist()
        outputs = []
        for row, token in zip(list(self.batch), drawn, strict=True):
            row.behind.append(token)
            over = (
                len(row.behind) == row.params.max_tokens
                or row.held + 1 >= self.chosen.max_model_len
            )
            if over:
                self.batch[self.batch.index(row)] = None
            said = types.SimpleNamespace(token_ids=[token])
            outputs.append(types.SimpleNamespace(request_id=row.id, outputs=[said], finished=over))
        return outputs


def _module(name, **members):
    sys.modules[f"vllm.{name}"] = made = types.ModuleType(f"vllm.{name}")
    made.__dict__.update(members)


_module("sampling_params", RequestOutputKind=types.SimpleNamespace(DELTA="delta"))
_module("platforms", current_platform=types.SimpleNamespace(is_cpu=lambda: True, device_name="cpu"))
_module("utils")
_module("utils.argparse_utils", FlexibleArgumentParser=argparse.ArgumentParser)
_module("v1")
_module("v1.sample")
_module("v1.sample.logits_processor", LogitsProcessor=object)
_module("v1.sample.logits_processor.builtin", process_dict_updates=process_dict_updates)
