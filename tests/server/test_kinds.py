"""What real clients met (facts/faults-server.md), a test a kind: over HTTP, as they meet it."""

import asyncio
import base64
import io
import json
import socket
import threading

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from onnuri.media import reading
from onnuri.server.errors import as_api_error
from onnuri.server.pool import Pool

ASK = {"messages": [{"role": "user", "content": "a red cube"}]}


def message_of(answer, status=400):
    assert answer.status_code == status, answer.text[:300]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error["message"]


def uri(data):
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def chat(http, kind, data, **more):
    part = {"type": kind, kind: {"url": uri(data)}}
    return http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}], **more}
    )


def finished(http, path, **body):
    job = http.post(path, **body).json()
    while job.get("status") in ("queued", "in_progress"):
        job = http.get(f"{path}/{job['id']}").json()
    assert job["status"] == "completed", job
    return job


def test_meshes_do_not_keep_words_waiting(server, http):
    """Four large meshes at once are read one after the other, and never by the thread that words
    need."""
    sphere = trimesh.creation.icosphere(6, 0.9)
    sphere.visual.vertex_colors = np.random.default_rng(0).integers(
        0, 256, (len(sphere.vertices), 4), dtype=np.uint8
    )
    data, done = sphere.export(file_type="glb"), []

    def ask():
        with server.client() as client:
            done.append((chat(client, "mesh_url", data).status_code, "mesh"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not done:
        assert http.post("/v1/chat/completions", json=ASK).status_code == 200
        done.append((200, "words"))
    for thread in threads:
        thread.join()
    assert done[0] == (200, "words") and [status for status, _ in done] == [200] * 5


def test_what_is_no_route_is_404_and_what_is_one_405(http):
    for path in ("/v1/embeddings", "/v1/nothing", "/nowhere"):
        assert "there is no such route" in message_of(http.post(path, json={}), 404)
    for method, path in (
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/models"),
        ("GET", "/v1/completions"),
    ):
        answer = http.request(method, path)
        assert "this route takes" in message_of(answer, 405) and answer.headers["allow"]
    assert http.get("/v1/models/").status_code == http.get("/").status_code == 200
    assert http.post("/v1/chat/completions/", json=ASK).status_code == 200


@pytest.mark.parametrize(
    "body,message",
    [
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content 5: is neither a string nor a list",
        ),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages[0].content[0] 'x': is not an object",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role: is missing; add it"),
        ({}, "messages: is missing; add it"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role 'king': is none of"),
        ({**ASK, "temperature": 9}, "temperature 9: is more than 5"),
        ({**ASK, "n": "x"}, "n 'x': is not a whole number"),
        ({**ASK, "modalities": ["smell"]}, "modalities[0] 'smell': is none of"),
        ({**ASK, "tool_choice": "any"}, "tool_choice 'any': is none of"),
        ([], "the request's body: is not an object"),
        ({**ASK, "logit_bias": {"5": 1}}, "logit_bias"),
        ({**ASK, "presence_penalty": 1}, "presence_penalty '1': has no effect here"),
        ({**ASK, "functions": [{"name": "f"}]}, "functions are tools here; give tools"),
    ],
)
def test_complaints_name_the_field_as_the_client_wrote_it(http, body, message):
    said = message_of(http.post("/v1/chat/completions", json=body))
    assert message in said and not any(
        word in said for word in ("function-after", "Value error", "Input should", "list[", "Field")
    )


def test_fields_that_ask_for_nothing_pass(http):
    assert (
        http.post(
            "/v1/chat/completions",
            json={
                **ASK,
                "logit_bias": {},
                "presence_penalty": 0,
                "frequency_penalty": 0.0,
                "functions": None,
            },
        ).status_code
        == 200
    )


def test_a_body_of_the_wrong_kind_is_told_which_is_read(http):
    broken = http.post(
        "/v1/chat/completions",
        content=b'{"messages":[}',
        headers={"Content-Type": "application/json"},
    )
    assert (
        "is not JSON (from character 13 on)" in message_of(broken)
        and broken.json()["error"]["param"] is None
    )
    assert "application/x-www-form-urlencoded, where JSON is read" in message_of(
        http.post("/v1/chat/completions", data={"a": "b"})
    )
    plain = http.post("/v1/videos", content=b"x", headers={"Content-Type": "text/plain"})
    assert "where a form or JSON is read" in message_of(plain)


def test_errors_are_in_peoples_words_for_who_says_their_language(http):
    for language, words in (("ko-KR,ko;q=0.9", "밋밋한 색뿐이라"), ("en", "only a plain colour")):
        out = io.BytesIO()
        Image.new("RGB", (50, 50), "red").save(out, "PNG")
        answer = http.post(
            "/v1/inspect",
            files={"file": ("a", out.getvalue())},
            headers={"Accept-Language": language},
        )
        assert (
            answer.status_code == 400
            and words in answer.json()["error"]["words"]
            and answer.json()["error"]["code"] == "blank"
        )
    assert "words" not in http.post("/v1/inspect", files={"file": ("a", b"x")}).json()["error"]


def test_forms_and_json_are_the_same(http, scene):
    asked, shown = {"prompt": "make it blue", "seed": 1}, scene["image"]
    edits = [
        http.post("/v1/images/edits", **body)
        for body in (
            {"json": {**asked, "images": [{"image_url": uri(shown)}]}},
            {"json": {**asked, "image": uri(shown)}},
            {"data": asked, "files": {"image": ("a", shown)}},
            {"data": asked, "files": {"image[]": ("a", shown)}},
        )
    ]
    assert len({answer.json()["data"][0]["b64_json"] for answer in edits}) == 1
    said = [
        http.post(
            "/v1/audio/transcriptions", json={"file": base64.b64encode(scene["audio"]).decode()}
        ),
        http.post("/v1/audio/transcriptions", files={"file": ("a.wav", scene["audio"])}),
    ]
    assert said[0].json()["text"] == said[1].json()["text"]
    for body in ({"json": {"seed": 1}}, {"data": {"seed": "1"}}):
        assert message_of(http.post("/v1/videos", **body)).startswith("prompt: is missing")


def test_usual_sizes_are_scaled_and_said(http):
    made = http.post(
        "/v1/images/generations", json={"prompt": "a red cube", "size": "512x256", "seed": 1}
    ).json()
    assert (made["size"], made["drawn_size"]) == ("512x256", "128x128")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["data"][0]["b64_json"]))))
    own = http.post("/v1/images/generations", json={"prompt": "a red cube", "seed": 1}).json()
    assert "drawn_size" not in own and shown.shape == (256, 512, 3)
    drawn = Image.open(io.BytesIO(base64.b64decode(own["data"][0]["b64_json"]))).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    assert np.abs(shown[:, 128:384].astype(int) - np.asarray(drawn)).max() == 0
    for size in ("9999x9999", "big", "8x8"):
        refused = http.post("/v1/images/generations", json={"prompt": "a", "size": size})
        assert "is not WIDTHxHEIGHT of 16 to 2048" in message_of(refused)


def test_a_video_of_four_seconds_is_shown_slower_and_said(http):
    job = finished(
        http, "/v1/videos", json={"prompt": "a red cube spins", "size": "720x1280", "seconds": 4}
    )
    assert (job["seconds"], job["size"], job["drawn_seconds"], job["drawn_size"]) == (
        "4",
        "720x1280",
        "2",
        "128x128",
    )
    whole = http.get(f"/v1/videos/{job['id']}/content")
    with av.open(io.BytesIO(whole.content)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (720, 1280, 17)
        assert container.duration / 1e6 == pytest.approx(4.25, abs=0.3)
    part = http.get(f"/v1/videos/{job['id']}/content", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == whole.content[10:20]
    still = http.get(f"/v1/videos/{job['id']}/content", params={"variant": "thumbnail"})
    assert Image.open(io.BytesIO(still.content)).format == "WEBP"
    assert "is not made" in message_of(
        http.get(f"/v1/videos/{job['id']}/content", params={"variant": "spritesheet"})
    )
    assert "is not 1 to 20" in message_of(
        http.post("/v1/videos", json={"prompt": "a", "seconds": 99})
    )


@pytest.mark.parametrize(
    "form,begin",
    [("mp3", b"\xff"), ("aac", b"\xff\xf1"), ("wav", b"RIFF"), ("opus", b"OggS"), (None, b"\xff")],
)
def test_speech_is_in_the_format_that_was_asked_for_streamed_too(http, form, begin):
    body = {"input": "a small red sphere", "seed": 1, **({"response_format": form} if form else {})}
    whole = http.post("/v1/audio/speech", json=body).content
    events = http.post("/v1/audio/speech", json={**body, "stream_format": "sse"}).text
    told = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    streamed = b"".join(
        base64.b64decode(event["audio"]) for event in told if event["type"] == "speech.audio.delta"
    )
    assert (
        whole.startswith(begin)
        and streamed.startswith(begin)
        and abs(len(whole) - len(streamed)) < 64
    )
    sounds = [reading.from_bytes(data, "audio", "x") for data in (whole, streamed)]
    assert len(sounds[0]) == len(sounds[1]) and len(sounds[0]) > 8000


def test_transcriptions_as_subtitles_and_what_is_not_done(http, scene):
    def heard(route="transcriptions", **fields):
        return http.post(f"/v1/audio/{route}", data=fields, files={"file": ("a", scene["audio"])})

    text, seconds = heard().json()["text"], heard(response_format="verbose_json").json()["duration"]
    end = f"00:00:{int(seconds):02}.{round(seconds % 1 * 1000):03}"
    assert (
        heard(response_format="srt").text
        == f"1\n00:00:00,000 --> {end.replace('.', ',')}\n{text}\n"
    )
    assert heard(response_format="vtt").text == f"WEBVTT\n\n00:00:00.000 --> {end}\n{text}\n"
    assert heard("translations", response_format="srt").text.startswith("1\n00:00:00,000 --> ")
    words = {"timestamp_granularities[]": "word", "response_format": "verbose_json"}
    assert "the times of words are not known" in message_of(heard(**words))
    assert (
        "is not heard here" in message_of(heard(language="fr"))
        and heard(language="ko").status_code == 200
    )
    assert "no scores are told" in message_of(heard(**{"include[]": "logprobs"}))


def test_completions_score_an_echoed_prompt(http):
    body = {
        "prompt": "a small red sphere",
        "echo": True,
        "logprobs": 3,
        "max_tokens": 1,
        "temperature": 0,
    }
    choice = http.post("/v1/completions", json=body).json()["choices"][0]
    scores = choice["logprobs"]
    assert "".join(scores["tokens"]) == choice["text"] and choice["text"].startswith(
        "a small red sphere"
    )
    assert (
        len(scores["tokens"])
        == len(scores["token_logprobs"])
        == len(scores["top_logprobs"])
        == len(scores["text_offset"])
        == 5
    )
    assert [
        choice["text"][k:].startswith(t)
        for k, t in zip(scores["text_offset"], scores["tokens"], strict=True)
    ] == [True] * 5
    # greedy: what is drawn is the likeliest; and a prompt that is read has the scores of one that
    # is put in
    assert scores["token_logprobs"][-1] == max(scores["top_logprobs"][-1].values())
    plain = http.post("/v1/completions", json={**body, "echo": False}).json()["choices"][0][
        "logprobs"
    ]
    assert plain["token_logprobs"][0] == pytest.approx(scores["token_logprobs"][-1], abs=1e-3)
    longer = http.post(
        "/v1/completions", json={**body, "prompt": choice["text"], "max_tokens": 0}
    ).json()["choices"][0]
    assert longer["logprobs"]["token_logprobs"] == pytest.approx(scores["token_logprobs"], abs=1e-3)


def test_completions_of_several_prompts_and_of_ids(http):
    made = http.post(
        "/v1/completions", json={"prompt": ["a red", "a blue"], "n": 2, "max_tokens": 3, "seed": 1}
    ).json()
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2, 3]
    ids = http.post(
        "/v1/completions", json={"prompt": [[72, 105]], "echo": True, "max_tokens": 0}
    ).json()["choices"][0]
    assert ids["text"] == "Hi" and ids["finish_reason"] == "length"
    asked = {"prompt": "a small red", "max_tokens": 6, "temperature": 0}
    whole = http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    streamed = http.post("/v1/completions", json={**asked, "stream": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(
        chunk["choices"][0]["text"] for chunk in chunks
    ) == whole and streamed.rstrip().endswith("[DONE]")
    word = whole.split()[1]
    cut = http.post("/v1/completions", json={**asked, "stop": word, "logprobs": 1}).json()[
        "choices"
    ][0]
    assert cut["text"] == whole[: whole.index(word)] and cut["finish_reason"] == "stop"
    for body, words in (
        ({"prompt": [10**6]}, "is no token of text"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({}, "prompt: is missing"),
        ({"prompt": "a" * 9000}, "at most fit"),
        ({"prompt": 3}, "prompt 3: is neither a string nor a list"),
    ):
        assert words in message_of(http.post("/v1/completions", json=body))


def test_half_sent_requests_are_closed(new_server, tmp_path_factory):
    server = new_server(
        "--header-seconds",
        "1",
        "--alias",
        "tts-1=onnuri-laptop",
        "--alias",
        "gpt-4o=onnuri-laptop",
        "--hosts",
        "onnuri",
    )
    for sent, got in (
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1", b""),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99\r\n\r\n{",
            b"HTTP/1.1 408",
        ),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as half:
            half.sendall(sent)
            assert half.recv(12) == got
    with server.client() as client:
        for name in ("tts-1", "gpt-4o"):
            made = client.post("/v1/chat/completions", json={**ASK, "model": name})
            assert (
                made.json()["model"] == "onnuri-laptop"
                and client.get(f"/v1/models/{name}").status_code == 200
            )
        other = client.post("/v1/chat/completions", json={**ASK, "model": "x"})
        assert "use 'onnuri-laptop' or 'tts-1' or 'gpt-4o'" in message_of(other, 404)
        assert client.get("/v1/models", headers={"Host": "onnuri:80"}).status_code == 200
        assert client.get("/v1/models", headers={"Host": "other"}).status_code == 403
    server.stop()


def test_what_was_called_off_by_a_stop_is_no_fault_of_the_asker():
    """Whoever waits for work when the threads end is told that the server is away, not that too
    much was asked."""
    pool = Pool(2)

    async def stopped():
        begun, held = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold():
            loop.call_soon_threadsafe(begun.set)
            held.wait()

        busy = [asyncio.create_task(pool.run(hold, heavy=heavy)) for heavy in (False, True)]
        await begun.wait()
        waiting = [asyncio.create_task(pool.run(int, heavy=heavy)) for heavy in (False, True)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(pool.close))
        while not pool.closed:
            await asyncio.sleep(0)
        held.set()
        await closing
        return await asyncio.gather(*waiting, pool.run(int), return_exceptions=True), busy

    errors, _ = asyncio.run(stopped())
    for error in errors:
        problem = as_api_error(error)
        assert (problem.status, problem.code) == (503, "shutting_down") and problem.body["error"][
            "type"
        ] == "server_error"


def test_heavy_work_never_takes_the_first_thread():
    """All but one thread are held by heavy work, and light work is done beside it."""
    pool, held = Pool(2), threading.Event()

    async def beside():
        heavy = [asyncio.create_task(pool.run(held.wait, heavy=True)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await pool.run(int) == 0  # would wait for ever behind heavy work
        held.set()
        await asyncio.gather(*heavy)

    asyncio.run(beside())
    pool.close()
