"""This module cuts objects out of pictures and puts them back, by separable bilinear sampling under
axis-aligned boxes.

It knows nothing of codes. A box is (centre x, centre y, width, height) in pixels of a 128-pixel
picture. Both ways are two small matrix products, differentiable in picture and box (Jaderberg et
al. 2015, arXiv 1506.02025, without rotation).
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1.2
"""a crop shows this many times the box"""


def hat(positions: Tensor, size: int) -> Tensor:
    """Return the bilinear weights [..., P, size] of cells 0 … size - 1 at fractional cell positions
    [..., P]; outside the cells they are zero."""
    cells = torch.arange(size, dtype=positions.dtype, device=positions.device)
    return (1 - (positions.unsqueeze(-1) - cells).abs()).clamp_min(0)


def crop(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Return what boxes [B, N, 4] show of pictures [B, C, H, W], as [B, N, C, size, size]; outside
    the picture it is zero."""
    scale = pictures.shape[-1] / 128
    steps = (torch.arange(size, dtype=boxes.dtype) + 0.5) / size - 0.5
    x = (boxes[..., 0:1] + steps * boxes[..., 2:3] * MARGIN) * scale - 0.5
    y = (boxes[..., 1:2] + steps * boxes[..., 3:4] * MARGIN) * scale - 0.5
    across, down = hat(x, pictures.shape[-1]), hat(y, pictures.shape[-2])
    return torch.einsum(
        "bnyh,bnchx->bncyx", down, torch.einsum("bchw,bnxw->bnchx", pictures, across)
    )


def place(sprites: Tensor, boxes: Tensor, size: int = 128) -> Tensor:
    """Return pictures [B, C, size, size] that are empty except for sprites [B, C, S, S] under boxes
    [B, 4]; the inverse of `crop`."""
    cells = sprites.shape[-1]
    pixels = (torch.arange(size, dtype=boxes.dtype) + 0.5) * 128 / size
    x = ((pixels - boxes[:, 0:1]) / (boxes[:, 2:3] * MARGIN) + 0.5) * cells - 0.5
    y = ((pixels - boxes[:, 1:2]) / (boxes[:, 3:4] * MARGIN) + 0.5) * cells - 0.5
    across, down = hat(x, cells), hat(y, cells)
    return torch.einsum("byh,bchx->bcyx", down, torch.einsum("bchw,bxw->bchx", sprites, across))
