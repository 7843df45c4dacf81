"""The recipe of real pictures, all its stages, on a table of a few."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import onnuri
from onnuri.cli import main
from onnuri.codecs import registry
from onnuri.codecs.grid import GridCodec
from onnuri.data.ingest.run import ingest
from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.picture_tasks import ItemNames
from onnuri.errors import ConfigError
from onnuri.evaluation import real_report
from onnuri.evaluation.real import HeldOut
from onnuri.model.omni import Reply
from onnuri.model.word_list import WordListFrontEnd
from onnuri.recipes import pictures


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Ten pictures with names, in all three splits."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "in").mkdir()
    lines = []
    for number in range(10):
        pixels = np.zeros((40, 40, 4), np.uint8)
        pixels[5 : 20 + number, 5:30] = (*np.random.default_rng(number).integers(0, 256, 3), 255)
        Image.fromarray(pixels).save(folder / f"in/{number}.png")
        split = "dev" if number > 7 else "train"
        line = {"image": f"{number}.png", "text": f"thing {number}", "split": split}
        lines.append(json.dumps({**line, "style": "flat", "concept": str(number)}) + "\n")
    (folder / "in/list.jsonl").write_text("".join(lines))
    ingest(folder / "in", folder / "table", IngestConfig(workers=0, near_duplicates="keep"))
    return folder / "table"


def test_every_stage_runs_and_the_same_command_goes_on(table, tmp_path, capsys):
    command = ["train", "pictures", str(table), "--preset", "smoke", "-o", str(tmp_path / "run")]
    main(command)
    told = capsys.readouterr().out
    assert "took 10 pictures of 72 pixels" in told and "codes in use" in told
    figures = json.loads((tmp_path / "run/codec.json").read_text())
    assert figures["dev"]["groups"]["flat"]["n"] == 2
    assert figures["photographs"]["groups"]["photographs"]["n"] >= 12
    weights = (tmp_path / "run/codecs/grid/model.safetensors").read_bytes()
    codec = registry.load(tmp_path / "run/codecs")["image"]
    assert codec.encode(np.zeros((9, 9, 3), np.uint8)).shape == (64,)
    model = onnuri.load(tmp_path / "run/model")
    assert model.layout.names == ("text", "image") and model.layout.tasks
    drawn = model.generate("image", text="thing 1")
    assert drawn.shape == (64, 64, 3) and drawn.dtype == np.uint8
    assert isinstance(model.generate("text", image=drawn, language="en"), str)
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    table = load_file(tmp_path / "run/model/model.safetensors")["model.embed_tokens.weight"]
    assert table.shape == (model.layout.size, 32)
    # the sums over digits are written out: else a loader would begin with random ones
    assert (network.get_input_embeddings().weight == table.float()).all()
    written = (tmp_path / "run/model/model.safetensors").stat().st_mtime_ns
    main(command)  # nothing is left to do
    assert (tmp_path / "run/codecs/grid/model.safetensors").read_bytes() == weights
    assert (tmp_path / "run/model/model.safetensors").stat().st_mtime_ns == written
    assert "took" not in capsys.readouterr().out


def test_a_run_is_judged_on_what_it_was_not_trained_on(table, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    main(["train", "pictures", str(table), "--preset", "smoke", "-o", str(run)])

    class Bright:
        """A judge that sees the mean colour alone."""

        name = "bright"

        def features(self, pictures):
            """Return the mean colours, of length 1."""
            means = np.array([picture.mean((0, 1)) for picture in pictures]) + 1
            return means / np.linalg.norm(means, axis=1, keepdims=True)

    monkeypatch.setattr(real_report, "EfficientNetJudge", Bright)
    main(["evaluate", "real", str(run)])
    told = json.loads((run / "real-dev.json").read_text())
    assert told["judge"] == "bright" and told["drawn"]["unseen"]["at_1"]["n"] == 2
    assert (run / "real-dev.html").exists()
    for wrong, words in (
        ([str(run), "--model", str(onnuri.WEIGHTS / "laptop")], "is no model of any pictures"),
        ([str(tmp_path)], "holds no pictures"),
        ([str(run), "--items", "-3"], "--items -3: is below 1"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", "real", *wrong])
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "real", str(run), "--split", "test"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "split 'test': has no picture with a name; use dev or test" in line


def test_names_are_doubted_if_they_are_less_probable_than_right_ones(monkeypatch):
    """Of right names a twentieth is doubted; wrong ones and other languages count for nothing."""
    items = [
        HeldOut("c", "flat", "pairs", {"en": ItemNames(f"n{k}", ())}, np.zeros((8, 8, 3)))
        for k in range(200)
    ]
    others = [item._replace(group="unseen") for item in items]
    monkeypatch.setattr(pictures, "held_out", lambda store, split, side: items + others)
    asked = []

    def first_names(model, shown, language):
        """Every second name is right; the more probable, the later."""
        start = len(asked)
        asked.extend(shown)
        assert language == "en" or not len(shown)
        return [
            Reply(f"n{k}" if k % 2 else "?", "en", logprob=k - 300.0)
            for k in range(start, start + len(shown))
        ]

    monkeypatch.setattr(pictures, "first_names", first_names)
    front_end = WordListFrontEnd(["a"])
    model = SimpleNamespace(codecs={"image": SimpleNamespace(side=8)})
    pictures.calibrate(model, front_end, None)
    assert len(asked) == 200
    doubted = [k for k in range(1, 200, 2) if front_end.unsure({"text": [k - 300.0]}, "en")]
    assert doubted == [1, 3, 5, 7, 9]
    assert not front_end.unsure({"image": [-300.0]}, "en")
    few = WordListFrontEnd(["a"])
    del items[50:], others[:], asked[:]
    pictures.calibrate(model, few, None)  # 25 right names say too little: it doubts all
    assert few.unsure({"text": [-9e9]}, "en") and few.unsure({"text": [-0.001]}, "en")
    assert not few.unsure({"image": [-9e9]}, "en")


def test_mistakes_are_one_line_and_leave_nothing(table, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match="2"):
        main(["train", "pictures", str(tmp_path), "--preset", "smoke", "-o", str(out)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds no ingested media" in line and not out.exists()
    main(["train", "pictures", str(table), "--preset", "smoke", "-o", str(out)])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["train", "pictures", str(table), "--preset", "cpu", "-o", str(out)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        "holds a run with another codec, loop, losses, model, patches, shares, size; give another --out"
        in line
    )


def test_a_run_goes_on_with_its_own_table_alone(table, tmp_path, capsys):
    """Its pictures were taken once: others would be left out without a word."""
    out = tmp_path / "run"
    main(["train", "pictures", str(table), "--preset", "smoke", "-o", str(out)])
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in/more.png")
    ingest(tmp_path / "in", tmp_path / "table", IngestConfig(workers=0))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["train", "pictures", str(tmp_path / "table"), "--preset", "smoke", "-o", str(out)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds a run with another table_sha256" in line


def test_shares_are_of_styles_that_the_table_has(table, tmp_path, monkeypatch):
    """One's own pictures have none of the styles of `data fetch real`."""
    settings = pictures.smoke().replace(shares=pictures.PHOTOGRAPHS | {"flat": 0.3})
    store = pictures.pictures(table, settings, tmp_path)
    asked = []

    def fit(objective, *_):
        """Keep the objective, and train nothing."""
        asked.append(objective)

    monkeypatch.setattr(pictures, "fit", fit)
    with pytest.raises(ConfigError, match=r"leave 0\.7 to 0 other pictures"):
        pictures.codec(store, settings, tmp_path)
    pictures.codec(store, settings.replace(shares=pictures.PHOTOGRAPHS), tmp_path)
    (objective,) = asked
    assert np.allclose(objective.chances, 1 / 8)


def test_a_kill_while_the_codec_is_written_leaves_none(table, tmp_path, monkeypatch):
    command = ["train", "pictures", str(table), "--preset", "smoke", "-o", str(tmp_path / "run")]
    save = GridCodec.save

    def cut_off(codec, folder):
        """Write half of a codec, and end as a killed process does."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(GridCodec, "save", cut_off)
    with pytest.raises(SystemExit, match="130"):
        main(command)
    assert not (tmp_path / "run/codecs/grid").exists()
    monkeypatch.setattr(GridCodec, "save", save)
    main(command)
    assert registry.load(tmp_path / "run/codecs")["image"].spec.item_codes == 64
