"""Pictures as arrays: upright, 8 bits, sRGB, on white, whatever the file has; those that move as
frames.

Size is checked before a pixel is decoded. Knows no codec and no model.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from onnuri.errors import MediaError
from onnuri.formats import Format
from onnuri.modality import IMAGE_SIZE, VIDEO_FPS, VIDEO_FRAMES, Medium

MOVING = ("GIF", "PNG", "WEBP", "AVIF")
"""Pillow's formats whose further pictures are frames; others' are pages, sizes or thumbnails, of
which the first counts"""
FRAME_SECONDS = 0.1
"""of a frame that says 0, as browsers show it"""
EDGE = 3
"""of 255: a picture in which no two pixels side by side differ by more, at the size that the model
sees, shows nothing. What the world draws has edges of 70 and more, its backgrounds alone of 1"""
SRGB_GAMMA = 1 / 2.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What is read at most. A server's are the same unless it is told others, but that a request
    has a length."""

    file_bytes: int = 200 * 2**20
    side: int = 8192
    """pixels of a picture"""
    pixels: int = 16 * 10**6
    frame_side: int = 2048
    """pixels of a video"""
    seconds: float = 30.0
    """of a video; a sound's are `HEARD_SECONDS`, if that is less"""
    faces: int = 100_000


LIMITS = Limits()


def read(data: bytes, form: Format, name: str, limits: Limits) -> tuple[Medium, np.ndarray]:
    """("image", uint8 [H, W, 3]), or of a picture that moves ("video", uint8 [17, 128, 128, 3]).
    Raises MediaError."""
    try:
        with Image.open(io.BytesIO(data), formats=[form.decoder]) as picture:
            check_size(name, *picture.size, limits.side)
            if picture.width * picture.height > limits.pixels:
                raise _too_many(name, f"has {picture.width * picture.height} pixels", limits)
            if picture.format in MOVING and getattr(picture, "n_frames", 1) > 1:
                return "video", check_frames(_frames(picture, name), name)
            picture.load()
            return "image", _seen(picture, name)
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
        raise MediaError(
            name,
            f"is damaged: it begins as {form.name} does and does not go on so",
            "give the whole file",
            code="damaged_file",
            format=form.name,
        ) from None


def _too_many(name: str, rule: str, limits: Limits) -> MediaError:
    return MediaError(
        name,
        f"{rule}, at most {limits.pixels} are read",
        "resize it",
        code="too_many_pixels",
        most=limits.pixels,
    )


def check_size(name: str, width: int, height: int, most: int) -> None:
    if min(width, height) < 1 or max(width, height) > most:
        raise MediaError(
            name,
            f"is {width} × {height} pixels, 1 to {most} a side are read",
            "resize it",
            code="too_many_pixels",
            most=most,
        )


def check_frames(frames: np.ndarray, name: str) -> np.ndarray:
    """The frames [F, H, W, 3]. Raises MediaError where nothing is to be seen in any of them."""
    if all(is_plain(frame) for frame in frames[::4]):
        raise MediaError(
            name,
            "shows nothing: no frame has more than a plain colour",
            "give a video of something",
            code="blank",
        )
    return frames


def is_plain(picture: np.ndarray) -> bool:
    """Whether a picture uint8 [H, W, 3] is of one colour, or of colours that fade into each other:
    nothing stands out."""
    small = (
        picture
        if max(picture.shape[:2]) <= IMAGE_SIZE
        else np.asarray(
            Image.fromarray(picture).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
        )
    )
    steps = [np.abs(np.diff(small.astype(np.int16), axis=axis)) for axis in (0, 1)]
    return max(int(step.max(initial=0)) for step in steps) <= EDGE


def square(picture: Image.Image) -> np.ndarray:
    """uint8 [128, 128, 3]: the middle of a picture, scaled."""
    if picture.size != (IMAGE_SIZE, IMAGE_SIZE):
        picture = ImageOps.fit(picture, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.asarray(picture)


def _seen(picture: Image.Image, name: str) -> np.ndarray:
    """uint8 [H, W, 3] of a picture that is loaded. Raises MediaError where nothing is to be seen in
    it."""
    colors, alpha = _plain_rgb(picture)
    shown = _on(colors, alpha, 255)
    if is_plain(shown) and alpha is not None:  # white on nothing can be seen on black
        shown = _on(colors, alpha, 0)
    if is_plain(shown):
        raise MediaError(
            name,
            "shows nothing: it has no more than a plain colour",
            "give a picture of something",
            code="blank",
        )
    return shown


def _on(colors: np.ndarray, alpha: np.ndarray | None, ground: int) -> np.ndarray:
    """Colours [H, W, 3] with coverage [H, W] on a ground."""
    if alpha is None:
        return colors
    cover = alpha[..., None].astype(np.float32) / 255
    return np.asarray((colors * cover + ground * (1 - cover)).round().astype(np.uint8))


def _frames(picture: Any, name: str) -> np.ndarray:
    """uint8 [17, 128, 128, 3]: what a moving picture shows at 8 a second; the last is held."""
    frames: list[np.ndarray] = []
    time = 0.0
    for index in range(picture.n_frames):
        picture.seek(index)
        picture.load()
        shown = square(Image.fromarray(_on(*_plain_rgb(picture), 255)))
        time += float(picture.info.get("duration") or 0) / 1000 or FRAME_SECONDS
        while len(frames) < VIDEO_FRAMES and len(frames) / VIDEO_FPS < time - 1e-3:
            frames.append(shown)
        if len(frames) == VIDEO_FRAMES:
            break
    return np.stack(frames + [shown] * (VIDEO_FRAMES - len(frames)))


def _plain_rgb(picture: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 [H, W, 3] of sRGB, upright, and coverage uint8 [H, W] where the picture has any."""
    profile, gamma, clear = (
        picture.info.get("icc_profile"),
        picture.info.get("gamma"),
        picture.info.get("transparency"),
    )
    upright = _upright(picture)
    if upright.mode.startswith(("I", "F")):
        return _deep_grey(np.asarray(upright), clear)
    alpha = None
    if upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or clear is not None:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright.getchannel("A"))
        upright = upright.convert("RGB")
    elif upright.mode not in ("L", "RGB", "CMYK", "LAB"):
        upright = upright.convert("RGB")
    colors = np.asarray(_in_srgb(upright, profile).convert("RGB"))
    if (
        gamma and not profile and "srgb" not in picture.info and abs(gamma - SRGB_GAMMA) > 0.05
    ):  # PNG's gAMA alone
        colors = (255 * (colors / 255) ** (SRGB_GAMMA / gamma)).round().astype(np.uint8)
    return colors, alpha


def _upright(picture: Any) -> Any:
    """Turned as the camera was held; a broken note about that is none."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # EXIF is whatever a camera wrote
        return picture


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours as sRGB shows them, by the file's own profile; one that cannot be used is none."""
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        elif picture.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            return picture
        made = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        return made or picture
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture


def _deep_grey(values: np.ndarray, clear: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey of 16 or 32 bits or of floating point, scaled by what its kind may hold."""
    levels = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    if values.dtype.kind == "f":
        fullest = next(
            (m for m in (1.0, 255.0, 65_535.0) if levels.max(initial=0) <= m), levels.max(initial=0)
        )
    else:
        fullest = next(m for m in (65_535.0, 2.0**31 - 1, 2.0**32) if levels.max(initial=0) <= m)
    grey = (levels.clip(0) / fullest * 255).round().astype(np.uint8)
    cover = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
    return np.repeat(grey[..., None], 3, axis=2), cover
