"""Keys, use and jobs: the same tests on SQLite and on a real PostgreSQL."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from processes import wait_until

from onnuri.errors import ConfigError
from onnuri.server.store import Store

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None) or (
    Path(shutil.which("postgres") or "/missing/postgres").parent
)


@pytest.fixture(scope="session")
def postgres():
    """A cluster of its own on a socket in a folder, gone at the end."""
    if not (BIN / "initdb").exists():
        pytest.fail(
            "PostgreSQL is missing: apt-get install postgresql (as root, `make test` does so)"
        )
    folder = Path(
        tempfile.mkdtemp(prefix="onnuri-pg-")
    )  # pytest's own folders are too deep for a socket, and root's alone
    root = os.getuid() == 0  # the server refuses to run as root
    if root:
        shutil.chown(folder, "postgres")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
    subprocess.run(
        [
            *as_user,
            BIN / "initdb",
            "-D",
            folder / "data",
            "-A",
            "trust",
            "-U",
            "onnuri",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    # another user's process forgets whose death it dies with, so it is told once it is that user's;
    # SIGQUIT: stop at once
    server = [
        "setpriv",
        "--pdeathsig=QUIT",
        *as_user[1:],
        BIN / "postgres",
        "-D",
        folder / "data",
        "-k",
        folder,
        "-c",
        "listen_addresses=",
        "-c",
        "fsync=off",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(server, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            wait_until(lambda: ready(process, folder), "PostgreSQL that is ready")
            yield f"postgresql+psycopg://onnuri@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGQUIT)
    shutil.rmtree(folder)


def ready(process, folder):
    assert process.poll() is None, (folder / "log").read_text()
    return subprocess.run([BIN / "pg_isready", "-q", "-h", folder], check=False).returncode == 0


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    if request.param == "sqlite":
        made = Store(f"sqlite:///{tmp_path / 'a.db'}", tmp_path)
    else:
        made = Store(request.getfixturevalue("postgres"), tmp_path)
        with made.engine.begin() as connection:
            for table in ("keys", "usage", "jobs"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
    yield made
    made.close()


def test_a_key_is_known_by_its_secret_only(store):
    assert not store.any_key()
    secret = store.add_key("ann", 5, 1000)
    key = store.key_of(secret)
    assert key.name == "ann" and (key.requests_per_minute, key.tokens_per_minute) == (5, 1000)
    assert store.any_key() and store.key_of(secret + "x") is None
    assert secret not in str(vars(key)) and len(key.sha256) == 64
    assert store.revoke(key.id) and not store.revoke(key.id)
    assert store.key_of(secret) is None and not store.any_key() and store.all_keys()[0].revoked


def test_use_adds_up_by_minute_whoever_else_uses(store):
    def work():
        for _ in range(25):
            store.use("k", 1, 10, now=6000)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert store.use("k", 0, 0, now=6059) == (100, 1000)
    assert store.use("k", 1, 3, now=6060) == (1, 3) and store.use("other", 1, 1, now=6000) == (1, 1)
    assert [(u.requests, u.tokens) for u in store.used("k")] == [(1, 3), (100, 1000)]


def test_a_jobs_file_is_there_when_it_is_completed(store):
    job = store.add_job("video", "k", {"prompt": "구", "format": "mp4"}, 60)
    assert job.status == "queued" and not (store.files / job.id).exists()
    store.update_job(job.id, status="in_progress", progress=40)
    assert store.job(job.id, "video", "k").progress == 40
    store.finish_job(job.id, b"data")
    done = store.job(job.id, "video", "k")
    assert (
        done.status == "completed"
        and (store.files / done.id).read_bytes() == b"data"
        and done.about["prompt"] == "구"
    )
    assert store.job(job.id, "mesh", "k") is None and store.job(job.id, "video", "other") is None
    store.delete_job(job.id)
    assert store.job(job.id, "video", "k") is None and not list(store.files.iterdir())


def test_jobs_are_listed_in_pages(store):
    ids = [store.add_job("mesh", "k", {"format": "glb"}, 60).id for _ in range(5)]
    store.add_job("mesh", "other", {"format": "glb"}, 60)
    first = store.jobs("mesh", "k", 2)
    rest = store.jobs("mesh", "k", 9, after=first[-1].id)
    assert [j.id for j in [*first, *rest]] == ids[::-1]
    assert [j.id for j in store.jobs("mesh", "k", 9, newest=False)] == ids
    assert store.jobs("mesh", "k", after="none") == []


def test_after_a_kill_rows_and_files_agree_again(store):
    running, done, lost, old = (
        store.add_job("video", "k", {"format": "mp4"}, s) for s in (60, 60, 60, -1)
    )
    store.update_job(running.id, status="in_progress")
    for job in (done, lost, old):
        store.finish_job(job.id, b"x")
    (store.files / lost.id).unlink()
    (store.files / "video_stray").write_bytes(b"half")
    (store.files / ".video_half.part").write_bytes(b"half")
    store.tidy(started=True)
    assert {i: store.job(i, "video", "k").status for i in (running.id, done.id, lost.id)} == {
        running.id: "failed",
        done.id: "completed",
        lost.id: "failed",
    }
    assert store.job(old.id, "video", "k") is None
    assert [p.name for p in store.files.iterdir()] == [done.id]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/a.db",
        "nonsense",
        "postgresql+psycopg://a:secret@127.0.0.1:1/x",
        "unknown://x",
    ],
)
def test_a_database_that_cannot_be_had_is_one_line_without_its_password(tmp_path, url):
    with pytest.raises(ConfigError, match="cannot be used as a database") as error:
        Store(url, tmp_path)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
