"""The one loss: next token, every target scored only among the ids that generation would choose from.

Generation never leaves a grid's field or a medium's codes, so the head need not score the others: a softmax over a
slice of the tied embedding is cheaper, and is the loss of a medium at the same time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.data.mix import Mixer, Segment
from onnuri.data.pack import attention_mask, pack
from onnuri.modality import TABLE
from onnuri.model.backbone import embedding, hidden_states
from onnuri.model.vocabulary import CODEBOOKS, Vocabulary


def sequence_ids(segments: list[Segment], vocabulary: Vocabulary) -> tuple[list[int], list[float]]:
    """`<bos> … <eos>` of segments, and the weight in the loss of predicting each id."""
    ids, weights = [vocabulary.special("<bos>")], [0.0]
    for s in segments:
        grid, piece = TABLE[s.medium].grid, vocabulary.segment(s.medium, s.codes, s.language)
        opening = vocabulary.opening(s.medium, s.language)
        ids += piece
        weights += [0.05, s.weight][: len(opening)]  # the language is told apart with the item
        weights += [s.weight * w for w in grid.weights] if grid else [s.weight] * len(s.codes)
        weights += [0.05 if grid else s.weight]
    return [*ids, vocabulary.special("<eos>")], [*weights, 0.05]


def omni_loss(model: nn.Module, vocabulary: Vocabulary, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Weighted mean over all targets, and the mean loss of each codebook."""
    ids, segments = batch["ids"], batch["segments"]
    hidden = hidden_states(model, ids, batch["positions"], attention_mask(segments))[:, :-1]
    targets = ids[:, 1:]
    weights = batch["weights"][:, 1:] * (segments[:, 1:] == segments[:, :-1]) * (segments[:, 1:] >= 0)
    table, total = embedding(model), hidden.new_zeros(())
    sums, shares = dict.fromkeys(CODEBOOKS, 0.0), dict.fromkeys(CODEBOOKS, 0.0)
    choices = vocabulary.choices()
    extras = [c.extra for c in choices if c.extra is not None]
    for choice in choices:
        chosen = (targets >= choice.lo) & (targets < choice.hi) & (weights > 0)
        for extra in extras:
            chosen = chosen & (targets != extra)
        if choice.extra is not None:
            chosen = chosen | ((targets == choice.extra) & (weights > 0))
        if not chosen.any():
            continue
        states, wanted, weight = hidden[chosen], targets[chosen] - choice.lo, weights[chosen]
        logits = states @ table[choice.lo : choice.hi].T
        if choice.extra is not None:
            logits = torch.cat([logits, states @ table[choice.extra][:, None]], 1)
            wanted = torch.where(targets[chosen] == choice.extra, choice.hi - choice.lo, wanted)
        losses = F.cross_entropy(logits, wanted, reduction="none")
        loss = (losses * weight).sum()
        total = total + loss
        sums[choice.codebook] += float(loss.detach())
        shares[choice.codebook] += float(weight.sum())
    return total / weights.sum(), {f"loss_{c}": sums[c] / shares[c] for c in CODEBOOKS if shares[c]}


class OmniTask:
    """Trains a backbone on a table's sequences."""

    def __init__(self, module: nn.Module, vocabulary: Vocabulary, mixer: Mixer, rows: int = 8, length: int = 512,
                 seed: int = 0) -> None:
        self.module, self.vocabulary, self.mixer = module, vocabulary, mixer
        self.rows, self.length, self.seed = rows, length, seed

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, step])
        return pack(lambda: sequence_ids(self.mixer.draw(rng), self.vocabulary), self.rows, self.length,
                    self.vocabulary.special("<pad>"))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        loss, figures = omni_loss(self.module, self.vocabulary, batch)
        return loss, {**figures, "tokens": int((batch["segments"] >= 0).sum())}


@torch.no_grad()
def start_from_features(model: nn.Module, vocabulary: Vocabulary, codecs: dict[str, Any], seed: int = 0) -> None:
    """Codes that say alike begin alike: rows = features × a random matrix + noise, at the embedding's own scale."""
    table = embedding(model)
    scale = float(table.std())
    draw = torch.Generator().manual_seed(seed)
    for codebook, codec in (("visual", codecs["video"]), ("audio", codecs["audio"]), ("shape", codecs["shape"])):
        features = codec.code_features()
        mixed = features @ torch.randn(features.shape[1], table.shape[1], generator=draw)
        mixed = mixed / mixed.std(1, keepdim=True).clamp_min(1e-3)
        lo, hi = vocabulary.span(codebook)
        table[lo:hi] = scale * (0.85 * mixed + 0.5 * torch.randn(mixed.shape, generator=draw))
