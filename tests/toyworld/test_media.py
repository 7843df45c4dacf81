"""Picture, video, voxels and mesh of a scene: equal where they must be, watertight,
deterministic."""

import numpy as np
import pytest
from scipy import ndimage

from onnuri.modality import VOXELS
from onnuri.toyworld import image, mesh, video
from onnuri.toyworld.scene import SIZES, SOLIDS, Scene, Thing, sample_scene
from onnuri.toyworld.solids import sdf


def one(solid: str, size: str = "medium", **more: float) -> Scene:
    return Scene(
        things=(Thing(solid=solid, color="red", size=size, motion="still", x=0.0, z=0.0, **more),)
    )


@pytest.mark.parametrize("solid", SOLIDS)
def test_solids_stay_within_their_reach_and_never_overstate_distance(solid):
    rng = np.random.default_rng(0)
    points = rng.uniform(-1.4, 1.4, (4000, 3)).astype(np.float32)
    distance = sdf(solid, points)
    assert (distance[np.linalg.norm(points, axis=1) > 1.45] > 0).all()
    # a signed distance changes by no more than the way between two points
    other = points + rng.normal(size=points.shape).astype(np.float32) * 0.05
    assert (
        np.abs(sdf(solid, other) - distance) <= np.linalg.norm(other - points, axis=1) * 1.02 + 1e-5
    ).all()


@pytest.mark.parametrize("solid", SOLIDS)
def test_an_object_lands_where_its_place_says(solid):
    scene = Scene(
        things=(Thing(solid=solid, color="blue", size="medium", motion="still", x=0.3, z=-0.2),)
    )
    rows, columns = np.nonzero(image.render(scene).masks)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(64 * 1.3, abs=2)
    assert abs((rows.min() + rows.max() + 1) / 2 - 64 * 1.2) < 5


def test_first_frame_is_the_picture_and_later_frames_move():
    scene = next(s for s in map(sample_scene, range(50)) if s.things[0].motion == "right")
    made = video.render(scene)
    assert made.frames.shape == (17, 128, 128, 3)
    assert (made.frames[0] == image.render(scene).image).all()
    assert (made.frames[8] == image.render(scene, seconds=1.0).image).all()
    start, stop = (np.nonzero(made.masks[k] == 1)[1].mean() for k in (0, 16))
    assert stop - start == pytest.approx(64 * 0.4 * scene.zoom, abs=1.0)


def test_rendering_is_deterministic():
    scene = sample_scene(11)
    assert (image.render(scene).image == image.render(scene).image).all()
    assert (mesh.voxels(scene) == mesh.voxels(scene)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("solid", SOLIDS)
def test_meshes_are_watertight_and_as_large_as_their_voxels(solid, size):
    grid = mesh.voxels(one(solid, size, yaw=0.3))
    surface = mesh.mesh(one(solid, size, yaw=0.3))
    assert surface.is_watertight and surface.volume > 0
    # parts thinner than a voxel never reach one half: the smaller the solid, the more of it is lost
    share = surface.volume / (grid[..., 3].astype(float).sum() / 255 * (2 / VOXELS) ** 3)
    assert {"small": 0.7, "medium": 0.85, "large": 0.9}[size] < share <= 1.0


def test_holes_of_tori_are_open():
    for size in SIZES:
        assert mesh.mesh(one("torus", size)).euler_number == 0  # genus 1
        assert image.render(one("torus", size)).masks[64, 64] == 0


def test_a_scene_has_one_component_a_thing():
    for seed in range(12):
        scene = sample_scene(seed)
        _, count = ndimage.label(mesh.voxels(scene)[..., 3] > 127, structure=np.ones((3, 3, 3)))
        assert count == len(scene.things) and mesh.mesh(scene).is_watertight
