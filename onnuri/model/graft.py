"""Carry a trained model over into one with other text tokens: what was learned stays, what is new
begins near it.

Knows no training. Layers and the rows of media are copied. A text token that both tokenizers have
keeps its row; a new one begins as the mean of the old tokens that spell it, so that "adobe" begins
where its pieces were.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from onnuri.model.backbone import embedding
from onnuri.model.omni import OmniModel
from onnuri.model.token_layout import TokenLayout


@torch.no_grad()
def graft(
    old: OmniModel, network: nn.Module, layout: TokenLayout, text: object, seed: int = 0
) -> None:
    """Fill a fresh network with the weights of an old model; `text` is the new text codec."""
    source, target = embedding(old.network), embedding(network)
    state = {
        name: weight
        for name, weight in old.network.state_dict().items()
        if weight.data_ptr() != source.data_ptr()
    }
    _, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    draw = torch.Generator().manual_seed(seed)
    source = source.float()
    rows = torch.randn(target.shape, generator=draw) * float(source.std()) * 0.5
    for token in old.layout.specials:
        rows[layout.special(token)] = source[old.layout.special(token)]
    for token in (token for token in layout.specials if token not in old.layout.special_ids):
        rows[layout.special(token)] += source[
            old.layout.special("<|text|>")
        ]  # where an answer begins
    for codebook in layout.ranges:
        lo, hi = layout.span(codebook)
        rows[lo:hi] = source[slice(*old.layout.span(codebook))]
    for code, pieces in enumerate(map_text_codes(old.codecs["text"], text)):
        if len(pieces):
            rows[code] = source[torch.from_numpy(pieces)].mean(0)
    target.copy_(rows)


def map_text_codes(old: object, new: object) -> list[np.ndarray]:
    """Return, for every code of the new text codec, the old codes that spell it; one where both
    have the token."""
    found: list[np.ndarray] = []
    names = {str(old.tokenizer.id_to_token(k)): k for k in range(old.num_codes)}  # type: ignore[attr-defined]
    for code in range(new.num_codes):  # type: ignore[attr-defined]
        name = str(new.tokenizer.id_to_token(code))  # type: ignore[attr-defined]
        if name in names:
            found.append(np.array([names[name]], dtype=np.int64))
        else:
            piece = new.pieces[code]  # type: ignore[attr-defined]
            found.append(old.encode(piece.decode("utf-8", "ignore")))  # type: ignore[attr-defined]
    return found
