"""Where things are and what colour they have, from pictures and voxels made by hand: boxes,
colours, codes and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from onnuri.toyworld.codecs import mesh, video, visual
from onnuri.toyworld.codecs.image import to_array, to_tensor
from onnuri.toyworld.codecs.visual import (
    Visual,
    VisualConfig,
    composite,
    fields_of,
    grid_of,
    image_spec,
    peaks,
    quantize_boxes,
    restore_boxes,
)

IMAGE, SHAPE = image_spec().slots, mesh.shape_spec().slots


def block_of(low, high, rgb, edge=255):
    """Voxels with a full block from `low` to `high` (cells, high excluded), whose outermost layer
    has another alpha."""
    grid = np.zeros((64, 64, 64, 4), np.uint8)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid[window] = (*rgb, edge)
    inner = tuple(slice(a + 1, b - 1) for a, b in zip(low, high, strict=True))
    grid[inner][..., 3] = 255
    return grid


def test_a_block_of_voxels_has_its_box_and_colour():
    [(crop, box, rgb)] = mesh.components(block_of((10, 20, 30), (26, 30, 54), (255, 51, 102)))
    np.testing.assert_allclose(
        box[:3], [(10 + 26) / 64 - 1, (20 + 30) / 64 - 1, (30 + 54) / 64 - 1], atol=1e-6
    )
    np.testing.assert_allclose(box[3:], [16 / 32, 10 / 32, 24 / 32], atol=1e-6)
    np.testing.assert_allclose(rgb, [1, 0.2, 0.4], atol=1e-6)
    assert (
        crop.shape == (24, 24, 24) and crop[12, 12, 12] == pytest.approx(1) and crop[0, 0, 0] < 0.1
    )
    assert crop.mean() == pytest.approx(1 / 1.15**3, rel=0.05)


def test_an_outer_layer_that_is_partly_full_moves_the_surface_within_it():
    """A surface lies where a layer is half full: with outer layers at 80 %, 0.2 of a cell further
    in on both sides."""
    [(_, box, _)] = mesh.components(block_of((10, 10, 10), (30, 30, 30), (9, 9, 9), edge=204))
    np.testing.assert_allclose(box[3:], (20 - 2 * 0.2) / 32, atol=1e-5)
    np.testing.assert_allclose(box[:3], 40 / 64 - 1, atol=1e-5)


def test_the_three_largest_components_are_kept_left_to_right_and_dust_is_not():
    grid = np.zeros((64, 64, 64, 4), np.uint8)
    for x, side in ((40, 6), (5, 5), (20, 3), (55, 4)):
        grid[x : x + side, 10 : 10 + side, 10 : 10 + side] = 255
    grid[60, 60, 60] = 255
    boxes = [box for _, box, _ in mesh.components(grid)]
    assert [round((float(b[0]) + 1) * 32 - float(b[3]) * 16) for b in boxes] == [5, 40, 55]
    speck = np.zeros((64, 64, 64, 4), np.uint8)
    speck[1, 1, 1:8] = 255
    assert mesh.components(speck) == []
    speck[1, 1, 8] = 255
    assert len(mesh.components(speck)) == 1


@pytest.mark.parametrize("box", [(0.1, -0.2, 0.3, 0.5, 0.6, 0.7), (-0.7, 0.7, 0.0, 0.4, 0.5, 1.2)])
def test_a_full_crop_is_put_under_its_box(box):
    grid = np.zeros((64, 64, 64, 4), np.uint8)
    steps = (np.arange(24) + 0.5) / 24 - 0.5
    inside = np.abs(steps * 1.15) < 0.5
    crop = (inside[:, None, None] & inside[None, :, None] & inside[None, None]).astype(np.float32)
    mesh.put(grid, crop, np.array(box, np.float32), np.array([0.2, 0.4, 0.6], np.float32))
    centres = (np.arange(64) + 0.5) / 32 - 1
    full = grid[..., 3] > 127
    for axis in range(3):
        across = centres[full.any(tuple(a for a in range(3) if a != axis))]
        assert across.min() == pytest.approx(max(box[axis] - box[3 + axis] / 2, -1), abs=0.06)
        assert across.max() == pytest.approx(min(box[axis] + box[3 + axis] / 2, 1), abs=0.06)
    assert (grid[full][:, :3] == (51, 102, 153)).all()


def test_what_is_put_does_not_hide_what_is_fuller():
    grid, crop = np.zeros((64, 64, 64, 4), np.uint8), np.ones((24, 24, 24), np.float32)
    here = np.array([0, 0, 0, 0.5, 0.5, 0.5], np.float32)
    mesh.put(grid, crop, here, np.array([1, 0, 0], np.float32))
    mesh.put(grid, 0.6 * crop, here, np.array([0, 1, 0], np.float32))
    assert (grid[32, 32, 32] == (255, 0, 0, 255)).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 511), min_size=4, max_size=4),
            st.lists(st.floats(-0.95, 0.95), min_size=3, max_size=3),
            st.lists(st.floats(0.07, 1.9), min_size=3, max_size=3),
            st.lists(st.floats(0, 1), min_size=3, max_size=3),
        ),
        max_size=3,
    )
)
def test_a_shapes_codes_give_back_form_box_and_colour(parts):
    row = mesh._encode_components(
        SHAPE,
        [
            (np.array(f), np.array(c + e, np.float32), np.array(rgb, np.float32))
            for f, c, e, rgb in parts
        ],
    )
    assert len(row) == 33 and all(
        lo <= v < hi for v, (lo, hi) in zip(row, SHAPE.position_ranges, strict=True)
    )
    back = mesh._decode_components(SHAPE, row)
    assert len(back) == len(parts)
    for (form, centre, extent, rgb), (f, box, colour) in zip(parts, back, strict=True):
        assert f.tolist() == form
        np.testing.assert_allclose(box[:3], centre, atol=1 / 256 + 1e-5)  # half of 2 / 256
        np.testing.assert_allclose(
            np.log(box[3:]), np.log(extent), atol=np.log(2 / 0.06) / 255 / 2 + 1e-4
        )
        np.testing.assert_allclose(colour, rgb, atol=1 / 14 + 1e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 127.9), st.floats(0, 127.9), st.floats(4, 110), st.floats(4, 110))
def test_boxes_lose_at_most_half_a_step(x, y, width, height):
    digits = quantize_boxes(torch.tensor([x, y, width, height]), IMAGE)
    assert (digits >= 0).all() and (digits[:2] < 256).all() and (digits[2:] < 128).all()
    back = restore_boxes(digits, IMAGE).tolist()
    assert back[:2] == pytest.approx([x, y], abs=0.25 + 1e-4)
    assert np.log(back[2:]) == pytest.approx(
        np.log([width, height]), abs=np.log(110 / 4) / 127 / 2 + 1e-4
    )


def test_an_images_codes_give_back_its_fields():
    rng = torch.Generator().manual_seed(0)
    form, color = (
        torch.randint(512, (5, 3, 4), generator=rng),
        torch.randint(512, (5, 3), generator=rng),
    )
    digits = torch.stack(
        [torch.randint(n, (5, 3), generator=rng) for n in (256, 256, 128, 128)], -1
    )
    there = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1]]).bool()
    background = torch.randint(512, (5, 4), generator=rng)
    codes = grid_of(IMAGE, form, color, digits, there, background)
    assert codes.shape == (5, 31)
    for row in codes.tolist():
        assert all(lo <= v < hi for v, (lo, hi) in zip(row, IMAGE.position_ranges, strict=True))
    f, c, d, t, b = fields_of(IMAGE, codes)
    assert torch.equal(t, there) and torch.equal(b, background)
    assert all(torch.equal(x[there], y[there]) for x, y in ((f, form), (c, color), (d, digits)))


def test_peaks_are_found_once_each_and_left_to_right():
    heat, boxes = torch.full((1, 32, 32), -6.0), torch.zeros(1, 4, 32, 32)
    boxes[0, 0], boxes[0, 1] = torch.arange(32) * 4 + 2.0, torch.arange(32)[:, None] * 4 + 2.0
    boxes[0, 2:] = 20
    for row, column, score in (
        (5, 20, 2.0),
        (5, 21, 1.0),
        (16, 4, 3.0),
        (17, 5, 2.9),
        (28, 28, 1.5),
        (10, 10, -2.0),
    ):
        heat[0, row, column] = score
    found, there = peaks(heat, boxes, 0.3)
    assert there.tolist() == [[True, True, True]]
    assert found[0, :, :2].tolist() == [
        [4 * 4 + 2, 16 * 4 + 2],
        [20 * 4 + 2, 5 * 4 + 2],
        [28 * 4 + 2, 28 * 4 + 2],
    ]
    _, none = peaks(torch.full((1, 32, 32), -6.0), boxes, 0.3)
    assert not none.any()


def test_two_peaks_within_one_box_are_one_object_and_beside_it_two():
    heat, boxes = torch.full((1, 32, 32), -6.0), torch.zeros(1, 4, 32, 32)
    boxes[0, 0], boxes[0, 1] = torch.arange(32) * 4 + 2.0, torch.arange(32)[:, None] * 4 + 2.0
    heat[0, 10, 10], heat[0, 10, 14] = 2.0, 1.0  # 16 pixels apart
    for side, count in ((40.0, 2), (60.0, 1)):  # 0.35 of a side: 14 and 21 pixels
        boxes[0, 2:] = side
        assert int(peaks(heat, boxes, 0.3)[1].sum()) == count


def test_layers_are_composed_as_the_over_operator_says():
    torch.manual_seed(0)
    behind, layers = torch.rand(1, 3, 2, 2), torch.rand(1, 3, 4, 2, 2) * 0.5
    expected = behind[0].numpy()
    for layer in layers[0].numpy():
        expected = expected * (1 - layer[3]) + layer[:3]
    np.testing.assert_allclose(composite(behind, layers)[0].numpy(), expected, rtol=1e-6)


class Seen(Visual):
    """A `Visual` whose small encoders hand on what they are given."""

    def __init__(self):
        super().__init__(VisualConfig(finder_width=8, crop_width=16, sprite_width=16))
        self.color_encoder = self.background_encoder = torch.nn.Identity()


def test_a_colour_is_the_foregrounds_mean_and_spread():
    torch.manual_seed(0)
    crops = torch.rand(3, 4, 40, 40)
    made = ((Seen().color(crops) + 0.6) / 2).numpy()
    for row, crop in zip(made, crops.double().numpy(), strict=True):
        weight = crop[3] ** 2
        mean = (crop[:3] * weight).sum((1, 2)) / weight.sum()
        spread = np.sqrt(
            ((crop[:3] - mean[:, None, None]) ** 2 * weight).sum((1, 2)) / weight.sum()
        )
        np.testing.assert_allclose(row, [*mean, *(3 * spread)], atol=1e-3)


class Noted(torch.nn.Module):
    """Keeps what it is given."""

    def forward(self, features):
        self.features = features
        return torch.zeros(len(features), 12)


def test_a_background_is_seen_where_no_object_is_and_filled_where_one_hides_it():
    pictures = torch.zeros(1, 3, 128, 128)
    pictures[:, 0], pictures[:, 1, :, 64:] = 0.8, 0.6
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:44, 20:44] = 1  # and two cells around it
    seen = Seen()
    seen.background_encoder = Noted()
    seen.background(pictures, mask)
    grid = seen.background_encoder.features.view(4, 8, 8)
    features, weight = grid[:3] / 5 + 0.45, grid[3]
    hidden = torch.zeros(64, 64)
    hidden[18:46, 18:46] = 1
    expected = 1 - hidden.reshape(8, 8, 8, 8).mean((1, 3))
    assert torch.allclose(weight, expected, atol=1e-5)
    assert torch.allclose(features[0], torch.full((8, 8), 0.8), atol=2e-2)
    assert float(features[1, 0, 0]) == pytest.approx(0.0, abs=1e-3)
    assert float(features[1, 0, 7]) == pytest.approx(0.6, abs=1e-2)
    assert float(features[1, 4, 4]) == pytest.approx(
        0.3, abs=0.02
    )  # wholly hidden: the mean of what is seen


def test_pictures_become_tensors_and_arrays_again():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
    tensor = to_tensor([picture])
    assert tensor.shape == (1, 3, 128, 128) and (to_array(tensor)[0] == picture).all()
    small = np.repeat(np.repeat(picture, 2, 0), 2, 1)
    assert (to_array(to_tensor([small]))[0] == picture).all()
    assert (
        to_array(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))[0, 0, 0] == (0, 128, 255)
    ).all()


def test_paths_and_boxes_are_inverse_and_in_their_units():
    torch.manual_seed(0)
    start = torch.tensor([50.0, 60.0, 20.0, 30.0])
    boxes = start + torch.randn(4, 4) * 3
    path = video.path_of(boxes, start)
    assert torch.allclose(video.boxes_of(path, start), boxes, atol=1e-3)
    expected = [
        [(b[0] - 50) / 16, (b[1] - 60) / 16, np.log(b[2] / 20) / 0.5, np.log(b[3] / 30) / 0.5]
        for b in boxes.tolist()
    ]
    np.testing.assert_allclose(path.view(4, 4).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert video.boxes_of(torch.full((16,), 100.0), start)[:, 2].max() == pytest.approx(
        20 * np.exp(1.5), rel=1e-4
    )
    assert video.boxes_of(torch.full((16,), -100.0), torch.tensor([0.0, 0, 5, 5]))[
        :, 2
    ].min() == pytest.approx(4.0)


def test_a_side_that_jumps_between_detections_stays_a_pixel_at_least():
    """The cubic through 110, 110, 4, 4, 110 pixels is below zero, and its logarithm no number:
    codes were far outside the grid."""
    sides = torch.tensor([110.0, 110, 4, 4, 110, 110, 4, 4, 110])
    track = torch.stack([torch.full((9,), 64.0), torch.full((9,), 64.0), sides, sides], 1)[:, None]
    made = video.between(track)
    assert float(made[..., 2:].min()) == 1.0 and torch.equal(made[::2], track)
    assert bool(video.path_of(made[1:5].transpose(0, 1), track[0]).isfinite().all())


def test_frames_between_detections_are_cubic():
    """Catmull–Rom through every second frame: exact for a straight line and, inside, for a
    parabola."""
    time = torch.arange(9, dtype=torch.float64)
    track = torch.stack([3 * time + 1, 0.5 * time**2, time * 0, time * 0 + 7], 1)[:, None]
    made = video.between(track)[:, 0]
    fine = torch.arange(17, dtype=torch.float64) / 2
    assert (
        made.shape == (17, 4)
        and torch.allclose(made[:, 0], 3 * fine + 1)
        and torch.allclose(made[:, 3], fine * 0 + 7)
    )
    np.testing.assert_allclose(made[2:-2, 1], 0.5 * fine[2:-2] ** 2, atol=1e-9)
    spline = CubicSpline(time, torch.sin(time / 2))
    wave = video.between(torch.sin(time / 2)[:, None, None].expand(9, 1, 4))[:, 0, 0]
    np.testing.assert_allclose(wave[2:-2], spline(fine[2:-2]), atol=0.02)


def test_objects_are_followed_by_least_distance_and_stay_where_they_are_lost():
    here = torch.tensor(
        [
            [[20.0, 20, 9, 9], [80.0, 80, 9, 9], [0, 0, 0, 0]],
            [[82.0, 79, 8, 8], [24.0, 22, 8, 8], [0, 0, 0, 0]],
            [[120.0, 10, 7, 7], [25.0, 24, 7, 7], [0, 0, 0, 0]],
        ]
    )
    there = torch.tensor([[True, True, False]] * 3)
    track = video.follow(here, there, 2)
    assert track[1].tolist() == [here[1, 1].tolist(), here[1, 0].tolist()]
    assert track[2].tolist() == [
        here[2, 1].tolist(),
        here[1, 0].tolist(),
    ]  # 69 pixels away is another object
    assert (
        video.follow(here, torch.zeros(3, 3, dtype=torch.bool), 2)[2].tolist()
        == here[0, :2].tolist()
    )


def test_features_of_codes_say_place_and_absence():
    made = visual.visual_features(
        Visual(VisualConfig(finder_width=8, crop_width=16, sprite_width=16)), IMAGE
    )
    row = column = 0
    for field in IMAGE.fields:
        width = {"background": 3, "form": 3, "color": 6, "motion": 16}.get(field.name, 9)
        rows = made[row : row + field.span]
        assert not rows[:, :column].any() and not rows[:, column + width + 1 :].any()
        if width == 9:  # a line, and waves of 0.5, 1, 2 and 4 turns along it
            line = np.arange(field.codes) / field.codes
            waves = [f(2 * np.pi * k * line) for k in (0.5, 1, 2, 4) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(
                rows[: field.codes, column : column + 9],
                np.stack([2 * line - 1, *waves], 1),
                atol=1e-5,
            )
        assert (rows[: field.codes, column + width] == 1).all()
        if field.optional:
            assert (
                not rows[field.codes, column : column + width].any()
                and rows[field.codes, column + width] == -1
            )
        row, column = row + field.span, column + width + 1
    assert row == IMAGE.num_codes == len(made)
