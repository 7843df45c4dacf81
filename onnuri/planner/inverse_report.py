"""Write the largest models of a cluster as a table for a terminal and as a page. Knows how figures
read; `inverse.py` has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from onnuri.modality import Language
from onnuri.planner import document as documents
from onnuri.planner.document import Document, Line, Section, Table
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
"""the columns that a terminal has room for"""


def write(
    answer: Largest,
    json: Path | None = None,
    html: Path | None = None,
    language: Language = "en",
    command: str = "",
) -> None:
    """Print the largest models, and write them as JSON and HTML where a path is given; `command`
    makes the page anew."""
    figures = {"verdict": {kind: s.name for kind, s in answer.best.items()}, **answer.to_json()}
    page = functools.partial(page_of, answer, language, command)
    documents.write(text(answer, language), figures, page, json, html)


def title(answer: Largest, say: Catalogue) -> str:
    """Return the report's title, which names the number and kind of GPUs and the days."""
    cluster = answer.cluster
    return say("largest", gpus=f"{cluster.gpus:,}", gpu=cluster.gpu, days=answer.days)


def verdict(answer: Largest, say: Catalogue) -> list[Line]:
    """Return a line for the largest model of each kind that is trained in time, the largest of all
    first."""
    return [
        (say(s.kind if n else "largest one"), _sentence(s, say))
        for n, s in enumerate(answer.best.values())
    ]


def _sentence(s: Size, say: Catalogue) -> str:
    """Return what is said of one size: tokens, days, probability, dollars, loss, limit."""
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


def rows(answer: Largest, columns: Sequence[str], say: Catalogue) -> Table:
    """Return a table with a head and a line per size, with the cells of these columns."""
    lines = [[say("loss" if c == "expected loss" else c) for c in columns]]
    for s in answer.sizes:
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


def _basis(answer: Largest, say: Catalogue) -> str:
    """Return how many tokens each size trains, and what the user says of the cluster."""
    basis = say("largest optimal")
    if answer.tokens:
        basis = say("largest tokens", tokens=number(answer.tokens))
    yours = answer.cluster.yours
    return f"{basis}; {say('cluster')}: {say.translate(*yours)}" if yours else basis


def _left_out(answer: Largest, say: Catalogue) -> list[Line]:
    """Return a line for each system that does not fit, with the reason."""
    return [(name, say.translate(why)) for name, why in answer.left_out.items()]


def text(answer: Largest, language: Language = "en") -> str:
    """Return the answer for a terminal, as far as it has room; the page and the JSON have all."""
    say = catalogue(language)
    first = verdict(answer, say)
    columns = max(documents.cells(label) for label, _ in first) + 2
    lines = [
        f"{title(answer, say)}  ({say('ranges')})",
        "",
        documents.labelled(first, columns),
        "",
        *documents.aligned(rows(answer, NARROW, say)),
        *(f"  {name}: {why}" for name, why in _left_out(answer, say)),
    ]
    return "\n".join([*lines, "", _basis(answer, say)])


def page_of(answer: Largest, language: Language = "en", command: str = "") -> str:
    """Return the answer as one HTML page that needs no other file."""
    say = catalogue(language)
    parts = [Section("", tables=[rows(answer, COLUMNS, say)])]
    if answer.left_out:
        parts.append(Section(say("left out"), _left_out(answer, say)))
    note = f"{say('ranges')}. {_basis(answer, say)}"
    document = Document(title(answer, say), note, verdict(answer, say), parts)
    return documents.html(document, say, command)
