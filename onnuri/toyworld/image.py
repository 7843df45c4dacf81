"""This module renders a scene as a picture: every solid is sphere-traced once into a sprite, and
sprites are placed by exact area sampling.

It knows nothing of codecs. The camera is orthographic and far away: elevation and azimuth turn how
a solid is seen, and its centre (x, z) lands on column size / 2 (1 + zoom x) and row size / 2 (1 -
zoom z), so that left, right, above and below on the screen are those of the world. Colour = albedo
× (ambient + diffuse) + highlight, in display space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from onnuri.modality import IMAGE_SIZE
from onnuri.toyworld.scene import COLORS, REACH, Scene, Thing
from onnuri.toyworld.solids import sdf

AMBIENT, DIFFUSE, HIGHLIGHT = 0.55, 0.45, 0.22
STEPS = 28
"""sphere-tracing steps; the thinnest solid needs about 20"""
SHARPNESS = 2.0
"""sprite pixels per image pixel of a 128-pixel image"""
_TINTS = (
    ((0.44, 0.50, 0.58), (0.36, 0.41, 0.48)),
    ((0.46, 0.53, 0.45), (0.37, 0.44, 0.37)),
    ((0.55, 0.46, 0.53), (0.45, 0.38, 0.45)),
    ((0.57, 0.51, 0.42), (0.47, 0.41, 0.34)),
    ((0.42, 0.53, 0.55), (0.33, 0.43, 0.46)),
    ((0.52, 0.46, 0.40), (0.42, 0.36, 0.33)),
    ((0.48, 0.47, 0.58), (0.39, 0.38, 0.48)),
    ((0.52, 0.52, 0.46), (0.42, 0.42, 0.38)),
)
"""top and bottom RGB of every background: mid-tones of low saturation, away from object colours"""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A Rendered holds the picture of a scene and which object each pixel shows."""

    image: np.ndarray
    """uint8 [H, W, 3]"""
    masks: np.ndarray
    """uint8 [H, W]: 0 background, i + 1 where things[i] covers most of the pixel"""


def render(scene: Scene, seconds: float = 0.0, size: int = IMAGE_SIZE) -> Rendered:
    """Return the picture of a scene at a time in [0, SECONDS]."""
    image, masks = compose(scene, sprites(scene, size), seconds, background(scene, size))
    return Rendered(image, masks)


Shader = Callable[[Scene, np.ndarray, np.ndarray, tuple[float, float, float]], np.ndarray]
"""(scene, points [N, 3] on the unit solid, normals [N, 3] in the world, albedo) to colours [N,
3]"""


def sprites(scene: Scene, size: int = IMAGE_SIZE, shader: Shader | None = None) -> list[np.ndarray]:
    """Return the sprite of every object as it is seen by a still camera, premultiplied RGBA float32
    [n, n, 4] that spans ± REACH radii."""
    return [_sprite(scene, thing, size, shader or _shade) for thing in scene.things]


def compose(
    scene: Scene, layers: list[np.ndarray], seconds: float, behind: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture uint8 [H, W, 3] and the masks uint8 [H, W] of sprites placed over the
    background `behind` where their motion has them at `seconds`."""
    size = len(behind)
    canvas, masks = behind.copy(), np.zeros((size, size), dtype=np.uint8)
    for index, (thing, layer) in enumerate(zip(scene.things, layers)):
        dx, dz, scale = thing.place(seconds)
        column = size / 2 * (1 + scene.zoom * (thing.x + dx))
        row = size / 2 * (1 - scene.zoom * (thing.z + dz))
        half = size / 2 * scene.zoom * thing.radius * REACH * scale
        rows, down = coverage(row - half, row + half, len(layer), size)
        columns, across = coverage(column - half, column + half, len(layer), size)
        pixels_seen = np.einsum("rn,nmc,km->rkc", down, layer, across, optimize=True)
        window = canvas[rows, columns]
        canvas[rows, columns] = window * (1 - pixels_seen[..., 3:]) + pixels_seen[..., :3]
        masks[rows, columns][pixels_seen[..., 3] > 0.5] = index + 1
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8), masks


def coverage(start: float, stop: float, samples: int, size: int) -> tuple[slice, np.ndarray]:
    """Return the exact area sampling of `samples` cells, spread over [start, stop), onto pixels of
    [0, size).

    Returns the pixels that are touched, and float32 [pixels, samples]: how much of each pixel each
    cell covers.
    """
    first, last = max(int(np.floor(start)), 0), min(int(np.ceil(stop)), size)
    last = max(last, first)
    edges = np.linspace(start, stop, samples + 1)
    pixels = np.arange(first, last)[:, None]
    overlap = np.minimum(edges[None, 1:], pixels + 1) - np.maximum(edges[None, :-1], pixels)
    return slice(first, last), np.maximum(overlap, 0).astype(np.float32)


def background(scene: Scene, size: int = IMAGE_SIZE) -> np.ndarray:
    """Return the background float32 [H, W, 3] in [0, 1]: a soft gradient, slightly tilted, and
    brighter under a higher light."""
    top, bottom = (np.array(c, dtype=np.float32) for c in _TINTS[scene.background])
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    tilt = 0.3 * np.sin(scene.light[0])
    blend = np.clip(
        axis[:, None] * (1 - abs(tilt)) + (axis[None, :] - 0.5) * tilt + abs(tilt) / 2, 0, 1
    )[..., None]
    brightness = 0.95 + 0.10 * (scene.light[1] - 0.5) / 0.6
    return (top * (1 - blend) + bottom * blend) * np.float32(brightness)


def _sprite(scene: Scene, thing: Thing, size: int, shader: Shader) -> np.ndarray:
    """Return the sprite of one object, premultiplied RGBA float32 [n, n, 4]: one ray is traced per
    sprite pixel and shaded where it hits."""
    half = size / 2 * scene.zoom * thing.radius * REACH
    n = int(np.ceil(2 * half * SHARPNESS * IMAGE_SIZE / size))
    axis = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1) * np.float32(REACH)
    across, up = np.meshgrid(axis, -axis)
    turn = thing.yaw + scene.azimuth
    sin, cos = np.float32(np.sin(scene.elevation)), np.float32(np.cos(scene.elevation))
    origin = turn_about_vertical(np.stack([across, up * sin, up * cos], axis=-1), -turn)
    ahead = turn_about_vertical(np.array([0, cos, -sin], dtype=np.float32), -turn)
    hit, points = _trace(thing.solid, origin.reshape(-1, 3), ahead)
    rgba = np.zeros((n * n, 4), dtype=np.float32)
    if hit.any():
        normal = turn_about_vertical(_normal(thing.solid, points), turn)
        rgba[hit, :3] = np.clip(shader(scene, points, normal, COLORS[thing.color]), 0, 1)
        rgba[hit, 3] = 1
    return rgba.reshape(n, n, 4)


def _trace(solid: str, origin: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rays hit a solid, bool [N], and where, float32 [hits, 3], by sphere tracing from
    `origin` [N, 3] along `ahead`."""
    reach = np.float32(1.3)
    depth = np.full(len(origin), -reach, dtype=np.float32)
    alive = np.arange(len(origin))
    hit = np.zeros(len(origin), dtype=bool)
    for _ in range(STEPS):
        distance = sdf(solid, origin[alive] + depth[alive, None] * ahead)
        near = distance < 0.004
        hit[alive[near]] = True
        depth[alive] += distance * ~near
        alive = alive[~near & (depth[alive] < reach)]
        if not len(alive):
            break
    # rays that graze an edge run out of steps beside it: they count if they ended close
    if len(alive):
        hit[alive[sdf(solid, origin[alive] + depth[alive, None] * ahead) < 0.02]] = True
    return hit, origin[hit] + depth[hit, None] * ahead


def _normal(solid: str, points: np.ndarray) -> np.ndarray:
    """Return the unit normals [N, 3] of points on a solid, by differences along the corners of a
    tetrahedron (Quilez, "normals for an SDF")."""
    corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=np.float32)
    slope = sum(c * sdf(solid, points + np.float32(0.01) * c)[:, None] for c in corners)
    return slope / np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-9)


def direction(around: float, above: float) -> np.ndarray:
    """Return the unit vector [3] towards a light at azimuth `around` and elevation `above`, in
    radians."""
    return np.array(
        [np.sin(around) * np.cos(above), -np.cos(around) * np.cos(above), np.sin(above)]
    )


def _shade(
    scene: Scene, points: np.ndarray, normal: np.ndarray, albedo: tuple[float, float, float]
) -> np.ndarray:
    """Return the colours [N, 3] of points on a solid under the scene's light, by Blinn–Phong
    shading."""
    light = direction(*scene.light)
    viewer = np.array([0, -np.cos(scene.elevation), np.sin(scene.elevation)])
    halfway = (light + viewer) / np.linalg.norm(light + viewer)
    diffuse = np.maximum(normal @ light, 0)[:, None]
    shine = np.maximum(normal @ halfway, 0)[:, None] ** 24
    return np.array(albedo) * (AMBIENT + DIFFUSE * diffuse) + HIGHLIGHT * shine


def turn_about_vertical(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Return vectors [..., 3] turned about the vertical by an angle in radians."""
    sin, cos = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1).astype(np.float32)
