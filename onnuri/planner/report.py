"""Write a plan as a text and as a page, in Korean or English. Knows how its figures read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnuri import files
from onnuri.modality import Language
from onnuri.planner import document as documents
from onnuri.planner import loss as losses
from onnuri.planner import plots
from onnuri.planner.document import Document, Line, Section
from onnuri.planner.figures import between, dollars, duration, milliseconds, number, percent, share
from onnuri.planner.interval import exact
from onnuri.planner.latency import Limited
from onnuri.planner.parallel import to_string
from onnuri.planner.plan_record import PlanRecord, StagePlan
from onnuri.planner.search import Candidate
from onnuri.planner.words import Catalogue, catalogue

Counts = Sequence[dict[str, Any]]
"""parameter counts of systems as `recipes.summary` returns them"""


def write(
    p: PlanRecord,
    json: Path | None = None,
    html: Path | None = None,
    language: Language = "en",
    systems: Counts = (),
    command: str = "",
) -> None:
    """Print a plan, and write it as JSON and HTML where a path is given.

    `systems` stand beside the plan in the page's drawing of sizes; `command` is the one that makes
    the page anew.
    """

    def page() -> str:
        return page_of(p, language, systems=systems, command=command)

    documents.write(text(p, language), p.to_json(), page, json, html)


def write_recipes(rows: list[dict[str, Any]], json: Path | None = None) -> None:
    """Print the systems' counts beside what their teams published."""
    files.check_place(json)
    print(f"{'recipe':<18}{'total':>10}{'active':>10}{'published total':>18}{'active':>10}")
    columns = {
        "total_params": 10,
        "active_params": 10,
        "published_total": 18,
        "published_active": 10,
    }
    for r in rows:
        counts = (
            f"{number(r[key]) if r[key] else 'unknown':>{wide}}" for key, wide in columns.items()
        )
        print(f"{r['recipe']:<18}" + "".join(counts))
    if json:
        files.write_json(rows, json)


def text(p: PlanRecord, language: Language = "en") -> str:
    """Return the plan for a terminal: the verdict, then every figure."""
    say = catalogue(language)
    first = verdict(p, say)
    rest = [line for part in sections(p, say) for line in part.facts]
    columns = max(documents.cells(label) for label, _ in (*first, *rest)) + 2
    head = f"{titled(p, say)}  ({say('ranges')})"
    return "\n\n".join([head, *(documents.labelled(rows, columns) for rows in (first, rest))])


def page_of(
    p: PlanRecord,
    language: Language = "en",
    whole: bool = True,
    systems: Counts = (),
    command: str = "",
) -> str:
    """Return the plan as a page, or (`whole` False) as a part of a notebook: the verdict, and the
    rest folded."""
    say = catalogue(language)
    parts = [*sections(p, say), *pictures([p], say), sizes(p, systems, say)]
    shown = Document(titled(p, say), say("ranges"), verdict(p, say), parts)
    return documents.html(shown, say, command, whole)


def titled(p: PlanRecord, say: Catalogue) -> str:
    """Return the plan's title: the model, and the number and kind of GPUs that are used."""
    return say(
        "on" if p.cluster.gpus == p.gpus_given else "on fewer",
        title=p.title,
        gpus=f"{p.cluster.gpus:,}",
        gpu=p.cluster.gpu,
        given=f"{p.gpus_given:,}",
    )


# ---- the verdict


def verdict(p: PlanRecord, say: Catalogue) -> list[Line]:
    """Return what to decide by: fits, tokens, days, dollars, loss, and the one thing that
    limits."""
    v = p.verdict
    fits = say(
        "fits" if v.fits else "fits not",
        memory=between(p.memory_gib, "GiB"),
        odds=percent(v.fits_likely),
        capacity=number(p.capacity_gib),
    )
    wanted = {"days": number(p.days_wanted or 0), "usd": number(p.usd_wanted or 0)}
    until = {"days": "until day", "usd": "until usd"}.get(v.edge, "")
    rows = {
        "fits?": fits,
        "fewest GPUs": _fewest(p, say),
        "tokens trained": between(v.tokens) + say(until, **wanted),
        "how likely": _likely(p, wanted, say),
        "days": between(v.days),
        "cost": dollars(v.usd, say),
        "loss": f"{v.loss:.3f} {say('nats')}" if v.loss else say("no law"),
        "limited by": _limit(p, say),
        "limits of latency": limited(p.limited, say) if p.limited else "",
    }
    warned = [(say("first"), say.translate(warning)) for warning in p.warnings]
    return [*warned, *_lines(rows, say), *_beside(p, say)]


def _lines(rows: Mapping[str, str], say: Catalogue) -> list[Line]:
    """Return lines with their labels translated, without those that are empty."""
    return [(say(key), value) for key, value in rows.items() if value]


def _likely(p: PlanRecord, wanted: Mapping[str, str], say: Catalogue) -> str:
    """Return the probabilities that all wanted tokens are trained by the day and for the
    dollars."""
    odds = {"in time": p.in_time, "in budget": p.in_budget}
    return "; ".join(
        f"{percent(chance)}: {say(key, tokens=number(p.tokens_wanted), **wanted)}"
        for key, chance in odds.items()
        if chance is not None
    )


def _limit(p: PlanRecord, say: Catalogue) -> str:
    """Return the sentence that names what limits the plan, and the four largest uses of its
    hours."""
    hours = list(p.verdict.hours.items())[:4]
    shares = ", ".join(f"{say('limit ' + name)} {part:.0%}" for name, part in hours)
    return say("limit sentence", limit=say("limit " + p.verdict.limit), hours=shares)


def _fewest(p: PlanRecord, say: Catalogue) -> str:
    """Return the number of GPUs where the user asked for it, what the next lower would take, and
    whether the way there was monotone."""
    f = p.fewest
    if f is None:
        return ""
    sentence = say("fewest", gpus=f"{f.gpus:,}", gpu=p.cluster.gpu, days=number(f.days))
    if f.less:
        days = f.less_days
        consequence = say("less takes", days=number(days)) if days else say("less fits not")
        sentence += say("fewer", gpus=f"{f.less:,}", took=consequence)
    return sentence if f.monotone else sentence + say("not monotone")


def limited(x: Limited, say: Catalogue) -> str:
    """Return serving within limits of latency, or the best that is possible where they cannot be
    met."""
    d = x.demand
    limits = {"first token": d.ttft, "each token": d.tpot}
    wanted = say(
        "demand",
        isl=f"{d.isl:,}",
        osl=f"{d.osl:,}",
        limits="".join(
            f", {say(key, time=f'{number(seconds * 1e3)} ms')}"
            for key, seconds in limits.items()
            if seconds
        ),
    )
    prices = {"usd input": x.usd_per_million_input, "usd output": x.usd_per_million_output}
    figures = say(
        "limited",
        gpus=x.gpus,
        users=f"{x.users:,.0f}",
        ttft=milliseconds(x.ttft),
        tpot=milliseconds(x.tpot),
        speed=between(x.tokens_per_s_per_gpu),
        usd="".join(f"; {say(key, usd=between(i, before='$'))}" for key, i in prices.items() if i),
    )
    if not x.met:
        return f"{wanted}: {say('cannot be met', limit=x.bound.upper(), figures=figures)}"
    odds = say("both met", odds=percent(x.likely)) if d.ttft or d.tpot else ""
    return f"{wanted}: {figures}{odds}"


def _beside(p: PlanRecord, say: Catalogue) -> Iterator[Line]:
    """Yield the layout that Onnuri's trainer runs and the fastest of another engine, one under the
    other, where the second is much faster."""
    if p.faster is None:
        return
    main, fast = p.main, p.faster
    gain = fast.tokens_per_s_per_gpu.mid / main.tokens_per_s_per_gpu.mid
    other = say("side other", engine=fast.engine)
    for label, side, times in ((say("side here"), main, 1.0), (other, fast, gain)):
        sentence = say(
            "side",
            speed=between(side.tokens_per_s_per_gpu, say("tokens/s/GPU")),
            mfu=f"{p.mfu.mid * times:.0%}",
            stage=say(main.name),
            days=f"{number(main.days.mid / times)} {say('d')}",
            gib=number(side.memory_gib),
            layout=to_string(side.layout),
        )
        yield f"  {label}", sentence


# ---- every figure


def sections(p: PlanRecord, say: Catalogue) -> list[Section]:
    """Return every figure, in the order of a decision, under the headings of the page."""
    parts = {
        "layout": _layout_lines(p, say),
        "stages": [
            (f"{say('stage')}: {say(stage.name)}", _stage(p, stage, say)) for stage in p.stages
        ],
        "hours and energy": _hours(p, say),
        "serving": _lines(
            {"serving": serving(p, say), "media": ", ".join(map(say, p.media)) or say("text")}, say
        ),
        "searched": list(_searched(p, say)),
        "evidence and notes": _evidence(p, say),
    }
    return [
        Section(say(key), facts, opened=key == "layout") for key, facts in parts.items() if facts
    ]


def _layout_lines(p: PlanRecord, say: Catalogue) -> list[Line]:
    """Return the lines on layout, memory, step and speed of the largest stage."""
    main, full = say(p.main.name), say(p.fullest.name)
    hidden = [
        f"{say(s.name)} {number(s.overlapped_seconds)} s"
        for s in p.step
        if s.overlapped_seconds > 0.001 * p.step_seconds.mid
    ]
    speed = between(p.tokens_per_s_per_gpu, say("tokens/s/GPU"))
    rows = {
        f"{say('layout')} ({main})": f"{to_string(p.layout)}; {runs(p.engine, say)}",
        f"{say('memory')} ({full})": _memory(p, say),
        f"{say('step')} ({main})": f"{between(p.step_seconds, 's')}: {_step(p, say)}",
        "hidden": ", ".join(hidden),
        f"{say('speed')} ({main})": f"{speed}, MFU {share(p.mfu)}",
    }
    return _lines(rows, say)


def runs(engine: str | None, say: Catalogue) -> str:
    """Return whether Onnuri's trainer runs a layout, or the engine that it needs."""
    return say("engine", engine=engine) if engine else say("runnable")


def _memory(p: PlanRecord, say: Catalogue) -> str:
    """Return the GiB of the fullest GPU with its range, the capacity and the parts, the largest
    first."""
    largest = sorted(p.memory.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{say(name)} {number(gib)}" for name, gib in largest if gib > 0.005)
    capacity = say("of capacity", capacity=number(p.capacity_gib))
    over = "" if p.fits else f", {say('too large')}"
    return f"{between(p.memory_gib, 'GiB')} {capacity}{over}: {parts}"


def _step(p: PlanRecord, say: Catalogue) -> str:
    """Return the parts of a step as percents, without those below half a percent."""
    total = sum(s.exposed_seconds for s in p.step)
    shares = ((s.name, s.exposed_seconds / total) for s in p.step)
    return ", ".join(f"{say(name)} {part:.0%}" for name, part in shares if part > 0.005)


def _stage(p: PlanRecord, s: StagePlan, say: Catalogue) -> str:
    """Return one stage's tokens, days, speed and memory, and its layout where it is not the
    plan's."""
    other = "" if s.layout == p.layout else f"; {to_string(s.layout)}; {runs(s.engine, say)}"
    days = s.days if p.verdict.edge in ("tokens", "recipe") else exact(s.days.mid)
    return (
        f"{say('tokens', tokens=number(s.tokens), sequence=f'{s.tokens_per_sequence:,}')}, "
        f"{between(days, say('d'))}, {number(s.tokens_per_s_per_gpu.mid)} {say('tokens/s/GPU')}, "
        f"{number(s.memory_gib)} GiB{other}"
    )


def _hours(p: PlanRecord, say: Catalogue) -> list[Line]:
    """Return the lines of the report on failures, GPU hours and energy."""
    good, energy, encoding = p.goodput, p.bill.energy_mwh, p.encoding_gpu_hours
    failing = say(
        "failures", hours=between(good.mttf_hours), every=duration(good.checkpoint_seconds, say)
    )
    rows = {
        "goodput": f"{share(good.share)}; {failing}",
        "encoding": between(encoding, say("gpu hours")) if encoding else "",
        "gpu hours": between(p.gpu_hours),
        "energy": between(energy, "MWh") if energy else say("none"),
    }
    return _lines(rows, say)


def serving(p: PlanRecord, say: Catalogue) -> str:
    """Return one line on what an instance of GPUs serves: users, tokens per second, cache and
    dollars."""
    s = p.serving
    return say(
        "instance",
        gpus=s.gpus,
        users=between(s.users),
        speed=between(s.tokens_per_s_per_gpu),
        kv=number(s.kv_bytes_per_token / 1e3),
        usd=dollars(s.usd_per_million_tokens, say),
    )


def _searched(p: PlanRecord, say: Catalogue) -> Iterator[Line]:
    """Yield the lines on the search: how many layouts, the best, and why the others lost."""
    search = p.search
    if search is None:
        return
    yield say("search", layouts=f"{search.layouts:,}", seconds=search.seconds), ""
    for n, candidate in enumerate(search.best):
        yield f"  {n + 1}", _candidate(candidate, say)
    if search.here and search.here.layout not in [c.layout for c in search.best]:
        yield f"  {say('runnable')}", _candidate(search.here, say)
    reasons = (f"{_reason(key, say)} {count:,}" for key, count in search.lost.items())
    yield f"  {say('lost')}", ", ".join(reasons)


def _reason(key: str, say: Catalogue) -> str:
    """Return why layouts lost, with both sides of its colon translated."""
    return ": ".join(map(say, key.split(": ")))


def _candidate(c: Candidate, say: Catalogue) -> str:
    """Return one layout with its speed, memory, distance to the fastest and engine."""
    behind = say("fastest")
    if c.because and c.slower < 1.005:  # 1.00 times slower says nothing
        behind = say("as fast")
    elif c.because:
        behind = say("slower by", times=c.slower, because=say(c.because))
    return (
        f"{to_string(c.layout)}; {between(c.tokens_per_s_per_gpu, say('tokens/s/GPU'))}; "
        f"{say('nine in ten', gib=number(c.memory_gib))}; {behind}; {runs(c.engine, say)}"
    )


def _evidence(p: PlanRecord, say: Catalogue) -> list[Line]:
    """Return the lines of notes, and of what each figure is based on."""
    rows = {"notes": p.notes} if p.notes else {}
    rows |= {f"{say('evidence')}: {say(key)}": sources for key, sources in p.evidence.items()}
    return [(say(label), say.translate(*sentences)) for label, sentences in rows.items()]


# ---- drawings


def pictures(plans: Sequence[PlanRecord], say: Catalogue) -> list[Section]:
    """Return drawings of memory, step and checkpoints of one plan or several."""
    one, unit = plans[0], "s"
    exposed = {p.title: {s.name: s.exposed_seconds for s in p.step} for p in plans}
    if len(plans) == 1:
        memory = [(say(one.fullest.name), one.memory)]
        overlapped = {s.name: s.overlapped_seconds for s in one.step}
        step = [(say("exposed"), exposed[one.title]), (say("hidden"), overlapped)]
    else:  # steps of different batches
        unit, memory = say("gpu seconds"), [(p.title, p.memory) for p in plans]
        step = [(p.title, _per_million_tokens(p, exposed[p.title])) for p in plans]
    drawings = {
        "memory": plots.bars(memory, "GiB", say, "memory", one.capacity_gib),
        "step": plots.bars(step, unit, say, "step"),
        "goodput": plots.checkpoints(
            one.cluster, one.state_bytes, one.goodput.checkpoint_seconds, say
        ),
    }
    return [Section(say("drawing", of=say(key)), drawing=svg) for key, svg in drawings.items()]


def _per_million_tokens(p: PlanRecord, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the GPU seconds per million tokens by part of a step."""
    total = sum(seconds.values())
    return {name: part / total * 1e6 / p.tokens_per_s_per_gpu.mid for name, part in seconds.items()}


def sizes(p: PlanRecord, systems: Counts, say: Catalogue) -> Section:
    """Return a drawing of the loss of other sizes for the same training FLOPs: dense ones, mixtures
    of ten times their active parameters, the systems."""

    def point(kind: str, name: str, total: float, active: float) -> Iterator[plots.Point]:
        """Yield the point of a model in the drawing, if a law of loss holds for it."""
        loss = losses.expected_loss(total, active, p.tokens * p.active_params / active)
        if loss:
            yield name, active, loss, kind

    curve = [p.active_params * 2.0**k for k in range(-4, 5)]
    ladder = [
        each
        for kind, ratio in (("dense", 1), ("sparse", 10))
        for active in curve
        for each in point(kind, "", active * ratio, active)
    ]
    counted = [(s["recipe"], s["total_params"], s["active_params"]) for s in systems]
    others = counted or [(p.title, p.total_params, p.active_params)]
    marked = [each for model in others for each in point("system", *model)]
    return Section(say("same products"), drawing=plots.sizes(ladder, marked, say))
