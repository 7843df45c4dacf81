"""Scores of tokens in the client's fields. They are among the tokens that were allowed where one
was sampled: text, or what a grammar allows; not the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

from onnuri.codecs.text import TextCodec
from onnuri.inference.request import TokenScore
from onnuri.server.errors import JSON


def logprobs_of(scores: Iterable[tuple[int, TokenScore]], codec: TextCodec) -> list[JSON]:
    """Return the log probability of each scored token, and of the most likely ones in its place, in
    OpenAI's fields."""
    return [
        {
            **_token(code, score.logprob, codec),
            "top_logprobs": [_token(c, p, codec) for c, p in score.likeliest],
        }
        for code, score in scores
    ]


def _token(code: int, logprob: float, codec: TextCodec) -> JSON:
    """Return a token and its log probability in OpenAI's fields. `bytes` is its exact form, since a
    part of a letter cannot be written; the end of the text has none."""
    if code >= len(codec.pieces):
        return {"token": codec.spec.close, "bytes": None, "logprob": logprob}
    piece = codec.pieces[code]
    return {"token": piece.decode(errors="replace"), "bytes": list(piece), "logprob": logprob}
