"""The picture codec's training: it learns, and each part of its loss counts what it says."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onnuri.codecs.grid import GridCodec, GridConfig
from onnuri.data.augment import AugmentConfig
from onnuri.data.picture_store import PictureItem, PictureStore, write
from onnuri.errors import ConfigError
from onnuri.training.grid_codec import (
    GridLossConfig,
    GridObjective,
    NameTower,
    _chances,
    _edges,
    _matching,
    _mean,
    ngrams,
)
from onnuri.training.loop import TrainConfig, fit, read_metrics

SMALL = GridConfig(side=16, strides=(2,), widths=(16, 32), blocks=1, cell_blocks=1, levels=(8, 8))
COLORS = {"red": "빨강", "green": "초록", "blue": "파랑"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Squares of three colours and several sizes, with their names."""
    pairs = []
    for size, (number, (english, korean)) in itertools.product(
        range(4, 15), enumerate(COLORS.items())
    ):
        pixels = np.zeros((16, 16, 4), np.uint8)
        start = (16 - size) // 2
        pixels[start : start + size, start : start + size, [number, 3]] = 255
        names = (f"{english} square", f"{korean} 네모")
        split = "dev" if size == 9 else "train"
        pairs.append((PictureItem(concept=english, names=names, split=split), pixels))
    folder = tmp_path_factory.mktemp("pictures") / "store"
    write(folder, pairs, len(pairs), 16)
    return PictureStore(folder)


def objective(store, size=8, **losses):
    torch.manual_seed(0)
    weights = GridLossConfig(buckets=256, **losses)
    augment = AugmentConfig(plain=0.5)
    return GridObjective(GridCodec(SMALL), store, size, weights, augment)


def test_it_learns_pictures_and_their_names(store, tmp_path):
    trained = objective(store, size=16)
    trained.augment = AugmentConfig(plain=1)
    config = TrainConfig(steps=60, learning_rate=3e-3, warmup_steps=5, log_every=5)
    fit(trained, config, tmp_path)
    lines = read_metrics(tmp_path)
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 6
    chance = math.log(3)  # of three concepts, whose pictures may have each other's names
    entropy = math.log(16 / 3)
    assert lines[0]["names"] > 0.9 * (chance + entropy)
    assert lines[-1]["names"] < entropy + 0.6 * chance


def test_a_run_that_was_interrupted_ends_in_the_same_weights(store, tmp_path):
    config = TrainConfig(steps=3, warmup_steps=1, decay=0.0)
    whole = objective(store)
    fit(whole, config, tmp_path / "whole")
    parts = objective(store)
    fit(parts, config.replace(steps=2), tmp_path / "parts")
    again = objective(store)
    fit(again, config, tmp_path / "parts")
    pairs = list(zip(again.module.parameters(), whole.module.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    first = zip(parts.module.parameters(), whole.module.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in first)


def test_batches_are_of_training_pictures_and_of_the_step_alone(store):
    trained = objective(store, size=200)
    one, same = trained.batch(3), trained.batch(3)
    assert torch.equal(one.pixels, same.pixels) and torch.equal(one.ngrams, same.ngrams)
    assert not torch.equal(one.pixels, trained.batch(4).pixels)
    dev = {store.pixels[k].tobytes() for k in store.of_split("dev")}
    drawn = {pixels.numpy().tobytes() for pixels in one.pixels}
    assert not dev & drawn and len(drawn) == 30


def test_styles_have_their_shares():
    styles = ["a"] * 3 + ["b"] * 8 + ["c"]
    chances = _chances(styles, {"a": 0.6})
    assert np.allclose(chances[:3], 0.2) and np.allclose(chances[3:], 0.4 / 9)
    assert np.allclose(_chances(styles, {}), 1 / 12)
    assert np.allclose(_chances(["a", "b", "b"], {"a": 0.5, "b": 0.5}), [0.5, 0.25, 0.25])


def test_pictures_are_drawn_by_their_chance(store):
    trained = objective(store, size=3000)
    trained.chances = np.where(np.arange(30) == 7, 0.5, 0.5 / 29)
    batch = trained.batch(0)
    wanted = torch.from_numpy(store.pixels[trained.numbers[7]].copy())
    assert 0.46 < (batch.pixels == wanted).flatten(1).all(1).float().mean() < 0.54


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"x": 0.5}, "style 'x': is none of the pictures'; use some of a, b"),
        ({"a": 1.0}, "leave 0 to 1 other pictures"),
        ({"a": 0.7, "b": 0.7}, "leave -0.4"),
        ({"a": 0.2, "b": 0.2}, "leave 0.6 to 0 other pictures"),
    ],
)
def test_wrong_shares_are_one_line(shares, words):
    with pytest.raises(ConfigError) as error:
        _chances(["a", "b"], shares)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unknown_cells_do_not_count(store):
    trained = objective(store, size=4, names=0.0, unknown=1.0)
    batch = trained.batch(0)._replace(known=torch.tensor([3, 1, 2, 3]))
    known = trained._known_pixels(batch.known)
    assert known.sum((1, 2, 3)).tolist() == [3 * 64, 64, 128, 192]
    assert known[1, 0, :8, :8].all() and not known[1, 0, :8, 8:].any()
    assert known[0, 0, 8:, :8].all() and not known[0, 0, 8:, 8:].any()
    loss, _ = trained.loss(batch)
    loud = batch._replace(pixels=batch.pixels.clone())
    loud.pixels[:, :, 12:, 12:] = 255 - loud.pixels[:, :, 12:, 12:]
    still = loud._replace(drawn=_plain(4), known=torch.tensor([1, 1, 1, 1]))
    quiet = batch._replace(drawn=_plain(4), known=torch.tensor([1, 1, 1, 1]))
    # what an encoder sees there may change the codes; with those of the quiet picture, nothing does
    encoded = trained.module.codec.encoder
    trained.module.codec.encoder = _Fixed(encoded)
    assert trained.loss(still)[0] == trained.loss(quiet)[0]
    assert loss.requires_grad


class _Fixed(torch.nn.Module):
    """An encoder whose values are all the same."""

    def __init__(self, encoder):
        super().__init__()
        self.values = encoder.values

    def forward(self, frames):
        """Return values [B, F, 4, 2]."""
        return torch.zeros(*frames.shape[:2], 4, 2, requires_grad=True)


def _plain(count):
    from onnuri.data.augment import draw

    rng = np.random.default_rng(0)
    return draw(rng, AugmentConfig(plain=1), np.zeros(count, bool), np.zeros(count, bool))


def test_names_match_as_an_independent_formula_says():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    apart = _matching(logits, torch.arange(4))
    rows = F.cross_entropy(logits, torch.arange(4))
    columns = F.cross_entropy(logits.T, torch.arange(4))
    assert torch.allclose(apart, (rows + columns) / 2)
    same = _matching(logits, torch.tensor([0, 1, 0, 2]))
    expected = 0.0
    for side in (logits, logits.T):
        log_shares = side - side.exp().sum(1, keepdim=True).log()
        pair = (log_shares[0, 0] + log_shares[0, 2] + log_shares[2, 0] + log_shares[2, 2]) / 2
        expected += -(pair + log_shares[1, 1] + log_shares[3, 3]) / 4 / 2
    assert torch.allclose(same, expected)


def test_weighted_means_and_edges():
    values = torch.tensor([[[[1.0, 3.0]], [[5.0, 7.0]]]])
    assert (
        _mean(values, torch.tensor([[[[1.0, 0.0]]]])) == 3
        and _mean(values, torch.ones(1, 1, 1, 2)) == 4
    )
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1  # 4 of 12 pairs across differ, none down
    assert torch.allclose(_edges(step, torch.ones_like(step)), torch.tensor(4 / 12 / 2))


def test_ngrams_fold_case_and_spaces_and_know_syllables():
    apple, apples, fruit, green = (
        ngrams(x, 2**20) for x in ("red apple", "red apples", "사과", "풋사과")
    )
    assert ngrams("Red  Apple", 2**20) == apple != apples
    assert len(fruit) == 4 + 3 + 2 + 1  # letters, pairs and triples of <사과>, and a word
    assert len(set(green) & set(fruit)) >= 5 and max(ngrams("red apple", 7)) < 7


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("place", [1, -1])
def test_a_tower_tells_pictures_apart_by_places_too(side, place):
    torch.manual_seed(0)
    tower, values = NameTower(2, side, 16), torch.zeros(2, side**2, 2)
    values[0, 0], values[1, place] = 1, 1

    class Batch:
        """Two names."""

        ngrams, starts = torch.tensor([1, 2, 3]), torch.tensor([0, 1])

    logits = tower(values, Batch)
    assert logits.shape == (2, 2) and not torch.allclose(logits[0], logits[1])


def test_a_store_without_training_pictures_is_one_line(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    write(tmp_path / "s", [(PictureItem(concept="a", split="test"), pixels)], 1, 16)
    with pytest.raises(ConfigError) as error:
        objective(PictureStore(tmp_path / "s"))
    assert "none to train on" in str(error.value)
