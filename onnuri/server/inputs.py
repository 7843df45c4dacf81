"""The media of a request as the model's inputs: parts of messages, data URIs, uploads, and URLs
where they are allowed.

Nothing is fetched unless the server was told so, and then never from an address that is not public,
at no redirect.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket
import urllib.parse
from collections.abc import Sequence
from typing import Any

from onnuri.errors import ConfigError, MediaError
from onnuri.media import formats, reading
from onnuri.modality import Modality
from onnuri.model.answer import Answers
from onnuri.server.errors import JSON, invalid
from onnuri.server.schemas import API_NAMES
from onnuri.server.settings import ServeConfig

PARTS: dict[str, Modality] = {
    "image_url": "image",
    "audio_url": "audio",
    "video_url": "video",
    "mesh_url": "shape",
    "input_audio": "audio",
}
"""kinds of a message's parts beside text and file"""
FETCH_SECONDS = 10.0
REDIRECTS = 3


def item(
    data: bytes, modality: Modality | None, name: str, settings: ServeConfig
) -> tuple[Modality, Any]:
    """Return a file's bytes as an input: its modality and the decoded item. Raises MediaError where
    it is not of the given modality, or cannot be read."""
    return reading.take(data, modality, name, settings.limits)


def inspect(data: bytes, name: str, settings: ServeConfig) -> JSON:
    """Return the fields of `/v1/inspect`: what a file would be read as. Raises MediaError where it
    would not be read."""
    modality, _ = item(data, None, name, settings)
    form = formats.sniff(data)
    assert isinstance(form, formats.Format)
    return {
        "object": "file.inspection",
        "kind": API_NAMES[modality],
        **format_fields(form),
        "bytes": len(data),
    }


def format_fields(form: formats.Format) -> JSON:
    """Return a file format in the API's fields."""
    kinds = [API_NAMES[modality] for modality in formats.MEDIA_OF[form.family]]
    return {
        "format": form.name,
        "kinds": kinds,
        "suffixes": list(form.suffixes),
        "media_types": list(form.media_types),
    }


def check_count(parts: Sequence[JSON], answers: Answers, name: str) -> None:
    """Raise ConfigError where so many parts cannot fit into the model's context, before any of them
    is decoded."""
    codes = {spec.name: spec.item_codes or 1 for spec in answers.layout.codecs}
    image, shape = codes.get("image", 1), codes.get("shape", 1)
    fewest = {"image_url": image, "video_url": image, "mesh_url": shape}
    least = sum(fewest.get(_type_of(part), 1) + 2 for part in parts if _type_of(part) != "text")
    if least > answers.room:
        raise ConfigError(
            f"{name}: {len(parts)} parts",
            f"need {least} tokens or more, {answers.room} at most fit",
            "give fewer",
            code="too_many_tokens",
            most=answers.room,
        )


def _type_of(part: JSON) -> str:
    """Return the type that a part names, "" where it names none."""
    kind = part.get("type")
    return kind if isinstance(kind, str) else ""


def load(
    part: JSON, name: str, settings: ServeConfig, modality: Modality | None = None
) -> tuple[Modality, Any]:
    """Return the input in a part of a message that is not text, of the given modality where there
    is one. Blocks while it decodes. Raises APIError and MediaError."""
    kind = part.get("type")
    if kind == "file":
        file = _object(part, "file", name)
        if "file_data" not in file:
            raise invalid(name, "only file_data is read, there is no store of files; give the data")
        return item(_data(str(file["file_data"]), name, settings), modality, name, settings)
    if not isinstance(kind, str) or kind not in PARTS:
        raise invalid(name, f"{kind!r} is not a kind of part; use text, file, {', '.join(PARTS)}")
    inner = _object(part, kind, name)
    if kind == "input_audio":
        return item(_decode_base64(str(inner.get("data", "")), name), "audio", name, settings)
    return item(_data(str(inner.get("url", "")), name, settings), PARTS[kind], name, settings)


def _object(part: JSON, key: str, name: str) -> JSON:
    """Return the object in a part's field; a string there counts as its URL. Raises APIError where
    there is neither."""
    inner = part.get(key)
    if isinstance(inner, str):
        return {"url": inner}
    if not isinstance(inner, dict):
        raise invalid(name, f"has no {key}; give an object")
    return inner


def _data(url: str, name: str, settings: ServeConfig) -> bytes:
    """Return the bytes of a data URI, of plain base64, or of the file that a URL leads to. Raises
    MediaError."""
    scheme = url[:8].split(":")[0].lower()
    if scheme == "data":
        header, comma, body = url.partition(",")
        if not comma:
            raise MediaError(name, "is a data URI without data", "give data:TYPE;base64,DATA")
        return (
            _decode_base64(body, name)
            if header.endswith(";base64")
            else urllib.parse.unquote_to_bytes(body)
        )
    if scheme in ("http", "https"):
        if not settings.fetch:
            raise MediaError(
                name,
                "is a URL, and this server fetches none",
                "give a data: URI, or start it with --fetch",
            )
        return fetch(url, name, settings.body_bytes)
    if "://" in url[:40] or scheme == "file":
        raise MediaError(
            name, f"is a URL of a kind that is not read ({scheme})", "give a data: URI"
        )
    return _decode_base64(url, name)


def _decode_base64(text: str, name: str) -> bytes:
    """Return the bytes of a text in base64. Raises MediaError where it is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(name, "is not base64", "encode the file as base64") from None


def fetch(url: str, name: str, most: int) -> bytes:
    """Return the file that a public URL leads to. Raises MediaError where it is not public, longer
    than `most` bytes, or cannot be had.

    Every name is resolved once and the connection made to the address that was checked, so that a
    name cannot mean another address a moment later.
    """
    import httpx

    for _ in range(REDIRECTS + 1):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MediaError(name, "leads to no http address", "give the data itself")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = public_address(parts.hostname, port, name)
        if ":" in address:
            address = f"[{address}]"
        direct = parts._replace(netloc=f"{address}:{parts.port}" if parts.port else address)
        try:
            with (
                httpx.Client(
                    timeout=FETCH_SECONDS, follow_redirects=False, trust_env=False
                ) as client,
                client.stream(
                    "GET",
                    direct.geturl(),
                    headers={"Host": parts.netloc.rpartition("@")[2]},
                    extensions={"sni_hostname": parts.hostname},
                ) as answer,
            ):
                if answer.is_redirect:
                    url = urllib.parse.urljoin(url, answer.headers.get("location", ""))
                    continue
                if answer.status_code != 200:
                    raise MediaError(
                        name, f"was answered with {answer.status_code}", "give the data itself"
                    )
                return _read_at_most(answer.iter_bytes(), most, name)
        except httpx.HTTPError as error:
            raise MediaError(
                name, f"could not be fetched ({type(error).__name__})", "give the data itself"
            ) from None
    raise MediaError(name, f"leads on more than {REDIRECTS} times", "give the data itself")


def _read_at_most(parts: Any, most: int, name: str) -> bytes:
    """Return the joined parts of an answer. Raises MediaError where they are longer than `most`
    bytes."""
    received = bytearray()
    for part in parts:
        received += part
        if len(received) > most:
            raise MediaError(name, f"is longer than {most} bytes", "give a smaller file")
    return bytes(received)


def public_address(host: str, port: int, name: str) -> str:
    """Return an address of a host. Raises MediaError where any of its addresses is not public."""
    try:
        addresses = {
            str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        }
    except (OSError, UnicodeError):
        raise MediaError(
            name, "leads to a host that is not known", "give the data itself"
        ) from None
    for address in addresses:
        ip = ipaddress.ip_address(address.split("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None)
        if not (mapped or ip).is_global or ip.is_multicast:
            raise MediaError(name, "leads to an address that is not public", "give the data itself")
    return sorted(addresses)[0]
