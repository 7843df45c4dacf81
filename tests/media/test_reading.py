"""What decoders hand back that is not plain: deep, turned, clear, profiled, moving,
many-channelled, in materials."""

import io
import json
import struct

import av
import numpy as np
import pytest
import soundfile
import trimesh
from PIL import Image

from onnuri.errors import MediaError
from onnuri.media import formats, reading
from onnuri.media.image import square
from onnuri.media.mesh import MOST_TESTS, fill

RNG = np.random.default_rng(0)
PICTURE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (3, 4, 3), np.uint8)).resize(
        (64, 48), Image.Resampling.BICUBIC
    )
)
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)


def saved(picture, form, **more):
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def seen(data, modality="image"):
    became, item = reading.take(data, modality, "x")
    assert became == modality
    return item.astype(int)


def near(a, b, most=2.0):
    assert a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).mean() < most, np.abs(
        a.astype(int) - b
    ).mean()


def test_every_format_of_the_table_has_a_family_and_endings():
    for form in formats.table():
        assert form.suffixes and form.media_types and form.family in formats.MEDIA_OF
    assert len({f.name for f in formats.table()}) == len(formats.table())


@pytest.mark.parametrize(
    "form",
    ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "QOI", "ICO", "DDS"],
)
def test_pictures_of_every_format_are_seen(form):
    picture = Image.fromarray(PICTURE)
    more = (
        {"quality": 95}
        if form in ("JPEG", "AVIF", "WEBP")
        else {"sizes": [(64, 48)]}
        if form == "ICO"
        else {}
    )
    near(seen(saved(picture, form, **more)), PICTURE, 8 if form == "GIF" else 6)


@pytest.mark.parametrize(
    "form,kind", [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32), ("TIFF", np.float32)]
)
def test_deep_grey_is_scaled_and_not_cut(form, kind):
    grey = PICTURE[..., 0]
    deep = (grey.astype(np.float64) * (1 / 255 if kind is np.float32 else 257)).astype(kind)
    near(seen(saved(Image.fromarray(deep), form)), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize(
    "orientation,turn",
    [
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_stand_as_the_camera_was_held(form, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    near(seen(saved(Image.fromarray(PICTURE), form, exif=exif.tobytes(), **more)), turn(PICTURE), 6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGBA", "CMYK", "1", "YCbCr", "LAB"])
def test_modes_come_out_as_pillow_shows_them(mode):
    picture = Image.fromarray(PICTURE)
    form = {"LA": "PNG", "P": "PNG", "PA": "TIFF", "RGBA": "PNG", "L": "PNG", "1": "PNG"}.get(
        mode, "TIFF"
    )
    if mode == "LAB":
        from PIL import ImageCms

        lab = ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        return near(seen(saved(lab, form)), PICTURE, 4)
    if mode == "PA":
        mode, form = "P", "GIF"
    near(
        seen(saved(picture.convert(mode), form)),
        np.asarray(picture.convert(mode).convert("RGB")),
        8,
    )


def test_a_profile_says_what_colours_mean():
    """A profile whose curves are linear: as light, not as sRGB's values."""
    from PIL import ImageCms

    linear = _linear_profile()
    ImageCms.ImageCmsProfile(io.BytesIO(linear))
    light = ((PICTURE / 255) ** 2.2 * 255).round().astype(np.uint8)
    near(seen(saved(Image.fromarray(light), "PNG", icc_profile=linear)), PICTURE, 6)
    near(seen(saved(Image.fromarray(light), "PNG", icc_profile=b"no profile at all")), light)


def _linear_profile():
    """sRGB's profile with the curves that every channel shares made straight."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for k in range(struct.unpack(">I", data[128:132])[0]):
        name, at, size = struct.unpack(">4sII", data[132 + 12 * k : 144 + 12 * k])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[at : at + size] = (b"curv" + bytes(8)).ljust(
                size, b"\0"
            )  # no entries: the identity
    return bytes(data)


def test_a_png_that_says_its_gamma_is_light():
    light = ((PICTURE / 255) ** 2.2 * 255).round().astype(np.uint8)
    data = saved(Image.fromarray(light), "PNG")
    body = b"gAMA" + struct.pack(">I", 100_000)
    import zlib

    with_gamma = (
        data[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    )
    near(seen(with_gamma), PICTURE, 6)


def test_what_is_clear_is_on_white_and_white_on_nothing_on_black():
    alpha = np.zeros((48, 64), np.uint8)
    alpha[10:30, 20:40] = 255
    drawn = Image.fromarray(np.dstack([PICTURE, alpha]))
    near(seen(saved(drawn, "PNG")), np.where(alpha[..., None] > 0, PICTURE, 255))
    white = Image.fromarray(np.dstack([np.full((48, 64, 3), 255, np.uint8), alpha]))
    assert np.ptp(seen(saved(white, "PNG"))) == 255


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_pictures_that_move_are_videos_by_whichever_door(form):
    frames = [Image.fromarray(np.roll(PICTURE, 8 * k, axis=1)) for k in range(6)]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=250)
    for declared in (None, "image", "video"):
        modality, item = reading.take(data, declared, "x")
        assert modality == "video" and item.shape == (17, 128, 128, 3)
        for second, k in ((0, 0), (0.5, 2), (1.0, 4)):
            near(item[int(second * 8)], square(np.asarray(frames[k].convert("RGB"))), 12)
    still = saved(frames[0], form)
    assert [reading.take(still, declared, "x")[0] for declared in (None, "image", "video")] == [
        "image"
    ] * 3


def sound(form, samples=TONE, rate=16_000, coding=None):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, subtype=coding)
    return out.getvalue()


def track(form, codec, samples=TONE, rate=48_000, layout="mono"):
    """A sound by PyAV, as recorders and phones make it."""
    import soxr

    out, wide = io.BytesIO(), soxr.resample(samples, 16_000, rate)
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.atleast_2d(wide.T.astype(np.float32)), format="fltp", layout=layout
        )
        frame.rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def rings(data, declared=None):
    modality, item = reading.take(data, declared, "x")
    assert modality == "audio" and 0.9 < len(item) / 16_000 < 1.2
    assert np.abs(np.fft.rfft(item)).argmax() * 16_000 / len(item) == pytest.approx(440, abs=3)
    return item


@pytest.mark.parametrize(
    "form,coding",
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "PCM_32"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAV", "ULAW"),
        ("FLAC", "PCM_24"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
        ("WAVEX", "PCM_16"),
    ],
)
def test_sounds_of_every_coding_ring(form, coding):
    level = np.abs(rings(sound(form, coding=coding))[4000:12_000]).max()
    assert level == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    "form,codec",
    [
        ("mp4", "aac"),
        ("ipod", "aac"),
        ("webm", "libopus"),
        ("adts", "aac"),
        ("mov", "alac"),
        ("ogg", "libopus"),
        ("mpegts", "aac"),
        ("avi", "libmp3lame"),
    ],
)
def test_what_recorders_and_phones_make_rings(form, codec):
    for declared in (None, "audio"):
        rings(track(form, codec), declared)
    with pytest.raises(MediaError, match="is not image: it is"):
        reading.take(track(form, codec), "image", "x")


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 96_000, 192_000])
def test_sounds_of_every_rate_and_count_of_channels_ring(rate):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    rings(sound("WAV", tone, rate))
    rings(sound("WAV", np.stack([tone, -tone], 1), rate))  # channels that cancel each other
    rings(sound("WAV", np.stack([tone, *[np.zeros_like(tone)] * 5], 1), rate))


def test_a_sound_beyond_full_scale_is_brought_back():
    assert np.abs(rings(sound("WAV", TONE * 40_000, coding="FLOAT"))).max() == pytest.approx(
        1, abs=0.05
    )


def movie(frames, form="mp4", codec="libx264", sound=False, **how):
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=8, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if "ratio" in how:
            stream.codec_context.sample_aspect_ratio = how["ratio"]
        if "degrees" in how:
            stream.set_display_rotation(how["degrees"], hflip=how.get("hflip", False))
        voice = container.add_stream("aac", rate=48_000, layout="mono") if sound else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        if voice:
            heard = av.AudioFrame.from_ndarray(
                np.repeat(TONE, 3)[None], format="fltp", layout="mono"
            )
            heard.rate = 48_000
            container.mux(voice.encode(heard))
            container.mux(voice.encode(None))
    return out.getvalue()


SQUARE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (2, 2, 3), np.uint8)).resize(
        (128, 128), Image.Resampling.BICUBIC
    )
)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_movies_stand_as_the_phone_was_held(degrees, hflip):
    turned = np.rot90(SQUARE, degrees // 90)
    shown = seen(
        movie([SQUARE] * 9, degrees=degrees if degrees < 180 else degrees - 360, hflip=hflip),
        "video",
    )
    near(shown[3], np.fliplr(turned) if hflip else turned, 8)


@pytest.mark.parametrize(
    "form,codec",
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("avi", "mpeg4"),
        ("mpegts", "libx264"),
    ],
)
def test_movies_of_every_container_are_seen(form, codec):
    near(seen(movie([SQUARE] * 9, form, codec), "video")[3], SQUARE, 14)


def test_pixels_that_are_not_square_are_made_so():
    narrow = np.asarray(Image.fromarray(SQUARE).resize((64, 128)))
    near(seen(movie([narrow] * 9, ratio=2), "video")[3], SQUARE, 10)


def test_a_movie_is_its_pictures_and_its_sound_where_that_is_meant():
    both = movie([SQUARE] * 9, sound=True)
    assert reading.take(both, None, "x")[0] == "video"
    rings(both, "audio")
    with pytest.raises(MediaError, match="is not audio: it is video"):
        reading.take(movie([SQUARE] * 9), "audio", "x")


def box(**more):
    return trimesh.creation.box((0.8, 0.8, 0.8), **more)


def painted(mesh, color):
    mesh.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[*color, 255])
    )
    return mesh


def colors_in(voxels):
    solid = voxels[voxels[..., 3] > 127][:, :3]
    return {tuple(int(c) for c in color) for color in np.unique(solid, axis=0)}


def test_plain_materials_keep_their_colours(tmp_path):
    red = painted(box(), (220, 20, 30))
    assert colors_in(seen(red.export(file_type="glb"), "shape")) == {(220, 20, 30)}
    blue = painted(box(), (10, 20, 230)).apply_translation((0, 1.2, 0))
    two = trimesh.Scene([red, blue]).export(file_type="glb")
    assert colors_in(seen(two, "shape")) == {(220, 20, 30), (10, 20, 230)}
    obj = (
        "mtllib a.mtl\n"
        + "".join(f"v {x} {y} {z}\n" for x, y, z in red.vertices)
        + "usemtl red\n"
        + "".join("f {} {} {}\n".format(*face + 1) for face in red.faces)
    )
    (tmp_path / "a.obj").write_text(obj)
    for door in (
        lambda: reading.take_file(tmp_path / "a.obj", "shape"),
        lambda: reading.take(obj.encode(), None, "x"),
    ):
        with pytest.raises(MediaError, match=r"colours in another file \(a.mtl\)"):
            door()
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    assert colors_in(reading.take_file(tmp_path / "a.obj", "shape")[1].astype(int)) == {(255, 0, 0)}


def test_colours_of_gltf_are_light_but_where_trimesh_wrote_them():
    glb = painted(box(), (128, 0, 0)).export(file_type="glb")
    length = struct.unpack("<I", glb[12:16])[0]
    about = json.loads(glb[20 : 20 + length])
    about["asset"]["generator"] = "Khronos glTF Blender I/O"
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 4)
    rest = glb[20 + length :]
    other = (
        b"glTF"
        + struct.pack("<III", 2, 20 + len(text) + len(rest), len(text))
        + b"JSON"
        + text
        + rest
    )
    [(r, g, b)] = colors_in(seen(other, "shape"))
    assert abs(r - 188) <= 1 and g == b == 0  # sRGB of half the light


def test_faces_and_vertices_keep_their_colours():
    mesh = box()
    mesh.visual.face_colors = [255, 0, 0, 255]
    mesh.visual.face_colors[mesh.face_normals[:, 1] > 0.5] = [0, 0, 255, 255]
    found = colors_in(seen(mesh.export(file_type="ply"), "shape"))
    assert (255, 0, 0) in found and (0, 0, 255) in found


def slow_fill(triangles, samples=3):
    """The same line by line, face by face."""
    size, lines = 64, 64 * samples
    scaled = (triangles + 1) * np.array([lines / 2, lines / 2, size / 2])
    crossings = {}
    for a, b, c in scaled:
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if abs(area) < 1e-12:
            continue
        for i in range(
            max(int(min(a[0], b[0], c[0])) - 1, 0), min(int(max(a[0], b[0], c[0])) + 2, lines)
        ):
            for j in range(
                max(int(min(a[1], b[1], c[1])) - 1, 0), min(int(max(a[1], b[1], c[1])) + 2, lines)
            ):
                x, y = i + 0.5 + 1.37e-4, j + 0.5 + 0.73e-4
                u = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area
                v = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area
                if u >= 0 and v >= 0 and u + v <= 1:
                    crossings.setdefault((i, j), []).append(
                        a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
                    )
    grid = np.zeros((lines, lines, size))
    cells = np.arange(size)
    for (i, j), heights in crossings.items():
        ordered = sorted(heights)
        for start, stop in zip(ordered[::2], ordered[1::2]):
            grid[i, j] += np.clip(np.minimum(stop, cells + 1) - np.maximum(start, cells), 0, 1)
    return grid.reshape(size, samples, size, samples, size).mean((1, 3)).clip(0, 1)


@pytest.mark.parametrize("solid", ["box", "torus", "open"])
def test_filling_at_once_is_filling_line_by_line(solid):
    mesh = {
        "box": lambda: trimesh.creation.box((0.3, 0.2, 0.4)),
        "torus": lambda: trimesh.creation.torus(0.15, 0.06, 12, 8),
        "open": lambda: trimesh.creation.icosphere(1, 0.2),
    }[solid]()
    mesh.apply_transform(trimesh.transformations.rotation_matrix(0.7, (1, 2, 3), (0, 0, 0)))
    triangles = np.asarray(mesh.triangles)[: -3 if solid == "open" else None]
    np.testing.assert_allclose(fill(triangles), slow_fill(triangles), atol=1e-6)


def test_filling_is_bounded_by_its_cost():
    sheet = np.array([[-1, -1, 0], [3, -1, 0], [-1, 3, 0]], float)
    many = np.stack([sheet + np.array([0, 0, 1e-3 * k]) for k in range(2 * MOST_TESTS // 192**2)])
    with pytest.raises(MediaError, match="cover each other"):
        fill(many)


def test_a_mesh_of_another_unit_is_brought_to_size():
    big, small = box().apply_scale(1000), box().apply_scale(0.001)
    for mesh in (big, small):
        assert 0.15 < (seen(mesh.export(file_type="stl"), "shape")[..., 3] > 127).mean() < 0.8


def glb_of(**more):
    text = json.dumps(
        {
            "asset": {"version": "2.0"},
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
            "accessors": [{"count": 9}],
            **more,
        }
    ).encode()
    text += b" " * (-len(text) % 4)
    return b"glTF" + struct.pack("<III", 2, 20 + len(text), len(text)) + b"JSON" + text


@pytest.mark.parametrize(
    "data,words",
    [
        (glb_of(extensionsRequired=["KHR_draco_mesh_compression"]), "compressed with Draco"),
        (glb_of(extensionsUsed=["EXT_meshopt_compression"]), "compressed with meshopt"),
        (glb_of(buffers=[{"uri": "chair.bin"}]), r"another file \(chair.bin\)"),
        (glb_of(accessors=[{"count": 3_000_000_000}]), "faces, at most"),
        (glb_of(accessors=[{}]), "is damaged"),
        (b"glTF", "is damaged"),
        (trimesh.creation.box((1, 1, 0)).export(file_type="glb"), "encloses nothing"),
        (
            trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(file_type="stl"),
            "encloses nothing",
        ),
        (saved(Image.new("RGB", (64, 64), "white"), "PNG"), "no more than a plain colour"),
        (saved(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "PNG"), "no more than a plain colour"),
        (saved(Image.linear_gradient("L"), "PNG"), "no more than a plain colour"),
        (saved(Image.new("L", (640, 640), 80), "JPEG"), "no more than a plain colour"),
        (
            movie([np.full((128, 128, 3), 40, np.uint8)] * 9),
            "no frame has more than a plain colour",
        ),
        (
            saved(
                Image.new("RGB", (9, 9)),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (9, 9), "#010101")],
            ),
            "no frame has more",
        ),
        (sound("WAV", np.zeros(16_000)), "is silent"),
        (sound("WAV", np.full(16_000, 0.25)), "is silent"),
        (track("mp4", "aac", np.zeros(16_000, np.float32)), "is silent"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "is HEIC, which is not read"),
        (b"%PDF-1.7 x", "is PDF"),
        (b"<svg xmlns='x'/>", "is SVG"),
        (b"PK\x03\x04" + bytes(40), "is ZIP"),
        (b"hello", "is of no format that is read"),
        (b"", "is empty"),
    ],
)
def test_nothing_is_passed_on_as_something(data, words):
    with pytest.raises(MediaError, match=words) as error:
        reading.take(data, None, "x")
    assert (
        ";" in str(error.value) and "\n" not in str(error.value) and "Errno" not in str(error.value)
    )


def test_an_obj_is_one_however_long_its_licence():
    obj = "# all rights reserved\n" * 1000 + box().export(file_type="obj")
    assert reading.take(obj.encode(), None, "x")[0] == "shape"


@pytest.mark.parametrize("whole", ["image", "audio", "video", "shape", "gif", "m4a"])
def test_what_is_cut_off_says_so_without_a_librarys_words(whole):
    data = {
        "image": lambda: saved(Image.fromarray(PICTURE), "PNG"),
        "audio": lambda: sound("FLAC"),
        "video": lambda: movie([SQUARE] * 9),
        "shape": lambda: box().export(file_type="glb"),
        "gif": lambda: saved(Image.fromarray(PICTURE), "GIF"),
        "m4a": lambda: track("mp4", "aac"),
    }[whole]()
    with pytest.raises(MediaError) as error:
        reading.take(data[: 3 * len(data) // 10], None, "x")
    assert "is damaged" in str(error.value) and "/tmp" not in str(error.value)
