"""A client of a served model, for `onnuri chat --server URL`. Knows no codec and no network.

For programs, OpenAI's own client is the way (docs/server.md); this one turns files' arrays into
requests and back.
"""

from __future__ import annotations

import base64
from typing import Any

import httpx

from onnuri.errors import ConfigError, OnnuriError
from onnuri.media import reading, writing
from onnuri.modality import TABLE, Language, Modality
from onnuri.model.asking import language_asked
from onnuri.model.front_end import Notice
from onnuri.model.omni import Reply
from onnuri.server.conversation import SHOWN, URL
from onnuri.server.errors import JSON
from onnuri.server.schemas import API_NAMES


class Remote:
    """A served model with the interface of `OmniModel`: `generate` and `reply` send requests to a
    server."""

    def __init__(self, url: str, key: str = "none") -> None:
        """Prepare to ask a server. Raises ConfigError where the URL is no http address."""
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"--server {url}", "is no http address", "give one such as http://127.0.0.1:8000"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=180
        )

    def generate(
        self, to: Modality, inputs: Any, *, language: Language = "ko", **sampling: Any
    ) -> Any:
        """Return one item of a modality from the server. Raises OnnuriError where it cannot be
        reached or refuses."""
        return self.reply(to, inputs, language=language, **sampling).item

    def reply(
        self, to: Modality, inputs: Any, *, language: Language | None = None, **sampling: Any
    ) -> Reply:
        """Return one item of a modality with its language and with notices of what the model did
        not know in the inputs. Raises OnnuriError where the server cannot be reached or refuses."""
        content = [_part(modality, item) for modality, item, *_ in inputs]
        words = [item for modality, item, *_ in inputs if modality == "text"]
        spoken: Language = language or (language_asked(words[-1]) if words else "ko")
        body = {
            "messages": [{"role": "user", "content": content}],
            "modalities": [API_NAMES[to]],
            "language": spoken,
            **sampling,
        }
        try:
            answer = self.http.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise ConfigError(
                self.url,
                f"cannot be reached ({type(error).__name__})",
                "start it with `onnuri serve`",
            ) from None
        if answer.status_code != 200:
            raise OnnuriError(self.url, _complaint(answer), "ask otherwise")
        message = answer.json()["choices"][0]["message"]
        notice_fields = answer.json().get("onnuri", {}).get("notices", [])
        notices = tuple(Notice(n["code"], n["message"], tuple(n["details"])) for n in notice_fields)
        if to == "text":
            return Reply(message["content"], spoken, notices)
        data = (
            message["audio"]["data"]
            if to == "audio"
            else message[SHOWN[to]][0][URL[to]]["url"].partition(",")[2]
        )
        return Reply(reading.from_bytes(base64.b64decode(data), to, "the answer"), spoken, notices)


def _part(modality: Modality, item: Any) -> JSON:
    """Return an input as a part of a chat message: text as it is, media as a file in base64."""
    if modality == "text":
        return {"type": "text", "text": item}
    row = TABLE[modality]
    data = base64.b64encode(writing.to_bytes(item, row.suffixes[0])).decode()
    if modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return {"type": URL[modality], URL[modality]: {"url": f"data:{row.media_type};base64,{data}"}}


def _complaint(answer: httpx.Response) -> str:
    """Return in words what a server answered instead of 200."""
    try:
        return f"answered {answer.status_code}: {answer.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"answered {answer.status_code}, which is no answer of this kind of server"
