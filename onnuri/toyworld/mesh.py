"""This module renders a scene as coloured voxels and as a watertight mesh, both from the solids'
signed distances.

It knows nothing of codecs. The grid spans the world's [-1, 1]³ with axes x, y, z; it shows time 0
and no motion.
"""

from __future__ import annotations

import numpy as np
import trimesh

from onnuri.media.mesh import mesh_of
from onnuri.modality import VOXELS
from onnuri.toyworld.image import turn_about_vertical
from onnuri.toyworld.scene import COLORS, REACH, Scene
from onnuri.toyworld.solids import sdf


def voxels(scene: Scene) -> np.ndarray:
    """Return the voxels uint8 [64, 64, 64, 4] of a scene: RGB is the albedo, alpha / 255 the
    occupancy, smooth over one voxel at the surface."""
    grid = np.zeros((VOXELS,) * 3 + (4,), dtype=np.uint8)
    for thing in scene.things:
        center = np.array([thing.x, thing.y, thing.z], dtype=np.float32)
        reach = thing.radius * REACH + 2 / VOXELS
        low = np.clip(np.floor((center - reach + 1) * VOXELS / 2).astype(int), 0, VOXELS)
        high = np.clip(np.ceil((center + reach + 1) * VOXELS / 2).astype(int), 0, VOXELS)
        axes = [
            (np.arange(a, b, dtype=np.float32) + 0.5) * 2 / VOXELS - 1 - c
            for a, b, c in zip(low, high, center)
        ]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        distance = (
            sdf(thing.solid, turn_about_vertical(points, -thing.yaw) / np.float32(thing.radius))
            * thing.radius
        )
        alpha = (np.clip(0.5 - distance * VOXELS / 2, 0, 1) * 255).round().astype(np.uint8)
        window = grid[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        window[..., :3] = (
            np.where(
                alpha[..., None] > window[..., 3:],
                np.array(COLORS[thing.color]) * 255,
                window[..., :3],
            )
            .round()
            .astype(np.uint8)
        )
        window[..., 3] = np.maximum(window[..., 3], alpha)
    return grid


def mesh(scene: Scene) -> trimesh.Trimesh:
    """Return the watertight surface of a scene with vertex colours, in world units."""
    return mesh_of(voxels(scene))
