"""This module drives `onnuri data fetch real`: packages of the manifest are downloaded, their items
ingested, and what was had and what was not is printed.

It goes on where an earlier run ended: a package's file that is there is not downloaded again, an
item that is in the table is not read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from onnuri import files
from onnuri.data.ingest import run, table
from onnuri.data.ingest.licences import is_permissive
from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.real import clients, manifest, source
from onnuri.data.real.clients import Missing
from onnuri.data.real.manifest import Item, Manifest, Package
from onnuri.data.real.settings import FetchConfig
from onnuri.errors import ConfigError

NAME = "real"
"""name of the manifest's items in the table, under which their keys stand"""


def fetch(out: Path, config: FetchConfig, known: Manifest | None = None) -> None:
    """Fetch the groups of a manifest, by default the one that comes with Onnuri, into a folder of
    ingested media.

    Raises ConfigError for a group of which nothing came, after all others are in the table; for a
    package's file with another hash, a full disk, and a table of another manifest, before anything
    is.
    """
    known = known or manifest.read()
    ingest_config = IngestConfig(licence=config.licence, workers=config.workers)
    run.check_settings(ingest_config)
    items = [item for item in known.items if item.group in config.groups]
    if config.licence == "permissive":
        items = [item for item in items if is_permissive(_licence(item, known))]
    folder = config.archives or files.cache_folder() / "real"
    console = Console(highlight=False, soft_wrap=True)
    files.make_folder(folder)
    with table.locked(folder):
        archives, missing = _obtain(_needed(items, known), folder, config, console)
    had = [item for item in items if _packages(item) <= archives.keys()]
    if not had:
        raise ConfigError(
            f"--groups {' '.join(config.groups)}",
            f"cannot be had: {missing[0].reason if missing else 'nothing of that licence'}",
            "see above, or lay the files into --archives by hand",
        )
    run.ingest_items(
        source.read_items(had, known.packages, archives),
        f"manifest {known.sha256[:16]}",
        NAME,
        out,
        ingest_config,
    )
    _report(console, out, items, known)
    without = sorted(set(config.groups) - {item.group for item in had})
    if without:
        raise ConfigError(
            f"--groups {' '.join(without)}",
            f"cannot be had: {missing[0].reason if missing else 'nothing of that licence'}",
            "what else was wanted is in the table; the same command goes on",
        )


def _licence(item: Item, known: Manifest) -> str:
    """Return an item's licence."""
    return item.licence or known.packages[item.package].licence


def _packages(item: Item) -> set[str]:
    """Return the names of the packages that an item needs."""
    return {item.package, item.english[0] or item.package}


def _needed(items: Sequence[Item], known: Manifest) -> list[Package]:
    """Return the packages that items need, in the manifest's order."""
    names = {name for item in items for name in _packages(item)}
    return [package for name, package in known.packages.items() if name in names]


def _obtain(
    packages: Sequence[Package], folder: Path, config: FetchConfig, console: Console
) -> tuple[dict[str, Path], list[Missing]]:
    """Return the packages' files by the packages' names, and what could not be had; print both."""
    archives: dict[str, Path] = {}
    missing: list[Missing] = []
    for number, package in enumerate(packages, start=1):
        line = f"{number}/{len(packages)} {package.label} ({package.bytes / 1e6:.1f} MB)"
        is_there = (folder / package.file).exists()
        with console.status(line):
            obtained = clients.obtain(package, folder, config.any_version)
        if isinstance(obtained, Missing):
            missing.append(obtained)
            console.print(f"{line}: cannot be had: {obtained.reason}")
        else:
            archives[package.name] = obtained
            console.print(f"{line}: {'is there' if is_there else 'downloaded'}")
    return archives, missing


def _report(console: Console, out: Path, items: Sequence[Item], known: Manifest) -> None:
    """Print by style how many of the manifest's items are in the table, and their splits."""
    wanted = Counter(item.style for item in items if item.group != "text")
    labels = {known.packages[item.package].label for item in items}
    splits: dict[str, Counter[str]] = {}
    concepts = set()
    columns = ["source", "style", "concept", "split"]
    for row in table.Tables(out).rows(table.DOCUMENTS, columns):
        if row["source"] in labels:
            splits.setdefault(row["style"], Counter())[row["split"]] += 1
            concepts.add(row["concept"])
    for style in sorted(splits):
        counts = splits[style]
        of = f" of {wanted[style]:,}" if wanted[style] else ""
        shares = ", ".join(f"{counts[split]:,} {split}" for split in sorted(counts))
        console.print(f"{style}: {counts.total():,}{of} documents ({shares})")
    console.print(f"{len(concepts):,} concepts")
