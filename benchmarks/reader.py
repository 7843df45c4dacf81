"""The reader test: twenty functions drawn at random; a fresh reader says what each does from name,
signature and docstring alone, and is then held against the code.

    python benchmarks/reader.py cards --seed 1     what the reader sees
    python benchmarks/reader.py code --seed 1      what the judge sees beside the answers
    python benchmarks/reader.py table ANSWERS.json write docs/reader.md from verdicts

`ANSWERS.json`: a list of {"function": …, "said": …, "right": true, "why": …}, in the cards' order.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
from pathlib import Path
from typing import NamedTuple

import house

ROOT = Path(__file__).resolve().parent.parent
COUNT = 20
RIGHT_AT_LEAST = 16


class Card(NamedTuple):
    """A function as a reader sees it."""

    place: str
    """module and qualified name"""
    signature: str
    docstring: str
    code: str


def cards(seed: int, count: int = COUNT) -> list[Card]:
    """Return functions of the library drawn at random: public and private, methods too, of more
    than one statement."""
    every = []
    for module in house.modules():
        for owner, node in _functions(module.tree.body, ""):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if node.name.startswith("__") or sum(1 for s in body for _ in ast.walk(s)) < 15:
                continue
            every.append(_card(module, owner, node))
    return random.Random(seed).sample(sorted(every), count)


def _functions(
    body: list[ast.stmt], owner: str
) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append((owner, node))
        elif isinstance(node, ast.ClassDef):
            found += _functions(node.body, f"{owner}{node.name}.")
    return found


def _card(module: house.Module, owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Card:
    lines = module.text.splitlines()
    first = node.body[0].lineno
    header = "\n".join(lines[node.lineno - 1 : first - 1])
    code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    return Card(f"{module.name}.{owner}{node.name}", header, ast.get_docstring(node) or "", code)


def table(path: Path) -> str:
    """Return the table of a reader's answers as Markdown."""
    answers = json.loads(path.read_text(encoding="utf-8"))
    right = sum(bool(answer["right"]) for answer in answers)
    rows = "".join(
        f"| `{a['function']}` | {a['said']} | {'yes' if a['right'] else 'no: ' + a['why']} |\n"
        for a in answers
    )
    return (
        "# The reader test\n\n"
        f"{right} of {len(answers)} right (bar {RIGHT_AT_LEAST}): functions drawn by "
        "`benchmarks/reader.py`, read by name, signature and\ndocstring alone by someone who had "
        "not seen the project.\n\n| function | what the reader said | right |\n|---|---|---|\n"
        f"{rows}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("cards", "code"):
        verbs.add_parser(verb).add_argument("--seed", type=int, required=True)
    verbs.add_parser("table").add_argument("answers", type=Path)
    given = parser.parse_args()
    if given.verb == "table":
        (ROOT / "docs" / "reader.md").write_text(table(given.answers), encoding="utf-8")
        return
    for number, card in enumerate(cards(given.seed), start=1):
        shown = (
            card.code if given.verb == "code" else f'{card.signature}\n    """{card.docstring}"""'
        )
        print(f"## {number}. {card.place}\n\n```python\n{shown}\n```\n")


if __name__ == "__main__":
    main()
