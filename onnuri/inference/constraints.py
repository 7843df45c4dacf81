"""Answers of a given structure: JSON by a schema, and calls of tools. The model chooses what they
say; this file ensures that they are complete.

llguidance tells which tokens the grammar allows; this file sees to it that an answer ends. A
`GrammarState` always knows an ending, tokens that complete the answer within the room that is left:
a token after which no ending would fit is not accepted, and where a small model does not stop (a
string, a number, a list, a nest without end) the ending is forced. Knows no HTTP and no network.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnuri.codecs.text import TextCodec
from onnuri.errors import ConfigError

if TYPE_CHECKING:
    from llguidance import LLMatcher

LONGEST = 1024
"""most tokens of an answer, if the model's positions leave as many"""
MOST_TOKENS = {True: 48, False: 16}
"""most tokens inside a string (True) and outside, of a number say, unless the schema needs more"""
MOST_MEMBERS = {ord("]"): 8, ord("}"): 16}
"""members after which a list or an object is closed, by its closing byte, if the schema lets it"""
DEEPEST = 12
"""nesting beyond which nothing is opened that need not be"""
SEARCH_STEPS = 20_000
"""steps that an answer may spend on the search for endings; then the last ending is forced"""
TRIES = 6
SCHEMA_BYTES = 1 << 16
QUOTE, BACKSLASH = ord('"'), ord("\\")
Schema = dict[str, Any]
"""a JSON schema"""
ANY_OBJECT: Schema = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 4,
    "additionalProperties": {
        "anyOf": [
            {"type": "string"},
            {"type": "boolean"},
            {"type": "integer", "minimum": -999, "maximum": 999},
        ]
    },
}
"""what `json_object` makes: a part of what it stands for, in which a small model does not lose
itself"""
_WITHIN = {
    "one": ("items", "additionalProperties"),
    "list": ("anyOf", "oneOf", "allOf", "prefixItems"),
    "named": ("properties", "patternProperties", "$defs", "definitions"),
}
"""keywords that hold schemas"""
_BYTES_OUTSIDE = bytes(dict.fromkeys(b'}],:1023456789"ntf-[{' + bytes(range(256))))
_BYTES_INSIDE = tuple(
    bytes(dict.fromkeys(first + bytes(range(256)))) for first in (b'"abc', b'"@:/.-abc')
)
"""bytes in the order in which they lead to an end soon, outside strings and inside: some patterns
wait for a mark"""


class GrammarCompiler:
    """A compiler of JSON schemas and tool calls into grammars over a text codec's tokens."""

    def __init__(self, codec: TextCodec) -> None:
        """Describe the text codec's tokens to llguidance."""
        import llguidance  # here, since only some requests need it

        self.codec, self.end = codec, codec.num_codes
        self.matcher = llguidance.LLMatcher
        self.limits = llguidance.LLParserLimits(step_lexer_fuel=20_000, step_max_items=10_000)
        self.tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Codec(codec)), slices=[]
        )

    def json(self, schema: Schema, name: str) -> Grammar:
        """Return the grammar of JSON that a schema allows. Raises ConfigError, which names the
        field `name`, for a schema that cannot be followed."""
        return Grammar(
            self, self._compile([{"json_schema": self._checked_schema(schema, name)}], name)
        )

    def call(self, tools: dict[str, Schema], name: str) -> Grammar:
        """Return the grammar of a tool call: the tool's name, a new line, and arguments by the
        schema of its parameters. Raises ConfigError."""
        grammars = [
            {
                "name": f"tool{k}",
                "json_schema": self._checked_schema(schema, f"{name}: {tool}: parameters"),
            }
            for k, (tool, schema) in enumerate(tools.items())
        ]
        start = " | ".join(f"{json.dumps(tool + chr(10))} @tool{k}" for k, tool in enumerate(tools))
        return Grammar(
            self, self._compile([{"lark_grammar": f"start: {start}"}, *grammars], name), calls=True
        )

    def _checked_schema(self, schema: Schema, name: str) -> Schema:
        """Return the schema in a form that compiles, without members that it does not name if that
        form compiles too. Raises ConfigError."""
        try:
            if (size := len(json.dumps(schema))) > SCHEMA_BYTES:
                raise ConfigError(
                    name,
                    f"has {size} bytes, {SCHEMA_BYTES} at most are read",
                    "give a smaller schema",
                )
            closed, open_ = (narrow_schema(schema, name, close) for close in (True, False))
        except (ValueError, RecursionError):
            raise ConfigError(name, "is nested too deeply", "give a flatter schema") from None
        # put over what the schema says of it, which could turn checks off
        compact = {"x-guidance": {"whitespace_flexible": False}}
        try:
            self._compile([{"json_schema": {**closed, **compact}}], name)
        except ConfigError:
            self._compile([{"json_schema": {**open_, **compact}}], name)
            return {**open_, **compact}
        return {**closed, **compact}

    def _compile(self, grammars: list[Schema], name: str) -> LLMatcher:
        """Return llguidance's matcher of grammars. Raises ConfigError, with llguidance's reason,
        where they do not compile."""
        result = self.matcher(
            self.tokenizer, json.dumps({"grammars": grammars}), log_level=0, limits=self.limits
        )
        if result.is_error():
            raise ConfigError(
                name,
                f"is not a schema that can be followed ({_first_line(result.get_error())})",
                "leave that out or say it another way",
            )
        return result


@dataclasses.dataclass(frozen=True)
class Grammar:
    """A compiled grammar, from which every answer gets a state of its own."""

    of: GrammarCompiler
    matcher: LLMatcher
    calls: bool = False
    """whether it is of a tool's call, not of JSON alone"""

    def begin(self, room: int) -> GrammarState:
        """Return a constraint for one answer of at most `room` tokens, its end included."""
        return GrammarState(self.of, self.matcher.deep_copy(), room)


class GrammarState:
    """A `DynamicConstraint` (`request.py`) of one answer: its place in the grammar, and an ending
    that fits into the room left."""

    def __init__(self, compiler: GrammarCompiler, matcher: LLMatcher, room: int) -> None:
        """Begin an answer of at most `room` tokens, and find its first ending."""
        self.compiler, self.matcher, self.room = compiler, matcher, room
        self.position, self.steps_left = JsonPosition(compiler.codec.pieces), SEARCH_STEPS
        self.ending = self._find_ending(matcher, self.position, room)
        """tokens after which the answer may end, if any fit; without one it goes on until the
        room is used up"""
        self.broken = ""
        """why the grammar could not be followed to its end"""

    def allowed(self) -> bytes:
        """Return the mask of tokens that the grammar allows now, or of the one token that the
        ending needs where it must begin."""
        mask = (
            b"" if self.broken else bytes(self._forced_mask() or self.matcher.compute_logit_bias())
        )
        if self.matcher.is_error() or not any(mask):
            self.broken = (
                self.broken or _first_line(self.matcher.get_error()) or "nothing may follow"
            )
            return self._mask_of_one(self.compiler.end)
        return mask

    def closing(self) -> int | None:
        """Return the quotation mark's id within a string, None elsewhere. There it gets the score
        of the text's end, since the model has never seen a quotation mark; but not before the
        string has any token."""
        inside = self.position.inside and not self.position.escaped and self.position.since > 0
        return QUOTE if inside and not self.matcher.is_accepting() else None

    def take(self, sampled: int) -> int:
        """Take in a sampled token and return the one that stands: the sampled one, or the next of
        the ending where no ending would fit after it."""
        self.room -= 1
        if self.broken:
            return sampled
        if self.ending is not None and sampled != self._next_of_ending:
            ending = self._ending_after(sampled)
            if ending is None:
                sampled = self._next_of_ending
            else:
                self.ending = [sampled, *ending]
        self.ending = self.ending[1:] if self.ending is not None else None
        self.matcher.consume_token(sampled)
        self.position.advance([sampled])
        return sampled

    @property
    def _next_of_ending(self) -> int:
        """Return the next token of the ending, which is the text's end where it has none left."""
        return self.ending[0] if self.ending else self.compiler.end

    def _ending_after(self, token: int) -> list[int] | None:
        """Return an ending that fits after a sampled token, None where there is none; the known one
        is kept where it stays valid."""
        matcher, position = self.matcher.deep_copy(), self.position.copy()
        if token == self.compiler.end or not matcher.consume_token(token):
            return None
        assert self.ending is not None
        if (
            len(self.ending) < self.room
            and matcher.validate_tokens([*self.ending, self.compiler.end]) == len(self.ending) + 1
        ):
            return self.ending
        position.advance([token])
        return self._find_ending(matcher, position, self.room)

    def _forced_mask(self) -> bytes | None:
        """Return a mask of one token where the ending must begin or the grammar leaves no choice;
        None where the model chooses."""
        if self.ending is not None and (
            len(self.ending) + 1 >= self.room
            or self.steps_left <= 0
            or self.position.is_too_long(self.ending)
        ):
            return self._mask_of_one(self._next_of_ending)
        # as the codec writes them: what the model knows best
        certain = self.matcher.compute_ff_tokens()
        return self._mask_of_one(certain[0]) if certain else None

    def _mask_of_one(self, token: int) -> bytes:
        """Return a mask that allows one token."""
        return bytes(k == token for k in range(self.compiler.end + 1))

    def _find_ending(
        self, matcher: LLMatcher, position: JsonPosition, room: int
    ) -> list[int] | None:
        """Return fewer than `room` tokens that complete the answer, None where none are found: the
        shortest are tried first, then random ones where those lead nowhere (a pattern, a
        multiple)."""
        for attempt in range(TRIES):
            chance = random.Random(attempt) if attempt >= len(_BYTES_INSIDE) else None
            ending = self._try_ending(
                matcher.deep_copy(),
                position.copy(),
                room,
                _BYTES_INSIDE[attempt % len(_BYTES_INSIDE)],
                chance,
            )
            if ending is not None or self.steps_left <= 0:
                return ending
        return None

    def _try_ending(
        self,
        matcher: LLMatcher,
        position: JsonPosition,
        room: int,
        inside: bytes,
        chance: random.Random | None,
    ) -> list[int] | None:
        """Return tokens that complete the answer by one try: bytes in the given order of
        preference, half of them chosen at random where `chance` is given; None where it fails."""
        ending: list[int] = []
        while len(ending) < room and self.steps_left > 0:
            if matcher.is_accepting():
                return ending
            self.steps_left -= 1
            order = inside if position.inside and not position.escaped else _BYTES_OUTSIDE
            step = matcher.compute_ff_tokens() or _pick_byte(
                matcher.compute_logit_bias(), order, chance
            )
            if not step or not matcher.consume_tokens(step):
                return None
            position.advance(step)
            ending += step
        return None


class ForcedCodes:
    """A `DynamicConstraint` that forces given codes one by one, each scored as if it had been
    sampled; after them all is allowed."""

    def __init__(self, codes: Sequence[int], count: int) -> None:
        self.codes, self.at, self.all = codes, 0, b"\1" * (count + 1)

    def allowed(self) -> bytes:
        """Return that everything is allowed: a text's `count` codes, and its end."""
        return self.all

    def closing(self) -> int | None:
        """Return None: the end's score goes to no other id."""
        return None

    def take(self, sampled: int) -> int:
        """Return the next of the forced codes, or the sampled one after the last."""
        self.at += 1
        return int(self.codes[self.at - 1]) if self.at <= len(self.codes) else sampled


class JsonPosition:
    """The position of an answer within JSON: in a string or not, how deep, and after how many
    members."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """Begin before the first byte; `pieces` are the bytes of each token."""
        self.pieces = pieces
        self.inside = self.escaped = False
        """whether in a string, and there right after a backslash"""
        self.commas: list[int] = []
        """commas so far in each open list and object, the innermost last"""
        self.since = 0
        """tokens since the last bracket, comma, colon or opening quotation mark"""

    def copy(self) -> JsonPosition:
        """Return a copy that advances independently."""
        position = copy.copy(self)
        position.commas = list(self.commas)
        return position

    def advance(self, tokens: Sequence[int]) -> None:
        """Advance by the bytes of tokens; the end has none."""
        for token in tokens:
            self.since += 1
            for byte in self.pieces[token] if token < len(self.pieces) else b"":
                self._advance_byte(byte)

    def _advance_byte(self, byte: int) -> None:
        """Advance by one byte of JSON: quotation marks, backslashes, brackets and commas change the
        position."""
        if self.escaped:
            self.escaped = False
        elif self.inside:
            self.escaped, self.inside = byte == BACKSLASH, byte != QUOTE
        elif byte == QUOTE:
            self.inside, self.since = True, 0
        elif byte in b"[]{},:":
            self.since = 0
            if byte in b"[{":
                self.commas.append(0)
            elif byte in b"]}":
                del self.commas[-1:]
            elif byte == ord(",") and self.commas:
                self.commas[-1] += 1

    def is_too_long(self, ending: list[int]) -> bool:
        """Return whether the string, number, list or nest has gone on for so long that the given
        ending should be forced."""
        first = self.pieces[ending[0]][0] if ending else 0
        many = (
            not self.inside
            and bool(self.commas)
            and self.commas[-1] >= MOST_MEMBERS.get(first, 1 << 30) - 1
        )
        return many or self.since >= MOST_TOKENS[self.inside] or len(self.commas) > DEEPEST


class _Codec:
    """The interface of a tokenizer that llguidance asks for: the bytes of every token, and text as
    tokens."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec, self.eos_token_id, self.bos_token_id = codec, codec.num_codes, None
        self.special_token_ids, self.tokens = [codec.num_codes], [*codec.pieces, b"<|/text|>"]

    def __call__(self, text: bytes | str) -> list[int]:
        string = text.decode() if isinstance(text, bytes) else text
        return [int(code) for code in self.codec.encode(string)]


def narrow_schema(schema: Any, name: str, close: bool) -> Any:
    """Return a schema that allows a part of what the given one does, in forms that llguidance
    follows exactly. With `close`, objects that name members, and say nothing of others, have no
    others. Raises ConfigError."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key, value in schema.items():
        if key in _WITHIN["one"]:
            result[key] = narrow_schema(value, name, close)
        elif key in _WITHIN["list"] and isinstance(value, list):
            result[key] = [narrow_schema(part, name, close) for part in value]
        elif key in _WITHIN["named"] and isinstance(value, dict):
            result[key] = {k: narrow_schema(part, name, close) for k, part in value.items()}
    if close and "properties" in result and "patternProperties" not in result:
        result.setdefault("additionalProperties", False)
    _check(result, name)
    return result if result.get("type") == "integer" else _with_inclusive_bounds(result)


def _check(schema: Schema, name: str) -> None:
    """Raise ConfigError for keywords that llguidance accepts but does not keep: bounds of drafts
    before 6, and more members than are named (the grammar does not see that a key is there already,
    so several that nobody named might be one)."""
    for key in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(key), bool):
            raise ConfigError(
                name,
                f"has {key} {str(schema[key]).lower()}, as drafts before 6 say it",
                "give the bound itself",
            )
    least, required = schema.get("minProperties"), schema.get("required")
    names = {str(item) for item in required} if isinstance(required, list) else set()
    if isinstance(least, int) and least > 1 + len(names):
        raise ConfigError(
            name,
            f"has minProperties {least} without so many names in 'required'",
            "name them there",
        )


def _with_inclusive_bounds(schema: Schema) -> Schema:
    """Return a number's schema with exclusive bounds replaced by inclusive ones a little further
    in: llguidance 1.9 takes an exclusive bound for one of the numbers where it is whole and the
    other is less than 1 away."""
    above, least, below, most = (
        _finite_bound(schema.get(k))
        for k in ("exclusiveMinimum", "minimum", "exclusiveMaximum", "maximum")
    )
    low = max((x for x in (above, least) if x is not None), default=None)
    high = min((x for x in (below, most) if x is not None), default=None)
    if low is None or high is None or low >= high or (above is None and below is None):
        return schema
    margin = (high - low) / 1024
    result = {k: v for k, v in schema.items() if k not in ("exclusiveMinimum", "exclusiveMaximum")}
    return {
        **result,
        "minimum": low + margin * (low == above),
        "maximum": high - margin * (high == below),
    }


def _finite_bound(value: Any) -> float | None:
    """Return a bound as a float, None for what is no number of ordinary size, which llguidance
    itself refuses."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        else None
    )


def _pick_byte(mask: bytes, order: bytes, chance: random.Random | None) -> list[int]:
    """Return one allowed byte, as a list of its code: the first in order, or half of the time a
    random one where `chance` is given; an empty list where none is allowed."""
    candidates = [b for b in order if mask[b]]
    return (
        [chance.choice(candidates) if chance and chance.random() < 0.5 else candidates[0]]
        if candidates
        else []
    )


def _first_line(message: str) -> str:
    """Return the first line of a message that is not empty."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")
