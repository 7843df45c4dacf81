"""Two models from one process: every route asks the one that is named, and says which it was."""

import signal
import threading
import time

import httpx
import openai
import pytest

FIRST, SECOND = "onnuri-laptop", "wild-model"
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"
NAMES = (None, FIRST, SECOND)
"""as a request says them; without one, the first is asked"""


@pytest.fixture(scope="module")
def client(two):
    with two.openai() as made:
        yield made


@pytest.fixture
def http(two):
    with two.client() as made:
        yield made


def ask(model, **more):
    named = {"model": model} if model else {}
    return {
        **named,
        "messages": [{"role": "user", "content": SENTENCE}],
        "modalities": ["image"],
        "seed": 1,
        **more,
    }


def tokens_of(http, model):
    """Ids that a model has decoded."""
    lines = [
        line
        for line in http.get("/metrics").text.splitlines()
        if line.startswith("onnuri_tokens_total{")
    ]
    return sum(float(line.split()[-1]) for line in lines if f'model="{model}"' in line)


def test_both_are_listed_the_first_one_first(client, two):
    assert [m.id for m in client.models.list().data] == [FIRST, SECOND]
    assert client.models.retrieve(SECOND).id == SECOND
    assert f"{FIRST} and {SECOND}: text" in two.log.read_text()
    with pytest.raises(openai.NotFoundError, match=f"use '{FIRST}' or '{SECOND}'"):
        client.models.retrieve("gpt-9")


def test_the_one_that_is_named_answers_and_says_so(http):
    made = [http.post("/v1/chat/completions", json=ask(name)).json() for name in NAMES]
    pictures = [m["choices"][0]["message"]["images"][0]["image_url"]["url"] for m in made]
    assert [m["model"] for m in made] == [FIRST, FIRST, SECOND]
    assert pictures[0] == pictures[1] != pictures[2]
    assert all(m["usage"]["completion_tokens_details"]["image_tokens"] == 31 for m in made)
    assert (
        http.post("/v1/chat/completions", json=ask("other")).json()["error"]["code"]
        == "model_not_found"
    )


def test_every_chunk_of_a_stream_names_its_model(client):
    for name in (FIRST, SECOND):
        chunks = list(
            client.chat.completions.create(
                stream=True, stream_options={"include_usage": True}, **ask(name)
            )
        )
        assert {c.model for c in chunks} == {name} and chunks[-1].usage.total_tokens


def test_the_other_routes_ask_the_one_that_is_named(http, scene):
    def drawn(call, path, **body):
        """Which models decoded something for a request."""
        before = {name: tokens_of(http, name) for name in (FIRST, SECOND)}
        answer = call(path, **body)
        assert answer.status_code == 200, answer.text
        return [name for name in before if tokens_of(http, name) > before[name]]

    for name in (FIRST, SECOND):
        assert drawn(
            http.post, "/v1/images/generations", json={"model": name, "prompt": SENTENCE}
        ) == [name]
        assert drawn(
            http.post,
            "/v1/images/edits",
            data={"model": name, "prompt": "make it blue"},
            files={"image": scene["image"]},
        ) == [name]
        assert drawn(http.post, "/v1/responses", json={"model": name, "input": SENTENCE}) == [name]
        assert drawn(
            http.post,
            "/v1/audio/translations",
            data={"model": name},
            files={"file": scene["audio"]},
        ) == [name]
        assert drawn(
            http.post, "/v1/audio/speech", json={"model": name, "input": "a red cube"}
        ) == [name]
        assert drawn(
            http.post,
            "/v1/audio/transcriptions",
            data={"model": name},
            files={"file": scene["audio"]},
        ) == [name]
    for path, body in (
        ("/v1/images/generations", {"json": {"model": "x", "prompt": "a"}}),
        ("/v1/images/edits", {"data": {"model": "x", "prompt": "a"}, "files": {"image": b"a"}}),
        ("/v1/responses", {"json": {"model": "x", "input": "a"}}),
        ("/v1/audio/translations", {"data": {"model": "x"}, "files": {"file": b"a"}}),
        ("/v1/audio/speech", {"json": {"model": "x", "input": "a"}}),
        ("/v1/audio/transcriptions", {"data": {"model": "x"}, "files": {"file": b"a"}}),
        ("/v1/videos", {"data": {"model": "x", "prompt": "a"}}),
        ("/v1/meshes", {"json": {"model": "x", "prompt": "a"}}),
    ):
        assert http.post(path, **body).json()["error"]["code"] == "model_not_found", path


def test_a_job_keeps_the_name_of_its_model(http):
    for path, form in (("/v1/meshes", "json"), ("/v1/videos", "data")):
        made = {
            name: http.post(
                path, **{form: {"prompt": SENTENCE, **({"model": name} if name else {})}}
            ).json()
            for name in NAMES
        }
        for name, job in made.items():
            while job["status"] in ("queued", "in_progress"):
                job = http.get(f"{path}/{job['id']}").json()
            assert (job["status"], job["model"]) == ("completed", name or FIRST)
        assert {j["id"]: j["model"] for j in http.get(path).json()["data"]} == {
            j["id"]: n or FIRST for n, j in made.items()
        }


def test_both_decode_at_once_and_a_client_that_goes_stops_its_own(two, http):
    left = {}

    def whole(name):
        left[name] = http.post(
            "/v1/chat/completions", json=ask(name, modalities=["text", "audio", "video"])
        ).json()

    threads = [
        threading.Thread(target=whole, args=(name,)) for name in (FIRST, SECOND) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    with (
        httpx.Client() as gone,
        gone.stream(
            "POST", f"{two.url}/v1/chat/completions", json=ask(SECOND, stream=True)
        ) as answer,
    ):
        next(answer.iter_bytes())
    for thread in threads:
        thread.join(60)
    assert {name: made["model"] for name, made in left.items()} == {FIRST: FIRST, SECOND: SECOND}


def test_requests_of_both_count_towards_one_limit_and_both_end(new_server, wild):
    server = new_server("--beside", str(wild), "--beside-name", "b", "--requests", "1")
    with server.client() as client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == [FIRST, "b"]
        time.sleep(0.3)  # a request counts until its answer has gone
        with client.stream(
            "POST", "/v1/chat/completions", json=ask(FIRST, n=8, modalities=["audio"], stream=True)
        ) as answer:
            next(answer.iter_bytes())
            assert client.post("/v1/chat/completions", json=ask("b")).status_code == 429
    assert server.stop(signal.SIGTERM) == 0
