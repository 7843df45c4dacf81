"""A torus is still a torus after its codes: in 3D its surface has one hole, in a picture the
background shows through."""

import numpy as np
import pytest

from onnuri.media.mesh import mesh_of
from onnuri.toyworld import image, mesh
from onnuri.toyworld.scene import SIZES, Scene, Thing

PLACES = (("red", -0.3, 0.2, 0.0), ("blue", 0.41, -0.37, 0.3), ("yellow", 0.11, 0.5, -0.35))


@pytest.mark.parametrize("size", SIZES)
def test_holes_of_tori_survive(codecs, size):
    for color, x, z, yaw in PLACES:
        scene = Scene(
            things=(
                Thing(solid="torus", color=color, size=size, motion="still", x=x, z=z, yaw=yaw),
            )
        )
        surface = mesh_of(codecs["shape"].decode(codecs["shape"].encode(mesh.voxels(scene))))
        assert surface.is_watertight and surface.euler_number == 0
        picture = image.render(scene).image
        row, column = round(64 * (1 - z)), round(64 * (1 + x))
        middle = np.s_[row - 1 : row + 1, column - 1 : column + 1]
        made = codecs["image"].decode(codecs["image"].encode(picture))
        assert np.abs(picture[middle].astype(int) - made[middle]).max() < 12
