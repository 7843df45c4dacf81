"""Stopped in the middle, killed and started again: what was promised is kept, or said not to be."""

import json
import signal
import threading

import httpx
import pytest
from processes import LIMIT_SECONDS, run_onnuri, wait_until

from onnuri.server.settings import ServeConfig
from onnuri.server.store import Store

EVERYTHING = ["text", "image", "audio", "video", "mesh"]
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"


def stream(server, results, k):
    """All events of one stream."""
    body = {
        "messages": [{"role": "user", "content": SENTENCE}],
        "modalities": EVERYTHING,
        "stream": True,
        "seed": k,
    }
    got = []
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=LIMIT_SECONDS) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                got.append(line[6:])
                results[k] = (answer.status_code, got)


def started(server, count):
    results = {}
    threads = [threading.Thread(target=stream, args=(server, results, k)) for k in range(count)]
    for t in threads:
        t.start()
    wait_until(lambda: len(results) >= count // 2, "streams under way", pause_seconds=0.005)
    return results, threads


@pytest.mark.parametrize("drain", ["30", "0"])
def test_sigterm_lets_streams_finish_or_says_so(new_server, drain):
    server = new_server("--drain-seconds", drain)
    results, threads = started(server, 6)
    server.process.send_signal(signal.SIGTERM)
    for t in threads:
        t.join()
    assert server.process.wait() == 0
    assert results
    for status, got in results.values():
        ended = got[-1] == "[DONE]"
        assert status == 200 and (ended or "error" in json.loads(got[-1]))
        assert ended or drain == "0", got[-1]


def test_while_stopping_nothing_new_is_taken(new_server):
    server = new_server()
    _, threads = started(server, 8)
    server.process.send_signal(signal.SIGTERM)
    statuses = set()
    while server.process.poll() is None:
        try:
            statuses.add(
                httpx.post(
                    f"{server.url}/v1/images/generations", json={"prompt": "a red cube"}
                ).status_code
            )
        except httpx.HTTPError:
            break
    for t in threads:
        t.join()
    assert statuses <= {200, 503} and server.process.wait() == 0


def test_kill_9_and_start_again(new_server):
    server = new_server()
    store = Store(ServeConfig(data=server.folder / "data").url, server.folder / "data")
    secret = store.add_key("ann")
    with server.client(secret) as client:
        done = client.post("/v1/meshes", json={"prompt": "a red cube"}).json()["id"]
        wait_until(
            lambda: client.get(f"/v1/meshes/{done}").json()["status"] == "completed", "a mesh"
        )
        content = client.get(f"/v1/meshes/{done}/content").content
        under_way = [
            client.post("/v1/videos", data={"prompt": SENTENCE}).json()["id"] for _ in range(12)
        ]
    server.stop(signal.SIGKILL)
    store.close()
    again = new_server(folder=server.folder)
    with again.client(secret) as client:
        assert client.get(f"/v1/meshes/{done}/content").content == content
        found = [client.get(f"/v1/videos/{id}").json() for id in under_way]
        assert {v["status"] for v in found} <= {"completed", "failed"}
        assert all("stopped" in v["error"]["message"] for v in found if v["status"] == "failed"), (
            found
        )
        for video in found:
            status = client.get(f"/v1/videos/{video['id']}/content").status_code
            assert status == (200 if video["status"] == "completed" else 409)
        files = {p.name for p in (again.folder / "data" / "files").iterdir()}
        assert files == {done, *(v["id"] for v in found if v["status"] == "completed")}
        assert (
            client.post("/v1/images/generations", json={"prompt": "a red cube"}).status_code == 200
        )
    with again.client("wrong") as client:
        assert client.get("/v1/models").status_code == 401
    again.stop()


def test_a_client_that_goes_takes_its_work_with_it(server):
    """Dozens of streams are left; soon the engine decodes nothing."""
    for k in range(12):
        body = {
            "messages": [{"role": "user", "content": SENTENCE}],
            "modalities": EVERYTHING,
            "stream": True,
            "seed": k,
        }
        with (
            httpx.Client() as client,
            client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer,
        ):
            next(answer.iter_bytes())

    def idle():
        page = httpx.get(f"{server.url}/metrics").text
        return all(
            f'onnuri_{name}{{model="onnuri-laptop"}} 0.0' in page
            for name in ("active", "queue", "rows")
        )

    wait_until(idle, "an engine that decodes nothing")


@pytest.mark.parametrize(
    "options,message",
    [
        (["--port", "99999"], "cannot be listened on"),
        (["--host", "0.0.0.0"], "there is no key"),
        (["--port", "x"], "port"),
        (["/nowhere/model"], "has no onnuri.json"),
        (["--database", "mysql://x"], "cannot be used as a database"),
        (["--beside", "/nowhere/model"], "has no onnuri.json"),
        (["--beside-name", "b"], "names a model that is not given"),
        (["--beside", ".", "--beside-name", "onnuri-laptop"], "is the first model's name too"),
        (["--rows", "0"], "is less than 2"),
        (["--seconds", "nan"], "is less than"),
        (["--data", "/dev/null"], "cannot be a folder"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path, options, message):
    made = run_onnuri("serve", "--data", tmp_path / "d", "--port", "0", *options)
    assert (
        made.returncode == 2
        and message in made.stderr
        and len(made.stderr.strip().splitlines()) == 1
    ), made.stderr
