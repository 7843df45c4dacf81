"""The table of GPUs: what a driver reports, and what follows from it."""

import csv

import pytest

from onnuri.planner.hardware import DATA, gpu, table


@pytest.mark.parametrize(
    ("name", "gib"), [("H100", 79.1), ("H200", 139.8), ("A100-80", 79.2), ("B200", 178.3)]
)
def test_memory_is_what_a_program_can_allocate(name: str, gib: float) -> None:
    assert gpu(name).memory_bytes / 2**30 == pytest.approx(gib)


def test_no_card_has_more_than_its_name_says_in_gib() -> None:
    for row in csv.DictReader((DATA / "hardware.csv").open(encoding="utf-8")):
        share = gpu(row["gpu"]).memory_bytes / 2**30 / float(row["hbm_GB"])
        assert 0.9 < share <= 1 and row["memory_source"]


def test_four_gpus_of_a_gh200_node_are_joined() -> None:
    assert gpu("GH200").domain == 4 and set(g.domain for g in table().values()) >= {4, 8, 72}
