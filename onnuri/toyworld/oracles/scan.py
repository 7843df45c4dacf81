"""Whether a training table keeps to what may be trained on: records, captions and ids, against the
held-out compositions.

Knows no language model, only codecs. Records are drawn again from their seeds; text columns are
decoded and read; picture and shape codes are decoded and seen by the oracles, which may misread a
codec's blur, so their finds are told apart.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from rich.progress import track

from onnuri import media
from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
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


def said(sentence: str) -> set[tuple[str, ...]]:
    """Compositions that a caption, question or instruction names, whether it says that they are so
    or not."""
    language, found = language_of(sentence), set()
    description = parse(sentence)
    if description:
        found |= compositions(description)
    asked = relation_asked(sentence)
    if asked:
        found.add(("relation", *asked))
    colors, solids = (
        {w.lower(): k for k, w in words[language].items()} for words in (COLOR, SOLID)
    )
    words = re.findall(r"[가-힣a-z]+", sentence.lower())
    for first, second in itertools.pairwise(words):
        for name, solid in solids.items():
            if first in colors and (
                second.startswith(name) if language == "ko" else second == name
            ):
                found.add(("color", solid, colors[first]))
    return found


def scan(store: TokenStore, codecs: dict[str, Any], every: int = 1) -> dict[str, list[str]]:
    """`{"records": …, "texts": …, "codes": …}`: what was found that should not be there, one line
    each.

    Records and texts of all rows; codes, which cost a decoder and an oracle, of one row in `every`.
    """
    oracles: tuple[tuple[Modality, Any], ...] = (("image", image.observe), ("shape", mesh.observe))
    found: dict[str, list[str]] = {"records": [], "texts": [], "codes": []}
    for row in track(range(store.rows), description="rows", transient=True):
        scene = sample_scene(row)
        edit = edit_of(scene)
        for record in [scene] + ([edit.apply(scene)] if edit else []):
            found["records"] += [f"row {row}: {c}" for c in held_out(record)]
        for column in TEXTS:
            sentence = store.text(row, column)
            found["texts"] += [
                f"row {row}, {column}: {sentence!r}: {c}" for c in said(sentence) & HELD_OUT
            ]
        for modality, observe in oracles if row % every == 0 else ():
            for column in (modality, f"edit_{modality}"):
                codes = store.get(row, column)
                seen = observe(codecs[modality].decode(codes)) if len(codes) else None
                found["codes"] += [
                    f"row {row}, {column}: {c}"
                    for c in (compositions(seen) & HELD_OUT if seen else ())
                ]
    return found


def run(folder: Path, every: int, path: Path | None) -> dict[str, Any]:
    """Scan a run's table, print what was found, and write the figures as JSON."""
    if every < 1:
        raise ConfigError(
            f"--every {every}", "at least one row in so many is needed", "give 1 or more"
        )
    media.check_place(path)
    store = TokenStore(folder / "table")
    found = scan(store, load_codecs(folder / "codecs"), every)
    figures = {
        "machine": machine(),
        "rows": store.rows,
        "rows_seen": len(range(0, store.rows, every)),
        "held_out_compositions": len(HELD_OUT),
        **{k: len(v) for k, v in found.items()},
    }
    for line in itertools.chain(*found.values()):
        print(line)
    print(
        f"{store.rows} rows: held-out compositions in {figures['records']} records and {figures['texts']} texts; the oracles "
        f"see {figures['codes']} in the codes of {figures['rows_seen']} rows"
    )
    if path:
        media.write_json(figures, path, indent=2)
    return figures
