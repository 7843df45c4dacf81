"""README's promises: its Python runs, its commands run or parse, its figures are those of the
committed results."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

import onnuri
from onnuri.cli import main, parse
from onnuri.toyworld import image
from onnuri.toyworld.scene import sample_scene

ROOT = Path(onnuri.__file__).parents[1]
README = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")}
FIGURES = runpy.run_path(str(ROOT / "benchmarks/figures.py"))
LONG = ("train", "watch", "evaluate", "chat", "serve", "keys", "plan")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands(text: str) -> list[list[str]]:
    return [
        shlex.split(line, comments=True)[1:]
        for block in blocks(text, "bash")
        for line in block.splitlines()
        if line.startswith("onnuri ")
    ]


def test_the_three_lines_of_python_run():
    for text in README.values():
        for block in blocks(text, "python")[:1]:
            made: dict = {}
            exec(block, made)
            assert made["picture"].shape == (128, 128, 3) and len(block.strip().splitlines()) == 3


def test_commands_run(tmp_path, monkeypatch):
    from onnuri.media import writing

    monkeypatch.chdir(tmp_path)
    writing.write(image.render(sample_scene(4, "seen")).image, tmp_path / "picture.png")
    (tmp_path / "my-pictures").mkdir()
    writing.write(image.render(sample_scene(5, "seen")).image, tmp_path / "my-pictures/cat.png")
    (tmp_path / "my-pictures/cat.txt").write_text("a cat\n")
    for command in commands(README["README.md"]):
        if command[0] in LONG:
            parse(command)
        else:
            main(command)
    assert (tmp_path / "star.glb").exists() and (tmp_path / "my-model/config.json").exists()
    assert "a cat" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", README)
def test_commands_of_the_planner_run(name, tmp_path, monkeypatch, capsys):
    """They search tens of thousands of layouts."""
    monkeypatch.chdir(tmp_path)
    plans = [command for command in commands(README[name]) if command[0] == "plan"]
    assert len(plans) == 4
    for command in plans:
        main(command)
        assert capsys.readouterr().out.strip()


def test_the_korean_twin_has_the_same_commands():
    ours, twin = (commands(t) for t in README.values())
    assert [c[0] for c in ours] == [c[0] for c in twin] and len(ours) >= 8


def test_links_between_documents_lead_somewhere():
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)[)#]", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


def test_links_lead_somewhere():
    for name, text in README.items():
        for link in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
            target = link[0] or link[1]
            assert target.startswith("http") or (ROOT / target).exists(), (name, target)


@pytest.mark.parametrize("path", FIGURES["PAGES"])
def test_figures_come_from_the_committed_results(path):
    assert FIGURES["filled"](ROOT / path) == (ROOT / path).read_text(encoding="utf-8"), (
        "run `make figures`"
    )
