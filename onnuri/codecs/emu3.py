"""Emu3's image tokenizer (Wang et al. 2024, arXiv 2409.18869), as transformers has it: pictures of
any shape to a grid of codes.

Knows nothing of objects or words. A picture is scaled so that both sides are whole cells, and no
more of them than the spec allows.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from onnuri import config
from onnuri.codecs.flatten import grid_to_sequence, sequence_to_grid
from onnuri.codecs.foreign import ForeignCodec
from onnuri.codecs.spec import CodecSpec, Grid
from onnuri.modality import Medium


class Emu3Codec(ForeignCodec):
    """uint8 [H, W, 3] ↔ 2 + h · w codes: height, width, and a code for each cell of 8 × 8 pixels
    (of the published weights)."""

    medium: ClassVar[Medium] = "image"
    network_class: ClassVar[str] = "Emu3VQVAE"
    registered: ClassVar[str] = "emu3"

    class Config(config.Config):
        values: dict[str, Any] = dataclasses.field(default_factory=dict)
        """of transformers' Emu3VQVAEConfig; what is left out is as published"""
        max_height: int = 64
        """cells"""
        max_width: int = 64

    @staticmethod
    def new_spec(settings: Any, network_config: Any, name: str) -> CodecSpec:
        """Return the spec of a codec that is not loaded."""
        return CodecSpec(
            name=name,
            codec="emu3",
            modality="image",
            codebook=name,
            codebooks=(network_config.codebook_size,),
            shape=Grid(max_height=settings.max_height, max_width=settings.max_width),
            max_codes=2 + settings.max_height * settings.max_width,
        )

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return codes int64 [2 + h · w] of every picture, one at a time: they differ in shape."""
        return [grid_to_sequence(self.spec, self._cells(item)) for item in items]

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return pictures uint8 [8 h, 8 w, 3]."""
        pictures = []
        for sequence in codes:
            cells = torch.from_numpy(sequence_to_grid(self.spec, sequence))
            made: Tensor = self.network.decode(cells[None].to(self.device))[0]
            pictures.append(
                ((made.float() + 1) * 127.5 + 0.5)
                .clamp(0, 255)
                .to(torch.uint8)
                .permute(1, 2, 0)
                .cpu()
                .numpy()
            )
        return pictures

    def _cells(self, picture: np.ndarray) -> np.ndarray:
        """Return the codes int64 [h, w] of a picture."""
        height, width = self._size(*picture.shape[:2])
        if picture.shape[:2] != (height, width):
            resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
            picture = np.asarray(resized)
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
        sizes = torch.tensor([[height, width]])
        cells: Tensor = self.network.encode(pixels.to(self.device), sizes).image_tokens[0]
        return cells.cpu().numpy().astype(np.int64)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the pixels of a picture's sides as whole cells, its proportions as near as they
        allow."""
        assert isinstance(self.spec.shape, Grid)
        cell = self.network.vision_spatial_factor
        scale = min(
            1.0,
            self.spec.shape.max_height * cell / height,
            self.spec.shape.max_width * cell / width,
        )
        return max(1, round(height * scale / cell)) * cell, max(
            1, round(width * scale / cell)
        ) * cell

    def code_features(self) -> Tensor:
        """Return what every code says in numbers, float32 [codes, F]: the codebook's vectors; one
        number for sizes."""
        assert isinstance(self.spec.shape, Grid)
        vectors = self.network.quantize.embedding.weight.detach().float()
        sizes = torch.cat(
            [torch.arange(n) / n for n in (self.spec.shape.max_height, self.spec.shape.max_width)]
        )
        features = torch.zeros(self.spec.num_codes, vectors.shape[1] + 1)
        features[: len(vectors), :-1] = vectors
        features[len(vectors) :, -1] = 1 + sizes
        return features
