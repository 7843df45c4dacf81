"""`onnuri data ingest`: what comes in, what does not and why, what is there already, and that a run
that was killed ends as one that was not."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import media_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import write_lines, write_tar
from processes import die_with_parent

import onnuri
from onnuri.cli import main, parse
from onnuri.data.ingest import run, table
from onnuri.data.ingest.licences import PERMISSIVE, identifier, is_permissive
from onnuri.data.ingest.prepare import prepare
from onnuri.data.ingest.records import SourceItem, SourcePart
from onnuri.data.ingest.table import DOCUMENTS, MEDIA, LineFile, Tables
from onnuri.media import reading

ROOT = Path(onnuri.__file__).parents[1]


def ingest(path, out, *more):
    main([str(word) for word in ("data", "ingest", path, "-o", out, "--workers", 0, *more)])


def refused(capsys, *arguments):
    """Return the one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in arguments])
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.err.count("\n") == 1 and told.out == "", told
    return told.err


def rows(out, name=DOCUMENTS):
    tables = Tables(out)
    dataset = tables.media if name == MEDIA else tables.documents
    return list(tables.rows(name, [column for column in dataset.schema.names if column != "data"]))


def lines(out, name):
    return list(table.read_lines(out / f"{name}.jsonl"))


def everything(out):
    """All that a folder says, in its order, and its media's bytes."""
    media = rows(out, MEDIA)
    contents = Tables(out).bytes_of([row["hash"] for row in media])
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in contents.items())
    return media, contents, rows(out), lines(out, "rejected"), lines(out, "duplicates")


@pytest.fixture
def folder(tmp_path):
    """Files of all modalities with captions, duplicates and what is to be rejected."""
    path = tmp_path / "mine"
    path.mkdir()
    for name, data in {
        "a.jpg": media_files.picture(1),
        "again.jpg": media_files.picture(1),
        "b.png": media_files.picture(2, "PNG"),
        "near.webp": media_files.picture(1, "JPEG", quality=55),
        "bell.wav": media_files.sound(1),
        "film.mp4": media_files.movie(1),
        "moving.gif": media_files.animation(2),
        "thing.obj": media_files.mesh(1, "obj"),
        "cut.jpg": media_files.picture(3)[:1500],
        "lies.png": b"%PDF-1.7 and more",
        "bomb.zip": b"PK\x03\x04" + bytes(1000),
        "empty.jpg": b"",
    }.items():
        (path / name).write_bytes(data)
    (path / "a.txt").write_text("an apple")
    (path / "near.txt").write_text("the apple of another")
    (path / "b.json").write_text(
        json.dumps(
            {"caption": {"ko": "벌", "en": "a bee"}, "license": "CC BY 4.0", "concept": "Bee"}
        )
    )
    (path / "long.txt").write_text("x" * 1_000_000)
    (path / "story.txt").write_text("Once upon a time there was a fox that lived in the wood.")
    (path / "story again.txt").write_text(
        "once upon a time, there was a fox that lived in the wood!"
    )
    return path


def test_a_folder_comes_in_once_with_its_captions(folder, tmp_path, capsys):
    out = tmp_path / "table"
    ingest(folder, out)
    told = capsys.readouterr().out
    assert "wrote" in told and "2 image, 1 shape, 2 video" in told and "5 rejected" in told
    media = {row["key"]: row for row in rows(out, MEDIA)}
    assert set(media) == {
        f"mine/{n}" for n in ("a.jpg", "b.png", "bell.wav", "film.mp4", "moving.gif", "thing.obj")
    }
    documents = {row["key"]: row for row in rows(out)}
    apple = media["mine/a.jpg"]["hash"]
    for key, text in {
        "mine/a.jpg": ["an apple"],
        "mine/near.webp": ["the apple of another"],
        "mine/again.jpg": [],
    }.items():
        parts = documents[key]["parts"]
        assert [part["hash"] for part in parts if part["modality"] == "image"] == [apple]
        assert [part["text"] for part in parts if part["text"]] == text
    bee = documents["mine/b.png"]
    assert (bee["licence"], bee["concept"], bee["source"]) == ("CC-BY-4.0", "Bee", "mine")
    assert [(part["language"], part["text"]) for part in bee["parts"][1:]] == [
        ("ko", "벌"),
        ("en", "a bee"),
    ]
    assert bee["split"] == run.split_of("bee")
    assert (
        documents["mine/again.jpg"]["split"]
        == documents["mine/a.jpg"]["split"]
        == run.split_of(apple)
    )
    codes = {line["key"]: line["code"] for line in lines(out, "rejected")}
    assert codes == {
        "mine/bomb.zip": "unread_format",
        "mine/cut.jpg": "damaged_file",
        "mine/empty.jpg": "empty_file",
        "mine/lies.png": "unread_format",
        "mine/long.txt": "text_too_long",
    }
    kinds = {line["key"]: line["kind"] for line in lines(out, "duplicates")}
    assert kinds == {"mine/again.jpg": "equal", "mine/near.webp": "near", "mine/story.txt": "text"}
    # once more: nothing new
    before = everything(out)
    ingest(folder, out)
    assert "0 documents" in capsys.readouterr().out and everything(out) == before


def test_near_duplicates_can_be_kept(folder, tmp_path):
    ingest(folder, tmp_path / "table", "--near-duplicates", "keep")
    assert {line["kind"] for line in lines(tmp_path / "table", "duplicates")} == {"equal"}
    assert len(rows(tmp_path / "table", MEDIA)) == 7


def test_two_pictures_of_one_document_that_are_nearly_the_same_stay_two(tmp_path):
    """Before and after: of an edit both are wanted."""
    for name, data in {
        "1.jpg": media_files.picture(1),
        "2.jpg": media_files.picture(1, quality=55),
    }.items():
        (tmp_path / name).write_bytes(data)
    content = [{"type": "image_url", "image_url": {"url": f"{k}.jpg"}} for k in (1, 2)]
    write_lines(
        tmp_path / "list.jsonl",
        [{"image": "1.jpg"}, {"content": [*content, {"type": "text", "text": "paler"}]}],
    )
    ingest(tmp_path / "list.jsonl", tmp_path / "out" / "table")
    (_, document) = rows(tmp_path / "out" / "table")
    assert [part["modality"] for part in document["parts"]] == ["image", "image", "text"]
    assert len({part["hash"] for part in document["parts"]}) == 3  # and None, of the text


def test_equal_documents_are_one(tmp_path):
    (tmp_path / "a.jpg").write_bytes(media_files.picture(1))
    record = {"image": "a.jpg", "text": "an apple"}
    write_lines(tmp_path / "list.jsonl", [record, record, {**record, "text": "a pear"}])
    ingest(tmp_path / "list.jsonl", tmp_path / "out" / "table")
    assert [row["key"] for row in rows(tmp_path / "out" / "table")] == [
        "list.jsonl/1",
        "list.jsonl/3",
    ]
    (document, equal) = lines(tmp_path / "out" / "table", "duplicates")
    assert document == {
        "key": "list.jsonl/2",
        "part": -1,
        "kind": "document",
        "hash": None,
        "kept": "list.jsonl/1",
    }
    assert equal["key"] == "list.jsonl/3" and equal["kind"] == "equal"


def test_permissive_licences_alone(tmp_path, capsys):
    records = [
        {"text": f"words about number {k}", "licence": licence}
        for k, licence in enumerate(
            ["CC BY 4.0", "CC-BY-SA-4.0", None, "MIT OR GPL-3.0-only", "MIT AND GPL-3.0-only"]
        )
    ]
    write_lines(tmp_path / "list.jsonl", records)
    out = tmp_path / "table"
    ingest(tmp_path / "list.jsonl", out, "--licence", "permissive")
    assert [row["key"] for row in rows(out)] == ["list.jsonl/1", "list.jsonl/4"]
    assert {line["code"] for line in lines(out, "rejected")} == {"licence"}
    line = refused(capsys, "data", "ingest", tmp_path / "list.jsonl", "-o", out)
    assert "--licence any: was permissive when list.jsonl was ingested" in line
    other = tmp_path / "stated"
    ingest(tmp_path / "list.jsonl", other, "--licence", "permissive", "--stated-licence", "CC0-1.0")
    assert [row["licence"] for row in rows(other)] == [
        "CC-BY-4.0",
        "CC0-1.0",
        "MIT OR GPL-3.0-only",
    ]


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("CC BY 4.0", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by/3.0/", "CC-BY-3.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0"),
        ("Apache 2.0", "Apache-2.0"),
        ("mit license", "MIT"),
        ("Apache-2", "Apache-2.0"),
    ],
)
def test_spellings_of_licences(spelling, name):
    assert identifier(spelling) == name
    assert is_permissive(spelling) == (identifier(spelling) in PERMISSIVE)


def test_no_share_alike_and_no_non_commercial_licence_is_permissive():
    assert not [
        name for name in PERMISSIVE if any(word in name for word in ("-SA", "-NC", "-ND", "GPL"))
    ]
    assert not is_permissive(None) and not is_permissive("") and not is_permissive("unknown")


def test_a_wrong_hash_is_rejected(tmp_path, capsys):
    data = media_files.picture(1)
    (tmp_path / "a.jpg").write_bytes(data)
    right = hashlib.sha256(data).hexdigest()
    write_lines(
        tmp_path / "l.jsonl", [{"image": "a.jpg", "sha256": h} for h in (right.upper(), "0" * 64)]
    )
    ingest(tmp_path / "l.jsonl", tmp_path / "table")
    assert [line["code"] for line in lines(tmp_path / "table", "rejected")] == ["wrong_hash"]


def test_a_path_of_which_nothing_is_taken_ends_with_one_line(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "lies.png").write_bytes(b"PK\x03\x04")
    line = refused(capsys, "data", "ingest", tmp_path / "in", "-o", tmp_path / "t", "--workers", 0)
    assert "holds nothing that is taken: 1 rejected" in line and "is ZIP" in line


def test_mistakes_leave_nothing_behind(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    out = tmp_path / "table"
    for arguments, rule in (
        ((tmp_path / "missing", "-o", out), "does not exist"),
        ((tmp_path / "in", "-o", out), "holds nothing to ingest"),
        ((tmp_path / "in", "-o", out, "--workers", -1), "is below 0"),
    ):
        assert rule in refused(capsys, "data", "ingest", *arguments)
        assert not out.exists()
    (tmp_path / "in" / "a.jpg").write_bytes(media_files.picture(1))
    line = refused(capsys, "data", "ingest", tmp_path / "in", "-o", tmp_path / "in" / "table")
    assert "lies within" in line and not (tmp_path / "in" / "table").exists()
    line = refused(capsys, "data", "ingest", tmp_path / "in", "-o", tmp_path)
    assert "holds other files" in line and sorted(os.listdir(tmp_path)) == ["in"]
    (tmp_path / "file").write_text("x")
    assert "cannot be a folder" in refused(
        capsys, "data", "ingest", tmp_path / "in", "-o", tmp_path / "file"
    )


def test_a_table_of_another_version_is_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("words")
    out = tmp_path / "table"
    ingest(tmp_path / "a.txt", out)
    settings_ = json.loads((out / "ingest.json").read_text())
    (out / "ingest.json").write_text(json.dumps({**settings_, "version": 1}))
    for command in (
        ("ingest", tmp_path / "a.txt", "-o", out),
        ("inspect", out, "-o", tmp_path / "p.html"),
        ("forget", "0" * 64, "--data", out),
    ):
        assert "holds a table of version 1, not 2" in refused(capsys, "data", *command)
    (out / "ingest.json").write_text(json.dumps(settings_))
    import lance

    lance.dataset(str(out / DOCUMENTS)).replace_schema_metadata({"onnuri": "9"})
    assert "is a table of version 9, not 2" in refused(
        capsys, "data", "inspect", out, "-o", tmp_path / "p.html"
    )


def test_without_the_extra_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text("words")
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    line = refused(capsys, "data", "ingest", tmp_path / "a.txt", "-o", tmp_path / "t")
    assert "pip install 'onnuri[data]'" in line and not (tmp_path / "t").exists()


def test_two_paths_of_one_name_need_a_name_of_their_own(tmp_path, capsys):
    for k in (1, 2):
        (tmp_path / str(k) / "in").mkdir(parents=True)
        (tmp_path / str(k) / "in" / "a.txt").write_text(f"words of number {k}")
    out = tmp_path / "table"
    ingest(tmp_path / "1" / "in", out)
    line = refused(capsys, "data", "ingest", tmp_path / "2" / "in", "-o", out, "--workers", 0)
    assert "has the name of" in line and "--source" in line
    ingest(tmp_path / "2" / "in", out, "--source", "second")
    assert [row["key"] for row in rows(out)] == ["in/a.txt", "second/a.txt"]


def test_one_process_at_a_time(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("words")
    out = tmp_path / "table"
    ingest(tmp_path / "a.txt", out)
    with table.locked(out):
        assert "is being changed by another process" in refused(
            capsys, "data", "ingest", tmp_path / "a.txt", "-o", out, "--workers", 0
        )


def test_a_torn_last_line_is_cut_off(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    file = LineFile(path)
    file.append([{"a": 3}])
    assert [record["a"] for record in file.read()] == [1, 2, 3]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, min_size=1, max_size=50))
def test_a_split_is_its_names_alone(names):
    splits = {name: run.split_of(name) for name in names}
    assert set(splits.values()) <= {"train", "dev", "test"}
    assert splits == {name: run.split_of(name) for name in reversed(names)}


def test_splits_have_their_shares():
    counts = {split: 0 for split in ("train", "dev", "test")}
    for k in range(20_000):
        counts[run.split_of(f"concept {k}")] += 1
    assert counts["train"] == pytest.approx(16_000, rel=0.02)
    assert counts["dev"] == pytest.approx(2_000, rel=0.08)
    assert counts["test"] == pytest.approx(2_000, rel=0.08)


def named(split, start=0):
    """A concept of a split."""
    return next(
        f"concept {k}" for k in range(start, 10_000) if run.split_of(f"concept {k}") == split
    )


def test_no_medium_is_in_two_splits(tmp_path):
    (tmp_path / "a.jpg").write_bytes(media_files.picture(1))
    records = [
        {"image": "a.jpg", "text": "one", "concept": named("test")},
        {"image": "a.jpg", "text": "two", "concept": named("train")},
        {"image": "a.jpg", "text": "three"},
    ]
    write_lines(tmp_path / "l.jsonl", records)
    ingest(tmp_path / "l.jsonl", tmp_path / "table")
    assert [row["split"] for row in rows(tmp_path / "table")] == ["test", "none", "test"]


def test_a_split_style_kind_and_tags_that_are_said(tmp_path):
    """Of two concepts whose hashes say otherwise, and one of them in the split of its picture."""
    record = {"image": "a.svg", "text_en": "a square", "text_ko": "네모", "style": "flat"}
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><path d="M0 0h2v2H0z"/></svg>'
    )
    said = {"kind": "shape", "tags_ko": ["상자"], "tags_en": ["box"]}
    records = [
        {**record, **said, "concept": named("train"), "split": "test"},
        {**record, "text_en": "a block", "concept": named("test"), "split": "train"},
    ]
    write_lines(tmp_path / "l.jsonl", records)
    ingest(tmp_path / "l.jsonl", tmp_path / "table")
    first, second = rows(tmp_path / "table")
    assert (first["split"], first["style"], first["kind"]) == ("test", "flat", "shape")
    assert [(tag["text"], tag["language"]) for tag in first["tags"]] == [
        ("상자", "ko"),
        ("box", "en"),
    ]
    assert (second["split"], second["kind"], second["tags"]) == ("none", None, [])
    (medium,) = rows(tmp_path / "table", MEDIA)
    shape = (medium["format"], medium["width"], medium["height"], medium["alpha"])
    assert shape == ("SVG", 256, 128, True)


class Killed(BaseException):
    """Ends a run at a place, as SIGKILL does: nothing is cleaned up."""


def many(path):
    """Items of which some are equal, near, rejected and texts, in a tar that is cut off."""
    members = {}
    for k in range(9):
        members[f"{k:02}.jpg"] = media_files.picture(
            k // 2 if k % 3 == 0 else k, side=48, quality=90 - k % 2 * 30
        )
        members[f"{k:02}.txt"] = f"picture {k}".encode()
        if k % 4 == 1:
            members[f"{k:02}b.png"] = b"no picture"
        members[f"{k:02}c.txt"] = (
            f"a story of many words that is told for the {['first', 'second'][k % 2]} time".encode()
        )
    write_tar(path, members)
    path.write_bytes(path.read_bytes()[:-9000])


STEPS = ("rejected", "duplicates", "media", "documents")
"""what a batch writes, in its order"""


def ingest_until(monkeypatch, source, out, kills):
    """Ingest, and be killed before some steps of some batches."""
    import lance

    insert = lance.LanceDataset.insert
    for batch, step in [*kills, (None, None)]:
        count = {"batch": -1}

        def stop(name, batch=batch, step=step, count=count):
            if name == "rejected":
                count["batch"] += 1
            if (count["batch"], name) == (batch, step):
                raise Killed

        class Counting(LineFile):
            def append(self, records, stop=stop):
                stop(self.path.stem)
                super().append(records)

        def counted(self, *arguments, stop=stop, **options):
            stop("media" if MEDIA in self.uri else "documents")
            return insert(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(run, "LineFile", Counting)
            patch.setattr(lance.LanceDataset, "insert", counted)
            patch.setattr(run, "BATCH_ITEMS", 3)
            try:
                ingest(source, out)
            except Killed:
                continue


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(STEPS)), min_size=1, max_size=4))
def test_a_run_that_was_killed_anywhere_ends_as_one_that_was_not(tmp_path_factory, kills):
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("killed")
    many(folder / "s.tar")
    ingest_until(monkeypatch, folder / "s.tar", folder / "whole", [])
    ingest_until(monkeypatch, folder / "s.tar", folder / "killed", kills)
    whole = everything(folder / "whole")
    assert everything(folder / "killed") == whole
    assert len(whole[2]) > 5 and len(whole[3]) >= 2 and len(whole[4]) > 3


def start(*arguments, **options):
    """Start `onnuri` in a new process, which may have processes of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "onnuri.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        preexec_fn=die_with_parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def children(pid):
    """Processes that a process has started."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            pids.append(int(path.parent.name))
    return pids


@pytest.mark.slow
def test_real_kills_of_real_processes(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for k in range(700):
        (source / f"{k:04}.jpg").write_bytes(media_files.picture(k, side=64))
        (source / f"{k:04}.txt").write_text(f"picture {k}")
    ingest(source, tmp_path / "whole")
    for wait in (0.2, 1.5, 0.5, 2.5, 1.0):
        process = start("data", "ingest", source, "-o", tmp_path / "killed", "--workers", 1)
        while process.poll() is None and not (tmp_path / "killed" / "rejected.jsonl").exists():
            time.sleep(0.02)
        time.sleep(wait)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{pid}/stat").exists() for pid in workers):
            assert time.monotonic() < end, "workers outlive their parent"
            time.sleep(0.05)
    last = start("data", "ingest", source, "-o", tmp_path / "killed", "--workers", 1)
    assert last.wait() == 0
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


@pytest.mark.slow
def test_a_decoder_that_ends_its_process_loses_one_item(tmp_path):
    """A file that kills whatever decodes it is rejected; those under way with it come in."""
    source = tmp_path / "in"
    source.mkdir()
    for k in range(6):
        (source / f"{k}.jpg").write_bytes(media_files.picture(k, side=48))
    (source / "2b.jpg").write_bytes(b"\xff\xd8\xffKILLER")
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, signal\n"
        "import onnuri.media.reading as reading\n"
        "keep = reading.keep\n"
        "def killing(data, *args, **more):\n"
        "    if b'KILLER' in data:\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return keep(data, *args, **more)\n"
        "reading.keep = killing\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "onnuri.cli",
            "data",
            "ingest",
            source,
            "-o",
            tmp_path / "t",
            "--workers",
            "2",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "6 documents" in done.stdout and done.stderr == ""
    assert [(line["key"], line["code"]) for line in lines(tmp_path / "t", "rejected")] == [
        ("in/2b.jpg", "broke_decoder")
    ]
    assert [row["key"] for row in rows(tmp_path / "t")] == [f"in/{k}.jpg" for k in range(6)]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path):
    """A limit on the size of files stands for the disk: the system refuses the same writes."""
    import resource

    source = tmp_path / "in"
    source.mkdir()
    for k in range(40):
        (source / f"{k:02}.png").write_bytes(media_files.picture(k, "PNG", side=200))

    def small_files():
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    command = [
        sys.executable,
        "-m",
        "onnuri.cli",
        "data",
        "ingest",
        source,
        "-o",
        tmp_path / "t",
        "--workers",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, preexec_fn=small_files
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written (File too large)" in done.stderr and rows(tmp_path / "t") == []
    subprocess.run(command, env=environment, check=True)
    ingest(source, tmp_path / "whole")
    assert everything(tmp_path / "t") == everything(tmp_path / "whole")


def test_files_over_the_limit_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("words")
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(reading.LIMITS.file_bytes + 1)  # sparse
    ingest(tmp_path, tmp_path.parent / "table-of-limits")
    assert [line["code"] for line in lines(tmp_path.parent / "table-of-limits", "rejected")] == [
        "file_too_large"
    ]


def test_a_worker_starts_without_torch():
    """Workers are new interpreters: what they import, each of them waits for."""
    program = "import sys, onnuri.data.ingest.pool; sys.exit('torch' in sys.modules or 'lance' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


def test_the_commands_of_the_docs_parse():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    typed = re.findall(r"^onnuri (data .*)$", text, re.MULTILINE)
    assert len(typed) == 6
    for line in typed:
        parse(shlex.split(line, comments=True))


@pytest.mark.parametrize(
    "text, language",
    [("an apple", "en"), ("사과 apple", "ko"), ("りんご", "und"), ("café", "en"), ("12:30", "en")],
)
def test_a_language_that_is_not_said(text, language):
    item = SourceItem("a", (SourcePart("a", text=text), SourcePart("a", text=text, language="FR ")))
    assert [part.language for part in prepare(item).parts] == [language, "fr"]
