"""Codes that stand for vectors found in data, against looking at each vector by itself."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onnuri.codecs.codebook import AT_ONCE, Codebook, k_means, number


def book(levels=(3, 4), channels=5, seed=0):
    made = Codebook(levels, channels)
    generator = torch.Generator().manual_seed(seed)
    made.vectors = torch.randn(made.num_codes, channels, generator=generator)
    return made


def test_codes_are_the_nearest_vectors_and_decode_to_them(monkeypatch):
    monkeypatch.setattr("onnuri.codecs.codebook.AT_ONCE", 50)  # four at once
    codebook = book()
    z = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    codes = codebook.encode(z)
    distances = (z[:, :, None] - codebook.vectors).norm(dim=-1)
    assert torch.equal(codes, distances.argmin(-1)) and AT_ONCE > 50
    assert torch.equal(codebook.decode(codes), codebook.vectors[codes])
    everyone = torch.arange(12)
    assert torch.equal(codebook.encode(codebook.decode(everyone)), everyone)


def test_gradients_pass_straight_through():
    codebook = book()
    z = torch.randn(4, 5, requires_grad=True)
    made = codebook(z)
    assert torch.allclose(made, codebook.decode(codebook.encode(z)), atol=1e-6)
    (made * torch.arange(5.0)).sum().backward()
    assert torch.equal(z.grad, torch.arange(5.0).expand(4, 5))


def test_means_of_groups_that_lie_apart_are_the_groups_means():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0], [9, 0], [0, 9], [9, 9]])
    groups = [centre + torch.randn(50, 2, generator=generator) * 0.3 for centre in centres]
    best = min(
        (k_means(torch.cat(groups), 4, 12, seed) for seed in range(8)),
        key=lambda means: (torch.cat(groups)[:, None] - means).norm(dim=-1).amin(1).sum(),
    )
    expected = torch.stack([group.mean(0) for group in groups])
    assert torch.allclose(best[best.sum(1).argsort()][[0, 3]], expected[[0, 3]], atol=1e-5)


def test_each_round_brings_points_nearer_and_no_mean_stays_without_points():
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(2))
    errors = [
        (points[:, None] - k_means(points, 20, rounds)).norm(dim=-1).amin(1).square().mean()
        for rounds in (0, 2, 12)
    ]
    assert errors[0] > errors[1] > errors[2]
    twice = torch.cat([torch.zeros(200, 3), points[:4]])  # most points are one
    means = k_means(twice, 5, 30)
    assert len(torch.unique(k_means(twice, 5, 30), dim=0)) > 1 and means.isfinite().all()


def test_fewer_points_than_means_are_all_means():
    points = torch.arange(6.0).view(3, 2)
    assert torch.equal(torch.unique(k_means(points, 8, 3), dim=0), points)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_digits_are_places_among_equal_parts(levels, seed):
    count, channels = math.prod(levels), 3
    vectors = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    made = number(vectors, tuple(levels))
    assert torch.equal(
        made[made[:, 0].argsort()], vectors[vectors[:, 0].argsort()]
    )  # the same ones
    # by hand: sort, cut into equal parts, go on within each
    parts = {(): sorted(vectors.tolist())}
    for component, level in enumerate(levels):
        cut = {}
        for digits, part in parts.items():
            part = sorted(part, key=lambda v: v[component % channels])
            size = len(part) // level
            cut |= {(*digits, k): part[k * size : (k + 1) * size] for k in range(level)}
        parts = cut
    for digits in itertools.product(*(range(level) for level in levels)):
        code = sum(d * math.prod(levels[:k]) for k, d in enumerate(digits))
        assert made[code].tolist() == pytest.approx(parts[digits][0])
