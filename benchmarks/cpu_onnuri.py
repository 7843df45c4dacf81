"""Trains by the code of `onnuri train pretrain`, steps in turn with other runs: a part of
`benchmarks/cpu.py`, which starts it as `cpu_onnuri.py [compiled] FOLDER DOOR`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from cpu_turns import Turns

from onnuri.data.document_store import StoreRows
from onnuri.data.pack import PackedRow
from onnuri.training import pretrain as pretraining
from onnuri.training.loop import TrainConfig, read_metrics
from onnuri.training.pretrain_config import PretrainConfig


def main() -> None:
    """Train until the benchmark ends the process."""
    *way, folder_name, door = sys.argv[1:]
    folder = Path(folder_name)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    out = folder / "_".join(["onnuri", *way])
    config = PretrainConfig(
        data=str(folder / "store"),
        tokens=job["tokens"],
        rows=job["rows"],
        steps=job["steps"],
        learning_rate=job["learning_rate"],
        warmup_steps=0,
        decay=0.0,
        weight_decay=job["weight_decay"],
        compiled="compiled" in way,
    )
    turns = Turns(door)

    class RowsInTurn(StoreRows):
        """The rows of a store; a step begins where its first row is asked for."""

        def row(self, index: int) -> PackedRow:
            """Return row number `index`."""
            if index % job["rows"] == 0:
                turns.between_steps(losses)
            return super().row(index)

    def losses() -> list[float]:
        """Return the losses of all steps so far."""
        return [line["loss"] for line in read_metrics(out)] if out.exists() else []

    own_settings = pretraining.train_config

    def settings(config: PretrainConfig, *rest: Any) -> TrainConfig:
        """Return the loop's settings with the loss of every step logged, and no states stored while
        others wait, as the other runs store none."""
        return own_settings(config, *rest).replace(log_every=1, checkpoint_seconds=math.inf)

    with (
        mock.patch.object(pretraining, "StoreRows", RowsInTurn),
        mock.patch.object(pretraining, "train_config", settings),
    ):
        pretraining.pretrain(folder / "model", config, out)


if __name__ == "__main__":
    main()
