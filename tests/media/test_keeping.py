"""What is kept of a media file reads as the file does, holds none of its notes, and is the same at
every reading; what was cut off is refused, which `take` alone would not always see."""

import io

import av
import media_files
import numpy as np
import pytest
import soundfile
import trimesh
from media_files import SECRET
from PIL import Image

from onnuri.errors import MediaError
from onnuri.media import reading
from onnuri.media.limits import Limits

FILES = {
    **{
        f"{kind} picture": lambda kind=kind: media_files.picture(1, kind)
        for kind in ("JPEG", "PNG", "WEBP", "GIF")
    },
    "animation": lambda: media_files.animation(1),
    **{
        f"{kind} sound": lambda kind=kind: media_files.sound(1, kind)
        for kind in ("WAV", "MP3", "OGG", "M4A")
    },
    "stereo": lambda: media_files.sound(2, "FLAC", channels=2),
    "mp4": lambda: media_files.movie(1),
    "webm": lambda: media_files.movie(1, ".webm"),
    "turned movie": lambda: media_files.movie(3, degrees=90),
    "silent movie": lambda: media_files.movie(1, with_sound=False),
    **{kind: lambda kind=kind: media_files.mesh(1, kind) for kind in ("glb", "obj", "ply", "stl")},
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_kept_reads_as_the_file_and_holds_no_notes(name):
    data = FILES[name]()
    kept = reading.keep(data, name)
    modality, item = reading.take(data, None, name)
    again, kept_item = reading.take(kept.data, None, name)
    assert kept.modality == modality == again
    # 16 bits of a lossy sound differ by a step, and so do voxels by an OBJ's corners in 32 bits
    most = {"audio": 1e-4, "shape": 1 if name == "obj" else 0}.get(modality, 0)
    assert np.abs(item.astype(float) - kept_item).max() <= most
    notes = [SECRET.encode(), SECRET.encode("utf-16-le"), b"SecretCamera", b"x264", b"GPS", b"Exif"]
    assert not [note for note in notes if note in kept.data]
    assert reading.keep(data, name).data == kept.data


def test_the_files_have_notes_before():
    with_notes = [
        "JPEG picture",
        "PNG picture",
        "WEBP picture",
        "GIF picture",
        "animation",
        "WAV sound",
    ]
    with_notes += ["M4A sound", "mp4", "glb"]
    assert [name for name in with_notes if SECRET.encode() not in FILES[name]()] == []


def test_alpha_and_the_colours_beneath_it_are_kept():
    pixels = media_files.pixels(3, alpha=True)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    kept = reading.keep(out.getvalue(), "x")
    assert kept.facts == {"width": pixels.shape[1], "height": pixels.shape[0], "alpha": True}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(kept.data))), pixels)
    opaque = io.BytesIO()
    Image.fromarray(np.dstack([pixels[..., :3], np.full(pixels.shape[:2], 255, np.uint8)])).save(
        opaque, "PNG"
    )
    assert reading.keep(opaque.getvalue(), "x").facts["alpha"] is False


def test_a_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    out = io.BytesIO()
    pixels = media_files.pixels(4)
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    kept = reading.keep(out.getvalue(), "x")
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(kept.data))), np.rot90(pixels, -1)
    )


@pytest.mark.parametrize(
    "subtype, dtype", [("PCM_16", "int16"), ("PCM_24", "int32"), ("PCM_U8", "int16")]
)
def test_samples_are_kept_to_the_bit_at_their_own_rate(subtype, dtype):
    out = io.BytesIO()
    soundfile.write(
        out, media_files.samples(5, 0.5, 44_100, 2), 44_100, format="WAV", subtype=subtype
    )
    kept = reading.keep(out.getvalue(), "x")
    first, hz = soundfile.read(io.BytesIO(out.getvalue()), dtype=dtype)
    second, kept_hz = soundfile.read(io.BytesIO(kept.data), dtype=dtype)
    assert (hz, kept_hz, kept.facts["channels"]) == (44_100, 44_100, 2)
    np.testing.assert_array_equal(first, second)


def streams(data):
    """Codec, and the hash of every packet's frames, of a movie's streams."""
    with av.open(io.BytesIO(data)) as container:
        kinds = [stream.codec_context.name for stream in container.streams]
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    return kinds, frames, dict(container.metadata)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_movies_streams_are_copied_and_nothing_else(suffix):
    data = media_files.movie(2, suffix)
    kept = reading.keep(data, "x")
    kinds, frames, _ = streams(data)
    kept_kinds, kept_frames, metadata = streams(kept.data)
    assert kinds == kept_kinds and len(kinds) == 2
    np.testing.assert_array_equal(frames, kept_frames)
    assert not {"comment", "location", "creation_time"} & {key.lower() for key in metadata}
    assert kept.facts["frames"] == 20 and kept.facts["seconds"] == pytest.approx(2.5, abs=0.05)


def test_a_turned_movie_is_turned():
    """The file is another one than without its rotation, so the first test's equality says something."""
    turned, upright = (media_files.movie(3, degrees=degrees) for degrees in (90, 0))
    assert not np.array_equal(*(reading.take(data, None, "x")[1] for data in (turned, upright)))


def test_a_second_sound_is_left_out():
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        movie = container.add_stream("libx264", rate=8)
        movie.width, movie.height, movie.pix_fmt = 64, 48, "yuv420p"
        tracks = [container.add_stream("libopus", rate=48_000, layout="mono") for _ in range(2)]
        for k in range(8):
            still = np.ascontiguousarray(np.roll(media_files.pixels(6)[:48, :64], 3 * k, axis=1))
            container.mux(movie.encode(av.VideoFrame.from_ndarray(still, "rgb24")))
        container.mux(movie.encode())
        for track in tracks:
            values = media_files.samples(6, 1.0, 48_000)[:, 0].astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(values, format="flt", layout="mono")
            frame.rate = 48_000
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    before = streams(out.getvalue())[0]
    kept = reading.keep(out.getvalue(), "x")
    assert len(before) == 3 and streams(kept.data)[0] == before[:2]
    assert kept.media_type == "video/x-matroska"


def test_a_texture_stays_a_texture():
    kept = reading.keep(media_files.mesh(2, "glb"), "x")
    scene = trimesh.load_scene(io.BytesIO(kept.data), file_type="glb")
    (part,) = scene.geometry.values()
    assert part.visual.kind == "texture" and part.visual.material.baseColorTexture.size == (8, 8)
    assert kept.facts["faces"] == len(part.faces)


def test_parts_stay_where_they_are_and_cameras_do_not():
    one, other = media_files.solid(1), media_files.solid(2)
    scene = trimesh.Scene(camera=trimesh.scene.Camera(fov=(60, 60)))
    for number, (part, x) in enumerate(((one, -0.5), (other, 0.5))):
        matrix = trimesh.transformations.translation_matrix([x, 0.1, 0])
        scene.add_geometry(
            part, node_name=f"{SECRET}{number}", transform=matrix @ np.diag([0.4, 0.4, 0.4, 1])
        )
    data = scene.export(file_type="glb")
    kept = reading.keep(data, "x")
    np.testing.assert_array_equal(
        reading.take(kept.data, None, "x")[1], reading.take(data, None, "x")[1]
    )
    assert (
        SECRET.encode() in data and SECRET.encode() not in kept.data and b"camera" not in kept.data
    )


# what is cut off an MP3 without a table of its frames, an OBJ or an STL of text cannot be seen
@pytest.mark.parametrize("name", [n for n in FILES if n not in ("obj",)])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_what_was_cut_off_is_refused(name, share):
    data = FILES[name]()
    with pytest.raises(MediaError):
        reading.keep(data[: int(len(data) * share)], name)


def test_the_pixels_of_an_animation_have_a_limit():
    data = media_files.animation(1, 12)
    with Image.open(io.BytesIO(data)) as gif:
        pixels = gif.width * gif.height
    assert reading.keep(data, "x", Limits(pixels=pixels * 12 // 8)).facts["frames"] == 12
    with pytest.raises(MediaError, match=f"has {12 * pixels} pixels in 12 frames"):
        reading.keep(data, "x", Limits(pixels=pixels * 11 // 8))
