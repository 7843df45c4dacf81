"""This module is the oracle of shapes, by connected components, colour by nearest albedo, and solid
and size by template overlap."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from scipy import ndimage

from onnuri.modality import VOXELS
from onnuri.toyworld.mesh import voxels as render
from onnuri.toyworld.oracles.image import relations
from onnuri.toyworld.scene import COLORS, SIZES, SOLIDS, Description, Scene, Thing, Traits

WINDOW = 28
"""voxels per side of a template"""
SPECK = 40
"""components of fewer voxels are ignored"""


def observe(voxels: np.ndarray) -> Description:
    """Return the objects of voxels uint8 [64, 64, 64, 4] and the relations between all of them."""
    labels, count = ndimage.label(voxels[..., 3] > 127)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(k) + 1 for k in np.argsort(-sizes)[:4] if sizes[k] >= SPECK]
    things, places = [], []
    for k in largest:
        mask = labels == k
        center = np.argwhere(mask).mean(0)
        solid, size = solid_and_size(mask, center)
        things.append(Traits(solid=solid, size=size, color=_color(voxels[mask][:, :3])))
        places.append((float(center[0]), float(center[2])))
    return Description(things=tuple(things), relations=relations(places))


def _color(rgb: np.ndarray) -> str:
    """Return the colour whose albedo is nearest to the median of voxels' RGB uint8 [N, 3]."""
    mean = np.median(rgb, 0) / 255
    return min(COLORS, key=lambda c: float(np.abs(mean - np.array(COLORS[c])).sum()))


def centred(mask: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return a mask bool [64, 64, 64] shifted so that its centre is in the middle of float32 [28,
    28, 28], to a fraction of a voxel."""
    low = np.floor(center).astype(int)
    part = np.pad(mask, WINDOW)[
        tuple(slice(c + WINDOW // 2, c + WINDOW // 2 + WINDOW + 1) for c in low)
    ]
    part = part.astype(np.float32)
    for axis, fraction in enumerate(center - low):
        first, second = np.split(part, [part.shape[axis] - 1], axis)[0], np.delete(part, 0, axis)
        part = first * (1 - fraction) + second * fraction
    return part


@functools.cache
def bank() -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Return the templates of all solids and sizes at several angles: (solid, size) of each, the
    templates float32 [N, 28³] and their squared norms [N]."""
    names, templates = [], []
    for solid, size, yaw in itertools.product(SOLIDS, SIZES, (-0.4, -0.2, 0.0, 0.2, 0.4)):
        thing = Thing(
            solid=solid, color="red", size=size, motion="still", x=1 / VOXELS, z=1 / VOXELS, yaw=yaw
        )
        mask = render(Scene(things=(thing,)))[..., 3] > 127
        templates.append(centred(mask, np.argwhere(mask).mean(0)).ravel())
        names.append((solid, size))
    stack = np.stack(templates)
    return names, stack, (stack**2).sum(1)


def solid_and_size(mask: np.ndarray, center: np.ndarray) -> tuple[str, str]:
    """Return the solid and size of the template with the best overlap (Tanimoto: intersection over
    union of soft masks)."""
    names, templates, norms = bank()
    template = centred(mask, center).ravel()
    overlaps = templates @ template
    return names[int(np.argmax(overlaps / (norms + template @ template - overlaps)))]
