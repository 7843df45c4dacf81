"""This module decodes pictures to arrays that are upright, 8-bit sRGB and on white, and animated
pictures to frames, and encodes pictures.

Sizes are checked before a pixel is decoded. The module knows no codec and no model.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from onnuri.errors import MediaError
from onnuri.media.formats import Format, damaged
from onnuri.media.kept import Kept
from onnuri.media.limits import Limits, check_seconds
from onnuri.modality import IMAGE_SIZE, VIDEO_FPS, VIDEO_FRAMES, Modality

MOVING = ("GIF", "PNG", "WEBP", "AVIF")
"""Pillow's formats in which several pictures are frames; in others they are pages, sizes or
thumbnails, of which the first is read"""
FRAME_SECONDS = 0.1
"""duration of a frame that states 0, as in browsers"""
EDGE = 3
"""levels of 255: a picture whose neighbouring pixels never differ by more, at the model's size, is
blank. The toy world's drawings have edges of 70 and more, its backgrounds alone of 1"""
SRGB_GAMMA = 1 / 2.2
MOVING_PIXELS = 8
"""pixels of all frames of an animated picture that is kept, in multiples of `Limits.pixels`"""
LOSSLESS = {"lossless": True, "exact": True, "quality": 0, "method": 0}
"""WebP as it is kept: without loss, colours under transparent pixels too"""
ENCODERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Pillow's format, by the ending of a file to be written"""


def read(data: bytes, form: Format, name: str, limits: Limits) -> tuple[Modality, np.ndarray]:
    """Return ("image", uint8 [H, W, 3]), or ("video", uint8 [17, 128, 128, 3]) of an animated
    picture.

    Raises MediaError for a picture that is too large, damaged or blank.
    """
    with _opened(data, form, name, limits) as picture:
        if _is_moving(picture):
            return "video", check_frames(_frames(picture, name), name)
        picture.load()
        return "image", _on_background(*_rgb_and_alpha(picture), name)


def keep(data: bytes, form: Format, name: str, limits: Limits) -> Kept:
    """Return what is kept of a picture: upright sRGB pixels with their alpha in a lossless WebP,
    which holds nothing else. An animated picture keeps its frames and their durations.

    Raises MediaError for a picture that is too large, damaged or blank.
    """
    with _opened(data, form, name, limits) as picture:
        if _is_moving(picture):
            return _keep_moving(picture, form, name, limits)
        picture.load()
        colors, alpha = _rgb_and_alpha(picture)
        _on_background(colors, alpha, name)
    pixels = _with_alpha(colors, alpha)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", **LOSSLESS)
    height, width, channels = pixels.shape
    return Kept(
        modality="image",
        data=out.getvalue(),
        media_type="image/webp",
        format=form.name,
        facts={"width": width, "height": height, "alpha": channels == 4},
        array=pixels,
    )


def _keep_moving(picture: Any, form: Format, name: str, limits: Limits) -> Kept:
    """Return what is kept of an animated picture: its frames in a lossless animated WebP."""
    frames = picture.n_frames
    most = MOVING_PIXELS * limits.pixels
    if frames * picture.width * picture.height > most:
        pixels = f"has {frames * picture.width * picture.height} pixels in {frames} frames"
        raise MediaError(
            name, f"{pixels}, at most {most} are read", "cut it", code="too_many_pixels", most=most
        )
    check_frames(_frames(picture, name), name)
    durations: list[int] = []
    pictures: list[Image.Image] = []
    for index in range(frames):
        picture.seek(index)
        picture.load()
        # read before the colours are, which makes another picture of a frame
        durations.append(round(float(picture.info.get("duration") or 1000 * FRAME_SECONDS)))
        check_seconds(name, sum(durations) / 1000, limits)
        pictures.append(Image.fromarray(_with_alpha(*_rgb_and_alpha(picture))))
    out = io.BytesIO()
    pictures[0].save(
        out,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        **LOSSLESS,
    )
    facts = {"width": picture.width, "height": picture.height, "frames": frames}
    facts |= {"seconds": sum(durations) / 1000, "alpha": any(p.mode == "RGBA" for p in pictures)}
    return Kept(
        modality="video",
        data=out.getvalue(),
        media_type="image/webp",
        format=form.name,
        facts=facts,
    )


def _with_alpha(colors: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Return colours with their alpha uint8 [H, W, 4]; without it [H, W, 3] if all is opaque."""
    if alpha is None or alpha.min(initial=255) == 255:
        return colors
    return np.concatenate([colors, alpha[..., None]], axis=2)


def _is_moving(picture: Any) -> bool:
    """Return whether the frames of a picture follow each other in time."""
    return picture.format in MOVING and getattr(picture, "n_frames", 1) > 1


@contextlib.contextmanager
def _opened(data: bytes, form: Format, name: str, limits: Limits) -> Iterator[Any]:
    """Yield a picture whose size has been checked and whose pixels have not been decoded.

    What Pillow raises in the `with` block becomes the MediaError of a damaged file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[form.decoder]) as picture:
            check_size(name, *picture.size, limits.side)  # only the header is read so far
            if picture.width * picture.height > limits.pixels:
                raise _too_many(name, f"has {picture.width * picture.height} pixels", limits)
            yield picture
    except Image.DecompressionBombError:
        raise _too_many(name, "has too many pixels", limits) from None
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        ArithmeticError,
        MemoryError,
    ):  # Pillow raises whatever its parsers meet
        raise damaged(form, name) from None


def _too_many(name: str, rule: str, limits: Limits) -> MediaError:
    """Return the error for a picture of too many pixels."""
    return MediaError(
        name,
        f"{rule}, at most {limits.pixels} are read",
        "resize it",
        code="too_many_pixels",
        most=limits.pixels,
    )


def check_size(name: str, width: int, height: int, most: int) -> None:
    """Raise MediaError unless width and height are 1 to `most` pixels."""
    if min(width, height) < 1 or max(width, height) > most:
        raise MediaError(
            name,
            f"is {width} × {height} pixels, 1 to {most} a side are read",
            "resize it",
            code="too_many_pixels",
            most=most,
        )


def check_frames(frames: np.ndarray, name: str) -> np.ndarray:
    """Return frames [F, H, W, 3] as they are. Raises MediaError if all of them are blank."""
    if all(is_plain(frame) for frame in frames[::4]):
        raise MediaError(
            name,
            "shows nothing: no frame has more than a plain colour",
            "give a video of something",
            code="blank",
        )
    return frames


def is_plain(picture: np.ndarray) -> bool:
    """Return whether a picture uint8 [H, W, 3] is blank: of one colour, or of colours that fade
    into each other without an edge."""
    if max(picture.shape[:2]) > IMAGE_SIZE:
        size = (IMAGE_SIZE, IMAGE_SIZE)
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    steps = [np.abs(np.diff(picture.astype(np.int16), axis=axis)) for axis in (0, 1)]
    return max(int(step.max(initial=0)) for step in steps) <= EDGE


def square(pixels: np.ndarray) -> np.ndarray:
    """Return the middle square of a picture uint8 [H, W, 3], resized to uint8 [128, 128, 3]."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.BOX))


def _on_background(colors: np.ndarray, alpha: np.ndarray | None, name: str) -> np.ndarray:
    """Return a picture on white, or on black if it is blank on white, uint8 [H, W, 3]. Raises
    MediaError for one that is blank on both."""
    pixels = blend(colors, alpha, 255)
    if is_plain(pixels) and alpha is not None:  # a white drawing on a transparent background
        pixels = blend(colors, alpha, 0)
    if is_plain(pixels):
        raise MediaError(
            name,
            "shows nothing: it has no more than a plain colour",
            "give a picture of something",
            code="blank",
        )
    return pixels


def blend(colors: np.ndarray, alpha: np.ndarray | None, background: int) -> np.ndarray:
    """Return colours [H, W, 3] blended by alpha [H, W] with a grey background of 0 to 255."""
    if alpha is None:
        return colors
    opacity = alpha[..., None].astype(np.float32) / 255
    return np.asarray((colors * opacity + background * (1 - opacity)).round().astype(np.uint8))


def _frames(picture: Any, name: str) -> np.ndarray:
    """Return an animated picture's first 17 frames at 8 per second, uint8 [17, 128, 128, 3]; the
    last frame of a shorter one is repeated."""
    frames: list[np.ndarray] = []
    time = 0.0
    for index in range(picture.n_frames):
        picture.seek(index)
        picture.load()
        frame = square(blend(*_rgb_and_alpha(picture), 255))
        time += float(picture.info.get("duration") or 0) / 1000 or FRAME_SECONDS
        while len(frames) < VIDEO_FRAMES and len(frames) / VIDEO_FPS < time - 1e-3:
            frames.append(frame)
        if len(frames) == VIDEO_FRAMES:
            break
    return np.stack(frames + [frame] * (VIDEO_FRAMES - len(frames)))


def _rgb_and_alpha(picture: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an upright picture's sRGB colours uint8 [H, W, 3] and its alpha uint8 [H, W], if it
    has any."""
    profile, gamma = picture.info.get("icc_profile"), picture.info.get("gamma")
    transparent = picture.info.get("transparency")
    upright = _upright(picture)
    if upright.mode.startswith(("I", "F")):
        return _deep_grey(np.asarray(upright), transparent)
    alpha = None
    if upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or transparent is not None:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright.getchannel("A"))
        upright = upright.convert("RGB")
    elif upright.mode not in ("L", "RGB", "CMYK", "LAB"):
        upright = upright.convert("RGB")
    colors = np.asarray(_in_srgb(upright, profile).convert("RGB"))
    only_gamma = gamma and not profile and "srgb" not in picture.info  # PNG's gAMA chunk alone
    if only_gamma and abs(gamma - SRGB_GAMMA) > 0.05:
        colors = (255 * (colors / 255) ** (SRGB_GAMMA / gamma)).round().astype(np.uint8)
    return colors, alpha


def _upright(picture: Any) -> Any:
    """Return a picture rotated as its EXIF says; damaged EXIF is ignored."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # EXIF is whatever a camera wrote
        return picture


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture in sRGB, converted by the file's colour profile; an unusable profile is
    ignored."""
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        elif picture.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            return picture
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB") or picture
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture


def _deep_grey(values: np.ndarray, transparent: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return grey values [H, W] of 16 or 32 bits, or of floating point, as colours uint8 [H, W, 3]
    and alpha.

    White is the smallest usual maximum that holds all values; files do not state theirs.
    """
    levels = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    brightest = float(levels.max(initial=0))
    maxima: tuple[float, ...] = (65_535.0, 2.0**31 - 1, 2.0**32)
    if values.dtype.kind == "f":
        maxima = (1.0, 255.0, 65_535.0, brightest)
    white = next(maximum for maximum in maxima if brightest <= maximum)
    grey = (levels.clip(0) / white * 255).round().astype(np.uint8)
    alpha = None
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), alpha


def picture_bytes(image: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """Return a picture uint8 [H, W, 3] as a file's bytes in the format of an ending; `quality` is 0
    to 100 for lossy formats."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, ENCODERS[suffix], quality=quality)
    return out.getvalue()
