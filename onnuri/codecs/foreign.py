"""Codecs on networks of transformers: what all of them do alike. Knows no medium.

Weights are those of a folder of transformers, or of the hub where there is a network, or random.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch

from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec


class ForeignCodec(Codec):
    """A codec whose `network` is of a class of transformers, in the configuration that
    `config.values` gives."""

    storage: ClassVar[torch.dtype | None] = None
    network_class: ClassVar[str]
    """of transformers"""
    registered: ClassVar[str]
    """the codec's line in the registry, and its name in a model where it is given no other"""

    def __init__(
        self, settings: Any = None, spec: CodecSpec | None = None, name: str | None = None
    ) -> None:
        settings, kind = settings or self.Config(), self._kind()
        network_config = kind.config_class(**settings.values)
        fresh = self.new_spec(settings, network_config, name or self.registered)
        super().__init__(settings, spec or fresh)
        self.network: Any = kind(network_config).eval()

    @staticmethod
    @abstractmethod
    def new_spec(settings: Any, network_config: Any, name: str) -> CodecSpec:
        """Return the spec of a codec that is not loaded. Raises ConfigError for settings that the
        network cannot meet."""

    @classmethod
    def published(cls, path_or_id: str, name: str | None = None, **limits: Any) -> Self:
        """Return the codec with the weights of a folder or of an id; `limits` are other fields of
        its Config."""
        network, settings = cls._kind().from_pretrained(path_or_id), cls.Config.from_json
        codec = cls(settings({"values": network.config.to_diff_dict(), **limits}), name=name)
        codec.network.load_state_dict(network.state_dict())
        return codec.eval().requires_grad_(False)

    @classmethod
    def _kind(cls) -> Any:
        import transformers  # here, for it is slow to import

        return getattr(transformers, cls.network_class)

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        device: torch.device = next(self.network.parameters()).device
        return device
