"""This module defines the solids as signed distance functions: one definition serves pictures,
videos, voxels and meshes.

It knows nothing of size, place or colour: a solid stands at the origin, x to the right, y away from
the viewer, z up, within the unit radius. Formulas after Inigo Quilez, "3D SDFs"
(iquilezles.org/articles/distfunctions).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = np.ndarray
"""float32 [...]: one signed distance per point, negative inside"""


def sdf(solid: str, points: np.ndarray) -> Field:
    """Return the signed distance (or a safe bound of it), float32 [...], of points float32 [..., 3]
    from a solid of unit radius."""
    return _SDF[solid](points[..., 0], points[..., 1], points[..., 2])


def _sphere(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from a sphere of radius 0.95."""
    return np.sqrt(x * x + y * y + z * z) - 0.95


def _box(x: Field, y: Field, z: Field, half: tuple[float, float, float]) -> Field:
    """Return the signed distance of points from a box of the given half sides."""
    a, b, c = np.abs(x) - half[0], np.abs(y) - half[1], np.abs(z) - half[2]
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
    return outside + np.minimum(np.maximum(np.maximum(a, b), c), 0)


def _cube(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from a cube."""
    return _box(x, y, z, (0.75, 0.75, 0.75))


def _cylinder(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from an upright cylinder."""
    return _extrude(np.sqrt(x * x + y * y) - 0.68, z, 0.85)


def _extrude(flat: Field, along: Field, half: float) -> Field:
    """Return the signed distance from a prism of half height `half`, given the distance `flat` in
    the plane of its base and the coordinate `along` its axis."""
    a, b = flat, np.abs(along) - half
    return np.minimum(np.maximum(a, b), 0) + np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2)


def _cone(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from an upright cone."""
    # apex at z = 1, base of radius 0.85 at z = -0.85
    height, base = 1.85, 0.85
    slope = np.hypot(height, base)
    side = (np.sqrt(x * x + y * y) * height + (z - 1.0) * base) / slope
    return np.maximum(side, -0.85 - z)


def _torus(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from a torus that faces the viewer."""
    ring = np.sqrt(x * x + z * z) - 0.68
    return np.sqrt(ring * ring + y * y) - 0.28


def _polygon(x: Field, z: Field, corners: np.ndarray) -> Field:
    """Return the signed distance from a simple polygon with corners [N, 2] in the x-z plane."""
    best = np.full(x.shape, np.inf, dtype=x.dtype)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, az), (bx, bz) in zip(corners, np.roll(corners, -1, axis=0)):
        ex, ez, wx, wz = bx - ax, bz - az, x - ax, z - az
        t = np.clip((wx * ex + wz * ez) / (ex * ex + ez * ez), 0, 1)
        best = np.minimum(best, (wx - ex * t) ** 2 + (wz - ez * t) ** 2)
        crosses = (az <= z) != (bz <= z)
        inside ^= crosses & ((ex * wz - ez * wx > 0) == (bz > az))
    return np.where(inside, -1.0, 1.0).astype(x.dtype) * np.sqrt(best)


def _star_corners() -> np.ndarray:
    """Return the corners float32 [10, 2] of a five-pointed star."""
    turn = np.pi / 2 + np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([reach * np.cos(turn), reach * np.sin(turn) - 0.05], axis=-1).astype(np.float32)


_STAR = _star_corners()


def _star(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from a five-pointed star that faces the viewer."""
    return _extrude(_polygon(x, z, _STAR), y, 0.28)


def _cross(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from a cross of two bars that faces the viewer."""
    return np.minimum(_box(x, y, z, (0.92, 0.28, 0.28)), _box(x, y, z, (0.28, 0.28, 0.92)))


def _capsule(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from an upright capsule."""
    above = z - np.clip(z, -0.6, 0.6)
    return np.sqrt(x * x + y * y + above * above) - 0.38


def _octahedron(x: Field, y: Field, z: Field) -> Field:
    """Return a bound of the signed distance of points from an octahedron."""
    # a little narrower than high, so that its diamond is not a cube on its corner
    return (np.abs(x) / 0.8 + np.abs(y) / 0.8 + np.abs(z) - 1.0) * 0.5


def _arch(x: Field, y: Field, z: Field) -> Field:
    """Return the signed distance of points from an arch that faces the viewer."""
    # an upside-down U: two legs and half a ring above them
    radius = np.where(z > 0.15, np.sqrt(x * x + (z - 0.15) ** 2), np.abs(x))
    flat = np.maximum(np.abs(radius - 0.55) - 0.24, -0.85 - z)
    return _extrude(flat, y, 0.32)


_SDF: dict[str, Callable[[Field, Field, Field], Field]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
    "star": _star,
    "cross": _cross,
    "capsule": _capsule,
    "octahedron": _octahedron,
    "arch": _arch,
}
