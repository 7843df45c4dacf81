"""docs/extending.md: every block is written to the file that its first line names and, if it is a
program or a command, run, in order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from onnuri.cli import main
from onnuri.recipes import find

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@pytest.mark.slow
def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = []
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "bash":
            for line in text.strip().splitlines():
                main(shlex.split(line)[1:])
                assert "tokens trained" in capsys.readouterr().out
                ran.append(line.split()[1])
            continue
        name = text.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(text, encoding="utf-8")
        if kind == "python":
            run = subprocess.run([sys.executable, name], capture_output=True, text=True)
            assert not run.returncode, run.stderr
            ran.append(name)
    assert ran == [
        "tiles.py",
        "with_tiles.py",
        "my_family.py",
        "with_my_family.py",
        "my_source.py",
        "plan",
        "mine.py",
        "plan",
    ]


def test_a_recipe_of_ones_own_that_cannot_be_run_is_one_line(tmp_path, capsys):
    for text, why in (
        ("recipe = None", "has no function recipe(); write one that returns a Recipe"),
        ("def recipe():\n    return 3", "recipe() returns 3; write one that returns a Recipe"),
        (
            "def recipe():\n    1 / 0",
            "cannot be run (ZeroDivisionError: division by zero); mend the file",
        ),
        ("1 / 0", "cannot be run (ZeroDivisionError: division by zero); mend the file"),
    ):
        path = tmp_path / "mine.py"
        path.write_text(text)
        with pytest.raises(SystemExit) as stop:
            main(["plan", str(path)])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and f"recipe {path}: {why}\n" in told and told.count("\n") == 1


def test_a_recipe_of_ones_own_is_read_anew_when_it_has_changed(tmp_path):
    path = tmp_path / "mine.py"
    for gpus in (8, 9):
        path.write_text(
            "from onnuri.recipes import find\n"
            f"def recipe():\n    return find('axk1').replace(gpus={gpus})\n"
        )
        assert find(str(path)).gpus == gpus
    assert list(tmp_path.iterdir()) == [path]
