"""Write the lock files: exact versions of what `pyproject.toml` admits today, without hosts, hashes or local builds.

`run.lock` is what `make demo` installs; `dev.lock` adds the extras `world` and `dev` for tests. Run: `make lock`.
A PyTorch of a local build (2.13.0+cpu) is written as its public version, so that every machine takes its own build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def resolve(requirements: list[str]) -> list[str]:
    """`name==version` of everything that the requirements pull in, sorted by name."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
    ]
    report = subprocess.run(
        [*command, *requirements], check=True, capture_output=True, text=True
    ).stdout
    found = {
        item["metadata"]["name"].lower(): item["metadata"]["version"].split("+")[0]
        for item in json.loads(report)["install"]
    }
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    # torch first and exact: another requirement must not pull a newer one
    run = ["torch==2.13.0", *project["dependencies"], *pyproject["build-system"]["requires"]]
    dev = [
        *run,
        *project["optional-dependencies"]["world"],
        *project["optional-dependencies"]["dev"],
    ]
    for name, requirements in (("run", run), ("dev", dev)):
        text = (
            "# written by `make lock` from pyproject.toml\n"
            + "\n".join(resolve(requirements))
            + "\n"
        )
        (ROOT / "locks" / f"{name}.lock").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
