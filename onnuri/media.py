"""The five media as files: PNG, JPEG, WebP, WAV, FLAC, MP3, Opus, MP4, GIF, GLB, OBJ, PLY, STL and text, as arrays.

Knows no codec and no model. What is too large, broken or empty raises MediaError before it is decoded; what is written
has a temporary name until it is whole. The arrays' forms are those of `codecs/base.py`.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image, ImageOps, UnidentifiedImageError
from skimage.measure import marching_cubes

from onnuri.errors import MediaError
from onnuri.files import check_place as check_place
from onnuri.files import make_folder as make_folder
from onnuri.files import write_bytes as write_bytes
from onnuri.files import write_json as write_json
from onnuri.modality import AUDIO_HZ, IMAGE_SIZE, TABLE, VIDEO_FPS, VIDEO_FRAMES, VOXELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What is read at most; a server's are narrower than a terminal's."""

    file_bytes: int = 200 * 2**20
    side: int = 8192
    """pixels of a picture"""
    pixels: int = 8192**2
    frame_side: int = 4096
    """pixels of a video"""
    seconds: float = 60.0
    """of sound and video"""
    faces: int = 500_000


LIMITS = Limits()


def read(path: Path, medium: str, limits: Limits = LIMITS) -> Any:
    """A file as the medium's array. Raises MediaError."""
    reader = {"text": _read_text, "image": _read_image, "audio": _read_audio, "video": _read_video,
              "shape": _read_shape}[medium]
    if not path.exists():
        raise MediaError(str(path), "does not exist", "check the path")
    if not path.is_file():
        raise MediaError(str(path), "is not a file", "give a file")
    check_suffix(path, medium)
    size = path.stat().st_size
    if size == 0:
        raise MediaError(str(path), "is empty", "give a file with content")
    if size > limits.file_bytes:
        raise MediaError(str(path), f"has {size} bytes, at most {limits.file_bytes} are read", "give a smaller file")
    return reader(path, limits)


def from_bytes(data: bytes, medium: str, name: str, limits: Limits = LIMITS) -> Any:
    """A file's bytes as the medium's array; their own beginning says the format. Raises MediaError, which calls it `name`."""
    if not data:
        raise MediaError(name, "is empty", "give a file with content")
    suffix = suffix_of(data)
    if suffix not in TABLE[medium].suffixes:  # type: ignore[index]
        raise MediaError(name, f"is not {medium} of a kind that is read",
                         f"give one of {', '.join(TABLE[medium].suffixes)}")  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"item{suffix}"
        path.write_bytes(data)
        try:
            return read(path, medium, limits)
        except MediaError as error:
            raise MediaError(name, error.rule.replace(str(path), name), error.repair) from None


_MAGIC = ((".png", b"\x89PNG"), (".jpg", b"\xff\xd8\xff"), (".flac", b"fLaC"), (".ogg", b"OggS"), (".mp3", b"ID3"),
          (".gif", b"GIF8"), (".glb", b"glTF"), (".ply", b"ply"), (".webm", b"\x1a\x45\xdf\xa3"))
"""how a file of a kind begins"""


def suffix_of(data: bytes) -> str:
    """The format of a file by its own beginning, as a name's ending; "" where it is none that is read."""
    head = data[:64]
    for suffix, magic in _MAGIC:
        if head.startswith(magic):
            return suffix
    if head[:4] == b"RIFF":
        return {b"WAVE": ".wav", b"WEBP": ".webp"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return ".mp4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE6):  # MPEG audio, layer 3
        return ".mp3"
    if head.startswith(b"solid") or (len(data) >= 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")):
        return ".stl"
    lines = data[:4096].split(b"\n")
    return ".obj" if any(line.split()[:1] in ([b"v"], [b"o"], [b"mtllib"]) for line in lines) else ""


def write(item: Any, path: Path) -> None:
    """The medium's array as a file; its ending says the format. Raises MediaError."""
    write_bytes(to_bytes(item, path.suffix.lower()), path)


def check_suffix(path: Path, medium: str) -> None:
    """Raises MediaError unless the name's ending is one of the medium's."""
    known = TABLE[medium].suffixes  # type: ignore[index]
    if path.suffix.lower() not in known:
        raise MediaError(str(path), f"does not end as {medium} does", f"use one of {', '.join(known)}")


def to_bytes(item: Any, suffix: str) -> bytes:
    """The medium's array in the format of a file ending."""
    if isinstance(item, str):
        return (item + "\n").encode()
    if suffix in _PICTURES:
        return _image_bytes(item, _PICTURES[suffix])
    if suffix in _SOUNDS:
        return _audio_bytes(item, *_SOUNDS[suffix])
    if suffix in _MOVIES:
        return _movie_bytes(item, suffix[1:], *_MOVIES[suffix])
    if suffix == ".gif":
        return _gif_bytes(item)
    if suffix in (".glb", ".obj", ".ply", ".stl"):
        return _mesh_bytes(mesh_of(item), suffix[1:])
    raise MediaError(f"{suffix!r}", "is not a format that is written",
                     "use one of " + ", ".join(s for m in TABLE.values() for s in m.suffixes))


_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_SOUNDS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".mp3": ("MP3", "MPEG_LAYER_III"),
           ".ogg": ("OGG", "OPUS"), ".opus": ("OGG", "OPUS")}
"""libsndfile's container and coding"""
_MOVIES = {".mp4": ("libx264", {"crf": "16", "preset": "veryfast"}),
           ".webm": ("libvpx-vp9", {"crf": "16", "b": "0", "deadline": "realtime"})}
"""encoders and their options: near to lossless, and quick"""


def _broken(path: Path, medium: str, error: Exception) -> MediaError:
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return MediaError(str(path), f"cannot be read as {medium} ({reason})", "give a whole file of that kind")


def _read_text(path: Path, limits: Limits) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise _broken(path, "text", error) from None
    if not text:
        raise MediaError(str(path), "has no text", "give a file with a sentence")
    return text


def _read_image(path: Path, limits: Limits) -> np.ndarray:
    """uint8 [H, W, 3]; upright, on white."""
    try:
        with Image.open(path) as picture:
            _check_size(path, *picture.size, limits.side)
            if picture.width * picture.height > limits.pixels:
                raise MediaError(str(path), f"has {picture.width * picture.height} pixels, at most {limits.pixels} are read",
                                 "resize it")
            picture.load()
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _broken(path, "an image", error) from None
    white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def _check_size(path: Path, width: int, height: int, most: int) -> None:
    if min(width, height) < 1 or max(width, height) > most:
        raise MediaError(str(path), f"is {width} × {height} pixels, 1 to {most} a side are read", "resize it")


def _read_audio(path: Path, limits: Limits) -> np.ndarray:
    """float32 [T] at 16 kHz, one channel."""
    import soundfile
    import soxr

    try:
        about = soundfile.info(str(path))
        check_seconds(path, about.frames / max(about.samplerate, 1), limits)
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _broken(path, "audio", error) from None
    samples = soxr.resample(samples.mean(1), rate, AUDIO_HZ).astype(np.float32)
    if not np.isfinite(samples).all():
        raise MediaError(str(path), "has samples that are not numbers", "give a sound without NaN")
    if len(samples) < AUDIO_HZ // 20:
        raise MediaError(str(path), f"lasts {len(samples) / AUDIO_HZ:.3f} s, at least 0.05 s is read", "give a longer sound")
    if np.abs(samples).max() < 1e-4:
        raise MediaError(str(path), "is silent", "give a sound that can be heard")
    return samples


def check_seconds(path: Path, seconds: float, limits: Limits = LIMITS) -> None:
    if seconds > limits.seconds:
        raise MediaError(str(path), f"lasts {seconds:.0f} s, at most {limits.seconds:.0f} s are read", "cut it")


def _read_video(path: Path, limits: Limits) -> np.ndarray:
    """uint8 [17, 128, 128, 3]: the first frames at 8 a second, square from the middle; the last is held."""
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(str(path), "has no video stream", "give a video")
            stream = container.streams.video[0]
            _check_size(path, stream.width, stream.height, limits.frame_side)
            check_seconds(path, (container.duration or 0) / 1e6, limits)
            for frame in container.decode(stream):
                time = float(frame.time or 0.0)
                while len(frames) < VIDEO_FRAMES and time >= len(frames) / VIDEO_FPS - 1e-3:
                    frames.append(_square(frame.to_ndarray(format="rgb24")))
                if len(frames) == VIDEO_FRAMES:
                    break
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _broken(path, "a video", error) from None
    if not frames:
        raise MediaError(str(path), "has no frame", "give a video with pictures")
    return np.stack(frames + [frames[-1]] * (VIDEO_FRAMES - len(frames)))


def _square(frame: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(frame)
    if picture.size != (IMAGE_SIZE, IMAGE_SIZE):
        picture = ImageOps.fit(picture, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.asarray(picture)


def _read_shape(path: Path, limits: Limits) -> np.ndarray:
    """uint8 [64, 64, 64, 4] of a mesh; y up in the file, z up in the array."""
    try:
        mesh: Any = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers meet
        raise _broken(path, "a mesh", error) from None
    check_mesh(mesh, str(path), limits)
    mesh.apply_transform(_Z_UP)
    return voxels_of(mesh)


def check_mesh(mesh: Any, name: str, limits: Limits = LIMITS) -> None:
    """Raises MediaError for a mesh without a surface or with values that are not numbers."""
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise MediaError(name, "has no face", "give a mesh with a surface")
    if len(mesh.faces) > limits.faces:
        raise MediaError(name, f"has {len(mesh.faces)} faces, at most {limits.faces} are read", "simplify it")
    if not np.isfinite(mesh.vertices).all():
        raise MediaError(name, "has vertices that are not numbers", "give a mesh without NaN or infinity")
    if mesh.extents is None or float(np.max(mesh.extents)) <= 1e-9:
        raise MediaError(name, "has no extent", "give a mesh that is larger than a point")


_Z_UP = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
"""glTF has y up and z towards the viewer; the world has z up and y away from the viewer"""


def mesh_of(voxels: np.ndarray) -> trimesh.Trimesh:
    """Watertight surface of voxels uint8 [64, 64, 64, 4] with vertex colours, in world units (Lorensen & Cline 1987)."""
    alpha = np.pad(voxels[..., 3].astype(np.float32) / 255, 1)
    if alpha.max() <= 0.5:
        return trimesh.Trimesh()
    vertices, faces, _, _ = marching_cubes(alpha, 0.5)
    vertices -= 1
    cells = vertices.round().astype(int).clip(0, VOXELS - 1)
    # the fuller of the two cells that a vertex lies between has the colour
    other = np.where(vertices > cells, cells + 1, cells - 1).clip(0, VOXELS - 1)
    here, there = voxels[tuple(cells.T)], voxels[tuple(np.where(np.abs(vertices - cells) > 1e-6, other, cells).T)]
    color = np.where(here[:, 3:] >= there[:, 3:], here[:, :3], there[:, :3])
    made = trimesh.Trimesh((vertices + 0.5) * 2 / VOXELS - 1, faces[:, ::-1], vertex_colors=color, process=False)
    if made.volume < 0:
        made.invert()
    return made


def voxels_of(mesh: trimesh.Trimesh) -> np.ndarray:
    """Voxels uint8 [64, 64, 64, 4] of a mesh, filled inside; a mesh beyond the world's cube is scaled to fit.

    Three samples a voxel along each of x and y, exact along z (crossings of vertical lines, even-odd rule).
    """
    mesh = mesh.copy()
    if np.abs(mesh.bounds).max() > 1.0:
        mesh.apply_translation(-mesh.bounds.mean(0))
        mesh.apply_scale(1.6 / float(np.max(mesh.extents)))
    alpha = _fill(mesh.triangles.astype(np.float64))
    grid = np.zeros((VOXELS,) * 3 + (4,), dtype=np.uint8)
    grid[..., 3] = (alpha * 255).round()
    solid = np.argwhere(alpha > 0)
    if len(solid):
        from scipy.spatial import cKDTree

        centers = (solid + 0.5) * 2 / VOXELS - 1
        near = cKDTree(mesh.vertices).query(centers)[1]
        grid[..., :3][alpha > 0] = _vertex_colors(mesh)[near]
    return grid


def _vertex_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    """uint8 [V, 3]; material and texture colours become vertex colours."""
    visual: Any = mesh.visual
    try:
        colors = visual.vertex_colors if visual.kind in ("vertex", "face") else visual.to_color().vertex_colors
        if len(colors) == len(mesh.vertices):
            return np.asarray(colors)[:, :3].astype(np.uint8)
    except (AttributeError, ValueError, TypeError):
        pass
    return np.full((len(mesh.vertices), 3), 160, np.uint8)


def _fill(triangles: np.ndarray, samples: int = 3) -> np.ndarray:
    """Occupancy float32 [64, 64, 64] of closed triangles [N, 3, 3] in the cube [-1, 1]³."""
    lines = VOXELS * samples
    scaled = (triangles + 1) * np.array([lines / 2, lines / 2, VOXELS / 2])
    crossings: dict[tuple[int, int], list[float]] = {}
    for a, b, c in scaled:
        low = np.ceil(np.minimum(np.minimum(a, b), c)[:2] - 0.5 - 1e-4).astype(int).clip(0)
        high = np.floor(np.maximum(np.maximum(a, b), c)[:2] - 0.5 - 1e-4).astype(int).clip(max=lines - 1)
        if (high < low).any():
            continue
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if abs(area) < 1e-12:
            continue
        # a line's own small offset keeps it off edges that two triangles share
        x = np.arange(low[0], high[0] + 1)[:, None] + 0.5 + 1.37e-4
        y = np.arange(low[1], high[1] + 1)[None, :] + 0.5 + 0.73e-4
        u = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area
        v = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area
        for i, j in np.argwhere((u >= 0) & (v >= 0) & (u + v <= 1)):
            height = a[2] + u[i, j] * (b[2] - a[2]) + v[i, j] * (c[2] - a[2])
            crossings.setdefault((int(low[0] + i), int(low[1] + j)), []).append(float(height))
    fill = np.zeros((lines, lines, VOXELS), dtype=np.float32)
    cells = np.arange(VOXELS)
    for (i, j), heights in crossings.items():
        ordered = sorted(heights)
        for start, stop in zip(ordered[::2], ordered[1::2]):
            fill[i, j] += np.clip(np.minimum(stop, cells + 1) - np.maximum(start, cells), 0, 1)
    return fill.reshape(VOXELS, samples, VOXELS, samples, VOXELS).mean((1, 3)).clip(0, 1)


def _image_bytes(image: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, quality=95)
    return out.getvalue()


def _audio_bytes(samples: np.ndarray, kind: str, coding: str) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, AUDIO_HZ, format=kind, subtype=coding)
    return out.getvalue()


def _movie_bytes(frames: np.ndarray, form: str, encoder: str, options: dict[str, str]) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream: Any = container.add_stream(encoder, rate=VIDEO_FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _gif_bytes(frames: np.ndarray) -> bytes:
    out = io.BytesIO()
    first, *rest = [Image.fromarray(f) for f in frames]
    first.save(out, "GIF", save_all=True, append_images=rest, duration=1000 // VIDEO_FPS, loop=0)
    return out.getvalue()


def _mesh_bytes(mesh: trimesh.Trimesh, kind: str) -> bytes:
    if len(mesh.faces) == 0:
        raise MediaError("an empty shape", "has no surface to write", "ask for something else or another --seed")
    upright = mesh.copy()
    upright.apply_transform(np.linalg.inv(_Z_UP))
    data = upright.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)


