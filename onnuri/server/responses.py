"""`/v1/responses`: a conversation in OpenAI's newer form, over the turns and events of `chat.py`.

A request becomes one of chat's. What comes back is told as items (a message of words, a call of the
tool that draws or of a client's function), in a stream by numbered events; the whole is the last
event of the same stream. Functions are called where one is named or `required`, as in chat. Nothing
is stored: what was said before is sent again in `input`. `instructions` are taken and given back,
but the model, which has learned no system messages, reads none.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any

from pydantic import ValidationError

from onnuri.inference.constraints import ANY_OBJECT, Grammar
from onnuri.modality import Medium
from onnuri.model.answer import Context
from onnuri.server import chat, images, unheeded
from onnuri.server.complaints import rule_of
from onnuri.server.errors import APIError
from onnuri.server.events import FinalItem, PartialImage, Stream, TextDelta
from onnuri.server.pool import kind
from onnuri.server.schemas import (
    MEDIUM,
    ChatRequest,
    Function,
    FunctionChoice,
    FunctionTool,
    ImageTool,
    Message,
    ResponseRequest,
    Tool,
    Wanted,
)
from onnuri.server.sizes import size_of
from onnuri.server.state import Caller, State
from onnuri.server.tools import Calling, structure_of

KEPT = {
    "previous_response_id": "send what was said before in input",
    "conversation": "send what was said before in input",
    "prompt": "write it in input",
    "background": "wait for the answer, or stream it",
}
"""fields that speak of what is stored, and what to do without them"""
SAME = ("input_audio", "audio_url", "video_url", "mesh_url")
"""parts that are chat's as they are; all but the first beyond OpenAI's"""
DATA = {"input_image": ("image_url",), "input_file": ("file_data", "file_url")}
"""parts with a file, and the fields that may hold it"""


class Answer:
    """One response, from the request to its last event."""

    def __init__(self, request: ResponseRequest, state: State, caller: Caller) -> None:
        self.request, self.state, self.caller = request, state, caller
        self.tool = _draws(request) or ImageTool(type="image_generation")
        self.id, self.created, self.told = _new("resp"), int(time.time()), 0
        self.items: dict[Medium, _Writing | _Drawing | _Calling] = {}

    async def whole(self) -> dict[str, Any]:
        """The response when all of it is there."""
        async with contextlib.aclosing(self._events()) as made:
            told = [event async for event in made]
        response: dict[str, Any] = told[-1]["response"]
        return response

    async def events(self) -> Stream[dict[str, Any]]:
        """All that a stream tells; the first once inputs are read, so that what is wrong with them
        still has a status."""
        async with contextlib.aclosing(self._events()) as made:
            async for event in made:
                yield self._numbered(event)

    def failed(self, problem: APIError) -> dict[str, Any]:
        """The last event where something went wrong on the way."""
        code = (
            "rate_limit_exceeded"
            if problem.status == 429
            else "server_error"
            if problem.status >= 500
            else "invalid_prompt"
        )
        return self._numbered(
            self._event("failed", error={"code": code, "message": problem.message})
        )

    async def _begin(self) -> tuple[ChatRequest, chat.Turn, Context]:
        """The request in chat's form, what is asked, and what was read; the items begin. Raises
        Problem and MediaError."""
        if self.tool.model not in (None, self.state.settings.name):
            raise APIError(
                400,
                f"{_named(self.request)}.model {self.tool.model!r:.80}: the model that answers draws too; "
                "leave it out",
                "invalid_value",
                "tools",
            )
        asked = asked_of(self.request, self.tool)
        for k, medium in enumerate(MEDIUM[w] for w in asked.modalities or []):
            writes = _Calling if asked.tool_choice else _Writing
            self.items[medium] = (
                writes(k) if medium == "text" else _Drawing(k, self.tool, self.state)
            )
            kind.set(medium)
        turn = await chat.turn_of(asked, self.state, "input")
        turn.grammar = await self._structure(asked)
        return asked, turn, await chat.context_of(asked, turn, self.state)

    async def _events(self) -> Stream[dict[str, Any]]:
        asked, turn, context = await self._begin()
        for name in ("created", "in_progress"):
            yield self._event(name, "in_progress")
        for item in self.items.values():
            for event in item.begin():
                yield event
        first, made = self.state.metrics.first(self.caller.began), list[FinalItem]()
        async with contextlib.aclosing(chat.events(asked, turn, context, self.state)) as answer:
            async for medium, event in answer:
                first.see(medium)
                for told in await self.items[medium].tell(event):
                    yield told
                made += [event] if isinstance(event, FinalItem) else []
        usage = _usage(context, made)
        await self.state.spend(self.caller, usage["total_tokens"])
        told_of = await chat.unknown(context, turn.asker, self.state)
        if any(item.finish == "length" for item in made):
            yield self._event(
                "incomplete",
                usage=usage,
                incomplete_details={"reason": "max_output_tokens"},
                **told_of,
            )
        else:
            yield self._event("completed", usage=usage, completed_at=int(time.time()), **told_of)

    async def _structure(self, asked: ChatRequest) -> Grammar | None:
        """What the words must be; None for a sentence."""
        if asked.tool_choice and (call := structure_of(asked)):
            return await self.state.service.run_in_pool(lambda: call(self.state.service.grammars))
        form = self.request.text.format if self.request.text else None
        if not form or form.type == "text":
            return None
        schema = ANY_OBJECT if form.type == "json_object" else form.schema_
        if schema is None:
            raise APIError(
                400,
                "text.format 'json_schema': says no schema; give schema too",
                "invalid_value",
                "text.format",
            )
        return await self.state.service.run_in_pool(
            lambda: self.state.service.grammars.json(schema, "text.format.schema")
        )

    def _numbered(self, event: dict[str, Any]) -> dict[str, Any]:
        self.told += 1
        return {**event, "sequence_number": self.told - 1}

    def _event(self, name: str, status: str = "", **more: Any) -> dict[str, Any]:
        """An event that has the response as it is, with only those items that are whole."""
        return {
            "type": f"response.{name}",
            "response": {
                "id": self.id,
                "object": "response",
                "created_at": self.created,
                "status": status or name,
                "completed_at": None,
                "model": self.state.settings.name,
                "output": [item.item for item in self.items.values() if item.whole],
                "error": None,
                "incomplete_details": None,
                "usage": None,
                **_given_back(self.request),
                **more,
            },
        }


class _Writing:
    """The message of words, as it is told."""

    def __init__(self, place: int) -> None:
        self.place, self.id, self.whole, self.status = place, _new("msg"), False, "in_progress"
        self.part: dict[str, Any] = {
            "type": "output_text",
            "text": "",
            "annotations": [],
            "logprobs": [],
        }

    @property
    def item(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "status": self.status,
            "content": [self.part] if self.whole else [],
        }

    def begin(self) -> list[dict[str, Any]]:
        """Its first events."""
        return [_of_item("added", self), self._event("content_part.added", part=self.part)]

    async def tell(self, event: TextDelta | FinalItem) -> list[dict[str, Any]]:
        """What an event adds."""
        if isinstance(event, TextDelta):
            return [self._event("output_text.delta", delta=event.text, logprobs=[])]
        self.part = {**self.part, "text": event.item}
        self.whole, self.status = True, "incomplete" if event.finish == "length" else "completed"
        return [
            self._event("output_text.done", text=event.item, logprobs=[]),
            self._event("content_part.done", part=self.part),
            _of_item("done", self),
        ]

    def _event(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "type": f"response.{name}",
            "item_id": self.id,
            "output_index": self.place,
            "content_index": 0,
            **more,
        }


class _Drawing:
    """The call of the tool that draws, as it is told."""

    def __init__(self, place: int, tool: ImageTool, state: State) -> None:
        self.place, self.id, self.whole, self.status = place, _new("ig"), False, "in_progress"
        self.tool, self.state = tool, state
        self.result: str | None = None

    @property
    def item(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "image_generation_call",
            "status": self.status,
            "result": self.result,
            **images.about(self.tool),
        }

    def begin(self) -> list[dict[str, Any]]:
        """Its first events."""
        return [_of_item("added", self), self._event("in_progress"), self._event("generating")]

    async def tell(self, event: PartialImage | FinalItem) -> list[dict[str, Any]]:
        """What an event adds."""
        if isinstance(event, PartialImage):
            return [
                self._event(
                    "partial_image",
                    partial_image_index=event.index,
                    **images.about(self.tool),
                    partial_image_b64=await images.encoded(
                        event.image, self.tool, self.state, whole=False
                    ),
                )
            ]
        self.result = await images.encoded(event.item, self.tool, self.state)
        self.whole, self.status = True, "completed"
        return [self._event("completed"), _of_item("done", self)]

    def _event(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "type": f"response.image_generation_call.{name}",
            "item_id": self.id,
            "output_index": self.place,
            **more,
        }


class _Calling:
    """The call of a client's function, as it is told: its name once that is whole, then its
    arguments piece by piece."""

    def __init__(self, place: int) -> None:
        self.place, self.id, self.whole, self.status = place, _new("fc"), False, "in_progress"
        self.calling = Calling()

    @property
    def item(self) -> dict[str, Any]:
        call = self.calling.whole["function"]
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.calling.id,
            "name": call["name"],
            "arguments": call["arguments"] if self.whole else "",
        }

    def begin(self) -> list[dict[str, Any]]:
        """Nothing: which function is called is not known yet."""
        return []

    async def tell(self, event: TextDelta | FinalItem) -> list[dict[str, Any]]:
        """What an event adds."""
        if isinstance(event, TextDelta):
            return [
                _of_item("added", self)
                if "id" in part
                else self._event("delta", delta=part["function"]["arguments"])
                for part in self.calling.send(event.text)
            ]
        if not self.calling.name:  # cut within the name
            return []
        self.whole, self.status = True, "incomplete" if event.finish == "length" else "completed"
        done = self._event("done", name=self.calling.name, arguments=self.calling.arguments)
        return [done, _of_item("done", self)]

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        return {
            "type": f"response.function_call_arguments.{kind}",
            "item_id": self.id,
            "output_index": self.place,
            **more,
        }


def _draws(request: ResponseRequest) -> ImageTool | None:
    """The tool that draws, if it is given."""
    return next((tool for tool in request.tools or [] if isinstance(tool, ImageTool)), None)


def _named(request: ResponseRequest) -> str:
    """Where among the tools the one that draws is."""
    return next(
        (
            f"tools[{k}]"
            for k, tool in enumerate(request.tools or [])
            if isinstance(tool, ImageTool)
        ),
        "tools",
    )


def _given_back(request: ResponseRequest) -> dict[str, Any]:
    """What a response repeats of its request: only fields that have been checked."""
    form, choice = request.text and request.text.format, request.tool_choice or "auto"
    fields = {"type", "name", "schema_"} if form and form.type == "json_schema" else {"type"}
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "truncation": "disabled",
        "text": {
            "format": form.model_dump(include=fields, by_alias=True) if form else {"type": "text"}
        },
        "tool_choice": choice
        if isinstance(choice, str)
        else choice.model_dump(include=set(type(choice).model_fields)),
        "tools": [_tool_back(tool) for tool in request.tools or []],
    }


def _tool_back(tool: ImageTool | FunctionTool) -> dict[str, Any]:
    given = tool.model_dump(include=set(type(tool).model_fields), exclude_unset=True)
    return given if isinstance(tool, ImageTool) else {"parameters": None, "strict": None, **given}


def _of_item(name: str, item: _Writing | _Drawing | _Calling) -> dict[str, Any]:
    return {"type": f"response.output_item.{name}", "output_index": item.place, "item": item.item}


def asked_of(request: ResponseRequest, tool: ImageTool) -> ChatRequest:
    """The same as a request of chat's. Raises Problem."""
    for name, repair in KEPT.items():
        if getattr(request, name):
            raise APIError(400, f"{name}: nothing is stored here; {repair}", "invalid_value", name)
    place = _named(request)
    size_of(tool.size, f"{place}.size")
    unheeded.refuse(request.model_extra, unheeded.RESPONSE)
    if tool.input_image_mask is not None:
        raise images.whole_only(f"{place}.input_image_mask")
    given = (
        [{"role": "user", "content": request.input}]
        if isinstance(request.input, str)
        else request.input
    )
    return ChatRequest(
        messages=[_message(item, f"input[{k}]") for k, item in enumerate(given)],
        modalities=_wanted(request),
        **_calls(request),
        stream=request.stream,
        max_completion_tokens=request.max_output_tokens,
        partial_images=tool.partial_images,
        seed=request.seed,
        temperature=request.temperature,
        top_p=request.top_p,
        guidance=request.guidance,
        language=request.language,
    )


def _wanted(request: ResponseRequest) -> list[Wanted]:
    """A small model does not know when a picture would help: with `auto` it answers by both; nor
    when a function would. Raises Problem."""
    choice, draws = request.tool_choice or "auto", _draws(request)
    if choice == "none":
        return ["text"]
    if choice == "auto":
        return ["text", "image"] if draws else ["text"]
    if not request.tools:
        raise APIError(
            400,
            "tool_choice: there are no tools to choose from; give tools",
            "invalid_value",
            "tool_choice",
        )
    if isinstance(choice, FunctionChoice) or (choice == "required" and not draws):
        return ["text"]
    if not draws:
        raise APIError(
            400,
            "tool_choice 'image_generation': is none of the tools; give it too",
            "invalid_value",
            "tool_choice",
        )
    if choice == "required" and len(request.tools) > 1:
        raise APIError(
            400,
            "tool_choice 'required': the model does not know whether to draw or to call a function; name one tool",
            "invalid_value",
            "tool_choice",
        )
    return ["image"]


def _calls(request: ResponseRequest) -> dict[str, Any]:
    """Which functions are to be called, in chat's fields; empty where none is."""
    functions = [tool for tool in request.tools or [] if isinstance(tool, FunctionTool)]
    named = request.tool_choice.name if isinstance(request.tool_choice, FunctionChoice) else None
    if named is None and not (request.tool_choice == "required" and functions):
        return {}
    tools = [
        Tool(type="function", function=Function(name=f.name, parameters=f.parameters))
        for f in functions
    ]
    if named is not None and named not in [f.name for f in functions]:
        raise APIError(
            400,
            f"tool_choice {named!r:.80}: is none of the functions; use one of "
            f"{', '.join(f.name for f in functions) or 'those that are given in tools'}",
            "invalid_value",
            "tool_choice",
        )
    return {
        "tools": tools,
        "tool_choice": "required"
        if named is None
        else next(t for t in tools if t.function.name == named),
    }


def _message(item: dict[str, Any], name: str) -> Message:
    """An item of `input` in chat's form. Raises Problem."""
    what = _type(item) or "message"
    if what == "image_generation_call":
        shown = (
            [{"type": "image_url", "image_url": {"url": item["result"]}}]
            if item.get("result")
            else None
        )
        return Message(role="assistant", images=shown)
    if what in (
        "function_call",
        "function_call_output",
    ):  # what was called and came of it says nothing to the model
        return Message(role="assistant" if what == "function_call" else "tool")
    if what != "message":
        raise APIError(
            400,
            f"{name}: {what!r:.80} is not a kind of item that is read; use message, image_generation_call, "
            "function_call or function_call_output",
            "invalid_value",
            "input",
        )
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part, f"{name}.content[{k}]") for k, part in enumerate(content)]
    try:
        return Message.model_validate({"role": item.get("role"), "content": content})
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        rule, repair = rule_of([each for each in error.errors() if each["loc"][0] == field])
        raise APIError(
            400, f"{name}.{field}: {rule}; {repair or 'give another'}", "invalid_value", "input"
        ) from None


def _part(part: Any, name: str) -> dict[str, Any]:
    """A message's part in chat's form. Raises Problem."""
    what = _type(part)
    if what in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if what in SAME:
        return dict(part)
    if what not in DATA:
        raise APIError(
            400,
            f"{name}: {what!r:.80} is not a kind of part; use input_text, output_text, {', '.join((*DATA, *SAME))}",
            "invalid_value",
            "input",
        )
    data = next((part[field] for field in DATA[what] if part.get(field)), None)
    if data is None:
        raise APIError(
            400,
            f"{name}: has no {' or '.join(DATA[what])}, and there is no store of files; give the data",
            "invalid_value",
            "input",
        )
    return (
        {"type": "image_url", "image_url": data}
        if what == "input_image"
        else {"type": "file", "file": {"file_data": data}}
    )


def _type(thing: Any) -> str:
    """What an item or a part says that it is."""
    said = thing.get("type") if isinstance(thing, dict) else None
    return said if isinstance(said, str) else ""


def _usage(context: Context, items: list[FinalItem]) -> dict[str, Any]:
    """In the fields of this API."""
    usage = chat.usage_of(context, items)
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "input_tokens_details": {"cache_write_tokens": 0, **usage["prompt_tokens_details"]},
        "output_tokens_details": usage["completion_tokens_details"],
    }


def _new(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(24)}"
