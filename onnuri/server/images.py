"""`/v1/images/generations`: a sentence to pictures, whole, or partly while their tokens arrive."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

from onnuri import media
from onnuri.modality import IMAGE_SIZE, language_of
from onnuri.model.answer import Context
from onnuri.server.chat import base64_of, usage_of
from onnuri.server.problems import Problem
from onnuri.server.schemas import ImageRequest
from onnuri.server.service import Item, Picture, Stream, Wish
from onnuri.server.state import Caller, State

SIZE = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


async def generate(request: ImageRequest, state: State, caller: Caller) -> dict[str, Any]:
    """All pictures that were asked for."""
    context, wanted = await _begin(request, state)
    made = await asyncio.gather(*(state.service.item(context, wish) for wish in wanted))
    data = [await _encoded(item.item, request, state) for item in made]
    usage = _usage(context, list(made))
    await state.spend(caller, usage["total_tokens"])
    return {"created": int(time.time()), "data": [{"b64_json": d} for d in data], "size": SIZE,
            "output_format": request.output_format or "png", "usage": usage}


async def stream(request: ImageRequest, state: State, caller: Caller) -> Stream[dict[str, Any] | None]:
    """Events of one picture: partial ones, then the whole."""
    if (request.n or 1) != 1:
        raise Problem(400, f"n {request.n}: a stream has one picture; give 1", "invalid_value", "n")
    context, [wish] = await _begin(request, state)
    about = {"background": "opaque", "created_at": int(time.time()), "output_format": request.output_format or "png",
             "quality": "auto", "size": SIZE}
    yield {}
    first = state.metrics.first(caller.began)
    async with contextlib.aclosing(state.service.answer(context, wish)) as made:
        async for event in made:
            first.see("image")
            if isinstance(event, Picture):
                yield {"type": "image_generation.partial_image", "partial_image_index": event.index, **about,
                       "b64_json": await _encoded(event.image, request, state)}
            elif isinstance(event, Item):
                usage = _usage(context, [event])
                await state.spend(caller, usage["total_tokens"])
                yield {"type": "image_generation.completed", **about, "usage": usage,
                       "b64_json": await _encoded(event.item, request, state)}
    yield None


async def _begin(request: ImageRequest, state: State) -> tuple[Context, list[Wish]]:
    if request.size not in (None, "auto", SIZE):
        raise Problem(400, f"size {request.size!r}: this model draws {SIZE}; give that, or 'auto'", "invalid_value", "size")
    if request.response_format == "url":
        raise Problem(400, "response_format 'url': there is no store of pictures; give 'b64_json'", "invalid_value",
                      "response_format")
    context = await state.service.read([("text", request.prompt)])
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    return context, [Wish(to="image", language=request.language or language_of(request.prompt), seed=seed + k,
                          temperature=request.temperature, top_p=request.top_p, guidance=request.guidance,
                          partial=(request.partial_images or 0) if request.stream else 0) for k in range(request.n or 1)]


async def _encoded(image: Any, request: ImageRequest, state: State) -> str:
    return base64_of(await state.service.aside(media.to_bytes, image, SUFFIX[request.output_format or "png"]))


def _usage(context: Context, items: list[Item]) -> dict[str, Any]:
    """In the fields of the images API."""
    usage = usage_of(context, items)
    given = usage["prompt_tokens_details"]
    return {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
            "input_tokens_details": {"text_tokens": given["text_tokens"], "image_tokens": given["image_tokens"]}}
