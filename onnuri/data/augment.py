"""This module varies pictures: where they lie, their colours, and the ground behind what is cut
out, so that a picture that is seen many times is never seen twice alike.

What varies is drawn on the CPU, from a generator that the caller seeds, and applied on whatever
device the pixels are. It knows no concepts: whoever calls it says which pictures may be mirrored,
for letters, flags and clocks may not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnuri.config import Config

LUMA = (0.299, 0.587, 0.114)
"""weights of red, green and blue in brightness (ITU-R BT.601)"""
WAVES = 3
"""plane waves that a patterned ground is the sum of"""


class AugmentConfig(Config):
    """An AugmentConfig says how far pictures are varied."""

    zoom: tuple[float, float] = (0.75, 1.1)
    """smallest and largest size of a picture, 1: as it is"""
    rotation: float = 12.0
    """largest angle in degrees, either way"""
    shift: float = 0.12
    """largest shift as a share of the side, either way"""
    crop: float = 1.5
    """largest size of a picture without a ground of its own, of which a part is then seen"""
    brightness: float = 0.12
    """largest change as a share of white"""
    contrast: float = 0.2
    saturation: float = 0.25
    """largest relative change"""
    hue: float = 0.0
    """largest turn of the colour circle in degrees: a red apple that is green is named wrongly"""
    plain: float = 0.25
    """share of pictures that are left as they are, on white"""
    white: float = 0.2
    """share of the varied pictures that are on white too"""


class Draw(NamedTuple):
    """A Draw holds what was drawn for B pictures."""

    places: Tensor
    """float32 [B, 2, 3]: from the result's coordinates in [-1, 1] to the picture's"""
    colors: Tensor
    """float32 [B, 3, 4]: from red, green, blue and 1 to red, green and blue"""
    grounds: Tensor
    """float32 [B, 3, 3]: colour at the left top, and what it gains to the right and downward"""
    waves: Tensor
    """float32 [B, WAVES, 6]: two frequencies, a phase and a colour"""

    def to(self, device: torch.device) -> Draw:
        """Return the draw on a device."""
        return Draw(*(part.to(device, non_blocking=True) for part in self))


def draw(
    rng: np.random.Generator, settings: AugmentConfig, may_mirror: np.ndarray, is_whole: np.ndarray
) -> Draw:
    """Draw for B pictures: those in `may_mirror` bool [B] may be mirrored; those in `is_whole`
    bool [B] have a ground of their own, and only parts of them are seen."""
    count = len(may_mirror)
    plain = rng.random(count) < settings.plain
    vary = np.where(plain, 0.0, 1.0)
    smallest, largest = (math.log(size) for size in settings.zoom)
    zoom = np.exp(rng.uniform(smallest, largest, count) * vary)
    zoom = np.where(is_whole, np.exp(rng.uniform(0, math.log(settings.crop), count) * vary), zoom)
    angle = np.radians(rng.uniform(-settings.rotation, settings.rotation, count)) * vary
    angle = np.where(is_whole, 0.0, angle)
    mirror = np.where((rng.random(count) < 0.5) & may_mirror & ~plain, -1.0, 1.0)
    reach = np.where(is_whole, zoom - 1, 2 * settings.shift)[:, None]
    shift = rng.uniform(-1, 1, (count, 2)) * reach * vary[:, None]
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    turn = np.stack([np.stack([cos * mirror, -sin * mirror], 1), np.stack([sin, cos], 1)], 1)
    moved = -np.einsum("bij,bj->bi", turn, shift)
    places = np.concatenate([turn, moved[..., None]], 2)
    return Draw(
        torch.from_numpy(places).float(),
        torch.from_numpy(_colors(rng, settings, vary)).float(),
        torch.from_numpy(_grounds(rng, plain, settings.white)).float(),
        torch.from_numpy(_waves(rng, plain | (settings.white == 1))).float(),
    )


def _colors(rng: np.random.Generator, settings: AugmentConfig, vary: np.ndarray) -> np.ndarray:
    """Return matrices [B, 3, 4] that change hue, saturation, contrast and brightness."""
    count = len(vary)
    grey = np.tile(np.array(LUMA), (3, 1))
    saturation = 1 + rng.uniform(-1, 1, count) * settings.saturation * vary
    contrast = 1 + rng.uniform(-1, 1, count) * settings.contrast * vary
    brightness = rng.uniform(-1, 1, count) * settings.brightness * vary
    turns = [_hue_turn(angle) for angle in rng.uniform(-1, 1, count) * settings.hue * vary]
    mixed = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * grey
    matrices = contrast[:, None, None] * (mixed @ np.stack(turns))
    offsets = (0.5 - 0.5 * contrast + brightness)[:, None, None] * np.ones((3, 1))
    return np.concatenate([matrices, offsets], 2)


def _hue_turn(degrees: float) -> np.ndarray:
    """Return the matrix [3, 3] that turns colours about the grey axis (Rodrigues' formula)."""
    angle = math.radians(degrees)
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross))


def _grounds(rng: np.random.Generator, plain: np.ndarray, white: float) -> np.ndarray:
    """Return grounds [B, 3, 3]: white, one colour, or a colour that changes across the picture."""
    count = len(plain)
    start = rng.random((count, 3)) * np.where(rng.random((count, 1)) < 0.5, 1.0, 0.35)
    start += np.where(rng.random((count, 1)) < 0.4, 1 - start.max(1, keepdims=True), 0.0)
    gain = rng.normal(0, 0.35, (count, 3, 2)) * (rng.random((count, 1, 1)) < 0.5)
    grounds = np.concatenate([start[..., None], gain], 2)
    is_white = plain | (rng.random(count) < white)
    return np.where(is_white[:, None, None], np.array([1.0, 0, 0]), grounds)


def _waves(rng: np.random.Generator, plain: np.ndarray) -> np.ndarray:
    """Return plane waves [B, WAVES, 6] that stand on a third of the grounds."""
    count = len(plain)
    frequencies = rng.normal(0, 12, (count, WAVES, 2))
    phases = rng.uniform(0, 2 * math.pi, (count, WAVES, 1))
    colors = rng.normal(0, 0.12, (count, WAVES, 3))
    colors *= ((rng.random(count) < 0.33) & ~plain)[:, None, None]
    return np.concatenate([frequencies, phases, colors], 2)


def apply(pixels: Tensor, drawn: Draw, side: int) -> tuple[Tensor, Tensor]:
    """Return pictures uint8 [B, 4, H, W], RGBA, as they were drawn: colours float32
    [B, 3, side, side] in [0, 1] on their grounds, and how much of a pixel is the picture's, float32
    [B, 1, side, side]."""
    values = pixels.float() / 255
    alpha = values[:, 3:]
    # weighted by alpha, or colours of what cannot be seen bleed in where pixels are mixed
    weighted = torch.cat([values[:, :3] * alpha, alpha], 1)
    scale = min(pixels.shape[2:]) / side
    if scale > 1.5:  # one bilinear tap would skip pixels
        weighted = F.interpolate(weighted, size=(side, side), mode="area")
    grid = F.affine_grid(drawn.places, [len(pixels), 4, side, side], align_corners=False)
    moved = F.grid_sample(weighted, grid, padding_mode="zeros", align_corners=False)
    cover = moved[:, 3:].clamp(0, 1)
    colors = moved[:, :3] / cover.clamp_min(1e-4)
    matrix, offset = drawn.colors[..., :3], drawn.colors[..., 3:]
    shape = colors.shape
    colors = (matrix @ colors.flatten(2) + offset).view(shape).clamp(0, 1)
    return colors * cover + _paint(drawn, side) * (1 - cover), cover


def _paint(drawn: Draw, side: int) -> Tensor:
    """Return grounds float32 [B, 3, side, side] in [0, 1]."""
    place = (torch.arange(side, device=drawn.grounds.device) + 0.5) / side
    across, down = place[None, None, None], place[None, None, :, None]
    start, right, lower = (part[..., None, None] for part in drawn.grounds.unbind(2))
    ground = start + right * across + lower * down
    for wave in drawn.waves.unbind(1):
        frequencies, phase, color = wave[:, :2], wave[:, 2], wave[:, 3:]
        angles = phase[:, None, None] + frequencies[:, :1, None] * place[None, None]
        angles = angles + frequencies[:, 1:, None] * place[None, :, None]
        ground = ground + color[..., None, None] * torch.sin(angles)[:, None]
    return ground.clamp(0, 1)
