"""Keep answers of searches in the user's cache folder, so that a question that changes no layout is
not searched again.

A key holds everything that an answer depends on, and the planner's own code and tables: another
version never meets an old answer. A file that is damaged is as good as none. Knows nothing of what
is kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from onnuri import config, files
from onnuri.errors import OnnuriError

MOST = 256
"""number of answers that are kept, the last ones used"""


def folder() -> Path:
    """Return where the user's answers are kept: `$XDG_CACHE_HOME/onnuri/plans`, or
    `~/.cache/onnuri/plans`."""
    return files.cache_folder() / "plans"


@functools.cache
def version() -> str:
    """Return a hash of the planner's sources and tables, and of what turns them into configs."""
    here, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(
        [*here.rglob("*.py"), *here.rglob("*.csv"), *here.rglob("*.json"), Path(config.__file__)]
    ):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Saved:
    """A folder of saved answers; without a folder, nothing is saved and `get` returns None."""

    def __init__(self, place: Path | None) -> None:
        self.place = place

    def get(self, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to these inputs, None where there is none that can be read."""
        path = self._path(inputs)
        if path is None:
            return None
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry["inputs"] != json.loads(json.dumps(inputs)):
                return None
            answer: dict[str, Any] = entry["answer"]
            with contextlib.suppress(OSError):
                os.utime(path)
            return answer
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, inputs: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep an answer, whole or not at all; where the folder cannot be written, it is not
        kept."""
        path = self._path(inputs)
        if path is not None:
            with contextlib.suppress(OSError, OnnuriError):
                files.write_json({"inputs": inputs, "answer": answer}, path)
                self._prune(path.parent)

    def _path(self, inputs: dict[str, Any]) -> Path | None:
        """Return the file of the answer to these inputs; None without a folder."""
        if self.place is None:
            return None
        key = json.dumps([version(), inputs], sort_keys=True).encode()
        return self.place / f"{hashlib.sha256(key).hexdigest()}.json"

    def _prune(self, place: Path) -> None:
        """Delete the answers that were not used for longest, so that `MOST` are left."""
        newest = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest[MOST:]:
            path.unlink(missing_ok=True)
