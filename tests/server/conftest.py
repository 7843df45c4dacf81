"""A real server process for the tests of this folder, and clients for it."""

import contextlib
import dataclasses
import signal
import socket

import httpx
import numpy as np
import openai
import pytest
import small_models
from processes import LIMIT_SECONDS, ForkedProcess, wait_until

import onnuri
from onnuri.media import writing
from onnuri.toyworld import audio, image, mesh, video
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

SCENE = sample_scene(31, "seen")


class Server:
    """`onnuri serve` in a process of its own, once it answers that it is ready."""

    def __init__(self, folder, *options, port=None):
        self.folder, self.port = folder, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        self.process = ForkedProcess(
            "onnuri",
            "serve",
            "--port",
            self.port,
            "--data",
            folder / "data",
            *options,
            log=self.log,
        )
        try:
            wait_until(self.ready, "a server that is ready", pause_seconds=0.05)
        except BaseException:  # whoever asked for it never learns of it, so nobody else can stop it
            self.stop(signal.SIGKILL)
            raise

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ready").status_code == 200

    def client(self, key="any", **options):
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=LIMIT_SECONDS,
            **options,
        )

    def openai(self):
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=LIMIT_SECONDS
        )

    def stop(self, how=signal.SIGTERM):
        """Its exit status."""
        self.process.send_signal(how)
        return self.process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def new_server(tmp_path_factory):
    """Start servers; all are stopped at the end."""
    started = []

    def start(*options, folder=None, port=None):
        started.append(Server(folder or tmp_path_factory.mktemp("server"), *options, port=port))
        return started[-1]

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def server(new_server):
    """The one that most tests share."""
    return new_server()


@pytest.fixture(scope="session")
def wild(tmp_path_factory):
    """A folder with the shipped weights whose pictures and words are drawn more freely."""
    model, folder = onnuri.load(), tmp_path_factory.mktemp("models") / "wild model"
    model.sampling = {
        m: dataclasses.replace(s, temperature=1.5, guidance=1.0) for m, s in model.sampling.items()
    }
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def two(new_server, wild):
    """A server of the shipped model, and of that one as `wild-model`."""
    return new_server("--beside", str(wild), "--rows", "8")


@pytest.fixture(scope="session")
def together(new_server, tmp_path_factory):
    """A server of the shipped model and of one of pictures that has learned only its words, which
    answer together."""
    folder = tmp_path_factory.mktemp("models") / "drawn things"
    small_models.pictures().save(folder)
    return new_server("--pictures", str(folder), "--rows", "8", "--alias", "gpt=onnuri")


@pytest.fixture(scope="session")
def client(server):
    """The unmodified client of that one."""
    with server.openai() as made:
        yield made


@pytest.fixture
def http(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def scene():
    """One scene in every modality, as files' bytes, and its sentences."""
    rng = generator("seen", 31)
    said = {language: caption(SCENE, language, rng) for language in ("ko", "en")}
    sound = audio.speak(said["ko"], "ko", audio.sample_voice(rng))
    files = {
        "image": writing.to_bytes(image.render(SCENE).image, ".png"),
        "audio": writing.to_bytes(sound, ".wav"),
        "video": writing.to_bytes(video.render(SCENE).frames, ".mp4"),
        "shape": writing.to_bytes(mesh.voxels(SCENE), ".glb"),
    }
    return {**files, **said, "samples": np.asarray(sound)}
