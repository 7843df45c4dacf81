"""A budget as tables for a terminal and as a page, in Korean or English. Knows how figures read;
`budget.py` has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnuri import files
from onnuri.modality import Language
from onnuri.planner import loss, page, plots, serving_cost
from onnuri.planner.budget import MOST_TOKENS, Budget, Option, cost
from onnuri.planner.cost import bill
from onnuri.planner.interval import exact
from onnuri.planner.parallel import to_string
from onnuri.planner.report import between, cells, labelled, number, percent, pictures, runs, share
from onnuri.planner.words import ours, say

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
"""what a terminal has room for"""


def write(
    b: Budget,
    json: Path | None = None,
    html: Path | None = None,
    language: Language = "en",
    command: str = "",
) -> None:
    """Print it, and write what was asked for; `command` is the one that makes the page anew."""
    for path in (json, html):
        files.check_place(path)
    print(text(b, language))
    if json:
        files.write_json({"verdict": decided(b), **b.to_json()}, json)
    if html:
        files.write_bytes(page_of(b, language, command).encode(), html)


def title(b: Budget, language: Language) -> str:
    return say("budget", language, gpu=b.cluster.gpu, gpus=f"{b.cluster.gpus:,}", days=b.days)


def decided(b: Budget) -> dict[str, Any]:
    """The verdict in the JSON, in no language."""
    whole = bill(b.cluster.kind, exact(b.days * 24 * b.cluster.gpus)).usd
    return {
        **{aim: ranks[0].name for aim, ranks in b.aims.items()},
        "usd": whole.to_json() if whole else None,
        "finish": {o.name: o.finish for o in b.systems},
    }


def verdict(b: Budget, language: Language) -> list[tuple[str, str]]:
    """What to decide by: the first under each aim, what finishes its own plan, and what all of it
    costs."""
    by, rows = {o.name: o for o in b.systems}, list[tuple[str, str]]()
    for aim, key in (("loss", "lowest loss"), ("operate", "cheapest"), ("media", "most media")):
        if ranks := b.aims.get(aim):
            tied = sum(r.place == ranks[0].place for r in ranks) - 1
            tie = say("tied with", language, count=tied) if tied else ""
            o = by[ranks[0].name]
            figure = {
                "loss": thousandths(o),
                "operate": between(cost(o), before="$" * bool(o.serving.usd_per_million_tokens)),
                "media": ", ".join(say(m, language) for m in o.plan.media),
            }[aim]
            rows.append(
                (
                    say(key, language),
                    say(
                        "first of",
                        language,
                        title=o.title,
                        figure=figure,
                        tie=tie,
                        odds=percent(ranks[0].first),
                    ),
                )
            )
    if not b.systems:
        rows.append((say("system", language), say("not systems", language)))
    done = ", ".join(f"{o.title} {percent(o.finish)}" for o in b.systems if o.finish >= 0.5)
    rows.append((say("finished", language), done or say("none of them", language)))
    hours = exact(b.days * 24 * b.cluster.gpus)
    rows.append(
        (
            say("whole budget", language),
            between(bill(b.cluster.kind, hours).usd, before="$", language=language),
        )
    )
    return rows


def row(o: Option, language: Language) -> dict[str, str]:
    """One option, column by column."""
    p, s = o.plan, o.serving
    return {
        "system": o.title,
        "params": number(p.total_params)
        + (f" / {number(p.active_params)}" if p.active_params < p.total_params else ""),
        "tokens by then": between(o.tokens),
        "tokens per active": number(o.tokens.mid / p.active_params),
        "loss by then": thousandths(o),
        "finish": f"{o.finish:.0%}",
        "days needed": between(o.days_needed),
        "trains": between(p.tokens_per_s_per_gpu),
        "cost": between(p.bill.usd, before="$", language=language),
        "layout": f"{to_string(p.layout).replace(',', ', ')}; {runs(p.engine, language)}",
        "serve gpus": f"{s.fewest_gpus} – {s.gpus}" if s.gpus > s.fewest_gpus else str(s.gpus),
        "tokens/s/GPU": between(s.tokens_per_s_per_gpu),
        "KV": number(s.kv_bytes_per_token),
        "users a node": between(s.users_per_node),
        "usd a million": between(cost(o), before="$") if s.usd_per_million_tokens else "",
        "gpu seconds": "" if s.usd_per_million_tokens else between(cost(o)),
        "media": ", ".join(say(m, language) for m in p.media),
    }


def rows(
    options: tuple[Option, ...], columns: tuple[str, ...], language: Language
) -> list[list[str]]:
    """Without columns in which nothing stands."""
    made = [row(o, language) for o in options]
    shown = [c for c in columns if any(r[c] for r in made)]
    return [[say(c, language) for c in shown], *([r[c] for c in shown] for r in made)]


def thousandths(o: Option) -> str:
    return f"{o.loss.mid:.3f} ({o.loss.low:.3f} – {o.loss.high:.3f})"


def text(b: Budget, language: Language = "en") -> str:
    """What a terminal has room for; the page and the JSON have all."""
    first = verdict(b, language)
    said = [
        f"{title(b, language)}  ({say('ranges', language)})",
        "",
        labelled(first, max(cells(k) for k, _ in first) + 2),
        "",
        say(f"engines {b.engines}", language),
    ]
    for aim in b.aims:
        said += ["", say(f"aim {aim}", language), *aligned(_ranks(b, aim, language))]
    for heading, options in _tables(b):
        said += ["", say(heading, language), *aligned(rows(options, NARROW, language))]
    said += [f"  {name}: {ours(why, language)}" for name, why in b.left_out.items()]
    said += [
        "",
        *(f"{say('cluster', language)}: {ours('; '.join(b.cluster.yours), language)}",)
        * bool(b.cluster.yours),
    ]
    return "\n".join([*said, _note(language), _advice(b, language), _real(language)])


def _tables(b: Budget) -> list[tuple[str, tuple[Option, ...]]]:
    """Headings of tables in which something stands."""
    return [
        (h, options)
        for h, options in (("budget five", b.systems), ("budget ladder", b.ladder))
        if options
    ]


def _note(language: Language) -> str:
    """What all figures rest on."""
    return " ".join(
        (
            say(
                "budget note",
                language,
                most=number(MOST_TOKENS),
                speed=f"{serving_cost.TOKENS_PER_S:g}",
                context=f"{serving_cost.CONTEXT:,}",
                busy=share(serving_cost.BUSY),
            ),
            say("assumptions", language),
        )
    )


def aligned(lines: list[list[str]]) -> list[str]:
    """Columns under each other."""
    wide = [max(cells(line[n]) for line in lines) for n in range(len(lines[0]))] if lines else []
    return [
        "  " + "  ".join(cell + " " * (w - cells(cell)) for cell, w in zip(line, wide)).rstrip()
        for line in lines
    ]


def _ranks(b: Budget, aim: str, language: Language) -> list[list[str]]:
    """A head, and a line a system: place, figure, probabilities."""
    by, ranks = {o.name: o for o in b.systems}, b.aims[aim]
    shared = {r.place for r in ranks if sum(other.place == r.place for other in ranks) > 1}
    price = ranks and by[ranks[0].name].serving.usd_per_million_tokens
    unit = {
        "loss": "nats",
        "operate": "usd a million" if price else "gpu seconds",
        "media": "media",
    }[aim]
    head = (
        "rank",
        "system",
        unit,
        "best probability",
        "beats",
        *["done probability"] * (aim == "media"),
    )
    found = [[say(k, language) for k in head]]
    for r in ranks:
        o = by[r.name]
        figure = {
            "loss": thousandths(o),
            "operate": between(cost(o), before="$" * bool(price)),
            "media": f"{len(o.plan.media)}: " + ", ".join(say(m, language) for m in o.plan.media),
        }[aim]
        tie = f" ({say('tie', language)})" if r.place in shared else ""
        found.append(
            [
                f"{r.place}{tie}",
                o.title,
                figure,
                f"{r.first:.0%}",
                "" if r.beats is None else f"{r.beats:.0%}",
                *[f"{o.finish:.0%}"] * (aim == "media"),
            ]
        )
    return found


def _advice(b: Budget, language: Language) -> str:
    sizes = ", ".join(f"{law} {number(n)} × {number(d)}" for law, (n, d) in b.optimal.items())
    return f"{say('optimal', language, flops=f'{b.flops:.1e}')}: {sizes}"


def _real(language: Language) -> str:
    runs = ", ".join(f"{name} {count:,}" for name, count in loss.TOKENS_PER_ACTIVE.items())
    return f"{say('real runs', language)}: {runs}"


def page_of(b: Budget, language: Language = "en", command: str = "") -> str:
    """One file that needs nothing else: the verdict, the aims, and the rest folded."""
    body = [
        f'<p class="note">{say("ranges", language)}. {say(f"engines {b.engines}", language)}</p>',
        page.verdict(verdict(b, language)),
        page.command(command, language),
    ]
    for aim in b.aims:
        body.append(
            page.folded(
                say(f"aim {aim}", language),
                page.table(_ranks(b, aim, language)),
                opened=aim == "loss",
            )
        )
    for heading, options in _tables(b):
        training = (
            TRAINING if options is b.systems else TRAINING[:-1]
        )  # sizes by rule are not to be copied
        tables = (page.table(rows(options, columns, language)) for columns in (training, SERVING))
        body.append(page.folded(say(heading, language), "".join(tables)))
    if b.left_out:
        why = [(name, ours(why, language)) for name, why in b.left_out.items()]
        body.append(page.folded(say("left out", language), page.facts(why)))
    yours = [f"{say('cluster', language)}: {ours('; '.join(b.cluster.yours), language)}"] * bool(
        b.cluster.yours
    )
    notes = "<br>".join([_note(language), *yours, _advice(b, language), _real(language)])
    body.append(page.folded(say("evidence and notes", language), f'<p class="note">{notes}</p>'))
    ladder = [(o.title, o.plan.active_params, o.loss, o.kind) for o in b.ladder]
    systems = [(o.title, o.plan.active_params, o.loss, o.kind) for o in b.systems]
    drawn = page.drawing(plots.sizes(ladder, systems, language))
    body.append(page.folded(f"{say('size', language)}, {say('loss', language)}", drawn))
    if b.systems:
        body.append(pictures([o.plan for o in b.systems], language))
    return page.page(title(b, language), "".join(body), language)
