"""`onnuri data fetch real` with tiny packages of each kind and clients that are small programs: what
comes, what cannot be had and why, and what is refused."""

import hashlib
import io
import json
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import media_files
import pytest

from onnuri.cli import main
from onnuri.data.ingest import table
from onnuri.data.ingest.table import DOCUMENTS, Tables
from onnuri.data.real import archives, clients, fetch, manifest
from onnuri.data.real.fetch import fetch as fetch_real
from onnuri.data.real.manifest import Item, Manifest, Package
from onnuri.data.real.settings import FetchConfig
from onnuri.errors import ConfigError

ICONS = {
    "width": 4,
    "height": 4,
    "icons": {"hand": {"body": '<path fill="red" d="M0 0h2v4H0z"/>'}},
    "aliases": {"turned": {"parent": "hand", "hFlip": True}},
}
KO = '<h1 id="a" dir="auto">저장</h1><p id="b" class="x">파일을 <b>저장</b>합니다.</p><p id="c">OK</p>'
EN = (
    '<h1 id="a" dir="auto">Save</h1><p id="b" class="x">Saves &lt;the&gt; file.</p><p id="c">OK</p>'
)


def tar_of(members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def deb_of(members):
    """A Debian package: an ar archive whose control part has an odd length (deb(5))."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": lzma.compress(tar_of({f"./{n}": d for n, d in members.items()}, "w")),
    }
    data = b"!<arch>\n"
    for name, content in parts.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        data += content + b"\n" * (len(content) % 2)
    return data


def whl_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


PICTURES = {f"usr/share/{k}.png": media_files.picture(k, "PNG", side=48) for k in range(3)}
CHAIR = whl_of({"chair/chair.obj": media_files.mesh(1, "obj")})
FILES = {
    "icons": ("npm", "icons-1.tgz", tar_of({"package/icons.json": json.dumps(ICONS).encode()})),
    "stamps": ("apt", "stamps_1_all.deb", deb_of({**PICTURES, "usr/chairs.sh3f": CHAIR})),
    "help": ("pip", "help-1-py3-none-any.whl", whl_of({"ko/p.html": KO, "en/p.html": EN})),
}


def item(group, package, path, data, **more):
    fields = {"concept": path, "kind": "thing", "style": package, "split": "train", **more}
    return Item(group, package, path, sha256(data), **fields)


def of_icon(name):
    return archives.icon(ICONS, name).encode()


ITEMS = (
    item("pictures", "icons", "package/icons.json#hand", of_icon("hand"), ko="손", en="hand"),
    item(
        *("pictures", "icons", "package/icons.json#turned", of_icon("turned")),
        **{"ko": "왼손", "en": "left hand", "split": "test", "concept": "left"},
        **{"tags_ko": ("팔",), "tags_en": ("arm",), "licence": "CC0-1.0", "credit": "Kim"},
    ),
    *(
        item("pictures", "stamps", path, data, en=f"thing {k}")
        for k, (path, data) in enumerate(PICTURES.items())
    ),
    item(
        *("meshes", "stamps", "usr/chairs.sh3f#chair/chair.obj", media_files.mesh(1, "obj")),
        en="chair",
    ),
    item("text", "help", "ko/p.html", (KO + EN).encode(), english=("help", "en/p.html")),
)


@pytest.fixture
def known():
    licences = {"icons": "MIT", "stamps": "GPL-2.0-or-later", "help": "MPL-2.0"}
    packages = {
        name: Package(
            name, client, "1", file, len(data), sha256(data), licences[name], f"{name}'s authors"
        )
        for name, (client, file, data) in FILES.items()
    }
    return Manifest(packages, ITEMS, "0" * 64)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Clients that copy a file of a folder, or fail as one does that does not know a package."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name, (_, file, data) in FILES.items():
        (folder / f"{name}@{file}").write_bytes(data)
    program = (
        "#!/bin/sh\n"
        f'for f in "{folder}"/*; do n=$(basename "$f"); p="${{n%%@*}}"\n'
        'case "$*" in *"$p"*) echo x >> "$REGISTRY_LOG"; exec cp "$f" "./${n#*@}";; esac; done\n'
        'echo "E: no such package" >&2; exit 1\n'
    )
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("npm", "apt-get", "python"):
        (bin_ / name).write_text(program)
        (bin_ / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("REGISTRY_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(clients.sys, "executable", str(bin_ / "python"))
    return folder


def config(tmp_path, *groups, **more):
    return FetchConfig(
        groups=groups or ("pictures", "text"), archives=tmp_path / "archives", workers=0, **more
    )


def rows(out):
    columns = ["key", "parts", "licence", "credit", "concept", "style", "kind", "tags", "split"]
    return {row["key"].removeprefix("real/"): row for row in Tables(out).rows(DOCUMENTS, columns)}


def rejected(out):
    return {line["key"]: line["code"] for line in table.read_lines(out / "rejected.jsonl")}


def test_all_groups_come(tmp_path, known, registry, capsys):
    out = tmp_path / "table"
    fetch_real(out, config(tmp_path, "pictures", "text", "meshes"), known)
    told = capsys.readouterr().out
    found = rows(out)
    assert set(found) == {
        *(f"{i.package}/{i.path}" for i in ITEMS if i.group != "text"),
        *(f"help/ko/p.html#{place}" for place in "ab"),
    }
    left = found["icons/package/icons.json#turned"]
    assert [part["text"] for part in left["parts"]] == [None, "왼손", "left hand"]
    said = ("CC0-1.0", "Kim", "left", "icons", "thing", "test")
    assert (
        tuple(left[k] for k in ("licence", "credit", "concept", "style", "kind", "split")) == said
    )
    assert left["tags"] == [{"text": "팔", "language": "ko"}, {"text": "arm", "language": "en"}]
    hand = found["icons/package/icons.json#hand"]
    assert (hand["licence"], hand["credit"]) == ("MIT", "icons's authors")
    pair = found["help/ko/p.html#b"]["parts"]
    assert [(part["text"], part["language"]) for part in pair] == [
        ("파일을 저장합니다.", "ko"),
        ("Saves <the> file.", "en"),
    ]
    chair = found["stamps/usr/chairs.sh3f#chair/chair.obj"]["parts"][0]
    assert chair["modality"] == "shape" and not rejected(out)
    assert "icons: 2 of 2 documents (1 test, 1 train)" in told


def test_a_flipped_icon_is_the_mirror_image():
    import numpy as np
    from PIL import Image

    from onnuri.media import vector

    hand, turned = (
        np.asarray(Image.open(io.BytesIO(vector.draw(of_icon(name), name))))
        for name in ("hand", "turned")
    )
    assert (hand[:, ::-1] == turned).all() and (hand != turned).any()


def test_files_are_downloaded_once_and_items_read_once(tmp_path, known, registry, capsys):
    out = tmp_path / "table"
    fetch_real(out, config(tmp_path, "pictures"), known)
    downloads = (tmp_path / "log").read_text()
    (tmp_path / "archives" / "partial-killed").mkdir()
    fetch_real(out, config(tmp_path, "pictures", "meshes", "text"), known)
    assert "0 rejected, 0 duplicates" in capsys.readouterr().out
    assert (downloads, (tmp_path / "log").read_text()) == ("x\nx\n", "x\nx\nx\n")
    assert len(rows(out)) == 8
    names = {path.name for path in (tmp_path / "archives").iterdir()}
    assert names == {file for _, file, _ in FILES.values()} | {table.LOCK}


def test_files_laid_by_hand_need_no_client(tmp_path, known, monkeypatch):
    monkeypatch.setattr(clients, "_run", lambda *_: pytest.fail("a client was called"))
    (tmp_path / "archives").mkdir()
    for _, file, data in FILES.values():
        (tmp_path / "archives" / file).write_bytes(data)
    fetch_real(tmp_path / "table", config(tmp_path), known)
    assert len(rows(tmp_path / "table")) == 7


def test_a_client_that_is_missing_costs_its_packages_alone(tmp_path, known, registry, capsys):
    (tmp_path / "bin" / "apt-get").unlink()
    path = os.environ["PATH"]
    try:
        os.environ["PATH"] = str(tmp_path / "bin") + ":" + "/nonexistent"
        (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
        for tool in ("cp", "basename"):
            (tmp_path / "bin" / tool).symlink_to(f"/bin/{tool}")
        fetch_real(tmp_path / "table", config(tmp_path), known)
        told = capsys.readouterr().out
        assert "apt:stamps 1" in told and "cannot be had: apt-get is not here (only Debian" in told
        assert len(rows(tmp_path / "table")) == 4
        with pytest.raises(
            ConfigError, match="--groups meshes: cannot be had: apt-get is not here"
        ):
            fetch_real(tmp_path / "table", config(tmp_path, "text", "meshes"), known)
    finally:
        os.environ["PATH"] = path


def test_what_a_registry_does_not_have(tmp_path, known, registry, capsys):
    for path in registry.iterdir():
        path.unlink()
    with pytest.raises(
        ConfigError, match="--groups pictures text: cannot be had: npm failed: E: no"
    ):
        fetch_real(tmp_path / "table", config(tmp_path), known)
    assert "apt-get update may help" in capsys.readouterr().out
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_wrong_hash_is_refused(tmp_path, known, registry, by_hand):
    other = FILES["icons"][2] + b"more"
    if by_hand:
        (tmp_path / "archives").mkdir()
        (tmp_path / "archives" / "icons-1.tgz").write_bytes(other)
    (registry / "icons@icons-1.tgz").write_bytes(other)
    with pytest.raises(ConfigError, match=r"SHA-256 .*, not .*--any-version") as refusal:
        fetch_real(tmp_path / "table", config(tmp_path), known)
    assert "\n" not in str(refusal.value) and not (tmp_path / "table").exists()
    assert (tmp_path / "archives" / "icons-1.tgz").exists() == by_hand


def test_another_version_by_its_items(tmp_path, known, registry):
    """One item is gone and one is another; the others are taken, whatever the file is called."""
    members = {**PICTURES, "usr/share/1.png": media_files.picture(9, "PNG", side=48)}
    del members["usr/share/2.png"]
    (registry / "stamps@stamps_1_all.deb").unlink()
    (registry / "stamps@stamps_2_all.deb").write_bytes(deb_of(members))
    out = tmp_path / "table"
    fetch_real(out, config(tmp_path, "pictures", any_version=True), known)
    assert rejected(out) == {
        "real/stamps/usr/share/1.png": "wrong_hash",
        "real/stamps/usr/share/2.png": "missing_file",
    }
    assert len(rows(out)) == 3


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_archive_costs_what_it_lacks(tmp_path, known, registry, name):
    file, data = FILES[name][1:]
    (registry / f"{name}@{file}").write_bytes(data[: len(data) * 2 // 3])
    out = tmp_path / "table"
    fetch_real(out, config(tmp_path, any_version=True), known)
    codes = rejected(out)
    assert codes and set(codes.values()) == {"missing_file"}
    assert all(key.startswith(f"real/{name}/") for key in codes)


def test_permissive_fetches_nothing_else(tmp_path, known, registry):
    out = tmp_path / "table"
    fetch_real(out, config(tmp_path, "pictures", licence="permissive"), known)
    assert {row["licence"] for row in rows(out).values()} == {"MIT", "CC0-1.0"}
    assert not (tmp_path / "archives" / "stamps_1_all.deb").exists()


def test_no_room_on_the_disk(tmp_path, known, registry, monkeypatch):
    monkeypatch.setattr(clients, "SPARE_BYTES", 1 << 60)
    with pytest.raises(ConfigError, match="has no room for npm:icons 1"):
        fetch_real(tmp_path / "table", config(tmp_path), known)


def test_a_table_of_another_manifest_is_refused(tmp_path, known, registry):
    fetch_real(tmp_path / "table", config(tmp_path, "pictures"), known)
    with pytest.raises(ConfigError, match="manifest 1111"):
        fetch_real(tmp_path / "table", config(tmp_path), known._replace(sha256="1" * 64))


def test_the_command_line(tmp_path, known, registry, monkeypatch, capsys):
    monkeypatch.setattr(fetch.manifest, "read", lambda: known)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "table"
    main(["data", "fetch", "real", "-o", str(out), "--groups", "pictures", "--workers", "0"])
    assert "icons: 2 of 2 documents" in capsys.readouterr().out
    assert (tmp_path / "cache/onnuri/real/icons-1.tgz").exists()
    with pytest.raises(SystemExit) as stop:
        main(["data", "fetch", "real", "-o", str(out), "--groups", "sounds"])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and "sounds: cannot be had" in told


def test_the_manifest_comes_back_as_it_was_written(tmp_path, monkeypatch):
    packed = manifest.packed_items(ITEMS)
    assert packed == manifest.packed_items(ITEMS)
    (tmp_path / manifest.ITEMS).write_bytes(packed)
    one = Package("a", "pip", "1", "a.whl", 3, "0", "MIT", "한")
    (tmp_path / manifest.PACKAGES).write_bytes(manifest.packed_packages([one]))
    monkeypatch.setattr(manifest, "files", lambda _: Path(tmp_path))
    read = manifest.read()
    assert read.items == ITEMS and read.packages == {"a": one}


def test_a_version_that_is_gone_is_asked_for_without_its_number(tmp_path, known, monkeypatch):
    asked = []

    def run(command, folder):
        asked.append(command[-1])
        (folder / "stamps_2_all.deb").write_bytes(b"2")
        return "E: gone" if "=1" in command[-1] else ""

    monkeypatch.setattr(clients, "_run", run)
    package = known.packages["stamps"]
    missing = clients.obtain(package, tmp_path, any_version=False)
    assert missing == clients.Missing(package, "E: gone") and asked == ["stamps=1"]
    assert clients.obtain(package, tmp_path, any_version=True) == tmp_path / package.file
    assert asked[1:] == ["stamps=1", "stamps"]
