"""Conversations of a JSON Lines file as token sequences, with a weight for every token of an answer.

Knows no model and no chat format of its own: the tokenizer's chat template writes a conversation
out, as it does when the model is asked, so that training and use see the same ids. A line is
`{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`, OpenAI's
form of training files, with `tools` beside it where there are any; `{"prompt": "…", "completion":
"…"}` is a conversation of two messages.
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
"""for a model that has no chat template: it needs no token that the model has not"""


class Conversation(NamedTuple):
    """One line of the file."""

    place: str
    """file and line, for messages"""
    messages: list[dict[str, Any]]
    """of a role and a content each; the content is text"""
    tools: list[dict[str, Any]] | None = None
    """functions that the answers may call, as OpenAI describes them"""


class ChatSequence(NamedTuple):
    """A conversation, or a part of it, as the model sees it."""

    ids: list[int]
    weights: list[float]
    """of predicting each id: 1 for an answer's and for the token that ends it, else 0"""
    cut: bool = False
    """whether it was longer"""


class _Text(NamedTuple):
    """What a chat template wrote, and where answers stand in it."""

    text: str
    answers: list[tuple[int, int]]
    """characters [first, last), with the token that ends an answer"""


def read_conversations(path: Path) -> list[Conversation]:
    """Return the conversations of a file. Raises ConfigError for a line that holds none, with its
    number."""
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


def _conversation(place: str, line: str) -> Conversation:
    """Return the conversation of one line."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(place, f"is not JSON ({error})", "give one object a line") from None
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
            place, "has no list of messages", 'write {"messages": [{"role": …, "content": …}, …]}'
        )
    checked = [_message(place, message) for message in messages]
    if not any(message["role"] == "assistant" for message in checked):
        raise ConfigError(place, "has no answer to learn", "give a message whose role is assistant")
    return Conversation(place, checked, value.get("tools"))


def _message(place: str, message: Any) -> dict[str, Any]:
    """Return a message with its parts of text joined."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ConfigError(place, "has a message without a role", "give each one a role")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(place, part) for part in content)
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise ConfigError(
            place, f"has a message of {message['role']} without text", "give its content as text"
        )
    return {**message, "content": content}


def _part(place: str, part: Any) -> str:
    """Return the text of a part of a message."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise ConfigError(
        place, f"has a part of type {str(kind)[:40]!r}", "give text: other media are not read here"
    )


def encode_conversation(
    conversation: Conversation, tokenizer: Any, longest: int
) -> list[ChatSequence]:
    """Return the sequences that teach a conversation's answers, each of at most `longest` ids.

    One, if the template writes what was said before as it stood when it was answered; where it
    writes it otherwise (without an earlier answer's thoughts), one for every answer. What is longer
    is cut at its end, and a sequence of which no answer is left is left out. Raises ConfigError
    where the template refuses the conversation.
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
    """Yield what the template writes, one text or one per answer."""
    text, answers = "", list[tuple[int, int]]()
    specials = special_tokens(tokenizer)
    for turn, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        prompt = _written(conversation, tokenizer, turn, asks=True) if turn else ""
        whole = _written(conversation, tokenizer, turn + 1, asks=False)
        # a template may open an answer otherwise than it writes one down (thoughts that it leaves
        # out): what both have in common is the prompt
        begin = _common(prompt, whole)
        if text and not whole[:begin].startswith(text):
            yield _Text(text, answers)
            answers = []
        answer = whole[begin:]
        ends = [answer.rfind(token) + len(token) for token in specials if token in answer]
        if ends:
            text = whole
            answers.append((begin, begin + max(ends)))
        else:  # nothing would teach where to stop, so nothing can follow it here
            text = whole.rstrip() + (tokenizer.eos_token or "")
            yield _Text(text, [*answers, (begin, len(text))])
            text, answers = "", []
    if text:
        yield _Text(text, answers)


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in alike)


def _written(conversation: Conversation, tokenizer: Any, turns: int, asks: bool) -> str:
    """Return the first messages as the template writes them; `asks`: with what opens an answer."""
    try:
        written: str = tokenizer.apply_chat_template(
            conversation.messages[:turns],
            tools=conversation.tools,
            tokenize=False,
            add_generation_prompt=asks,
        )
    except Exception as error:  # a template is a program of others'
        raise ConfigError(
            conversation.place,
            f"is refused by the model's chat template ({str(error)[:200]})",
            "write the conversation as the template wants it",
        ) from None
    return written


def special_tokens(tokenizer: Any) -> set[str]:
    """Return the tokens that no text is split into: those that begin and end turns among them."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def _tokens(text: _Text, tokenizer: Any) -> tuple[list[int], list[float]]:
    """Return a text's ids and the weight of predicting each.

    The text is split whole, as it is when the model is asked, and not at the ends of answers.
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
    """Return the same of a tokenizer that does not say where its tokens stand."""
    ids, weights, at = list[int](), list[float](), 0
    for first, last in [*text.answers, (len(text.text), len(text.text))]:
        for part, weight in ((text.text[at:first], 0.0), (text.text[first:last], 1.0)):
            tokens = tokenizer(part, add_special_tokens=False)["input_ids"] if part else []
            ids += tokens
            weights += [weight] * len(tokens)
        at = last
    return ids, weights
