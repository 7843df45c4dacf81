"""What a picture codec's codes stand for, found in data: against numpy's own components, and beside
what networks learn afterwards."""

import numpy as np
import pytest
import torch

from onnuri.codecs.grid import GridCodec, GridConfig
from onnuri.data.augment import AugmentConfig
from onnuri.data.picture_store import PictureItem, PictureStore, write
from onnuri.errors import ConfigError
from onnuri.training import grid_codebook
from onnuri.training.grid_codebook import _patches, fit_codebook
from onnuri.training.grid_codec import GridLossConfig, GridObjective
from onnuri.training.loop import TrainConfig, fit, read_metrics

SMALL = GridConfig(
    side=16, strides=(2,), widths=(16, 32), blocks=1, cell_blocks=1, levels=(8, 8), components=12
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Discs and bars of several colours on transparent ground."""
    rng, pairs = np.random.default_rng(0), []
    rows = np.arange(16)
    for number in range(24):
        pixels = np.zeros((16, 16, 4), np.uint8)
        y, x, size = rng.uniform(4, 12, 3)
        disc = (rows[:, None] - y) ** 2 + (rows - x) ** 2 < size**2 / 3
        shape = disc if number % 2 else np.abs(rows[:, None] - rows + x - y) < size / 3
        pixels[shape] = (*rng.integers(0, 256, 3), 255)
        pairs.append((PictureItem(concept=str(number), names=("a",)), pixels))
    folder = tmp_path_factory.mktemp("pictures") / "store"
    write(folder, pairs, len(pairs), 16)
    return PictureStore(folder)


def objective(store):
    torch.manual_seed(0)
    weights = GridLossConfig(buckets=64, names=0.0)
    return GridObjective(GridCodec(SMALL), store, 8, weights, AugmentConfig(plain=0.5))


def test_components_are_numpys(store):
    made = objective(store)
    codec = made.module.codec
    pixels = _patches(codec, made, 400).numpy().astype(np.float64)
    assert len(pixels) >= 400
    fit_codebook(codec, made, 400)
    components = codec.encoder.components
    assert np.allclose(components.mean, pixels.mean(0), atol=1e-5)
    values = np.linalg.eigvalsh(np.cov(pixels.T, bias=True))[::-1][:12]
    assert np.allclose(components.spread, np.sqrt(values), rtol=1e-2)
    basis = components.basis.numpy()
    assert np.allclose(basis @ basis.T, np.eye(12), atol=1e-4)
    projected = (pixels - pixels.mean(0)) @ basis.T
    assert np.allclose(projected.std(0), np.sqrt(values), rtol=1e-2)
    for name, buffer in codec.encoder.components.named_buffers():
        assert torch.equal(buffer, codec.decoder.components.get_buffer(name))


def test_few_cells_of_one_colour_are_kept(store, monkeypatch):
    made = objective(store)
    monkeypatch.setattr(grid_codebook, "FLAT_SHARE", 1.0)
    made.augment = AugmentConfig(plain=0, zoom=(0.4, 0.4), white=1)
    flat = [_patches(made.module.codec, made, 2000).std(1) <= 1e-3]
    monkeypatch.setattr(grid_codebook, "FLAT_SHARE", 0.05)
    flat.append(_patches(made.module.codec, made, 2000).std(1) <= 1e-3)
    before, after = (float(each.float().mean()) for each in flat)
    assert before > 0.2 and 0 < after < before / 4
    assert abs(len(flat[0]) - len(flat[1])) < 100  # as many cells all the same


def test_codes_are_found_before_any_step_and_the_networks_learn_what_is_missing(store, tmp_path):
    untrained, made = objective(store), objective(store)
    fit_codebook(made.module.codec, made, 3000)
    vectors = made.module.codec.quantizer.vectors
    assert len(torch.unique(vectors, dim=0)) > 60
    with torch.no_grad():
        before = [float(each.loss(each.batch(500))[1]["psnr"]) for each in (untrained, made)]
    assert before[1] > before[0] + 4
    config = TrainConfig(steps=100, optimizer="muon", learning_rate=3e-3, warmup_steps=5)
    basis = made.module.codec.encoder.components.basis.clone()
    fit(made, config.replace(log_every=5), tmp_path)
    with torch.no_grad():
        after = float(made.loss(made.batch(500))[1]["psnr"])
    assert after > before[1] + 0.4
    assert torch.equal(made.module.codec.encoder.components.basis, basis)
    assert read_metrics(tmp_path)[-1]["commitment"] < 0.05


def test_the_same_pictures_give_the_same_codebook(store):
    codecs = []
    for _ in range(2):
        made = objective(store)
        fit_codebook(made.module.codec, made, 1000)
        codecs.append(made.module.codec)
    one, other = (dict(codec.named_buffers()) for codec in codecs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pictures_of_one_colour_are_one_line(tmp_path):
    pixels = np.full((16, 16, 4), 255, np.uint8)
    write(tmp_path / "s", [(PictureItem(concept="a", names=("a",)), pixels)], 1, 16)
    made = objective(PictureStore(tmp_path / "s"))
    made.augment = AugmentConfig(plain=1)
    with pytest.raises(ConfigError, match="are of one colour each; give a table with others"):
        fit_codebook(made.module.codec, made, 100)
