"""This module writes a page about a table of ingested media: samples to see and hear, and counts.

The page is one file that needs nothing else, in English or Korean. Pictures on it are small copies;
a sound or movie is on it as it is kept, unless it is large.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from onnuri import files
from onnuri.data.ingest import table
from onnuri.data.ingest.page_words import REASONS, WORDS
from onnuri.data.ingest.table import DOCUMENTS, MEDIA, Tables
from onnuri.errors import ConfigError, MediaError
from onnuri.media import reading
from onnuri.modality import Language

SIDE = 288
"""longest side of a picture on the page, in pixels"""
MOST_BYTES = 2 * 2**20
"""largest sound or movie that is put on the page"""
SHOWN_CHARACTERS = 600
"""of a text on the page"""

Rows = list[tuple[str, ...]]
"""a table's lines, the head first"""


class TableCounts(NamedTuple):
    """A TableCounts holds what a table's page counts."""

    media: Counter[str]
    media_bytes: Counter[str]
    media_seconds: Counter[str]
    directions: Counter[str]
    languages: Counter[str]
    licences: Counter[str]
    splits: Counter[str]
    sources: Counter[str]
    reasons: Counter[str]
    duplicates: Counter[str]
    documents: int


def inspect(out: Path, output: Path, language: Language, samples: int) -> None:
    """Write the page of a table. Raises ConfigError for a folder that holds none."""
    if samples < 0:
        raise ConfigError(f"--samples {samples}", "is below 0", "give 0 or more")
    files.check_place(output)
    tables = Tables(out)
    counts = count(tables)
    page = files.rendered(
        Path(__file__).with_name("page.html.j2"),
        say=WORDS[language],
        language=language,
        name=out.resolve().name,
        counts=counts,
        tables=_tables(counts, language),
        samples=_samples(tables, counts.documents, samples),
    )
    files.write_bytes(page.encode(), output)


def count(tables: Tables) -> TableCounts:
    """Return the counts of a table's media, documents, rejections and duplicates."""
    media: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for row in tables.rows(MEDIA, ["modality", "bytes", "seconds"]):
        media[row["modality"]] += 1
        sizes[row["modality"]] += row["bytes"]
        seconds[row["modality"]] += row["seconds"] or 0
    directions: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    documents = 0
    for row in tables.rows(DOCUMENTS, ["parts", "licence", "split", "key"]):
        documents += 1
        directions.update(directions_of([part["modality"] for part in row["parts"]]))
        languages.update(part["language"] for part in row["parts"] if part["language"])
        licences[row["licence"] or ""] += 1
        splits[row["split"]] += 1
        sources[row["key"].split("/")[0]] += 1
    rejected = table.read_lines(tables.out / table.REJECTED)
    duplicates = table.read_lines(tables.out / table.DUPLICATES)
    return TableCounts(
        media=media,
        media_bytes=sizes,
        media_seconds=seconds,
        directions=directions,
        languages=languages,
        licences=licences,
        splits=splits,
        sources=sources,
        reasons=Counter(line["code"] for line in rejected),
        duplicates=Counter(line["kind"] for line in duplicates),
        documents=documents,
    )


def directions_of(modalities: list[str]) -> set[str]:
    """Return the directions that a document can teach, such as "image → text": pairs of modalities
    that occur in it, both ways; its one modality if there is no other."""
    kinds = sorted(set(modalities))
    pairs = {f"{one} → {other}" for one, other in itertools.permutations(kinds, 2)}
    return pairs or set(kinds)


def _tables(counts: TableCounts, language: Language) -> list[tuple[str, Rows]]:
    """Return the page's tables with their headings."""
    say = WORDS[language]
    media = [(say["modality"], say["number"], "MB", say["seconds"])]
    for modality, number in sorted(counts.media.items()):
        size = f"{counts.media_bytes[modality] / 1e6:,.1f}"
        seconds = counts.media_seconds[modality]
        media.append(
            (say.get(modality, modality), f"{number:,}", size, f"{seconds:,.0f}" if seconds else "")
        )
    reasons = Counter({REASONS[language].get(c, c): n for c, n in counts.reasons.items()})
    kinds = Counter({say.get(f"duplicate_{k}", k): n for k, n in counts.duplicates.items()})
    licences = Counter({k or say["unstated"]: n for k, n in counts.licences.items()})
    directions: Counter[str] = Counter()
    for direction, number in counts.directions.items():
        directions[" → ".join(say.get(m, m) for m in direction.split(" → "))] += number
    return [
        (say["by_modality"], [tuple(row) for row in media]),
        (say["by_direction"], _counted(directions, say["direction"], say["documents"])),
        (say["by_language"], _counted(counts.languages, say["language"], say["texts"])),
        (say["by_licence"], _counted(licences, say["licence"], say["documents"])),
        (say["by_split"], _counted(counts.splits, say["split"], say["documents"])),
        (say["by_source"], _counted(counts.sources, say["source"], say["documents"])),
        (say["by_reason"], _counted(reasons, say["reason"], say["items"])),
        (say["by_duplicate"], _counted(kinds, say["kind"], say["items"])),
    ]


def _counted(counts: Counter[str], name: str, unit: str) -> Rows:
    """Return counts as lines, the largest first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, unit), *((label, f"{number:,}") for label, number in ordered)]


def _samples(tables: Tables, documents: int, most: int) -> list[dict[str, Any]]:
    """Return documents spread evenly over the table, with their parts as HTML."""
    if not documents or not most:
        return []
    step = max(1, documents // most)
    columns = ["key", "parts", "licence", "credit", "concept", "split"]
    rows = itertools.islice(tables.rows(DOCUMENTS, columns), 0, None, step)
    samples = list(itertools.islice(rows, most))
    hashes = {part["hash"] for row in samples for part in row["parts"] if part["hash"]}
    types = {
        row["hash"]: row["media_type"]
        for row in tables.rows(MEDIA, ["hash", "media_type"])
        if row["hash"] in hashes
    }
    for row in samples:
        # one document's media at a time: they may be large
        contents = tables.bytes_of([part["hash"] for part in row["parts"] if part["hash"]])
        row["shown"] = [_shown(part, contents, types) for part in row["parts"]]
    return samples


def _shown(part: dict[str, Any], contents: dict[str, bytes], types: dict[str, str]) -> str:
    """Return a part as HTML."""
    if part["text"] is not None:
        text = html.escape(part["text"][:SHOWN_CHARACTERS])
        return f'<p lang="{html.escape(part["language"] or "")}">{text}</p>'
    name = part["hash"]
    data, kind = contents.get(name, b""), types.get(name, "")
    title = f'title="{part["modality"]} {name}"'
    if part["modality"] == "shape":
        return f"<img {title} src={_url(_picture_of_mesh(data), 'image/png')}>"
    if kind == "image/webp" and part["modality"] == "image":
        return f"<img {title} src={_url(_small(data), 'image/webp')}>"
    if len(data) > MOST_BYTES:
        return f"<p {title}>{part['modality']}, {len(data) / 1e6:.1f} MB</p>"
    if kind == "image/webp":
        return f"<img {title} src={_url(data, kind)}>"
    tag = "audio" if part["modality"] == "audio" else "video"
    return f"<{tag} controls {title} src={_url(data, kind)}></{tag}>"


def _url(data: bytes, kind: str) -> str:
    """Return a data URL in quotes."""
    return f'"data:{kind};base64,{base64.b64encode(data).decode()}"'


def _small(data: bytes) -> bytes:
    """Return a small copy of a picture, with its alpha."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.thumbnail((SIDE, SIDE))
        picture.save(out, "WEBP", quality=85)
    return out.getvalue()


def _picture_of_mesh(data: bytes) -> bytes:
    """Return a mesh as a picture with alpha, PNG: the front of its voxels, darker with depth."""
    try:
        voxels = reading.from_bytes(data, "shape", "a mesh")
    except MediaError:  # it was read when it came in
        return b""
    filled = voxels[..., 3] > 127  # x, y away from the viewer, z up
    depth = filled.argmax(1)
    seen = filled.any(1)
    x, z = np.indices(seen.shape)
    light = 1 - 0.6 * depth / depth.max(initial=1)
    colors = voxels[x, depth, z, :3] * light[..., None]
    pixels = np.dstack([colors, seen * 255.0]).astype(np.uint8)
    image = Image.fromarray(pixels.transpose(1, 0, 2)[::-1])
    out = io.BytesIO()
    image.resize((192, 192), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()
