"""This module checks that a training table holds no held-out composition in its records, captions
and codes.

It knows no language model, only codecs. Records are drawn again from their seeds; text columns are
decoded and read; picture and shape codes are decoded and seen by the oracles, which may misread a
codec's blur, so that their findings are counted apart.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from rich.progress import track

from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_json
from onnuri.modality import LANGUAGES, Modality, language_of
from onnuri.model.omni import load_codecs
from onnuri.toyworld.data.token_store import TokenStore, edit_of
from onnuri.toyworld.grammar import parse
from onnuri.toyworld.oracles import image, mesh
from onnuri.toyworld.scene import HELD_OUT, compositions, held_out, sample_scene
from onnuri.toyworld.tasks import relation_asked
from onnuri.toyworld.words import COLOR, SOLID

TEXTS = tuple(
    f"{column}_{language}" for column in ("ask", "tell", "edit") for language in LANGUAGES
) + tuple(f"{language}_{k}" for language in LANGUAGES for k in "012s")


def named_compositions(sentence: str) -> set[tuple[str, ...]]:
    """Return the compositions that a caption, question or instruction names, whether it states that
    they hold or not."""
    language, compositions_found = language_of(sentence), set()
    description = parse(sentence)
    if description:
        compositions_found |= compositions(description)
    question = relation_asked(sentence)
    if question:
        compositions_found.add(("relation", *question))
    colors, solids = (
        {w.lower(): k for k, w in words[language].items()} for words in (COLOR, SOLID)
    )
    words = re.findall(r"[가-힣a-z]+", sentence.lower())
    for first, second in itertools.pairwise(words):
        for name, solid in solids.items():
            if first in colors and (
                second.startswith(name) if language == "ko" else second == name
            ):
                compositions_found.add(("color", solid, colors[first]))
    return compositions_found


def scan(store: TokenStore, codecs: dict[str, Any], every: int = 1) -> dict[str, list[str]]:
    """Return the violations `{"records": …, "texts": …, "codes": …}` of a table, one line each.

    Records and texts of all rows are read; codes, which cost a decoder and an oracle, of one row in
    `every`.
    """
    oracles: tuple[tuple[Modality, Any], ...] = (("image", image.observe), ("shape", mesh.observe))
    violations: dict[str, list[str]] = {"records": [], "texts": [], "codes": []}
    for row in track(range(store.rows), description="rows", transient=True):
        scene = sample_scene(row)
        edit = edit_of(scene)
        for record in [scene] + ([edit.apply(scene)] if edit else []):
            violations["records"] += [f"row {row}: {c}" for c in held_out(record)]
        for column in TEXTS:
            sentence = store.text(row, column)
            violations["texts"] += [
                f"row {row}, {column}: {sentence!r}: {c}"
                for c in named_compositions(sentence) & HELD_OUT
            ]
        for modality, observe in oracles if row % every == 0 else ():
            for column in (modality, f"edit_{modality}"):
                codes = store.get(row, column)
                description = observe(codecs[modality].decode(codes)) if len(codes) else None
                violations["codes"] += [
                    f"row {row}, {column}: {c}"
                    for c in (compositions(description) & HELD_OUT if description else ())
                ]
    return violations


def run(folder: Path, every: int, path: Path | None) -> dict[str, Any]:
    """Scan a run's table, print the violations, and write their numbers to `path` as JSON. Raises
    ConfigError for wrong options."""
    if every < 1:
        raise ConfigError(
            f"--every {every}", "at least one row in so many is needed", "give 1 or more"
        )
    check_place(path)
    store = TokenStore(folder / "table")
    violations = scan(store, load_codecs(folder / "codecs"), every)
    figures = {
        "machine": machine(),
        "rows": store.rows,
        "rows_seen": len(range(0, store.rows, every)),
        "held_out_compositions": len(HELD_OUT),
        **{k: len(v) for k, v in violations.items()},
    }
    for line in itertools.chain(*violations.values()):
        print(line)
    print(
        f"{store.rows} rows: held-out compositions in {figures['records']} records and "
        f"{figures['texts']} texts; the oracles see {figures['codes']} in the codes of "
        f"{figures['rows_seen']} rows"
    )
    if path:
        write_json(figures, path, indent=2)
    return figures
