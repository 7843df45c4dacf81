"""How long an 82,000-face mesh takes over HTTP, and how long words wait beside two of them: `python
benchmarks/mesh_load.py`.

Four meshes, each described alone; then two at once, again and again, while another client asks for
a picture's words. Bars: 2 s a mesh, 1 s of words. Writes benchmarks/results/mesh_load.json, with
every measured time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import trimesh

from onnuri.evaluation.machine import machine
from onnuri.files import write_json

RESULTS = Path(__file__).parent / "results" / "mesh_load.json"
MESH_SECONDS, WORDS_SECONDS = 2.0, 1.0


def mesh(seed: int) -> dict[str, Any]:
    """A part of a message: a sphere of 81,920 faces with a colour a vertex, as GLB."""
    sphere = trimesh.creation.icosphere(6, 0.9)
    sphere.visual.vertex_colors = np.random.default_rng(seed).integers(
        0, 256, (len(sphere.vertices), 4), dtype=np.uint8
    )
    data = base64.b64encode(sphere.export(file_type="glb")).decode()
    return {"type": "mesh_url", "mesh_url": {"url": f"data:model/gltf-binary;base64,{data}"}}


@contextlib.contextmanager
def served() -> Any:
    """The address of a server that is ready."""
    with socket.socket() as s, tempfile.TemporaryDirectory() as folder:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        server = subprocess.Popen(
            [sys.executable, "-m", "onnuri.cli", "serve", "--port", str(port), "--data", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                assert server.poll() is None, "the server did not start"
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/ready").status_code == 200:
                        break
                time.sleep(0.1)
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=4, help="pairs of meshes beside which words are asked for"
    )
    settings = parser.parse_args()
    with (
        served() as url,
        httpx.Client(base_url=url, timeout=120, headers={"authorization": "Bearer none"}) as client,
    ):

        def ask(content: Any) -> float:
            began = time.perf_counter()
            client.post(
                "/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]}
            ).raise_for_status()
            return round(time.perf_counter() - began, 3)

        ask("a red cube")
        alone = [ask([mesh(k)]) for k in range(4)]
        words: list[float] = []
        for k in range(settings.rounds):
            pair = [threading.Thread(target=ask, args=([mesh(10 * k + j)],)) for j in range(2)]
            for thread in pair:
                thread.start()
            while any(thread.is_alive() for thread in pair):
                words.append(ask("a small red cube"))
    found = {
        "machine": machine(),
        "mesh_seconds": alone,
        "words_seconds": words,
        "bars": {"mesh_seconds": MESH_SECONDS, "words_seconds": WORDS_SECONDS},
        "met": max(alone) <= MESH_SECONDS and max(words) <= WORDS_SECONDS,
    }
    write_json(found, RESULTS, indent=1)
    for what, took, bar in (
        ("a mesh of 81,920 faces", alone, MESH_SECONDS),
        ("words beside two", words, WORDS_SECONDS),
    ):
        print(
            f"{what}: {statistics.median(took):.2f} s at the median, {max(took):.2f} at worst of {len(took)} (bar {bar:g})"
        )
    raise SystemExit(0 if found["met"] else 1)


if __name__ == "__main__":
    main()
