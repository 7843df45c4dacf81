"""Two models behind one name: each question is answered by the one that knows most of it, which says
so."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from onnuri.errors import ConfigError
from onnuri.server.run import other_models
from onnuri.server.settings import ServeConfig

WORLD, PICTURES, BOTH = "onnuri-laptop", "drawn-things", "onnuri"


@pytest.fixture
def http(together):
    with together.client() as made:
        yield made


def ask(http, content, *modalities, **more):
    body = {"messages": [{"role": "user", "content": content}], "seed": 1, **more}
    answer = http.post("/v1/chat/completions", json={**body, "modalities": modalities or ["text"]})
    assert answer.status_code == 200, answer.text
    return answer.json()


def file_of(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def part_of(picture):
    url = f"data:image/png;base64,{base64.b64encode(file_of(picture)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def test_all_are_listed_with_what_they_have(http, together):
    listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert [*listed] == [BOTH, WORLD, PICTURES]
    assert listed[BOTH]["asks"] == [WORLD, PICTURES]
    assert listed[PICTURES]["input_modalities"] == ["text", "image"]
    assert listed[BOTH]["tokens"] == listed[WORLD]["tokens"] and "mesh" in listed[BOTH]["tokens"]
    assert (
        f"{WORLD} and {PICTURES}: text, image, audio, video and mesh in and out, together as "
        f"{BOTH} ·" in together.log.read_text()
    )


@pytest.mark.parametrize("name", [None, BOTH, "gpt"])
@pytest.mark.parametrize(
    ("content", "model"), [("사과를 그려 줘", PICTURES), ("a small red sphere", WORLD)]
)
def test_the_model_that_knows_the_words_draws(http, name, content, model):
    named = {"model": name} if name else {}
    assert ask(http, content, "image", **named)["model"] == model
    drawn = http.post("/v1/images/generations", json={"prompt": content, **named}).json()
    side = {PICTURES: 16, WORLD: 128}[model]
    assert drawn.get("drawn_size") == (None if side == 128 else "16x16")
    response = http.post("/v1/responses", json={"input": content, **named}).json()
    assert response["model"] == model


def test_a_name_of_one_asks_that_one(http):
    assert ask(http, "사과", "image", model=WORLD)["model"] == WORLD
    assert ask(http, "a small red sphere", "image", model=PICTURES)["model"] == PICTURES


def test_the_model_that_knows_a_picture_says_what_it_is(http, scene):
    photograph = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    question = {"type": "text", "text": "what is this?"}
    assert ask(http, [part_of(photograph), question])["model"] == PICTURES
    world = {"url": f"data:image/png;base64,{base64.b64encode(scene['image']).decode()}"}
    assert ask(http, [{"type": "image_url", "image_url": world}, question])["model"] == WORLD
    edited = http.post(
        "/v1/images/edits", data={"prompt": "red apple"}, files={"image": file_of(photograph)}
    )
    assert edited.json()["drawn_size"] == "16x16"


def test_what_the_answering_model_has_not_is_said(http):
    answer = ask(http, "사과", "text", "image", "audio")
    message = answer["choices"][0]["message"]
    assert answer["model"] == PICTURES and message["images"] and "audio" not in message
    [notice] = [n for n in answer["onnuri"]["notices"] if n["code"] == "no_modality"]
    assert notice["details"] == ["audio"] and notice["message"] == f"{PICTURES}에는 없는 것: 소리."
    whole = ask(http, "a small red sphere", "text", "image", "audio")
    assert whole["model"] == WORLD and whole["choices"][0]["message"]["audio"]
    assert "no_modality" not in str(whole)
    with_one = ask(http, "red apple", "text", "mesh", model=PICTURES)
    assert "drawn-things has no mesh." in str(with_one["onnuri"])


def test_a_stream_says_it_too(http):
    body = {"messages": [{"role": "user", "content": "red apple"}], "stream": True}
    text = http.post("/v1/chat/completions", json={**body, "modalities": ["image", "audio"]}).text
    assert f'"model":"{PICTURES}"' in text.replace(": ", ":") and "no_modality" in text
    assert WORLD not in text


def test_sound_motion_and_shape_are_of_the_one_that_has_them(http, scene):
    assert http.post("/v1/audio/speech", json={"input": "사과"}).status_code == 200
    heard = http.post("/v1/audio/transcriptions", files={"file": scene["audio"]})
    assert heard.status_code == 200
    for path, form in (("/v1/meshes", "json"), ("/v1/videos", "data")):
        assert http.post(path, **{form: {"prompt": "사과"}}).json()["model"] == WORLD
    assert http.post("/v1/completions", json={"prompt": "a"}).json()["model"] == WORLD


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "사과"}], "modalities": ["audio"]},
        ),
        ("/v1/audio/speech", {"input": "사과"}),
        ("/v1/meshes", {"prompt": "사과"}),
    ],
)
def test_a_model_that_has_no_such_thing_says_so_in_one_line(http, path, body):
    refused = http.post(path, json={**body, "model": PICTURES})
    assert refused.status_code == 400
    assert "is more than any model here has; ask for some of" in refused.json()["error"]["message"]


def test_which_models_are_served(tmp_path, monkeypatch):
    shipped, own = tmp_path / "pictures", tmp_path / "my own"
    monkeypatch.setattr("onnuri.server.run.PICTURES", shipped)
    assert other_models(ServeConfig(), None) == {}
    shipped.mkdir()
    assert other_models(ServeConfig(), None) == {"onnuri-pictures": shipped}
    assert other_models(ServeConfig(), own) == {}
    assert other_models(ServeConfig(pictures=own), tmp_path) == {"my-own": own}
    assert other_models(ServeConfig(beside=own, beside_name="b"), None) == {"b": own}
    assert other_models(ServeConfig(beside=own, beside_name="onnuri"), None) == {"onnuri-2": own}
    assert other_models(ServeConfig(name="onnuri-pictures"), None) == {"onnuri-pictures-2": shipped}
    with pytest.raises(ConfigError, match="leave one of them out"):
        ServeConfig(pictures=own, beside=own).check()
