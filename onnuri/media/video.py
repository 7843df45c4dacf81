"""This module decodes movies to their first frames, or to their sound, and encodes frames.

PyAV decodes all of them; animated pictures are in `image.py`. The module knows no codec and no
model.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from onnuri.errors import MediaError
from onnuri.media import audio, image
from onnuri.media.formats import Format, damaged, wrong_modality
from onnuri.media.kept import Kept
from onnuri.media.limits import Limits, check_seconds
from onnuri.modality import VIDEO_FPS, VIDEO_FRAMES, Modality

ENCODERS = {
    ".mp4": ("libx264", {"crf": "16", "preset": "veryfast"}),
    ".webm": ("libvpx-vp9", {"crf": "16", "b": "0", "deadline": "realtime"}),
}
"""encoders and their options, nearly lossless and fast, by the ending of a file to be written"""


def read(
    data: bytes, form: Format, name: str, limits: Limits, declared: Modality | None
) -> tuple[Modality, np.ndarray]:
    """Return a movie's frames as video, or its sound as audio if that is declared or all it has."""
    if modality_of(data, form, name, declared) == "audio":
        return "audio", audio.read_track(data, form, form.decoder, name, limits)
    return "video", _read_frames(data, form, name, limits)


def modality_of(data: bytes, form: Format, name: str, declared: Modality | None) -> Modality:
    """Return whether a movie is read as video, or as audio if that is declared or all it has.
    Raises MediaError for a movie without what is declared."""
    import av

    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            has_frames = any(_is_movie_stream(stream) for stream in container.streams.video)
            has_sound = bool(container.streams.audio)
    except (av.FFmpegError, OSError, ValueError):
        raise damaged(form, name) from None
    if not has_frames and not has_sound:
        raise MediaError(
            name, "has neither pictures nor sound", "give a video or a sound", code="no_stream"
        )
    if declared == "video" and not has_frames:
        raise wrong_modality(name, "video", "audio", form.name)
    if declared == "audio" and not has_sound:
        raise wrong_modality(name, "audio", "video", form.name)
    return "audio" if not has_frames or declared == "audio" else "video"


WEB = {"vp8", "vp9", "av1", "opus", "vorbis"}
"""codecs by FFmpeg's names of which a WebM consists (webmproject.org, container guidelines)"""
SEI_UNITS = {"h264": "6", "hevc": "39-40"}
"""types of the units in which recorders and encoders write what they like, by codec (ITU-T H.264
and H.265, 7.4)"""
CUT_SECONDS = 0.5
"""a movie that ends this much before its stated end was cut off"""


def keep(data: bytes, form: Format, name: str, limits: Limits) -> Kept:
    """Return what is kept of a movie: its frames, and its sound if it has any, as they were coded,
    in an MP4 or WebM without metadata. A movie of sound alone is kept as a sound.

    Raises MediaError for a movie that is damaged, cut off, too large, too long or blank.
    """
    import av

    if modality_of(data, form, name, None) == "audio":
        return audio.keep_track(data, form, form.decoder, name, limits)
    _read_frames(data, form, name, limits)
    facts = _decode_all(data, form, name, limits)
    try:
        copy, media_type = _copy_streams(data, form)
    except (av.FFmpegError, OSError, ValueError, KeyError, AttributeError):
        raise MediaError(
            name,
            f"holds streams of {form.name} that cannot be copied as they are",
            "save it as MP4 or WebM",
            code="not_copied",
            format=form.name,
        ) from None
    return Kept(modality="video", data=copy, media_type=media_type, format=form.name, facts=facts)


def _kept_streams(container: Any) -> list[Any]:
    """Return the streams of a movie that are kept: the first of frames and the first of sound. A
    camera's track of positions is none of them."""
    frames = next(stream for stream in container.streams.video if _is_movie_stream(stream))
    return [frames, *container.streams.audio[:1]]


def _decode_all(data: bytes, form: Format, name: str, limits: Limits) -> dict[str, Any]:
    """Decode a movie to its end and return its facts. Raises MediaError for one that is damaged
    anywhere, cut off, or longer than its header says and the limits allow."""
    import av

    count, end = 0, 0.0
    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            streams = _kept_streams(container)
            movie = streams[0]
            start = None
            for packet in container.demux(streams):
                frames: list[Any] = list(packet.decode())
                for frame in frames:
                    if packet.stream_index != movie.index:
                        continue
                    if frame.is_corrupt:
                        raise damaged(form, name)
                    count += 1
                    start = float(frame.time or 0) if start is None else start
                    end = max(end, float(frame.time or 0) - start)
                    check_seconds(name, end, limits)
            rate = float(movie.average_rate or 0) or VIDEO_FPS
            # MP4 states the number of frames, Matroska the duration; FFmpeg ends without an error
            stated = (container.duration or 0) / 1e6
            if movie.frames > count + 1 or stated - end - 1 / rate > CUT_SECONDS:
                raise damaged(form, name)
            facts = {"width": movie.width, "height": movie.height, "frames": count}
            facts |= {"seconds": end + 1 / rate}
            if len(streams) > 1:
                facts |= {"hz": streams[1].rate, "channels": streams[1].channels}
            return facts
    except (av.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        raise damaged(form, name) from None


def _copy_streams(data: bytes, form: Format) -> tuple[bytes, str]:
    """Return a movie's streams in a new file, and its media type.

    Raises av.FFmpegError or ValueError for streams that the new file cannot hold.
    """
    import av

    out = io.BytesIO()
    with av.open(io.BytesIO(data), "r", format=form.decoder) as source:
        streams = _kept_streams(source)
        names = {stream.codec_context.name for stream in streams}
        muxer = "mp4" if form.decoder == "mov" else "webm" if names <= WEB else "matroska"
        # bitexact: no program's version, no date, no random number
        with av.open(out, "w", format=muxer, options={"fflags": "+bitexact"}) as target:
            copies = {s.index: target.add_stream_from_template(s) for s in streams}
            filters = {s.index: _without_notes(s, copies[s.index]) for s in streams}
            for packet in source.demux(streams):
                if packet.dts is None:  # the empty packet at a stream's end
                    continue
                index = packet.stream_index
                for kept in filters[index].filter(packet) if filters[index] else [packet]:
                    kept.stream = copies[index]
                    target.mux(kept)
    ending = {"mp4": "mp4", "webm": "webm", "matroska": "x-matroska"}[muxer]
    return out.getvalue(), f"video/{ending}"


def _without_notes(stream: Any, copy: Any) -> Any:
    """Return the filter that drops the units of a stream in which its recorder wrote notes; None
    for a codec that has none."""
    import av

    units = SEI_UNITS.get(stream.codec_context.name)
    if units is None:
        return None
    return av.bitstream.BitStreamFilterContext(f"filter_units=remove_types={units}", stream, copy)


def _is_movie_stream(stream: Any) -> bool:
    """Return whether a stream of pictures is a movie, and not the cover of a sound."""
    import av

    return not stream.disposition & av.stream.Disposition.attached_pic


def _read_frames(data: bytes, form: Format, name: str, limits: Limits) -> np.ndarray:
    """Return a movie's first 17 frames at 8 per second, upright and cropped to the middle square,
    uint8 [17, 128, 128, 3]; the last frame of a shorter movie is repeated."""
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(data), "r", format=form.decoder) as container:
            stream = next(s for s in container.streams.video if _is_movie_stream(s))
            image.check_size(name, stream.width, stream.height, limits.frame_side)
            check_seconds(name, (container.duration or 0) / 1e6, limits)
            start: float | None = None
            for frame in container.decode(stream):
                start = float(frame.time or 0.0) if start is None else start
                seconds = float(frame.time or 0.0) - start
                if seconds < len(frames) / VIDEO_FPS - 1e-3:
                    continue  # a movie of a higher rate: this frame is left out
                pixels = image.square(_upright(frame, stream))
                while len(frames) < VIDEO_FRAMES and seconds >= len(frames) / VIDEO_FPS - 1e-3:
                    frames.append(pixels)
                if len(frames) == VIDEO_FRAMES:
                    break
    except (av.FFmpegError, OSError, ValueError, AttributeError):  # no width: no frame came
        raise damaged(form, name) from None
    if not frames:
        raise MediaError(name, "has no frame", "give a video with pictures", code="no_frame")
    return image.check_frames(np.stack(frames + [frames[-1]] * (VIDEO_FRAMES - len(frames))), name)


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
        pixels = image.blend(pixels[..., :3], pixels[..., 3], 255)
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


def movie_bytes(
    frames: Iterable[np.ndarray], suffix: str, fps: Fraction | int = VIDEO_FPS
) -> bytes:
    """Return frames uint8 [H, W, 3] of one size as a movie's bytes in the format of an ending."""
    import av

    if suffix == ".gif":
        return _gif_bytes(frames, fps)
    out = io.BytesIO()
    encoder, options = ENCODERS[suffix]
    with av.open(out, "w", format=suffix[1:]) as container:
        stream: Any = container.add_stream(encoder, rate=fps, options=options)
        for k, frame in enumerate(frames):
            if k == 0:  # the first frame gives the movie its size
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _gif_bytes(frames: Iterable[np.ndarray], fps: Fraction | int) -> bytes:
    """Return frames uint8 [H, W, 3] of one size as an endless GIF."""
    out = io.BytesIO()
    first, *rest = [Image.fromarray(f) for f in frames]
    first.save(out, "GIF", save_all=True, append_images=rest, duration=1000 // fps, loop=0)
    return out.getvalue()
