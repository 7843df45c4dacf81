"""Bodies that are a form or JSON: OpenAI's clients send forms where there are files, other clients
JSON.

Knows no route: a request and a class of `schemas.py` in, one of that class out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from onnuri.server.errors import JSON, APIError, invalid

B = TypeVar("B", bound=BaseModel)
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def form_or_json(request: Request, kind: type[B]) -> B:
    """Return the request's body, a form or JSON, as a class of `schemas.py`. Raises APIError, and
    RequestValidationError as FastAPI does."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type in FORMS:
        body: Any = await _form(request, kind)
    elif content_type.endswith("json"):
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            at = getattr(error, "pos", 0)
            raise RequestValidationError(
                [{"type": "json_invalid", "loc": ("body", at), "msg": ""}]
            ) from None
    else:
        raise APIError(
            400,
            f"the request's body: is {content_type or 'nothing'!s:.60}, where a form or JSON is "
            "read; send multipart/form-data or application/json",
            "invalid_value",
        )
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        errors = [{**e, "loc": ("body", *e["loc"])} for e in error.errors()]
        raise RequestValidationError(errors, body=body) from None


async def _form(request: Request, kind: type[BaseModel]) -> JSON:
    """Return a form's fields; a field that is a list in `kind` has all values that were sent as
    `name` or `name[]`, the two ways in which clients write it."""
    form = await request.form()
    lists = {name for name, field in kind.model_fields.items() if _is_list(field.annotation)}
    fields: JSON = {}
    for name, value in form.multi_items():
        plain = name.removesuffix("[]")
        if plain in lists or plain != name:
            fields.setdefault(plain, []).append(value)
        else:
            fields[name] = value
    return fields


def _is_list(annotation: Any) -> bool:
    """Return whether a field's type is a list, or a union with one."""
    return get_origin(annotation) is list or any(
        _is_list(part) for part in getattr(annotation, "__args__", ())
    )


def openapi_body(kind: type[BaseModel], files: tuple[str, ...]) -> JSON:
    """Return OpenAPI's description of a body that is a form or JSON; `files` are the fields that
    may be uploads in a form."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    form = {
        **schema,
        "properties": {
            **schema["properties"],
            **{name: {"type": "string", "format": "binary"} for name in files},
        },
    }
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": schema},
            },
        }
    }


async def upload_or_part(value: Any, name: str) -> tuple[bytes | None, Any]:
    """Return (an upload's bytes, None), or (None, JSON's value for it as a part of a message).
    Raises APIError."""
    if isinstance(value, UploadFile):
        return await value.read(), None
    if isinstance(value, str):
        return None, {"type": "file", "file": {"file_data": value}}
    if isinstance(value, Mapping):
        if isinstance(value.get("type"), str):
            return None, dict(value)
        for field in ("image_url", "file_data"):
            if isinstance(inner := value.get(field), str):
                return None, {"type": "file", "file": {"file_data": inner}}
            if isinstance(inner, Mapping):
                return None, {"type": field, field: dict(inner)}
    raise invalid(name, 'is no file; send an upload, a data: URI or base64, or {"image_url": …}')
