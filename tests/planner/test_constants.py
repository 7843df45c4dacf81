"""The list of constants: each once, with what was believed before and why, and each used."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnuri.calibration import fit
from onnuri.planner import constants, shapes
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.step_time import rates, seconds, spread
from onnuri.planner.step_work import work

EVERY = constants.load()


class Asked(dict[str, float]):
    """Remembers the names that it was asked for."""

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> float:
        self.names.add(name)
        return super().__getitem__(name)


def test_at_most_forty_each_once_with_unit_and_source() -> None:
    assert len(EVERY) <= 40 and len({c.name for c in EVERY}) == len(EVERY)
    assert all(c.unit and c.source and c.value > 0 and c.prior > 0 for c in EVERY)


def test_fitted_constants_stay_within_reach_of_their_priors() -> None:
    """Three standard deviations: farther off, the prior or the formula is wrong."""
    from math import log

    assert not {
        c.name: c.value for c in constants.fitted() if abs(log(c.value / c.prior)) > 3 * c.spread
    }


def test_every_constant_is_used_and_none_is_used_that_is_not_listed() -> None:
    one = Job(
        architecture=shapes.shape("Nemotron-3-Nano-30B-A3B"),
        layout=ParallelConfig(dp=16, ep=8, precision="nvfp4"),
        cluster=Cluster(gpu="GB200", gpus=16),
        tokens=4096,
        batch_tokens=2**20,
    )
    asked = Asked(constants.values())
    seconds(work(one), rates(one), asked)
    for moe in (True, False):
        spread(moe, 1, asked)
    assert asked.names == {c.name for c in constants.fitted()}
    assert set(fit.INTERVAL) < asked.names


def test_the_table_has_a_line_for_each() -> None:
    lines = constants.table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == [c.name for c in EVERY]


def test_saved_values_are_read_again_and_priors_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = constants.load()
    monkeypatch.setattr(constants, "FILE", tmp_path / "constants.json")
    constants.save({"fp8": 1.23456})
    constants.load.cache_clear()
    try:
        after = {c.name: c for c in constants.load()}
    finally:
        monkeypatch.undo()
        constants.load.cache_clear()
    assert after.pop("fp8").value == 1.235
    assert all(after[c.name] == c for c in before if c.name != "fp8")
