"""PATH as items: what belongs together, keys that are the same at every reading, and faults in place
of what cannot be read."""

import base64
import csv
import gzip
import json
import os

import media_files
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import write_lines, write_tar

from onnuri.data.ingest import source_tar
from onnuri.data.ingest.records import Said, Tag, said_by, texts_of
from onnuri.data.ingest.sources import read_items
from onnuri.errors import ConfigError
from onnuri.media import reading

JPEG, PNG = media_files.picture(1), media_files.picture(2, "PNG")


def told(path):
    """Items as plain values: key, files' names or bytes, texts with languages, fault."""
    items = []
    for item in read_items(path):
        files = [
            part.path.name if part.path else part.data for part in item.parts if part.text is None
        ]
        texts = [(part.text, part.language) for part in item.parts if part.text is not None]
        faults = [
            fault.code for fault in (item.fault, *(part.fault for part in item.parts)) if fault
        ]
        items.append((item.key, files, texts, faults))
    return items


def test_a_folder_in_the_order_of_its_names_with_captions_beside_the_files(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.png", "a.jpg", "c.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("an apple")
    (tmp_path / "a.ko.txt").write_text("사과")
    (tmp_path / "c.json").write_text(
        json.dumps({"caption": "a bell", "license": "MIT", "concept": 7})
    )
    (tmp_path / "story.txt").write_text("once")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    os.symlink(tmp_path, tmp_path / "round")
    assert told(tmp_path) == [
        ("a.jpg", ["a.jpg"], [("사과", "ko"), ("an apple", None)], []),
        ("b/2.png", ["2.png"], [], []),
        ("c.wav", ["c.wav"], [("a bell", None)], []),
        ("story.txt", [], [("once", None)], []),
    ]
    bell = next(item for item in read_items(tmp_path) if item.key == "c.wav")
    assert (bell.said.licence, bell.said.concept) == ("MIT", "7")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_as_image_folders_have_it(tmp_path, kind):
    (tmp_path / "sub").mkdir()
    for name in ("1.png", "sub/2.png"):
        (tmp_path / name).write_bytes(b"x")
    rows = [
        {"file_name": "1.png", "text": "one", "license": "CC0-1.0", "author": "Kim"},
        {"file_name": "sub/2.png", "text": "둘", "license": "", "author": ""},
        {"file_name": "sub/3.png", "text": "three", "license": "", "author": ""},
    ]
    if kind == "csv":
        with (tmp_path / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_lines(tmp_path / "metadata.jsonl", [*rows, ["no object"]])
    missing, *items = [item for item in told(tmp_path) if item[3]] + [
        i for i in told(tmp_path) if not i[3]
    ]
    assert missing[3] == ["missing_file"]
    items = [item for item in items if not item[3]]
    assert items == [
        ("1.png", ["1.png"], [("one", None)], []),
        ("sub/2.png", ["2.png"], [("둘", None)], []),
    ]
    said = {item.key: item.said for item in read_items(tmp_path) if item.parts}
    assert (said["1.png"].licence, said["1.png"].credit, said["sub/2.png"].licence) == (
        "CC0-1.0",
        "Kim",
        None,
    )


def test_an_objs_materials_and_their_pictures_are_no_items(tmp_path):
    (tmp_path / "chair.obj").write_text("mtllib chair.mtl\nusemtl a\n")
    (tmp_path / "chair.mtl").write_text("newmtl a\nKd 1 0 0\nmap_Kd -s 1 1 1 wood.png\n")
    for name in ("wood.png", "other.png"):
        (tmp_path / name).write_bytes(PNG)
    assert [key for key, *_ in told(tmp_path)] == ["chair.obj", "other.png"]
    (item, _) = read_items(tmp_path)
    assert item.parts[0].beside == tmp_path


def test_lines_with_files_texts_and_interleaved_documents(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    write_lines(
        tmp_path / "list.jsonl",
        [
            {"image": "a.jpg", "text": "an apple", "language": "en"},
            {"images": ["a.jpg", url], "captions": {"ko": "둘", "en": "two"}},
            {
                "content": [
                    {"type": "text", "text": "first"},
                    {"type": "image_url", "image_url": {"url": "a.jpg"}},
                    {"type": "text", "text": "then"},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                ]
            },
            {"text_ko": "글", "text_en": "text"},
            {"image": "https://example.com/a.jpg"},
            {"image": "../outside.jpg"},
            {"image": str(tmp_path / "a.jpg")},
            {"content": [{"type": "tool_use"}]},
            {"id": 3},
            "no object",
        ],
    )
    with (tmp_path / "list.jsonl").open("ab") as file:
        file.write(b'{"image": \n\n\xff\n')
    assert told(tmp_path / "list.jsonl") == [
        ("1", ["a.jpg"], [("an apple", "en")], []),
        ("2", ["a.jpg", PNG], [("둘", "ko"), ("two", "en")], []),
        ("3", ["a.jpg", b"\0\0\0"], [("first", None), ("then", None)], []),
        ("4", [], [("글", "ko"), ("text", "en")], []),
        ("5", [None], [], ["not_fetched"]),
        ("6", [None], [], ["outside"]),
        ("7", ["a.jpg"], [], []),
        ("8", [None], [], ["bad_record"]),
        ("9", [], [], ["bad_record"]),
        ("10", [], [], ["bad_record"]),
        ("11", [], [], ["bad_record"]),
        ("13", [], [], ["bad_record"]),
    ]
    order = [part.text or "file" for part in list(read_items(tmp_path / "list.jsonl"))[2].parts]
    assert order == ["first", "file", "then", "file"]


def test_a_list_among_files_takes_the_files_that_it_names(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    write_lines(tmp_path / "list.jsonl", [{"image": "b.jpg", "text": "b"}])
    assert [key for key, *_ in told(tmp_path)] == ["a.jpg", "list.jsonl/1"]


def test_rows_of_a_parquet_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    rows = [
        {"image": {"bytes": PNG, "path": "x.png"}, "raw": None, "text": "one", "licence": "MIT"},
        {"image": {"bytes": None, "path": "a.jpg"}, "raw": b"zz", "text": None, "licence": None},
        {"image": None, "raw": None, "text": None, "licence": None},
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert told(tmp_path / "t.parquet") == [
        ("0", [PNG], [("one", None)], []),
        ("1", ["a.jpg", b"zz"], [], []),
        ("2", [], [], ["bad_record"]),
    ]
    interleaved = [
        {"texts": ["a", None, "c"], "images": [None, {"bytes": PNG, "path": None}, None]}
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(interleaved), tmp_path / "i.parquet")
    (item,) = read_items(tmp_path / "i.parquet")
    assert [part.text or part.data for part in item.parts] == ["a", PNG, "c"]


def test_a_parquet_file_that_was_cut_off_is_a_fault(tmp_path):
    pyarrow.parquet.write_table(pa.table({"raw": [JPEG] * 50}), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    assert told(tmp_path / "cut.parquet") == [("0…", [], [], ["damaged_container"])]


MEMBERS = {
    "d/0001.jpg": JPEG,
    "d/0001.txt": b"an apple",
    "d/0001.json": json.dumps({"license": "MIT", "url": "https://example.com"}).encode(),
    "d/0002.png": PNG,
    "d/0002.ko.txt": "둘".encode(),
    "d/0002.cls": b"7",
    "0003.jpg": JPEG,
}
EXAMPLES = [
    ("d/0001", [JPEG], [("an apple", None)], []),
    ("d/0002", [PNG], [("둘", "ko")], []),
    ("0003", [JPEG], [], []),
]


@pytest.mark.parametrize("ending, mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")])
def test_examples_of_a_webdataset(tmp_path, ending, mode):
    write_tar(tmp_path / f"s.{ending}", MEMBERS, mode)
    assert told(tmp_path / f"s.{ending}") == EXAMPLES
    # in a folder too, at its place
    (tmp_path / "z.jpg").write_bytes(JPEG)
    inside = [(f"s.{ending}/{key}", *rest) for key, *rest in EXAMPLES]
    assert told(tmp_path) == [*inside, ("z.jpg", ["z.jpg"], [], [])]


def test_a_tar_that_was_cut_off_gives_the_examples_before_the_cut(tmp_path):
    """At every block: the examples before it are whole, and the rest is one fault."""
    write_tar(tmp_path / "s.tar", MEMBERS)
    data = (tmp_path / "s.tar").read_bytes()
    path = tmp_path / "cut.tar"
    end = len(data.rstrip(b"\0"))
    for size in [*range(512, end, 512), *range(700, end, 1900)]:
        path.write_bytes(data[:size])
        *whole, last = told(path)
        assert whole == EXAMPLES[: len(whole)] and len(whole) < 3, size
        assert last == ("…", [], [], ["damaged_container"]), size
    packed = gzip.compress(data)
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) * 3 // 4])
    assert told(tmp_path / "cut.tar.gz")[-1][3] == ["damaged_container"]


def test_a_bomb_in_a_tar_is_not_unpacked(tmp_path, monkeypatch):
    """A member that says to be huge is not read, and neither is a huge header."""
    monkeypatch.setattr(source_tar.reading, "LIMITS", reading.Limits(file_bytes=100_000))
    write_tar(tmp_path / "s.tar.gz", {"a.jpg": bytes(5_000_000), "b.jpg": JPEG}, "w:gz")
    assert (tmp_path / "s.tar.gz").stat().st_size < 20_000
    assert told(tmp_path / "s.tar.gz") == [("a", [], [], ["file_too_large"]), ("b", [JPEG], [], [])]
    import tarfile

    header = tarfile.TarInfo("@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5_000_000
    with gzip.open(tmp_path / "t.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(5_000_320))
    assert told(tmp_path / "t.tar.gz")[0][3] == ["damaged_container"]


@pytest.mark.parametrize(
    "name, content, rule",
    [
        ("missing", None, "does not exist"),
        ("a.zip", b"PK\x03\x04 and more", "is ZIP, which is not ingested"),
        ("a.pdf", b"%PDF-1.7", "is PDF, which is not ingested"),
        ("a.bin", b"\1\2\3\4", "is of no format, which is not ingested"),
    ],
)
def test_a_path_that_is_nothing_to_ingest(tmp_path, name, content, rule):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rule):
        next(read_items(tmp_path / name))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=12))
def test_keys_of_a_tar_are_its_own_and_the_same_again(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("keys")
    write_tar(folder / "s.tar", {f"{name}.jpg": b"x" for name in names})
    keys = [item.key for item in read_items(folder / "s.tar")]
    assert len(keys) == len(set(keys)) and keys == [
        item.key for item in read_items(folder / "s.tar")
    ]
    assert all(key.encode() for key in keys)


def test_names_that_are_not_utf_8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(JPEG)
    (item,) = read_items(tmp_path)
    assert item.key.encode() and item.parts[0].path.read_bytes() == JPEG


def test_what_records_say():
    record = {
        "license": "MIT",
        "url": "u",
        "label": 3,
        "author": {"a": 1},
        "caption": ["a", "", "b"],
    }
    assert said_by(record) == Said("MIT", None, "u", "3")
    own = {"style": "noto", "category": "food", "split": " Validation", "tags_ko": ["빵", "", 3]}
    tags = (Tag("빵", "ko"),)
    assert said_by(own) == Said(style="noto", kind="food", split="dev", tags=tags)
    assert said_by({"split": "extra", "tags": ["no language"]}) == Said()
    assert [part.text for part in texts_of(record, "x")] == ["a", "b"]
    assert [part.text for part in texts_of({"text": "t", "caption": "c"}, "x")] == ["t"]
