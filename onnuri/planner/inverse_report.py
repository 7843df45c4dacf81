"""The largest models of a cluster as a table for a terminal and as a page. Knows how figures read;
`inverse.py` has them."""

from __future__ import annotations

from pathlib import Path

from onnuri import files
from onnuri.modality import Language
from onnuri.planner import page
from onnuri.planner.budget_report import aligned
from onnuri.planner.inverse import Largest, Size
from onnuri.planner.parallel import to_string
from onnuri.planner.report import between, cells, labelled, number, percent
from onnuri.planner.words import ours, say

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
    """Print it, and write what was asked for; `command` is the one that makes the page anew."""
    for path in (json, html):
        files.check_place(path)
    print(text(found, language))
    if json:
        files.write_json(
            {"verdict": {kind: s.name for kind, s in found.best.items()}, **found.to_json()}, json
        )
    if html:
        files.write_bytes(page_of(found, language, command).encode(), html)


def title(found: Largest, language: Language) -> str:
    return say(
        "largest", language, gpus=f"{found.cluster.gpus:,}", gpu=found.cluster.gpu, days=found.days
    )


def verdict(found: Largest, language: Language) -> list[tuple[str, str]]:
    """The largest of each kind that is done, the largest of all first."""
    ordered = list(found.best.values())
    labels = [
        say("largest one", language) if n == 0 else say(s.kind, language)
        for n, s in enumerate(ordered)
    ]
    return [(label, _sentence(s, language)) for label, s in zip(labels, ordered)]


def _sentence(s: Size, language: Language) -> str:
    v = s.plan.verdict
    return say(
        "largest verdict",
        language,
        title=s.title,
        tokens=number(s.plan.tokens),
        days=between(s.plan.days),
        odds=percent(s.likely),
        usd=between(v.usd, before="$", language=language),
        loss=f"{v.loss.mid:.3f}" if v.loss else say("none", language),
        limit=say("limit " + v.limit, language),
    )


def rows(found: Largest, columns: tuple[str, ...], language: Language) -> list[list[str]]:
    """A head, and a line a size."""
    lines = [[say("loss" if c == "expected loss" else c, language) for c in columns]]
    for s in found.sizes:
        p = s.plan
        active = f" / {number(p.active_params)}" if p.active_params < p.total_params else ""
        values = {
            "system": s.title,
            "kind": say(s.kind, language),
            "params": number(p.total_params) + active,
            "all tokens": number(p.tokens),
            "days needed": between(p.days),
            "done": say("yes" if s.done else "no", language),
            "finish": percent(s.likely),
            "expected loss": f"{p.loss:.3f}" if p.loss else say("none", language),
            "cost": between(p.bill.usd, before="$", language=language),
            "layout": to_string(p.layout),
        }
        lines.append([values[c] for c in columns])
    return lines


def _basis(found: Largest, language: Language) -> str:
    """How many tokens, and what the user said of the cluster."""
    said = (
        say("largest tokens", language, tokens=number(found.tokens))
        if found.tokens
        else say("largest optimal", language)
    )
    yours = found.cluster.yours
    return said + (
        f"; {say('cluster', language)}: {ours('; '.join(yours), language)}" if yours else ""
    )


def text(found: Largest, language: Language = "en") -> str:
    """What a terminal has room for; the page and the JSON have all."""
    first = verdict(found, language)
    said = [
        f"{title(found, language)}  ({say('ranges', language)})",
        "",
        labelled(first, max(cells(k) for k, _ in first) + 2),
        "",
    ]
    said += aligned(rows(found, NARROW, language))
    said += [f"  {name}: {ours(why, language)}" for name, why in found.left_out.items()]
    return "\n".join([*said, "", _basis(found, language)])


def page_of(found: Largest, language: Language = "en", command: str = "") -> str:
    """One file that needs nothing else."""
    body = [
        f'<p class="note">{say("ranges", language)}. {_basis(found, language)}</p>',
        page.verdict(verdict(found, language)),
        page.command(command, language),
        page.table(rows(found, COLUMNS, language)),
    ]
    if found.left_out:
        why = [(name, ours(why, language)) for name, why in found.left_out.items()]
        body.append(page.folded(say("left out", language), page.facts(why)))
    return page.page(title(found, language), "".join(body), language)
