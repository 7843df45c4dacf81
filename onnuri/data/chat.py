"""This module turns conversations of a JSON Lines file into token sequences with loss weights on
the answers.

It knows no model and no chat format of its own: the tokenizer's chat template formats a
conversation, as it does in inference, so that both see the same ids. A line is
`{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`, OpenAI's
form of training files, optionally with `tools` beside it; `{"prompt": "…", "completion": "…"}` is
a conversation of two messages.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from onnuri.errors import ConfigError

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:"
    "{% if message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% else %} {{ message.content }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""chat template of models that have none; it adds no token to the vocabulary"""


class Conversation(NamedTuple):
    """A Conversation holds one line of the file."""

    line: str
    """file and line number, for error messages"""
    messages: list[dict[str, Any]]
    """each with a role and a content, which is text"""
    tools: list[dict[str, Any]] | None = None
    """functions that the answers may call, as OpenAI describes them"""


class ChatSequence(NamedTuple):
    """A ChatSequence holds a conversation, or a part of it, as token ids."""

    ids: list[int]
    weights: list[float]
    """weight in the loss of predicting each id: 1 in an answer and for the token that ends it,
    else 0"""
    cut: bool = False
    """whether it was longer"""


class _Text(NamedTuple):
    """A _Text holds a chat template's output and the spans of the answers in it."""

    text: str
    answers: list[tuple[int, int]]
    """spans of characters [first, last), each with the token that ends the answer"""


def read_conversations(path: Path) -> list[Conversation]:
    """Return the conversations of a file. Raises ConfigError, with the line's number, for a line
    that holds none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--data {path}", f"cannot be read ({error})", "give a file of JSON Lines in UTF-8"
        ) from None
    conversations = [
        _conversation(f"{path}:{number}", line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not conversations:
        raise ConfigError(f"--data {path}", "holds no conversation", "give one a line")
    return conversations


def _conversation(line: str, text: str) -> Conversation:
    """Return the conversation in a line's text; `line` is its file and number."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(line, f"is not JSON ({error})", "give one object a line") from None
    if isinstance(value, dict) and {"prompt", "completion"} <= value.keys():
        value = {
            "messages": [
                {"role": "user", "content": value["prompt"]},
                {"role": "assistant", "content": value["completion"]},
            ]
        }
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ConfigError(
            line, "has no list of messages", 'write {"messages": [{"role": …, "content": …}, …]}'
        )
    checked = [_message(line, message) for message in messages]
    if not any(message["role"] == "assistant" for message in checked):
        raise ConfigError(line, "has no answer to learn", "give a message whose role is assistant")
    return Conversation(line, checked, value.get("tools"))


def _message(line: str, message: Any) -> dict[str, Any]:
    """Return a message with its parts of text joined. Raises ConfigError for one without role or
    text."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ConfigError(line, "has a message without a role", "give each one a role")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(line, part) for part in content)
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise ConfigError(
            line, f"has a message of {message['role']} without text", "give its content as text"
        )
    return {**message, "content": content}


def _part(line: str, part: Any) -> str:
    """Return the text of one part of a message. Raises ConfigError for a part of another type."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise ConfigError(
        line, f"has a part of type {str(kind)[:40]!r}", "give text: other media are not read here"
    )


def encode_conversation(
    conversation: Conversation, tokenizer: Any, longest: int
) -> list[ChatSequence]:
    """Return the sequences that train a conversation's answers, each of at most `longest` ids.

    One sequence holds all answers if the template writes earlier turns as they stood when they were
    answered. If it writes them differently (without an earlier answer's reasoning), each answer has
    a sequence of its own. Longer sequences are cut at their end, and one without any answer left is
    dropped. Raises ConfigError if the template refuses the conversation.
    """
    sequences = []
    for text in _texts(conversation, tokenizer):
        ids, weights = _tokens(text, tokenizer)
        if any(weights[1:longest]):
            sequences.append(
                ChatSequence(ids[:longest], [0.0, *weights[1:longest]], len(ids) > longest)
            )
    return sequences


def _texts(conversation: Conversation, tokenizer: Any) -> Iterator[_Text]:
    """Yield the texts that the template writes: one, or one per answer."""
    text, answers = "", list[tuple[int, int]]()
    specials = special_tokens(tokenizer)
    for turn, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        prompt = _formatted(conversation, tokenizer, turn, opens_answer=True) if turn else ""
        whole = _formatted(conversation, tokenizer, turn + 1, opens_answer=False)
        # a template may open an answer differently from how it writes a finished one (it leaves the
        # reasoning out), so the prompt is what both have in common
        begin = _common_prefix(prompt, whole)
        if text and not whole[:begin].startswith(text):
            yield _Text(text, answers)
            answers = []
        answer = whole[begin:]
        ends = [answer.rfind(token) + len(token) for token in specials if token in answer]
        if ends:
            text = whole
            answers.append((begin, begin + max(ends)))
        else:  # no token ends the answer, so end the sequence with eos and start another
            text = whole.rstrip() + (tokenizer.eos_token or "")
            yield _Text(text, [*answers, (begin, len(text))])
            text, answers = "", []
    if text:
        yield _Text(text, answers)


def _common_prefix(one: str, other: str) -> int:
    """Return the length in characters of the longest common prefix of two texts."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


def _formatted(conversation: Conversation, tokenizer: Any, turns: int, opens_answer: bool) -> str:
    """Return the first `turns` messages as the template writes them.

    `opens_answer` adds the prefix of an answer. Raises ConfigError if the template refuses them.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            conversation.messages[:turns],
            tools=conversation.tools,
            tokenize=False,
            add_generation_prompt=opens_answer,
        )
    except Exception as error:  # a template is somebody else's program and may raise anything
        raise ConfigError(
            conversation.line,
            f"is refused by the model's chat template ({str(error)[:200]})",
            "write the conversation as the template wants it",
        ) from None
    return text


def special_tokens(tokenizer: Any) -> set[str]:
    """Return a tokenizer's special tokens, among them those that begin and end turns."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def _tokens(text: _Text, tokenizer: Any) -> tuple[list[int], list[float]]:
    """Return a text's ids and the weight of predicting each.

    The text is tokenized as a whole, as in inference, and not cut at the ends of answers.
    """
    if not tokenizer.is_fast:
        return _tokens_of_parts(text, tokenizer)
    encoded = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
    weights = [
        float(any(first < end and begin < last for first, last in text.answers))
        for begin, end in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), weights


def _tokens_of_parts(text: _Text, tokenizer: Any) -> tuple[list[int], list[float]]:
    """Return a text's ids and weights by a tokenizer that gives no character offsets: each answer,
    and each part between answers, is tokenized alone."""
    ids, weights, end = list[int](), list[float](), 0
    for first, last in [*text.answers, (len(text.text), len(text.text))]:
        for part, weight in ((text.text[end:first], 0.0), (text.text[first:last], 1.0)):
            tokens = tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
            ids += tokens
            weights += [weight] * len(tokens)
        end = last
    return ids, weights
