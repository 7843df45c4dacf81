"""This module is the table of file formats that are read: their names, decoders and first bytes.

All inputs use it (page, command line, `file` parts, `*_url` parts, uploads, jobs), so that a file
is treated the same everywhere. A format is detected by the bytes alone, never by the name. The rows
are what Pillow, libsndfile, PyAV and trimesh can decode as installed; formats that people send and
none of them decodes are listed too, so that the error can name them.

The module decodes nothing and knows no decoder's internals.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Literal

from PIL import Image

from onnuri.errors import MediaError
from onnuri.modality import TABLE, Modality

Family = Literal["picture", "sound", "movie", "mesh"]
MEDIA_OF: dict[Family, tuple[Modality, ...]] = {
    "picture": ("image", "video"),
    "sound": ("audio",),
    "movie": ("video", "audio"),
    "mesh": ("shape",),
}
"""modalities that a file of a family may hold: a picture may be animated, a movie may be sound
alone"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A Format holds a file format's name, its decoder's name for it, its endings and media
    types."""

    name: str
    family: Family
    decoder: str
    """Pillow's format, "sndfile", PyAV's demuxer, or trimesh's file type"""
    demuxer: str = ""
    """PyAV's name of a sound format, used if libsndfile refuses the file"""
    suffixes: tuple[str, ...]
    media_types: tuple[str, ...]


def _picture(name: str, pillow: str, suffixes: str, *media_types: str) -> Format:
    """Return a format that Pillow decodes, by Pillow's name for it."""
    return Format(
        name=name,
        family="picture",
        decoder=pillow,
        suffixes=tuple(suffixes.split()),
        media_types=media_types,
    )


def _sound(name: str, demuxer: str, suffixes: str, *media_types: str) -> Format:
    """Return a format that libsndfile decodes, and PyAV if that fails."""
    return Format(
        name=name,
        family="sound",
        decoder="sndfile",
        demuxer=demuxer,
        suffixes=tuple(suffixes.split()),
        media_types=media_types,
    )


def _movie(name: str, demuxer: str, suffixes: str, *media_types: str) -> Format:
    """Return a format that PyAV decodes, by PyAV's name for it."""
    return Format(
        name=name,
        family="movie",
        decoder=demuxer,
        suffixes=tuple(suffixes.split()),
        media_types=media_types,
    )


def _mesh(name: str, suffixes: str, *media_types: str) -> Format:
    """Return a format that trimesh decodes."""
    return Format(
        name=name,
        family="mesh",
        decoder=name.lower(),
        suffixes=tuple(suffixes.split()),
        media_types=media_types,
    )


_ALL = (
    _picture("PNG", "PNG", ".png .apng", "image/png", "image/apng"),
    _picture("JPEG", "JPEG", ".jpg .jpeg .jpe .jfif .mpo", "image/jpeg"),
    _picture("WebP", "WEBP", ".webp", "image/webp"),
    _picture("GIF", "GIF", ".gif", "image/gif"),
    _picture("AVIF", "AVIF", ".avif .avifs", "image/avif"),
    _picture("BMP", "BMP", ".bmp .dib", "image/bmp"),
    _picture("TIFF", "TIFF", ".tif .tiff", "image/tiff"),
    _picture("JPEG 2000", "JPEG2000", ".jp2 .j2k .jpx", "image/jp2"),
    _picture("PPM", "PPM", ".ppm .pgm .pbm .pnm .pfm", "image/x-portable-pixmap"),
    _picture("QOI", "QOI", ".qoi", "image/qoi"),
    _picture("ICO", "ICO", ".ico", "image/vnd.microsoft.icon", "image/x-icon"),
    _picture("PSD", "PSD", ".psd", "image/vnd.adobe.photoshop"),
    _picture("DDS", "DDS", ".dds", "image/vnd-ms.dds"),
    _sound("WAV", "wav", ".wav .w64 .rf64", "audio/wav", "audio/x-wav", "audio/vnd.wave"),
    _sound("FLAC", "flac", ".flac", "audio/flac", "audio/x-flac"),
    _sound("MP3", "mp3", ".mp3 .mp2", "audio/mpeg", "audio/mp3"),
    _sound("AIFF", "aiff", ".aif .aiff .aifc", "audio/aiff", "audio/x-aiff"),
    _sound("AU", "au", ".au .snd", "audio/basic"),
    _sound("CAF", "caf", ".caf", "audio/x-caf"),
    _movie("Ogg", "ogg", ".ogg .oga .opus .ogv", "audio/ogg", "video/ogg", "audio/opus"),
    _movie(
        "MP4",
        "mov",
        ".mp4 .m4v .mov .qt .3gp .3g2 .m4a .m4b",
        "video/mp4",
        "video/quicktime",
        "audio/mp4",
        "audio/x-m4a",
        "video/3gpp",
        "audio/m4a",
    ),
    _movie(
        "WebM",
        "matroska",
        ".webm .mkv .mka",
        "video/webm",
        "audio/webm",
        "video/x-matroska",
        "audio/x-matroska",
    ),
    _movie("AVI", "avi", ".avi", "video/x-msvideo", "video/avi"),
    _movie("MPEG-TS", "mpegts", ".ts .mts .m2ts", "video/mp2t"),
    _movie("MPEG", "mpeg", ".mpg .mpeg .vob", "video/mpeg"),
    _movie("FLV", "flv", ".flv", "video/x-flv"),
    _movie("ASF", "asf", ".wmv .wma .asf", "video/x-ms-wmv", "audio/x-ms-wma", "video/x-ms-asf"),
    _movie("AAC", "aac", ".aac", "audio/aac", "audio/x-aac"),
    _movie("AMR", "amr", ".amr", "audio/amr"),
    _mesh("GLB", ".glb", "model/gltf-binary"),
    _mesh("glTF", ".gltf", "model/gltf+json"),
    _mesh("OBJ", ".obj", "model/obj"),
    _mesh("PLY", ".ply", "model/ply"),
    _mesh("STL", ".stl", "model/stl"),
    _mesh("OFF", ".off", "model/off"),
)

UNREAD = (
    "HEIC",
    "PDF",
    "SVG",
    "HTML",
    "PostScript",
    "ZIP",
    "gzip",
    "FBX",
    "Blender",
    "MIDI",
    "RAR",
    "7z",
)
"""formats that people send and no decoder here reads; errors name them"""


@functools.cache
def table() -> tuple[Format, ...]:
    """Return the formats that are read; of Pillow's, those with which the installed one was
    built."""
    Image.init()
    return tuple(f for f in _ALL if f.family != "picture" or f.decoder in Image.OPEN)


def named(name: str) -> Format:
    """Return the format of a name. Raises StopIteration for an unknown one."""
    return next(f for f in table() if f.name == name)


def names(family: Family | None = None) -> str:
    """Return the names of a family's formats, or of all, joined by commas for a message."""
    return ", ".join(f.name for f in table() if family in (None, f.family))


def sniff(data: bytes) -> Format | str | None:
    """Return the format of a file, detected by its bytes.

    Return its name alone if no decoder here reads it, and None if it is unknown.
    """
    head = data[:64]
    if unread := _unread(data):
        return unread
    for name in (_sound_or_movie(head, data), _mesh_name(data)):
        if name:
            return named(name)
    for picture in table():
        if picture.family == "picture":
            accepts = Image.OPEN[picture.decoder][1]
            # Pillow's function may return a warning as a str, which is no acceptance
            if accepts and accepts(head[:16]) is True:
                return picture
    return None


HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
MOVIE_BRANDS = {b"isom", b"mp41", b"mp42", b"qt  "}
"""brands in the first box of an ISO file (ISO 14496-12, 4.3); a movie may be coded in HEVC too"""


def _unread(data: bytes) -> str:
    """Return the name of a format in UNREAD; "" for all others."""
    head = data[:64]
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), 64)
        brands = {head[8:12], *(head[k : k + 4] for k in range(16, end, 4))}
        if brands & HEIC_BRANDS and not brands & MOVIE_BRANDS:
            return "HEIC"
    for name, magic in (
        ("PDF", b"%PDF"),
        ("PostScript", b"%!PS"),
        ("ZIP", b"PK\x03\x04"),
        ("gzip", b"\x1f\x8b"),
        ("FBX", b"Kaydara FBX"),
        ("Blender", b"BLENDER"),
        ("MIDI", b"MThd"),
        ("RAR", b"Rar!"),
        ("7z", b"7z\xbc\xaf"),
    ):
        if head.startswith(magic):
            return name
    words = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if words.startswith((b"<svg", b"<?xml")) and b"<svg" in data[:4096].lower():
        return "SVG"
    return "HTML" if words.startswith((b"<!doctype html", b"<html")) else ""


_MAGIC = (
    ("FLAC", b"fLaC"),
    ("AU", b".snd"),
    ("CAF", b"caff"),
    ("MP3", b"ID3"),
    ("Ogg", b"OggS"),
    ("WAV", b"RF64"),
    ("WAV", b"RIFX"),
    ("WAV", b"riff\x2e\x91\xcf\x11"),
    ("WebM", b"\x1a\x45\xdf\xa3"),
    ("FLV", b"FLV\x01"),
    ("MPEG", b"\0\0\x01\xba"),
    ("MPEG", b"\0\0\x01\xb3"),
    ("AMR", b"#!AMR"),
    ("ASF", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)


def _sound_or_movie(head: bytes, data: bytes) -> str:
    """Return the name of a sound's or a movie's format; "" for all others."""
    for name, magic in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"AVI "):
        return "WAV" if head[8:12] == b"WAVE" else "AVI"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[4:8] == b"ftyp":
        return "" if head[8:12] in (b"avif", b"avis") else "MP4"
    if head[4:8] in (b"moov", b"mdat", b"wide"):  # QuickTime before there was ftyp
        box_bytes = int.from_bytes(head[:4], "big")
        if box_bytes in (0, 1) or 8 <= box_bytes < 2**31:
            return "MP4"
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:
        return "MPEG-TS"
    if len(head) > 3 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:  # ADTS: a sync word and layer 0
            return "AAC"
        is_layer_2_or_3 = head[1] & 0xE6 in (0xE2, 0xE4) and head[1] & 0x18 != 0x08
        if is_layer_2_or_3 and head[2] & 0xF0 != 0xF0:  # an MPEG header with a valid bit rate
            return "MP3"
    return ""


_OBJ = frozenset(
    (b"v", b"vt", b"vn", b"vp", b"f", b"o", b"g", b"s", b"l", b"p", b"mtllib", b"usemtl")
)
"""statements with which an OBJ may begin"""


def _mesh_name(data: bytes) -> str:
    """Return the name of a mesh's format; "" for all others."""
    head = data[:16]
    if head.startswith(b"glTF"):
        return "GLB"
    if head.startswith(b"ply") and head[3:4] in (b"\n", b"\r", b" "):
        return "PLY"
    if len(data) >= 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little"):
        return "STL"
    text = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"solid") and b"facet" in data[:4096]:
        return "STL"
    if text.startswith((b"OFF", b"COFF", b"NOFF")):
        return "OFF"
    if text.startswith(b"{") and b'"asset"' in data:
        return "glTF" if _is_gltf(data) else ""
    return "OBJ" if _first_statement(data) in _OBJ else ""


def _is_gltf(data: bytes) -> bool:
    """Return whether a JSON file is a glTF."""
    try:
        return "version" in json.loads(data)["asset"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _first_statement(data: bytes) -> bytes:
    """Return the first word of the first line that is neither blank nor a comment, however long the
    comments are."""
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        words = data[start : min(end, start + 200)].split(None, 1)
        if words and not words[0].startswith(b"#"):
            return words[0] if len(words) > 1 else b""
        start = end + 1
    return b""


def is_cut_off(data: bytes) -> bool:
    """Return whether a WAV, MP3 or Ogg says that there should be more of it: their decoders read
    what there is."""
    if data[:4] == b"RIFF":
        stated = int.from_bytes(data[4:8], "little") + 7  # an odd chunk's padding may be missing
        # recorders that could not go back to the header left the largest size in it
        return len(data) < stated < 2**32 - 4096
    if data[:4] == b"OggS":
        last = data.rfind(b"OggS")
        sizes = data[last + 27 : last + 27 + data[last + 26]] if len(data) > last + 27 else b""
        # bit 2 marks the last page (RFC 3533, 6)
        return (
            not sizes or not data[last + 5] & 4 or last + 27 + len(sizes) + sum(sizes) > len(data)
        )
    if data[:3] == b"ID3" or data[:1] == b"\xff":
        start = max(data.find(b"Xing", 0, 8192), data.find(b"Info", 0, 8192))
        if start < 0 or not data[start + 7] & 2:  # bit 1: the bytes are stated
            return False
        place = start + 8 + 4 * (data[start + 7] & 1)
        # some writers count a frame, of at most 1,441 bytes, more than there is
        return int.from_bytes(data[place : place + 4], "big") - 1441 > len(data)
    return False


def damaged(form: Format, name: str) -> MediaError:
    """Return the error for a file whose first bytes are a format's and whose others are not."""
    return MediaError(
        name,
        f"is damaged: it begins as {form.name} does and does not go on so",
        "give the whole file",
        code="damaged_file",
        format=form.name,
    )


def wrong_modality(name: str, declared: str, detected: str, form: str) -> MediaError:
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


def check_suffix(path: Path, modality: str) -> None:
    """Raise MediaError unless a file name has one of its modality's endings."""
    known = TABLE[modality].suffixes  # type: ignore[index]
    if path.suffix.lower() not in known:
        raise MediaError(
            str(path), f"does not end as {modality} does", f"use one of {', '.join(known)}"
        )
