"""One file, one verdict: six doors, and the suffix right, wrong and absent, say the same of it in
the same words."""

import asyncio
import base64
import io
import types

import av
import numpy as np
import pytest
import soundfile
import trimesh
from fastapi import UploadFile
from PIL import Image

from onnuri import cli, demo
from onnuri.errors import OnnuriError
from onnuri.media import formats, reading
from onnuri.media.limits import LIMITS
from onnuri.media.video import movie_bytes
from onnuri.model.omni import Reply
from onnuri.server import images, inputs, openai_responses
from onnuri.server.errors import APIError
from onnuri.server.settings import ServeConfig

SETTINGS = ServeConfig()
RNG = np.random.default_rng(1)
PICTURE = np.asarray(Image.fromarray(RNG.integers(0, 256, (3, 3, 3), np.uint8)).resize((128, 128)))
TONE = (0.3 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32)
URL = {"image": "image_url", "audio": "audio_url", "video": "video_url", "shape": "mesh_url"}


def picture(form, *frames, **more):
    out, all_ = io.BytesIO(), [Image.fromarray(f) for f in frames or (PICTURE,)]
    all_[0].save(
        out,
        form,
        **({"save_all": True, "append_images": all_[1:], "duration": 200} if frames else {}),
        **more,
    )
    return out.getvalue()


def sound(form, samples=TONE):
    out = io.BytesIO()
    soundfile.write(out, samples, 16_000, format=form)
    return out.getvalue()


def recorded(form, codec):
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.repeat(TONE, 3)[None], format="fltp", layout="mono")
        frame.rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def movie(suffix):
    return movie_bytes([PICTURE] * 9, suffix)


def mesh(form, solid=None):
    data = (solid or trimesh.creation.box((0.8, 0.8, 0.8))).export(file_type=form)
    return data.encode() if isinstance(data, str) else data


FILES = {  # a suffix, bytes and modality; None where it is refused
    "png": (lambda: picture("PNG"), "image"),
    "jpg": (lambda: picture("JPEG"), "image"),
    "webp": (lambda: picture("WEBP"), "image"),
    "gif": (lambda: picture("GIF"), "image"),
    "avif": (lambda: picture("AVIF"), "image"),
    "bmp": (lambda: picture("BMP"), "image"),
    "tiff": (lambda: picture("TIFF"), "image"),
    "moving.gif": (lambda: picture("GIF", PICTURE, PICTURE[::-1]), "video"),
    "moving.webp": (lambda: picture("WEBP", PICTURE, PICTURE[::-1]), "video"),
    "wav": (lambda: sound("WAV"), "audio"),
    "flac": (lambda: sound("FLAC"), "audio"),
    "mp3": (lambda: sound("MP3"), "audio"),
    "m4a": (lambda: recorded("ipod", "aac"), "audio"),
    "webm": (lambda: recorded("webm", "libopus"), "audio"),
    "aac": (lambda: recorded("adts", "aac"), "audio"),
    "mp4": (lambda: movie(".mp4"), "video"),
    "mkv": (lambda: movie(".webm"), "video"),
    "glb": (lambda: mesh("glb"), "shape"),
    "stl": (lambda: mesh("stl"), "shape"),
    "ply": (lambda: mesh("ply"), "shape"),
    "obj": (lambda: b"# licence\n" * 1000 + mesh("obj"), "shape"),
    "cut.png": (lambda: picture("PNG")[:900], None),
    "cut.m4a": (lambda: recorded("ipod", "aac")[:700], None),
    "blank.png": (lambda: picture("PNG", np.full((40, 40, 3), 255, np.uint8)), None),
    "silent.wav": (lambda: sound("WAV", TONE * 0), None),
    "long.wav": (lambda: sound("WAV", np.tile(TONE, 20)), None),
    "flat.glb": (lambda: mesh("glb", trimesh.creation.box((1, 1, 0))), None),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(90), None),
    "txt": (lambda: b"a red cube", None),
    "empty.png": (lambda: b"", None),
}
NAMES = ("x.{0}", "x.wrong", "x")
"""with the right suffix, a wrong one and none"""


class Recorder:
    """A model that keeps what it is given."""

    def reply(self, to, inputs, **_):
        self.inputs = inputs
        return Reply("seen", "en")


def verdict(door):
    """What a door makes of a file: its modality, or the words of its refusal without what they call
    it."""
    try:
        return door()
    except (OnnuriError, APIError) as error:
        return str(error).split(": ", 1)[1]


def doors(data, name, modality, folder, capsys, monkeypatch):
    """Six of them: page, command line, `file`, `*_url`, /v1/responses, upload."""
    encoded = base64.b64encode(data).decode()
    uri, kind = f"data:application/octet-stream;base64,{encoded}", URL[modality]
    state = types.SimpleNamespace(
        settings=SETTINGS, service=types.SimpleNamespace(decode_in_pool=_at_once)
    )

    def page():
        kind = inputs.inspect(data, "file", SETTINGS)["kind"]
        return "shape" if kind == "mesh" else kind

    def command_line():
        (folder / name).write_bytes(data)
        model = Recorder()
        monkeypatch.setattr(demo, "shipped", lambda _, device: model)
        try:
            cli.main(
                [
                    "generate",
                    "--to",
                    "text",
                    f"--{modality}",
                    str(folder / name),
                    "-o",
                    str(folder / "out.txt"),
                ]
            )
        except SystemExit as stop:
            assert stop.code == 2
            [line] = capsys.readouterr().err.splitlines()
            return line.split(": ", 2)[2]
        return model.inputs[0][0]

    return {
        "page": page,
        "command line": command_line,
        "file": lambda: inputs.load(
            {"type": "file", "file": {"file_data": uri, "filename": name}}, "a", SETTINGS
        )[0],
        "url": lambda: inputs.load({"type": kind, kind: {"url": uri}}, "a", SETTINGS)[0],
        "responses": lambda: inputs.load(
            openai_responses._part({"type": "input_file", "file_data": uri, "filename": name}, "a"),
            "a",
            SETTINGS,
        )[0],
        "upload": lambda: asyncio.run(
            images.read_upload(UploadFile(io.BytesIO(data), filename=name), None, "a", state)
        )[0],
    }


async def _at_once(call, *arguments):
    return call(*arguments)


@pytest.mark.parametrize("kind", FILES)
def test_six_doors_give_one_verdict_in_the_same_words(kind, tmp_path, capsys, monkeypatch):
    make, modality = FILES[kind]
    data, told = make(), set()
    meant = modality or {"wav": "audio", "m4a": "audio", "glb": "shape"}.get(
        kind.split(".")[-1], "image"
    )
    for pattern in NAMES:
        name = pattern.format(kind)
        for door in doors(data, name, meant, tmp_path, capsys, monkeypatch).values():
            told.add(verdict(door))
    assert len(told) == 1, told
    assert (told == {modality}) if modality else (";" in min(told)), told


def test_what_is_meant_as_another_modality_is_told_what_it_is(tmp_path, capsys, monkeypatch):
    for kind in ("png", "wav", "mp4", "glb"):
        make, modality = FILES[kind]
        for meant in set(URL) - {modality}:
            six = doors(make(), "x", meant, tmp_path, capsys, monkeypatch)
            told = {verdict(six[door]) for door in ("command line", "url")}
            if {modality, meant} == {"image", "video"} and kind == "png":
                assert told == {
                    "image"
                }  # a picture that does not move, by the door of those that do
            else:
                assert told == {
                    f"is not {meant}: it is {modality} ({formats.sniff(make()).name}); give it as {modality}"
                }


def test_a_terminals_limits_are_a_servers():
    served, own = SETTINGS.limits, LIMITS
    assert all(
        getattr(served, name) == getattr(own, name)
        for name in ("side", "pixels", "frame_side", "seconds", "faces")
    )


def test_a_hundred_pictures_are_counted_before_one_is_decoded(monkeypatch, model):
    monkeypatch.setattr(reading, "take", lambda *_: pytest.fail("decoded"))
    parts = [{"type": "image_url", "image_url": {"url": "data:,x"}}] * 100
    with pytest.raises(
        OnnuriError, match="100 parts: need 3300 tokens or more, 1280 at most fit; give fewer"
    ):
        inputs.check_count(parts, model.answers, "messages[0].content")
