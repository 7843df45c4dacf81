"""What is written is what is read, shard by shard, also where entries are empty or a run was cut off."""

import json

import numpy as np
import pytest

from onnuri.data.table import Table, _merge, make_table
from onnuri.errors import ConfigError

COLUMNS = ("image", "ko_0", "edit_image")


def rows_of(start: int, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(start)
    return [{"image": rng.integers(0, 3000, 31), "ko_0": rng.integers(0, 900, int(rng.integers(1, 9))),
             "edit_image": rng.integers(0, 3000, 31 * int(rng.random() < 0.4))} for _ in range(count)]


def write_shard(folder, start, rows):
    columns = {}
    for name in COLUMNS:
        columns[f"{name}.values"] = np.concatenate([r[name] for r in rows]).astype(np.uint16)
        columns[f"{name}.lengths"] = np.array([len(r[name]) for r in rows])
    np.savez(folder / f"{start}.shard.npz", **columns)


@pytest.fixture
def written(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("table")
    shards = {0: rows_of(0, 5), 5: rows_of(5, 5), 10: rows_of(10, 3)}
    for start, rows in shards.items():
        write_shard(tmp_path, start, rows)
    _merge(tmp_path, list(shards), 13, {"which_ko": [1, 2]})
    return tmp_path, [r for rows in shards.values() for r in rows]


def test_every_entry_comes_back(written):
    folder, rows = written
    table = Table(folder)
    assert table.rows == len(rows) and not list(folder.glob("*.npz"))
    assert table.phrase("which_ko").tolist() == [1, 2]
    for k, row in enumerate(rows):
        for name in COLUMNS:
            assert table.get(k, name).dtype == np.int64
            assert table.get(k, name).tolist() == row[name].tolist()
    assert table.having("edit_image").tolist() == [k for k, r in enumerate(rows) if len(r["edit_image"])]


def test_columns_are_memory_mapped(written):
    assert all(isinstance(v, np.memmap) for v in Table(written[0]).values.values())


def test_a_table_that_is_whole_is_not_made_again(written, tmp_path):
    def never(path):
        raise AssertionError

    make_table(written[0], 13, never, tmp_path)
    assert json.loads((written[0] / "table.json").read_text())["rows"] == 13
    with pytest.raises(ConfigError, match="not of 14 rows; delete"):
        make_table(written[0], 14, never, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ConfigError, match="made with other codecs; delete"):
        make_table(written[0], 13, never, tmp_path)
