"""Stores of tokenised documents: what is written is read, and rows hold each id once an epoch."""

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.data.document_store import SUMMARY, DocumentStore, StoreRows, write_store
from onnuri.errors import ConfigError


def documents(lengths, vocabulary=200_000):
    """Documents whose ids tell document and position apart."""
    starts = np.cumsum([0, *lengths])
    return [np.arange(a, b) % vocabulary for a, b in itertools.pairwise(starts)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 60), st.data())
def test_what_is_written_is_read_whatever_the_shards(tmp_path_factory, lengths, shard, data):
    folder = tmp_path_factory.mktemp("store") / "s"
    whole = documents(lengths)
    if not sum(lengths):
        with pytest.raises(ConfigError, match="no document"):
            write_store(folder, whole, 200_000, "x", shard)
        return
    write_store(folder, whole, 200_000, "x", shard)
    store = DocumentStore(folder, "x")
    filled = [each for each in whole if len(each)]
    assert len(store) == len(filled) and store.tokens == sum(lengths)
    for number in data.draw(st.permutations(range(len(filled)))):
        assert (store.document(number) == filled[number]).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=20), st.integers(1, 40), st.integers(0, 9))
def test_rows_hold_each_id_once_per_epoch_and_start_where_documents_do(
    tmp_path_factory, lengths, tokens, seed
):
    folder = tmp_path_factory.mktemp("store") / "s"
    write_store(folder, documents(lengths), 200_000, "x", 64)
    source = StoreRows(DocumentStore(folder), tokens, seed)
    total = sum(lengths)
    rows = [source.row(k) for k in range(-(-3 * total // tokens))]
    stream = np.concatenate([row.ids[0].numpy() for row in rows])
    starts = np.cumsum([0, *lengths])[:-1]
    for epoch in range(3):
        ids = stream[epoch * total : (epoch + 1) * total]
        assert sorted(ids) == list(range(total))
        # a document is read through: only its first id follows another document's last
        breaks = np.flatnonzero(np.diff(ids) != 1) + 1
        assert set(ids[breaks]) <= set(starts) and ids[0] in starts
    for row in rows:
        assert int(row.lengths.sum()) == tokens == row.ids.shape[1] and row.padding == 0
        firsts = np.cumsum([0, *row.lengths.tolist()])[:-1]
        assert (row.positions[0].numpy()[firsts] == 0).all()
        assert (row.positions == 0).sum() == len(firsts)
        assert (row.weights[0].numpy() == (row.positions[0].numpy() > 0)).all()


def test_a_row_depends_on_its_number_alone(tmp_path):
    write_store(tmp_path / "s", documents([7, 1, 30, 12]), 200_000, "x")
    source = StoreRows(DocumentStore(tmp_path / "s"), 11, 3)
    forwards = [source.row(k).ids for k in range(30)]
    backwards = [StoreRows(source.store, 11, 3).row(k).ids for k in reversed(range(30))][::-1]
    copied = pickle.loads(pickle.dumps(source))
    for a, b, k in zip(forwards, backwards, range(30), strict=True):
        assert (a == b).all() and (copied.row(k).ids == a).all()
    other = StoreRows(source.store, 11, 4)
    assert any((other.row(k).ids != a).any() for k, a in enumerate(forwards))


def test_ids_beyond_16_bits_survive_and_those_out_of_range_are_refused(tmp_path):
    write_store(tmp_path / "s", [[150_000, 199_999]], 200_000, "x")
    assert DocumentStore(tmp_path / "s").document(0).tolist() == [150_000, 199_999]
    for wrong in (-1, 200_000):
        with pytest.raises(ConfigError, match=f"id {wrong} of document 1: is outside 0 to 199999"):
            write_store(tmp_path / "t", [[1], [3, wrong]], 200_000, "x")
    assert not (tmp_path / "t").exists() and not list(tmp_path.glob(".t*"))


def damage_ids(folder):
    np.save(folder / "00000.ids.npy", np.zeros(3, np.uint32))


def damage_version(folder):
    summary = json.loads((folder / SUMMARY).read_text())
    (folder / SUMMARY).write_text(json.dumps({**summary, "version": 9}))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder: (folder / SUMMARY).unlink(), "holds no store"),
        (lambda folder: (folder / SUMMARY).write_text("[1]"), "holds no store"),
        (lambda folder: (folder / "00000.ids.npy").unlink(), "cannot be read"),
        (lambda folder: (folder / "00000.ids.npy").write_bytes(b"x"), "cannot be read"),
        (damage_ids, "holds 3 ids in 2 documents instead of 4 in 2"),
        (damage_version, "of version 9"),
    ],
)
def test_a_damaged_store_is_one_line(tmp_path, damage, words):
    write_store(tmp_path / "s", [[1, 2], [3, 4]], 10, "x")
    damage(tmp_path / "s")
    with pytest.raises(ConfigError, match=words) as caught:
        DocumentStore(tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_a_store_of_other_ids_is_refused(tmp_path):
    write_store(tmp_path / "s", [[1, 2]], 10, "one")
    with pytest.raises(ConfigError, match="ids of another vocabulary"):
        DocumentStore(tmp_path / "s", "two")


def test_each_epoch_has_an_order_of_its_own(tmp_path):
    write_store(tmp_path / "s", documents([5] * 20), 200_000, "x")
    source = StoreRows(DocumentStore(tmp_path / "s"), 100)
    first, second = (source.row(k).ids[0].tolist() for k in range(2))
    assert sorted(first) == sorted(second) and first != second
