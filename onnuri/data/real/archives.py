"""This module reads files out of packages without installing them: .tgz of npm, .whl of pip, .deb
of Debian. Nothing is unpacked onto the disk and no script of a package runs.

An entry of a file is a picture of an icon set in Iconify's JSON, or a member of a ZIP; its name
follows a # behind the file's path. The module knows no manifest.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import IO, Any

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError)


class ArchiveError(Exception):
    """An ArchiveError reports an archive that is damaged or of a kind that is not read."""


def contents(archive: Path, wanted: Set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files and entries of an archive with their content, in the archive's order;
    those that it lacks are left out. Raises ArchiveError for a damaged archive."""
    outer: dict[str, list[str]] = {}
    for path in sorted(wanted):
        file, _, entry = path.partition("#")
        outer.setdefault(file, []).append(entry)
    try:
        for file, data in _files(archive, outer.keys()):
            for entry in outer[file]:
                if not entry:
                    yield file, data
            if any(outer[file]):
                yield from _entries(file, data, [entry for entry in outer[file] if entry])
    except (*DAMAGE, ValueError, KeyError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"{archive.name}: is damaged ({line:.200})") from None


def names(archive: Path) -> list[str]:
    """Return the paths of an archive's files."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as members:
            return members.namelist()
    with _deb(archive) if archive.suffix == ".deb" else _tgz(archive) as tar:
        return [member.name.removeprefix("./") for member in tar if member.isfile()]


def _files(archive: Path, wanted: Set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files of an archive."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                if name in wanted:
                    yield name, members.read(name)
        return
    with _deb(archive) if archive.suffix == ".deb" else _tgz(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name in wanted and member.isfile() and (file := tar.extractfile(member)):
                yield name, file.read()


@contextlib.contextmanager
def _tgz(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open a compressed tar."""
    with tarfile.open(archive, "r|gz") as tar:
        yield tar


@contextlib.contextmanager
def _deb(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open the tar of the files that a Debian package installs (deb(5)): the member data.tar of an
    ar archive (ar(5)). Raises ArchiveError if there is none."""
    with archive.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ArchiveError(f"{archive.name}: is no Debian package")
        while header := file.read(60):
            name, size = header[:16].decode("latin-1").strip().rstrip("/"), int(header[48:58])
            if name in ("data.tar.xz", "data.tar.gz", "data.tar"):
                data = file.read(size)
                if len(data) < size:
                    raise ArchiveError(f"{archive.name}: is cut off")
                with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as tar:
                    yield tar
                return
            if name == "data.tar.zst":
                with _unpacked(archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                    yield tar
                return
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ArchiveError(f"{archive.name}: is cut off")


@contextlib.contextmanager
def _unpacked(archive: Path) -> Iterator[IO[bytes]]:
    """Open the tar of a Debian package that dpkg-deb unpacks, for Zstandard, which Python reads
    from 3.14 on."""
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(archive)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ArchiveError(f"{archive.name}: needs dpkg-deb to be unpacked") from None
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        process.wait()


def _entries(file: str, data: bytes, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield entries of a file."""
    if file.endswith(".json"):
        icons = json.loads(data)
        for name in names:
            if drawing := icon(icons, name):
                yield f"{file}#{name}", drawing.encode()
        return
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        known = set(members.namelist())
        for name in names:
            if name in known:
                yield f"{file}#{name}", members.read(name)


def icon(icons: Mapping[str, Any], name: str) -> str:
    """Return an icon of a set in Iconify's JSON as an SVG; "" if the set has none of that name.

    An alias is another icon, flipped or turned (IconifyJSON's `aliases`).
    """
    transforms: list[Mapping[str, Any]] = []
    while name not in icons["icons"]:
        alias = icons.get("aliases", {}).get(name)
        if alias is None or len(transforms) > 8:
            return ""
        transforms.append(alias)
        name = alias["parent"]
    found = icons["icons"][name]
    left, top, width, height = (
        found.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    flips = [sum(bool(each.get(key)) for each in transforms) % 2 for key in ("hFlip", "vFlip")]
    body = found["body"]
    if any(each.get("rotate") for each in (*transforms, found)):
        return ""
    if any(flips):
        x, y = ((2 * left + width) * flips[0], (2 * top + height) * flips[1])
        signs = " ".join("-1" if flip else "1" for flip in flips)
        body = f'<g transform="translate({x} {y}) scale({signs})">{body}</g>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    )
