"""One rank of a small run by `onnuri train`: `trained_rank.py FOLDER OPTIONS`, with torchrun's
environment where there are several. It notes every row that it reads, and can stand still at a
given place in a save so that it is killed there. `kills.py` starts it.

    FOLDER/rows-RANK.jsonl    attempt, step, row, the row's content and its loss, in hex
    FOLDER/hold               there while a rank stands still; it goes on when that is deleted
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import deque
from pathlib import Path

import torch
import torch.distributed as dist

from onnuri import cli, files, recipes
from onnuri.model.backbone import build_hf_model
from onnuri.model.objective import RowObjective
from onnuri.parallel import launch
from onnuri.parallel.model import ParallelModel
from onnuri.parallel.whole import copy_weights
from onnuri.training import saver, state
from onnuri.training.loop import TrainConfig, fit
from onnuri.training.verify import RandomRows

VALUES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
TOKENS = 48


class NotedRows(RowObjective):
    """A NotedRows notes each row of its run when the row's loss is known."""

    def __init__(self, module, options, path):
        super().__init__(module, RandomRows(VALUES["vocab_size"], TOKENS))
        self.options, self.path, self.numbers = options, path, deque()

    def batch(self, number):
        self.numbers.append(number)
        return super().batch(number)

    def loss(self, batch):
        number = self.numbers.popleft()
        step = number // self.options["rows"]
        time.sleep(self.options["pause"])
        parts, figures = super().loss(batch)
        line = {
            "attempt": self.options["attempt"],
            "step": step,
            "row": number,
            "content": hashlib.sha256(batch.ids.numpy().tobytes()).hexdigest(),
            "loss": float(parts.sum.detach()).hex(),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if number == self.options["nan_row"]:
            parts = parts._replace(sum=parts.sum * float("nan"))
            figures = {**figures, "loss": parts._replace(sum=parts.sum.detach())}
        if step + 1 == self.options["stop_after"]:
            os.kill(os.getpid(), 15)
        return parts, figures


def network(options):
    torch.manual_seed(0)
    values = {**VALUES, "attention_dropout": options["dropout"]}
    return build_hf_model("llama", values).double()


def hold_once(owner, name, place, options, out, applies=lambda *_: True):
    """Make a function stand still before its work, in save number `hold_save`, once per folder."""
    original, calls, held = getattr(owner, name), [], out / "held"

    def held_back(*args, **kwargs):
        if applies(*args):
            calls.append(1)
            if len(calls) == options["hold_save"] and not held.exists():
                held.touch()
                (out / "hold").write_text(place)
                while (out / "hold").exists():
                    time.sleep(0.01)
        return original(*args, **kwargs)

    setattr(owner, name, held_back)


def prepare_hold(options, out):
    """Let the rank that is to stand still do so."""
    place = options["hold"]
    if place is None or options["hold_rank"] != int(os.environ.get("RANK", 0)):
        return
    if place == "copying":
        hold_once(saver.Saver, "_stage", place, options, out)
    elif place == "writing":
        hold_once(state.dcp.FileSystemWriter, "write_data", place, options, out)
    elif place == "hashing":
        hold_once(state, "_own_hashes", place, options, out)
    elif place == "naming":
        hold_once(state.os, "rename", place, options, out, lambda a, b: b.name.isdecimal())
    elif place == "deleting":
        hold_once(state.os, "rename", place, options, out, lambda a, b: a.name.isdecimal())


def train(*_, **__):
    """Train the small model and write it, in place of a recipe."""
    out, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    prepare_hold(options, out)
    with launch.ranks():
        launch.join()
        trained = network(options)
        rank = dist.get_rank() if dist.is_initialized() else 0
        objective = NotedRows(trained, options, out / f"rows-{rank}.jsonl")
        config = TrainConfig(
            steps=options["steps"],
            micro_batches=options["rows"],
            warmup_steps=2,
            learning_rate=1e-2,
            checkpoint_seconds=options["save_seconds"],
            log_every=5,
        )
        layout = launch.layout(options["layout"])
        fit(objective, config, out, model=ParallelModel(trained, objective.loss, layout))
        whole = network(options)
        copy_weights(trained, whole)
        if launch.is_first():
            with files.whole_folder(out / "model") as part:
                whole.save_pretrained(part)
                time.sleep(options["pause"])  # a moment more in which the export can be killed


if __name__ == "__main__":
    recipes.train = train
    cli.main(["train", "axk1"])  # for what it does with signals and mistakes
