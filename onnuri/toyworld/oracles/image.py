"""This module is the oracle of pictures, by classical analysis without anything learned. It knows
what the world's solids look like.

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
"""components of fewer pixels are ignored"""
WINDOW = 56
"""pixels per side of a silhouette in the bank"""


@dataclasses.dataclass(frozen=True)
class Blob:
    """A Blob is a component of a picture: centre (column, row) and area in pixels, name of its
    colour, silhouette float32 [56, 56] about the centre."""

    x: float
    y: float
    area: float
    color: str
    silhouette: np.ndarray


def observe(image: np.ndarray) -> Description:
    """Return the objects of a picture uint8 [128, 128, 3] and the relations between all of them."""
    return describe(blobs(image))


def describe(components: list[Blob]) -> Description:
    """Return the description of blobs: their traits without motion, and the relations of their
    places."""
    things = tuple(
        Traits(color=b.color, solid=s, size=z) for b in components for s, z in [solid_and_size(b)]
    )
    return Description(things=things, relations=relations([(b.x, -b.y) for b in components]))


def relations(places: list[tuple[float, float]]) -> frozenset[tuple[int, str, int]]:
    """Return the relation of every ordered pair of places (right, up), as (subject, relation,
    object)."""
    return frozenset(
        (i, r, j)
        for i, j in itertools.permutations(range(len(places)), 2)
        if (r := relation(places[i][0] - places[j][0], places[i][1] - places[j][1]))
    )


def blobs(image: np.ndarray) -> list[Blob]:
    """Return the components of a picture uint8 [H, W, 3] that differ from the background, largest
    first, four at most."""
    pixels = image.astype(np.float32) / 255
    distance = np.abs(pixels - background(pixels)).max(-1)
    labels, count = ndimage.label(distance > CONTRAST)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [k + 1 for k in np.argsort(-sizes)[:4] if sizes[k] >= SPECK]
    return [_blob(pixels, labels == k) for k in largest]


def background(pixels: np.ndarray) -> np.ndarray:
    """Return a second-order fit [H, W, 3] to a picture [H, W, 3] in [0, 1]; pixels that do not fit
    are left out, in five rounds."""
    basis = _basis(pixels.shape[0])
    flat, fitting = pixels.reshape(-1, 3), np.ones(basis.shape[0], dtype=bool)
    smooth = flat
    for limit in (0.25, 0.15, 0.08, 0.05, 0.04):
        if fitting.sum() < 200:
            break
        coefficients = np.linalg.lstsq(basis[fitting][::3], flat[fitting][::3], rcond=None)[0]
        smooth = basis @ coefficients
        center = np.median((flat - smooth)[fitting], 0)
        fitting = np.abs(flat - smooth - center).max(-1) < limit
    return smooth.reshape(pixels.shape)


@functools.cache
def _basis(size: int) -> np.ndarray:
    """Return the polynomials of second order at every pixel, float32 [size², 6]."""
    y, x = np.mgrid[:size, :size].reshape(2, -1) / size - 0.5
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1).astype(np.float32)


def _blob(pixels: np.ndarray, mask: np.ndarray) -> Blob:
    """Return the blob of a mask bool [H, W] in a picture [H, W, 3] in [0, 1]."""
    rows, columns = np.nonzero(mask)
    x, y = columns.mean(), rows.mean()
    inner = ndimage.binary_erosion(mask)
    core = pixels[inner if inner.sum() >= 12 else mask]
    return Blob(x + 0.5, y + 0.5, float(mask.sum()), nearest_color(core), centred(mask, x, y))


def centred(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return a mask bool [H, W] shifted so that (x, y) is in the middle of float32 [56, 56], to a
    fraction of a pixel."""
    padded = np.pad(mask.astype(np.float32), WINDOW // 2)
    column, row = int(np.floor(x)), int(np.floor(y))
    part = padded[row : row + WINDOW + 1, column : column + WINDOW + 1]
    a, b = x - column, y - row
    across = part[:, :-1] * (1 - a) + part[:, 1:] * a
    return across[:-1] * (1 - b) + across[1:] * b


def nearest_color(core: np.ndarray) -> str:
    """Return the colour whose albedo, under a shade of its own and a little highlight, best
    explains pixels [N, 3]."""
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
    """Return the silhouettes of all solids and sizes in many views: (solid, size) of every
    template, the templates float32 [N, 56 × 56] and their squared norms [N]."""
    names, silhouettes = [], []
    views = itertools.product((-0.5, -0.25, 0.0, 0.25, 0.5), (0.14, 0.24, 0.34), (0.96, 1.0, 1.04))
    for solid, size, (yaw, elevation, zoom) in itertools.product(SOLIDS, SIZES, list(views)):
        thing = Thing(solid=solid, color="red", size=size, motion="still", x=0, z=0, yaw=yaw)
        scene = Scene(things=(thing,), elevation=elevation, zoom=zoom)
        _, masks = compose(
            scene, sprites(scene), 0.0, np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
        )
        rows, columns = np.nonzero(masks)
        silhouettes.append(centred(masks > 0, columns.mean(), rows.mean()).ravel())
        names.append((solid, size))
    stack = np.stack(silhouettes)
    return names, stack, (stack**2).sum(1)


def solid_and_size(blob: Blob) -> tuple[str, str]:
    """Return the solid and size of the template with the best overlap (Tanimoto: intersection over
    union with products, for soft masks)."""
    names, templates, norms = bank()
    mask = blob.silhouette.ravel()
    overlaps = templates @ mask
    return names[int(np.argmax(overlaps / (norms + mask @ mask - overlaps)))]
