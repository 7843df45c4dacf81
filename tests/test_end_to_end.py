"""What a user does, with the model that ships: every modality to every modality through files, mistakes
in one line."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import trimesh
from PIL import Image
from processes import run_onnuri

import onnuri
from onnuri.chat import ChatSession
from onnuri.cli import main
from onnuri.media import reading, writing
from onnuri.modality import MEDIA, TABLE
from onnuri.toyworld import audio, image, mesh, video
from onnuri.toyworld.oracles.image import observe
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

SCENE = sample_scene(11, "seen")
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A scene in every modality and every format that is read."""
    folder = tmp_path_factory.mktemp("media")
    sentence = caption(SCENE, "ko", generator("seen", 11))
    made = {
        "text": sentence,
        "image": image.render(SCENE).image,
        "video": video.render(SCENE).frames,
        "shape": mesh.voxels(SCENE),
        "audio": audio.speak(sentence, "ko", audio.sample_voice(generator("seen", 11))),
    }
    for modality in MEDIA:
        for suffix in TABLE[modality].suffixes:
            writing.write(made[modality], folder / f"{modality}{suffix}")
    return folder


def run(*arguments: str) -> int:
    """Exit status of a command in this process."""
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_demo_writes_five_media_and_a_page(tmp_path):
    done = run_onnuri("demo", SENTENCE, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        "image.png",
        "audio.wav",
        "video.mp4",
        "shape.glb",
        "index.html",
        "model-viewer-umd.min.js",
    }
    page = (out / "index.html").read_text(encoding="utf-8")
    assert (
        SENTENCE in page
        and "http://" not in page.replace("http://www.w3.org", "")
        and "https://" not in page
    )
    assert Image.open(out / "image.png").size == (128, 128)
    samples, rate = soundfile.read(out / "audio.wav")
    assert rate == 16_000 and 0.5 < len(samples) / rate < 16
    assert len(reading.read(out / "video.mp4", "video")) == 17
    assert trimesh.load(out / "shape.glb", force="mesh").is_watertight


@pytest.mark.parametrize("to", MEDIA)
@pytest.mark.parametrize("source", MEDIA)
def test_any_modality_to_any_modality(files, tmp_path, source, to):
    given = (
        ["--text", (files / "text.txt").read_text(encoding="utf-8")]
        if source == "text"
        else [f"--{source}", str(files / f"{source}{TABLE[source].suffixes[-1]}")]
    )
    output = tmp_path / f"out{TABLE[to].suffixes[0]}"
    assert run("generate", "--to", to, *given, "-o", str(output)) == 0
    assert len(reading.read(output, to)) > 0
    assert [p.name for p in tmp_path.iterdir()] == [output.name]


def test_several_inputs_and_a_language(files, tmp_path, capsys):
    assert (
        run(
            "generate",
            "--to",
            "text",
            "--image",
            str(files / "image.png"),
            "--audio",
            str(files / "audio.flac"),
            "--text",
            "How many objects are there?",
            "--language",
            "en",
            "-o",
            str(tmp_path / "a.txt"),
        )
        == 0
    )
    said = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert said.strip() == capsys.readouterr().out.strip() and said.isascii()


def test_a_seed_decides(files, tmp_path):
    made = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert (
            run(
                "generate",
                "--to",
                "image",
                "--text",
                SENTENCE,
                "--seed",
                seed,
                "-o",
                str(tmp_path / f"{name}.png"),
            )
            == 0
        )
        made.append((tmp_path / f"{name}.png").read_bytes())
    assert made[0] == made[1] != made[2]


MISTAKES = [
    ("generate --to image -o a.png", "no input"),
    ("generate --to image --text '  ' -o a.png", "an empty sentence"),
    ("demo ''", "an empty sentence"),
    ("generate --to image --text hi -o a.jpx", "a.jpx"),
    ("generate --to image --text hi -o a.wav", "a.wav"),
    ("generate --to text --image none.png -o a.txt", "none.png"),
    ("generate --to image --text hi --temperature -1 -o a.png", "temperature"),
    ("generate --to image --text hi --top-p 0 -o a.png", "top_p"),
    ("generate --to image --text hi --guidance 99 -o a.png", "guidance"),
    ("generate --to image --text hi --model nowhere -o a.png", "nowhere"),
    ("generate --to image --text hi -o /dev/null/folder/a.png", "/dev/null/folder"),
    ("train laptop --preset smoke -o /dev/null/x", "/dev/null/x"),
    ("evaluate table nowhere", "nowhere"),
    ("evaluate table nowhere --every 0", "--every 0"),
    ("evaluate codecs --json /dev/null/x/a.json", "/dev/null/x"),
    ("evaluate matrix --json /tmp", "/tmp"),
    ("evaluate matrix --items 0", "--items 0"),
    ("evaluate codecs --items 0", "--items 0"),
]


@pytest.mark.parametrize(("command", "value"), MISTAKES)
def test_a_mistake_is_one_line_with_status_2_and_nothing_is_written(
    command, value, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run(*shlex.split(command)) == 2
    told = capsys.readouterr()
    assert (
        told.err.startswith("onnuri: ")
        and told.err.count("\n") == 1
        and value in told.err
        and ";" in told.err
    )
    assert not list(tmp_path.iterdir()) and told.out == ""


def test_what_is_far_from_the_world_gets_an_answer(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:480, 0:640]
    photograph = np.stack(
        [127 + 90 * np.sin(x / 37 + k) * np.cos(y / (23 + 9 * k)) for k in range(3)], -1
    )
    Image.fromarray(
        (photograph + rng.normal(0, 9, photograph.shape)).clip(0, 255).astype(np.uint8)
    ).save(tmp_path / "photo.jpg")
    t = np.arange(16_000 * 6) / 16_000
    chord = (
        sum(np.sin(2 * np.pi * f * t) for f in (220, 277, 330))
        * 0.2
        * (1 + np.sin(2 * np.pi * 2 * t))
    )
    soundfile.write(tmp_path / "music.wav", np.stack([chord, chord], 1), 16_000)
    for given in (["--image", "photo.jpg"], ["--audio", "music.wav"]):
        for to in ("text", "image"):
            output = tmp_path / f"out{TABLE[to].suffixes[0]}"
            assert (
                run("generate", "--to", to, given[0], str(tmp_path / given[1]), "-o", str(output))
                == 0
            )
            assert output.exists()
    assert (
        run(
            "generate",
            "--to",
            "text",
            "--text",
            "오늘 점심 뭐 먹지? 🍜",
            "-o",
            str(tmp_path / "o.txt"),
        )
        == 0
    )


def test_chat_takes_files_answers_in_any_modality_and_explains_mistakes(files, tmp_path):
    talk = ChatSession(onnuri.load(), tmp_path, {})
    assert "taken" in talk.say(f"/image {files / 'image.png'}")
    assert talk.say("몇 개가 있나요?") not in (None, "")
    assert (
        talk.say("/to image")
        and talk.say(SENTENCE).endswith(".png")
        and len(list(tmp_path.glob("*.png"))) == 1
    )
    with pytest.raises(onnuri.errors.OnnuriError, match="is not a command"):
        talk.say("/frobnicate")
    with pytest.raises(onnuri.errors.OnnuriError):
        talk.say("/image nowhere.png")
    assert talk.say("/quit") is None


def test_export_loads_with_transformers_alone(tmp_path, model):
    assert run("export", str(tmp_path / "folder")) == 0
    program = (
        "import sys, json, torch; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32); "
        "t = AutoTokenizer.from_pretrained(sys.argv[1]); "
        "ids = torch.arange(5, 45)[None] * 7; "
        "print(json.dumps([type(m).__name__, 'onnuri' in sys.modules, t('red').input_ids, "
        "m(input_ids=ids).logits[0, :, ::97].flatten().tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "folder"],
        capture_output=True,
        text=True,
        check=True,
    )
    name, imported, ids, logits = json.loads(done.stdout.splitlines()[-1])
    assert (
        name == "LlamaForCausalLM"
        and not imported
        and ids == model.codecs["text"].encode("red").tolist()
    )
    with torch.no_grad():
        ours = model.network(input_ids=torch.arange(5, 45)[None] * 7).logits[0, :, ::97].flatten()
    assert torch.allclose(torch.tensor(logits), ours, atol=1e-5)


def test_weights_are_small_whole_and_ours():
    folder = onnuri.WEIGHTS / "laptop"
    files = [p for p in onnuri.WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 40e6
    about = json.loads((folder / "onnuri.json").read_text())
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")} <= set(
        about["sha256"]
    )
    assert about["format"] == 2 and [spec["name"] for spec in about["layout"]["codecs"]] == list(
        MEDIA
    )


@pytest.mark.parametrize(
    ("said", "solid"),
    [
        ("cube", "cube"),
        ("star", "star"),
        ("draw ball", "sphere"),
        ("공 그려줘", "sphere"),
        ("큐브", "cube"),
        ("capsule", "capsule"),
    ],
)
def test_a_name_alone_is_drawn(model, said, solid):
    made = model.generate("image", [("text", said)], seed=1)
    assert [thing.solid for thing in observe(made).things] == [solid]
