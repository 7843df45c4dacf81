"""The oracle of pictures: classical analysis, nothing learned. It knows what the world's solids
look like.

The background is a smooth fit to what most pixels show; the rest falls into components; a
component's colour is the albedo that explains it under some shade, its solid and size the best of a
bank of silhouettes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
from scipy import ndimage

from onnuri.modality import IMAGE_SIZE
from onnuri.toyworld.image import compose, sprites
from onnuri.toyworld.scene import COLORS, SIZES, SOLIDS, Description, Scene, Thing, Traits, relation

CONTRAST = 0.055
"""colour distance from the background that counts as an object"""
SPECK = 30
"""pixels; smaller components are dust"""
WINDOW = 56
"""pixels of a silhouette in the bank"""


@dataclasses.dataclass(frozen=True)
class Blob:
    """A component: centre (column, row), pixels covered, mean colour, silhouette float32 [56, 56]
    about the centre."""

    x: float
    y: float
    area: float
    color: str
    silhouette: np.ndarray


def observe(image: np.ndarray) -> Description:
    """Objects of a picture uint8 [128, 128, 3] and the relations between all of them."""
    return describe(blobs(image))


def describe(found: list[Blob]) -> Description:
    """Traits of blobs, without motion, and relations of their places."""
    things = tuple(
        Traits(color=b.color, solid=s, size=z) for b in found for s, z in [solid_and_size(b)]
    )
    return Description(things=things, relations=relations([(b.x, -b.y) for b in found]))


def relations(places: list[tuple[float, float]]) -> frozenset[tuple[int, str, int]]:
    """Every ordered pair's relation from places (right, up)."""
    return frozenset(
        (i, r, j)
        for i, j in itertools.permutations(range(len(places)), 2)
        if (r := relation(places[i][0] - places[j][0], places[i][1] - places[j][1]))
    )


def blobs(image: np.ndarray) -> list[Blob]:
    """Components that differ from the background, largest first, four at most."""
    pixels = image.astype(np.float32) / 255
    distance = np.abs(pixels - background(pixels)).max(-1)
    labels, count = ndimage.label(distance > CONTRAST)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = [k + 1 for k in np.argsort(-sizes)[:4] if sizes[k] >= SPECK]
    return [_blob(pixels, labels == k) for k in kept]


def background(pixels: np.ndarray) -> np.ndarray:
    """Second-order fit [H, W, 3] to a picture [H, W, 3]; what does not fit is left out, five times
    over."""
    basis = _basis(pixels.shape[0])
    flat, kept = pixels.reshape(-1, 3), np.ones(basis.shape[0], dtype=bool)
    smooth = flat
    for limit in (0.25, 0.15, 0.08, 0.05, 0.04):
        if kept.sum() < 200:
            break
        solved = np.linalg.lstsq(basis[kept][::3], flat[kept][::3], rcond=None)[0]
        smooth = basis @ solved
        center = np.median((flat - smooth)[kept], 0)
        kept = np.abs(flat - smooth - center).max(-1) < limit
    return smooth.reshape(pixels.shape)


@functools.cache
def _basis(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size].reshape(2, -1) / size - 0.5
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1).astype(np.float32)


def _blob(pixels: np.ndarray, mask: np.ndarray) -> Blob:
    rows, columns = np.nonzero(mask)
    x, y = columns.mean(), rows.mean()
    inner = ndimage.binary_erosion(mask)
    core = pixels[inner if inner.sum() >= 12 else mask]
    return Blob(x + 0.5, y + 0.5, float(mask.sum()), nearest_color(core), centred(mask, x, y))


def centred(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    """The mask float32 [56, 56] with (x, y) in the middle, to a fraction of a pixel."""
    padded = np.pad(mask.astype(np.float32), WINDOW // 2)
    column, row = int(np.floor(x)), int(np.floor(y))
    part = padded[row : row + WINDOW + 1, column : column + WINDOW + 1]
    a, b = x - column, y - row
    across = part[:, :-1] * (1 - a) + part[:, 1:] * a
    return across[:-1] * (1 - b) + across[1:] * b


def nearest_color(core: np.ndarray) -> str:
    """The colour whose albedo, under a shade of its own and a little highlight, explains pixels [N,
    3] best."""
    middle = np.median(core, 0)
    best, name = np.inf, ""
    for color, albedo in COLORS.items():
        a = np.array(albedo)
        for shine in (0.0, 0.04, 0.1, 0.2):
            shade = np.clip((middle - shine) @ a / (a @ a), 0.5, 1.05)
            error = float(np.abs(middle - shade * a - shine).sum()) + 0.15 * shine
            if error < best:
                best, name = error, color
    return name


@functools.cache
def bank() -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """(solid, size) of every template, templates float32 [N, 56 × 56] and their squared norms
    [N]."""
    names, made = [], []
    views = itertools.product((-0.5, -0.25, 0.0, 0.25, 0.5), (0.14, 0.24, 0.34), (0.96, 1.0, 1.04))
    for solid, size, (yaw, elevation, zoom) in itertools.product(SOLIDS, SIZES, list(views)):
        thing = Thing(solid=solid, color="red", size=size, motion="still", x=0, z=0, yaw=yaw)
        scene = Scene(things=(thing,), elevation=elevation, zoom=zoom)
        _, masks = compose(
            scene, sprites(scene), 0.0, np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
        )
        rows, columns = np.nonzero(masks)
        made.append(centred(masks > 0, columns.mean(), rows.mean()).ravel())
        names.append((solid, size))
    stack = np.stack(made)
    return names, stack, (stack**2).sum(1)


def solid_and_size(blob: Blob) -> tuple[str, str]:
    """The template with the best overlap (intersection over union, products for soft masks:
    Tanimoto)."""
    names, templates, norms = bank()
    mask = blob.silhouette.ravel()
    both = templates @ mask
    return names[int(np.argmax(both / (norms + mask @ mask - both)))]
