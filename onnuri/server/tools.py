"""The structure that a chat request asks of its text: `response_format`, and `tools` with
`tool_choice`. Knows no grammar.

A tool is called where one is named or some is `required`. A small model does not know when a tool
would help, so `auto` answers in words.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from onnuri.inference.constraints import ANY_OBJECT, Grammar, GrammarCompiler
from onnuri.server.errors import JSON, invalid
from onnuri.server.schemas import ChatRequest, Tool


def grammar_of(request: ChatRequest) -> Callable[[GrammarCompiler], Grammar] | None:
    """Return a function that compiles, slowly, the grammar that the request's text must follow;
    None where it is words. Raises APIError."""
    _check(request)
    form, choice = request.response_format, request.tool_choice
    if choice == "required" or isinstance(choice, Tool):
        tools = _tool_schemas(request, choice)
        return lambda compiler: compiler.call(tools, "tools")
    if not form or form.type == "text":
        return None
    if form.type == "json_object":
        return lambda compiler: compiler.json(ANY_OBJECT, "response_format")
    if not form.json_schema:
        raise invalid(
            "response_format 'json_schema'",
            "says no schema; give json_schema too",
            field="response_format",
        )
    schema = form.json_schema.schema_
    return lambda compiler: compiler.json(schema, "response_format.json_schema.schema")


def _check(request: ChatRequest) -> None:
    """Raise APIError for fields that do not go together."""
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid(
            f"top_logprobs {request.top_logprobs}",
            "says nothing without logprobs; give logprobs true",
            field="top_logprobs",
        )
    calls = request.tool_choice == "required" or isinstance(request.tool_choice, Tool)
    name = "tool_choice" if calls else "response_format"
    if not calls and (not request.response_format or request.response_format.type == "text"):
        return
    modalities = request.wanted
    if "text" not in modalities:
        raise invalid(name, "is of text, which is not wanted; add 'text' to modalities")
    if "audio" in modalities:
        raise invalid(name, "makes JSON, which is not spoken; leave 'audio' out of modalities")


def _tool_schemas(request: ChatRequest, choice: Any) -> dict[str, JSON]:
    """Return the schema of the parameters of each tool that may be called, by the tool's name.
    Raises APIError."""
    names = [tool.function.name for tool in request.tools or []]
    if not names:
        raise invalid("tool_choice", "there are no tools to choose from; give tools")
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise invalid("tools", f"two are named {duplicate!r}; give each a name of its own")
    tools = {
        t.function.name: {"type": "object", **(t.function.parameters or {"properties": {}})}
        for t in request.tools or []
    }
    if isinstance(choice, Tool):
        name = choice.function.name
        if name not in tools:
            raise invalid(
                f"tool_choice {name!r}",
                f"is none of the tools; use one of {', '.join(names)}",
                field="tool_choice",
            )
        tools = {name: tools[name]}
    for name, schema in tools.items():
        if schema["type"] != "object":
            raise invalid(
                "tools",
                f"{name}: parameters of type {schema['type']!r}: arguments are an object; "
                "say 'object'",
            )
    return tools


class ToolCall:
    """A tool's call as its text comes: first its name, then pieces of its arguments, in the
    client's fields."""

    def __init__(self) -> None:
        self.id, self.name, self.arguments = f"call_{secrets.token_hex(12)}", "", ""
        self._line = ""

    def send(self, text: str) -> Iterator[JSON]:
        """Take in more of the call's text, and yield the deltas that it adds: the name once it is
        whole, then arguments."""
        if not self.name:
            self._line += text
            name, line, text = self._line.partition("\n")
            if not line:
                return
            self.name = name
            yield {
                "index": 0,
                "id": self.id,
                "type": "function",
                "function": {"name": self.name, "arguments": ""},
            }
        if text:
            self.arguments += text
            yield {"index": 0, "function": {"arguments": text}}


def call_of(text: str) -> list[JSON]:
    """Return the call in a whole text, in the client's fields, as a list of one; an empty list
    where the text was cut within the name."""
    call = ToolCall()
    for _ in call.send(text):
        pass
    if not call.name:
        return []
    function = {"name": call.name, "arguments": call.arguments}
    return [{"id": call.id, "type": "function", "function": function}]
