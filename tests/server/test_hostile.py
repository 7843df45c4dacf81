"""What is sent to hurt: only errors of the 400s with the error object, never a 500, and the server
lives."""

import base64
import contextlib
import gzip
import io
import json
import struct
import zlib

import numpy as np
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from processes import LIMIT_SECONDS

WANTED = {"image": "image_url", "audio": "audio_url", "video": "video_url", "shape": "mesh_url"}
SCHEMA = b'{"format":{"type":"json_schema","schema":{"a":%b}}}'


def png(width, height, rows=1):
    """A PNG that says how large it is, whatever it holds."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * rows))
        + chunk(b"IEND", b"")
    )


def wav(rate=16_000, frames=16_000, data=b"\0\0" * 800, channels=1, bits=16):
    """A WAV that says how long it is, whatever it holds."""
    size = frames * channels * bits // 8
    return (
        b"RIFF"
        + struct.pack("<I", (size + 36) & 0xFFFFFFFF)
        + b"WAVEfmt "
        + struct.pack(
            "<IHHIIHH",
            16,
            1,
            channels,
            rate,
            (rate * channels * bits // 8) & 0xFFFFFFFF,
            (channels * bits // 8) & 0xFFFF,
            bits,
        )
        + b"data"
        + struct.pack("<I", size & 0xFFFFFFFF)
        + data
    )


def glb(body, data=b"\0" * 64):
    """A GLB of any JSON."""
    text = json.dumps(body).encode()
    text += b" " * (-len(text) % 4)
    return (
        b"glTF"
        + struct.pack("<II", 2, 12 + 8 + len(text) + 8 + len(data))
        + struct.pack("<I", len(text))
        + b"JSON"
        + text
        + struct.pack("<I", len(data))
        + b"BIN\0"
        + data
    )


def mesh(count, offset=0, kind=5126):
    return {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": kind, "count": count, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteOffset": offset, "byteLength": 64}],
        "buffers": [{"byteLength": 64}],
    }


def gif(width, height, frames):
    out = io.BytesIO()
    first, *rest = [Image.new("P", (width, height), k % 250) for k in range(frames)]
    first.save(out, "GIF", save_all=True, append_images=rest)
    return out.getvalue()


def cases(scene):
    """(modality, name, bytes): all of them must be refused."""
    nan = np.array([0, 0, 0, 1, 0, 0, np.nan, 1, 0], np.float32).tobytes()
    flat = "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 4000, dtype=np.uint8).tobytes()
    webm = b"\x1a\x45\xdf\xa3" + noise
    found = [
        ("image", "bomb of 40,000 a side", png(40_000, 40_000)),
        ("image", "bomb of 8,000 a side", png(8000, 8000)),
        ("image", "no pixels", png(0, 0)),
        ("image", "a negative side", png(2**31 + 5, 10)),
        ("image", "no rows", png(64, 64, 0)),
        ("image", "an iTXt bomb", png(64, 64)[:33] + zlib.compress(b"a" * 10**6)),
        (
            "image",
            "SVG",
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        ),
        ("image", "gzip", gzip.compress(b"0" * 10**6)),
        ("image", "TIFF", b"II*\0" + noise),
        ("audio", "silence", wav(data=b"\0\0" * 16_000)),
        ("audio", "ten hours by its header", wav(frames=16_000 * 36_000)),
        ("audio", "rate 0", wav(rate=0)),
        ("audio", "rate 4 GHz", wav(rate=2**32 - 1)),
        ("audio", "no channels", wav(channels=0)),
        ("audio", "65,535 channels", wav(channels=65_535)),
        ("audio", "no frames", wav(frames=0, data=b"")),
        ("audio", "header alone", b"RIFF\0\0\0\0WAVE"),
        ("audio", "MP3 of noise", b"ID3" + noise),
        ("audio", "Ogg of noise", b"OggS" + noise),
        ("audio", "FLAC of noise", b"fLaC" + noise),
        (
            "audio",
            "NaN",
            wav(bits=32, data=np.full(16_000, np.nan, np.float32).tobytes()).replace(
                struct.pack("<IHH", 16, 1, 1), struct.pack("<IHH", 16, 3, 1), 1
            ),
        ),
        ("video", "MP4 of noise", b"\0\0\0\x18ftypisom" + noise),
        ("video", "a box of 2^63", b"\0\0\0\x01ftyp" + b"\x7f" + b"\xff" * 7),
        ("video", "WebM of noise", webm),
        ("video", "GIF header alone", b"GIF89a" + struct.pack("<HH", 64, 64)),
        ("video", "GIF of 9,000 a side", gif(9000, 9, 1)),
        ("video", "no frames", scene["video"][:40]),
        ("shape", "no face", b"v 0 0 0\nv 1 0 0\n"),
        ("shape", "faces of nothing", b"v 0 0 0\nf 1 2 3\n"),
        ("shape", "a point", flat.encode()),
        ("shape", "NaN", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("shape", "infinity", b"v inf 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("shape", "GLB with NaN", glb(mesh(3), nan + b"\0" * 28)),
        ("shape", "GLB of 2^31 vertices", glb(mesh(2**31))),
        ("shape", "GLB beyond its buffer", glb(mesh(3, 10**9))),
        ("shape", "GLB of no kind", glb(mesh(3, kind=1))),
        (
            "shape",
            "GLB that names a file",
            glb({**mesh(3), "buffers": [{"byteLength": 64, "uri": "../../../etc/passwd"}]}),
        ),
        ("shape", "GLB without JSON", b"glTF" + struct.pack("<II", 2, 12)),
        ("shape", "STL that says 2^31 faces", b"\0" * 80 + struct.pack("<I", 2**31)),
        (
            "shape",
            "PLY of 10^9 vertices",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000\n"
            b"property float x\nproperty float y\nproperty float z\nend_header\n",
        ),
        (
            "shape",
            "an OBJ of 150,000 faces",
            b"v 0 0 0\nv 1 0 0\nv 0 1 0\n" + b"f 1 2 3\n" * 150_000,
        ),
    ]
    for modality in WANTED:
        whole = scene[modality]
        found += [
            (modality, "nothing", b""),
            (modality, "a byte", b"\0"),
            (modality, "text", b"hello"),
            (modality, "noise", noise),
            (modality, "its beginning", whole[:20]),
        ]
    wrong = {"image": "audio", "audio": "video", "video": "shape", "shape": "image"}
    return found + [(m, f"in truth {o}", scene[o]) for m, o in wrong.items()]


def refused(answer):
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    error = answer.json()["error"]
    assert (
        set(error) == {"message", "type", "param", "code"}
        and error["message"]
        and "\n" not in error["message"]
    )


def test_bad_media_are_refused_and_memory_stays_bounded(server, http, scene):
    process = psutil.Process(server.process.pid)
    every = cases(scene)
    assert len(every) >= 40
    before = process.memory_info().rss
    for modality, name, data in every:
        url = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
        part = {"type": WANTED[modality], WANTED[modality]: {"url": url}}
        answer = http.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]}
        )
        try:
            refused(answer)
        except AssertionError as error:
            raise AssertionError(f"{modality}: {name}: {error}") from None
    for data in (b"", b"hello", wav(data=b"\0\0" * 16_000), scene["image"]):
        for route in ("transcriptions", "translations"):
            refused(http.post(f"/v1/audio/{route}", files={"file": ("../../etc/passwd", data)}))
    for data in (b"", b"hello", png(40_000, 40_000), png(64, 64, 0), scene["audio"]):
        refused(
            http.post(
                "/v1/images/edits",
                data={"prompt": "make it blue"},
                files={"image": ("../../etc/passwd", data)},
            )
        )
        part = {
            "type": "input_image",
            "image_url": f"data:image/png;base64,{base64.b64encode(data).decode()}",
        }
        refused(http.post("/v1/responses", json={"input": [{"role": "user", "content": [part]}]}))
    assert process.memory_info().rss - before < 700e6
    assert http.get("/ready").status_code == 200


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": 3},
        {"type": "image_url", "image_url": {}},
        {"type": "text"},
        {},
        {"type": "text", "text": 4},
        {"type": "file", "file": {"file_id": "../../x"}},
        {"type": "input_audio", "input_audio": {"data": "%%%"}},
        {"type": "image_url", "image_url": {"url": "data:image/png"}},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": ["image_url"]},
        {"type": "video_url", "video_url": None},
    ],
)
def test_bad_parts_are_refused(http, part):
    refused(
        http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]})
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/videos/../../../../etc/passwd",
        "/v1/videos/..%2f..%2fetc%2fpasswd/content",
        "/v1/videos/%00",
        "/v1/meshes/..%2F..%2Fonnuri.db/content",
        "/..%2f..%2fsettings.py",
        "/%2e%2e/%2e%2e/settings.py",
        "/web/../settings.py",
    ],
)
def test_paths_lead_nowhere_else(http, path):
    answer = http.get(path)
    assert answer.status_code in (404, 405), answer.text
    assert b"root:" not in answer.content and b"ServeConfig" not in answer.content


def test_long_and_odd_words_do_not_hurt(http):
    for content in (
        "a" * 100_000,
        "\0",
        "\ud7ff" * 50,
        "🤖" * 400,
        " \n\t ",
        "<|image|><eos>" * 20,
        "\u202e구",
    ):
        answer = http.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]}
        )
        assert answer.status_code in (200, 400), answer.text[:300]
    answer = http.post(
        "/v1/chat/completions",
        content=b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (200, 400)
    deep = b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"
    refused(
        http.post(
            "/v1/chat/completions", content=deep, headers={"Content-Type": "application/json"}
        )
    )
    nested = (
        b'[{"type":' * 450 + b"1" + b"}]" * 450
    )  # which JSON's parser still takes, so that what comes after it must too
    for field, body in (("tools", b"%b"), ("conversation", b"%b"), ("text", SCHEMA)):
        answer = http.post(
            "/v1/responses",
            content=b'{"input":"a","%b":%b}' % (field.encode(), body % nested),
            headers={"Content-Type": "application/json"},
        )
        refused(answer)
        assert answer.json()["error"]["message"].startswith(field)


@pytest.mark.slow
def test_whatever_the_openapi_page_allows_and_forbids_is_answered(server):
    """schemathesis asks every route for what the page describes and for what it does not: nothing
    is a failure of ours."""
    schema, statuses = schemathesis.openapi.from_url(f"{server.url}/openapi.json"), []

    def answered(case):
        answer = case.call(
            base_url=server.url, headers={"Authorization": "Bearer any"}, timeout=LIMIT_SECONDS
        )
        statuses.append(answer.status_code)
        assert answer.status_code < 500, (case.method, case.path, case.body, answer.text[:500])
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    for operation in schema.get_all_operations():
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            with contextlib.suppress(Unsatisfiable):  # some routes take nothing that could be wrong
                tried = given(case=operation.ok().as_strategy(generation_mode=mode))(answered)
                settings(
                    max_examples=8,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    suppress_health_check=list(HealthCheck),
                )(tried)()
    assert len(statuses) > 150 and {200, 400, 404} <= set(statuses)
