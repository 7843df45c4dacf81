"""How the library reads, held: `benchmarks/house.py` counts, here nothing may be left to count."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERBS = ["", "demo", "generate", "chat", "serve", "keys", "export", "train", "evaluate", "plan"]
VERBS += ["watch", "tokenize", "train pretrain", "train pictures", "data"]
VERBS += ["data ingest", "data inspect", "data forget", "data tokenize", "data fetch"]
VERBS += ["train recipe", "train finetune", "plan recipe", "plan budget", "plan dry-run"]
VERBS += ["plan validate", "evaluate matrix", "evaluate codecs", "evaluate words"]


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def modules(house):
    return house.modules()


def test_no_line_is_too_wide(house, modules):
    assert [place for module in modules for place in house.wide(module)] == []


def test_every_public_name_has_a_docstring(house, modules):
    assert [place for module in modules for place in house.undocumented(module)] == []


def test_no_two_public_classes_have_one_name(house, modules):
    assert house.twice(modules) == {}


def test_no_name_that_was_replaced_is_left(house, modules):
    assert house.replaced(modules) == []


def test_no_imports_in_a_circle(house, modules):
    assert house.circles(modules) == []


def test_the_command_lines_help_has_no_replaced_word():
    words = re.compile(r"\b([Mm]edium|release|doubts|StockForward|OmniTask|LoopConfig)\b")
    program = (
        "import sys\nfrom onnuri.cli import parse\n"
        "for verb in sys.argv[1:]:\n"
        "    try: parse([*verb.split(), '--help'])\n"
        "    except SystemExit: pass\n"
    )
    run = subprocess.run([sys.executable, "-c", program, *VERBS], capture_output=True, text=True)
    assert run.stdout.count("usage: onnuri") == len(VERBS)
    assert words.findall(run.stdout) == []


def write(house, text, path="onnuri/planner/x.py"):
    import ast

    return house.Module(path, text, ast.parse(text))


def test_each_rule_sees_what_breaks_it(house):
    wide = write(house, f'"""Say."""\nx = "{"y" * 100}"\nz = "{"가" * 110}"\n')
    assert house.wide(wide) == ["onnuri/planner/x.py:2 106"]
    bare = write(house, '"""Say."""\nclass A:\n    def b(self): ...\n    def _c(self): ...\n')
    assert house.undocumented(bare) == ["onnuri/planner/x.py:2 A", "onnuri/planner/x.py:3 A.b"]
    assert house.twice([bare, write(house, "class A: ...", "onnuri/b.py")]).keys() == {"A"}
    old = write(house, "class Layout:\n    fields: int\ndef medium(): ...\n")
    assert len(house.replaced([old])) == 2
    one = write(house, "def f():\n    from onnuri.b import c\n", "onnuri/a.py")
    other = write(house, "import onnuri.a\n", "onnuri/b.py")
    assert house.circles([one, other]) == [["onnuri.a", "onnuri.b"]]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnuri.a\n"
    assert house.circles([one, write(house, typed, "onnuri/b.py")]) == []
