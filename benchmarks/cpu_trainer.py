"""Trains by transformers' `Trainer`, steps in turn with other runs: a part of `benchmarks/cpu.py`,
which starts it as `cpu_trainer.py FOLDER DOOR`. It imports nothing of Onnuri."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cpu_turns import Turns
from torch import Tensor


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The rows that the benchmark has written, with positions that restart in each document, by
    which transformers masks attention between documents."""

    def __init__(self, folder: Path) -> None:
        """Open the rows by memory map."""
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.positions = np.load(folder / "positions.npy", mmap_mode="r")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a row; nothing is predicted across the start of a document."""
        ids, positions = (
            torch.from_numpy(rows[index].astype(np.int64)) for rows in (self.ids, self.positions)
        )
        return {
            "input_ids": ids,
            "position_ids": positions,
            "labels": ids.masked_fill(positions == 0, -100),
        }


class InOrder(transformers.Trainer):  # type: ignore[misc]
    """A Trainer that takes the rows in their order, and notes the loss of each step."""

    losses: list[float]

    def _get_train_sampler(self, *args: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **rest: Any) -> Tensor:
        """Take a step and note its loss."""
        loss: Tensor = super().training_step(*args, **rest)
        self.losses.append(float(loss))
        return loss


class Waits(transformers.TrainerCallback):  # type: ignore[misc]
    """Lets a Trainer's steps wait for their turn."""

    def __init__(self, turns: Turns, losses: list[float]) -> None:
        """Hold the turns and the list of losses."""
        self.turns, self.losses = turns, losses

    def on_train_begin(self, *args: Any, **rest: Any) -> None:
        """Wait for the first steps."""
        self.turns.between_steps(lambda: self.losses)

    def on_step_end(self, *args: Any, **rest: Any) -> None:
        """Note a step, and wait if it was the last that was given."""
        self.turns.between_steps(lambda: self.losses)


def main() -> None:
    """Train until the benchmark ends the process."""
    folder, door = Path(sys.argv[1]), sys.argv[2]
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, local_files_only=True
    )
    settings = transformers.TrainingArguments(
        str(folder / "trainer"),
        per_device_train_batch_size=job["rows"],
        max_steps=job["steps"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=job["weight_decay"],
        adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1],
        max_grad_norm=job["clip"],
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    losses: list[float] = []
    trainer = InOrder(
        network, settings, train_dataset=Rows(folder), callbacks=[Waits(Turns(door), losses)]
    )
    trainer.losses = losses
    trainer.train()


if __name__ == "__main__":
    main()
