"""How the library reads, counted: nodes and lines by folder, the widest line, docstrings, class names
that stand twice, names that were replaced, imports in a circle.

    python benchmarks/house.py                  today's figures
    python benchmarks/house.py --against REV    beside a commit's
    python benchmarks/house.py --list           every place that breaks a rule

`tests/test_house.py` holds the rules.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WIDEST, WIDEST_HANGUL = 100, 132

REPLACED = {
    "beats": "data",
    "at": "planner",
    "below": "planner",
    "working": "planner",
    "inside": "planner",
    "again": "planner",
    "late": "planner",
    "border": "planner",
    "eager": "planner",
    "fused": "planner",
    "chunk": "inference",
    "place": "training",
    "Plan": "inference",
    "Layout": "planner",
    "take": "training",
    "Ticket": "inference",
    "without": "inference",
    "script": "inference",
    "stretch": "inference",
    "leads": "",
    "Course": "inference",
    "choose": "inference",
    "Queue": "inference",
    "Waiting": "inference",
    "StockForward": "inference",
    "stock_model": "",
    "Shelf": "inference",
    "OmniTask": "",
    "Task": "training",
    "Trainee": "training",
    "LoopConfig": "",
    "share_done": "training",
    "rate": "training",
    "Mixer": "",
    "MixConfig": "",
    "Choice": "model",
    "choices": "model",
    "sight": "",
    "sights": "",
    "filmed": "",
    "SILENT": "",
    "KEPT": "planner",
    "ours": "planner",
    "elsewhere": "planner",
    "doubts": "",
    "release": "planner",
    "meanings": "",
    "aside": "server",
    "drive": "",
    "Steps": "model",
    "Wish": "server",
    "Given": "server",
    "Structure": "",
    "Bound": "",
    "Problem": "server",
    "having": "",
    "spelled": "",
    "medium": "",
    "Medium": "",
}
"""public names that have another since, and the folder in which the old one is gone; "" for all"""

REPLACED_FILES = {
    "inference/choose.py",
    "inference/queue.py",
    "inference/waiting.py",
    "planner/layout.py",
    "planner/phases.py",
    "planner/stages.py",
    "planner/sharded.py",
    "planner/routing.py",
    "planner/operate.py",
    "planner/bill.py",
    "training/standins.py",
    "training/beside.py",
    "training/forecast.py",
    "training/machine.py",
    "server/beside.py",
    "server/problems.py",
    "server/intake.py",
    "server/guard.py",
    "data/table.py",
}


class Module(NamedTuple):
    """A file of the library."""

    path: str
    """such as onnuri/planner/plan.py"""
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        parts = self.path.split("/")
        return parts[1] if len(parts) > 2 else "."

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class Definition(NamedTuple):
    """A public name: a class, a function, a method or a field of a class."""

    module: Module
    name: str
    node: ast.AST
    owner: str


def modules(rev: str | None = None) -> list[Module]:
    """Return the library's modules, of the working tree or of a commit."""
    listed = ["git", "ls-tree", "-r", "--name-only", rev] if rev else ["git", "ls-files", "-co"]
    listed += [] if rev else ["--exclude-standard"]
    run = subprocess.run([*listed, "onnuri"], cwd=ROOT, check=True, capture_output=True, text=True)
    read: Callable[[str], str] = (
        (lambda path: _of_commit(rev, path))
        if rev
        else (lambda path: (ROOT / path).read_text(encoding="utf-8"))
    )
    paths = [p for p in run.stdout.splitlines() if p.endswith(".py")]
    paths = [p for p in paths if rev or (ROOT / p).exists()]
    texts = {path: read(path) for path in paths}
    return [Module(path, text, ast.parse(text)) for path, text in texts.items()]


def _of_commit(rev: str | None, path: str) -> str:
    return subprocess.run(
        ["git", "show", f"{rev}:{path}"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def nodes(module: Module) -> int:
    """Return the number of AST nodes of a module."""
    return sum(1 for _ in ast.walk(module.tree))


def definitions(module: Module) -> Iterator[Definition]:
    """Yield a module's public names."""
    yield from _definitions(module, module.tree.body, "")


def _definitions(module: Module, body: list[ast.stmt], owner: str) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name.startswith("_"):
                continue
            yield Definition(module, node.name, node, owner)
            if isinstance(node, ast.ClassDef):
                yield from _definitions(module, node.body, node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and owner:
            yield Definition(module, node.target.id, node, owner)


def undocumented(module: Module) -> list[str]:
    """Return the public classes and functions of a module that have no docstring."""
    missing = [] if ast.get_docstring(module.tree) or not module.text.strip() else [module.path]
    for each in definitions(module):
        node = each.node
        if isinstance(node, ast.AnnAssign):
            continue
        assert isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        overloaded = any("overload" in ast.dump(d) for d in node.decorator_list)
        if not ast.get_docstring(node) and not overloaded:
            missing.append(
                f"{module.path}:{node.lineno} {each.owner}.{each.name}".replace(" .", " ")
            )
    return missing


def twice(every: list[Module]) -> dict[str, list[str]]:
    """Return the public classes of one name, and where they are; a class within another, such as
    `AudioCodec.Config`, is called by both."""
    places = defaultdict(list)
    for module in every:
        for each in definitions(module):
            if isinstance(each.node, ast.ClassDef):
                places[f"{each.owner}.{each.name}".lstrip(".")].append(
                    f"{module.path}:{each.node.lineno}"
                )
    return {name: where for name, where in places.items() if len(where) > 1}


def replaced(every: list[Module]) -> list[str]:
    """Return where public names stand that have another since."""
    found = []
    for module in every:
        if module.path.removeprefix("onnuri/") in REPLACED_FILES:
            found.append(module.path)
        for each in definitions(module):
            folder = REPLACED.get(each.name)
            if folder is not None and folder in ("", module.folder):
                line = getattr(each.node, "lineno", 0)
                found.append(f"{module.path}:{line} {each.owner}.{each.name}".replace(" .", " "))
    return found


def wide(module: Module) -> list[str]:
    """Return the lines of a module that are wider than the rule: Hangul may be wider."""
    found = []
    for number, line in enumerate(module.text.splitlines(), start=1):
        widest = WIDEST_HANGUL if re.search("[가-힣]", line) else WIDEST
        if len(line) > widest:
            found.append(f"{module.path}:{number} {len(line)}")
    return found


def circles(every: list[Module]) -> list[list[str]]:
    """Return groups of modules that import each other, wherever in a file the import stands; what
    only type checkers read is left out."""
    names = {module.name for module in every}
    imports = {module.name: _imports(module, names) for module in every}
    return [sorted(group) for group in _strong(imports) if len(group) > 1]


def _imports(module: Module, names: set[str]) -> set[str]:
    """Return the library's modules that a module imports."""
    skipped = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(module.tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & names) or {node.module}
    # the package's door imports on call what stands above it
    return (found & names) - {module.name, "onnuri"}


def _strong(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected parts of a graph (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            part = set()
            while name not in part:
                part.add(stack.pop())
            parts.append(part)

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", help="a commit to compare with")
    parser.add_argument("--list", action="store_true", help="print every place that breaks a rule")
    given = parser.parse_args()
    every = modules()
    columns = [("now", every)]
    if given.against:
        columns.insert(0, (given.against[:8], modules(given.against)))
    counts = [Counter[str]() for _ in columns]
    lines = [Counter[str]() for _ in columns]
    for k, (_, each) in enumerate(columns):
        for module in each:
            counts[k][module.folder] += nodes(module)
            lines[k][module.folder] += len(module.text.splitlines())
    heads = "".join(f"{name + ' nodes':>16}{'lines':>8}" for name, _ in columns)
    print(f"{'folder':12}{heads}")
    for folder in [*sorted(set().union(*counts)), "all"]:
        cells = ""
        for count, line in zip(counts, lines, strict=True):
            values = (
                (count.total(), line.total()) if folder == "all" else (count[folder], line[folder])
            )
            cells += f"{values[0]:>16,}{values[1]:>8,}"
        print(f"{folder:12}{cells}")
    if given.against:
        print(f"nodes {counts[-1].total() / counts[0].total() - 1:+.1%}")
    rules = {
        "lines too wide": [place for module in every for place in wide(module)],
        "public names without a docstring": [p for module in every for p in undocumented(module)],
        "classes of one name": [f"{n}: {', '.join(w)}" for n, w in twice(every).items()],
        "names that were replaced": replaced(every),
        "circles of imports": [" ".join(group) for group in circles(every)],
    }
    for rule, places in rules.items():
        print(f"{rule}: {len(places)}")
        if given.list:
            print("".join(f"    {place}\n" for place in places), end="")


if __name__ == "__main__":
    main()
