"""Keys fail closed: once one was made, they stay required; what an operator reads needs them
too."""

import base64

import pytest
from processes import run_onnuri

from onnuri.server.settings import ServeConfig
from onnuri.server.store import Store

ASK = {"messages": [{"role": "user", "content": "a red cube"}]}


def keys(folder, *arguments):
    return run_onnuri("keys", *arguments, "--data", folder / "data")


@pytest.fixture(scope="module")
def revoked(new_server, tmp_path_factory):
    """A server whose only key was made and revoked, by its name."""
    folder = tmp_path_factory.mktemp("revoked")
    secret = keys(
        folder, "add", "a name that is longer than the column of a narrow terminal"
    ).stdout.strip()
    listed = keys(folder, "list").stdout
    assert (
        "a name that is longer than the column of a narrow terminal" in listed
        and "0 requests, 0 tokens" in listed
    )
    done = keys(folder, "revoke", "a name that is longer than the column of a narrow terminal")
    assert done.returncode == 0 and "no key is left" in done.stdout, done.stderr
    return new_server(folder=folder), secret, folder


def test_a_revoked_key_opens_nothing(revoked):
    server, secret, _ = revoked
    for key in (secret, "any"):
        with server.client(key) as client:
            for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/v1/formats"):
                assert client.get(path).status_code == 401, path
            assert client.post("/v1/chat/completions", json=ASK).status_code == 401
            assert (
                client.get("/health").status_code
                == client.get("/ready").status_code
                == client.get("/").status_code
                == 200
            )


def test_open_says_otherwise(new_server, revoked):
    server = new_server("--open", folder=revoked[2])
    with server.client("any") as client:
        assert client.get("/v1/models").status_code == client.get("/metrics").status_code == 200
    server.stop()


def test_a_key_reads_what_an_operator_reads_and_knows_what_is_left(revoked):
    server, _, folder = revoked
    store = Store(ServeConfig(data=folder / "data").url, folder / "data")
    secret = store.add_key("bob", requests_per_minute=1000, tokens_per_minute=100_000)
    store.close()
    with server.client(secret) as client:
        assert client.get("/metrics").status_code == 200
        first, second = (client.get("/v1/models").headers for _ in range(2))
    assert (
        first["x-ratelimit-limit-requests"] == "1000"
        and first["x-ratelimit-limit-tokens"] == "100000"
    )
    left = (
        int(first["x-ratelimit-remaining-requests"]),
        int(second["x-ratelimit-remaining-requests"]),
    )
    assert left[0] < 1000 and left[1] in (left[0] - 1, 999)  # a minute may end within
    assert first["x-ratelimit-reset-requests"].endswith("s")
    basic = "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()
    with server.client() as client:
        asked = client.get("/docs")
        assert asked.status_code == 401 and asked.headers["www-authenticate"].startswith("Basic")
        assert client.get("/docs", headers={"Authorization": basic}).status_code == 200


def test_a_name_that_two_have_is_not_revoked(tmp_path):
    ids = [keys(tmp_path, "add", "ann") and None for _ in range(2)]
    assert len(ids) == 2
    done = keys(tmp_path, "revoke", "ann")
    assert (
        done.returncode == 2
        and "is the name of 2 keys" in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )
    id = done.stderr.split("give an id: ")[1].split(",")[0]
    assert keys(tmp_path, "revoke", id).returncode == 0
    assert keys(tmp_path, "revoke", "ann").returncode == 0  # one is left of that name
    assert keys(tmp_path, "revoke", "ann").returncode == 2
