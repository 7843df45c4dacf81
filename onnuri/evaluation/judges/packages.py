"""This module finds the packages that judges come in, and checks that they are those by which
figures are measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from onnuri.errors import ConfigError
from onnuri.files import sha256_of


def folder_of(package: str, judge: str) -> Path:
    """Return the folder of an installed package, which a judge needs. Raises ConfigError if there
    is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the judge {judge}",
            f"needs {package.replace('_', '-')}, which is not installed",
            'install it with `pip install "onnuri[judges]"`',
        )
    return Path(spec.origin).parent


def checked(path: Path, digest: str) -> Path:
    """Return a file's path. Raises ConfigError if its SHA-256 is another."""
    if not path.exists() or sha256_of(path) != digest:
        raise ConfigError(
            str(path), "is not the judge by which figures are measured", "install it again"
        )
    return path
