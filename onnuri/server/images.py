"""The routes `/v1/images/generations` and `/v1/images/edits`: a sentence, with pictures before it
or without, to pictures, whole, or partial while their tokens arrive."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from onnuri.media import writing
from onnuri.media.image import picture_bytes
from onnuri.modality import Modality
from onnuri.model.answer import Context
from onnuri.model.asking import language_asked
from onnuri.server import inputs, unheeded
from onnuri.server.bodies import upload_or_part
from onnuri.server.conversation import notices_of_unknown
from onnuri.server.errors import JSON, APIError, invalid
from onnuri.server.events import FinalItem, OutputSpec, PartialImage, Stream
from onnuri.server.pool import kind
from onnuri.server.schemas import EditRequest, ImageRequest, PictureForm
from onnuri.server.sizes import fit_into, size_of
from onnuri.server.state import Caller, State
from onnuri.server.streaming import base64_of

MOST = 16
"""pictures that an edit may begin from"""
SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


async def generate(request: ImageRequest, state: State, caller: Caller) -> JSON:
    """Return all pictures that a request asks for, in the answer's fields."""
    state, context, specs = await _begin(request, state)
    items = await asyncio.gather(*(state.service.item(context, spec) for spec in specs))
    data = [{"b64_json": await encode_picture(item.item, request, state)} for item in items]
    usage = await state.account(caller, context, items)
    return {
        "created": int(time.time()),
        "data": data,
        **picture_fields(request, state),
        "usage": usage.images(),
        **await notices_of_unknown(context, specs[0].language, state),
    }


async def stream(request: ImageRequest, state: State, caller: Caller) -> Stream[JSON | None]:
    """Yield the events of one picture, partial ones and then the whole; first an empty one once
    inputs are read, last None."""
    if (request.n or 1) != 1:
        raise invalid(f"n {request.n}", "a stream has one picture; give 1", field="n")
    state, context, [spec] = await _begin(request, state)
    name = "image_edit" if isinstance(request, EditRequest) else "image_generation"
    common = {"created_at": int(time.time()), "quality": "auto", **picture_fields(request, state)}
    yield {}
    first = state.metrics.first(caller.began)
    async with aclosing(state.service.answer(context, spec)) as events:
        async for event in events:
            first.see("image")
            if isinstance(event, PartialImage):
                yield {
                    "type": f"{name}.partial_image",
                    "partial_image_index": event.index,
                    **common,
                    "b64_json": await encode_picture(event.image, request, state, whole=False),
                }
            elif isinstance(event, FinalItem):
                usage = await state.account(caller, context, [event])
                yield {
                    "type": f"{name}.completed",
                    **common,
                    "usage": usage.images(),
                    "b64_json": await encode_picture(event.item, request, state),
                }
    yield None


async def _begin(request: ImageRequest, state: State) -> tuple[State, Context, list[OutputSpec]]:
    """Check a request and read its inputs; return the state of the model that draws, its context
    and one output per picture. Raises APIError and MediaError."""
    size_of(request.size, "size")
    unheeded.refuse(request.model_extra, unheeded.PICTURE)
    if request.response_format == "url":
        raise invalid(
            "response_format 'url'",
            "there is no store of pictures; give 'b64_json'",
            field="response_format",
        )
    kind.set("image")
    pictures = await _pictures(request, state) if isinstance(request, EditRequest) else []
    given = [*pictures, ("text", request.prompt)]
    state = await state.ask({"image"}, given)
    context = await state.service.read(given)
    language = request.language or language_asked(request.prompt)
    partial = (request.partial_images or 0) if request.stream else 0
    seed = request.seed_or_any()
    return (
        state,
        context,
        [
            request.output_spec("image", language, seed + k, partial=partial)
            for k in range(request.n or 1)
        ],
    )


async def _pictures(request: EditRequest, state: State) -> list[Any]:
    """Return the pictures of an edit request as inputs. Raises APIError and MediaError."""
    for name in ("mask", "markup"):
        if getattr(request, name) is not None:
            raise whole_only(name)
    files: list[Any] = []
    for field in (request.image, request.images):
        files += field if isinstance(field, list) else [field]
    files = [file for file in files if file not in (None, "")]
    if not 1 <= len(files) <= MOST:
        raise invalid(
            "image", f"{len(files)} are given; give a picture, or up to {MOST} as image[]"
        )
    return [await read_upload(file, "image", f"image[{k}]", state) for k, file in enumerate(files)]


async def read_upload(
    value: Any, modality: Modality | None, name: str, state: State
) -> tuple[Modality, Any]:
    """Return a file, from a form or from JSON, as an input; of the given modality, where there is
    one. Raises APIError and MediaError."""
    data, part = await upload_or_part(value, name)
    if part is not None:
        return await state.load(part, name, modality)
    return await state.service.decode_in_pool(inputs.item, data, modality, name, state.settings)


def whole_only(name: str) -> APIError:
    """Return the error of a request with a mask, which is in the field `name`."""
    return invalid(
        name,
        "this model draws every picture whole; leave it out and say in the prompt what to change",
    )


def picture_fields(form: PictureForm, state: State) -> JSON:
    """Return the fields that describe a picture in an answer: its format and its size."""
    width, height = size_of(form.size, "size")
    side = state.model.codecs["image"].side
    scaled = {} if (width, height) == (side, side) else {"drawn_size": f"{side}x{side}"}
    return {
        "background": "opaque",
        "output_format": form.output_format or "png",
        "size": f"{width}x{height}",
        **scaled,
    }


async def encode_picture(image: Any, form: PictureForm, state: State, whole: bool = True) -> str:
    """Return a picture as a file of the requested size and format, in base64. Raises MediaError
    where a `whole` picture is blank."""

    def encode() -> bytes:
        """Return the file's bytes; runs in the pool."""
        if whole:
            writing.check_answer(image, "image")
        quality = 95 if form.output_compression is None else form.output_compression
        return picture_bytes(
            fit_into(image, size_of(form.size, "size")),
            SUFFIX[form.output_format or "png"],
            quality,
        )

    return base64_of(await state.service.run_in_pool(encode))
