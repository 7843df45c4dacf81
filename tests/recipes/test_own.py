"""A folder of one's own pictures: captions of all kinds, what is rehearsed, and a model at the
end."""

import numpy as np
import pytest
import torch
from PIL import Image

import onnuri
from onnuri.cli import main
from onnuri.codecs.grid import GridCodec, GridConfig
from onnuri.codecs.text import TextCodec
from onnuri.data.picture_store import PictureStore
from onnuri.data.picture_table import name_of_file
from onnuri.errors import ConfigError
from onnuri.model.backbone import BackboneConfig
from onnuri.model.omni import OmniModel, new_layout
from onnuri.model.word_list import WordListFrontEnd
from onnuri.recipes import own
from onnuri.training.loop import TrainConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of pictures that has learned nothing."""
    torch.manual_seed(0)
    codec = GridCodec(GridConfig(side=16, stem=4, strides=(), widths=(16,), cell_blocks=1))
    text = TextCodec.learn(["red car", "빨간 차", "what is this?"], 300)
    codecs = {"text": text, "image": codec.eval().requires_grad_(False)}
    layout = new_layout(codecs, tasks=True)
    shape = {"width": 32, "layers": 1, "heads": 2, "hidden": 48, "longest": 512}
    network = BackboneConfig(vocabulary=layout.size, **shape).build()
    folder = tmp_path_factory.mktemp("base") / "model"
    OmniModel(network, codecs, layout, front_end=WordListFrontEnd()).save(folder)
    return folder


@pytest.fixture
def small(monkeypatch):
    settings = own.OwnConfig(
        views=own.Views(drawn=1, seen=1),
        rehearsed=3,
        tokens=256,
        loop=TrainConfig(steps=3, log_every=1),
    )
    monkeypatch.setattr(own, "OwnConfig", lambda: settings)


def picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    (made / "more").mkdir(parents=True)
    for seed, name in enumerate(("red_car-02.png", "IMG_1.png", "more/파란 배.png", "told.jpg")):
        picture(made / name, seed)
    (made / "IMG_1.txt").write_text("my cat")
    (made / "metadata.csv").write_text("file_name,text_ko,text_en\ntold.jpg,개,Dog\n")
    return made


def test_a_folder_ends_in_a_model_that_has_learned_it(folder, base, small, tmp_path, capsys):
    command = ["train", "own", str(folder), "--base", str(base), "-o", str(tmp_path / "run")]
    main(command)
    told = capsys.readouterr().out
    assert "took 4 pictures" in told and "wrote" in told
    store = PictureStore(tmp_path / "run/pictures")
    assert {item.names for item in store.items} == {
        ("red car",),
        ("my cat",),
        ("파란 배",),
        ("개", "Dog"),
    }
    assert {item.split for item in store.items} == {"train"}
    with np.load(tmp_path / "run/rehearsal.npz") as saved:
        assert saved["codes"].shape == (3, 16) and len(saved["ko"]) == len(saved["en"]) == 3
    model, before = onnuri.load(tmp_path / "run/model"), onnuri.load(base)
    assert model.layout == before.layout and model.front_end.name == "words"
    assert model.generate("image", text="red car").shape == (16, 16, 3)
    changed = [
        not torch.equal(p, q)
        for p, q in zip(model.network.parameters(), before.network.parameters(), strict=True)
    ]
    assert any(changed)
    assert model.front_end.read("Red CAR, 파란 배를 cart").unknown == ("cart",)
    main(command)  # nothing is left to do
    assert "took" not in capsys.readouterr().out


def test_half_of_what_is_learned_is_rehearsed(folder, base, small, tmp_path, monkeypatch):
    seen = []

    def fit(objective, *_):
        """Keep the sequences of some rows, and train nothing."""
        rng = np.random.default_rng(0)
        seen.extend(objective.source.sample(rng) for _ in range(400))

    monkeypatch.setattr(own, "fit", fit)
    own.train(folder, tmp_path / "run", base, None)
    store = PictureStore(tmp_path / "run/pictures")
    codes = own.CodeStore(tmp_path / "run/codes").codes
    ours = {view.astype(np.int64).tobytes() for each in codes for view in each}
    pictures = [s.codes.tobytes() for sequence in seen for s in sequence if s.codec == "image"]
    assert 0.4 < np.mean([each in ours for each in pictures]) < 0.6
    text = onnuri.load(base).codecs["text"]
    said = {text.decode(s.codes) for sequence in seen for s in sequence if s.codec == "text"}
    assert {"red car", "my cat", "파란 배", "개", "dog"} <= said and len(store) == 4


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("red_car-02.png", "red car"),
        ("a/b/My House (3).jpeg", "My House"),
        ("고양이.webp", "고양이"),
        ("고양이.webp", "고양이"),  # as macOS writes it
        ("7up.png", "7up"),
        ("route 66.png", "route"),
    ],
)
def test_a_file_is_named_after_what_it_shows(path, name):
    assert name_of_file(path) == name


@pytest.mark.parametrize("path", ["IMG_1234.jpg", "dsc00017.JPG", "12.png", "사진 3.png", "_.png"])
def test_a_name_that_says_nothing_is_a_mistake(path):
    with pytest.raises(ConfigError, match=r"its name says nothing; name it after what it shows"):
        name_of_file(path)


def test_mistakes_are_one_line_and_leave_no_model(folder, base, small, tmp_path, capsys):
    out = tmp_path / "run"

    def line_of(*command):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "own", *map(str, command), "-o", str(out)])
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "is no model of any pictures" in line_of(folder, "--base", onnuri.WEIGHTS / "laptop")
    assert "has no onnuri.json" in line_of(folder, "--base", tmp_path)
    for minutes in ("0", "-1", "nan"):
        line = line_of(folder, "--base", base, "--minutes", minutes)
        assert f"--minutes {minutes}: teach nothing; give more than 0" in line
    assert not out.exists()
    picture(folder / "DSC_2.png", 9)
    assert "DSC_2.png: has no caption" in line_of(folder, "--base", base)
    assert not (out / "model").exists()
    (tmp_path / "empty").mkdir()
    assert "holds nothing to ingest" in line_of(tmp_path / "empty", "--base", base)


def test_a_run_goes_on_with_its_own_pictures_alone(folder, base, small, tmp_path, capsys):
    """Those that came later would be left out without a word."""
    command = ["train", "own", str(folder), "--base", str(base), "-o", str(tmp_path / "run")]
    main(command)
    picture(folder / "blue house.png", 7)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(command)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds a run with another table_sha256; give another --out" in line
