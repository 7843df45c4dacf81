"""The folder: transformers alone reads the same model, damage is one line, and every modality comes
out of any other."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from foreign_codecs import small_emu3, small_mimi
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import onnuri
from onnuri.codecs import audio as audio_codec
from onnuri.codecs import registry
from onnuri.codecs.audio import AudioCodec
from onnuri.codecs.emu3 import Emu3Codec
from onnuri.codecs.text import TextCodec
from onnuri.errors import ConfigError, WeightsError
from onnuri.modality import MEDIA
from onnuri.model import token_layout
from onnuri.model.backbone import BackboneConfig
from onnuri.model.objective import start_from_features
from onnuri.model.omni import OmniModel, hashes_of, load_codecs, new_layout
from onnuri.toyworld import image, mesh
from onnuri.toyworld.codecs import image as image_codec
from onnuri.toyworld.codecs import mesh as shape_codec
from onnuri.toyworld.codecs import video as video_codec
from onnuri.toyworld.codecs import visual
from onnuri.toyworld.codecs.image import ImageCodec
from onnuri.toyworld.codecs.mesh import ShapeCodec
from onnuri.toyworld.codecs.video import VideoCodec
from onnuri.toyworld.front_end.notice import notices
from onnuri.toyworld.scene import sample_scene


@pytest.fixture(scope="module")
def codecs():
    """Untrained: the folder does not know how well a codec hears."""
    torch.manual_seed(0)
    image = ImageCodec().eval()
    text = TextCodec.learn(
        ["a red sphere is left of a blue cube", "빨간 구가 파란 정육면체 왼쪽에 있다"] * 4, 400
    )
    return {
        "text": text,
        "image": image,
        "video": VideoCodec(image.config, image.visual).eval(),
        "audio": AudioCodec().eval(),
        "shape": ShapeCodec().eval(),
    }


@pytest.fixture(scope="module")
def made(codecs):
    torch.manual_seed(1)
    size = new_layout(codecs).size
    return OmniModel(
        BackboneConfig(vocabulary=size, width=32, layers=2, heads=2, hidden=64).build(), codecs
    )


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("omni") / "model"
    made.save(path)
    return path


def test_transformers_alone_gives_the_same_logits(made, folder):
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(0, made.layout.size, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        own = OmniModel.load(folder).network(input_ids=ids).logits
        assert torch.equal(stock(input_ids=ids).logits, own)
        assert torch.allclose(made.network(input_ids=ids).logits, own, atol=2e-3)  # 16-bit weights
    assert type(stock).__name__ == "LlamaForCausalLM"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"


def test_the_tokenizer_and_the_generation_config_know_the_special_tokens(made, folder):
    tokenizer, settings = (
        AutoTokenizer.from_pretrained(folder),
        GenerationConfig.from_pretrained(folder),
    )
    special = made.layout.special
    assert [tokenizer.convert_tokens_to_ids(t) for t in made.layout.specials] == [
        special(t) for t in made.layout.specials
    ]
    sentence = "빨간 구 is left of a cube"
    assert (
        tokenizer(sentence, add_special_tokens=False).input_ids
        == made.codecs["text"].encode(sentence).tolist()
    )
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (
        special("<bos>"),
        special("<eos>"),
        special("<pad>"),
    )


def test_weights_that_are_not_what_was_written_are_one_line(made, tmp_path):
    path = tmp_path / "model"
    made.save(path)
    for file in ("codecs/audio/model.safetensors", "model.safetensors"):
        whole = (path / file).read_bytes()
        (path / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(WeightsError, match="is missing or is not what was written"):
            OmniModel.load(path)
        (path / file).write_bytes(whole)
    OmniModel.load(path)
    with pytest.raises(WeightsError, match=r"has no onnuri\.json"):
        OmniModel.load(tmp_path)


@pytest.mark.parametrize(
    "file,left",
    [
        ("onnuri.json", ""),
        ("onnuri.json", "{}"),
        ("onnuri.json", "[1]"),
        ("config.json", ""),
        ("config.json", '{"model_type": "lla'),
    ],
)
def test_a_folder_whose_settings_are_damaged_is_one_line(made, tmp_path, file, left):
    made.save(tmp_path / "model")
    (tmp_path / "model" / file).write_text(left)
    with pytest.raises(WeightsError, match=r"is not what was written|holds no model"):
        OmniModel.load(tmp_path / "model")


@pytest.mark.parametrize(
    "file",
    [
        "visual/config.json",
        "visual/spec-video.json",
        "shape/model.safetensors",
        "text/tokenizer.json",
    ],
)
@pytest.mark.parametrize("left", [None, 0, 20])
def test_codecs_that_cannot_be_read_are_one_line(made, tmp_path, file, left):
    registry.save(made.codecs, tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    if left is not None:
        (tmp_path / file).write_bytes(whole[:left])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_codecs(tmp_path)


def test_saving_replaces_a_folder_and_leaves_nothing_beside_it(made, tmp_path):
    for _ in range(2):
        made.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("to", MEDIA)
def test_a_modality_comes_in_its_form_and_its_grid(made, to):
    """Whatever an untrained model draws, it is an item: the allowed ranges see to that."""
    prompt = made.prompt([("text", "a red sphere")], to, "en")
    ids = made.engine.generate(
        [prompt], made.token_constraint(to), made.sampling[to], [3], [made.prompt([], to, "en")]
    )[0]
    read = made.layout.segments([*prompt, *ids])
    assert [m for m, _, _ in read] == ["text", to]
    if slots := made.layout.spec(to).slots:
        assert all(
            lo <= c < hi for c, (lo, hi) in zip(read[1][2], slots.position_ranges, strict=True)
        )
    item = made.codecs[to].decode(read[1][2])
    assert isinstance(item, str) if to == "text" else isinstance(item, np.ndarray)


def test_a_seed_says_it_all(made):
    a, b, c = (made.generate("image", text="a red sphere", seed=s) for s in (5, 5, 6))
    assert (a == b).all() and not (a == c).all()


def test_what_cannot_be_asked_is_one_line(made):
    for ask in (
        lambda: made.generate("smell", text="a"),
        lambda: made.generate("image", smell="a"),
        lambda: made.generate("image", text="a", top_p=0.0),
        lambda: made.generate("image", [("text", "a red sphere " * 60)] * 40),
    ):
        with pytest.raises(ConfigError):
            ask()


def test_embeddings_of_codes_that_say_alike_begin_alike(made, codecs):
    size = made.layout.size
    network = BackboneConfig(vocabulary=size, width=64, layers=1, heads=1, hidden=32).build()
    before = network.get_input_embeddings().weight.std().item()
    start_from_features(network, made.layout, codecs)
    lo, hi = made.layout.span("audio")
    features, rows = (
        codecs["audio"].code_features(),
        network.get_input_embeddings().weight[lo:hi].detach(),
    )
    far = torch.cdist(features[:256], features[:256]).flatten()
    apart = torch.cdist(rows[:256], rows[:256]).flatten()
    assert torch.corrcoef(torch.stack([far, apart]))[0, 1] > 0.4
    assert 0.5 < rows.std().item() / before < 2


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate("smell", text="a red cube"),
        lambda model: model.reply("smell", text="a red cube"),
        lambda model: model.generate_batch("smell", [[("text", "a red cube")]]),
        lambda model: model.generate("image", smell="a red cube"),
    ],
)
def test_what_is_no_modality_is_said_with_those_that_are(made, call):
    with pytest.raises(ConfigError, match="'smell': is not a modality; use one of text, image"):
        call(made)


def test_a_folder_is_read_by_itself_after_every_default_of_the_code_changed(model, monkeypatch):
    """Grids, codes, orders, counts and the layout's own rules: what was saved says them all."""
    scene = sample_scene(4, "seen")
    given = {
        "image": image.render(scene).image,
        "shape": mesh.voxels(scene),
        "text": "a red cube left of a blue sphere",
    }
    pairs = [
        ("text", "image"),
        ("text", "video"),
        ("text", "shape"),
        ("image", "shape"),
        ("shape", "text"),
        ("image", "text"),
    ]

    def answers(of):
        return [
            of.generate(to, [(source, given[source])], seed=2, temperature=0.0)
            for source, to in pairs
        ]

    before = answers(model)
    fields = tuple(
        field.replace(codes=field.codes // 2, weight=7.0) for field in reversed(visual._FIELDS)
    )
    monkeypatch.setattr(visual, "_FIELDS", fields)
    monkeypatch.setattr(visual, "_IMAGE_ORDER", ("background", *reversed(visual._OBJECT)))
    monkeypatch.setattr(visual, "_VIDEO_ORDER", ("background", *reversed(visual._OBJECT), "motion"))
    for module in (visual, shape_codec, image_codec):
        monkeypatch.setattr(module, "OBJECTS", 1)
    monkeypatch.setattr(audio_codec, "LEVELS", (8, 8, 8, 8, 8))
    monkeypatch.setattr(audio_codec, "audio_spec", lambda: pytest.fail("a default was asked for"))
    monkeypatch.setattr(shape_codec, "shape_spec", lambda: pytest.fail("a default was asked for"))
    monkeypatch.setattr(image_codec, "image_spec", lambda: pytest.fail("a default was asked for"))
    monkeypatch.setattr(video_codec, "video_spec", lambda: pytest.fail("a default was asked for"))
    monkeypatch.setattr(token_layout, "BEFORE_MEDIA", ("<bos>", "<pad>", "<new>", "<eos>"))
    monkeypatch.setattr(token_layout, "AFTER_MEDIA", ("<|word|>",))
    assert visual.image_spec().num_codes != model.layout.spec("image").num_codes
    again = OmniModel.load(onnuri.WEIGHTS / "laptop")
    for one, other in zip(before, answers(again), strict=True):
        assert one == other if isinstance(one, str) else (one == other).all()


def test_a_codec_that_is_another_than_the_layouts_is_one_line(made, folder, tmp_path):
    """Its weights may be whole, but its codes mean other things."""
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    spec = path / "codecs/audio/spec-audio.json"
    spec.write_text(spec.read_text().replace('"max_codes": 384', '"max_codes": 300'))
    with pytest.raises(
        WeightsError, match=r"spec-audio\.json: is missing or is not what was written"
    ):
        OmniModel.load(path)
    about = json.loads((path / "onnuri.json").read_text())
    about["sha256"] = hashes_of(path)
    (path / "onnuri.json").write_text(json.dumps(about))
    with pytest.raises(
        WeightsError, match="holds another codec 'audio' than its token layout was made for"
    ):
        OmniModel.load(path)


@pytest.mark.parametrize(
    "about,message",
    [
        ({"format": 1}, "has format 1, and this version reads format 2; write it anew"),
        ({"layout": {}}, "holds no token layout"),
        ({"layout": [1]}, "holds no token layout"),
        ({"layout": None}, "holds no token layout"),
    ],
)
def test_a_folder_without_a_layout_is_one_line(folder, tmp_path, about, message):
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    written = json.loads((path / "onnuri.json").read_text())
    (path / "onnuri.json").write_text(json.dumps({**written, **about}))
    with pytest.raises(WeightsError, match=message):
        OmniModel.load(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_export_keeps_the_type_of_its_weights(made, codecs, tmp_path, dtype):
    """A bfloat16 model stays one, also through the 32 bits in which it is loaded, and a weight of
    1e6 is no infinity."""
    network = copy.deepcopy(made.network).to(dtype)
    if dtype is torch.bfloat16:
        with torch.no_grad():
            network.get_input_embeddings().weight[0, 0] = 1e6
    OmniModel(network, codecs, made.layout).save(tmp_path / "first")
    OmniModel.load(tmp_path / "first").save(tmp_path / "second")
    for folder in ("first", "second"):
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype="auto")
        assert stock.dtype == dtype
        for one, other in zip(stock.parameters(), network.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_weight_beyond_float16_is_written_in_bfloat16(made, codecs, tmp_path):
    network = copy.deepcopy(made.network)
    with torch.no_grad():
        network.get_input_embeddings().weight[0, 0] = 7e4
    OmniModel(network, codecs, made.layout).save(tmp_path / "model")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert stock.dtype == torch.bfloat16 and bool(
        stock.get_input_embeddings().weight.isfinite().all()
    )


@pytest.fixture(scope="module")
def foreigners():
    """Two more codecs of media that the model has one of already."""
    return {"emu3": small_emu3(), "mimi": small_mimi()}


def test_two_codecs_of_a_modality_in_one_model_come_back_from_its_folder(
    codecs, foreigners, tmp_path
):
    every = {**codecs, **foreigners}
    layout = new_layout(every)
    network = BackboneConfig(vocabulary=layout.size, width=32, layers=2, heads=2, hidden=64).build()
    made = OmniModel(network, every, layout)
    made.save(tmp_path / "model")
    again = OmniModel.load(tmp_path / "model")
    assert again.layout == layout and list(again.codecs) == [*MEDIA, "emu3", "mimi"]
    picture = image.render(sample_scene(3)).image
    assert (
        len(again.encode("image", picture)) == 31
        and (again.encode("emu3", picture) == every["emu3"].encode(picture)).all()
    )
    for model in (made, again):
        drawn = [
            model.generate(to, [("emu3", picture), ("text", "a red cube")], seed=1)
            for to in ("image", "emu3", "mimi")
        ]
        assert drawn[0].shape == (128, 128, 3) and drawn[1].shape[2] == 3
        assert [x.dtype for x in drawn] == [np.uint8, np.uint8, np.float32]
    read = again.layout.segments(
        again.prompt([("emu3", picture), ("image", picture)], "text", "en")
    )
    assert [name for name, _, _ in read] == ["emu3", "image", "text"]
    assert (read[0][2] == every["emu3"].encode(picture)).all()


def test_a_codec_too_long_for_the_model_is_refused_and_a_long_one_leaves_room_for_the_others(
    codecs, tmp_path
):
    config = small_emu3().config
    for side, fits in ((44, True), (46, False)):
        every = {
            **codecs,
            "emu3": Emu3Codec(config.replace(max_height=side, max_width=side)).eval(),
        }
        layout = new_layout(every)
        network = BackboneConfig(
            vocabulary=layout.size, width=32, layers=1, heads=2, hidden=32
        ).build()
        if not fits:
            with pytest.raises(
                ConfigError,
                match="codec 'emu3' of up to 2118 codes: does not fit the 2048 positions",
            ):
                OmniModel(network, every, layout)
            continue
        model = OmniModel(network, every, layout)
        assert model.answers.room == OmniModel(network, codecs).answers.room == 1280
        assert model.generate("image", text="a red cube").shape == (128, 128, 3)
        with pytest.raises(
            ConfigError, match="leave no room for an answer of 'emu3', 94 at most fit"
        ):
            model.generate("emu3", [("text", "a red sphere " * 60)])


def test_notices_of_a_second_codec_are_those_of_its_modality(model):
    photo = ImageCodec(
        model.codecs["image"].config,
        model.codecs["image"].visual,
        model.codecs["image"].spec.replace(name="photo"),
    ).eval()
    every = {**model.codecs, "photo": photo}
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    for name in ("image", "photo"):
        codes = every[name].encode(picture)
        assert notices([], [(name, picture, codes)], every, "en") == notices(
            [], [("image", picture, codes)], model.codecs, "en"
        )


def test_what_is_longer_than_its_codec_says_is_cut(made):
    """A long text by its tokens: what is read is as long as what is written at most."""
    most = made.layout.spec("text").max_codes
    assert (
        len(made.codecs["text"].encode("a red sphere " * 200))
        > most
        == len(made.encode("text", "a red sphere " * 200))
    )
