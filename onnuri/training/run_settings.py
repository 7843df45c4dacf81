"""This module keeps a run's settings beside what it stores, so that a command goes on with its own
run and never with another's. It knows no setting.

    OUT/run.json    the settings of the command that began the run
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnuri.errors import ConfigError

RUN = "run.json"


def check_same_run(out: Path, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if a folder holds a run with other settings, or if its file is damaged."""
    path = out / RUN
    if not path.exists():
        return
    try:
        earlier = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}", f"is damaged ({error})", "give another --out, or delete the folder"
        ) from None
    changed = sorted(k for k in settings if earlier.get(k) != settings[k])
    if changed:
        raise ConfigError(
            f"{out}", f"holds a run with another {', '.join(changed)}", "give another --out"
        )
