"""This module reports `onnuri evaluate matrix`: a table on the terminal, JSON, a heat map, and a
page with samples.

It knows models only through `matrix.py`.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_bytes, write_json
from onnuri.media import writing
from onnuri.modality import MEDIA, TABLE, Modality
from onnuri.toyworld.oracles.matrix import SPLITS, matrix

Cells = list[dict[str, Any]]


def run(model: Any, items: int, path: Path | None) -> dict[str, Any]:
    """Measure a model on `items` items per cell, print the matrix and write it to `path`, with a
    heat map (.png) and a page (.html) beside it. Raises ConfigError for wrong options."""
    if items < 1:
        raise ConfigError(
            f"--items {items}", "at least one item a cell is needed", "give 1 or more"
        )
    if path and path.suffix in (".png", ".html"):
        raise ConfigError(
            f"--json {path}",
            "is where the heat map or the page would be written",
            "end the name in .json",
        )
    check_place(path)
    samples: dict[str, Any] = {}
    result = {"machine": machine(), **matrix(model, items, samples=samples)}
    show(result)
    if path:
        picture = heat_map(result)
        write_json(result, path)
        write_bytes(picture, path.with_suffix(".png"))
        write_bytes(page(result, samples, picture).encode(), path.with_suffix(".html"))
    return result


def overall(result: dict[str, Any], split: str, source: str, target: str) -> Cells:
    """Return the rows of a cell over all languages and numbers of objects: one per task."""
    return [
        c
        for c in result["cells"]
        if (c["from"], c["to"], c["split"], c["objects"], c["language"])
        == (source, target, split, "all", "all")
    ]


def show(result: dict[str, Any]) -> None:
    """Print the matrix of every split as a table, its mean and the further measurements."""
    console = Console()
    for split in sorted({c["split"] for c in result["cells"]}, key=SPLITS.index):
        table = Table("from \\ to", *MEDIA, title=f"{split}: attributes right, % (ceiling, chance)")
        for source in MEDIA:
            table.add_row(
                source,
                *(
                    "\n".join(_cell_text(c) for c in overall(result, split, source, t))
                    for t in MEDIA
                ),
            )
        console.print(table)
        console.print(
            f"off the diagonal: mean {mean(result, split):.1%}; by attribute: "
            + ", ".join(f"{a} {v:.1%}" for a, v in by_attribute(result, split).items())
        )
    for row in result["further"]:
        console.print(
            f"{row['name']}, {row['from']} to {row['to']}: "
            f"{row['attribute_accuracy']:.1%} (chance {row['chance']:.0%})"
        )
    console.print(f"{result['items']} items a cell and split, {result['seconds']:.0f} s")


def _cell_text(c: dict[str, Any]) -> str:
    """Return one row of a cell as the short text of a table's entry, in percent."""
    extra = f" edited {c['edited']:.0%} kept {c['kept']:.0%}" if "edited" in c else ""
    task = f" {c['task']}" if c["from"] == c["to"] == "text" else ""
    percent = [c[name] * 100 for name in ("attribute_accuracy", "ceiling", "chance")]
    return f"{percent[0]:.1f} ({percent[1]:.0f}, {percent[2]:.0f}){extra}{task}"


def mean(result: dict[str, Any], split: str) -> float:
    """Return the mean attribute accuracy, in [0, 1], of the 20 cells off the diagonal."""
    values = [
        c["attribute_accuracy"]
        for s in MEDIA
        for t in MEDIA
        if s != t
        for c in overall(result, split, s, t)
    ]
    return sum(values) / max(len(values), 1)


def by_attribute(result: dict[str, Any], split: str) -> dict[str, float]:
    """Return for every attribute the mean accuracy over the cells off the diagonal that count
    it."""
    values: dict[str, list[float]] = {}
    for s in MEDIA:
        for t in MEDIA:
            for c in overall(result, split, s, t) if s != t else []:
                for a, v in c["by_attribute"].items():
                    values.setdefault(a, []).append(v)
    return {a: sum(v) / len(v) for a, v in values.items()}


def heat_map(result: dict[str, Any]) -> bytes:
    """Return a PNG with one heat map per split, whose colour and number are the percentage of
    attributes right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    splits = sorted({c["split"] for c in result["cells"]}, key=SPLITS.index)
    figure, axes = plt.subplots(1, len(splits), figsize=(5.2 * len(splits), 4.6), squeeze=False)
    for axis, split in zip(axes[0], splits):
        values = [
            [100 * overall(result, split, s, t)[0]["attribute_accuracy"] for t in MEDIA]
            for s in MEDIA
        ]
        axis.imshow(values, vmin=0, vmax=100, cmap="viridis")
        for i, line in enumerate(values):
            for j, v in enumerate(line):
                axis.text(
                    j, i, f"{v:.0f}", ha="center", va="center", color="white" if v < 65 else "black"
                )
        axis.set_xticks(range(5), MEDIA)
        axis.set_yticks(range(5), MEDIA)
        axis.set_xlabel("to")
        axis.set_ylabel("from")
        axis.set_title(f"{split.replace('_', ' ')}: attributes right, %")
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


def page(result: dict[str, Any], samples: dict[str, Any], picture: bytes) -> str:
    """Return a self-contained HTML page with the heat map and two samples of every cell."""
    parts = []
    for name, pairs in samples.items():
        cells = "".join(
            f"<td>{_to_html(source[0], source[1])}"
            f"{html.escape(source[2]) if len(source) > 2 else ''}</td>"
            f"<td>→</td><td>{_to_html(_target(name), item)}</td>"
            for source, item in pairs
        )
        parts.append(f"<h2>{html.escape(name)}</h2><table><tr>{cells}</tr></table>")
    style = (
        "body{font:15px/1.5 system-ui;margin:2rem}td{padding:.5rem;max-width:22rem}"
        "img{image-rendering:auto}"
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>any-to-any matrix</title><style>{style}</style>"
        f"<h1>Any-to-any matrix</h1><p>{result['items']} items a cell and split.</p>"
        f"<img src='{_data_uri(picture, 'image/png')}'>{''.join(parts)}"
    )


def _target(name: str) -> Modality:
    """Return the target's modality in a sample's name, such as "image-text-seen"."""
    return next((m for m in MEDIA if name.split("-")[1] == m), "text")


def _to_html(modality: Modality, item: Any) -> str:
    """Return an item as HTML; a shape is shown as its picture from the front."""
    if modality == "text":
        return html.escape(str(item))
    if modality == "shape":
        return (
            f"<img width=128 src='{_data_uri(writing.to_bytes(front(item), '.png'), 'image/png')}'>"
        )
    suffix = ".gif" if modality == "video" else TABLE[modality].suffixes[0]
    uri = _data_uri(
        writing.to_bytes(item, suffix),
        "image/gif" if modality == "video" else TABLE[modality].media_type,
    )
    return (
        f"<audio controls src='{uri}'></audio>"
        if modality == "audio"
        else f"<img width=128 src='{uri}'>"
    )


def front(voxels: Any) -> Any:
    """Return voxels [64, 64, 64, 4] seen from the front, uint8 [64, 64, 3]: the first filled voxel
    of every line of sight, darker the farther it is."""
    import numpy as np

    filled = voxels[..., 3] > 127
    depth = filled.argmax(1)
    color = np.take_along_axis(voxels[..., :3], depth[:, None, :, None], 1)[:, 0]
    shade = (1.25 - depth / 100)[..., None] * filled.any(1)[..., None]
    picture = np.where(filled.any(1)[..., None], color * shade, 235).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1])


def _data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
