"""The picture codec: its contract, what is known of an unfinished picture, and films to come."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.codecs import registry
from onnuri.codecs.grid import CONFIGS, GridCodec, GridConfig, square
from onnuri.errors import ConfigError

SMALL = GridConfig(side=32, strides=(2,), widths=(16, 32), blocks=1, cell_blocks=1, levels=(4, 5))


def codec(**changes):
    torch.manual_seed(0)
    grid = GridCodec(SMALL.replace(**changes)).eval().requires_grad_(False)
    if grid.config.components:
        of_data(grid)
    return grid


def of_data(grid):
    """Set components, mean and codebook as if they had been found in data."""
    basis = torch.linalg.qr(torch.randn(192, grid.config.components))[0].T
    for part in (grid.encoder.components, grid.decoder.components):
        part.basis.copy_(basis)
        part.mean.copy_(torch.linspace(-0.5, 0.5, 192))
        part.spread.fill_(3.0)
    grid.quantizer.vectors.copy_(torch.randn(20, grid.config.components) * 3)


KINDS = pytest.mark.parametrize("components", [0, 6])


def picture(seed=0, height=50, width=90):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def frames(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, count, 3, 32, 32, generator=generator) * 2 - 1


@KINDS
def test_codes_are_as_the_spec_says_and_decode_to_a_square(components):
    grid = codec(components=components)
    codes = grid.encode(picture())
    assert codes.dtype == np.int64 and codes.shape == (grid.spec.item_codes,) == (16,)
    assert grid.spec.slots.position_ranges == ((0, 20),) * 16 and grid.num_codes == 20
    assert codes.min() >= 0 and codes.max() < 20
    made = grid.decode(codes)
    assert made.shape == (32, 32, 3) and made.dtype == np.uint8


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_have_the_codes_of_their_name_and_at_most_15_million_weights(name):
    with torch.device("meta"):
        grid = GridCodec(CONFIGS[name]())
    assert grid.spec.max_codes == (144 if name == "144" else 64) and grid.num_codes == 12_800
    assert sum(weight.numel() for weight in grid.parameters()) < 15e6


@given(st.lists(st.integers(0, 19), min_size=16, max_size=16), st.sampled_from([0, 6]))
@settings(max_examples=20, deadline=None)
def test_any_codes_decode(codes, components):
    assert codec(components=components).decode(np.array(codes)).shape == (32, 32, 3)


@KINDS
def test_a_batch_is_its_items(components):
    grid, items = codec(components=components), [picture(seed, 20 + seed, 40) for seed in range(5)]
    for codes, item in zip(grid.encode_batch(items), items, strict=True):
        assert (codes == grid.encode(item)).all()


@KINDS
def test_what_is_saved_is_loaded(tmp_path, components):
    grid = codec(components=components)
    for weight in (*grid.parameters(), *grid.buffers()):  # such as 16 bits hold
        if not weight.is_floating_point():
            continue
        weight.copy_(weight.half().float())
    registry.save({"image": grid}, tmp_path)
    again = registry.load(tmp_path)["image"]
    assert again.spec == grid.spec and (again.encode(picture()) == grid.encode(picture())).all()


def test_features_are_the_digits_of_a_code():
    features = codec().code_features()
    assert features.shape == (20, 2)
    expected = [[-1 + 2 * (code % 4) / 3, -1 + 2 * (code // 4) / 4] for code in range(20)]
    assert torch.allclose(features, torch.tensor(expected))


def test_networks_that_have_learned_nothing_give_the_nearest_patches():
    """Codes of data are right before a step is taken: each cell is the nearest vector's pixels."""
    grid = codec(components=6)
    part, book = grid.encoder.components, grid.quantizer.vectors
    pictures = frames(2, seed=4)
    made, quantized, values = grid(pictures)
    for frame, cell in ((0, 0), (1, 6)):
        row, column = 8 * (cell // 4), 8 * (cell % 4)
        pixels = pictures[0, frame, :, row : row + 8, column : column + 8].flatten()
        expected = (pixels - part.mean) @ part.basis.T
        assert torch.allclose(values[0, frame, cell], expected, atol=1e-4)
        nearest = book[(book - expected).norm(dim=1).argmin()]
        assert torch.allclose(quantized[0, frame, cell], nearest, atol=1e-5)
        back = made[0, frame, :, row : row + 8, column : column + 8].flatten()
        assert torch.allclose(back, nearest @ part.basis + part.mean, atol=1e-4)
    error = (values - quantized).square().sum(-1).mean() / 192 / 4
    assert torch.allclose(grid.distance(quantized, values), error)
    assert torch.allclose(grid.scaled(values), values / 3)


@KINDS
def test_unknown_codes_do_not_change_a_partial_picture(components):
    grid, codes = codec(components=components), np.arange(16) % 20
    for part in grid.decoder.layers:  # a last layer that adds nothing would hide the others
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.1)
    assert grid.partial_counts == (4, 8, 12)
    # the decoder is given 8 codes of two different wholes
    known = torch.tensor([8])
    others = codes.copy()
    others[8:] = (others[8:] + 7) % 20
    one, other = (grid._decode([whole], known)[0] for whole in (codes, others))
    assert (one == other).all() and (grid.partial(codes[:8]) == one).all()
    assert (grid.partial(codes[:12]) != one).any()


def test_time_blocks_begin_as_if_they_were_not_there():
    still, film = codec(), codec(time_blocks=1)
    film.load_state_dict(still.state_dict(), strict=False)
    clip = frames(4)
    alone = torch.cat([still(clip[:, k : k + 1])[0] for k in range(4)], 1)
    assert torch.allclose(film(clip)[0], alone, atol=1e-6)


def test_frames_depend_on_earlier_frames_alone():
    film = codec(time_blocks=1)
    for block in (*film.encoder.cells.time, *film.decoder.cells.time):
        torch.nn.init.normal_(block.out.weight, std=0.5)
    clip, changed = frames(4), frames(4)
    changed[:, 2] = -changed[:, 2]
    before, after = (film.encoder(x) for x in (clip, changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 3], after[:, 3])  # it sees frame 2
    made, made_after = (film.decoder(film.quantizer(values)) for values in (before, after))
    assert torch.equal(made[:, :2], made_after[:, :2])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (10, 40), (500, 7), (1, 1), (33, 31)])
def test_a_square_holds_the_whole_picture_in_its_middle(height, width):
    item = np.zeros((height, width, 3), np.uint8)
    item[..., 0] = np.linspace(10, 250, width).astype(np.uint8)
    item[..., 1] = np.linspace(10, 250, height).astype(np.uint8)[:, None]
    made = square(item, 32)
    assert made.shape == (32, 32, 3)
    short = max(1, round(32 * min(height, width) / max(height, width)))
    first = (32 - short) // 2
    axis = 0 if height < width else 1
    edge = np.moveaxis(made, axis, 0)
    assert (edge[:first] == edge[first]).all() and (edge[first + short :] == edge[-1]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"side": 36}, "side 36: is no multiple of a cell's 8 pixels; give such as 32"),
        ({"widths": (16,)}, "are not one more than the 1 strides"),
        ({"widths": (12, 32)}, "width 12: is no multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(changes, words):
    with pytest.raises(ConfigError) as error:
        GridCodec(SMALL.replace(**changes))
    assert words in str(error.value) and "\n" not in str(error.value)
