"""Turn a report into lines for a terminal, or into a page by the template `data/page.html.j2`, one
file that needs nothing else.

On the page a table becomes cards where the screen is narrow; what is not decided by stands folded.
Knows no figure of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onnuri import files
from onnuri.planner.hardware import DATA
from onnuri.planner.words import Catalogue

Line = tuple[str, str]
"""a label and the text behind it"""
Table = list[list[str]]
"""cells by line; the first line is the head"""


class Section(NamedTuple):
    """A part of a report that a reader opens; without a heading it is not folded."""

    heading: str
    facts: Sequence[Line] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    drawing: str = ""
    """SVG; it keeps its words readable: on a phone it is moved sideways, not shrunk"""
    opened: bool = False


class Document(NamedTuple):
    """A report: title, verdict and sections."""

    title: str
    note: str
    """under the title"""
    verdict: list[Line]
    """the lines to decide by"""
    parts: list[Section]


def html(document: Document, say: Catalogue, command: str = "", whole: bool = True) -> str:
    """Return a report as a page, or (`whole` False) as a part of a notebook.

    `command` is the command that makes the page anew, and stands on it.
    """
    template = DATA / "page.html.j2"
    return files.rendered(template, document=document, say=say, command=command, whole=whole)


def write(
    text: str, figures: Any, page: Callable[[], str], json: Path | None, html: Path | None
) -> None:
    """Print a report, and write its figures as JSON and its page as HTML where a path is given."""
    for path in (json, html):
        files.check_place(path)
    print(text)
    if json:
        files.write_json(figures, json)
    if html:
        files.write_bytes(page().encode(), html)


def cells(word: str) -> int:
    """Return the columns that a word takes on a terminal: Hangul takes two a letter."""
    return sum(2 if "ᄀ" <= c <= "ᇿ" or "가" <= c <= "힣" else 1 for c in word)


def padded(word: str, columns: int) -> str:
    """Return a word with spaces behind it up to a width in columns."""
    return word + " " * (columns - cells(word))


def labelled(rows: Iterable[Line], columns: int) -> str:
    """Return lines of labels and values, with the values under each other."""
    return "\n".join(f"  {padded(label, columns)}{value}".rstrip() for label, value in rows)


def aligned(lines: Table) -> list[str]:
    """Return the lines of a table with its columns under each other."""
    widths = [max(map(cells, column)) for column in zip(*lines, strict=True)]
    return ["  " + "  ".join(map(padded, line, widths)).rstrip() for line in lines]
