"""The examples run as they are, in Python, JavaScript and curl; so does a terminal's chat with a
server."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from onnuri import chat
from onnuri.media import reading

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder, *command):
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def test_python(server, tmp_path):
    said = run(tmp_path, sys.executable, str(EXAMPLES / "talk.py"), f"{server.url}/v1")
    assert "작은 빨간 구가 파란 정육면체 왼쪽에 있다" in said and len(said.splitlines()) == 2
    assert (
        Image.open(tmp_path / "out/picture.png").size == (128, 128)
        and soundfile.info(str(tmp_path / "out/speech.wav")).frames
    )


def test_javascript(server, tmp_path):
    if not shutil.which("npm"):
        pytest.skip("npm is missing: apt-get install npm")
    folder = Path(os.environ.get("ONNURI_NODE", Path(__file__).parents[2] / ".venv" / "node"))
    if not (folder / "node_modules" / "openai").exists():
        folder.mkdir(parents=True, exist_ok=True)
        run(
            folder,
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--silent",
            "--prefix",
            str(folder),
            "openai@7",
        )
    (tmp_path / "node_modules").symlink_to(folder / "node_modules")
    shutil.copy(EXAMPLES / "talk.mjs", tmp_path)
    said = run(tmp_path, "node", "talk.mjs", f"{server.url}/v1")
    assert (
        "a small red sphere is to the left of a blue cube" in said
        and "served: onnuri-laptop" in said
        and "heard: " in said
    )
    assert Image.open(tmp_path / "out/picture.png").size == (128, 128)


def test_curl(server, tmp_path):
    said = run(tmp_path, "sh", str(EXAMPLES / "talk.sh"), f"{server.url}/v1")
    assert {"model.glb", "picture.png", "speech.mp3"} <= set(said.split())
    assert len(reading.read(tmp_path / "out/speech.mp3", "audio")) > 8000
    assert reading.read(tmp_path / "out/model.glb", "shape")[..., 3].max() == 255


def test_chat_with_a_server(server, tmp_path, capsys):
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "a.png")
    lines = [
        "/to image",
        "작은 빨간 구",
        "/to audio",
        "작은 빨간 구",
        "/to shape",
        "작은 빨간 구",
        "/to video",
        "작은 빨간 구",
        "/to text",
        f"/image {tmp_path / 'a.png'}",
        "",
        "/quit",
    ]
    chat.run(tmp_path / "out", lines=lines, server=server.url, seed=1)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "001.png",
        "002.wav",
        "003.glb",
        "004.mp4",
    }
    chat.run(tmp_path / "out", lines=["구", "/quit"], server="http://127.0.0.1:9")
    assert "cannot be reached" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_what_the_readme_says_of_the_server(server, page):
    text = (EXAMPLES.parent / page).read_text(encoding="utf-8")
    [block] = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "OpenAI" in b]
    made = {}
    exec(block.replace("http://127.0.0.1:8000", server.url), made)
    assert len(made["answer"].data) == 1
