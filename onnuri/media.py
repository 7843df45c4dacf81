"""This module reads and writes media files of the five modalities as arrays in the forms of
`codecs/base.py`.

`formats.py` detects a file's format by its bytes; every file enters through `take`. Files that are
too large, damaged or empty raise MediaError, before they are decoded if possible; files are written
atomically. Sounds and movies are here, pictures in `pictures.py`, meshes in `meshes.py`. The module
knows no codec and no model.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnuri import formats, meshes, pictures
from onnuri.errors import MediaError
from onnuri.files import check_place as check_place
from onnuri.files import make_folder as make_folder
from onnuri.files import write_bytes as write_bytes
from onnuri.files import write_json as write_json
from onnuri.meshes import mesh_of
from onnuri.modality import AUDIO_HZ, HEARD_SECONDS, TABLE, VIDEO_FPS, VIDEO_FRAMES, Modality
from onnuri.pictures import LIMITS, Limits


def read(path: Path, modality: str, limits: Limits = LIMITS) -> Any:
    """Return a file as its modality's array. Raises MediaError for a file of another one."""
    if modality == "text":
        return _read_text(path, _bytes_of(path, limits))
    return from_bytes(_bytes_of(path, limits), modality, str(path), limits, path.parent)


def from_bytes(
    data: bytes, modality: str, name: str, limits: Limits = LIMITS, beside: Path | None = None
) -> Any:
    """Return a file's bytes as its modality's array.

    Raises MediaError, which calls the file `name`, for a file of another modality.
    """
    detected, item = take(data, modality, name, limits, beside)  # type: ignore[arg-type]
    if detected == modality:
        return item
    if (
        modality == "video" and _form_of(data, name).name == "GIF"
    ):  # a still GIF: its frame repeated
        return np.stack([_square(item)] * VIDEO_FRAMES)
    raise _wrong_modality(name, modality, detected, _form_of(data, name).name)


def take_file(
    path: Path, declared: Modality | None = None, limits: Limits = LIMITS
) -> tuple[Modality, Any]:
    """Return what `take` returns for a file at a path, whatever the ending of its name."""
    return take(_bytes_of(path, limits), declared, str(path), limits, path.parent)


def take(
    data: bytes,
    declared: Modality | None,
    name: str,
    limits: Limits = LIMITS,
    beside: Path | None = None,
) -> tuple[Modality, Any]:
    """Return a file's modality, detected by its bytes, and its array.

    An animated picture is a video and a still one an image, whichever of the two was `declared`. A
    movie declared as audio gives its sound. In all other cases the declared modality must match. A
    mesh's materials may be in the folder `beside`. Raises MediaError, which calls the file `name`.
    """
    form = _form_of(data, name)
    if len(data) > limits.file_bytes:
        raise MediaError(
            name,
            f"has {len(data)} bytes, at most {limits.file_bytes} are read",
            "give a smaller file",
            code="file_too_large",
            most=limits.file_bytes,
        )
    possible = formats.MEDIA_OF[form.family]
    if declared and declared not in possible:
        raise _wrong_modality(name, declared, possible[0], form.name)
    if form.family == "picture":
        return pictures.read(data, form, name, limits)
    if form.family == "mesh":
        return "shape", meshes.read(data, form, name, limits.faces, beside)
    if form.family == "sound":
        return "audio", _read_sound(data, form, name, limits)
    return _read_movie(data, form, name, limits, declared)


def _form_of(data: bytes, name: str) -> formats.Format:
    """Return the format of a file's bytes. Raises MediaError for an empty file or a format that is
    not read."""
    if not data:
        raise MediaError(name, "is empty", "give a file with content", code="empty_file")
    form = formats.sniff(data)
    if form is None:
        raise MediaError(
            name,
            "is of no format that is read",
            f"give one of {formats.names()}",
            code="unknown_format",
        )
    if isinstance(form, str):
        raise MediaError(
            name,
            f"is {form}, which is not read",
            f"give one of {formats.names()}",
            code="unread_format",
            format=form,
        )
    return form


def _wrong_modality(name: str, declared: str, detected: str, form: str) -> MediaError:
    """Return the error for a file that was declared as another modality than it is."""
    return MediaError(
        name,
        f"is not {declared}: it is {detected} ({form})",
        f"give it as {detected}",
        code="other_modality",
        declared=declared,
        modality=detected,
        format=form,
    )


def _bytes_of(path: Path, limits: Limits) -> bytes:
    """Return a file's content. Raises MediaError if it cannot be read or is larger than allowed."""
    if not path.exists():
        raise MediaError(str(path), "does not exist", "check the path")
    if not path.is_file():
        raise MediaError(str(path), "is not a file", "give a file")
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise MediaError(
            str(path),
            f"has {size} bytes, at most {limits.file_bytes} are read",
            "give a smaller file",
            code="file_too_large",
            most=limits.file_bytes,
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(
            str(path), f"cannot be opened ({error.strerror})", "check who may read it"
        ) from None


def write(item: Any, path: Path) -> None:
    """Write a modality's array to a file in the format of its ending. Raises MediaError."""
    write_bytes(to_bytes(item, path.suffix.lower()), path)


def check_answer(item: Any, modality: str) -> None:
    """Raise MediaError for an answer without content: silence, a plain colour, no surface."""
    is_empty = {
        "text": lambda: not item.strip(),
        "image": lambda: pictures.is_plain(item),
        "audio": lambda: is_silent(item),
        "video": lambda: all(pictures.is_plain(frame) for frame in item[::4]),
        "shape": lambda: item[..., 3].max() < 128,
    }
    lacks = {
        "text": "no words",
        "image": "nothing to be seen in it",
        "audio": "nothing to be heard in it",
        "video": "nothing to be seen in it",
        "shape": "no surface",
    }
    if is_empty[modality]():
        raise MediaError(
            f"the answer ({modality})",
            f"has {lacks[modality]}",
            "ask for something else or another --seed",
            code="empty_answer",
            modality=modality,
        )


def check_suffix(path: Path, modality: str) -> None:
    """Raise MediaError unless a file name has one of its modality's endings."""
    known = TABLE[modality].suffixes  # type: ignore[index]
    if path.suffix.lower() not in known:
        raise MediaError(
            str(path), f"does not end as {modality} does", f"use one of {', '.join(known)}"
        )


def to_bytes(item: Any, suffix: str) -> bytes:
    """Return a modality's array as a file's bytes in the format of an ending. Raises MediaError for
    an unknown one."""
    if isinstance(item, str):
        return (item + "\n").encode()
    if suffix in _PICTURES:
        return picture_bytes(item, suffix)
    if suffix == ".aac":
        return _aac_bytes(item)
    if suffix in _SOUNDS:
        return _audio_bytes(item, *_SOUNDS[suffix])
    if suffix in _MOVIES:
        return movie_bytes(item, suffix)
    if suffix == ".gif":
        return _gif_bytes(item)
    if suffix in (".glb", ".obj", ".ply", ".stl"):
        return _mesh_bytes(mesh_of(item), suffix[1:])
    raise MediaError(
        f"{suffix!r}",
        "is not a format that is written",
        "use one of " + ", ".join(s for m in TABLE.values() for s in m.suffixes),
    )


_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_SOUNDS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
}
"""libsndfile's container and coding, by ending"""
_MOVIES = {
    ".mp4": ("libx264", {"crf": "16", "preset": "veryfast"}),
    ".webm": ("libvpx-vp9", {"crf": "16", "b": "0", "deadline": "realtime"}),
}
"""encoders and their options, nearly lossless and fast, by ending"""


def _read_text(path: Path, data: bytes) -> str:
    """Return the text of a file in UTF-8. Raises MediaError for other bytes or no text."""
    check_suffix(path, "text")
    if not data:
        raise MediaError(str(path), "is empty", "give a file with content")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise MediaError(str(path), "is not text in UTF-8", "save it as UTF-8") from None
    if not text:
        raise MediaError(str(path), "has no text", "give a file with a sentence")
    return text


def _read_sound(data: bytes, form: formats.Format, name: str, limits: Limits) -> np.ndarray:
    """Return a sound float32 [T] at 16 kHz, one channel, read by libsndfile, or by PyAV if
    libsndfile does not know its coding."""
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(data))
        seconds = info.frames / max(info.samplerate, 1)
        _check_sound(seconds, info.samplerate, info.channels, name, limits)
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError):
        return _read_track(data, form, form.demuxer, name, limits)
    return _to_mono_16k(samples, rate, name)


def _check_sound(seconds: float, rate: int, channels: int, name: str, limits: Limits) -> None:
    """Raise MediaError for a sound that is too long or whose header has impossible values."""
    if not 1_000 <= rate <= 1_000_000 or not 1 <= channels <= 64:
        raise MediaError(
            name,
            f"says that it has {channels} channels at {rate} Hz",
            "give a sound of 1 to 64 channels and 1 to 1,000 kHz",
            code="odd_sound",
        )
    longest = min(limits.seconds, HEARD_SECONDS)
    check_seconds(name, seconds, dataclasses.replace(limits, seconds=longest))


def _to_mono_16k(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Return samples [T, C] of any rate as float32 [T] at 16 kHz.

    Raises MediaError for a sound that is silent, too short or not finite.
    """
    import soxr

    if not np.isfinite(samples).all():
        raise MediaError(
            name, "has samples that are not numbers", "give a sound without NaN", code="not_numbers"
        )
    if len(samples) < rate / 20:
        raise MediaError(
            name,
            f"lasts {len(samples) / rate:.3f} s, at least 0.05 s is read",
            "give a longer sound",
            code="too_short",
        )
    mono = samples.mean(1)
    loudest = samples[:, np.argmax(np.ptp(samples, axis=0))]
    if np.ptp(mono) < 0.05 * np.ptp(loudest):  # the channels cancel each other
        mono = loudest
    if (peak := float(np.abs(mono).max())) > 1:  # floating point may go beyond [-1, 1]
        mono = mono / peak
    resampled: np.ndarray = soxr.resample(mono, rate, AUDIO_HZ).astype(np.float32)
    if is_silent(resampled):
        raise MediaError(name, "is silent", "give a sound that can be heard", code="silent")
    return resampled


def is_silent(samples: np.ndarray) -> bool:
    """Return whether samples [T] are silent: a constant is as silent as zero."""
    return not len(samples) or float(np.ptp(samples)) < 2e-4


def check_seconds(name: str | Path, seconds: float, limits: Limits = LIMITS) -> None:
    """Raise MediaError for a duration longer than the limits allow."""
    if seconds > limits.seconds:
        raise MediaError(
            str(name),
            f"lasts {seconds:.1f} s, at most {limits.seconds:.1f} s are read",
            "cut it",
            code="too_long",
            most=int(limits.seconds),
        )


def _read_movie(
    data: bytes, form: formats.Format, name: str, limits: Limits, declared: Modality | None
) -> tuple[Modality, np.ndarray]:
    """Return a movie's frames as video, or its sound as audio if that is declared or all it has."""
    import av

    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            has_frames = any(_is_movie_stream(stream) for stream in container.streams.video)
            has_sound = bool(container.streams.audio)
    except (av.FFmpegError, OSError, ValueError):
        raise meshes.damaged(form, name) from None
    if not has_frames and not has_sound:
        raise MediaError(
            name, "has neither pictures nor sound", "give a video or a sound", code="no_stream"
        )
    if declared == "video" and not has_frames:
        raise _wrong_modality(name, "video", "audio", form.name)
    if declared == "audio" and not has_sound:
        raise _wrong_modality(name, "audio", "video", form.name)
    if not has_frames or declared == "audio":
        return "audio", _read_track(data, form, form.decoder, name, limits)
    return "video", _read_frames(data, form, name, limits)


def _is_movie_stream(stream: Any) -> bool:
    """Return whether a stream of pictures is a movie, and not the cover of a sound."""
    import av

    return not stream.disposition & av.stream.Disposition.attached_pic


def _read_track(
    data: bytes, form: formats.Format, demuxer: str, name: str, limits: Limits
) -> np.ndarray:
    """Return the sound of any file that PyAV reads, float32 [T] at 16 kHz, one channel."""
    import av

    parts: list[np.ndarray] = []
    count, rate = 0, AUDIO_HZ
    try:
        with av.open(io.BytesIO(data), "r", format=demuxer) as container:
            stream = container.streams.audio[0]
            rate = stream.rate
            _check_sound((container.duration or 0) / 1e6, rate, stream.channels, name, limits)
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for part in to_float.resample(frame):
                    parts.append(part.to_ndarray().T)
                    count += len(parts[-1])
                # checked again while decoding: files of browsers' recorders state no duration
                _check_sound(count / rate, rate, stream.channels, name, limits)
    except (av.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        raise meshes.damaged(form, name) from None
    if not parts:
        raise MediaError(
            name, "has no sound in it", "give the whole file", code="damaged_file", format=form.name
        )
    return _to_mono_16k(np.concatenate(parts), rate, name)


def _read_frames(data: bytes, form: formats.Format, name: str, limits: Limits) -> np.ndarray:
    """Return a movie's first 17 frames at 8 per second, upright and cropped to the middle square,
    uint8 [17, 128, 128, 3]; the last frame of a shorter movie is repeated."""
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            stream = next(s for s in container.streams.video if _is_movie_stream(s))
            pictures.check_size(name, stream.width, stream.height, limits.frame_side)
            check_seconds(name, (container.duration or 0) / 1e6, limits)
            start: float | None = None
            for frame in container.decode(stream):
                start = float(frame.time or 0.0) if start is None else start
                seconds = float(frame.time or 0.0) - start
                if seconds < len(frames) / VIDEO_FPS - 1e-3:
                    continue  # a movie of a higher rate: this frame is left out
                pixels = _square(_upright(frame, stream))
                while len(frames) < VIDEO_FRAMES and seconds >= len(frames) / VIDEO_FPS - 1e-3:
                    frames.append(pixels)
                if len(frames) == VIDEO_FRAMES:
                    break
    except (av.FFmpegError, OSError, ValueError):
        raise meshes.damaged(form, name) from None
    if not frames:
        raise MediaError(name, "has no frame", "give a video with pictures", code="no_frame")
    return pictures.check_frames(
        np.stack(frames + [frames[-1]] * (VIDEO_FRAMES - len(frames))), name
    )


def _upright(frame: Any, stream: Any) -> np.ndarray:
    """Return a frame uint8 [H, W, 3] on white, with square pixels, rotated as the recorder was
    held."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    ratio = stream.sample_aspect_ratio
    width = round(frame.width * ratio) if ratio and 0.1 < ratio < 10 else frame.width
    # swscale assumes standard television's colours if a movie states none; high definition states
    # its own
    space = {"src_colorspace": frame.colorspace} if frame.colorspace in (1, 5, 6, 9) else {}
    pixels = frame.reformat(
        width=width, height=frame.height, format="rgba" if has_alpha else "rgb24", **space
    ).to_ndarray()
    if has_alpha:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return _rotated(pixels, frame)


def _rotated(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Return pixels [H, W, 3] transformed by the frame's display matrix [[a, b], [c, d]], which
    maps (x, y) to (a x + c y, b x + d y), y down."""
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5] / 65536
    if abs(b) + abs(c) > abs(a) + abs(d):  # a quarter turn: x and y swap
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    if d < 0:
        pixels = pixels[::-1]
    if a < 0:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _square(frame: np.ndarray) -> np.ndarray:
    """Return a frame cropped to its middle square, uint8 [128, 128, 3]."""
    return pictures.square(Image.fromarray(frame))


def picture_bytes(image: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """Return a picture uint8 [H, W, 3] as a file's bytes in the format of an ending; `quality` is 0
    to 100 for lossy formats."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, _PICTURES[suffix], quality=quality)
    return out.getvalue()


def _audio_bytes(samples: np.ndarray, kind: str, coding: str) -> bytes:
    """Return samples [T] at 16 kHz as a file's bytes in a container and coding of libsndfile."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, AUDIO_HZ, format=kind, subtype=coding)
    return out.getvalue()


def _aac_bytes(samples: np.ndarray) -> bytes:
    """Return samples [T] at 16 kHz as AAC in ADTS, which libsndfile does not write."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=AUDIO_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.clip(samples, -1, 1)[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.rate = AUDIO_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def movie_bytes(
    frames: Iterable[np.ndarray], suffix: str, fps: Fraction | int = VIDEO_FPS
) -> bytes:
    """Return frames uint8 [H, W, 3] of one size as a movie's bytes in the format of an ending."""
    import av

    out = io.BytesIO()
    encoder, options = _MOVIES[suffix]
    with av.open(out, "w", format=suffix[1:]) as container:
        stream: Any = container.add_stream(encoder, rate=fps, options=options)
        for k, frame in enumerate(frames):
            if k == 0:  # the first frame gives the movie its size
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _gif_bytes(frames: np.ndarray) -> bytes:
    """Return frames uint8 [F, H, W, 3] as an endless GIF."""
    out = io.BytesIO()
    first, *rest = [Image.fromarray(f) for f in frames]
    first.save(out, "GIF", save_all=True, append_images=rest, duration=1000 // VIDEO_FPS, loop=0)
    return out.getvalue()


def _mesh_bytes(mesh: Any, kind: str) -> bytes:
    """Return a mesh as a file's bytes, y up. Raises MediaError for one without a surface."""
    if len(mesh.faces) == 0:
        raise MediaError(
            "an empty shape", "has no surface to write", "ask for something else or another --seed"
        )
    upright = mesh.copy()
    upright.apply_transform(np.linalg.inv(meshes.Z_UP))
    data = upright.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)
