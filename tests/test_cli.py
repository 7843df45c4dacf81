"""The command line as a user meets it: real processes, one line for a mistake, exit status 2."""

import subprocess
import sys

import pytest

from onnuri.cli import one_line, parse


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "onnuri.cli", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [
    ["frob"], ["generate", "--txt", "hi"], ["generate", "--to", "imag", "-o", "x.png"], ["demo"],
    ["train", "mainframe"], ["evaluate", "matrix", "--items", "many"],
])
def test_a_wrong_command_is_one_line_and_status_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("onnuri: ") and done.stderr.count("\n") == 1


def test_unknown_option_offers_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse(["generate", "--to", "image", "-o", "x.png", "--txt", "hi"])
    assert "--text" in capsys.readouterr().err


def test_boxes_become_one_line():
    assert one_line("╭─ A ─╮\n│ one │\n│ ─── │\n│ two │\n╰─────╯") == "one; two"


def test_help_teaches_every_verb():
    done = run("--help")
    assert done.returncode == 0
    assert all(v in done.stdout for v in ("demo", "generate", "chat", "export", "train", "evaluate"))


def test_a_folder_may_be_named_before_or_after_what_is_done_with_it():
    before, after = parse(["keys", "--data", "d", "list"]), parse(["keys", "list", "--data", "d"])
    assert before == after and str(before.data) == "d"
