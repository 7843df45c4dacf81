"""`onnuri data forget`: afterwards a medium's bytes are in no file of the table, and do not come in
again."""

import os

import media_files
import pytest
from media_files import write_lines

from onnuri.cli import main
from onnuri.data.ingest import forget as forgetting
from onnuri.data.ingest import table
from onnuri.data.ingest.table import DOCUMENTS, MEDIA, Tables


def call(*words):
    main([str(word) for word in ("data", *words)])


def refused(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*words)
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.err.count("\n") == 1, told
    return told.err


def rows(out, name, *columns):
    return list(Tables(out).rows(name, columns))


def files_with(out, piece):
    """Files below a folder that hold some bytes."""
    found = []
    for folder, _, names in os.walk(out):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                if piece in file.read():
                    found.append(name)
    return found


@pytest.fixture
def taken(tmp_path):
    """A table of small and large media, written in two runs: large ones lie in files of their own."""
    source = tmp_path / "in"
    source.mkdir()
    for k in range(6):
        side = 64 if k % 2 else 320
        (source / f"{k}.jpg").write_bytes(media_files.picture(k, side=side))
    (source / "near 4.jpg").write_bytes(media_files.picture(4, side=320, quality=50))
    (source / "bell.wav").write_bytes(media_files.sound(1))
    write_lines(
        source / "list.jsonl",
        [
            {"images": ["4.jpg", "5.jpg"], "audio": "bell.wav", "text": "a secret of the fourth"},
            {"image": "5.jpg", "text": "the fifth"},
        ],
    )
    out = tmp_path / "table"
    call("ingest", source, "-o", out, "--workers", 0)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.jpg").write_bytes(media_files.picture(9, side=320))
    call("ingest", tmp_path / "more", "-o", out, "--workers", 0)
    return source, out


def hash_of(out, key):
    """The hash of the first medium of a document."""
    (row,) = [row for row in rows(out, DOCUMENTS, "key", "parts") if row["key"] == key]
    return row["parts"][0]["hash"]


@pytest.mark.parametrize("key", ["in/list.jsonl/1", "in/1.jpg", "more/9.jpg"])
def test_a_forgotten_mediums_bytes_are_in_no_file(taken, key, capsys):
    _, out = taken
    name = hash_of(out, key)
    data = Tables(out).bytes_of([name])[name]
    pieces = [data[k : k + 40] for k in range(20, len(data) - 60, max(60, len(data) // 40))]
    assert all(files_with(out, piece) for piece in pieces)
    others = {row["hash"] for row in rows(out, MEDIA, "hash")} - {name}
    call("forget", name[:12], "--data", out)
    assert [piece for piece in pieces if files_with(out, piece)] == []
    contents = Tables(out).bytes_of(sorted(others))
    left = {row["hash"] for row in rows(out, MEDIA, "hash")}
    assert name not in left and left <= others and set(contents) == left
    parts = [part for row in rows(out, DOCUMENTS, "parts") for part in row["parts"]]
    assert {part["hash"] for part in parts if part["hash"]} == left
    assert "forgot 1 media" in capsys.readouterr().out


def test_what_goes_with_a_medium_and_what_stays(taken):
    source, out = taken
    name = hash_of(out, "in/list.jsonl/1")
    call("forget", name, "--data", out)
    keys = {row["key"] for row in rows(out, DOCUMENTS, "key")}
    # the list's first document, and the copy that was taken for its picture
    assert not keys & {"in/list.jsonl/1", "in/near 4.jpg"} and "in/list.jsonl/2" in keys
    assert files_with(out, b"a secret of the fourth") == []
    # the bell was in that document alone, picture 5 is in another
    modalities = [row["modality"] for row in rows(out, MEDIA, "modality")]
    assert "audio" not in modalities
    before = keys
    call("ingest", source, "-o", out, "--workers", 0)
    assert {row["key"] for row in rows(out, DOCUMENTS, "key")} == before
    codes = {line["key"]: line["code"] for line in table.read_lines(out / "rejected.jsonl")}
    assert codes == {"in/list.jsonl/1": "forgotten", "in/near 4.jpg": "forgotten"}


def test_forgetting_ends_what_a_killed_one_began(taken, monkeypatch):
    _, out = taken
    name = hash_of(out, "in/list.jsonl/1")
    data = Tables(out).bytes_of([name])[name]

    class Killed(BaseException):
        pass

    def killed(dataset, column, values):
        delete(dataset, column, values)
        raise Killed

    delete = forgetting._delete
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "_delete", killed)
        with pytest.raises(Killed):
            call("forget", name, "--data", out)
    assert files_with(out, data[100:140])
    call("forget", name, "--data", out)
    assert not files_with(out, data[100:140])
    assert (out / "forgotten.txt").read_text().split().count(name) == 1


def test_a_hash_that_is_not_there_and_one_too_short(taken, capsys):
    _, out = taken
    assert "begins no hashes of the table" in refused(capsys, "forget", "0" * 64, "--data", out)
    assert "is not a hash of at least 8" in refused(capsys, "forget", "abc", "--data", out)
    assert "is not a hash" in refused(capsys, "forget", "x" * 64, "--data", out)
    assert "holds no ingested media" in refused(capsys, "forget", "0" * 64, "--data", out.parent)
