"""`/v1/images/generations` and `/v1/images/edits`: a sentence, with pictures before it or without,
to pictures, whole, or partly while their tokens arrive."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

from onnuri import media
from onnuri.modality import IMAGE_SIZE, Medium
from onnuri.model.answer import Context
from onnuri.model.asking import language_asked
from onnuri.server import inputs, unheeded
from onnuri.server.bodies import contents
from onnuri.server.chat import base64_of, unknown, usage_of
from onnuri.server.errors import APIError
from onnuri.server.events import FinalItem, OutputSpec, PartialImage, Stream
from onnuri.server.pool import kind
from onnuri.server.schemas import EditRequest, ImageRequest, PictureForm
from onnuri.server.sizes import SIZE, fitted, size_of
from onnuri.server.state import Caller, State

MOST = 16
"""pictures that an edit may begin from"""
SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


async def generate(request: ImageRequest, state: State, caller: Caller) -> dict[str, Any]:
    """All pictures that were asked for."""
    context, wanted = await _begin(request, state)
    made = await asyncio.gather(*(state.service.item(context, spec) for spec in wanted))
    data = [await encoded(item.item, request, state) for item in made]
    usage = _usage(context, list(made))
    await state.spend(caller, usage["total_tokens"])
    return {
        "created": int(time.time()),
        "data": [{"b64_json": d} for d in data],
        **about(request),
        "usage": usage,
        **await unknown(context, wanted[0].language, state),
    }


async def stream(
    request: ImageRequest, state: State, caller: Caller
) -> Stream[dict[str, Any] | None]:
    """Events of one picture: partial ones, then the whole."""
    if (request.n or 1) != 1:
        raise APIError(
            400, f"n {request.n}: a stream has one picture; give 1", "invalid_value", "n"
        )
    context, [spec] = await _begin(request, state)
    name = "image_edit" if isinstance(request, EditRequest) else "image_generation"
    all_have = {"created_at": int(time.time()), "quality": "auto", **about(request)}
    yield {}
    first = state.metrics.first(caller.began)
    async with contextlib.aclosing(state.service.answer(context, spec)) as made:
        async for event in made:
            first.see("image")
            if isinstance(event, PartialImage):
                yield {
                    "type": f"{name}.partial_image",
                    "partial_image_index": event.index,
                    **all_have,
                    "b64_json": await encoded(event.image, request, state, whole=False),
                }
            elif isinstance(event, FinalItem):
                usage = _usage(context, [event])
                await state.spend(caller, usage["total_tokens"])
                yield {
                    "type": f"{name}.completed",
                    **all_have,
                    "usage": usage,
                    "b64_json": await encoded(event.item, request, state),
                }
    yield None


async def _begin(request: ImageRequest, state: State) -> tuple[Context, list[OutputSpec]]:
    size_of(request.size, "size")
    unheeded.refuse(request.model_extra, unheeded.PICTURE)
    if request.response_format == "url":
        raise APIError(
            400,
            "response_format 'url': there is no store of pictures; give 'b64_json'",
            "invalid_value",
            "response_format",
        )
    kind.set("image")
    context = await state.service.read([*await _given(request, state), ("text", request.prompt)])
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    return context, [
        OutputSpec(
            to="image",
            language=request.language or language_asked(request.prompt),
            seed=seed + k,
            temperature=request.temperature,
            top_p=request.top_p,
            guidance=request.guidance,
            partial=(request.partial_images or 0) if request.stream else 0,
        )
        for k in range(request.n or 1)
    ]


async def _given(request: ImageRequest, state: State) -> list[Any]:
    """The pictures that an edit begins from. Raises Problem and MediaError."""
    if not isinstance(request, EditRequest):
        return []
    for name in ("mask", "markup"):
        if getattr(request, name) is not None:
            raise whole_only(name)
    files = [
        file
        for field in (request.image, request.images)
        for file in (field if isinstance(field, list) else [field])
        if file not in (None, "")
    ]
    if not 1 <= len(files) <= MOST:
        raise APIError(
            400,
            f"image: {len(files)} are given; give a picture, or up to {MOST} as image[]",
            "invalid_value",
            "image",
        )
    return [await given(file, "image", f"image[{k}]", state) for k, file in enumerate(files)]


async def given(value: Any, medium: Medium | None, name: str, state: State) -> tuple[Medium, Any]:
    """What came with a form or in JSON, as an input. Raises Problem and MediaError."""
    data, part = await contents(value, name)
    if part is not None:
        return await state.service.decode_in_pool(inputs.load, part, name, state.settings, medium)
    return await state.service.decode_in_pool(inputs.item, data, medium, name, state.settings)


def whole_only(name: str) -> APIError:
    """What a mask, which a field holds, is answered with."""
    return APIError(
        400,
        f"{name}: this model draws every picture whole; leave it out and say in the prompt what to change",
        "invalid_value",
        name,
    )


def about(form: PictureForm) -> dict[str, Any]:
    """What is said of a picture, beside the picture."""
    width, height = size_of(form.size, "size")
    scaled = {} if (width, height) == (IMAGE_SIZE, IMAGE_SIZE) else {"drawn_size": SIZE}
    return {
        "background": "opaque",
        "output_format": form.output_format or "png",
        "size": f"{width}x{height}",
        **scaled,
    }


async def encoded(image: Any, form: PictureForm, state: State, whole: bool = True) -> str:
    """A picture's file in base64. Raises MediaError where nothing is in one that is `whole`."""

    def made() -> bytes:
        if whole:
            media.check_answer(image, "image")
        quality = 95 if form.output_compression is None else form.output_compression
        return media.picture_bytes(
            fitted(image, size_of(form.size, "size")), SUFFIX[form.output_format or "png"], quality
        )

    return base64_of(await state.service.run_in_pool(made))


def _usage(context: Context, items: list[FinalItem]) -> dict[str, Any]:
    """In the fields of the images API."""
    usage = usage_of(context, items)
    given = usage["prompt_tokens_details"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "input_tokens_details": {
            "text_tokens": given["text_tokens"],
            "image_tokens": given["image_tokens"],
        },
    }
