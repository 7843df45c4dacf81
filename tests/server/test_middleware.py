"""Who may call, how much, and from where."""

import base64
import socket
import threading

import pytest
from processes import wait_until

from onnuri.errors import MediaError
from onnuri.server.inputs import public_address
from onnuri.server.settings import ServeConfig
from onnuri.server.store import Store

ASK = {"messages": [{"role": "user", "content": "a red cube"}]}


def error_of(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error


@pytest.fixture(scope="module")
def keyed(new_server, tmp_path_factory):
    """A server with keys: one for all, one with few requests, one with few tokens, one revoked."""
    folder = tmp_path_factory.mktemp("keyed")
    store = Store(ServeConfig(data=folder / "data").url, folder / "data")
    keys = {
        "good": store.add_key("good"),
        "few": store.add_key("few", requests_per_minute=2),
        "short": store.add_key("short", tokens_per_minute=20),
        "gone": store.add_key("gone"),
    }
    store.revoke(next(k.id for k in store.all_keys() if k.name == "gone"))
    store.close()
    server = new_server("--body-bytes", "200000", "--request-seconds", "30", folder=folder)
    return server, keys


def test_only_known_keys_are_served(keyed):
    server, keys = keyed
    for key in ("nonsense", keys["gone"], "a"):
        with server.client(key) as client:
            for path in ("/v1/models", "/v1/videos", "/v1/meshes/x"):
                answer = client.get(path)
                assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key"
    with server.client(keys["good"]) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/chat/completions", json=ASK).status_code == 200
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_a_keys_requests_and_tokens_are_limited(keyed):
    server, keys = keyed
    with server.client(keys["few"]) as client:  # a minute may end within
        statuses = [client.get("/v1/models").status_code for _ in range(6)]
        assert statuses[0] == 200 and 429 in statuses
        answer = next(
            a for a in (client.get("/v1/models") for _ in range(4)) if a.status_code == 429
        )
        assert (
            1 <= int(answer.headers["Retry-After"]) <= 60
            and error_of(answer)["code"] == "rate_limit_exceeded"
        )
    with server.client(keys["short"]) as client:
        statuses = [
            client.post("/v1/images/generations", json={"prompt": "a red cube"}).status_code
            for _ in range(4)
        ]
        assert statuses[0] == 200 and 429 in statuses


def test_what_one_key_made_no_other_sees(keyed):
    server, keys = keyed
    with server.client(keys["good"]) as mine:
        id = mine.post("/v1/meshes", json={"prompt": "a red cube"}).json()["id"]
        assert mine.get(f"/v1/meshes/{id}").status_code == 200
    with server.client(keys["short"]) as other:
        for call in (other.get, other.delete):
            assert call(f"/v1/meshes/{id}").status_code in (404, 429)


def test_bodies_have_a_limit_whatever_they_say_of_themselves(keyed):
    server, keys = keyed
    big = b'{"messages": "' + b"a" * 300_000 + b'"}'
    with server.client(keys["good"]) as client:
        answer = client.post("/v1/chat/completions", content=big)
        assert answer.status_code == 413 and error_of(answer)["code"] == "body_too_large"
        assert (
            client.post("/v1/chat/completions", content=iter([big[:100_000]] * 3)).status_code
            == 413
        )
        assert client.post("/v1/chat/completions", content=b"{").status_code == 400


def test_other_pages_and_other_names_are_refused(http):
    for headers, code in (
        ({"Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
        ({"Host": "evil.example"}, "host_not_allowed"),
    ):
        answer = http.post("/v1/chat/completions", json=ASK, headers=headers)
        assert answer.status_code == 403 and error_of(answer)["code"] == code
    assert (
        http.get("/v1/models", headers={"Origin": str(http.base_url).rstrip("/")}).status_code
        == 200
    )
    assert "access-control-allow-origin" not in http.get("/v1/models").headers


def test_every_answer_has_an_id_and_the_log_no_content(server, http):
    sentence = "a very secret red cube"
    answer = http.post("/v1/images/generations", json={"prompt": sentence})
    assert answer.headers["x-request-id"].startswith("req_")
    id = answer.headers["x-request-id"]
    wait_until(
        lambda: id in server.log.read_text(),
        "a line in the log, which is written when the answer has gone",
    )
    assert "secret" not in server.log.read_text()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "[::1]",
        "::ffff:127.0.0.1",
        "fd00::1",
        "fe80::1",
        "224.0.0.1",
        "100.64.0.1",
        "2130706433",
        "0x7f.1",
    ],
)
def test_private_addresses_are_not_fetched_from(host):
    with pytest.raises(MediaError, match=r"not public|not known"):
        public_address(host.strip("[]"), 80, "a URL")


def test_a_url_leads_nowhere_private_even_when_fetching_is_allowed(new_server):
    """A server on loopback that would answer is never asked."""
    asked = []
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: asked.append(listening.accept()), daemon=True).start()
    fetching = new_server("--fetch")
    with fetching.client() as client:
        for url in (
            f"http://127.0.0.1:{listening.getsockname()[1]}/a.png",
            f"http://localhost:{listening.getsockname()[1]}/",
            "file:///etc/passwd",
            "gopher://x/",
            "http://",
            "http://a b/",
        ):
            body = {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
                ]
            }
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 400, answer.text
    assert not asked
    listening.close()
    fetching.stop()


def test_metrics_and_the_openapi_page(http):
    http.post(
        "/v1/images/generations", json={"prompt": "a red cube", "stream": True, "partial_images": 1}
    )
    http.post("/v1/audio/speech", json={"input": "a red cube", "response_format": "pcm"})
    page = http.get("/metrics").text
    for name in (
        'onnuri_queue{model="onnuri-laptop"} ',
        'onnuri_first_token_seconds_count{modality="image"}',
        "onnuri_first_audio_seconds_count ",
        'onnuri_tokens_total{modality="audio",model="onnuri-laptop"}',
        'onnuri_requests_total{route="/v1/audio/speech",status="200"}',
    ):
        assert name in page, name
    paths = http.get("/openapi.json").json()["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/videos",
        "/v1/meshes",
        "/v1/models",
        "/health",
        "/ready",
        "/metrics",
    } <= set(paths)


def test_meshes_come_in_every_format_and_from_every_modality(http, scene):
    def made(body):
        job = http.post("/v1/meshes", json=body).json()
        while job["status"] in ("queued", "in_progress"):
            job = http.get(f"/v1/meshes/{job['id']}").json()
        assert job["status"] == "completed", job
        return http.get(f"/v1/meshes/{job['id']}/content").content

    for form, begin in (("glb", b"glTF"), ("obj", b"#"), ("ply", b"ply"), ("stl", b"")):
        assert made({"prompt": "a red cube", "output_format": form}).startswith(begin)
    for modality in ("image", "audio", "video"):
        assert made({"input_reference": base64.b64encode(scene[modality]).decode()}).startswith(
            b"glTF"
        )
