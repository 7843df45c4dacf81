"""A plan as a text and as a page, in Korean or English: one file that needs nothing else. Knows how figures read."""

from __future__ import annotations

import html as escapes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnuri import media
from onnuri.modality import Language
from onnuri.planner import loss as losses
from onnuri.planner import plots
from onnuri.planner.interval import Interval
from onnuri.planner.layout import spelled
from onnuri.planner.plan import Plan, StagePlan
from onnuri.planner.search import Candidate
from onnuri.planner.words import ours, say

Line = tuple[str, str]
"""a label and what stands behind it"""


def number(x: float) -> str:
    """Three digits that count, and letters for thousands and more."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(x) >= size * 0.9995:
            return f"{x / size:.3g}{letter}" if x < 999.5 * size else f"{x / size:,.0f}{letter}"
    return f"{x:,.0f}" if abs(x) >= 99.95 else f"{x:.3g}"


def between(i: Interval | None, scale: float = 1.0, unit: str = "", before: str = "", language: Language = "en") -> str:
    """`12 (10 – 15) GiB`."""
    if i is None:
        return say("none", language)
    low, mid, high = (number(x * scale) for x in (i.low, i.mid, i.high))
    return f"{before}{mid} ({low} – {high}){' ' * bool(unit)}{unit}"


def share(i: Interval) -> str:
    return f"{i.mid:.0%} ({i.low * 100:.0f} – {i.high * 100:.0f})"


def duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def runs(engine: str | None, language: Language) -> str:
    return say("engine", language, engine=engine) if engine else say("runnable", language)


def text(p: Plan, language: Language = "en") -> str:
    """The plan for a terminal."""
    rows = list(lines(p, language))
    wide = max(cells(label) for label, _ in rows) + 2
    title = say("on", language, title=p.title, gpus=f"{p.cluster.gpus:,}", gpu=p.cluster.gpu)
    said = (f"  {label}{' ' * (wide - cells(label))}{value}" for label, value in rows)
    return "\n".join([f"{title}  ({say('ranges', language)})", *said])


def cells(word: str) -> int:
    """Hangul takes two columns."""
    return sum(2 if "ᄀ" <= c <= "ᇿ" or "가" <= c <= "힣" else 1 for c in word)


def lines(p: Plan, language: Language) -> Iterator[Line]:
    """Every figure, in the order of a decision."""
    def to(key: str, value: str) -> Line:
        return say(key, language), value

    main, full = (say(s.name, language) for s in (p.main, p.fullest))
    yield f"{say('layout', language)} ({main})", f"{spelled(p.layout)}; {runs(p.engine, language)}"
    yield f"{say('memory', language)} ({full})", _memory(p, language)
    yield f"{say('step', language)} ({main})", f"{between(p.step_seconds, unit='s')}: {_step(p, language)}"
    hidden = [f"{say(s.name, language)} {number(s.overlapped_seconds)} s" for s in p.step
              if s.overlapped_seconds > 0.001 * p.step_seconds.mid]
    if hidden:
        yield to("hidden", ", ".join(hidden))
    yield (f"{say('speed', language)} ({main})",
           f"{between(p.tokens_per_s_per_gpu, unit=say('tokens/s/GPU', language))}, MFU {share(p.mfu)}")
    for s in p.stages:
        yield f"{say('stage', language)}: {say(s.name, language)}", _stage(p, s, language)
    good = p.goodput
    yield to("goodput", f"{share(good.share)}; " + say("failures", language, hours=between(good.mttf_hours),
                                                      every=duration(good.checkpoint_seconds)))
    yield to("days", between(p.days))
    if p.in_time is not None:
        yield say("in time", language, tokens=number(p.tokens_wanted), days=number(p.days_wanted or 0)), f"{p.in_time:.0%}"
    if p.encoding_gpu_hours:
        yield to("encoding", between(p.encoding_gpu_hours, unit=say("gpu hours", language)))
    yield to("gpu hours", between(p.gpu_hours))
    yield to("cost", between(p.bill.usd, before="$", language=language))
    if p.in_budget is not None:
        yield say("in budget", language, tokens=number(p.tokens_wanted), usd=number(p.usd_wanted or 0)), f"{p.in_budget:.0%}"
    yield to("energy", between(p.bill.energy_mwh, unit="MWh", language=language))
    yield to("loss", f"{p.loss:.3f} {say('nats', language)}" if p.loss else say("no law", language))
    yield to("serving", serving(p, language))
    yield to("media", ", ".join(say(m, language) for m in p.media) or say("text", language))
    yield from _searched(p, language)
    if p.notes:
        yield to("notes", ours("; ".join(p.notes), language))
    for figure, sources in p.evidence.items():
        yield f"{say('evidence', language)}: {say(figure, language)}", ours("; ".join(sources), language)


def _stage(p: Plan, s: StagePlan, language: Language) -> str:
    other = "" if s.layout == p.layout else f"; {spelled(s.layout)}; {runs(s.engine, language)}"
    return (f"{say('tokens', language, tokens=number(s.tokens), sequence=f'{s.tokens_per_sequence:,}')}, "
            f"{between(s.days, unit=say('d', language))}, {number(s.tokens_per_s_per_gpu.mid)} {say('tokens/s/GPU', language)}, "
            f"{number(s.memory_gib)} GiB{other}")


def _memory(p: Plan, language: Language) -> str:
    parts = ", ".join(f"{say(n, language)} {number(v)}" for n, v in sorted(p.memory.items(), key=lambda kv: -kv[1]) if v > 0.005)
    capacity = say("of capacity", language, capacity=number(p.capacity_gib))
    return f"{between(p.memory_gib, unit='GiB')} {capacity}{'' if p.fits else ', ' + say('too large', language)}: {parts}"


def _step(p: Plan, language: Language) -> str:
    whole = sum(s.exposed_seconds for s in p.step)
    shares = ((s.name, s.exposed_seconds / whole) for s in p.step)
    return ", ".join(f"{say(name, language)} {part:.0%}" for name, part in shares if part > 0.005)


def serving(p: Plan, language: Language) -> str:
    s = p.serving
    return say("instance", language, gpus=s.gpus, users=between(s.users), speed=between(s.tokens_per_s_per_gpu),
               kv=number(s.kv_bytes_per_token / 1e3), usd=between(s.usd_per_million_tokens, before="$", language=language))


def _searched(p: Plan, language: Language) -> Iterator[Line]:
    if not p.search:
        return
    found = p.search
    yield say("search", language, layouts=f"{found.layouts:,}", seconds=found.seconds), ""
    for n, c in enumerate(found.best):
        yield f"  {n + 1}", _candidate(c, language)
    if found.here and found.here.layout not in [c.layout for c in found.best]:
        yield f"  {say('runnable', language)}", _candidate(found.here, language)
    yield f"  {say('lost', language)}", ", ".join(f"{_reason(r, language)} {count:,}" for r, count in found.lost.items())


def _reason(key: str, language: Language) -> str:
    kind, _, part = key.partition(": ")
    return f"{say(kind, language)}: {say(part, language)}" if part else say(kind, language)


def _candidate(c: Candidate, language: Language) -> str:
    behind = say("slower by", language, times=c.slower, because=say(c.because, language)) if c.because else say("fastest", language)
    return (f"{spelled(c.layout)}; {between(c.tokens_per_s_per_gpu, unit=say('tokens/s/GPU', language))}; "
            f"{say('nine in ten', language, gib=number(c.memory_gib))}; {behind}; {runs(c.engine, language)}")


Counts = Sequence[dict[str, Any]]
"""systems as `recipes.summary` counts them"""


def write(p: Plan, json: Path | None = None, html: Path | None = None, language: Language = "en", systems: Counts = ()) -> None:
    """Print it, and write what was asked for; `systems` stand beside the plan in the page's drawing of sizes."""
    for path in (json, html):
        media.check_place(path)
    print(text(p, language))
    if json:
        media.write_json(p.to_json(), json)
    if html:
        media.write_bytes(page_of(p, language, systems=systems).encode(), html)


def write_recipes(rows: list[dict[str, Any]], json: Path | None = None) -> None:
    """The systems' counts beside what their teams published."""
    media.check_place(json)
    print(f"{'recipe':<18}{'total':>10}{'active':>10}{'published total':>18}{'active':>10}")
    for r in rows:
        print(f"{r['recipe']:<18}" + "".join(
            f"{number(r[key]) if r[key] else 'unknown':>{wide}}" for key, wide in
            (("total_params", 10), ("active_params", 10), ("published_total", 18), ("published_active", 10))))
    if json:
        media.write_json(rows, json)


# ---- pages

STYLE = """:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body.onnuri,div.onnuri{font:15px/1.5 system-ui,"Noto Sans KR","Apple SD Gothic Neo","Malgun Gothic",sans-serif;max-width:70rem}
body.onnuri{margin:2rem auto;padding:0 1rem}
.onnuri h1{font-size:1.4rem;margin:0 0 .2rem}.onnuri h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
.onnuri table{border-collapse:collapse;width:100%}
.onnuri th,.onnuri td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}
.onnuri th{font-weight:600}.onnuri .wide{overflow-x:auto}.onnuri .note{opacity:.7;font-size:.9em}
.onnuri svg{max-width:100%;height:auto}.onnuri .rows td{overflow-wrap:anywhere}
.onnuri .rows th,.onnuri .range{white-space:nowrap}.onnuri small{opacity:.7}"""


def page_of(p: Plan, language: Language = "en", whole: bool = True, systems: Counts = ()) -> str:
    """The plan as a page, or (`whole` False) as a part of a notebook."""
    title = say("on", language, title=p.title, gpus=f"{p.cluster.gpus:,}", gpu=p.cluster.gpu)
    return page(title, f'<p class="note">{say("ranges", language)}</p>{facts(list(lines(p, language)))}'
                + pictures([p], language) + sizes(p, systems, language), language, whole)


def sizes(p: Plan, systems: Counts, language: Language) -> str:
    """Loss of other sizes for the same products: dense ones, mixtures of ten times their active parameters, the systems."""
    def points(kind: str, of: Sequence[tuple[str, float, float]]) -> list[plots.Point]:
        losses_ = ((name, n, losses.expected_loss(total, n, p.tokens * p.active_params / n)) for name, total, n in of)
        return [(name, n, loss, kind) for name, n, loss in losses_ if loss]

    curve = [p.active_params * 2.0**k for k in range(-4, 5)]
    made = [point for kind, ratio in (("dense", 1), ("sparse", 10)) for point in points(kind, [("", n * ratio, n) for n in curve])]
    others = [(s["recipe"], s["total_params"], s["active_params"]) for s in systems] or [(p.title, p.total_params, p.active_params)]
    return f"<h2>{say('same products', language)}</h2>{plots.sizes(made, points('system', others), language)}"


def pictures(plans: list[Plan], language: Language) -> str:
    """Memory, step and checkpoints of one plan or several."""
    one = plans[0]
    label = [(p, p.title if len(plans) > 1 else "") for p in plans]
    step, unit = [(t, {s.name: s.exposed_seconds for s in p.step}) for p, t in label], "s"
    if len(plans) > 1:  # steps of different batches
        unit = say("gpu seconds", language)
        step = [(t, {n: v / sum(parts.values()) * 1e6 / p.tokens_per_s_per_gpu.mid for n, v in parts.items()})
                for (t, parts), p in zip(step, plans)]
    else:
        step = [(say("exposed", language), step[0][1]), (say("hidden", language), {s.name: s.overlapped_seconds for s in one.step})]
    memory = [(t or say(p.fullest.name, language), p.memory) for p, t in label]
    drawn = [("memory", plots.bars(memory, "GiB", language, "memory", one.capacity_gib)),
             ("step", plots.bars(step, unit, language, "step")),
             ("goodput", plots.checkpoints(one.cluster, one.state_bytes, one.goodput.checkpoint_seconds, language))]
    return "".join(f"<h2>{say(key, language)}</h2>{svg}" for key, svg in drawn)


def facts(rows: list[Line]) -> str:
    cells = "".join(f"<tr><th>{escapes.escape(k)}</th><td>{escapes.escape(v)}</td></tr>" for k, v in rows)
    return f'<div class="wide"><table class="rows">{cells}</table></div>'


def table(lines: list[list[str]]) -> str:
    """The first line is the head; a range stands under its middle."""
    def cell(said: str) -> str:
        mid, bracket, ends = said.partition(" (")
        if bracket and "–" in ends:
            return f"<td class=range>{escapes.escape(mid)}<br><small>{escapes.escape(ends.rstrip(')'))}</small></td>"
        return f"<td>{escapes.escape(said)}</td>"

    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in lines[1:])
    return f'<div class="wide"><table><tr>{"".join(f"<th>{escapes.escape(h)}</th>" for h in lines[0])}</tr>{body}</table></div>'


def page(title: str, body: str, language: Language, whole: bool = True) -> str:
    inner = f"<h1>{escapes.escape(title)}</h1>{body}"
    if not whole:
        return f'<div class="onnuri"><style>{STYLE}</style>{inner}</div>'
    return (f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width,initial-scale=1"><title>{escapes.escape(title)}</title><style>{STYLE}</style></head>'
            f'<body class="onnuri">{inner}</body></html>\n')
