"""This module makes items to ingest of a manifest's items and the packages' files.

Items of a package come in the order of its archive, so that it is read once; their keys are package
and path. A file that is not there, or is another one, is an item with a fault.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from onnuri.data.ingest.records import Fault, Said, SourceItem, SourcePart, Tag
from onnuri.data.real.archives import ArchiveError, contents
from onnuri.data.real.manifest import Item, Package
from onnuri.data.real.pages import pairs


def read_items(
    items: Sequence[Item], packages: Mapping[str, Package], archives: Mapping[str, Path]
) -> Iterator[SourceItem]:
    """Yield the items of the packages whose files are in `archives`, package by package."""
    by_package: dict[str, dict[str, Item]] = {name: {} for name in packages}
    for item in items:
        by_package[item.package][item.path] = item
    for name, wanted in by_package.items():
        if wanted and name in archives:
            yield from _of_package(packages[name], wanted, archives)


def _of_package(
    package: Package, wanted: dict[str, Item], archives: Mapping[str, Path]
) -> Iterator[SourceItem]:
    """Yield the items of a package, and a fault for each that its archive lacks."""
    meshes = {path for path, item in wanted.items() if item.group == "meshes"}
    seen: set[str] = set()
    try:
        english = _english(list(wanted.values()), archives)
        for path, data in contents(archives[package.name], wanted.keys() - meshes):
            seen.add(path)
            yield from _of_file(package, wanted[path], data, english)
        for path, part in _meshes(archives[package.name], meshes, wanted):
            seen.add(path)
            yield _item(package, wanted[path], (part,))
        reason = f"is not in {archives[package.name].name}"
    except ArchiveError as error:
        reason = str(error)
    for path, item in wanted.items():
        if path not in seen:
            yield _missing(package, item, reason)


def _of_file(
    package: Package, item: Item, data: bytes, english: Mapping[tuple[str, str], bytes]
) -> Iterator[SourceItem]:
    """Yield the items of a file: itself, or a page's pairs of paragraphs."""
    name = f"{package.name}: {item.path}"
    if item.group != "text":
        yield _item(package, item, (SourcePart(name, data=data, sha256=item.sha256),))
        return
    other_package, other_path, other_sha256 = item.english
    other = english.get((other_package, other_path), b"")
    for page, sha256 in ((data, item.sha256), (other, other_sha256)):
        if hashlib.sha256(page).hexdigest() != sha256:
            yield _missing(package, item, "is not the page of its SHA-256, or its English is not")
            return
    for pair in pairs(item.path, data, other):
        parts = (
            SourcePart(name, text=pair.ko, language="ko"),
            SourcePart(name, text=pair.en, language="en"),
        )
        yield SourceItem(f"{package.name}/{item.path}#{pair.place}", parts, _said(package, item))


def _item(package: Package, item: Item, media: tuple[SourcePart, ...]) -> SourceItem:
    """Return a medium with its names."""
    name = media[0].name
    names = [
        SourcePart(name, text=text, language=language)
        for text, language in ((item.ko, "ko"), (item.en, "en"))
        if text
    ]
    return SourceItem(f"{package.name}/{item.path}", (*media, *names), _said(package, item))


def _said(package: Package, item: Item) -> Said:
    """Return what the manifest says about an item."""
    return Said(
        licence=item.licence or package.licence,
        credit=item.credit or package.credit,
        source=package.label,
        concept=item.concept,
        style=item.style,
        kind=item.kind,
        split=item.split,
        tags=tuple(
            Tag(text, language)
            for tags, language in ((item.tags_ko, "ko"), (item.tags_en, "en"))
            for text in tags
        ),
    )


def _missing(package: Package, item: Item, reason: str) -> SourceItem:
    """Return an item that could not be had."""
    key = f"{package.name}/{item.path}"
    fault = Fault("missing_file", f"{key}: {reason}; fetch the package of the manifest")
    return SourceItem(key, said=_said(package, item), fault=fault)


def _english(items: Sequence[Item], archives: Mapping[str, Path]) -> dict[tuple[str, str], bytes]:
    """Return the English pages of Korean ones, by package and path."""
    wanted: dict[str, set[str]] = {}
    for item in items:
        package, path, _ = item.english
        if path and package in archives:
            wanted.setdefault(package, set()).add(path)
    return {
        (package, path): data
        for package, paths in wanted.items()
        for path, data in contents(archives[package], paths)
    }


def _meshes(
    archive: Path, paths: set[str], wanted: Mapping[str, Item]
) -> Iterator[tuple[str, SourcePart]]:
    """Yield meshes, which lie with their materials and textures in ZIPs of an archive. Each ZIP is
    unpacked while its meshes are read."""
    by_file: dict[str, list[str]] = {}
    for path in sorted(paths):
        by_file.setdefault(path.partition("#")[0], []).append(path)
    if not by_file:
        return
    for file, data in contents(archive, by_file.keys()):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "zip").write_bytes(data)
            try:
                with zipfile.ZipFile(folder / "zip") as members:
                    members.extractall(folder)
            except zipfile.BadZipFile as error:
                raise ArchiveError(f"{archive.name}: {file} is damaged ({error})") from None
            for path in by_file[file]:
                mesh = folder / path.partition("#")[2]
                if mesh.is_file():
                    sha256 = wanted[path].sha256
                    yield (path, SourcePart(path, path=mesh, beside=mesh.parent, sha256=sha256))
