"""A plan as a text and as a page, in Korean or English: one file that needs nothing else. Knows how
figures read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnuri import files
from onnuri.modality import Language
from onnuri.planner import loss as losses
from onnuri.planner import page as pages
from onnuri.planner import plots
from onnuri.planner.interval import Interval, exact
from onnuri.planner.latency import Limited
from onnuri.planner.page import Line
from onnuri.planner.parallel import to_string
from onnuri.planner.plan import Plan, StagePlan
from onnuri.planner.search import Candidate
from onnuri.planner.words import ours, say

Section = tuple[str, list[Line]]
"""a heading, and lines under it"""


def number(x: float) -> str:
    """Three digits that count, and letters for thousands and more."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(x) >= size * 0.9995:
            return f"{x / size:.3g}{letter}" if x < 999.5 * size else f"{x / size:,.0f}{letter}"
    return f"{x:,.0f}" if abs(x) >= 99.95 else f"{x:.3g}"


def between(
    i: Interval | None,
    scale: float = 1.0,
    unit: str = "",
    before: str = "",
    language: Language = "en",
) -> str:
    """`12 (10 – 15) GiB`."""
    if i is None:
        return say("none", language)
    low, mid, high = (number(x * scale) for x in (i.low, i.mid, i.high))
    if low == high:  # what was asked for has no range
        return f"{before}{mid}{' ' * bool(unit)}{unit}"
    return f"{before}{mid} ({low} – {high}){' ' * bool(unit)}{unit}"


def share(i: Interval) -> str:
    return f"{i.mid:.0%} ({i.low * 100:.0f} – {i.high * 100:.0f})"


def duration(seconds: float, language: Language) -> str:
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return say(unit, language, count=f"{seconds / size:.0f}")
    return say("second", language, count=f"{seconds:.0f}")


def milliseconds(i: Interval) -> str:
    return between(i, scale=1e3, unit="ms")


def runs(engine: str | None, language: Language) -> str:
    return say("engine", language, engine=engine) if engine else say("runnable", language)


def text(p: Plan, language: Language = "en") -> str:
    """The plan for a terminal: the verdict, then every figure."""
    first, rest = verdict(p, language), [line for _, rows in sections(p, language) for line in rows]
    wide = max(cells(label) for label, _ in (*first, *rest)) + 2
    head = f"{titled(p, language)}  ({say('ranges', language)})"
    return "\n\n".join([head, *(labelled(rows, wide) for rows in (first, rest))])


def labelled(rows: list[Line], wide: int) -> str:
    """Lines whose values stand under each other."""
    return "\n".join(
        f"  {label}{' ' * (wide - cells(label))}{value}".rstrip() for label, value in rows
    )


def titled(p: Plan, language: Language) -> str:
    """The model and the GPUs that are used."""
    key = "on" if p.cluster.gpus == p.gpus_given else "on fewer"
    return say(
        key,
        language,
        title=p.title,
        gpus=f"{p.cluster.gpus:,}",
        gpu=p.cluster.gpu,
        given=f"{p.gpus_given:,}",
    )


def cells(word: str) -> int:
    """Hangul takes two columns."""
    return sum(2 if "ᄀ" <= c <= "ᇿ" or "가" <= c <= "힣" else 1 for c in word)


def verdict(p: Plan, language: Language) -> list[Line]:
    """What to decide by: fits, tokens, days, dollars, loss, and the one thing that limits."""
    v = p.verdict
    held = say(
        "fits" if v.fits else "fits not",
        language,
        memory=between(p.memory_gib, unit="GiB"),
        odds=percent(v.fits_likely),
        capacity=number(p.capacity_gib),
    )
    rows = [("fits?", held)]
    if p.fewest:
        rows.append(("fewest GPUs", _fewest(p, language)))
    ends = {
        "days": say("until day", language, days=number(p.days_wanted or 0)),
        "usd": say("until usd", language, usd=number(p.usd_wanted or 0)),
    }
    rows.append(("tokens trained", between(v.tokens) + ends.get(v.edge, "")))
    if v.likely is not None:
        rows.append(("how likely", _likely(p, language)))
    rows += [
        ("days", between(v.days)),
        ("cost", between(v.usd, before="$", language=language)),
        ("loss", f"{v.loss:.3f} {say('nats', language)}" if v.loss else say("no law", language)),
        ("limited by", _limit(p, language)),
    ]
    if p.limited:
        rows.append(("limits of latency", limited(p.limited, language)))
    warned = [(say("first", language), ours(warning, language)) for warning in p.warnings]
    return [*warned, *((say(key, language), value) for key, value in rows), *_beside(p, language)]


def percent(odds: float) -> str:
    """A probability; what is not certain is never called so."""
    return "> 99 %" if odds > 0.995 else "< 1 %" if odds < 0.005 else f"{odds * 100:.0f} %"


def _likely(p: Plan, language: Language) -> str:
    """Probabilities of all tokens that were wanted, by the day and for the dollars that were
    given."""
    edges = {"days": number(p.days_wanted or 0), "usd": number(p.usd_wanted or 0)}
    asked = (("in time", p.in_time), ("in budget", p.in_budget))
    return "; ".join(
        f"{percent(odds)}: {say(key, language, tokens=number(p.tokens_wanted), **edges)}"
        for key, odds in asked
        if odds is not None
    )


def _limit(p: Plan, language: Language) -> str:
    v = p.verdict
    shares = ", ".join(
        f"{say('limit ' + name, language)} {share:.0%}" for name, share in list(v.hours.items())[:4]
    )
    return say("limit sentence", language, limit=say("limit " + v.limit, language), hours=shares)


def _fewest(p: Plan, language: Language) -> str:
    """The number of GPUs that was asked for, what the next lower would take, and whether the way
    there was monotone."""
    f = p.fewest
    assert f
    said = say("fewest", language, gpus=f"{f.gpus:,}", gpu=p.cluster.gpu, days=number(f.days))
    if f.less:
        took = (
            say("less takes", language, days=number(f.less_days))
            if f.less_days
            else say("less fits not", language)
        )
        said += say("fewer", language, gpus=f"{f.less:,}", took=took)
    return said + ("" if f.monotone else say("not monotone", language))


def limited(x: Limited, language: Language) -> str:
    """Serving within limits of latency, or what can be instead."""
    d = x.demand
    asked = [say("first token", language, time=f"{number(d.ttft * 1e3)} ms")] if d.ttft else []
    asked += [say("each token", language, time=f"{number(d.tpot * 1e3)} ms")] if d.tpot else []
    wanted = say(
        "demand",
        language,
        isl=f"{d.isl:,}",
        osl=f"{d.osl:,}",
        limits="".join(", " + a for a in asked),
    )
    usd = "; ".join(
        say(key, language, usd=between(i, before="$"))
        for key, i in (
            ("usd input", x.usd_per_million_input),
            ("usd output", x.usd_per_million_output),
        )
        if i
    )
    figures = say(
        "limited",
        language,
        gpus=x.gpus,
        users=f"{x.users:,.0f}",
        ttft=milliseconds(x.ttft),
        tpot=milliseconds(x.tpot),
        speed=between(x.tokens_per_s_per_gpu),
        usd="; " * bool(usd) + usd,
    )
    if not x.met:
        return f"{wanted}: {say('cannot be met', language, limit=x.bound.upper(), figures=figures)}"
    odds = say("both met", language, odds=percent(x.likely)) if d.ttft or d.tpot else ""
    return f"{wanted}: {figures}{odds}"


def sections(p: Plan, language: Language) -> list[Section]:
    """Every figure, in the order of a decision, under the headings of the page."""
    parts = (
        ("layout", _laid(p, language)),
        ("stages", _stages(p, language)),
        ("hours and energy", _hours(p, language)),
        (
            "serving",
            [
                (say("serving", language), serving(p, language)),
                (
                    say("media", language),
                    ", ".join(say(m, language) for m in p.media) or say("text", language),
                ),
            ],
        ),
        ("searched", list(_searched(p, language))),
        ("evidence and notes", _evidence(p, language)),
    )
    return [(say(key, language), rows) for key, rows in parts if rows]


def _laid(p: Plan, language: Language) -> list[Line]:
    """Layout, memory, step and speed of the largest stage."""
    main, full = (say(s.name, language) for s in (p.main, p.fullest))
    rows = [
        (
            f"{say('layout', language)} ({main})",
            f"{to_string(p.layout)}; {runs(p.engine, language)}",
        ),
        (f"{say('memory', language)} ({full})", _memory(p, language)),
        (
            f"{say('step', language)} ({main})",
            f"{between(p.step_seconds, unit='s')}: {_step(p, language)}",
        ),
    ]
    hidden = [
        f"{say(s.name, language)} {number(s.overlapped_seconds)} s"
        for s in p.step
        if s.overlapped_seconds > 0.001 * p.step_seconds.mid
    ]
    if hidden:
        rows.append((say("hidden", language), ", ".join(hidden)))
    rows.append(
        (
            f"{say('speed', language)} ({main})",
            f"{between(p.tokens_per_s_per_gpu, unit=say('tokens/s/GPU', language))}, MFU {share(p.mfu)}",
        )
    )
    return rows


def _stages(p: Plan, language: Language) -> list[Line]:
    return [
        (f"{say('stage', language)}: {say(s.name, language)}", _stage(p, s, language))
        for s in p.stages
    ]


def _hours(p: Plan, language: Language) -> list[Line]:
    """Failures, GPU hours, energy."""
    good = p.goodput
    failing = say(
        "failures",
        language,
        hours=between(good.mttf_hours),
        every=duration(good.checkpoint_seconds, language),
    )
    rows = [("goodput", f"{share(good.share)}; {failing}")]
    if p.encoding_gpu_hours:
        rows.append(("encoding", between(p.encoding_gpu_hours, unit=say("gpu hours", language))))
    rows += [
        ("gpu hours", between(p.gpu_hours)),
        ("energy", between(p.bill.energy_mwh, unit="MWh", language=language)),
    ]
    return [(say(key, language), value) for key, value in rows]


def _evidence(p: Plan, language: Language) -> list[Line]:
    """Notes, and what each figure leans on."""
    rows = [(say("notes", language), ours("; ".join(p.notes), language))] if p.notes else []
    return rows + [
        (
            f"{say('evidence', language)}: {say(figure, language)}",
            ours("; ".join(sources), language),
        )
        for figure, sources in p.evidence.items()
    ]


def _beside(p: Plan, language: Language) -> Iterator[Line]:
    """What runs here and the fastest of another engine, one under the other, where the second is
    much faster."""
    if p.faster is None:
        return
    fast, main = p.faster, p.main
    gain = fast.tokens_per_s_per_gpu.mid / main.tokens_per_s_per_gpu.mid
    for label, layout, speed, times, gib in (
        (say("side here", language), main.layout, main.tokens_per_s_per_gpu, 1.0, main.memory_gib),
        (
            say("side other", language, engine=fast.engine),
            fast.layout,
            fast.tokens_per_s_per_gpu,
            gain,
            fast.memory_gib,
        ),
    ):
        days = f"{number(main.days.mid / times)} {say('d', language)}"
        mfu = f"{p.mfu.mid * times:.0%}"
        yield (
            f"  {label}",
            say(
                "side",
                language,
                speed=between(speed, unit=say("tokens/s/GPU", language)),
                mfu=mfu,
                stage=say(main.name, language),
                days=days,
                gib=number(gib),
                layout=to_string(layout),
            ),
        )


def _stage(p: Plan, s: StagePlan, language: Language) -> str:
    other = "" if s.layout == p.layout else f"; {to_string(s.layout)}; {runs(s.engine, language)}"
    took = between(
        s.days if p.verdict.edge in ("tokens", "recipe") else exact(s.days.mid),
        unit=say("d", language),
    )
    return (
        f"{say('tokens', language, tokens=number(s.tokens), sequence=f'{s.tokens_per_sequence:,}')}, "
        f"{took}, {number(s.tokens_per_s_per_gpu.mid)} {say('tokens/s/GPU', language)}, "
        f"{number(s.memory_gib)} GiB{other}"
    )


def _memory(p: Plan, language: Language) -> str:
    parts = ", ".join(
        f"{say(n, language)} {number(v)}"
        for n, v in sorted(p.memory.items(), key=lambda kv: -kv[1])
        if v > 0.005
    )
    capacity = say("of capacity", language, capacity=number(p.capacity_gib))
    return f"{between(p.memory_gib, unit='GiB')} {capacity}{'' if p.fits else ', ' + say('too large', language)}: {parts}"


def _step(p: Plan, language: Language) -> str:
    whole = sum(s.exposed_seconds for s in p.step)
    shares = ((s.name, s.exposed_seconds / whole) for s in p.step)
    return ", ".join(f"{say(name, language)} {part:.0%}" for name, part in shares if part > 0.005)


def serving(p: Plan, language: Language) -> str:
    s = p.serving
    return say(
        "instance",
        language,
        gpus=s.gpus,
        users=between(s.users),
        speed=between(s.tokens_per_s_per_gpu),
        kv=number(s.kv_bytes_per_token / 1e3),
        usd=between(s.usd_per_million_tokens, before="$", language=language),
    )


def _searched(p: Plan, language: Language) -> Iterator[Line]:
    if not p.search:
        return
    found = p.search
    yield say("search", language, layouts=f"{found.layouts:,}", seconds=found.seconds), ""
    for n, c in enumerate(found.best):
        yield f"  {n + 1}", _candidate(c, language)
    if found.here and found.here.layout not in [c.layout for c in found.best]:
        yield f"  {say('runnable', language)}", _candidate(found.here, language)
    yield (
        f"  {say('lost', language)}",
        ", ".join(f"{_reason(r, language)} {count:,}" for r, count in found.lost.items()),
    )


def _reason(key: str, language: Language) -> str:
    kind, _, part = key.partition(": ")
    return f"{say(kind, language)}: {say(part, language)}" if part else say(kind, language)


def _candidate(c: Candidate, language: Language) -> str:
    behind = say("fastest", language)
    if c.because:  # 1.00 times slower says nothing
        behind = (
            say("as fast", language)
            if c.slower < 1.005
            else say("slower by", language, times=c.slower, because=say(c.because, language))
        )
    return (
        f"{to_string(c.layout)}; {between(c.tokens_per_s_per_gpu, unit=say('tokens/s/GPU', language))}; "
        f"{say('nine in ten', language, gib=number(c.memory_gib))}; {behind}; {runs(c.engine, language)}"
    )


Counts = Sequence[dict[str, Any]]
"""systems as `recipes.summary` counts them"""


def write(
    p: Plan,
    json: Path | None = None,
    html: Path | None = None,
    language: Language = "en",
    systems: Counts = (),
    command: str = "",
) -> None:
    """Print it, and write what was asked for; `systems` stand beside the plan in the page's drawing
    of sizes, `command` is the one that makes the page anew."""
    for path in (json, html):
        files.check_place(path)
    print(text(p, language))
    if json:
        files.write_json(p.to_json(), json)
    if html:
        files.write_bytes(page_of(p, language, systems=systems, command=command).encode(), html)


def write_recipes(rows: list[dict[str, Any]], json: Path | None = None) -> None:
    """The systems' counts beside what their teams published."""
    files.check_place(json)
    print(f"{'recipe':<18}{'total':>10}{'active':>10}{'published total':>18}{'active':>10}")
    for r in rows:
        print(
            f"{r['recipe']:<18}"
            + "".join(
                f"{number(r[key]) if r[key] else 'unknown':>{wide}}"
                for key, wide in (
                    ("total_params", 10),
                    ("active_params", 10),
                    ("published_total", 18),
                    ("published_active", 10),
                )
            )
        )
    if json:
        files.write_json(rows, json)


# ---- pages


def page_of(
    p: Plan, language: Language = "en", whole: bool = True, systems: Counts = (), command: str = ""
) -> str:
    """The plan as a page, or (`whole` False) as a part of a notebook: the verdict, and the rest
    folded."""
    body = [
        f'<p class="note">{say("ranges", language)}</p>',
        pages.verdict(verdict(p, language)),
        pages.command(command, language),
    ]
    body += [
        pages.folded(heading, pages.facts(rows), opened=n == 0)
        for n, (heading, rows) in enumerate(sections(p, language))
    ]
    body += [pictures([p], language), sizes(p, systems, language)]
    return pages.page(titled(p, language), "".join(body), language, whole)


def sizes(p: Plan, systems: Counts, language: Language) -> str:
    """Loss of other sizes for the same products: dense ones, mixtures of ten times their active
    parameters, the systems."""

    def points(kind: str, of: Sequence[tuple[str, float, float]]) -> list[plots.Point]:
        losses_ = (
            (name, n, losses.expected_loss(total, n, p.tokens * p.active_params / n))
            for name, total, n in of
        )
        return [(name, n, loss, kind) for name, n, loss in losses_ if loss]

    curve = [p.active_params * 2.0**k for k in range(-4, 5)]
    made = [
        point
        for kind, ratio in (("dense", 1), ("sparse", 10))
        for point in points(kind, [("", n * ratio, n) for n in curve])
    ]
    others = [(s["recipe"], s["total_params"], s["active_params"]) for s in systems] or [
        (p.title, p.total_params, p.active_params)
    ]
    return pages.folded(
        say("same products", language),
        pages.drawing(plots.sizes(made, points("system", others), language)),
    )


def pictures(plans: list[Plan], language: Language) -> str:
    """Memory, step and checkpoints of one plan or several."""
    one = plans[0]
    label = [(p, p.title if len(plans) > 1 else "") for p in plans]
    step, unit = [(t, {s.name: s.exposed_seconds for s in p.step}) for p, t in label], "s"
    if len(plans) > 1:  # steps of different batches
        unit = say("gpu seconds", language)
        step = [
            (
                t,
                {
                    n: v / sum(parts.values()) * 1e6 / p.tokens_per_s_per_gpu.mid
                    for n, v in parts.items()
                },
            )
            for (t, parts), p in zip(step, plans)
        ]
    else:
        step = [
            (say("exposed", language), step[0][1]),
            (say("hidden", language), {s.name: s.overlapped_seconds for s in one.step}),
        ]
    memory = [(t or say(p.fullest.name, language), p.memory) for p, t in label]
    drawn = [
        ("memory", plots.bars(memory, "GiB", language, "memory", one.capacity_gib)),
        ("step", plots.bars(step, unit, language, "step")),
        (
            "goodput",
            plots.checkpoints(
                one.cluster, one.state_bytes, one.goodput.checkpoint_seconds, language
            ),
        ),
    ]
    return "".join(
        pages.folded(say("drawing", language, of=say(key, language)), pages.drawing(svg))
        for key, svg in drawn
    )
