"""This module proves that plain transformers reads from an export what was trained: the exported
folder's logits against those that training computes with the same weights.

It knows no layout: `verify.py` trains a model in one, exports it by all ranks and gathers its
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnuri.data.pack import PackedRow
from onnuri.model.backbone import hidden_states, no_bars
from onnuri.model.objective import whole_head


@torch.no_grad()
def logits_of_training(network: nn.Module, row: PackedRow) -> Tensor:
    """Return the logits [T, vocabulary] of a packed row, as training computes them."""
    hidden = hidden_states(network.eval(), *row.to(torch.device("cpu")))
    return hidden[0] @ whole_head(network).T


@torch.no_grad()
def logits_of_folder(folder: Path, row: PackedRow) -> Tensor:
    """Return the logits [T, vocabulary] of a row's sequences, each alone, as transformers itself
    computes them in 64 bits from a folder."""
    from transformers import AutoModelForCausalLM

    with no_bars():
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, local_files_only=True
        )
    network.double().eval()  # rotary frequencies too, which no folder holds
    network.config._experts_implementation = "eager"  # grouped products are of 32 bits at most
    sequences = row.ids.split(row.lengths.tolist(), 1)
    return torch.cat([network(input_ids=ids, use_cache=False).logits[0] for ids in sequences])
