"""Several answers, logprobs, JSON and tools by the unmodified `openai` client; its own classes and
jsonschema check them."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai
import pydantic
import pytest
from contract import strict
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

MODEL = "onnuri-laptop"
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"
PLACE = {
    "type": "object",
    "properties": {
        "caption": {"type": "string"},
        "colour": {"enum": ["red", "파랑"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["caption", "colour", "count"],
}


def ask(client, content, **more):
    made = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], **{"seed": 1, **more}
    )
    return made if more.get("stream") else strict(made, ChatCompletion)


def streamed(client, content, **more):
    """Choices put together from their chunks: {index: {content, logprobs, tool_calls, finish}}, and
    the usage."""
    found, usage = {}, None
    for chunk in ask(client, content, stream=True, stream_options={"include_usage": True}, **more):
        strict(chunk, ChatCompletionChunk)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            to = found.setdefault(
                choice.index,
                {"content": "", "logprobs": [], "call": None, "pieces": 0, "finish": None},
            )
            to["content"] += choice.delta.content or ""
            to["logprobs"] += choice.logprobs.content if choice.logprobs else []
            to["finish"] = choice.finish_reason or to["finish"]
            for part in choice.delta.tool_calls or []:
                assert part.index == 0
                if to["call"] is None:
                    to["call"] = {
                        "id": part.id,
                        "type": part.type,
                        "name": part.function.name,
                        "arguments": "",
                    }
                else:
                    assert part.id is None and part.function.name is None
                to["call"]["arguments"] += part.function.arguments
                to["pieces"] += 1
    return found, usage


def tool(name, parameters):
    return {
        "type": "function",
        "function": {"name": name, "description": "does it", "parameters": parameters},
    }


def by_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def named(name):
    return {"type": "function", "function": {"name": name}}


# several answers


def test_choices_are_what_their_seeds_say(client):
    several = ask(client, SENTENCE, n=3, seed=5, temperature=2.0)
    alone = [ask(client, SENTENCE, seed=5 + k, temperature=2.0) for k in range(3)]
    assert [c.index for c in several.choices] == [0, 1, 2]
    assert [c.message.content for c in several.choices] == [
        a.choices[0].message.content for a in alone
    ]
    assert len({c.message.content for c in several.choices}) > 1
    assert several.usage.completion_tokens == sum(a.usage.completion_tokens for a in alone)
    assert several.usage.prompt_tokens == alone[0].usage.prompt_tokens


def test_every_choice_has_all_media(client):
    made = ask(
        client,
        SENTENCE,
        n=2,
        modalities=["text", "image", "audio", "mesh"],
        audio={"voice": "default", "format": "wav"},
    )
    messages = [c.message for c in made.choices]
    assert all(m.content and m.audio.transcript == m.content and m.meshes for m in messages)
    assert messages[0].images != messages[1].images and messages[0].audio.id != messages[1].audio.id
    assert made.usage.completion_tokens_details.image_tokens == 2 * 31


def test_streamed_choices_are_the_whole_ones(client):
    more = {"n": 8, "seed": 3, "temperature": 2.0}
    whole, (parts, usage) = ask(client, SENTENCE, **more), streamed(client, SENTENCE, **more)
    assert [parts[k]["content"] for k in range(8)] == [c.message.content for c in whole.choices]
    assert {p["finish"] for p in parts.values()} == {
        "stop"
    } and usage.total_tokens == whole.usage.total_tokens
    chunks = list(
        ask(
            client,
            SENTENCE,
            n=2,
            stream=True,
            modalities=["image"],
            extra_body={"partial_images": 1},
        )
    )
    shown = [c.choices[0].index for c in chunks if getattr(c.choices[0].delta, "images", None)]
    assert sorted(shown) == [0, 0, 1, 1]


# logprobs


def test_logprobs_are_of_the_words(client):
    made = ask(client, SENTENCE, logprobs=True, top_logprobs=3).choices[0]
    content = made.logprobs.content
    assert "".join(t.token for t in content) == made.message.content
    assert bytes(b for t in content for b in t.bytes) == made.message.content.encode()
    for token in content:
        ranks = [t.logprob for t in token.top_logprobs]
        assert len(ranks) == 3 and ranks == sorted(ranks, reverse=True) and math.exp(ranks[0]) <= 1
        assert (
            token.token == token.top_logprobs[0].token and token.logprob == ranks[0]
        )  # text is drawn greedily by itself


def test_streamed_logprobs_are_the_whole_ones(client):
    more = {"logprobs": True, "top_logprobs": 20, "n": 2, "temperature": 1.5}
    whole, (parts, _) = ask(client, SENTENCE, **more), streamed(client, SENTENCE, **more)
    for k, choice in enumerate(whole.choices):
        assert [t.model_dump() for t in parts[k]["logprobs"]] == [
            t.model_dump() for t in choice.logprobs.content
        ]


def test_logprobs_end_where_the_words_are_cut(client):
    whole = ask(client, SENTENCE, logprobs=True).choices[0]
    assert all(t.top_logprobs == [] for t in whole.logprobs.content)
    for more in ({"stop": "파란"}, {"max_completion_tokens": 4}):
        cut = ask(client, SENTENCE, logprobs=True, **more).choices[0]
        assert whole.message.content.startswith(cut.message.content)
        assert "".join(t.token for t in cut.logprobs.content).startswith(cut.message.content)
        assert len(cut.logprobs.content) < len(whole.logprobs.content)


def test_words_that_are_not_drawn_have_no_logprobs(client):
    echoed = ask(
        client,
        SENTENCE,
        logprobs=True,
        modalities=["audio"],
        audio={"voice": "default", "format": "wav"},
    ).choices[0]
    assert echoed.logprobs is None and echoed.message.audio.transcript == SENTENCE
    assert ask(client, SENTENCE).choices[0].logprobs is None


# JSON


def test_json_by_a_schema(client):
    form = by_schema(PLACE)
    whole, (parts, _) = (
        ask(client, SENTENCE, response_format=form),
        streamed(client, SENTENCE, response_format=form),
    )
    assert (
        parts[0]["content"] == whole.choices[0].message.content
        and whole.choices[0].finish_reason == "stop"
    )
    jsonschema.validate(json.loads(parts[0]["content"]), PLACE)


def test_any_object(client):
    for k, choice in enumerate(
        ask(
            client,
            "How many objects are there?",
            n=4,
            temperature=1.5,
            response_format={"type": "json_object"},
        ).choices
    ):
        assert isinstance(json.loads(choice.message.content), dict), k
    words = ask(client, SENTENCE, response_format={"type": "text"}).choices[0].message.content
    assert "빨간 구" in words and "파란 정육면체" in words and "{" not in words


def test_the_client_parses_into_its_own_classes(client):
    class Thing(pydantic.BaseModel):
        name: str
        size: float
        parts: list[str]

    made = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": SENTENCE}], response_format=Thing
    )
    assert isinstance(made.choices[0].message.parsed, Thing)
    made = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": SENTENCE}],
        tool_choice="required",
        tools=[openai.pydantic_function_tool(Thing)],
    )
    assert isinstance(made.choices[0].message.tool_calls[0].function.parsed_arguments, Thing)


def test_json_ends_within_its_limit_and_is_cut_only_without_room(client):
    for limit in (200, 60, 45):
        for seed in range(3):
            choice = ask(
                client,
                SENTENCE,
                response_format=by_schema(PLACE),
                max_completion_tokens=limit,
                seed=seed,
                temperature=2.0,
            ).choices[0]
            assert choice.finish_reason == "stop"
            jsonschema.validate(json.loads(choice.message.content), PLACE)
    made = ask(client, SENTENCE, response_format=by_schema(PLACE), max_completion_tokens=9)
    assert made.choices[0].finish_reason == "length" and made.usage.completion_tokens <= 9


def test_json_beside_a_picture_and_its_logprobs(client):
    made = ask(
        client,
        SENTENCE,
        modalities=["text", "image"],
        response_format=by_schema(PLACE),
        logprobs=True,
    ).choices[0]
    spelled = b"".join(
        bytes(t.bytes) for t in made.logprobs.content
    )  # a token may be a part of a letter
    assert made.message.images and spelled.decode() == made.message.content


# tools


def test_a_named_tool_is_called(client):
    tools = [tool("draw", PLACE), tool("now", None)]
    for name, schema in (("draw", PLACE), ("now", {"type": "object", "maxProperties": 0})):
        made = ask(client, SENTENCE, tools=tools, tool_choice=named(name)).choices[0]
        [call] = made.message.tool_calls
        assert made.finish_reason == "tool_calls" and made.message.content is None
        assert call.function.name == name and call.id.startswith("call_")
        jsonschema.validate(json.loads(call.function.arguments), schema)


def test_a_streamed_call_is_the_whole_one_in_parts(client):
    more = {
        "tools": [tool("draw", PLACE), tool("now", None)],
        "tool_choice": "required",
        "n": 2,
        "temperature": 1.0,
    }
    whole, (parts, usage) = ask(client, SENTENCE, **more), streamed(client, SENTENCE, **more)
    for k, choice in enumerate(whole.choices):
        [call] = choice.message.tool_calls
        assert (parts[k]["call"]["name"], parts[k]["call"]["arguments"]) == (
            call.function.name,
            call.function.arguments,
        )
        assert (
            parts[k]["call"]["type"] == "function"
            and parts[k]["finish"] == "tool_calls"
            and parts[k]["content"] == ""
        )
    assert usage.total_tokens == whole.usage.total_tokens
    drawn, _ = streamed(client, SENTENCE, tools=more["tools"], tool_choice=named("draw"))
    assert drawn[0]["pieces"] > 5


def test_auto_and_none_answer_in_words(client):
    for choice in ("auto", "none", openai.NOT_GIVEN):
        made = ask(client, SENTENCE, tools=[tool("draw", PLACE)], tool_choice=choice).choices[0]
        assert (
            made.message.tool_calls is None
            and "빨간 구" in made.message.content
            and made.finish_reason == "stop"
        )


def some_schema(chance, depth=0):
    """A schema of any sort that people give tools."""
    kinds = ["string", "short", "enum", "integer", "number", "boolean", "const", "nullable"] + [
        "object",
        "array",
    ] * (depth < 2)
    kind = "object" if depth == 0 else chance.choice(kinds)
    if kind == "object":
        names = chance.sample(
            ["이름", "colour", "size", "위치", "count", "note", "언제", "speed"],
            chance.randint(1, 4),
        )
        made = {
            "type": "object",
            "properties": {name: some_schema(chance, depth + 1) for name in names},
            "required": names[: chance.randint(0, len(names))],
        }
        return {**made, "additionalProperties": False} if chance.random() < 0.5 else made
    if kind == "array":
        least = chance.randint(0, 2)
        return {
            "type": "array",
            "items": some_schema(chance, depth + 1),
            "minItems": least,
            "maxItems": least + 2,
        }
    low = chance.randint(-50, 50)
    return {
        "string": {"type": "string"},
        "short": {"type": "string", "minLength": 2, "maxLength": 9},
        "enum": {"enum": ["빨강", "sky blue", 7, None]},
        "integer": {"type": "integer", "minimum": low, "maximum": low + 9},
        "number": {"type": "number", "exclusiveMinimum": low, "maximum": low + 0.5},
        "boolean": {"type": "boolean"},
        "const": {"const": '"따옴표" \\ /'},
        "nullable": {"type": ["integer", "null"]},
    }[kind]


def order(client, k):
    """One order of a tool: (the schemas, the choice that came back)."""
    chance, language = random.Random(k), ("ko", "en")[k % 2]
    schemas = {f"tool_{k}_{j}": some_schema(chance) for j in range(chance.randint(1, 3))}
    choice = "required" if chance.random() < 0.5 else named(chance.choice(list(schemas)))
    said = caption(sample_scene(k, "seen"), language, generator("seen", k))
    made = ask(
        client,
        said,
        tools=[tool(n, s) for n, s in schemas.items()],
        tool_choice=choice,
        seed=k,
        temperature=(0.0, 1.0, 3.0)[k % 3],
    )
    return schemas, made.choices[0]


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 130), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_orders_of_tools_all_hold(client, seeds):
    with ThreadPoolExecutor(4) as pool:
        orders = list(pool.map(lambda k: order(client, k), seeds))
    for schemas, choice in orders:
        [call] = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])


# mistakes


@pytest.mark.parametrize(
    "more,param",
    [
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool("a b", PLACE)]}, None),
        ({"tools": [tool("a", PLACE)], "tool_choice": named("b")}, "tool_choice"),
        ({"tools": [tool("a", PLACE), tool("a", PLACE)], "tool_choice": "required"}, "tools"),
        ({"tools": [tool("a", {"type": "string"})], "tool_choice": "required"}, "tools"),
        ({"tools": [tool("a", {"type": "object", "not": {}})], "tool_choice": "required"}, None),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, None),
        ({"response_format": by_schema({"type": "array", "uniqueItems": True})}, None),
        (
            {
                "response_format": by_schema(
                    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
                )
            },
            None,
        ),
        ({"response_format": by_schema(PLACE), "modalities": ["image"]}, "response_format"),
        ({"response_format": by_schema(PLACE), "modalities": ["text", "audio"]}, "response_format"),
    ],
)
def test_mistakes_say_what_is_wrong(client, more, param):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, SENTENCE, **more)
    assert (
        ":" in error.value.message
        and "\n" not in error.value.message
        and error.value.type == "invalid_request_error"
    )
    assert param is None or error.value.param == param
