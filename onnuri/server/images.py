"""`/v1/images/generations` and `/v1/images/edits`: a sentence, with pictures before it or without, to pictures, whole, or
partly while their tokens arrive."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

from onnuri import media
from onnuri.modality import IMAGE_SIZE
from onnuri.model.answer import Context
from onnuri.model.asking import language_asked
from onnuri.server import intake
from onnuri.server.chat import base64_of, unknown, usage_of
from onnuri.server.pool import kind
from onnuri.server.problems import Problem
from onnuri.server.schemas import EditRequest, ImageRequest, PictureForm
from onnuri.server.service import Item, Picture, Stream, Wish
from onnuri.server.state import Caller, State

SIZE = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


async def generate(request: ImageRequest, state: State, caller: Caller) -> dict[str, Any]:
    """All pictures that were asked for."""
    context, wanted = await _begin(request, state)
    made = await asyncio.gather(*(state.service.item(context, wish) for wish in wanted))
    data = [await encoded(item.item, request, state) for item in made]
    usage = _usage(context, list(made))
    await state.spend(caller, usage["total_tokens"])
    return {"created": int(time.time()), "data": [{"b64_json": d} for d in data], **about(request), "usage": usage,
            **await unknown(context, wanted[0].language, state)}


async def stream(request: ImageRequest, state: State, caller: Caller) -> Stream[dict[str, Any] | None]:
    """Events of one picture: partial ones, then the whole."""
    if (request.n or 1) != 1:
        raise Problem(400, f"n {request.n}: a stream has one picture; give 1", "invalid_value", "n")
    context, [wish] = await _begin(request, state)
    name = "image_edit" if isinstance(request, EditRequest) else "image_generation"
    all_have = {"created_at": int(time.time()), "quality": "auto", **about(request)}
    yield {}
    first = state.metrics.first(caller.began)
    async with contextlib.aclosing(state.service.answer(context, wish)) as made:
        async for event in made:
            first.see("image")
            if isinstance(event, Picture):
                yield {"type": f"{name}.partial_image", "partial_image_index": event.index, **all_have,
                       "b64_json": await encoded(event.image, request, state)}
            elif isinstance(event, Item):
                usage = _usage(context, [event])
                await state.spend(caller, usage["total_tokens"])
                yield {"type": f"{name}.completed", **all_have, "usage": usage,
                       "b64_json": await encoded(event.item, request, state)}
    yield None


async def _begin(request: ImageRequest, state: State) -> tuple[Context, list[Wish]]:
    check_size(request.size, "size")
    if request.response_format == "url":
        raise Problem(400, "response_format 'url': there is no store of pictures; give 'b64_json'", "invalid_value",
                      "response_format")
    kind.set("image")
    context = await state.service.read([*await _given(request, state), ("text", request.prompt)])
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    return context, [Wish(to="image", language=request.language or language_asked(request.prompt), seed=seed + k,
                          temperature=request.temperature, top_p=request.top_p, guidance=request.guidance,
                          partial=(request.partial_images or 0) if request.stream else 0) for k in range(request.n or 1)]


async def _given(request: ImageRequest, state: State) -> list[Any]:
    """The pictures that an edit begins from. Raises Problem and MediaError."""
    if not isinstance(request, EditRequest):
        return []
    for name in ("mask", "markup"):
        if getattr(request, name) is not None:
            raise whole_only(name)
    files = [*request.image, *request.images]
    if not files:
        raise Problem(400, "image: nothing is given; give a picture, or several as image[]", "invalid_value", "image")
    return [await state.service.aside(intake.item, await file.read(), "image", f"image[{k}]", state.settings)
            for k, file in enumerate(files)]


def whole_only(name: str) -> Problem:
    """What a mask, which a field holds, is answered with."""
    return Problem(400, f"{name}: this model draws every picture whole; leave it out and say in the prompt what to change",
                   "invalid_value", name)


def check_size(size: str | None, name: str) -> None:
    """Raises Problem for a picture's size that this model does not draw; `name` is the field's."""
    if size not in (None, "auto", SIZE):
        raise Problem(400, f"{name} {size!r}: this model draws {SIZE}; give that, or 'auto'", "invalid_value", name)


def about(form: PictureForm) -> dict[str, Any]:
    """What is said of a picture, beside the picture."""
    return {"background": "opaque", "output_format": form.output_format or "png", "size": SIZE}


async def encoded(image: Any, form: PictureForm, state: State) -> str:
    """A picture's file in base64."""
    return base64_of(await state.service.aside(media.to_bytes, image, SUFFIX[form.output_format or "png"]))


def _usage(context: Context, items: list[Item]) -> dict[str, Any]:
    """In the fields of the images API."""
    usage = usage_of(context, items)
    given = usage["prompt_tokens_details"]
    return {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
            "input_tokens_details": {"text_tokens": given["text_tokens"], "image_tokens": given["image_tokens"]}}
