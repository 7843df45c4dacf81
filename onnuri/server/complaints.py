"""Validation errors of a request as one line: the field's path as the client wrote it, its value,
the rule, the repair.

pydantic's own words and the branches of its unions (`function-after[…]`, `list[…]`) are not the
client's, and stay here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnuri.server.errors import APIError

RULES = {
    "missing": ("is missing", "add it"),
    "string_type": ("is not a string", "give a string"),
    "list_type": ("is not a list", "give a list"),
    "dict_type": ("is not an object", "give an object"),
    "int_type": ("is not a whole number", "give one"),
    "int_parsing": ("is not a whole number", "give one"),
    "int_from_float": ("is not a whole number", "give one"),
    "int_parsing_size": ("is too large a number", "give a smaller one"),
    "float_type": ("is not a number", "give one"),
    "float_parsing": ("is not a number", "give one"),
    "finite_number": ("is not a finite number", "give one"),
    "bool_type": ("is neither true nor false", "give one of them"),
    "bool_parsing": ("is neither true nor false", "give one of them"),
    "literal_error": ("is none of {expected}", "use one of these"),
    "enum": ("is none of {expected}", "use one of these"),
    "greater_than_equal": ("is less than {ge}", "give more"),
    "greater_than": ("is not more than {gt}", "give more"),
    "less_than_equal": ("is more than {le}", "give less"),
    "less_than": ("is not less than {lt}", "give less"),
    "string_too_short": ("has fewer than {min_length} characters", "give more"),
    "string_too_long": ("has more than {max_length} characters", "give fewer"),
    "too_short": ("has fewer than {min_length} entries", "give more"),
    "too_long": ("has more than {max_length} entries", "give fewer"),
    "string_pattern_mismatch": ("does not match {pattern}", "give one that does"),
    "value_error": ("{error}", ""),
}
"""of pydantic's kinds of error, in the form of our messages"""
OBJECTS = ("model_type", "model_attributes_type", "dict_type", "dataclass_type")


def complaint(errors: Sequence[Any], body: Any, content_type: str = "application/json") -> APIError:
    """Return pydantic's errors of a request as one APIError. Of several, the one that lies deepest
    in the body is taken: the client meant that branch of a union."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return APIError(
            400,
            f"the request's body: is not JSON (from character {first['loc'][-1]} on); send JSON",
            "invalid_json",
        )
    whole = tuple(first["loc"]) == ("body",)
    if whole and "json" not in content_type:
        sent = content_type.split(";")[0] or "nothing"
        return APIError(
            400,
            f"the request's body: is {sent:.60}, where JSON is read; "
            "send JSON with Content-Type: application/json",
            "invalid_value",
        )
    if whole:
        return APIError(
            400, "the request's body: is not an object; send a JSON object", "invalid_value"
        )
    places = [_place(error, body) for error in errors]
    depth = max(depth for depth, *_ in places)
    deepest = next(k for k, (d, *_) in enumerate(places) if d == depth)
    _, where, value = places[deepest]
    there = [error for error, place in zip(errors, places, strict=True) if place[1] == where]
    rule, repair = rule_of(there)
    value_text = (
        f" {value!r:.60}"
        if isinstance(value, (str, int, float)) and there[0]["type"] != "missing"
        else ""
    )
    message = f"{where}{value_text}: {rule}"
    if repair:
        message += f"; {repair}"
    return APIError(400, " ".join(message.split()), "invalid_value", where)


def _place(error: Any, body: Any) -> tuple[int, str, Any]:
    """Return how deep in the body an error lies, its path as a client writes it, and the value
    there."""
    source, *steps = error["loc"]
    value = body if source == "body" else {}
    path, depth = "", 0
    for k, step in enumerate(steps):
        if isinstance(step, int) and isinstance(value, list):
            path, value, depth = (
                f"{path}[{step}]",
                value[step] if step < len(value) else None,
                depth + 1,
            )
        elif isinstance(value, Mapping) and step in value:
            path, value, depth = f"{path}.{step}", value[step], depth + 1
        elif k == len(steps) - 1 and (error["type"] == "missing" or source != "body"):
            path, value, depth = f"{path}.{step}", error.get("input"), depth + 1
    return depth, path.lstrip(".") or "the request's body", value


def rule_of(errors: Sequence[Any]) -> tuple[str, str]:
    """Return the rule that errors at one place break, and the repair; for a union the rule lists
    all types that it takes."""
    kinds = list(dict.fromkeys(error["type"] for error in errors))
    nouns = {
        "string_type": "a string",
        "list_type": "a list",
        **dict.fromkeys(OBJECTS, "an object"),
    }
    types = list(dict.fromkeys(nouns[kind] for kind in kinds if kind in nouns))
    if len(types) > 1:
        return f"is neither {' nor '.join(types)}", "give one of them"
    error = next((e for e in errors if e["type"] not in OBJECTS), errors[0])
    if error["type"] in OBJECTS:
        return "is not an object", "give an object"
    rule, repair = RULES.get(error["type"], ("is not what is read there", "see /docs"))
    return rule.format(**{k: v for k, v in error.get("ctx", {}).items()}), repair
