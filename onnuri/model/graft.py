"""This module copies a trained model's weights into one with another text tokenizer.

It knows no training. Layers and the embedding rows of codecs are copied. A text token that both
tokenizers have keeps its row; a new one starts as the mean of the old tokens that encode it, so
that "adobe" starts where its pieces were.
"""

from __future__ import annotations

from typing import Any

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
    """Fill a network's random weights with those of an old model.

    `layout` is the new token layout, `text` the new text codec; `seed` is that of rows that the old
    model has nothing for.
    """
    source, target = embedding(old.network), embedding(network)
    state = {
        name: weight
        for name, weight in old.network.state_dict().items()
        if weight.data_ptr() != source.data_ptr()
    }
    _, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    generator = torch.Generator().manual_seed(seed)
    source = source.float()
    rows = torch.randn(target.shape, generator=generator) * float(source.std()) * 0.5
    for token in old.layout.specials:
        rows[layout.special(token)] = source[old.layout.special(token)]
    for token in (token for token in layout.specials if token not in old.layout.special_ids):
        # new specials say what kind of answer follows, so they start near the token that opens one
        rows[layout.special(token)] += source[old.layout.special("<|text|>")]
    for codebook in layout.ranges:
        lo, hi = layout.span(codebook)
        rows[lo:hi] = source[slice(*old.layout.span(codebook))]
    for code, pieces in enumerate(map_text_codes(old.codecs["text"], text)):
        if len(pieces):
            rows[code] = source[torch.from_numpy(pieces)].mean(0)
    target.copy_(rows)


def map_text_codes(old: Any, new: Any) -> list[np.ndarray]:
    """Return, for every code of the new text codec, the old codes int64 [K] of the same text; one
    if both have the token."""
    old_codes: list[np.ndarray] = []
    code_by_token = {str(old.tokenizer.id_to_token(k)): k for k in range(old.num_codes)}
    for code in range(new.num_codes):
        token = str(new.tokenizer.id_to_token(code))
        if token in code_by_token:
            old_codes.append(np.array([code_by_token[token]], dtype=np.int64))
        else:
            piece = new.pieces[code]
            old_codes.append(old.encode(piece.decode("utf-8", "ignore")))
    return old_codes
