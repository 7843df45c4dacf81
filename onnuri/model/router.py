"""This module asks the one of several models that knows most of a question: the toy world's model
about its solids, their voice, motion and shape, a model of pictures about all other things.

It knows no model of its own: each model's front end says what is strange to it. A model that is
given as a folder is loaded when it is first needed: to answer, or because others have the asked
modalities too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnuri.errors import ConfigError
from onnuri.inference.device import DeviceName, find
from onnuri.modality import Modality
from onnuri.model.answer import Inputs
from onnuri.model.omni import OmniModel, Reply, modalities_of


class Router:
    """A Router answers by one of several models, by their names; where two know as much, by the
    first of them."""

    def __init__(self, models: Mapping[str, OmniModel | Path], device: DeviceName = "cpu") -> None:
        """Take models, or the folders that hold them, which are loaded to a device. Raises
        WeightsError for a folder without a model, and ConfigError where there is no device."""
        find(device)
        self._models, self._device = dict(models), device
        self._modalities = {
            name: modalities_of(model) if isinstance(model, Path) else model.layout.names
            for name, model in models.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models' names, in their order."""
        return tuple(self._models)

    def model(self, name: str) -> OmniModel:
        """Return a model by its name."""
        model = self._models[name]
        if isinstance(model, Path):
            model = self._models[name] = OmniModel.load(model, device=self._device)
        return model

    def choose(self, to: Modality | Collection[Modality], inputs: Inputs = ()) -> str:
        """Return the name of the model to which least of the inputs [(modality, item), …] is
        strange, of those that have all modalities of the inputs and one of those that are wanted
        (`to`); of several, the one that has most of these. Raises ConfigError if none has any."""
        wanted = {to} if isinstance(to, str) else set(to)
        given = {modality for modality, *_ in inputs}
        had = {name: set(names) for name, names in self._modalities.items()}
        able = [name for name in self.names if given <= had[name] and wanted & had[name]]
        if not able:
            raise ConfigError(
                " and ".join(sorted(given | wanted)),
                "is more than any model here has",
                f"ask for some of {', '.join(self._told())}",
            )
        if len(able) == 1:
            return able[0]
        pairs = [(modality, item) for modality, item, *_ in inputs]
        return min(able, key=lambda name: (self._strange(name, pairs), -len(wanted & had[name])))

    def reply(self, to: Modality, inputs: Inputs = (), **more: Any) -> Reply:
        """Return the chosen model's reply, which names it if there are several; `more` are as in
        `OmniModel.reply`."""
        name = self.choose(to, inputs)
        reply = self.model(name).reply(to, inputs, **more)
        return dataclasses.replace(reply, model=name) if len(self.names) > 1 else reply

    def _strange(self, name: str, inputs: Sequence[tuple[Modality, Any]]) -> int:
        """Return how much of inputs is strange to a model."""
        model = self.model(name)
        return model.front_end.strange(inputs, model.codecs)

    def _told(self) -> list[str]:
        """Return what each model has, in words."""
        return [f"{name} ({' '.join(names)})" for name, names in self._modalities.items()]
