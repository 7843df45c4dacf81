"""Fields that this server knows and does not follow: a request that asks for something by them gets
an error, instead of an answer that looks as if it had been done. Empty values ask for nothing and
are accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnuri.server.errors import invalid

DRAWN = {
    "logit_bias": "no bias is put on tokens",
    "presence_penalty": "nothing is held against what was said before",
    "frequency_penalty": "nothing is held against what was said before",
}
CHAT = {
    **DRAWN,
    "functions": "functions are tools here; give tools",
    "function_call": "functions are tools here; give tool_choice",
    "web_search_options": "nothing is looked up",
    "verbosity": "answers have one length",
    "prediction": "nothing is predicted",
}
COMPLETION = {**DRAWN, "suffix": "nothing is filled in before a suffix"}
SPEECH = {"instructions": "there is one way of speaking"}
RESPONSE = {
    "include": "nothing more is included",
    "top_logprobs": "scores are told by /v1/chat/completions",
    "max_tool_calls": "no tool is called more than once",
    "functions": "functions are tools here; give tools",
}
PICTURE = {"style": "there is one style", "input_fidelity": "every picture is drawn whole"}
TRANSCRIPTION = {
    "include": "no scores are told",
    "known_speaker_names": "speakers are not told apart",
    "known_speaker_references": "speakers are not told apart",
}
PASSING: dict[str, tuple[Any, ...]] = {
    "verbosity": ("medium",),
    "style": ("vivid",),
    "input_fidelity": ("low",),
    "top_logprobs": (0,),
    "include": (["reasoning.encrypted_content"],),
}
"""values of fields that ask for what is done anyway"""


def refuse(fields: Mapping[str, Any] | None, known: Mapping[str, str]) -> None:
    """Raise APIError for the first of the `known` fields that asks for something."""
    for name, why in known.items():
        value = (fields or {}).get(name)
        if (
            value in (None, 0, 0.0, "0", "", False)
            or value in ([], {}, ())
            or value in PASSING.get(name, ())
        ):
            continue
        repair = "" if ";" in why else "; leave it out"
        raise invalid(
            f"{name} {str(value)!r:.60}",
            f"has no effect here, as {why}{repair}",
            field=name,
            code="unsupported_value",
        )
