"""What `onnuri evaluate matrix` shows: a table on the terminal, JSON, a heat map, and a page with
samples.

Knows no model but by `matrix.py`.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnuri import media
from onnuri.errors import ConfigError
from onnuri.evaluation.machine import machine
from onnuri.modality import MEDIA, TABLE, Modality
from onnuri.toyworld.oracles.matrix import SPLITS, matrix

Cells = list[dict[str, Any]]


def run(model: Any, items: int, path: Path | None) -> dict[str, Any]:
    """Measure, print, and write PATH, PATH's heat map (.png) and page (.html)."""
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
    media.check_place(path)
    samples: dict[str, Any] = {}
    found = {"machine": machine(), **matrix(model, items, samples=samples)}
    show(found)
    if path:
        picture = heat_map(found)
        media.write_json(found, path)
        media.write_bytes(picture, path.with_suffix(".png"))
        media.write_bytes(page(found, samples, picture).encode(), path.with_suffix(".html"))
    return found


def overall(found: dict[str, Any], split: str, source: str, target: str) -> Cells:
    """The rows of a cell over all languages and numbers of objects: one a task."""
    return [
        c
        for c in found["cells"]
        if (c["from"], c["to"], c["split"], c["objects"], c["language"])
        == (source, target, split, "all", "all")
    ]


def show(found: dict[str, Any]) -> None:
    console = Console()
    for split in sorted({c["split"] for c in found["cells"]}, key=SPLITS.index):
        table = Table("from \\ to", *MEDIA, title=f"{split}: attributes right, % (ceiling, chance)")
        for source in MEDIA:
            table.add_row(
                source,
                *("\n".join(_brief(c) for c in overall(found, split, source, t)) for t in MEDIA),
            )
        console.print(table)
        console.print(
            f"off the diagonal: mean {mean(found, split):.1%}; by attribute: "
            + ", ".join(f"{a} {v:.1%}" for a, v in by_attribute(found, split).items())
        )
    for row in found["further"]:
        console.print(
            f"{row['name']}, {row['from']} to {row['to']}: {row['attribute_accuracy']:.1%} (chance {row['chance']:.0%})"
        )
    console.print(f"{found['items']} items a cell and split, {found['seconds']:.0f} s")


def _brief(c: dict[str, Any]) -> str:
    extra = f" edited {c['edited']:.0%} kept {c['kept']:.0%}" if "edited" in c else ""
    task = f" {c['task']}" if c["from"] == c["to"] == "text" else ""
    return f"{c['attribute_accuracy'] * 100:.1f} ({c['ceiling'] * 100:.0f}, {c['chance'] * 100:.0f}){extra}{task}"


def mean(found: dict[str, Any], split: str) -> float:
    """Mean attribute accuracy of the 20 cells off the diagonal."""
    values = [
        c["attribute_accuracy"]
        for s in MEDIA
        for t in MEDIA
        if s != t
        for c in overall(found, split, s, t)
    ]
    return sum(values) / max(len(values), 1)


def by_attribute(found: dict[str, Any], split: str) -> dict[str, float]:
    """Mean over the cells off the diagonal that count the attribute."""
    values: dict[str, list[float]] = {}
    for s in MEDIA:
        for t in MEDIA:
            for c in overall(found, split, s, t) if s != t else []:
                for a, v in c["by_attribute"].items():
                    values.setdefault(a, []).append(v)
    return {a: sum(v) / len(v) for a, v in values.items()}


def heat_map(found: dict[str, Any]) -> bytes:
    """A PNG: one square a split, colour and number the share of attributes right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    splits = sorted({c["split"] for c in found["cells"]}, key=SPLITS.index)
    figure, axes = plt.subplots(1, len(splits), figsize=(5.2 * len(splits), 4.6), squeeze=False)
    for axis, split in zip(axes[0], splits):
        values = [
            [100 * overall(found, split, s, t)[0]["attribute_accuracy"] for t in MEDIA]
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


def page(found: dict[str, Any], samples: dict[str, Any], picture: bytes) -> str:
    """A self-contained page: the heat map, and two samples of every cell."""
    parts = []
    for name, pairs in samples.items():
        cells = "".join(
            f"<td>{_show(given[0], given[1])}{html.escape(given[2]) if len(given) > 2 else ''}</td>"
            f"<td>→</td><td>{_show(_target(name), made)}</td>"
            for given, made in pairs
        )
        parts.append(f"<h2>{html.escape(name)}</h2><table><tr>{cells}</tr></table>")
    style = "body{font:15px/1.5 system-ui;margin:2rem}td{padding:.5rem;max-width:22rem}img{image-rendering:auto}"
    return (
        f"<!doctype html><meta charset=utf-8><title>any-to-any matrix</title><style>{style}</style>"
        f"<h1>Any-to-any matrix</h1><p>{found['items']} items a cell and split.</p>"
        f"<img src='{_uri(picture, 'image/png')}'>{''.join(parts)}"
    )


def _target(name: str) -> Modality:
    return next((m for m in MEDIA if name.split("-")[1] == m), "text")


def _show(modality: Modality, item: Any) -> str:
    """An item as HTML; a shape as its picture from the front."""
    if modality == "text":
        return html.escape(str(item))
    if modality == "shape":
        return f"<img width=128 src='{_uri(media.to_bytes(front(item), '.png'), 'image/png')}'>"
    suffix = ".gif" if modality == "video" else TABLE[modality].suffixes[0]
    uri = _uri(
        media.to_bytes(item, suffix),
        "image/gif" if modality == "video" else TABLE[modality].media_type,
    )
    return (
        f"<audio controls src='{uri}'></audio>"
        if modality == "audio"
        else f"<img width=128 src='{uri}'>"
    )


def front(voxels: Any) -> Any:
    """uint8 [64, 64, 3]: the first filled voxel of every line of sight, darker the farther."""
    import numpy as np

    filled = voxels[..., 3] > 127
    depth = filled.argmax(1)
    color = np.take_along_axis(voxels[..., :3], depth[:, None, :, None], 1)[:, 0]
    shade = (1.25 - depth / 100)[..., None] * filled.any(1)[..., None]
    picture = np.where(filled.any(1)[..., None], color * shade, 235).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1])


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
