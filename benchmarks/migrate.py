"""Write a folder of the first format anew: its codecs get the specs that the shipped ones have, and
it gets a token layout.

Models of the first format were read by the code's own table of grids, which all of them shared;
that table is what the shipped codecs' `spec-*.json` say now. The weights stay as they are.

    python benchmarks/migrate.py runs/laptop-full/model
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tyro
from tokenizers import Tokenizer

import onnuri
from onnuri.codecs import registry
from onnuri.codecs.text import text_spec
from onnuri.errors import OnnuriError
from onnuri.modality import MEDIA
from onnuri.model.front_end import UNNAMED
from onnuri.model.omni import FORMAT, check, hashes_of
from onnuri.model.token_layout import TokenLayout


def main(folder: tyro.conf.Positional[Path]) -> None:
    """Migrate a model's folder in place."""
    path = folder / "onnuri.json"
    try:
        about = check(folder)  # what is damaged is refused, not written down as sound
    except OnnuriError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if about.get("format") != 1:
        print(
            f"{folder}: has format {about.get('format')!r}; only folders of format 1 are migrated",
            file=sys.stderr,
        )
        raise SystemExit(2)
    _, *specs = registry.read_specs(onnuri.WEIGHTS / "laptop" / "codecs", MEDIA)
    text = text_spec(
        int(Tokenizer.from_file(str(folder / "codecs/text/tokenizer.json")).get_vocab_size())
    )
    for spec in (text, *specs):
        spec.save_beside(folder / "codecs" / registry.folder_of(spec))
    layout = TokenLayout.of([text, *specs], bool(about.get("tasks", False)))
    about = {
        "format": FORMAT,
        "front_end": UNNAMED,
        "sampling": about["sampling"],
        "layout": layout.to_json(),
        "sha256": hashes_of(folder),
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    print(f"{folder}: format {FORMAT}, {layout.size} ids")


if __name__ == "__main__":
    tyro.cli(main)
