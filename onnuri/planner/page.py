"""The HTML of a report: one file that needs nothing else, for a wide screen and a phone, by day and
by night.

A table becomes cards where the screen is narrow; what is not decided by stands folded. Knows no
figure of a plan.
"""

from __future__ import annotations

import html as escapes

from onnuri.modality import Language
from onnuri.planner.words import say

Line = tuple[str, str]
"""a label and what stands behind it"""

STYLE = """.onnuri{--paper:#fff;--ink:#1c1e21;--line:#d9dce1;--soft:#f3f5f8;--accent:#1f5fbf;color-scheme:light}
@media(prefers-color-scheme:dark){.onnuri{--paper:#14171b;--ink:#e6e8eb;--line:#343a42;--soft:#1d2228;--accent:#8db8ff;
color-scheme:dark}}
body.onnuri,div.onnuri{font:15px/1.5 system-ui,"Noto Sans KR","Apple SD Gothic Neo","Malgun Gothic",sans-serif;max-width:70rem;
background:var(--paper);color:var(--ink);word-break:keep-all;overflow-wrap:anywhere}
body.onnuri{margin:2rem auto;padding:0 1rem}
.onnuri h1{font-size:1.4rem;margin:0 0 .2rem}.onnuri h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
.onnuri table{border-collapse:collapse;width:100%}
.onnuri th,.onnuri td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}
.onnuri th{font-weight:600}.onnuri .wide{overflow-x:auto}.onnuri .note,.onnuri small{opacity:.75}.onnuri .note{font-size:.9em}
.onnuri svg{min-width:32rem;max-width:100%;height:auto}
.onnuri .rows th{white-space:nowrap}.onnuri .range{white-space:nowrap}
.onnuri .verdict{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.6rem;margin:.8rem 0}
.onnuri .verdict div{background:var(--soft);border-radius:.5rem;padding:.5rem .8rem}
.onnuri .verdict .long{grid-column:1/-1}
.onnuri .verdict dt{font-size:.85em;opacity:.75}.onnuri .verdict dd{margin:0;font-size:1.05rem}
.onnuri details{border-top:1px solid var(--line);padding:.4rem 0}.onnuri summary{cursor:pointer;font-weight:600;padding:.2rem 0}
.onnuri .command{display:flex;gap:.6rem;align-items:start;background:var(--soft);border-radius:.5rem;padding:.5rem .8rem;
margin:.8rem 0}
.onnuri .command code{flex:1;white-space:pre-wrap;overflow-wrap:anywhere}
.onnuri button{font:inherit;color:var(--paper);background:var(--accent);border:0;border-radius:.4rem;padding:.25rem .8rem;
cursor:pointer}
@media(max-width:40rem){body.onnuri{margin:1rem auto}
.onnuri table,.onnuri tbody,.onnuri tr,.onnuri td,.onnuri .rows th{display:block;white-space:normal}
.onnuri tr{border-bottom:1px solid var(--line);padding:.3rem 0}.onnuri th,.onnuri td{border:0;padding:.1rem 0}
.onnuri .head{display:none}.onnuri td[data-label]{display:flex;justify-content:space-between;gap:1rem}
.onnuri td[data-label]::before{content:attr(data-label);opacity:.75;flex:0 0 40%}
.onnuri td[data-label]>span{text-align:right}.onnuri .range{white-space:normal}}"""
COPY = """for(const b of document.querySelectorAll('.onnuri .command button'))b.onclick=async()=>{
const code=b.parentNode.querySelector('code');try{await navigator.clipboard.writeText(code.textContent)}catch{
getSelection().selectAllChildren(code);document.execCommand('copy')}b.textContent=b.dataset.done}"""


def verdict(rows: list[Line]) -> str:
    """What to decide by, as cards; one of many words has a row of its own."""
    cards = "".join(
        f"<div{' class=long' if len(v) > 90 else ''}><dt>{escapes.escape(k)}</dt><dd>{escapes.escape(v)}</dd></div>"
        for k, v in rows
    )
    return f'<dl class="verdict">{cards}</dl>'


def command(typed: str, language: Language) -> str:
    """The command that makes the page anew, with a button that copies it; nothing where it is not
    known."""
    if not typed:
        return ""
    button = f'<button type="button" data-done="{say("copied", language)}">{say("copy", language)}</button>'
    return f'<div class="command"><code>{escapes.escape(typed)}</code>{button}</div>'


def folded(heading: str, inner: str, opened: bool = False) -> str:
    """A part that a reader opens."""
    return f"<details{' open' if opened else ''}><summary>{escapes.escape(heading)}</summary>{inner}</details>"


def drawing(svg: str) -> str:
    """A drawing keeps its words readable: on a phone it is moved sideways, not shrunk."""
    return f'<div class="wide">{svg}</div>'


def facts(rows: list[Line]) -> str:
    cells = "".join(
        f"<tr><th>{escapes.escape(k)}</th><td>{escapes.escape(v)}</td></tr>" for k, v in rows
    )
    return f'<div class="wide"><table class="rows">{cells}</table></div>'


def table(lines: list[list[str]]) -> str:
    """The first line is the head; a range stands under its middle."""
    head = [escapes.escape(h) for h in lines[0]]

    def cell(label: str, said: str) -> str:
        mid, bracket, ends = said.partition(" (")
        named = f' data-label="{label}"'
        if bracket and "–" in ends:
            inner = f"{escapes.escape(mid)}<br><small>{escapes.escape(ends.rstrip(')'))}</small>"
            return f'<td class="range"{named}><span>{inner}</span></td>'
        return f"<td{named}><span>{escapes.escape(said)}</span></td>"

    body = "".join("<tr>" + "".join(map(cell, head, row)) + "</tr>" for row in lines[1:])
    columns = "".join(f"<th>{h}</th>" for h in head)
    return f'<div class="wide"><table><tr class="head">{columns}</tr>{body}</table></div>'


def page(title: str, body: str, language: Language, whole: bool = True) -> str:
    """The whole page, or (`whole` False) a part of a notebook."""
    inner = f"<h1>{escapes.escape(title)}</h1>{body}"
    if not whole:
        return f'<div class="onnuri"><style>{STYLE}</style>{inner}</div>'
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{escapes.escape(title)}</title><style>{STYLE}</style></head>'
        f'<body class="onnuri">{inner}<script>{COPY}</script></body></html>\n'
    )
