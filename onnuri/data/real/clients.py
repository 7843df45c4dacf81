"""This module has pip, npm and apt download a package's file, by their ordinary commands.

A file is checked by its hash and moved to its place whole, so a download that was killed leaves
none that looks finished. The module installs nothing, names no registry, and knows no manifest's
items.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from onnuri import files
from onnuri.data.real.manifest import Package
from onnuri.errors import ConfigError

SECONDS = 3600
"""longest download"""
SPARE_BYTES = 64 * 2**20
"""room on the disk beside a file"""
INSTALL = {
    "pip": "python -m ensurepip",
    "npm": "install Node.js, which brings it",
    "apt-get": "only Debian and Ubuntu have it",
}


class Missing(NamedTuple):
    """A Missing says why a package's file could not be had."""

    package: Package
    reason: str


def obtain(package: Package, folder: Path, any_version: bool) -> Path | Missing:
    """Return a package's file in a folder, downloaded if it is not there, or why it cannot be had.

    With `any_version` a file of another version will do. Raises ConfigError for a file with another
    hash than the manifest's, and for a full disk.
    """
    place = folder / package.file
    if not place.exists():
        downloaded = _download(package, folder, any_version)
        if isinstance(downloaded, str):
            return Missing(package, downloaded)
        place = downloaded
    if any_version:
        return place
    digest = files.sha256_of(place)
    if digest != package.sha256:
        raise ConfigError(
            str(place),
            f"has SHA-256 {digest[:16]}…, not {package.sha256[:16]}… of {package.label}",
            "remove it and try again, or take what is the same in it with --any-version",
        )
    return place


def _command(package: Package, version: str) -> list[str]:
    """Return the command that downloads a package's file into the current folder; without a version
    any one."""
    if package.client == "pip":
        name = f"{package.name}=={version}" if version else package.name
        return [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", ".", name]
    if package.client == "npm":
        name = f"{package.name}@{version}" if version else package.name
        return ["npm", "pack", name, "--silent"]
    name = f"{package.name}={version}" if version else package.name
    return ["apt-get", "download", "-q", name]


def _download(package: Package, folder: Path, any_version: bool) -> Path | str:
    """Return a package's downloaded file, or why there is none. Raises ConfigError for a full
    disk."""
    files.make_folder(folder)
    if shutil.disk_usage(folder).free < package.bytes + SPARE_BYTES:
        raise ConfigError(
            str(folder),
            f"has no room for {package.label} ({package.bytes / 1e6:.0f} MB)",
            "free some or choose another place with --archives",
        )
    _sweep(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as name:
        partial = Path(name)
        reason = _run(_command(package, package.version), partial)
        if reason and any_version:
            reason = _run(_command(package, ""), partial)
        if reason:
            return reason
        found = [path for path in partial.iterdir() if path.is_file()]
        if len(found) != 1:
            return f"{package.client} wrote {len(found)} files, not one"
        if not any_version and (digest := files.sha256_of(found[0])) != package.sha256:
            raise ConfigError(
                package.label,
                f"came with SHA-256 {digest[:16]}…, not {package.sha256[:16]}…",
                "try again later, or take what is the same in it with --any-version",
            )
        # under the manifest's name, so that it is found again
        return found[0].replace(folder / package.file)


PARTIAL = "partial-"


def _sweep(folder: Path) -> None:
    """Remove what a download that was killed has left."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _run(command: list[str], folder: Path) -> str:
    """Run a client in a folder and return why it failed; "" if it did not."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except FileNotFoundError:
        return f"{command[0]} is not here ({INSTALL[command[0]]})"
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {SECONDS} s"
    if done.returncode == 0:
        return ""
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    told = next((line for line in said if "rror" in line or line.startswith("E:")), "")
    client = "pip" if command[0] == sys.executable else command[0]
    hint = "; apt-get update may help" if client == "apt-get" else ""
    return f"{client} failed: {told or (said or ['without a word'])[-1]:.160}{hint}"
