"""The contract of a codec: media <-> codes. A codec knows nothing of language models, vocabularies
or the world.

Media as Python values, each with one form:

    text   str
    image  uint8 [H, W, 3]
    audio  float32 [T] in [-1, 1] at 16 kHz
    video  uint8 [F, H, W, 3] at 8 frames a second
    shape  uint8 [64, 64, 64, 4], axes x, y, z, RGBA; alpha / 255 is the occupancy (surface at one half)

Codes are int64 [K] in [0, num_codes). Where the codec's `spec` has slots, K is fixed and position k
stays within `spec.slots.position_ranges[k]`. To add a codec: `registry.py`.
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
from onnuri.modality import Medium


class Codec(nn.Module, ABC):
    """One medium's encoder and decoder. Shapes: K codes, B batch."""

    medium: ClassVar[Medium]
    storage: ClassVar[torch.dtype | None] = torch.float16
    """type in which weights are saved; None: as they are"""

    class Config(Config):
        pass

    def __init__(self, config: Any, spec: CodecSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    @property
    def num_codes(self) -> int:
        """Return the size of the codebook."""
        return self.spec.num_codes

    @abstractmethod
    def encode_batch(self, items: list[Any]) -> list[np.ndarray]:
        """Codes int64 [K] of every item."""

    @abstractmethod
    def decode_batch(self, codes: list[np.ndarray]) -> list[Any]:
        """The items again, from any codes that the grid allows."""

    def code_features(self) -> torch.Tensor | None:
        """Return what every code says in numbers, float32 [codes, F]; None where a code says
        nothing alone, as a word or a code whose meaning depends on those before it."""
        return None

    def encode(self, item: Any) -> np.ndarray:
        """Return the codes int64 [K] of an item."""
        return self.encode_batch([item])[0]

    def decode(self, codes: np.ndarray) -> Any:
        """Return the item of codes int64 [K]."""
        return self.decode_batch([np.asarray(codes)])[0]

    def save(self, folder: Path) -> None:
        """Write `config.json`, the codec's spec and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.spec.save_beside(folder)
        (folder / "config.json").write_text(
            json.dumps(self.config.to_json(), indent=2) + "\n", encoding="utf-8"
        )
        save_file(
            {
                k: v.to(self.storage) if self.storage and v.is_floating_point() else v
                for k, v in _own(self.state_dict()).items()
            },
            folder / "model.safetensors",
        )

    @classmethod
    def load(
        cls, folder: Path, spec: CodecSpec | None = None, beside: Sequence[Codec] = ()
    ) -> Self:
        """Return the codec that `save` wrote, in fp32 and evaluation mode.

        `spec`: that the folder holds; without it, the one of the medium's name is read. `beside`:
        codecs that were loaded from the same folder, whose networks may be this one's too.
        """
        config = cls.Config.from_json(
            json.loads((folder / "config.json").read_text(encoding="utf-8"))
        )
        codec = cls(config, spec=spec or CodecSpec.read_beside(folder, cls.medium))  # type: ignore[call-arg]
        state = load_file(folder / "model.safetensors")
        codec.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
        return codec.eval().requires_grad_(False)


def _own(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies: safetensors refuses views that share memory."""
    return {k: v.detach().contiguous().clone() for k, v in state.items()}
