"""Grammars without a model: whatever is drawn, by chance here, an answer ends within its room and
is what the schema says."""

import json
import random

import jsonschema
import numpy as np
import pytest

from onnuri.errors import ConfigError
from onnuri.inference.constraints import ANY_OBJECT, DEEPEST, SCHEMA_BYTES, GrammarCompiler
from onnuri.server.tools import call_of

NODE = {
    "type": "object",
    "properties": {
        "v": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
    },
    "required": ["v", "next"],
}
SCHEMAS = {
    "anything": {},
    "any object": {"type": "object"},
    "what json_object makes": ANY_OBJECT,
    "members": {
        "type": "object",
        "properties": {
            "말": {"type": "string"},
            "n": {"type": "integer"},
            "x": {"type": "boolean"},
        },
        "required": ["말", "n"],
    },
    "a number": {"type": "number"},
    "a multiple": {"type": "integer", "multipleOf": 10},
    "a multiple from 1000 on": {"type": "integer", "multipleOf": 7, "minimum": 1000},
    "strictly above 0": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.05},
    "strictly above 0, from more on": {
        "type": "number",
        "exclusiveMinimum": 0,
        "minimum": 0.04,
        "exclusiveMaximum": 0.05,
    },
    "strictly below 0": {"type": "number", "exclusiveMinimum": -0.5, "exclusiveMaximum": 0},
    "a pattern": {"type": "string", "pattern": "^a+b$"},
    "a date": {"type": "string", "format": "date-time"},
    **{
        f: {"type": "string", "format": f}
        for f in ("email", "uri", "uuid", "time", "duration", "ipv6", "hostname")
    },
    "a list of lists": {
        "type": "array",
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "boolean"}},
                "required": ["a"],
            },
        },
    },
    "all of two": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    "places": {"type": "array", "prefixItems": [{"type": "string"}, {"const": 5}], "minItems": 2},
    "a map": {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1},
    "at least five": {"type": "array", "items": {"enum": ["빨강", "blue", 3]}, "minItems": 5},
    "itself": {"$ref": "#/$defs/n", "$defs": {"n": NODE}},
}


@pytest.fixture(scope="module")
def structures(codecs):
    return GrammarCompiler(codecs["text"])


def drawn(structures, structure, room, seed):
    """(text, the constraint) of an answer whose tokens are drawn by chance; None where it did not
    end."""
    bound, chance, ids = structure.begin(room), random.Random(seed), []
    for _ in range(room):
        mask = bound.allowed()
        token = bound.take(chance.choice([k for k, may in enumerate(mask) if may]))
        if token == structures.end:
            return structures.codec.decode(np.array(ids, dtype=np.int64)), bound
        ids.append(token)
    return None, bound


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_drawn_it_ends_and_is_what_the_schema_says(structures, name):
    schema = SCHEMAS[name]
    structure, made = structures.json(schema, name), set()
    for room in (1024, 60, 45):
        for seed in range(8):
            text, bound = drawn(structures, structure, room, seed)
            assert text is not None and not bound.broken, (room, seed)
            jsonschema.validate(json.loads(text), schema)
            made.add(text)
    assert len(made) > 1


def test_lengths_are_kept_where_the_schema_asks_for_more(structures):
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "minLength": 90},
            "b": {"type": "array", "items": {"type": "integer"}, "minItems": 20},
        },
        "required": ["a", "b"],
    }
    text, _ = drawn(structures, structures.json(schema, "x"), 1024, 1)
    jsonschema.validate(json.loads(text), schema)


def test_strings_lists_and_nests_that_nobody_bounds_are_closed(structures):
    nest = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
    deepest = 0
    for seed in range(20):
        text, _ = drawn(structures, structures.json(nest, "x"), 1024, seed)
        deepest = max(
            deepest,
            text.count("[[") and max(len(part) for part in text.replace("]", ",").split(",")),
        )
        rows, _ = drawn(
            structures, structures.json({"type": "array", "items": {"const": 1}}, "x"), 1024, seed
        )
        assert len(json.loads(rows)) <= 8
    assert 1 < deepest <= DEEPEST + 1


def test_without_room_it_goes_on_until_the_room_is_used_up(structures):
    text, bound = drawn(
        structures, structures.json({"type": "string", "minLength": 70}, "x"), 30, 0
    )
    assert text is None and bound.ending is None


def test_tools_are_told_apart(structures):
    tools = {
        "draw": {
            "type": "object",
            "properties": {"what": {"type": "string"}},
            "required": ["what"],
        },
        "turn_by": {
            "type": "object",
            "properties": {"degrees": {"type": "integer"}},
            "required": ["degrees"],
        },
    }
    structure, called = structures.call(tools, "tools"), set()
    assert structure.calls
    for seed in range(20):
        [call] = call_of(drawn(structures, structure, 200, seed)[0])
        jsonschema.validate(
            json.loads(call["function"]["arguments"]), tools[call["function"]["name"]]
        )
        called.add(call["function"]["name"])
    assert called == set(tools)


@pytest.mark.parametrize(
    "schema,why",
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "foo"}, "foo"),
        ({"$ref": "http://example.com/a"}, "http://example.com/a"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex"),
        ({"enum": []}, "empty"),
        ({"type": "number", "exclusiveMinimum": True, "maximum": 1}, "exclusiveMinimum"),
        ({"type": "number", "minimum": 10**400, "exclusiveMaximum": 1}, "out of range"),
        ({"minimum": float("nan")}, "field"),
        ({"required": [[], {}], "minProperties": 9}, "minProperties 9"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "object", "minProperties": 3, "additionalProperties": True}, "minProperties 3"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"enum": ["a" * SCHEMA_BYTES]}, "at most"),
    ],
)
def test_schemas_that_cannot_be_followed_are_refused(structures, schema, why):
    with pytest.raises(ConfigError, match=r"^field: ") as refused:
        structures.json(schema, "field")
    assert (
        why in str(refused.value) and ";" in str(refused.value) and "\n" not in str(refused.value)
    )


def test_a_nest_too_deep_to_read_is_refused(structures):
    schema = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(ConfigError, match="nested too deeply"):
        structures.json(schema, "field")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
        {"type": "string", "pattern": "(a{1000}){1000}"},
        {"type": "string", "pattern": "((a|b)*c(a|b){30}){20}"},
    ],
)
def test_what_has_no_end_costs_little(structures, schema):
    """Recursion that never ends, lengths beyond any room: either refused, or said to be broken, or
    used up, within a second."""
    text, bound = drawn(structures, structures.json(schema, "x"), 200, 0)
    assert text is None or bound.broken


@pytest.mark.parametrize(
    "value",
    ["a  b", "  ", " a ", "▁", "a▁ b", "작은 빨간 구", "😀", '"\\/\b\n', "\u0000", "é", "�"],
)
def test_json_goes_through_the_codec_unchanged(structures, value):
    for ascii_only in (True, False):
        text = json.dumps({"키": [value]}, ensure_ascii=ascii_only, separators=(",", ":"))
        codes = [int(code) for code in structures.codec.encode(text)]
        assert json.loads(structures.codec.decode(np.array(codes))) == {"키": [value]}
        assert b"".join(structures.codec.pieces[code] for code in codes) == text.encode()
        if not ascii_only:  # the grammar writes letters as themselves
            assert structures.json({}, "x").matcher.deep_copy().try_consume_tokens(codes) == len(
                codes
            )
