"""This module holds the base class of codecs whose networks are classes of transformers.

It knows no modality. Weights come from a folder or from the Hugging Face hub, or are random.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch

from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec


class ForeignCodec(Codec):
    """A ForeignCodec wraps a network of transformers, built from the configuration in
    `config.values`."""

    storage: ClassVar[torch.dtype | None] = None
    on_gpu: ClassVar[bool] = True
    network_class: ClassVar[str]
    """name of the network's class in transformers"""
    registered: ClassVar[str]
    """the codec's key in the registry, and its default name in a model"""

    def __init__(
        self, settings: Any = None, spec: CodecSpec | None = None, name: str | None = None
    ) -> None:
        settings, network_class = settings or self.Config(), self._network_class()
        network_config = network_class.config_class(**settings.values)
        new_spec = self.new_spec(settings, network_config, name or self.registered)
        super().__init__(settings, spec or new_spec)
        self.network: Any = network_class(network_config).eval()

    @staticmethod
    @abstractmethod
    def new_spec(settings: Any, network_config: Any, name: str) -> CodecSpec:
        """Return the spec of a new codec of some settings. Raises ConfigError for settings that the
        network does not support."""

    @classmethod
    def published(cls, path_or_id: str, name: str | None = None, **limits: Any) -> Self:
        """Return the codec with published weights, from a folder or a hub id; `limits` are further
        fields of its Config."""
        network = cls._network_class().from_pretrained(path_or_id)
        settings = cls.Config.from_json({"values": network.config.to_diff_dict(), **limits})
        codec = cls(settings, name=name)
        codec.network.load_state_dict(network.state_dict())
        return codec.eval().requires_grad_(False)

    @classmethod
    def _network_class(cls) -> Any:
        """Return the network's class."""
        import transformers  # here, because it is slow to import

        return getattr(transformers, cls.network_class)
