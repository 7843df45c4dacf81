"""Write a budget as tables for a terminal and as a page, in Korean or English. Knows how figures
read; `budget.py` has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnuri.modality import Language
from onnuri.planner import document as documents
from onnuri.planner import loss, plots, serving_cost
from onnuri.planner.budget import MOST_TOKENS, Budget, Option, Rank, cost
from onnuri.planner.cost import bill
from onnuri.planner.document import Document, Line, Section, Table, aligned
from onnuri.planner.figures import between, dollars, number, parameters, percent, share
from onnuri.planner.interval import Interval, exact
from onnuri.planner.parallel import to_string
from onnuri.planner.report import pictures, runs
from onnuri.planner.words import Catalogue, catalogue

TRAINING = (
    "system",
    "params",
    "tokens by then",
    "tokens per active",
    "loss by then",
    "finish",
    "days needed",
    "trains",
    "cost",
    "layout",
)
SERVING = (
    "system",
    "serve gpus",
    "tokens/s/GPU",
    "KV",
    "users a node",
    "usd a million",
    "gpu seconds",
    "media",
)
NARROW = (
    "system",
    "tokens by then",
    "loss by then",
    "finish",
    "days needed",
    "serve gpus",
    "users a node",
    "usd a million",
    "gpu seconds",
)
"""the columns that a terminal has room for"""


def write(
    b: Budget,
    json: Path | None = None,
    html: Path | None = None,
    language: Language = "en",
    command: str = "",
) -> None:
    """Print a budget, and write it as JSON and HTML where a path is given; `command` makes the page
    anew."""
    figures = {"verdict": decided(b), **b.to_json()}
    page = functools.partial(page_of, b, language, command)
    documents.write(text(b, language), figures, page, json, html)


def title(b: Budget, say: Catalogue) -> str:
    """Return the report's title, which names the number and kind of GPUs and the days."""
    return say("budget", gpu=b.cluster.gpu, gpus=f"{b.cluster.gpus:,}", days=b.days)


def decided(b: Budget) -> dict[str, Any]:
    """Return the verdict for the JSON, without sentences of a language: the first system by aim,
    the dollars, and the probability of finishing by system."""
    whole = _whole_cost(b)
    return {
        **{aim: ranks[0].name for aim, ranks in b.aims.items()},
        "usd": whole.to_json() if whole else None,
        "finish": {o.name: o.finish for o in b.systems},
    }


def _whole_cost(b: Budget) -> Interval | None:
    """Return the dollars of all GPUs until the date; None without a price."""
    return bill(b.cluster.kind, exact(b.days * 24 * b.cluster.gpus)).usd


def verdict(b: Budget, say: Catalogue) -> list[Line]:
    """Return the lines to decide by: the first under each aim, what finishes its own plan, and what
    all of it costs."""
    systems = {o.name: o for o in b.systems}
    rows: list[Line] = []
    for aim, key in (("loss", "lowest loss"), ("operate", "cheapest"), ("media", "most media")):
        if ranks := b.aims.get(aim):
            first = systems[ranks[0].name]
            tied = sum(r.place == ranks[0].place for r in ranks) - 1
            sentence = say(
                "first of",
                title=first.title,
                figure=_figure(aim, first, say),
                tie=say("tied with", count=tied) if tied else "",
                odds=percent(ranks[0].first),
            )
            rows.append((say(key), sentence))
    if not b.systems:
        rows.append((say("system"), say("not systems")))
    finished = [f"{o.title} {percent(o.finish)}" for o in b.systems if o.finish >= 0.5]
    return [
        *rows,
        (say("finished"), ", ".join(finished) or say("none of them")),
        (say("whole budget"), dollars(_whole_cost(b), say)),
    ]


def _figure(aim: str, o: Option, say: Catalogue) -> str:
    """Return an option's figure under an aim: loss, dollars of serving, or media."""
    if aim == "loss":
        return thousandths(o)
    if aim == "media":
        return ", ".join(map(say, o.plan.media))
    return between(cost(o), before="$" if o.serving.usd_per_million_tokens else "")


def row(o: Option, say: Catalogue) -> dict[str, str]:
    """Return the formatted cells of one option, by the name of the table's column."""
    p, s = o.plan, o.serving
    price = between(cost(o), before="$" if s.usd_per_million_tokens else "")
    return {
        "system": o.title,
        "params": parameters(p.total_params, p.active_params),
        "tokens by then": between(o.tokens),
        "tokens per active": number(o.tokens.mid / p.active_params),
        "loss by then": thousandths(o),
        "finish": f"{o.finish:.0%}",
        "days needed": between(o.days_needed),
        "trains": between(p.tokens_per_s_per_gpu),
        "cost": dollars(p.bill.usd, say),
        "layout": f"{to_string(p.layout).replace(',', ', ')}; {runs(p.engine, say)}",
        "serve gpus": f"{s.fewest_gpus} – {s.gpus}" if s.gpus > s.fewest_gpus else str(s.gpus),
        "tokens/s/GPU": between(s.tokens_per_s_per_gpu),
        "KV": number(s.kv_bytes_per_token),
        "users a node": between(s.users_per_node),
        "usd a million": price if s.usd_per_million_tokens else "",
        "gpu seconds": "" if s.usd_per_million_tokens else price,
        "media": _figure("media", o, say),
    }


def rows(options: Sequence[Option], columns: Sequence[str], say: Catalogue) -> Table:
    """Return a table with a head and a line per option, without columns that are empty."""
    lines = [row(o, say) for o in options]
    shown = [c for c in columns if any(line[c] for line in lines)]
    return [[say(c) for c in shown], *([line[c] for c in shown] for line in lines)]


def thousandths(o: Option) -> str:
    """Return the loss of an option in nats with three decimals and its range."""
    return f"{o.loss:.3f}"


def text(b: Budget, language: Language = "en") -> str:
    """Return the budget for a terminal, as far as it has room; the page and the JSON have all."""
    say = catalogue(language)
    first = verdict(b, say)
    columns = max(documents.cells(label) for label, _ in first) + 2
    lines = [
        f"{title(b, say)}  ({say('ranges')})",
        "",
        documents.labelled(first, columns),
        "",
        say(f"engines {b.engines}"),
    ]
    for aim, ranks in b.aims.items():
        lines += ["", say(f"aim {aim}"), *aligned(_ranks(b, aim, ranks, say))]
    for heading, options in _tables(b).items():
        lines += ["", say(heading), *aligned(rows(options, NARROW, say))]
    lines += [f"  {name}: {say.translate(why)}" for name, why in b.left_out.items()]
    note, *others = _notes(b, say)
    yours = [others.pop(0)] if b.cluster.yours else []
    return "\n".join([*lines, "", *yours, note, *others])


def _tables(b: Budget) -> dict[str, tuple[Option, ...]]:
    """Return the options by the key of their table's heading, without empty tables."""
    tables = {"budget five": b.systems, "budget ladder": b.ladder}
    return {heading: options for heading, options in tables.items() if options}


def _notes(b: Budget, say: Catalogue) -> list[str]:
    """Return notes on what all figures are based on, what the user says of the cluster, and what
    laws and real runs advise."""
    rests = say(
        "budget note",
        most=number(MOST_TOKENS),
        speed=f"{serving_cost.TOKENS_PER_S:g}",
        context=f"{serving_cost.CONTEXT:,}",
        busy=share(serving_cost.BUSY),
    )
    yours = b.cluster.yours
    laws = (f"{law} {number(n)} × {number(d)}" for law, (n, d) in b.optimal.items())
    real = (f"{name} {count:,}" for name, count in loss.TOKENS_PER_ACTIVE.items())
    return [
        f"{rests} {say('assumptions')}",
        *([f"{say('cluster')}: {say.translate(*yours)}"] if yours else []),
        f"{say('optimal', flops=f'{b.flops:.1e}')}: {', '.join(laws)}",
        f"{say('real runs')}: {', '.join(real)}",
    ]


def _ranks(b: Budget, aim: str, ranks: Sequence[Rank], say: Catalogue) -> Table:
    """Return a table with a head and a line per system: place, figure, probabilities."""
    systems = {o.name: o for o in b.systems}
    places = [r.place for r in ranks]
    price = ranks and systems[ranks[0].name].serving.usd_per_million_tokens
    unit = {"loss": "nats", "operate": "usd a million" if price else "gpu seconds"}.get(aim, aim)
    head = ["rank", "system", unit, "best probability", "beats"]
    if aim == "media":
        head.append("done probability")
    lines = [list(map(say, head))]
    for r in ranks:
        o = systems[r.name]
        figure = _figure(aim, o, say)
        line = [
            f"{r.place} ({say('tie')})" if places.count(r.place) > 1 else str(r.place),
            o.title,
            f"{len(o.plan.media)}: {figure}" if aim == "media" else figure,
            f"{r.first:.0%}",
            "" if r.win_probability is None else f"{r.win_probability:.0%}",
        ]
        if aim == "media":
            line.append(f"{o.finish:.0%}")
        lines.append(line)
    return lines


def page_of(b: Budget, language: Language = "en", command: str = "") -> str:
    """Return the budget as one file that needs nothing else: the verdict, the aims, and the rest
    folded."""
    say = catalogue(language)
    parts = [
        Section(say(f"aim {aim}"), tables=[_ranks(b, aim, ranks, say)], opened=aim == "loss")
        for aim, ranks in b.aims.items()
    ]
    for heading, options in _tables(b).items():
        # layouts of sizes by rule are not to be copied
        training = TRAINING if options is b.systems else TRAINING[:-1]
        tables = [rows(options, columns, say) for columns in (training, SERVING)]
        parts.append(Section(say(heading), tables=tables))
    if b.left_out:
        why = [(name, say.translate(reason)) for name, reason in b.left_out.items()]
        parts.append(Section(say("left out"), why))
    parts.append(Section(say("evidence and notes"), notes=_notes(b, say)))
    ladder, systems = (
        [(o.title, o.plan.active_params, o.loss, o.kind) for o in options]
        for options in (b.ladder, b.systems)
    )
    drawing = plots.sizes(ladder, systems, say)
    parts.append(Section(f"{say('size')}, {say('loss')}", drawing=drawing))
    if b.systems:
        parts += pictures([o.plan for o in b.systems], say)
    note = f"{say('ranges')}. {say(f'engines {b.engines}')}"
    shown = Document(title(b, say), note, verdict(b, say), parts)
    return documents.html(shown, say, command)
