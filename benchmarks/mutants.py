"""Change one line of the library at a time and see whether a test notices: the measure of what
tests guard.

Draws mutants at random (by a seed) from the functions of some folders, applies each to a copy of
the project, runs the tests of `make test` (those nearest first, then all, ending at the first
failure), and writes a table. What is changed: a comparison, an operator of arithmetic, `and` and
`or`, a condition, a number within a function, a statement that is left out, a keyword argument that
is left out. Not drawn from: docstrings, messages of errors, type annotations, `assert`, defaults of
configuration classes (a budget of 70 minutes is not right or wrong).

    python benchmarks/mutants.py --count 40 --seed 1              # training, model, codecs
    python benchmarks/mutants.py --only 17 --seed 1               # one again, with the tests' own output
"""

from __future__ import annotations

import ast
import copy
import json
import os
import platform
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tyro

ROOT = Path(__file__).parents[1]
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NEAREST = {
    "profile": ["tests/profile", "tests/recipes"],
    "calibration": ["tests/calibration"],
    "training": ["tests/training", "tests/recipes", "tests/test_end_to_end.py"],
    "model": [
        "tests/model",
        "tests/decoding",
        "tests/training",
        "tests/test_end_to_end.py",
        "tests/recipes",
    ],
    "codecs": [
        "tests/codecs",
        "tests/data",
        "tests/model",
        "tests/evaluation",
        "tests/test_end_to_end.py",
    ],
}
"""the tests that are run first for a folder, in order; what survives them meets the whole of `make
test`"""
WHOLE = "make test"


@dataclass(frozen=True)
class Mutant:
    """One changed line."""

    path: str
    line: int
    before: str
    after: str
    source: str
    """the whole changed file"""


class _Sites(ast.NodeVisitor):
    """Collect (node, change) pairs within functions; a change is applied to a copy of the tree by
    the node's index."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.AST, str]] = []
        self.inside = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside += 1
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        for statement in body:
            self.visit(statement)
        self.inside -= 1

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave assertions alone."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave messages alone."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave texts alone."""

    def generic_visit(self, node: ast.AST) -> None:
        if self.inside:
            self.found.extend((node, change) for change in changes_of(node))
        super().generic_visit(node)


def changes_of(node: ast.AST) -> list[str]:
    """Name the changes that a node can have."""
    found = []
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        found.append("comparison")
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_type(node):
        found.append("arithmetic")
    if isinstance(node, ast.BoolOp):
        found.append("boolean")
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        found.append("condition")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        found.append("number")
    if isinstance(node, (ast.Assign, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        found.append("left out")
    if isinstance(node, ast.Call) and node.keywords:
        found.append("keyword")
    return found


def _is_type(node: ast.BinOp) -> bool:
    """Whether `A | B` stands for a union of types."""
    return isinstance(node.op, ast.BitOr) and any(
        isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)
    )


def apply(node: ast.AST, change: str) -> None:
    """Change a node in place."""
    if change == "comparison" and isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif change == "arithmetic" and isinstance(node, ast.BinOp):
        node.op = ARITHMETIC[type(node.op)]()
    elif change == "boolean" and isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif change == "condition" and isinstance(node, (ast.If, ast.While, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif change == "number" and isinstance(node, ast.Constant):
        value = node.value
        assert isinstance(value, (int, float))
        node.value = value + 1 if isinstance(value, int) else (value * 2 if value else 1.0)
    elif change == "keyword" and isinstance(node, ast.Call):
        node.keywords.pop()


def mutants_of(path: Path) -> list[tuple[int, str]]:
    """List (index of a site, its change) of a file."""
    sites = _Sites()
    sites.visit(ast.parse(path.read_text(encoding="utf-8")))
    return [(k, change) for k, (_, change) in enumerate(sites.found)]


def made(path: Path, index: int) -> Mutant | None:
    """Return the mutant of a site, whose file differs in the lines of one statement; None where
    nothing would change."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    sites = _Sites()
    sites.visit(tree)
    node, change = sites.found[index]
    statement = _statement_of(tree, node)
    before = ast.unparse(statement)
    if change == "left out":
        replacement: ast.stmt = ast.Pass()
    else:
        original = copy.deepcopy(node)
        apply(node, change)
        replacement = copy.deepcopy(statement)
        after_node = node
        for name in node._fields:  # the tree is read again below, so undo
            setattr(after_node, name, getattr(original, name))
    after = ast.unparse(replacement)
    if before == after:
        return None
    lines = text.splitlines(keepends=True)
    start, end = statement.lineno, statement.end_lineno or statement.lineno
    indent = " " * statement.col_offset
    changed = "".join(indent + line + "\n" for line in after.splitlines())
    source = "".join(lines[: start - 1]) + changed + "".join(lines[end:])
    try:
        compile(source, str(path), "exec")
    except SyntaxError:
        return None
    shown = next(
        ((a, b) for a, b in zip(before.splitlines(), after.splitlines()) if a != b), (before, after)
    )
    return Mutant(
        str(path.relative_to(ROOT)),
        getattr(node, "lineno", start),
        shown[0].strip(),
        shown[1].strip(),
        source,
    )


def _statement_of(tree: ast.AST, node: ast.AST) -> ast.stmt:
    """Return the innermost statement that a node is part of."""
    best: ast.stmt | None = None
    for candidate in ast.walk(tree):
        if (
            isinstance(candidate, ast.stmt)
            and any(part is node for part in ast.walk(candidate))
            and (best is None or any(part is candidate for part in ast.walk(best)))
        ):
            best = candidate
    assert best is not None
    return best


def drawn(folders: tuple[str, ...], count: int, seed: int) -> list[Mutant]:
    """Draw mutants, evenly over all sites of all files."""
    sites = [
        (path, index)
        for folder in folders
        for path in sorted((ROOT / "onnuri" / folder).glob("*.py"))
        for index, _ in mutants_of(path)
    ]
    random.Random(seed).shuffle(sites)
    found: list[Mutant] = []
    for path, index in sites:
        if len(found) == count:
            break
        mutant = made(path, index)
        if mutant and not any(m.path == mutant.path and m.line == mutant.line for m in found):
            found.append(mutant)
    return found


def killed_by(
    mutant: Mutant, folder: Path, limit_seconds: float, whole: bool = True, show: bool = False
) -> str | None:
    """Return the test that fails, "did not end" for a run beyond the limit, or None where all pass.
    `whole`: what survives the tests nearest to its file meets all others."""
    target = folder / mutant.path
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        _, part, module = mutant.path.split("/")
        own = f"tests/{part}/test_{module}"
        suites = (
            ([own] if (folder / own).exists() else [])
            + NEAREST.get(part, [])
            + ([WHOLE] if whole else [])
        )
        for tests in suites:
            selected = ["-n", "2", "--dist", "worksteal"] if tests == WHOLE else [tests]
            try:
                done = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "pytest",
                        "-x",
                        "-q",
                        "-p",
                        "no:cacheprovider",
                        *selected,
                    ],
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
                    capture_output=True,
                    text=True,
                    timeout=limit_seconds,
                )
            except subprocess.TimeoutExpired:
                return f"did not end: {tests}"
            if show:
                print(done.stdout)
            if done.returncode != 0:
                said = [
                    line
                    for line in done.stdout.splitlines()
                    if line.startswith(("FAILED", "ERROR"))
                ]
                return said[0].split(" - ")[0] if said else f"{tests}: status {done.returncode}"
    finally:
        target.write_text(original, encoding="utf-8")
    return None


def earlier(path: Path, mutants: list[Mutant]) -> list[dict[str, object]]:
    """Return the rows that a table holds of the first mutants. End with status 2 where it is not a
    table of these."""
    try:
        rows: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))["mutants"]
        same = [(r["path"], r["line"], r["after"]) for r in rows] == [
            (m.path, m.line, m.after) for m in mutants[: len(rows)]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        refuse(
            f"{path}: is no table of these mutants (no file, other code, seed or count); run without --go-on"
        )
    return rows


def refuse(message: str) -> NoReturn:
    """End with one line and status 2."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


def tried(
    k: int,
    mutant: Mutant,
    folders: queue.Queue[Path],
    limit_seconds: float,
    whole: bool,
    show: bool,
) -> dict[str, object]:
    """Run the tests against a mutant in a free copy of the project; return its row of the table."""
    folder, began = folders.get(), time.time()
    try:
        killer = killed_by(mutant, folder, limit_seconds, whole, show)
    finally:
        folders.put(folder)
    print(
        f"{k:3} {'killed  ' if killer else 'SURVIVES'} {mutant.path}:{mutant.line} {time.time() - began:.0f} s\n"
        f"      - {mutant.before}\n      + {mutant.after}\n      {killer or ''}",
        flush=True,
    )
    return {
        "path": mutant.path,
        "line": mutant.line,
        "before": mutant.before,
        "after": mutant.after,
        "killer": killer,
    }


def main(
    count: int = 40,
    seed: int = 1,
    folders: tuple[str, ...] = ("training", "model", "codecs"),
    only: int | None = None,
    limit_seconds: float = 900.0,
    dry: bool = False,
    go_on: bool = False,
    lanes: int = 1,
    whole: bool = True,
    json_path: Path = ROOT / "benchmarks/results/mutants.json",
) -> None:
    """Draw mutants and run the tests against each. `--go-on`: after the last that the table holds.
    `--lanes`: how many at a time. `--no-whole`: only the tests nearest to each file."""
    if lanes < 1:
        refuse(f"--lanes {lanes}: is no number of copies; give 1 or more")
    mutants = drawn(folders, count, seed)
    if not mutants:
        refuse(
            f"--count {count} --folders {' '.join(folders)}: have no mutant; give 1 or more, of {', '.join(NEAREST)}"
        )
    if only is not None and only not in range(len(mutants)):
        refuse(
            f"--only {only}: is none of the {len(mutants)} mutants; give 0 to {len(mutants) - 1}"
        )
    if dry:
        for k, m in enumerate(mutants):
            print(f"{k:3} {m.path}:{m.line}\n      - {m.before}\n      + {m.after}")
        return
    rows: list[dict[str, object]] = []
    if go_on and only is None:
        rows = earlier(json_path, mutants)
    todo = [(k, mutant) for k, mutant in enumerate(mutants) if k >= len(rows) and only in (None, k)]
    free: queue.Queue[Path] = queue.Queue()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(lanes) as pool:
        for lane in range(lanes):
            folder = Path(scratch) / str(lane) / "onnuri"
            shutil.copytree(
                ROOT,
                folder,
                ignore=shutil.ignore_patterns(".git", ".venv", "runs", "out", ".mypy_cache"),
            )
            (folder / ".venv").symlink_to(ROOT / ".venv")
            free.put(folder)
        for row in pool.map(
            lambda one: tried(*one, free, limit_seconds, whole, only is not None), todo
        ):
            rows.append(row)
            if only is None:  # after each: a run takes an hour
                json_path.write_text(
                    json.dumps(
                        {
                            "seed": seed,
                            "count": len(rows),
                            "killed": sum(r["killer"] is not None for r in rows),
                            "folders": folders,
                            "machine": platform.processor() or platform.machine(),
                            "mutants": rows,
                        },
                        indent=1,
                        ensure_ascii=False,
                    )
                    + "\n",
                    encoding="utf-8",
                )
    print(f"{sum(r['killer'] is not None for r in rows)} of {len(rows)} die")


if __name__ == "__main__":
    tyro.cli(main)
