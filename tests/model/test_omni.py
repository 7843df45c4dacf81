"""The folder: transformers alone reads the same model, damage is one line, and every medium comes out of any other."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from onnuri.codecs.audio import AudioCodec
from onnuri.codecs.image import ImageCodec
from onnuri.codecs.shape import ShapeCodec
from onnuri.codecs.text import TextCodec
from onnuri.codecs.video import VideoCodec
from onnuri.errors import ConfigError, WeightsError
from onnuri.modality import MEDIA, TABLE
from onnuri.model.backbone import BackboneConfig
from onnuri.model.objective import start_from_features
from onnuri.model.omni import OmniModel, load_codecs, save_codecs
from onnuri.model.vocabulary import SPECIALS, Vocabulary


@pytest.fixture(scope="module")
def codecs():
    """Untrained: the folder does not know how well a codec hears."""
    torch.manual_seed(0)
    image = ImageCodec().eval()
    text = TextCodec.learn(["a red sphere is left of a blue cube", "빨간 구가 파란 정육면체 왼쪽에 있다"] * 4, 400)
    return {"text": text, "image": image, "video": VideoCodec(image.config, image.visual).eval(),
            "audio": AudioCodec().eval(), "shape": ShapeCodec().eval()}


@pytest.fixture(scope="module")
def made(codecs):
    torch.manual_seed(1)
    size = Vocabulary(codecs["text"].num_codes).size
    return OmniModel(BackboneConfig(vocabulary=size, width=32, layers=2, heads=2, hidden=64).build(), codecs)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("omni") / "model"
    made.save(path)
    return path


def test_transformers_alone_gives_the_same_logits(made, folder):
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(0, made.vocabulary.size, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        own = OmniModel.load(folder).network(input_ids=ids).logits
        assert torch.equal(stock(input_ids=ids).logits, own)
        assert torch.allclose(made.network(input_ids=ids).logits, own, atol=2e-3)  # 16-bit weights
    assert type(stock).__name__ == "LlamaForCausalLM"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"


def test_the_tokenizer_and_the_generation_config_know_the_special_tokens(made, folder):
    tokenizer, settings = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    special = made.vocabulary.special
    assert [tokenizer.convert_tokens_to_ids(t) for t in SPECIALS] == [special(t) for t in SPECIALS]
    sentence = "빨간 구 is left of a cube"
    assert tokenizer(sentence, add_special_tokens=False).input_ids == made.codecs["text"].encode(sentence).tolist()
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == \
        (special("<bos>"), special("<eos>"), special("<pad>"))


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


@pytest.mark.parametrize("file,left", [("onnuri.json", ""), ("onnuri.json", "{}"), ("onnuri.json", "[1]"),
                                       ("config.json", ""), ("config.json", '{"model_type": "lla')])
def test_a_folder_whose_settings_are_damaged_is_one_line(made, tmp_path, file, left):
    made.save(tmp_path / "model")
    (tmp_path / "model" / file).write_text(left)
    with pytest.raises(WeightsError, match=r"is not what was written|holds no model"):
        OmniModel.load(tmp_path / "model")


@pytest.mark.parametrize("file", ["visual/config.json", "shape/model.safetensors", "text/tokenizer.json"])
@pytest.mark.parametrize("left", [None, 0, 20])
def test_codecs_that_cannot_be_read_are_one_line(made, tmp_path, file, left):
    save_codecs(made.codecs, tmp_path)
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
def test_a_medium_comes_in_its_form_and_its_grid(made, to):
    """Whatever an untrained model draws, it is an item: the allowed ranges see to that."""
    prompt = made.prompt([("text", "a red sphere")], to, "en")
    ids = made.engine.generate([prompt], made.plan(to), made.sampling[to], [3], [made.prompt([], to, "en")])[0]
    read = made.vocabulary.segments([*prompt, *ids])
    assert [m for m, _, _ in read] == ["text", to]
    if TABLE[to].grid:
        assert all(lo <= c < hi for c, (lo, hi) in zip(read[1][2], TABLE[to].grid.ranges, strict=True))
    item = made.codecs[to].decode(read[1][2])
    assert isinstance(item, str) if to == "text" else isinstance(item, np.ndarray)


def test_a_seed_says_it_all(made):
    a, b, c = (made.generate("image", text="a red sphere", seed=s) for s in (5, 5, 6))
    assert (a == b).all() and not (a == c).all()


def test_what_cannot_be_asked_is_one_line(made):
    for ask in (lambda: made.generate("smell", text="a"), lambda: made.generate("image", smell="a"),
                lambda: made.generate("image", text="a", top_p=0.0),
                lambda: made.generate("image", [("text", "a red sphere " * 60)] * 40)):
        with pytest.raises(ConfigError):
            ask()


def test_embeddings_of_codes_that_say_alike_begin_alike(made, codecs):
    size = made.vocabulary.size
    network = BackboneConfig(vocabulary=size, width=64, layers=1, heads=1, hidden=32).build()
    before = network.get_input_embeddings().weight.std().item()
    start_from_features(network, made.vocabulary, codecs)
    lo, hi = made.vocabulary.span("audio")
    features, rows = codecs["audio"].code_features(), network.get_input_embeddings().weight[lo:hi].detach()
    far = torch.cdist(features[:256], features[:256]).flatten()
    apart = torch.cdist(rows[:256], rows[:256]).flatten()
    assert torch.corrcoef(torch.stack([far, apart]))[0, 1] > 0.4
    assert 0.5 < rows.std().item() / before < 2


@pytest.mark.parametrize("call", [
    lambda model: model.generate("smell", text="a red cube"), lambda model: model.reply("smell", text="a red cube"),
    lambda model: model.generate_batch("smell", [[("text", "a red cube")]]),
    lambda model: model.generate("image", smell="a red cube")])
def test_what_is_no_medium_is_said_with_those_that_are(made, call):
    with pytest.raises(ConfigError, match="'smell': is not a medium; use one of text, image"):
        call(made)
