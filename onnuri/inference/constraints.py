"""Answers of a given structure: JSON by a schema, and calls of tools. What they say is the model's;
that they are whole is ours.

llguidance says which tokens the grammar admits; this file sees to it that an answer ends. A
`GrammarState` always knows a way to the end that fits into the room that is left: a token after
which none would fit is not taken, and where a small model rambles (a string, a number, a list, a
nest that does not end) the way is gone instead. Knows no HTTP and no network.
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
STRETCH = {True: 48, False: 16}
"""most tokens of a string and of what stands outside, a number say, unless the schema needs more"""
MOST = {ord("]"): 8, ord("}"): 16}
"""members of a list and of an object after which it is closed, if the schema lets it"""
DEEPEST = 12
"""nesting beyond which nothing is opened that need not be"""
FUEL = 20_000
"""steps in search of a way to the end that an answer may cost; then the last way is gone"""
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
_OUTSIDE = bytes(dict.fromkeys(b'}],:1023456789"ntf-[{' + bytes(range(256))))
_INSIDE = tuple(
    bytes(dict.fromkeys(first + bytes(range(256)))) for first in (b'"abc', b'"@:/.-abc')
)
"""bytes in the order in which they lead to an end soon, outside strings and inside: some patterns
wait for a mark"""


class GrammarCompiler:
    """A text codec as llguidance sees it; makes structures."""

    def __init__(self, codec: TextCodec) -> None:
        import llguidance  # here, since only some requests need it

        self.codec, self.end = codec, codec.num_codes
        self.matcher = llguidance.LLMatcher
        self.limits = llguidance.LLParserLimits(step_lexer_fuel=20_000, step_max_items=10_000)
        self.tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Codec(codec)), slices=[]
        )

    def json(self, schema: Schema, name: str) -> Grammar:
        """Return the grammar of JSON that a schema admits. Raises ConfigError, with the field's
        `name`, for one that cannot be followed."""
        return Grammar(self, self._compiled([{"json_schema": self._admitted(schema, name)}], name))

    def call(self, tools: dict[str, Schema], name: str) -> Grammar:
        """Return the grammar of a call: a tool's name, a new line, arguments as the schema of its
        parameters says."""
        grammars = [
            {
                "name": f"tool{k}",
                "json_schema": self._admitted(schema, f"{name}: {tool}: parameters"),
            }
            for k, (tool, schema) in enumerate(tools.items())
        ]
        start = " | ".join(f"{json.dumps(tool + chr(10))} @tool{k}" for k, tool in enumerate(tools))
        return Grammar(
            self, self._compiled([{"lark_grammar": f"start: {start}"}, *grammars], name), calls=True
        )

    def _admitted(self, schema: Schema, name: str) -> Schema:
        """A schema that compiles: without members that nobody named, if it does so too."""
        try:
            if (size := len(json.dumps(schema))) > SCHEMA_BYTES:
                raise ConfigError(
                    name,
                    f"has {size} bytes, {SCHEMA_BYTES} at most are read",
                    "give a smaller schema",
                )
            closed, open_ = (narrowed(schema, name, close) for close in (True, False))
        except (ValueError, RecursionError):
            raise ConfigError(name, "is nested too deeply", "give a flatter schema") from None
        compact = {
            "x-guidance": {"whitespace_flexible": False}
        }  # over what the schema says of it: it could turn checks off
        try:
            self._compiled([{"json_schema": {**closed, **compact}}], name)
        except ConfigError:
            self._compiled([{"json_schema": {**open_, **compact}}], name)
            return {**open_, **compact}
        return {**closed, **compact}

    def _compiled(self, grammars: list[Schema], name: str) -> LLMatcher:
        made = self.matcher(
            self.tokenizer, json.dumps({"grammars": grammars}), log_level=0, limits=self.limits
        )
        if made.is_error():
            raise ConfigError(
                name,
                f"is not a schema that can be followed ({_first_line(made.get_error())})",
                "leave that out or say it another way",
            )
        return made


@dataclasses.dataclass(frozen=True)
class Grammar:
    """A grammar that compiled."""

    of: GrammarCompiler
    matcher: LLMatcher
    calls: bool = False
    """whether it is a tool's name and its arguments"""

    def begin(self, room: int) -> GrammarState:
        """Return a constraint for one answer of at most `room` tokens, its end included."""
        return GrammarState(self.of, self.matcher.deep_copy(), room)


class GrammarState:
    """`inference.request.DynamicConstraint`: a grammar, and a way to its end that fits."""

    def __init__(self, structures: GrammarCompiler, matcher: LLMatcher, room: int) -> None:
        self.structures, self.matcher, self.room = structures, matcher, room
        self.place, self.fuel = Place(structures.codec.pieces), FUEL
        self.way = self._way(matcher, self.place, room)
        """tokens after which the answer may end, if any fit; without a way it goes on until the
        room is used up"""
        self.broken = ""
        """why the grammar could not be followed to its end"""

    def allowed(self) -> bytes:
        """Return what the grammar admits now, or what alone leads to the end in time."""
        mask = b"" if self.broken else bytes(self._forced() or self.matcher.compute_logit_bias())
        if self.matcher.is_error() or not any(mask):
            self.broken = (
                self.broken or _first_line(self.matcher.get_error()) or "nothing may follow"
            )
            return self._only(self.structures.end)
        return mask

    def closing(self) -> int | None:
        """Return the quotation mark within a string, which ends where the model would end its text,
        since it has never seen a quotation mark; but not before it has said anything."""
        inside = self.place.inside and not self.place.escaped and self.place.since > 0
        return QUOTE if inside and not self.matcher.is_accepting() else None

    def take(self, drawn: int) -> int:
        """Return the id that was drawn, or the next on the way to the end where none would fit
        after it."""
        self.room -= 1
        if self.broken:
            return drawn
        if self.way is not None and drawn != self._next:
            way = self._after(drawn)
            if way is None:
                drawn = self._next
            else:
                self.way = [drawn, *way]
        self.way = self.way[1:] if self.way is not None else None
        self.matcher.consume_token(drawn)
        self.place.read([drawn])
        return drawn

    @property
    def _next(self) -> int:
        """The next token on the way."""
        return self.way[0] if self.way else self.structures.end

    def _after(self, token: int) -> list[int] | None:
        """The way from behind a token, if one fits."""
        matcher, place = self.matcher.deep_copy(), self.place.copy()
        if token == self.structures.end or not matcher.consume_token(token):
            return None
        assert self.way is not None
        if (
            len(self.way) < self.room
            and matcher.validate_tokens([*self.way, self.structures.end]) == len(self.way) + 1
        ):
            return self.way
        place.read([token])
        return self._way(matcher, place, self.room)

    def _forced(self) -> bytes | None:
        """A mask of one token, where there is no choice or should be none."""
        if self.way is not None and (
            len(self.way) + 1 >= self.room or self.fuel <= 0 or self.place.rambles(self.way)
        ):
            return self._only(self._next)
        known = (
            self.matcher.compute_ff_tokens()
        )  # as the codec writes them: what the model knows best
        return self._only(known[0]) if known else None

    def _only(self, token: int) -> bytes:
        return bytes(k == token for k in range(self.structures.end + 1))

    def _way(self, matcher: LLMatcher, place: Place, room: int) -> list[int] | None:
        """Tokens of which fewer than `room` lead to a place where the answer may end: the shortest
        are tried first, by chance where they lead nowhere (a pattern, a multiple)."""
        for attempt in range(TRIES):
            chance = random.Random(attempt) if attempt >= len(_INSIDE) else None
            found = self._walk(
                matcher.deep_copy(), place.copy(), room, _INSIDE[attempt % len(_INSIDE)], chance
            )
            if found is not None or self.fuel <= 0:
                return found
        return None

    def _walk(
        self,
        matcher: LLMatcher,
        place: Place,
        room: int,
        inside: bytes,
        chance: random.Random | None,
    ) -> list[int] | None:
        """One try: bytes in their order, half of them by chance instead if that is given."""
        way: list[int] = []
        while len(way) < room and self.fuel > 0:
            if matcher.is_accepting():
                return way
            self.fuel -= 1
            order = inside if place.inside and not place.escaped else _OUTSIDE
            step = matcher.compute_ff_tokens() or _byte(matcher.compute_logit_bias(), order, chance)
            if not step or not matcher.consume_tokens(step):
                return None
            place.read(step)
            way += step
        return None


class ForcedCodes:
    """A `DynamicConstraint` that puts in codes one by one, each scored as if it had been drawn;
    then all is free."""

    def __init__(self, codes: Sequence[int], count: int) -> None:
        self.codes, self.at, self.all = codes, 0, b"\1" * (count + 1)

    def allowed(self) -> bytes:
        """Return that everything may stand: a text's `count` codes, and its end."""
        return self.all

    def closing(self) -> int | None:
        """Return None: the end needs no other id's score."""
        return None

    def take(self, drawn: int) -> int:
        """Return the next of the codes, and what was drawn after them."""
        self.at += 1
        return int(self.codes[self.at - 1]) if self.at <= len(self.codes) else drawn


class Place:
    """Where in JSON an answer is."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.inside = self.escaped = False
        """of a string; right after its backslash"""
        self.commas: list[int] = []
        """of every list and object that is open, how many it has had"""
        self.since = 0
        """tokens since the last mark outside of strings"""

    def copy(self) -> Place:
        """Return the same place, which goes on by itself."""
        place = copy.copy(self)
        place.commas = list(self.commas)
        return place

    def read(self, tokens: Sequence[int]) -> None:
        """Go on by tokens; the end has no bytes."""
        for token in tokens:
            self.since += 1
            for byte in self.pieces[token] if token < len(self.pieces) else b"":
                self._step(byte)

    def _step(self, byte: int) -> None:
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

    def rambles(self, way: list[int]) -> bool:
        """Return whether this has gone on for long enough, and the way to the end should be
        gone."""
        first = self.pieces[way[0]][0] if way else 0
        many = (
            not self.inside
            and bool(self.commas)
            and self.commas[-1] >= MOST.get(first, 1 << 30) - 1
        )
        return many or self.since >= STRETCH[self.inside] or len(self.commas) > DEEPEST


class _Codec:
    """What llguidance asks of a tokenizer: the bytes of every token, and text as tokens."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec, self.eos_token_id, self.bos_token_id = codec, codec.num_codes, None
        self.special_token_ids, self.tokens = [codec.num_codes], [*codec.pieces, b"<|/text|>"]

    def __call__(self, text: bytes | str) -> list[int]:
        said = text.decode() if isinstance(text, bytes) else text
        return [int(code) for code in self.codec.encode(said)]


def narrowed(schema: Any, name: str, close: bool) -> Any:
    """Return a schema that admits a part of what this one does, and no more: where `close`, its
    objects have no members but those that they name, if they name any and say nothing of others.
    Raises ConfigError."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key, value in schema.items():
        if key in _WITHIN["one"]:
            made[key] = narrowed(value, name, close)
        elif key in _WITHIN["list"] and isinstance(value, list):
            made[key] = [narrowed(part, name, close) for part in value]
        elif key in _WITHIN["named"] and isinstance(value, dict):
            made[key] = {k: narrowed(part, name, close) for k, part in value.items()}
    if close and "properties" in made and "patternProperties" not in made:
        made.setdefault("additionalProperties", False)
    _check(made, name)
    return made if made.get("type") == "integer" else _inclusive(made)


def _check(schema: Schema, name: str) -> None:
    """What the library takes but does not keep. The grammar does not see that a key is there
    already, so several that nobody named might be one. Raises ConfigError."""
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


def _inclusive(schema: Schema) -> Schema:
    """Numbers strictly between bounds as from a little further in: llguidance 1.9 takes the bound
    itself for one of them where that is whole and the other less than 1 away."""
    above, least, below, most = (
        _number(schema.get(k))
        for k in ("exclusiveMinimum", "minimum", "exclusiveMaximum", "maximum")
    )
    low = max((x for x in (above, least) if x is not None), default=None)
    high = min((x for x in (below, most) if x is not None), default=None)
    if low is None or high is None or low >= high or (above is None and below is None):
        return schema
    little = (high - low) / 1024
    made = {k: v for k, v in schema.items() if k not in ("exclusiveMinimum", "exclusiveMaximum")}
    return {
        **made,
        "minimum": low + little * (low == above),
        "maximum": high - little * (high == below),
    }


def _number(value: Any) -> float | None:
    """A bound of ordinary size; what is none is left to the library, which says so."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        else None
    )


def _byte(mask: bytes, order: bytes, chance: random.Random | None) -> list[int]:
    """One of the bytes that may come, as the code that it is; none where nothing may."""
    found = [b for b in order if mask[b]]
    return [chance.choice(found) if chance and chance.random() < 0.5 else found[0]] if found else []


def _first_line(message: str) -> str:
    return next((line.strip() for line in message.splitlines() if line.strip()), "")
