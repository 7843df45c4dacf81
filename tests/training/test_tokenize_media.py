"""Media of a table become codes: those that the codec gives, once, in the table's order."""

import json

import numpy as np
import pytest
from foreign_codecs import small_emu3, small_mimi
from processes import start_python

from onnuri.cli import main
from onnuri.codecs import registry
from onnuri.data.document_store import DocumentStore
from onnuri.data.ingest.run import ingest
from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.ingest.table import MEDIA, Tables
from onnuri.errors import ConfigError
from onnuri.media import reading, writing
from onnuri.training import tokenize_media as module
from onnuri.training.tokenize_media import tokenize_media


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    """Small codecs of pictures and sounds, as a model's folder has them."""
    folder = tmp_path_factory.mktemp("codecs")
    registry.save({"emu3": small_emu3(), "mimi": small_mimi()}, folder)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Seven pictures, two sounds and a text."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    for k in range(7):
        pixels = rng.integers(0, 256, (10 + k, 20, 3)).astype(np.uint8)
        writing.write(pixels, folder / f"in/{k}.png")
    for k in range(2):
        samples = (rng.normal(size=8_000 + k) * 0.2).astype(np.float32).clip(-1, 1)
        writing.write(samples, folder / f"in/sound{k}.wav")
    (folder / "in/words.txt").write_text("words alone")
    ingest(folder / "in", folder / "table", IngestConfig(workers=0))
    return folder / "table"


def expected(table, codecs, modality):
    """The hashes of a table's media and their codes, one by one."""
    tables = Tables(table)
    hashes = [
        r["hash"] for r in tables.rows(MEDIA, ["hash", "modality"]) if r["modality"] == modality
    ]
    codec = next(c for c in registry.load(codecs).values() if c.modality == modality)
    contents = tables.bytes_of(hashes)
    return hashes, [codec.encode(reading.take(contents[name], None, name)[1]) for name in hashes]


def documents(out, name):
    """The hashes of a store's media, and its documents."""
    store = DocumentStore(out / name)
    hashes = (out / f"{name}.media.txt").read_text().split()
    return hashes, [store.document(k) for k in range(len(store))]


def content(out):
    """Every file of a folder with its bytes."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_codes_are_those_of_the_codec_in_the_tables_order(
    table, codecs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "SHARD", 3)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    out = tmp_path / "codes"
    command = ["data", "tokenize", str(table), "--codecs", str(codecs), "-o", str(out)]
    main([*command, "--workers", "1"])
    assert "codes of media: 7 of emu3, 2 of mimi; 0 rejected" in " ".join(
        capsys.readouterr().out.split()
    )
    for name, modality in (("emu3", "image"), ("mimi", "audio")):
        hashes, codes = documents(out, name)
        wanted_hashes, wanted = expected(table, codecs, modality)
        assert hashes == wanted_hashes
        assert all((a == b).all() for a, b in zip(codes, wanted, strict=True))
    spec = next(spec for spec in registry.read_specs(codecs) if spec.name == "emu3")
    assert DocumentStore(out / "emu3").ids_from == registry.digest(codecs, spec)
    before = content(out)
    main([*command, "--workers", "1"])  # again: nothing is left to do
    assert content(out) == before and not (out / "parts").exists()


def test_a_run_that_was_cut_off_computes_only_what_is_missing(table, codecs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 2)
    tokenize_media(table, codecs, tmp_path / "whole", workers=1)
    calls = []
    encode = module.encode_shard

    def cut_off(job):
        """Encode three shards, and end as a killed process does in the fourth."""
        calls.append(job.file.name)
        if len(calls) == 4:
            job.file.with_suffix(".9.part.npz").write_bytes(b"half")
            raise KeyboardInterrupt
        encode(job)

    monkeypatch.setattr(module, "encode_shard", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tokenize_media(table, codecs, tmp_path / "cut", workers=1)
    assert not (tmp_path / "cut/tokens.json").exists()
    tokenize_media(table, codecs, tmp_path / "cut", workers=1)
    assert len(calls) == 4 + 2 and len(set(calls)) == 5
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.slow
def test_workers_and_ranks_give_what_one_process_gives(table, codecs, tmp_path, monkeypatch):
    tokenize_media(table, codecs, tmp_path / "one", workers=1)
    command = ["data", "tokenize", str(table), "--codecs", str(codecs), "-o"]
    pool = start_python("-m", "onnuri", *command, str(tmp_path / "pool"), "--workers", "2")
    assert pool.wait(300) == 0
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "onnuri")
    ranks = start_python(*run, *command, str(tmp_path / "ranks"))
    assert ranks.wait(300) == 0
    one = content(tmp_path / "one")
    assert content(tmp_path / "pool") == one and content(tmp_path / "ranks") == one


def test_a_medium_that_a_codec_does_not_take_is_told(table, codecs, tmp_path, monkeypatch):
    hashes, _ = expected(table, codecs, "image")
    take = reading.take

    def refuse(data, declared, name):
        """Refuse one picture, and read another as a film."""
        if name == hashes[1]:
            raise module.MediaError(name, "is damaged", "save it anew")
        modality, item = take(data, declared, name)
        return ("video" if name == hashes[3] else modality), item

    monkeypatch.setattr(module.reading, "take", refuse)
    tokenize_media(table, codecs, tmp_path / "codes", workers=1)
    assert documents(tmp_path / "codes", "emu3")[0] == [hashes[k] for k in (0, 2, 4, 5, 6)]
    lines = [
        json.loads(line) for line in (tmp_path / "codes/rejected.jsonl").read_text().splitlines()
    ]
    assert [(line["hash"], line["codec"]) for line in lines] == [
        (hashes[1], "emu3"),
        (hashes[3], "emu3"),
    ]
    assert "is damaged" in lines[0]["reason"] and "read as video" in lines[1]["reason"]


@pytest.mark.parametrize("case", ["no codecs", "no media", "other codecs", "other files"])
def test_mistakes_are_one_line_and_leave_nothing(table, codecs, tmp_path, case):
    out, folder, words = tmp_path / "codes", codecs, ""
    if case == "no codecs":
        folder, words = tmp_path, "holds no codec of media"
    elif case == "no media":
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.txt").write_text("words alone")
        ingest(tmp_path / "in", tmp_path / "table", IngestConfig(workers=0))
        table, words = tmp_path / "table", "has no media for the codecs emu3, mimi (it has: none)"
    elif case == "other codecs":
        tokenize_media(table, codecs, out, workers=1)
        folder, words = tmp_path / "codecs", "holds codes of other media or codecs"
        registry.save({"emu3": small_emu3()}, folder)
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        words = "holds other files"
    before = content(out) if out.exists() else None
    with pytest.raises(ConfigError) as error:
        tokenize_media(table, folder, out, workers=1)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert (content(out) if out.exists() else None) == before


def test_a_digest_names_weights_settings_and_spec(codecs, tmp_path):
    spec = next(spec for spec in registry.read_specs(codecs) if spec.name == "emu3")
    name = registry.digest(codecs, spec)
    for file in ("config.json", "spec-emu3.json", "model.safetensors"):
        folder = tmp_path / file
        registry.save({"emu3": small_emu3()}, folder)
        assert registry.digest(folder, spec) == name
        path = folder / "emu3" / file
        path.write_bytes(path.read_bytes()[:-1] + b" ")
        assert registry.digest(folder, spec) != name


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "spec-emu3.json"])
@pytest.mark.parametrize("content", [b"", b"{", None])
def test_damaged_codecs_are_one_line_before_any_work(table, tmp_path, capsys, file, content):
    registry.save({"emu3": small_emu3()}, tmp_path / "codecs")
    path = tmp_path / "codecs/emu3" / file
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    out = tmp_path / "codes"
    command = ["data", "tokenize", str(table), "--codecs", str(tmp_path / "codecs"), "-o", str(out)]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "codecs that cannot be read" in line and not out.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--workers", "0"], "--workers 0: is below 1"),
        (["--workers", "-3"], "--workers -3: is below 1"),
        (["-o", "FILE"], "holds other files"),
        (["--codecs", "FILE"], "holds no codec of media"),
    ],
)
def test_wrong_values_are_one_line(table, codecs, tmp_path, capsys, more, words):
    file = tmp_path / "file"
    file.write_text("mine")
    more = [str(file) if word == "FILE" else word for word in more]
    command = ["data", "tokenize", str(table), "--codecs", str(codecs), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*command, *more])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line and file.read_text() == "mine" and not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(table, codecs, tmp_path, monkeypatch):
    savez = np.savez

    def full(*_, **__):
        """Fail as a full disk does."""
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "savez", full)
    with pytest.raises(ConfigError, match="No space left on device") as error:
        tokenize_media(table, codecs, tmp_path / "codes", workers=1)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(module.np, "savez", savez)
    tokenize_media(table, codecs, tmp_path / "codes", workers=1)
    assert len(documents(tmp_path / "codes", "emu3")[0]) == 7
