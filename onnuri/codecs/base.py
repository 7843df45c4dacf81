"""This module defines the interface of codecs, which turn media into codes and back.

A codec knows nothing of language models, vocabularies or the toy world. Each modality has one form
as a Python value:

    text   str
    image  uint8 [H, W, 3]
    audio  float32 [T] in [-1, 1] at 16 kHz
    video  uint8 [F, H, W, 3] at 8 frames per second
    shape  uint8 [64, 64, 64, 4], axes x, y, z, RGBA; alpha / 255 is the occupancy (surface at 0.5)

Codes are int64 [K] in [0, num_codes). If the codec's `spec` has slots, K is fixed and the code at
position k is within `spec.slots.position_ranges[k]`. `registry.py` says how to add a codec.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from onnuri.codecs.spec import CodecSpec
from onnuri.config import Config
from onnuri.modality import IMAGE_SIZE, Modality


class Codec(nn.Module, ABC):
    """A Codec encodes media of one modality as codes and decodes codes to media."""

    modality: ClassVar[Modality]
    storage: ClassVar[torch.dtype | None] = torch.float16
    """dtype in which weights are saved; None: their own"""
    on_gpu: ClassVar[bool] = False
    """whether its networks go to the GPU where the model decodes on one; small ones do not, since
    the way there takes longer than they do"""

    class Config(Config):
        """A Config holds the settings from which a codec's network is built."""

    def __init__(self, config: Any, spec: CodecSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    @property
    def device(self) -> torch.device:
        """Return the device of the networks; a codec without weights has none."""
        return next(self.parameters()).device

    @property
    def side(self) -> int:
        """Return the side, in pixels, of the pictures that it decodes."""
        return IMAGE_SIZE

    @property
    def num_codes(self) -> int:
        """Return the number of different codes."""
        return self.spec.num_codes

    @abstractmethod
    def encode_batch(self, items: list[Any]) -> list[np.ndarray]:
        """Return the codes int64 [K] of every item."""

    @abstractmethod
    def decode_batch(self, codes: list[np.ndarray]) -> list[Any]:
        """Return the items of any codes that the spec allows."""

    def code_features(self) -> torch.Tensor | None:
        """Return a feature vector per code, float32 [codes, F], from which a model may initialize
        its embeddings; None where a single code has no meaning of its own, as in text or where a
        code's meaning depends on those before it."""
        return None

    def encode(self, item: Any) -> np.ndarray:
        """Return the codes int64 [K] of one item."""
        return self.encode_batch([item])[0]

    def decode(self, codes: np.ndarray) -> Any:
        """Return the item of one sequence of codes [K]."""
        return self.decode_batch([np.asarray(codes)])[0]

    @property
    def partial_counts(self) -> tuple[int, ...]:
        """Return after how many codes an unfinished item can be shown; empty where it can only be
        shown whole."""
        return ()

    def partial(self, codes: np.ndarray) -> Any:
        """Return a preview of an item of which only these first codes are known; their number is
        one of `partial_counts`."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write `config.json`, the codec's spec and `model.safetensors` to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.spec.save_beside(folder)
        (folder / "config.json").write_text(
            json.dumps(self.config.to_json(), indent=2) + "\n", encoding="utf-8"
        )
        state = _copies(self.state_dict())
        if self.storage:
            state = {
                k: v.to(self.storage) if v.is_floating_point() else v for k, v in state.items()
            }
        save_file(state, folder / "model.safetensors")

    @classmethod
    def load(
        cls, folder: Path, spec: CodecSpec | None = None, beside: Sequence[Codec] = ()
    ) -> Self:
        """Return the codec that `save` wrote, in float32 and evaluation mode.

        Without a `spec`, the one named after the modality is read from the folder. `beside` are
        codecs loaded from the same folder, with which this one may share its networks.
        """
        config = cls.Config.from_json(
            json.loads((folder / "config.json").read_text(encoding="utf-8"))
        )
        spec = spec or CodecSpec.read_beside(folder, cls.modality)
        codec = cls(config, spec=spec)  # type: ignore[call-arg]
        state = load_file(folder / "model.safetensors")
        # 16 bits are for storage alone; integer buffers keep their dtype
        codec.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
        return codec.eval().requires_grad_(False)


def _copies(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return contiguous copies of tensors: safetensors refuses views that share memory."""
    return {k: v.detach().contiguous().clone() for k, v in state.items()}
