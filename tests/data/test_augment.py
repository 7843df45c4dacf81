"""Pictures that are varied: nothing of what cannot be seen shows, and only where it may is a
picture mirrored."""

import numpy as np
import pytest
import torch

from onnuri.data.augment import AugmentConfig, Draw, apply, draw

STILL = AugmentConfig(
    zoom=(1, 1), rotation=0, shift=0, brightness=0, contrast=0, saturation=0, crop=1, plain=0
)


def drawn(settings=STILL, count=4, seed=0, mirror=False, whole=False):
    rng = np.random.default_rng(seed)
    return draw(rng, settings, np.full(count, mirror), np.full(count, whole))


def pictures(count=4, side=24, opaque=True, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 4, side, side)).astype(np.uint8)
    if opaque:
        pixels[:, 3] = 255
    return torch.from_numpy(pixels)


def test_a_plain_picture_is_as_it_was():
    pixels = pictures()
    colors, cover = apply(pixels, drawn(AugmentConfig(plain=1)), 24)
    assert torch.allclose(colors, pixels[:, :3] / 255, atol=1e-5) and torch.all(cover == 1)


def test_plain_grounds_are_white_and_hidden_colours_do_not_show():
    pixels = pictures(opaque=False)
    pixels[:, 3, :12] = 0
    colors, cover = apply(pixels, drawn(AugmentConfig(plain=1)), 24)
    assert torch.all(colors[:, :, :12] == 1) and torch.all(cover[:, :, :12] == 0)
    loud = pixels.clone()
    loud[:, :3, :12] = 255 - loud[:, :3, :12]
    moved = drawn(AugmentConfig(), seed=3)  # pixels are mixed, and none of those that are hidden
    assert torch.equal(apply(pixels, moved, 20)[0], apply(loud, moved, 20)[0])


def test_half_of_those_that_may_are_mirrored_and_no_other():
    pixels = pictures(400, 8)
    flipped = pixels.flip(3)[:, :3] / 255
    is_flipped = [
        torch.isclose(apply(pixels, drawn(count=400, mirror=mirror), 8)[0], flipped, atol=1e-4)
        .flatten(1)
        .all(1)
        .sum()
        .item()
        for mirror in (True, False)
    ]
    assert 150 < is_flipped[0] < 250 and is_flipped[1] == 0


@pytest.mark.parametrize("side", [24, 16])
def test_pictures_with_a_ground_of_their_own_show_no_other(side):
    settings = AugmentConfig(crop=1.6)
    _, cover = apply(pictures(300), drawn(settings, 300, whole=True), side)
    inner = cover[:, :, 1:-1, 1:-1]  # the outermost half pixel is mixed with nothing
    assert inner.min() > 0.999


def test_a_shift_moves_the_picture_by_that_share():
    pixels = torch.zeros(64, 4, 40, 40, dtype=torch.uint8)
    pixels[:, :, 18:22, 18:22] = 255
    moved = drawn(STILL.replace(shift=0.25), 64, seed=1)
    _, cover = apply(pixels, moved, 40)
    weight = cover[:, 0] / cover[:, 0].sum((1, 2), keepdim=True)
    place = torch.arange(40) + 0.5
    across = (weight * place).sum((1, 2)) - 20
    assert across.abs().max() <= 10.01 and across.std() > 4
    # from the result to the picture: a picture that is moved right is read further left
    assert torch.allclose(across, -moved.places[:, 0, 2] * 20, atol=0.05)


def test_zoom_and_rotation_stay_within_their_bounds():
    places = drawn(AugmentConfig(zoom=(0.5, 2.0), rotation=30, plain=0), 500).places[:, :, :2]
    scale = torch.linalg.det(places).abs().sqrt()
    angle = torch.rad2deg(torch.atan2(places[:, 1, 0], places[:, 0, 0]))
    assert 0.5 <= scale.min() < 0.6 and 1.7 < scale.max() <= 2.0
    assert 25 < angle.abs().max() <= 30


def test_colours_change_as_they_are_drawn():
    """Greys stay grey under saturation and hue, and contrast turns about the middle."""
    settings = STILL.replace(saturation=0.9, hue=180)
    grey = torch.full((50, 4, 4, 4), 100, dtype=torch.uint8)
    grey[:, 3] = 255
    colors, _ = apply(grey, drawn(settings, 50), 4)
    assert torch.allclose(colors, torch.full_like(colors, 100 / 255), atol=1e-4)
    middle = drawn(STILL.replace(contrast=0.9), 50).colors
    assert torch.allclose(middle[..., :3].sum(2) * 0.5 + middle[..., 3], torch.tensor(0.5))
    hues = drawn(STILL.replace(hue=180), 50).colors[..., :3]
    assert torch.allclose(hues @ hues.transpose(1, 2), torch.eye(3).expand(50, 3, 3), atol=1e-5)


def test_the_generator_alone_decides():
    one, same, other = (drawn(AugmentConfig(), 8, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.places, other.places)
    assert isinstance(one.to(torch.device("cpu")), Draw)


def test_colours_and_grounds_stay_within_white_and_black():
    colors, cover = apply(pictures(200, opaque=False), drawn(AugmentConfig(), 200), 24)
    assert colors.min() >= 0 and colors.max() <= 1 and cover.min() >= 0 and cover.max() <= 1


def test_a_smaller_picture_is_averaged_not_skipped():
    """Of four pixels the two in the middle are white, between which a single tap would fall."""
    pixels = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    pixels[:, :3, :, 1::4], pixels[:, :3, :, 2::4], pixels[:, 3] = 255, 255, 255
    colors, _ = apply(pixels, drawn(AugmentConfig(plain=1), 1), 16)
    assert (colors - 0.5).abs().max() < 0.02
