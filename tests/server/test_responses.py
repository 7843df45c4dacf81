"""`/v1/responses` by the unmodified `openai` client, streaming and not; its own classes validate
every event."""

import asyncio
import base64
import io
import json
import signal
import threading
import time
import types

import httpx
import jsonschema
import openai
import pydantic
import pytest
from contract import strict
from openai.types.responses import Response, ResponseFailedEvent, ResponseStreamEvent
from PIL import Image

from onnuri.server.errors import APIError
from onnuri.server.openai_responses import ResponseAnswer
from onnuri.server.schemas import ResponseRequest
from onnuri.server.streaming import sse
from onnuri.toyworld.grammar import parse

MODEL = "onnuri-laptop"
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"
DRAWS = [{"type": "image_generation"}]
CALLS = [
    {
        "type": "function",
        "name": "place",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "color": {"enum": ["red", "blue"]},
                "x": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["color", "x"],
            "additionalProperties": False,
        },
    },
    {
        "type": "function",
        "name": "clear",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {},
            "required": [],
            "additionalProperties": False,
        },
    },
]
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)


def ask(client, given, **more):
    return strict(
        client.responses.create(model=MODEL, input=given, **{"extra_body": {"seed": 1}, **more}),
        Response,
    )


def streamed(client, given, **more):
    """All events; each is of the kind that its type names, and they are numbered from 0."""
    events = list(
        client.responses.create(
            model=MODEL, input=given, stream=True, **{"extra_body": {"seed": 1}, **more}
        )
    )
    for k, event in enumerate(events):
        assert event.sequence_number == k
        assert (
            EVENT.validate_python(event.model_dump(exclude_unset=True), strict=True).type
            == event.type
        )
    return events


def url_of(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(scene, *more):
    return [
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": url_of(scene["image"])}, *more],
        }
    ]


def question(said):
    return {"type": "input_text", "text": said}


def pictures(response):
    return [item.result for item in response.output if item.type == "image_generation_call"]


def without_ids(response):
    """What two responses to the same request have in common."""
    body = response.model_dump(exclude={"id", "created_at", "completed_at"})
    return {**body, "output": [{**item, "id": None} for item in body["output"]]}


def test_a_sentence(client):
    made = ask(client, SENTENCE, instructions="Be brief.", metadata={"a": "b"}, store=True)
    said = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": SENTENCE}], seed=1
    )
    assert made.output_text == said.choices[0].message.content and made.status == "completed"
    assert [item.type for item in made.output] == ["message"] and made.output[
        0
    ].status == "completed"
    assert (made.instructions, made.metadata, made.store, made.tools) == (
        "Be brief.",
        {"a": "b"},
        False,
        [],
    )
    assert (made.usage.input_tokens, made.usage.output_tokens) == (
        said.usage.prompt_tokens,
        said.usage.completion_tokens,
    )
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens


def test_every_modality_goes_in(client, scene):
    sound = base64.b64encode(scene["audio"]).decode()
    for part in (
        {"type": "input_image", "image_url": url_of(scene["image"]), "detail": "auto"},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "input_file", "filename": "a.png", "file_data": url_of(scene["image"])},
        {"type": "input_file", "file_url": url_of(scene["shape"])},
        {"type": "video_url", "video_url": {"url": url_of(scene["video"], "video/mp4")}},
    ):
        made = ask(client, [{"type": "message", "role": "user", "content": [part]}])
        assert parse(made.output_text) is not None, made.output_text


def test_a_stream_is_the_whole_in_numbered_parts(client, scene):
    given = shown(scene, question("How many objects are there?"))
    ask(client, given)  # so that as much of it is kept for either
    events = streamed(client, given)
    assert [e.type.removeprefix("response.") for e in events if "delta" not in e.type] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert (
        "".join(e.delta for e in events if e.type == "response.output_text.delta")
        == events[-1].response.output_text
    )
    assert without_ids(events[-1].response) == without_ids(ask(client, given))
    assert events[-1].response.usage.input_tokens_details.image_tokens == 31


def test_the_clients_own_stream_puts_it_together(client):
    with client.responses.stream(
        model=MODEL, input=SENTENCE, tools=DRAWS, extra_body={"seed": 1}
    ) as stream:
        kinds = {event.type for event in stream}
        got = stream.get_final_response()
    assert {"response.output_text.delta", "response.image_generation_call.completed"} <= kinds
    assert (
        got.output_text
        and got.output_text == ask(client, SENTENCE).output_text
        and len(pictures(got)) == 1
    )


def test_a_picture_is_a_call_of_the_tool(client):
    made = ask(
        client,
        SENTENCE,
        tools=[{"type": "image_generation", "output_format": "webp", "size": "auto"}],
    )
    assert [item.type for item in made.output] == [
        "message",
        "image_generation_call",
    ] and made.output_text
    [picture] = pictures(made)
    assert (
        Image.open(io.BytesIO(base64.b64decode(picture))).format == "WEBP"
        and made.tools[0].output_format == "webp"
    )
    assert made.usage.output_tokens_details.image_tokens == 31
    drawn = (
        client.images.generate(model=MODEL, prompt=SENTENCE, extra_body={"seed": 1})
        .data[0]
        .b64_json
    )
    for choice in ("required", {"type": "image_generation"}):
        only = ask(client, SENTENCE, tools=DRAWS, tool_choice=choice)
        assert [item.type for item in only.output] == ["image_generation_call"] and pictures(
            only
        ) == [drawn]
    assert not pictures(ask(client, SENTENCE, tools=DRAWS, tool_choice="none"))


def test_pictures_stream_in_parts(client):
    tool = {"type": "image_generation", "partial_images": 2}
    events = streamed(client, SENTENCE, tools=[tool], tool_choice="required")
    assert [
        e.type.removeprefix("response.").removeprefix("image_generation_call.") for e in events
    ] == [
        "created",
        "in_progress",
        "output_item.added",
        "in_progress",
        "generating",
        "partial_image",
        "partial_image",
        "completed",
        "output_item.done",
        "completed",
    ]
    parts = [e for e in events if e.type.endswith("partial_image")]
    assert [p.partial_image_index for p in parts] == [0, 1]
    for data in [p.partial_image_b64 for p in parts] + pictures(events[-1].response):
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (128, 128)
    assert without_ids(events[-1].response) == without_ids(
        ask(client, SENTENCE, tools=[tool], tool_choice="required")
    )


def test_words_and_a_picture_stream_beside_each_other(client):
    events = streamed(client, SENTENCE, tools=DRAWS)
    for place, item in enumerate(events[-1].response.output):
        added, done = (
            [
                e
                for e in events
                if e.type == f"response.output_item.{name}" and e.output_index == place
            ]
            for name in ("added", "done")
        )
        assert (
            len(added) == len(done) == 1
            and added[0].item.id == done[0].item.id == item.id
            and done[0].item == item
        )
        assert {
            e.item_id
            for e in events
            if getattr(e, "output_index", None) == place and hasattr(e, "item_id")
        } == {item.id}


def test_what_was_said_and_drawn_is_sent_again(client):
    """The client's own items go back in; the picture among them is what the next words are
    about."""
    given = [{"role": "user", "content": "a large red cube"}]
    first = ask(client, given, tools=DRAWS)
    given += [item.to_dict() for item in first.output] + [
        {"role": "user", "content": "make the cube blue"}
    ]
    second = ask(client, given, tools=DRAWS, tool_choice="required")
    assert second.usage.input_tokens_details.image_tokens == 31 and pictures(second) != pictures(
        first
    )


def test_max_output_tokens_ends_an_answer_early(client, scene):
    given, english = shown(scene), {"extra_body": {"language": "en", "seed": 1}}
    whole, short = ask(client, given, **english), ask(client, given, max_output_tokens=3, **english)
    assert (
        short.status == short.output[0].status == "incomplete"
        and short.incomplete_details.reason == "max_output_tokens"
    )
    assert whole.output_text.startswith(short.output_text) and len(short.output_text) < len(
        whole.output_text
    )
    last = streamed(client, given, max_output_tokens=3, **english)[-1]
    assert last.type == "response.incomplete" and last.response.output_text == short.output_text


def test_json_by_a_schema(client, scene):
    class Seen(pydantic.BaseModel):
        caption: str
        count: int

    made = client.responses.parse(
        model=MODEL, input=shown(scene), text_format=Seen, extra_body={"seed": 1}
    )
    assert isinstance(made.output_parsed, Seen) and made.text.format.name == "Seen"
    assert isinstance(
        json.loads(ask(client, "a cube", text={"format": {"type": "json_object"}}).output_text),
        dict,
    )


PART = {"type": "input_text", "text": "a"}
WRONG = [
    ("previous_response_id", {"previous_response_id": "resp_1"}),
    ("conversation", {"conversation": "conv_1"}),
    ("background", {"background": True}),
    ("prompt", {"prompt": {"id": "pmpt_1"}}),
    ("tools", {"tools": [{"type": "function", "name": "f g", "parameters": {}, "strict": True}]}),
    ("tools", {"tools": [*DRAWS, {"type": "web_search"}]}),
    ("tools", {"tools": [*DRAWS, *DRAWS]}),
    ("tools", {"tools": [*CALLS, *CALLS], "tool_choice": "required"}),
    ("tool_choice", {"tools": [*DRAWS, *CALLS], "tool_choice": "required"}),
    ("tool_choice", {"tools": CALLS, "tool_choice": {"type": "image_generation"}}),
    ("tool_choice", {"tools": CALLS, "tool_choice": {"type": "function", "name": "other"}}),
    ("tool_choice", {"tools": DRAWS, "tool_choice": {"type": "function", "name": "place"}}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tools[0].size", {"tools": [{**DRAWS[0], "size": "9999x9999"}]}),
    (
        "tools[0].input_image_mask",
        {"tools": [{**DRAWS[0], "input_image_mask": {"image_url": "data:,"}}]},
    ),
    ("tools[0].model", {"tools": [{**DRAWS[0], "model": "gpt-image-1"}]}),
    ("text.format", {"text": {"format": {"type": "json_schema", "name": "a"}}}),
    (
        "text.format.schema",
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}},
    ),
    (
        "text.format.schema",
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"title": "\ud800"}}}},
    ),
    ("input[0]", {"input": ""}),
    ("input", {"input": [{"role": "assistant", "content": "a"}]}),
    ("input[0]", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("input[0].role", {"input": [{"content": "a"}]}),
    ("input[0].role", {"input": [{"role": "nobody", "content": "a"}]}),
    ("input[0].content", {"input": [{"role": "user", "content": 4}]}),
    ("input[0]", {"input": [{"role": "user", "content": []}]}),
    (
        "input[0].content[1]",
        {"input": [{"role": "user", "content": [PART, {"type": "input_video"}]}]},
    ),
    (
        "input[0].content[1]",
        {"input": [{"role": "user", "content": [PART, {"type": ["input_text"]}]}]},
    ),
    ("input[0].content[0]", {"input": [{"role": "user", "content": [4]}]}),
    (
        "input[0].content[0]",
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "\ud800"}]}]},
    ),
    (
        "input[0].content[0]",
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]},
    ),
    (
        "input[0].content[0]",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
    ),
    (
        "input[0].content[0]",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": "http://a/b"}]}
            ]
        },
    ),
    (
        "input[0].content[0]",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "AAAA"}]}]},
    ),
    (
        "input[0]",
        {
            "input": [
                {"type": "image_generation_call", "result": "AAAA"},
                {"role": "user", "content": "is it red?"},
            ]
        },
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field,body", WRONG)
def test_what_is_wrong_is_said_in_a_line_with_a_status(http, field, body, stream):
    sent = json.dumps({"model": MODEL, "input": "a", "stream": stream, **body})
    answer = http.post("/v1/responses", content=sent, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["code"] == ("unknown_format" if "AAAA" in sent else "invalid_value")
    message = error["message"]
    assert (
        message.startswith(field) and ":" in message and ";" in message and "\n" not in message
    ), message
    assert not any(words in message for words in ("Input should", "Value error", "function-"))


def test_a_model_that_is_not_served(client):
    with pytest.raises(openai.NotFoundError, match="is not served here; use"):
        client.responses.create(model="gpt-9", input="a")


@pytest.mark.parametrize(
    "error,code",
    [
        (TimeoutError(), "server_error"),
        (ValueError("secret"), "server_error"),
        (APIError(429, "busy", "server_busy"), "rate_limit_exceeded"),
    ],
)
def test_what_goes_wrong_on_the_way_is_the_last_event(error, code):
    answer = ResponseAnswer(ResponseRequest(input="a"), types.SimpleNamespace(name=MODEL), None)

    async def breaks():
        yield answer._numbered(answer._event("created", "in_progress"))
        raise error

    async def told():
        return [data async for data in sse(breaks(), answer.failed)]

    _, last = asyncio.run(told())
    name, data = last.decode().strip().split("\n")
    event = ResponseFailedEvent.model_validate_json(data.removeprefix("data: "), strict=True)
    assert name == "event: response.failed" and event.sequence_number == 1
    assert (
        event.response.status == "failed"
        and event.response.error.code == code
        and "secret" not in data
    )


def test_streams_of_a_server_that_stops_end_with_an_event_that_says_so(new_server):
    server, ends = new_server("--drain-seconds", "0"), {}

    def one(k):
        body = {"input": SENTENCE, "tools": DRAWS, "stream": True}
        with (
            httpx.Client(timeout=60) as http,
            http.stream("POST", f"{server.url}/v1/responses", json=body) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    ends[k] = json.loads(line[6:])

    threads = [threading.Thread(target=one, args=(k,)) for k in range(12)]
    for t in threads:
        t.start()
    while len(ends) < 6:
        time.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    for t in threads:
        t.join(60)
    assert server.process.wait(60) == 0
    for event in ends.values():
        assert event["type"] in ("response.completed", "response.failed"), event
        EVENT.validate_json(json.dumps(event), strict=True)


def test_what_is_not_known_is_told_in_an_extra_field(client):
    """Whole and streamed, in the asker's language; nothing is there where all is known."""
    known = ask(client, SENTENCE)
    assert "onnuri" not in (known.model_extra or {})
    for response in (
        ask(client, "강아지를 그려줘"),
        streamed(client, "강아지를 그려줘")[-1].response,
    ):
        (told,) = [
            n for n in response.model_extra["onnuri"]["notices"] if n["code"] == "unknown_words"
        ]
        assert told["details"] == ["강아지를"] and "모르는 말" in told["message"]


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "name": "place"}, {"type": "function", "name": "clear"}],
)
def test_functions_are_called(client, choice):
    """One call with arguments as its schema says; a stream's pieces are the whole; what came of it
    may be sent back."""
    made = ask(client, SENTENCE, tools=CALLS, tool_choice=choice)
    (call,) = made.output
    assert (
        call.type == "function_call"
        and call.status == "completed"
        and call.name in (("place", "clear") if choice == "required" else (choice["name"],))
    )
    jsonschema.validate(
        json.loads(call.arguments), next(t["parameters"] for t in CALLS if t["name"] == call.name)
    )
    assert [t.name for t in made.tools] == ["place", "clear"]
    events = streamed(client, SENTENCE, tools=CALLS, tool_choice=choice)
    kinds = [e.type.removeprefix("response.") for e in events]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"] and kinds[-3:] == [
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    pieces = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert events[2].item.name == call.name and pieces == events[-3].arguments == call.arguments
    back = [
        {"role": "user", "content": SENTENCE},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"},
    ]
    assert ask(client, back, tools=CALLS).output_text


def test_functions_that_are_not_asked_for_are_not_called(client):
    for choice in ("auto", "none"):
        made = ask(client, SENTENCE, tools=CALLS, tool_choice=choice)
        assert [item.type for item in made.output] == ["message"] and made.output_text
    both = ask(
        client, SENTENCE, tools=[*DRAWS, *CALLS], tool_choice={"type": "function", "name": "place"}
    )
    assert [item.type for item in both.output] == ["function_call"]
