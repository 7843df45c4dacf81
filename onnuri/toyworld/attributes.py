"""This module lists the attributes of a scene, and which of them each modality can show."""

from __future__ import annotations

from typing import Literal

from onnuri.modality import MEDIA, Modality

Attribute = Literal["solid", "color", "size", "relation", "motion"]
ATTRIBUTES: tuple[Attribute, ...] = ("solid", "color", "size", "relation", "motion")
STATIC_MODALITIES: tuple[Modality, ...] = ("image", "shape")
"""media that show no motion"""
CARRIES: dict[Modality, frozenset[Attribute]] = {
    modality: frozenset(ATTRIBUTES) - ({"motion"} if modality in STATIC_MODALITIES else set())
    for modality in MEDIA
}
"""attributes of a scene that a modality can show"""
