"""Small media files of real formats, made from a seed, for tests and benchmarks: varied enough that
no two are near duplicates, and with the notes that cameras and programs leave in them."""

from __future__ import annotations

import io
import json
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import trimesh
from PIL import Image, ImageDraw

SECRET = "SecretCamera 37.5665N"
"""a note that no kept file may hold"""


def pixels(seed: int, side: int = 96, alpha: bool = False) -> np.ndarray:
    """A picture uint8 [H, W, 3 or 4]: colours that run into each other under a few shapes."""
    rng = np.random.default_rng([1, seed])
    width, height = side, int(side * rng.choice([0.75, 1.0, 1.25]))
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = rng.integers(0, width), rng.integers(0, height)
        r = int(rng.integers(side // 12, side // 4))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    values = np.asarray(image)
    if not alpha:
        return values
    yy, xx = np.mgrid[:height, :width]
    distance = np.hypot(xx - width / 2, yy - height / 2)
    opacity = (255 * (distance < side / 2.5)).astype(np.uint8)
    return np.dstack([values, opacity])


def picture(seed: int, kind: str = "JPEG", side: int = 96, quality: int = 90) -> bytes:
    """A picture file of one of Pillow's formats with notes: EXIF with GPS in a JPEG and WebP, text
    in a PNG, a comment in a GIF. PNG and WebP have alpha."""
    has_alpha = kind in ("PNG", "WEBP")
    image = Image.fromarray(pixels(seed, side, has_alpha))
    exif = Image.Exif()
    exif[0x010F] = SECRET
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (37.0, 33.0, 59.4)
    options: dict = {}
    if kind == "JPEG":
        options = {"exif": exif, "quality": quality, "comment": SECRET.encode()}
    elif kind == "WEBP":
        options = {"exif": exif, "lossless": True, "xmp": f"<x>{SECRET}</x>".encode()}
    elif kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        notes = PngInfo()
        notes.add_text("Author", SECRET)
        options = {"pnginfo": notes, "exif": exif}
    elif kind == "GIF":
        options = {"comment": SECRET.encode()}
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def animation(seed: int, frames: int = 6) -> bytes:
    """An animated GIF with a comment."""
    first, *rest = (
        Image.fromarray(np.roll(pixels(seed, 64), 4 * k, axis=1)) for k in range(frames)
    )
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=rest, duration=120, comment=SECRET.encode())
    return out.getvalue()


def samples(seed: int, seconds: float = 1.5, hz: int = 22_050, channels: int = 1) -> np.ndarray:
    """A sound float64 [T, C]: tones that glide and stop at random times, over faint noise."""
    rng = np.random.default_rng([2, seed])
    time = np.arange(int(seconds * hz)) / hz
    total = 0.004 * rng.standard_normal((len(time), channels))
    for _ in range(int(8 * seconds)):
        start, length = rng.uniform(0, seconds - 0.1), rng.uniform(0.08, 0.35)
        low, high = rng.uniform(180, 3500, 2)
        inside = (time >= start) & (time < start + length)
        t = time[inside] - start
        phase = 2 * np.pi * (low * t + (high - low) * t**2 / (2 * length))
        total[inside] += (np.hanning(len(t)) * np.sin(phase))[:, None] * 0.25
    return total / max(1.0, float(np.abs(total).max()))


def sound(seed: int, kind: str = "WAV", seconds: float = 1.5, channels: int = 1) -> bytes:
    """A sound file: WAV, FLAC, MP3, OGG (Vorbis), or M4A with notes."""
    values = samples(seed, seconds, channels=channels)
    return encoded_sound(values, kind, 22_050)


def encoded_sound(values: np.ndarray, kind: str, hz: int) -> bytes:
    """Samples [T, C] as a file's bytes."""
    out = io.BytesIO()
    if kind == "M4A":
        import av

        with av.open(out, "w", format="ipod") as container:
            container.metadata["comment"] = SECRET
            layout = "mono" if values.shape[1] == 1 else "stereo"
            stream = container.add_stream("aac", rate=hz, layout=layout)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(values.T, np.float32), format="fltp", layout=layout
            )
            frame.rate = hz
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return out.getvalue()
    if kind == "WAV":
        with soundfile.SoundFile(out, "w", hz, values.shape[1], "PCM_16", format="WAV") as file:
            file.comment = SECRET
            file.write(values)
        return out.getvalue()
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS", "FLAC": "PCM_16"}[kind]
    soundfile.write(out, values, hz, format=kind, subtype=subtype)
    return out.getvalue()


def movie(
    seed: int, suffix: str = ".mp4", frames: int = 20, with_sound: bool = True, degrees: int = 0
) -> bytes:
    """A movie file with notes, and with a sound track, shown turned by some degrees."""
    import av

    encoder, audio = {".mp4": ("libx264", "aac"), ".webm": ("libvpx-vp9", "libopus")}[suffix]
    hz = 48_000
    out = io.BytesIO()
    with av.open(out, "w", format=suffix[1:]) as container:
        container.metadata["comment"] = SECRET
        container.metadata["location"] = SECRET
        stream = container.add_stream(encoder, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if degrees:
            stream.set_display_rotation(degrees)
        track = container.add_stream(audio, rate=hz, layout="mono") if with_sound else None
        for k in range(frames):
            still = np.roll(pixels(seed, 96)[:48, :64], 3 * k, axis=1)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(still), "rgb24"))
            )
        container.mux(stream.encode())
        if track:
            values = samples(seed, frames / 8, hz)[:, 0].astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(values, format="flt", layout="mono")
            frame.rate = hz
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return out.getvalue()


def solid(seed: int) -> trimesh.Trimesh:
    """A closed mesh with vertex colours, dented at random."""
    rng = np.random.default_rng([3, seed])
    mesh = trimesh.creation.icosphere(2, radius=0.7)
    waves = rng.normal(0, 3, (3, 3))
    bumps = 1 + 0.15 * np.sin(mesh.vertices @ waves).sum(1, keepdims=True)
    mesh = trimesh.Trimesh(mesh.vertices * bumps * rng.uniform(0.6, 1, 3), mesh.faces)
    mesh.visual.vertex_colors = (
        127 + 127 * np.cos(mesh.vertices * 4 + rng.uniform(0, 6, 3))
    ).astype(np.uint8)
    return mesh


def mesh(seed: int, kind: str = "glb") -> bytes:
    """A mesh file; a GLB has notes and a texture."""
    body = solid(seed)
    if kind == "glb":
        rng = np.random.default_rng([4, seed])
        texture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        material = trimesh.visual.material.PBRMaterial(
            name=SECRET, baseColorTexture=texture, baseColorFactor=[255, 200, 150, 255]
        )
        uv = rng.random((len(body.vertices), 2))
        body.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        body.metadata["author"] = SECRET
    data = body.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    """Write a tar of members by name."""
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_lines(path: Path, records: list) -> None:
    """Write JSON lines."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
