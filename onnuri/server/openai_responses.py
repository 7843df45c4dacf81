"""`/v1/responses`: a conversation in OpenAI's newer form, over the turns and events of
`conversation.py`.

A request becomes one of chat's. What comes back is told as items (a message of words, a call of the
tool that draws or of a client's function), in a stream by numbered events; the whole is the last
event of the same stream. Functions are called where one is named or `required`, as in chat. Nothing
is stored: what was said before is sent again in `input`. `instructions` are taken and given back,
but the model, which has learned no system messages, reads none.
"""

from __future__ import annotations

import secrets
import time
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError

from onnuri.inference.constraints import ANY_OBJECT, Grammar
from onnuri.modality import Modality
from onnuri.model.answer import Context
from onnuri.server import images, unheeded
from onnuri.server.complaints import rule_of
from onnuri.server.conversation import Turn, answer_events, context_of, notices_of_unknown, turn_of
from onnuri.server.errors import JSON, APIError, invalid
from onnuri.server.events import FinalItem, PartialImage, Stream, TextDelta
from onnuri.server.pool import kind
from onnuri.server.schemas import (
    MODALITY,
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
from onnuri.server.tools import ToolCall, grammar_of

STORED_FIELDS = {
    "previous_response_id": "send what was said before in input",
    "conversation": "send what was said before in input",
    "prompt": "write it in input",
    "background": "wait for the answer, or stream it",
}
"""fields that refer to stored things, and what to do without them"""
SAME_AS_CHAT = ("input_audio", "audio_url", "video_url", "mesh_url")
"""types of parts that chat has too; all but the first go beyond OpenAI's"""
FILE_FIELDS = {"input_image": ("image_url",), "input_file": ("file_data", "file_url")}
"""types of parts with a file, and the fields that may hold it"""


class ResponseAnswer:
    """The answer to one request, whole or in events."""

    def __init__(self, request: ResponseRequest, state: State, caller: Caller) -> None:
        """Take a request, the state of its model, and its caller."""
        self.request, self.state, self.caller = request, state, caller
        self.tool = _drawing_tool(request) or ImageTool(type="image_generation")
        self.id, self.created, self.event_count = _new_id("resp"), int(time.time()), 0
        self.items: dict[Modality, OutputItem] = {}

    async def whole(self) -> JSON:
        """Return the response when all of it is there. Raises APIError and MediaError."""
        async with aclosing(self._events()) as events:
            last = [event async for event in events][-1]
        response: JSON = last["response"]
        return response

    async def events(self) -> Stream[JSON | None]:
        """Yield the events of a stream; the first once inputs are read, so that an error in them
        still has a status."""
        async with aclosing(self._events()) as events:
            async for event in events:
                yield self._numbered(event)

    def failed(self, error: APIError) -> JSON:
        """Return the last event of a stream in which an error occurred."""
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        if error.status == 429:
            code = "rate_limit_exceeded"
        return self._numbered(self._event("failed", error={"code": code, "message": error.message}))

    async def _prepare(self) -> tuple[ChatRequest, Turn, Context]:
        """Check the request and read its inputs; return it in chat's form, with the question and
        the model's context. Sets up the output items. Raises APIError and MediaError."""
        if self.tool.model not in (None, self.state.name):
            raise invalid(
                f"{_place_of_tool(self.request)}.model {self.tool.model!r:.80}",
                "the model that answers draws too; leave it out",
                field="tools",
            )
        chat = chat_request_of(self.request, self.tool)
        wanted = [MODALITY[name] for name in chat.wanted]
        kind.set(wanted[-1])
        turn = await turn_of(chat, self.state, "input")
        self.state = await self.state.ask(wanted, turn.inputs)
        for k, modality in enumerate(wanted):
            if modality == "image":
                self.items["image"] = DrawingItem(k, self.tool, self.state)
            else:
                self.items["text"] = CallItem(k) if chat.tool_choice else MessageItem(k)
        turn.grammar = await self._grammar(chat)
        return chat, turn, await context_of(chat, turn, self.state)

    async def _events(self) -> Stream[JSON]:
        """Yield all events of the response without their numbers; the last one has the whole
        response."""
        chat, turn, context = await self._prepare()
        for name in ("created", "in_progress"):
            yield self._event(name, "in_progress")
        for item in self.items.values():
            for event in item.first_events():
                yield event
        first, finals = self.state.metrics.first(self.caller.began), list[FinalItem]()
        async with aclosing(answer_events(chat, turn, context, self.state)) as answer:
            async for modality, part in answer:
                first.see(modality)
                for event in await self.items[modality].events_of(part):
                    yield event
                if isinstance(part, FinalItem):
                    finals.append(part)
        usage = await self.state.account(self.caller, context, finals)
        more = await notices_of_unknown(context, turn.asker, self.state)
        if any(item.finish == "length" for item in finals):
            name, more["incomplete_details"] = "incomplete", {"reason": "max_output_tokens"}
        else:
            name, more["completed_at"] = "completed", int(time.time())
        yield self._event(name, usage=usage.responses(), **more)

    async def _grammar(self, chat: ChatRequest) -> Grammar | None:
        """Return the grammar that the text must follow, None for a sentence. Raises APIError."""
        service = self.state.service
        if chat.tool_choice and (compile_grammar := grammar_of(chat)):
            return await service.run_in_pool(lambda: compile_grammar(service.grammars))
        form = self.request.text.format if self.request.text else None
        if not form or form.type == "text":
            return None
        schema = ANY_OBJECT if form.type == "json_object" else form.schema_
        if schema is None:
            raise invalid(
                "text.format 'json_schema'", "says no schema; give schema too", field="text.format"
            )
        return await service.run_in_pool(
            lambda: service.grammars.json(schema, "text.format.schema")
        )

    def _numbered(self, event: JSON) -> JSON:
        """Return an event with its number in the stream."""
        self.event_count += 1
        return {**event, "sequence_number": self.event_count - 1}

    def _event(self, name: str, status: str = "", **more: Any) -> JSON:
        """Return an event with the response as it is now; of its items, only those that are
        whole."""
        return {
            "type": f"response.{name}",
            "response": {
                "id": self.id,
                "object": "response",
                "created_at": self.created,
                "status": status or name,
                "completed_at": None,
                "model": self.state.name,
                "output": [item.item for item in self.items.values() if item.whole],
                "error": None,
                "incomplete_details": None,
                "usage": None,
                **_repeated_fields(self.request),
                **more,
            },
        }


class OutputItem:
    """One item of a response, and the events that tell of it."""

    prefix = ""
    """of its id"""
    type = ""
    event_type = ""
    """what its own events' types begin with"""

    def __init__(self, place: int) -> None:
        self.place, self.id = place, _new_id(self.prefix)
        self.whole, self.status = False, "in_progress"

    @property
    def item(self) -> JSON:
        """Return the item as it is now, in the fields of the API."""
        fields = {"id": self.id, "type": self.type, "status": self.status}
        return {**fields, **self._fields()}

    def _fields(self) -> JSON:
        """Return the fields that only this type of item has."""
        raise NotImplementedError

    def first_events(self) -> list[JSON]:
        """Return the events that begin the item."""
        return [self._item_event("added")]

    async def events_of(self, event: Any) -> list[JSON]:
        """Return the events that tell what an event of the answer adds."""
        raise NotImplementedError

    def _end(self, final: FinalItem, may_be_cut: bool = True) -> None:
        """Set the item's status at its end; it is incomplete where it `may_be_cut` and was."""
        self.whole, cut = True, may_be_cut and final.finish == "length"
        self.status = "incomplete" if cut else "completed"

    def _event(self, event: str, **more: Any) -> JSON:
        """Return an event of this type of item."""
        place = {"item_id": self.id, "output_index": self.place}
        return {"type": f"response.{self.event_type}{event}", **place, **more}

    def _item_event(self, name: str) -> JSON:
        """Return an event that has the whole item."""
        return {
            "type": f"response.output_item.{name}",
            "output_index": self.place,
            "item": self.item,
        }


class MessageItem(OutputItem):
    """The item of a message with text."""

    prefix, type = "msg", "message"
    text = ""

    @property
    def part(self) -> JSON:
        """Return the message's only part."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def _fields(self) -> JSON:
        """Return the message's role and its parts."""
        return {"role": "assistant", "content": [self.part] if self.whole else []}

    def first_events(self) -> list[JSON]:
        """Return the events that begin the item."""
        return [*super().first_events(), self._part_event("content_part.added", part=self.part)]

    async def events_of(self, event: TextDelta | FinalItem) -> list[JSON]:
        """Return the events that tell more of the text, or its end."""
        if isinstance(event, TextDelta):
            return [self._part_event("output_text.delta", delta=event.text, logprobs=[])]
        self.text = event.item
        self._end(event)
        return [
            self._part_event("output_text.done", text=event.item, logprobs=[]),
            self._part_event("content_part.done", part=self.part),
            self._item_event("done"),
        ]

    def _part_event(self, name: str, **more: Any) -> JSON:
        """Return an event of the message's part."""
        return self._event(name, content_index=0, **more)


class DrawingItem(OutputItem):
    """The item of a picture: a call of the tool that draws."""

    prefix, type, event_type = "ig", "image_generation_call", "image_generation_call."
    result: str | None = None

    def __init__(self, place: int, tool: ImageTool, state: State) -> None:
        super().__init__(place)
        self.tool, self.state = tool, state

    def _fields(self) -> JSON:
        """Return the picture in base64, once it is there, and its format."""
        return {"result": self.result, **images.picture_fields(self.tool, self.state)}

    def first_events(self) -> list[JSON]:
        """Return the events that begin the item."""
        return [*super().first_events(), self._event("in_progress"), self._event("generating")]

    async def events_of(self, event: PartialImage | FinalItem) -> list[JSON]:
        """Return the events that tell a partial picture, or the whole."""
        if isinstance(event, PartialImage):
            data = await images.encode_picture(event.image, self.tool, self.state, whole=False)
            fields = {"partial_image_index": event.index, "partial_image_b64": data}
            return [
                self._event(
                    "partial_image", **fields, **images.picture_fields(self.tool, self.state)
                )
            ]
        self.result = await images.encode_picture(event.item, self.tool, self.state)
        self._end(event, may_be_cut=False)
        return [self._event("completed"), self._item_event("done")]


class CallItem(OutputItem):
    """The item of a call of a client's function: its name once that is whole, then its arguments
    piece by piece."""

    prefix, type, event_type = "fc", "function_call", "function_call_arguments."

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.call = ToolCall()

    def _fields(self) -> JSON:
        """Return the function's name and, at the end, its arguments."""
        arguments = self.call.arguments if self.whole else ""
        return {"call_id": self.call.id, "name": self.call.name, "arguments": arguments}

    def first_events(self) -> list[JSON]:
        """Return no events: which function is called is not known yet."""
        return []

    async def events_of(self, event: TextDelta | FinalItem) -> list[JSON]:
        """Return the events that tell the name, more of the arguments, or the end."""
        if isinstance(event, TextDelta):
            return [
                self._item_event("added")
                if "id" in part
                else self._event("delta", delta=part["function"]["arguments"])
                for part in self.call.send(event.text)
            ]
        if not self.call.name:  # cut within the name
            return []
        self._end(event)
        end = self._event("done", name=self.call.name, arguments=self.call.arguments)
        return [end, self._item_event("done")]


def _drawing_tool(request: ResponseRequest) -> ImageTool | None:
    """Return the tool that draws, None where the request has none."""
    return next((tool for tool in request.tools or [] if isinstance(tool, ImageTool)), None)


def _place_of_tool(request: ResponseRequest) -> str:
    """Return the path of the tool that draws in the request, for errors."""
    return next(
        (
            f"tools[{k}]"
            for k, tool in enumerate(request.tools or [])
            if isinstance(tool, ImageTool)
        ),
        "tools",
    )


def _repeated_fields(request: ResponseRequest) -> JSON:
    """Return the fields that a response repeats of its request: only those that have been
    checked."""
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
        "tools": [_repeated_tool(tool) for tool in request.tools or []],
    }


def _repeated_tool(tool: ImageTool | FunctionTool) -> JSON:
    """Return a tool as a response repeats it."""
    fields = tool.model_dump(include=set(type(tool).model_fields), exclude_unset=True)
    return fields if isinstance(tool, ImageTool) else {"parameters": None, "strict": None, **fields}


def chat_request_of(request: ResponseRequest, tool: ImageTool) -> ChatRequest:
    """Return the request as one of chat's. Raises APIError for what is not done here."""
    for name, repair in STORED_FIELDS.items():
        if getattr(request, name):
            raise invalid(name, f"nothing is stored here; {repair}")
    place = _place_of_tool(request)
    size_of(tool.size, f"{place}.size")
    unheeded.refuse(request.model_extra, unheeded.RESPONSE)
    if tool.input_image_mask is not None:
        raise images.whole_only(f"{place}.input_image_mask")
    items = request.input
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    return ChatRequest(
        messages=[_message(item, f"input[{k}]") for k, item in enumerate(items)],
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
    """Return the modalities of the answer by the tools and the choice among them. With `auto` and a
    tool that draws, the answer has both text and a picture, since a small model does not know when
    a picture would help; functions are not called. Raises APIError."""
    choice, draws = request.tool_choice or "auto", _drawing_tool(request)
    if choice == "none":
        return ["text"]
    if choice == "auto":
        return ["text", "image"] if draws else ["text"]
    if not request.tools:
        raise invalid("tool_choice", "there are no tools to choose from; give tools")
    if isinstance(choice, FunctionChoice) or (choice == "required" and not draws):
        return ["text"]
    if not draws:
        raise invalid(
            "tool_choice 'image_generation'",
            "is none of the tools; give it too",
            field="tool_choice",
        )
    if choice == "required" and len(request.tools) > 1:
        raise invalid(
            "tool_choice 'required'",
            "the model does not know whether to draw or to call a function; name one tool",
            field="tool_choice",
        )
    return ["image"]


def _calls(request: ResponseRequest) -> JSON:
    """Return the functions that are to be called, in chat's fields; empty where none is. Raises
    APIError."""
    choice = request.tool_choice
    tools = [
        Tool(type="function", function=Function(name=tool.name, parameters=tool.parameters))
        for tool in request.tools or []
        if isinstance(tool, FunctionTool)
    ]
    if choice == "required" and tools:
        return {"tools": tools, "tool_choice": choice}
    if not isinstance(choice, FunctionChoice):
        return {}
    names = [tool.function.name for tool in tools]
    if choice.name not in names:
        known = ", ".join(names) or "those that are given in tools"
        raise invalid(
            f"tool_choice {choice.name!r:.80}",
            f"is none of the functions; use one of {known}",
            field="tool_choice",
        )
    return {"tools": tools, "tool_choice": tools[names.index(choice.name)]}


def _message(item: JSON, name: str) -> Message:
    """Return an item of `input` as a message of chat's. Raises APIError, which calls it `name`."""
    kind = _type(item) or "message"
    if kind == "image_generation_call":
        picture = {"type": "image_url", "image_url": {"url": item.get("result")}}
        return Message(role="assistant", images=[picture] if item.get("result") else None)
    # what was called and what came of it says nothing to the model
    if kind == "function_call":
        return Message(role="assistant")
    if kind == "function_call_output":
        return Message(role="tool")
    if kind != "message":
        raise invalid(
            name,
            f"{kind!r:.80} is not a kind of item that is read; use message, "
            "image_generation_call, function_call or function_call_output",
            field="input",
        )
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part, f"{name}.content[{k}]") for k, part in enumerate(content)]
    try:
        return Message.model_validate({"role": item.get("role"), "content": content})
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        rule, repair = rule_of([each for each in error.errors() if each["loc"][0] == field])
        raise invalid(
            f"{name}.{field}", f"{rule}; {repair or 'give another'}", field="input"
        ) from None


def _part(part: Any, name: str) -> JSON:
    """Return a part of a message in chat's form. Raises APIError, which calls it `name`."""
    kind = _type(part)
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind in SAME_AS_CHAT:
        return dict(part)
    if kind not in FILE_FIELDS:
        kinds = ", ".join(("input_text", "output_text", *FILE_FIELDS, *SAME_AS_CHAT))
        raise invalid(name, f"{kind!r:.80} is not a kind of part; use {kinds}", field="input")
    data = next((part[field] for field in FILE_FIELDS[kind] if part.get(field)), None)
    if data is None:
        fields = " or ".join(FILE_FIELDS[kind])
        raise invalid(
            name, f"has no {fields}, and there is no store of files; give the data", field="input"
        )
    if kind == "input_image":
        return {"type": "image_url", "image_url": data}
    return {"type": "file", "file": {"file_data": data}}


def _type(thing: Any) -> str:
    """Return the type that an item or a part names, "" where it names none."""
    type_name = thing.get("type") if isinstance(thing, dict) else None
    return type_name if isinstance(type_name, str) else ""


def _new_id(kind: str) -> str:
    """Return a new random id that begins with a kind."""
    return f"{kind}_{secrets.token_hex(24)}"
