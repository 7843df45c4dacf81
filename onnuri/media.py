"""The five media as files, read and written: arrays in the forms of `codecs/base.py`.

What a file is, `formats.py` tells by its bytes; `take` is the one door through which all of them
come in. What is too large, broken or empty raises MediaError, where that can be told before it is
decoded; what is written has a temporary name until it is whole. Sounds and movies are here,
pictures in `pictures.py`, meshes in `meshes.py`. Knows no codec and no model.
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
from onnuri.modality import AUDIO_HZ, HEARD_SECONDS, TABLE, VIDEO_FPS, VIDEO_FRAMES, Medium
from onnuri.pictures import LIMITS, Limits


def read(path: Path, medium: str, limits: Limits = LIMITS) -> Any:
    """A file as the medium's array. Raises MediaError."""
    if medium == "text":
        return _read_text(path, _bytes_of(path, limits))
    return from_bytes(_bytes_of(path, limits), medium, str(path), limits, path.parent)


def from_bytes(
    data: bytes, medium: str, name: str, limits: Limits = LIMITS, beside: Path | None = None
) -> Any:
    """A file's bytes as the medium's array; their own beginning says the format. Raises MediaError,
    which calls it `name`."""
    became, item = take(data, medium, name, limits, beside)  # type: ignore[arg-type]
    if became == medium:
        return item
    if medium == "video" and _form_of(data, name).name == "GIF":  # one frame, held
        return np.stack([_square(item)] * VIDEO_FRAMES)
    raise _other(name, medium, became, _form_of(data, name).name)


def take_file(
    path: Path, declared: Medium | None = None, limits: Limits = LIMITS
) -> tuple[Medium, Any]:
    """The same as `take`, of a file. Its name's ending is not asked."""
    return take(_bytes_of(path, limits), declared, str(path), limits, path.parent)


def take(
    data: bytes,
    declared: Medium | None,
    name: str,
    limits: Limits = LIMITS,
    beside: Path | None = None,
) -> tuple[Medium, Any]:
    """What a file is, by its own bytes, and its array: the verdict of every door. Raises
    MediaError, which calls it `name`.

    A picture that moves is a video and one that does not is an image, whichever of the two it was
    `declared`. A movie that was declared sound is its sound. All else that was declared must be so.
    A mesh's materials may lie in the folder `beside`.
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
    able = formats.MEDIA_OF[form.family]
    if declared and declared not in able:
        raise _other(name, declared, able[0], form.name)
    if form.family == "picture":
        return pictures.read(data, form, name, limits)
    if form.family == "mesh":
        return "shape", meshes.read(data, form, name, limits.faces, beside)
    if form.family == "sound":
        return "audio", _read_sound(data, form, name, limits)
    return _read_movie(data, form, name, limits, declared)


def _form_of(data: bytes, name: str) -> formats.Format:
    """Raises MediaError for what is of no format that is read."""
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


def _other(name: str, declared: str, is_: str, form: str) -> MediaError:
    """What a file is told that was declared to be of another medium."""
    return MediaError(
        name,
        f"is not {declared}: it is {is_} ({form})",
        f"give it as {is_}",
        code="other_medium",
        declared=declared,
        medium=is_,
        format=form,
    )


def _bytes_of(path: Path, limits: Limits) -> bytes:
    """A file's content. Raises MediaError where it cannot be had, or is larger than is read."""
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
    """The medium's array as a file; its ending says the format. Raises MediaError."""
    write_bytes(to_bytes(item, path.suffix.lower()), path)


def check_answer(item: Any, medium: str) -> None:
    """Raises MediaError for an answer in which there is nothing: it is not passed on as
    something."""
    nothing = {
        "text": lambda: not item.strip(),
        "image": lambda: pictures.is_plain(item),
        "audio": lambda: is_silent(item),
        "video": lambda: all(pictures.is_plain(frame) for frame in item[::4]),
        "shape": lambda: item[..., 3].max() < 128,
    }
    what = {
        "text": "no words",
        "image": "nothing to be seen in it",
        "audio": "nothing to be heard in it",
        "video": "nothing to be seen in it",
        "shape": "no surface",
    }
    if nothing[medium]():
        raise MediaError(
            f"the answer ({medium})",
            f"has {what[medium]}",
            "ask for something else or another --seed",
            code="empty_answer",
            medium=medium,
        )


def check_suffix(path: Path, medium: str) -> None:
    """Raises MediaError unless the name's ending is one of the medium's."""
    known = TABLE[medium].suffixes  # type: ignore[index]
    if path.suffix.lower() not in known:
        raise MediaError(
            str(path), f"does not end as {medium} does", f"use one of {', '.join(known)}"
        )


def to_bytes(item: Any, suffix: str) -> bytes:
    """The medium's array in the format of a file ending."""
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
"""libsndfile's container and coding"""
_MOVIES = {
    ".mp4": ("libx264", {"crf": "16", "preset": "veryfast"}),
    ".webm": ("libvpx-vp9", {"crf": "16", "b": "0", "deadline": "realtime"}),
}
"""encoders and their options: near to lossless, and quick"""


def _read_text(path: Path, data: bytes) -> str:
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
    """float32 [T] at 16 kHz, one channel; by libsndfile, and where that does not know a file's
    coding, by PyAV."""
    import soundfile

    try:
        about = soundfile.info(io.BytesIO(data))
        _check_sound(
            about.frames / max(about.samplerate, 1), about.samplerate, about.channels, name, limits
        )
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError):
        return _read_track(data, form, form.demuxer, name, limits)
    return _heard(samples, rate, name)


def _check_sound(seconds: float, rate: int, channels: int, name: str, limits: Limits) -> None:
    """Raises MediaError for a sound that is too long, or that says of itself what no sound has."""
    if not 1_000 <= rate <= 1_000_000 or not 1 <= channels <= 64:
        raise MediaError(
            name,
            f"says that it has {channels} channels at {rate} Hz",
            "give a sound of 1 to 64 channels and 1 to 1,000 kHz",
            code="odd_sound",
        )
    check_seconds(
        name, seconds, dataclasses.replace(limits, seconds=min(limits.seconds, HEARD_SECONDS))
    )


def _heard(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Samples [T, C] of any rate as float32 [T] at 16 kHz. Raises MediaError for what cannot be
    heard."""
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
    one = samples.mean(1)
    loudest = samples[:, np.argmax(np.ptp(samples, axis=0))]
    if np.ptp(one) < 0.05 * np.ptp(loudest):  # channels that cancel each other
        one = loudest
    if (peak := float(np.abs(one).max())) > 1:  # floating point goes beyond what can be played
        one = one / peak
    heard: np.ndarray = soxr.resample(one, rate, AUDIO_HZ).astype(np.float32)
    if is_silent(heard):
        raise MediaError(name, "is silent", "give a sound that can be heard", code="silent")
    return heard


def is_silent(samples: np.ndarray) -> bool:
    """Whether nothing can be heard in samples [T]: a constant is as silent as zero."""
    return not len(samples) or float(np.ptp(samples)) < 2e-4


def check_seconds(name: str | Path, seconds: float, limits: Limits = LIMITS) -> None:
    if seconds > limits.seconds:
        raise MediaError(
            str(name),
            f"lasts {seconds:.1f} s, at most {limits.seconds:.1f} s are read",
            "cut it",
            code="too_long",
            most=int(limits.seconds),
        )


def _read_movie(
    data: bytes, form: formats.Format, name: str, limits: Limits, declared: Medium | None
) -> tuple[Medium, np.ndarray]:
    """The pictures of a movie, or its sound where that is declared or all that there is."""
    import av

    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            shown = any(_moves(stream) for stream in container.streams.video)
            heard = bool(container.streams.audio)
    except (av.FFmpegError, OSError, ValueError):
        raise meshes.damaged(form, name) from None
    if not shown and not heard:
        raise MediaError(
            name, "has neither pictures nor sound", "give a video or a sound", code="no_stream"
        )
    if declared == "video" and not shown:
        raise _other(name, "video", "audio", form.name)
    if declared == "audio" and not heard:
        raise _other(name, "audio", "video", form.name)
    if not shown or declared == "audio":
        return "audio", _read_track(data, form, form.decoder, name, limits)
    return "video", _read_frames(data, form, name, limits)


def _moves(stream: Any) -> bool:
    """Whether a stream of pictures is more than a sound's cover."""
    import av

    return not stream.disposition & av.stream.Disposition.attached_pic


def _read_track(
    data: bytes, form: formats.Format, demuxer: str, name: str, limits: Limits
) -> np.ndarray:
    """The sound of anything that PyAV reads, as `_read_sound` gives it."""
    import av

    parts: list[np.ndarray] = []
    count, rate = 0, AUDIO_HZ
    try:
        with av.open(io.BytesIO(data), "r", format=demuxer) as container:
            stream = container.streams.audio[0]
            rate = stream.rate
            _check_sound((container.duration or 0) / 1e6, rate, stream.channels, name, limits)
            as_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for part in as_float.resample(frame):
                    parts.append(part.to_ndarray().T)
                    count += len(parts[-1])
                _check_sound(
                    count / rate, rate, stream.channels, name, limits
                )  # recorders' files do not say how long they are
    except (av.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        raise meshes.damaged(form, name) from None
    if not parts:
        raise MediaError(
            name, "has no sound in it", "give the whole file", code="damaged_file", format=form.name
        )
    return _heard(np.concatenate(parts), rate, name)


def _read_frames(data: bytes, form: formats.Format, name: str, limits: Limits) -> np.ndarray:
    """uint8 [17, 128, 128, 3]: the first frames at 8 a second, upright, square from the middle; the
    last is held."""
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            stream = next(s for s in container.streams.video if _moves(s))
            pictures.check_size(name, stream.width, stream.height, limits.frame_side)
            check_seconds(name, (container.duration or 0) / 1e6, limits)
            begin: float | None = None
            for frame in container.decode(stream):
                begin = float(frame.time or 0.0) if begin is None else begin
                due = float(frame.time or 0.0) - begin >= len(frames) / VIDEO_FPS - 1e-3
                shown = _square(_upright(frame, stream)) if due else None
                while (
                    shown is not None
                    and len(frames) < VIDEO_FRAMES
                    and (float(frame.time or 0.0) - begin >= len(frames) / VIDEO_FPS - 1e-3)
                ):
                    frames.append(shown)
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
    """A frame uint8 [H, W, 3] as it is meant to be seen: on white, of square pixels, turned as its
    recorder was held."""
    clear = any(component.is_alpha for component in frame.format.components)
    ratio = stream.sample_aspect_ratio
    width = round(frame.width * ratio) if ratio and 0.1 < ratio < 10 else frame.width
    # swscale takes a movie that does not say for standard television's colours; those of high
    # definition say so
    space = {"src_colorspace": frame.colorspace} if frame.colorspace in (1, 5, 6, 9) else {}
    shown = frame.reformat(
        width=width, height=frame.height, format="rgba" if clear else "rgb24", **space
    ).to_ndarray()
    if clear:
        alpha = shown[..., 3:].astype(np.float32) / 255
        shown = (shown[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return _turned(shown, frame)


def _turned(shown: np.ndarray, frame: Any) -> np.ndarray:
    """A frame [H, W, 3] by its display matrix [[a, b], [c, d]], which takes (x, y) to (a x + c y, b
    x + d y), y down."""
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return shown
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5] / 65536
    if abs(b) + abs(c) > abs(a) + abs(d):  # x and y change places
        shown = shown.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(shown[:: 1 if d >= 0 else -1, :: 1 if a >= 0 else -1])


def _square(frame: np.ndarray) -> np.ndarray:
    return pictures.square(Image.fromarray(frame))


def picture_bytes(image: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """A picture uint8 [H, W, 3] in the format of a file ending; quality 0 to 100 of those that are
    lossy."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, _PICTURES[suffix], quality=quality)
    return out.getvalue()


def _audio_bytes(samples: np.ndarray, kind: str, coding: str) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, AUDIO_HZ, format=kind, subtype=coding)
    return out.getvalue()


def _aac_bytes(samples: np.ndarray) -> bytes:
    """AAC in ADTS, which libsndfile does not write."""
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
    """Frames uint8 [H, W, 3] of one size as a movie, in the format of a file ending."""
    import av

    out = io.BytesIO()
    encoder, options = _MOVIES[suffix]
    with av.open(out, "w", format=suffix[1:]) as container:
        stream: Any = container.add_stream(encoder, rate=fps, options=options)
        for k, frame in enumerate(frames):
            if k == 0:
                stream.height, stream.width, stream.pix_fmt = (
                    frame.shape[0],
                    frame.shape[1],
                    "yuv420p",
                )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _gif_bytes(frames: np.ndarray) -> bytes:
    out = io.BytesIO()
    first, *rest = [Image.fromarray(f) for f in frames]
    first.save(out, "GIF", save_all=True, append_images=rest, duration=1000 // VIDEO_FPS, loop=0)
    return out.getvalue()


def _mesh_bytes(mesh: Any, kind: str) -> bytes:
    if len(mesh.faces) == 0:
        raise MediaError(
            "an empty shape", "has no surface to write", "ask for something else or another --seed"
        )
    upright = mesh.copy()
    upright.apply_transform(np.linalg.inv(meshes.Z_UP))
    data = upright.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)
