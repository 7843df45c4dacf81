"""The largest models of a cluster as a table for a terminal and as a page. Knows how figures read;
`inverse.py` has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from onnuri.modality import Language
from onnuri.planner import document as documents
from onnuri.planner.document import Document, Line, Part, Table
from onnuri.planner.figures import between, dollars, number, parameters, percent
from onnuri.planner.inverse import Largest, Size
from onnuri.planner.parallel import to_string
from onnuri.planner.words import Catalogue, catalogue

COLUMNS = (
    "system",
    "kind",
    "params",
    "all tokens",
    "days needed",
    "done",
    "finish",
    "expected loss",
    "cost",
    "layout",
)
NARROW = COLUMNS[:-1]
"""what a terminal has room for"""


def write(
    found: Largest,
    json: Path | None = None,
    html: Path | None = None,
    language: Language = "en",
    command: str = "",
) -> None:
    """Print the largest models, and write what is asked for; `command` makes the page anew."""
    figures = {"verdict": {kind: s.name for kind, s in found.best.items()}, **found.to_json()}
    page = functools.partial(page_of, found, language, command)
    documents.write(text(found, language), figures, page, json, html)


def title(found: Largest, say: Catalogue) -> str:
    """Return the GPUs and the days."""
    cluster = found.cluster
    return say("largest", gpus=f"{cluster.gpus:,}", gpu=cluster.gpu, days=found.days)


def verdict(found: Largest, say: Catalogue) -> list[Line]:
    """Return the largest of each kind that is done, the largest of all first."""
    return [
        (say(s.kind if n else "largest one"), _sentence(s, say))
        for n, s in enumerate(found.best.values())
    ]


def _sentence(s: Size, say: Catalogue) -> str:
    v = s.plan.verdict
    return say(
        "largest verdict",
        title=s.title,
        tokens=number(s.plan.tokens),
        days=between(s.plan.days),
        odds=percent(s.likely),
        usd=dollars(v.usd, say),
        loss=f"{v.loss.mid:.3f}" if v.loss else say("none"),
        limit=say("limit " + v.limit),
    )


def rows(found: Largest, columns: Sequence[str], say: Catalogue) -> Table:
    """Return a head, and a line per size."""
    lines = [[say("loss" if c == "expected loss" else c) for c in columns]]
    for s in found.sizes:
        p = s.plan
        values = {
            "system": s.title,
            "kind": say(s.kind),
            "params": parameters(p.total_params, p.active_params),
            "all tokens": number(p.tokens),
            "days needed": between(p.days),
            "done": say("yes" if s.done else "no"),
            "finish": percent(s.likely),
            "expected loss": f"{p.loss:.3f}" if p.loss else say("none"),
            "cost": dollars(p.bill.usd, say),
            "layout": to_string(p.layout),
        }
        lines.append([values[c] for c in columns])
    return lines


def _basis(found: Largest, say: Catalogue) -> str:
    """Return how many tokens are trained, and what the user says of the cluster."""
    basis = say("largest optimal")
    if found.tokens:
        basis = say("largest tokens", tokens=number(found.tokens))
    yours = found.cluster.yours
    return f"{basis}; {say('cluster')}: {say.translate(*yours)}" if yours else basis


def _left_out(found: Largest, say: Catalogue) -> list[Line]:
    return [(name, say.translate(why)) for name, why in found.left_out.items()]


def text(found: Largest, language: Language = "en") -> str:
    """Return what a terminal has room for; the page and the JSON have all."""
    say = catalogue(language)
    first = verdict(found, say)
    columns = max(documents.cells(label) for label, _ in first) + 2
    lines = [
        f"{title(found, say)}  ({say('ranges')})",
        "",
        documents.labelled(first, columns),
        "",
        *documents.aligned(rows(found, NARROW, say)),
        *(f"  {name}: {why}" for name, why in _left_out(found, say)),
    ]
    return "\n".join([*lines, "", _basis(found, say)])


def page_of(found: Largest, language: Language = "en", command: str = "") -> str:
    """Return one file that needs nothing else."""
    say = catalogue(language)
    parts = [Part("", tables=[rows(found, COLUMNS, say)])]
    if found.left_out:
        parts.append(Part(say("left out"), _left_out(found, say)))
    note = f"{say('ranges')}. {_basis(found, say)}"
    shown = Document(title(found, say), note, verdict(found, say), parts)
    return documents.html(shown, say, command)
