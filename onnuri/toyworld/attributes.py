"""The attributes of a scene, and which of them each medium can show."""

from __future__ import annotations

from typing import Literal

from onnuri.modality import MEDIA, Medium

Attribute = Literal["solid", "color", "size", "relation", "motion"]
ATTRIBUTES: tuple[Attribute, ...] = ("solid", "color", "size", "relation", "motion")
STATIC_MODALITIES: tuple[Medium, ...] = ("image", "shape")
"""media that show no motion"""
CARRIES: dict[Medium, frozenset[Attribute]] = {
    medium: frozenset(ATTRIBUTES) - ({"motion"} if medium in STATIC_MODALITIES else set())
    for medium in MEDIA
}
"""attributes of a scene that a medium can show"""
