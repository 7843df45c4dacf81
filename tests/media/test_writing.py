"""Files as users have them: round trips, and every way in which a file can be wrong."""

import struct
import wave

import numpy as np
import pytest
import trimesh

from onnuri.errors import MediaError
from onnuri.media import reading, writing
from onnuri.media.limits import Limits
from onnuri.modality import TABLE
from onnuri.toyworld import image, mesh, video
from onnuri.toyworld.scene import sample_scene

SCENE = sample_scene(3, "seen")


def write_wav(path, samples, rate=16_000):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_come_back(tmp_path, suffix):
    picture = image.render(SCENE).image
    writing.write(picture, tmp_path / f"a{suffix}")
    assert np.abs(reading.read(tmp_path / f"a{suffix}", "image").astype(int) - picture).mean() < (
        0.01 if suffix == ".png" else 2
    )


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".opus"])
def test_sounds_come_back(tmp_path, suffix):
    sound = (0.3 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)
    writing.write(sound, tmp_path / f"a{suffix}")
    again = reading.read(tmp_path / f"a{suffix}", "audio")
    if suffix in (".wav", ".flac"):
        np.testing.assert_allclose(again, sound, atol=1e-4)
    else:  # what is lossy keeps the spectrum
        a, b = (np.abs(np.fft.rfft(x[4000:12_000])) for x in (sound, again))
        assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.99


@pytest.mark.parametrize(
    "modality,suffix", [(m, s) for m in TABLE for s in TABLE[m].suffixes if m != "text"]
)
def test_bytes_say_themselves_what_they_are(modality, suffix):
    item = {
        "image": lambda: image.render(SCENE).image,
        "audio": lambda: np.sin(np.arange(16_000) * 0.1).astype(np.float32),
        "video": lambda: video.render(SCENE).frames,
        "shape": lambda: mesh.voxels(SCENE),
    }[modality]()
    data = writing.to_bytes(item, suffix)
    assert reading.from_bytes(data, modality, "the file").shape[1:] == item.shape[1:]
    for other in set(TABLE) - {modality, "text"}:
        if suffix != ".gif":
            with pytest.raises(MediaError, match=f"the file: is not {other}"):
                reading.from_bytes(data, other, "the file")


def test_limits_hold_before_anything_is_decoded():
    narrow = Limits(pixels=100, seconds=0.5, faces=3)
    for modality, item in (
        ("image", image.render(SCENE).image),
        ("audio", np.sin(np.arange(16_000) * 0.1).astype(np.float32)),
        ("video", video.render(SCENE).frames),
        ("shape", mesh.voxels(SCENE)),
    ):
        with pytest.raises(MediaError, match=r"the file: .* at most"):
            reading.from_bytes(
                writing.to_bytes(item, TABLE[modality].suffixes[0]), modality, "the file", narrow
            )


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_videos_come_back(tmp_path, suffix):
    frames = video.render(SCENE).frames
    writing.write(frames, tmp_path / f"a{suffix}")
    again = reading.read(tmp_path / f"a{suffix}", "video")
    assert again.shape == frames.shape and np.abs(again.astype(int) - frames).mean() < 6


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_shapes_come_back(tmp_path, suffix):
    grid = mesh.voxels(SCENE)
    writing.write(grid, tmp_path / f"a{suffix}")
    again = reading.read(tmp_path / f"a{suffix}", "shape")
    a, b = grid[..., 3] > 127, again[..., 3] > 127
    assert (a & b).sum() / (a | b).sum() > 0.85
    assert np.abs(grid[a & b][:, :3].astype(int) - again[a & b][:, :3]).mean() < 3


def test_sound_of_another_rate_and_two_channels_is_read_as_16_khz_mono(tmp_path):
    import soundfile

    tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100) * 0.3
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], 1), 44_100)
    sound = reading.read(tmp_path / "a.wav", "audio")
    assert len(sound) == pytest.approx(16_000, abs=2)
    assert np.abs(np.fft.rfft(sound)).argmax() == pytest.approx(440, abs=1)


def bad_files(folder):
    """(name, modality, maker of the file)"""

    def save(name, data):
        return lambda: (folder / name).write_bytes(data)

    whole_png, whole_glb = (
        writing.to_bytes(image.render(SCENE).image, ".png"),
        writing.to_bytes(mesh.voxels(SCENE), ".glb"),
    )
    mp4, flac = (
        writing.to_bytes(video.render(SCENE).frames, ".mp4"),
        writing.to_bytes(np.ones(16_000, np.float32) * 0.1, ".flac"),
    )
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBB", 13, b"IHDR", 20_000, 20_000, 8, 2, 0, 0, 0
    )
    import zlib

    huge += struct.pack(">I", zlib.crc32(huge[12:29]))
    zero = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 0, 0, 8, 2, 0, 0, 0)
    zero += struct.pack(">I", zlib.crc32(zero[12:29]))
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        2**31,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        16_000,
        32_000,
        2,
        16,
        b"data",
        16_000 * 7200 * 2,
    )
    nan = trimesh.creation.box()
    nan.vertices[0] = np.nan
    flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    return [
        ("missing.png", "image", lambda: None),
        ("empty.png", "image", save("empty.png", b"")),
        ("cut.png", "image", save("cut.png", whole_png[: len(whole_png) // 2])),
        ("text.png", "image", save("text.png", b"hello")),
        ("huge.png", "image", save("huge.png", huge)),
        ("zero.png", "image", save("zero.png", zero)),
        ("sound.png", "image", save("sound.png", flac)),
        ("folder.png", "image", lambda: (folder / "folder.png").mkdir()),
        ("empty.wav", "audio", save("empty.wav", b"")),
        ("silent.wav", "audio", lambda: write_wav(folder / "silent.wav", np.zeros(9000))),
        ("short.wav", "audio", lambda: write_wav(folder / "short.wav", np.ones(10))),
        ("text.wav", "audio", save("text.wav", b"hello there")),
        (
            "long.wav",
            "audio",
            lambda: write_wav(folder / "long.wav", np.ones(8000 * 61) * 0.1, 8000),
        ),
        ("header.wav", "audio", save("header.wav", header)),
        ("cut.flac", "audio", save("cut.flac", flac[:20])),
        ("picture.wav", "audio", save("picture.wav", whole_png)),
        ("empty.mp4", "video", save("empty.mp4", b"")),
        ("cut.mp4", "video", save("cut.mp4", mp4[:200])),
        ("text.mp4", "video", save("text.mp4", b"hello")),
        ("sound.mp4", "video", save("sound.mp4", flac)),
        ("empty.glb", "shape", save("empty.glb", b"")),
        ("cut.glb", "shape", save("cut.glb", whole_glb[:100])),
        ("text.obj", "shape", save("text.obj", b"hello")),
        ("points.obj", "shape", save("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n")),
        ("nan.obj", "shape", lambda: nan.export(folder / "nan.obj")),
        ("flat.obj", "shape", lambda: flat.export(folder / "flat.obj")),
        ("blank.txt", "text", save("blank.txt", b"  \n")),
        ("binary.txt", "text", save("binary.txt", b"\xff\xfe\x00\xd8")),
    ]


def test_every_bad_file_is_one_line_that_says_what_to_do(tmp_path):
    for name, modality, make in bad_files(tmp_path):
        make()
        with pytest.raises(MediaError) as caught:
            reading.read(tmp_path / name, modality)
        line = str(caught.value)
        assert name in line and "\n" not in line and ";" in line, line


def test_nothing_is_left_behind_where_writing_fails(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaError):
        writing.write("hello", tmp_path / "file" / "a.txt")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(MediaError):
        writing.write(image.render(SCENE).image, tmp_path / "a.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "file"]


def test_an_empty_shape_is_not_written(tmp_path):
    with pytest.raises(MediaError, match="no surface"):
        writing.write(np.zeros((64, 64, 64, 4), np.uint8), tmp_path / "a.glb")
    assert not list(tmp_path.iterdir())
