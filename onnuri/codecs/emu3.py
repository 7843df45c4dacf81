"""This module wraps Emu3's image tokenizer (Wang et al. 2024, arXiv 2409.18869), as implemented in
transformers: pictures of any size become a grid of codes.

It knows nothing of objects or words. A picture is resized so that both sides are whole cells, at
most as many as the spec allows.
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
from onnuri.modality import Modality


class Emu3Codec(ForeignCodec):
    """An Emu3Codec encodes pictures uint8 [H, W, 3] as 2 + h · w codes: height, width, and one per
    cell of 8 × 8 pixels (with the published weights)."""

    modality: ClassVar[Modality] = "image"
    network_class: ClassVar[str] = "Emu3VQVAE"
    registered: ClassVar[str] = "emu3"

    class Config(config.Config):
        """A Config holds the network's configuration and the largest grid."""

        values: dict[str, Any] = dataclasses.field(default_factory=dict)
        """fields of transformers' Emu3VQVAEConfig; defaults are the published model's"""
        max_height: int = 64
        """cells"""
        max_width: int = 64
        """cells"""

    @staticmethod
    def new_spec(settings: Any, network_config: Any, name: str) -> CodecSpec:
        """Return the spec of a new codec of some settings."""
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
        """Return the codes int64 [2 + h · w] of every picture, encoded one by one since sizes
        differ."""
        return [grid_to_sequence(self.spec, self._cells(item)) for item in items]

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the picture uint8 [8 h, 8 w, 3] of every sequence of codes."""
        pictures = []
        for sequence in codes:
            cells = torch.from_numpy(sequence_to_grid(self.spec, sequence))
            pixels: Tensor = self.network.decode(cells[None].to(self.device))[0]
            # + 0.5, because the cast to uint8 truncates
            levels = ((pixels.float() + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
            pictures.append(levels.permute(1, 2, 0).cpu().numpy())
        return pictures

    def _cells(self, picture: np.ndarray) -> np.ndarray:
        """Return the codes int64 [h, w] of a picture uint8 [H, W, 3]."""
        height, width = self._size(*picture.shape[:2])
        if picture.shape[:2] != (height, width):
            resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
            picture = np.asarray(resized)
        # a copy, because Pillow's arrays are read-only
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
        sizes = torch.tensor([[height, width]])
        cells: Tensor = self.network.encode(pixels.to(self.device), sizes).image_tokens[0]
        return cells.cpu().numpy().astype(np.int64)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels to which a picture is resized: whole cells within the
        spec's limits, with nearly the same proportions."""
        assert isinstance(self.spec.shape, Grid)
        cell = self.network.vision_spatial_factor
        scale = min(
            1.0,
            self.spec.shape.max_height * cell / height,
            self.spec.shape.max_width * cell / width,
        )
        rows, columns = (max(1, round(side * scale / cell)) for side in (height, width))
        return rows * cell, columns * cell

    def code_features(self) -> Tensor:
        """Return a feature vector per code, float32 [num_codes, F]: the codebook's vectors, and one
        number for heights and widths."""
        assert isinstance(self.spec.shape, Grid)
        vectors = self.network.quantize.embedding.weight.detach().float()
        sizes = torch.cat(
            [torch.arange(n) / n for n in (self.spec.shape.max_height, self.spec.shape.max_width)]
        )
        features = torch.zeros(self.spec.num_codes, vectors.shape[1] + 1)
        features[: len(vectors), :-1] = vectors
        features[len(vectors) :, -1] = 1 + sizes
        return features
