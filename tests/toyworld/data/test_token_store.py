"""What is written is what is read, shard by shard, also where entries are empty or a run was cut
off."""

import itertools
import json

import numpy as np
import pytest

from onnuri.errors import ConfigError
from onnuri.toyworld.data.token_store import (
    PARTS,
    TokenStore,
    _merge,
    make_store,
    records,
    write_shard,
)
from onnuri.toyworld.scene import sample_scene

COLUMNS = {"sights": ("image", "edit_image"), "words": ("ko_0",), "records": ("record",)}


def rows_of(start: int, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(start)
    return [
        {
            "image": rng.integers(0, 2**32, 31),
            "ko_0": np.array(list("구가 있다.".encode())[: 3 * int(rng.integers(1, 3))]),
            "record": records([sample_scene(start)], {})[0]["record"],
            "edit_image": rng.integers(0, 3000, 31 * int(rng.random() < 0.4)),
        }
        for _ in range(count)
    ]


@pytest.fixture
def written(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("table")
    shards = {0: rows_of(0, 5), 5: rows_of(5, 5), 10: rows_of(10, 3)}
    for start, rows in shards.items():
        for part in PARTS:
            write_shard(
                tmp_path, start, part, [{name: row[name] for name in COLUMNS[part]} for row in rows]
            )
    _merge(tmp_path, list(shards), 13)
    return tmp_path, [r for rows in shards.values() for r in rows]


def test_every_entry_comes_back(written):
    folder, rows = written
    table = TokenStore(folder)
    assert table.rows == len(rows) and not list(folder.glob("*.npz"))
    for k, row in enumerate(rows):
        assert table.text(k, "ko_0") == bytes(row["ko_0"].tolist()).decode()
        for name in itertools.chain(*COLUMNS.values()):
            assert table.get(k, name).dtype == np.int64
            assert table.get(k, name).tolist() == row[name].tolist()
    assert table.rows_with("edit_image").tolist() == [
        k for k, r in enumerate(rows) if len(r["edit_image"])
    ]


def test_an_id_of_a_large_vocabulary_comes_back(tmp_path):
    """70,000 once came back as 4,464: ids were stored in 16 bits."""
    ids = np.array([70_000, 150_000, 65_535, 65_536, 2**32 - 1])
    write_shard(tmp_path, 0, "sights", [{"image": ids, "edit_image": ids[:0]}])
    for part in ("words", "records"):
        write_shard(tmp_path, 0, part, [{part: ids[:1]}])
    _merge(tmp_path, [0], 1)
    assert TokenStore(tmp_path).get(0, "image").tolist() == ids.tolist()


@pytest.mark.parametrize("wrong", [-1, 2**32])
def test_an_id_that_no_store_holds_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match=f"image: .*{wrong}.* not all within 0 to 4,294,967,295"):
        write_shard(tmp_path, 0, "sights", [{"image": np.array([3, wrong])}])
    assert not list(tmp_path.iterdir())


def test_a_scene_comes_back_as_it_was(written):
    assert [TokenStore(written[0]).scene(k) for k in (0, 5, 10)] == [
        sample_scene(k) for k in (0, 5, 10)
    ]


def test_columns_are_memory_mapped(written):
    assert all(isinstance(v, np.memmap) for v in TokenStore(written[0]).values.values())


def test_a_table_that_is_whole_is_not_made_again(written, tmp_path):
    def never(path):
        raise AssertionError

    make_store(written[0], 13, never, tmp_path)
    assert json.loads((written[0] / "table.json").read_text())["rows"] == 13
    with pytest.raises(ConfigError, match="not of 14 rows; delete"):
        make_store(written[0], 14, never, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ConfigError, match="made with other codecs; delete"):
        make_store(written[0], 13, never, tmp_path)
