"""Draw the report's figures as SVG that takes the page's own colour for its lines and words. Knows
no HTML."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from onnuri.planner import goodput
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval
from onnuri.planner.words import Catalogue

INK = "#123456"
"""a colour that stands for the page's own until the drawing is done"""
COLORS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#76b7b2",
    "#b07aa1",
    "#edc948",
    "#9c755f",
    "#ff9da7",
    "#8cd17d",
    "#86bcb6",
    "#d37295",
    "#a0cbe8",
    "#ffbe7d",
    "#d4a6c8",
    "#bab0ac",
)
Rows = Sequence[tuple[str, dict[str, float]]]
"""bars by label, each with its parts"""


def draw(paint: Callable[[Any], None], height: float, salt: str) -> str:
    """Return one drawing as SVG, which `paint` paints on matplotlib's axes; `salt` makes its ids
    stable. Words stay words, so that the page's fonts show them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ink: dict[Any, Any] = {
        k: INK
        for k in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    }
    with (
        pyplot.rc_context(ink | {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter(
            "ignore"
        )  # Hangul is missing in matplotlib's own font, and there in the browser's
        figure, axes = pyplot.subplots(figsize=(8.2, height))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
        pyplot.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def bars(rows: Rows, unit: str, say: Catalogue, salt: str, limit: float | None = None) -> str:
    """Return stacked bars as SVG: memory by part, or a step by part; `limit` is a dashed line."""
    names = sorted(
        dict.fromkeys(n for _, parts in rows for n in parts),
        key=lambda n: -max(parts.get(n, 0.0) for _, parts in rows),
    )

    def paint(axes: Any) -> None:
        """Paint the stacked bars, their limit and their legend."""
        left = [0.0] * len(rows)
        for color, name in zip(COLORS * 3, names):
            values = [parts.get(name, 0.0) for _, parts in rows]
            axes.barh(range(len(rows)), values, left=left, color=color, label=say(name), height=0.6)
            left = [x + v for x, v in zip(left, values)]
        if limit:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.55 / (0.45 * len(rows) + 0.3)),
            ncols=5,
            frameon=False,
            fontsize=9,
        )

    return draw(paint, 0.45 * len(rows) + 0.5, salt)


def checkpoints(cluster: Cluster, state_bytes: float, chosen: float, say: Catalogue) -> str:
    """Return the goodput against the checkpoint interval as SVG, with the `chosen` seconds
    marked."""
    seconds = [chosen * 10 ** (k / 12) for k in range(-14, 15)]
    shares = [goodput.goodput(cluster, state_bytes, s).share for s in seconds]

    def paint(axes: Any) -> None:
        """Paint the curve of goodput with its range, and the chosen interval."""
        minutes = [s / 60 for s in seconds]
        axes.fill_between(
            minutes,
            [s.low for s in shares],
            [s.high for s in shares],
            color=COLORS[0],
            alpha=0.25,
            linewidth=0,
        )
        axes.plot(minutes, [s.mid for s in shares], color=COLORS[0])
        axes.axvline(chosen / 60, color=INK, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(max(0.0, min(s.low for s in shares) - 0.02), 1)
        axes.set_xlabel(say("every"))
        axes.set_ylabel(say("goodput"))

    return draw(paint, 2.8, "checkpoints")


Point = tuple[str, float, Interval, str]
"""label, active parameters, loss, kind"""


def sizes(points: Sequence[Point], marked: Sequence[Point], say: Catalogue) -> str:
    """Return size against loss as SVG: the ladder as lines with their ranges, the systems as marks
    with names."""

    def paint(axes: Any) -> None:
        """Paint the ladder's curves with their ranges, and the systems as marks."""
        for color, kind in zip(COLORS, dict.fromkeys(p[3] for p in points)):
            line = sorted((active / 1e9, loss) for _, active, loss, k in points if k == kind)
            x = [a for a, _ in line]
            axes.plot(
                x, [i.mid for _, i in line], color=color, marker="o", markersize=4, label=say(kind)
            )
            axes.fill_between(
                x,
                [i.low for _, i in line],
                [i.high for _, i in line],
                color=color,
                alpha=0.12,
                linewidth=0,
            )
        for color, (name, active, loss, _) in zip(COLORS[2:], marked):
            axes.errorbar(
                active / 1e9,
                loss.mid,
                yerr=[[loss.mid - loss.low], [loss.high - loss.mid]],
                color=color,
                marker="D",
                capsize=3,
                linewidth=1,
                linestyle="none",
                label=name,
            )  # a legend: names at the marks would overlap
        axes.set_xscale("log")
        axes.set_xlabel(say("size"))
        axes.set_ylabel(say("nats"))
        axes.legend(frameon=False, fontsize=9)

    return draw(paint, 4.2, "sizes")
