"""Conversations as ids: what is weighed are the answers, and what stands before each is what the
model would be asked with."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import tokenizer

from onnuri.data.chat import PLAIN_TEMPLATE, Conversation, encode_conversation, read_conversations
from onnuri.errors import ConfigError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last and '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
"""leaves out earlier answers' thoughts, as those of reasoning models do"""


def words(template):
    made = tokenizer()
    made.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def talk(*contents, tools=None):
    roles = ("user", "assistant")
    return Conversation(
        "f:1", [{"role": roles[k % 2], "content": c} for k, c in enumerate(contents)], tools
    )


def learned(sequence, made):
    """The text of each run of ids that has weight."""
    runs, before = [], 0.0
    for id, weight in zip(sequence.ids, sequence.weights, strict=True):
        if weight and not before:
            runs.append([])
        if weight:
            runs[-1].append(id)
        before = weight
    return [made.decode(run, clean_up_tokenization_spaces=False) for run in runs]


PHRASE = st.text("abc 공빨간.\n", min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(PHRASE, PHRASE), min_size=1, max_size=3))
def test_answers_and_what_ends_them_are_learned_after_what_the_model_is_asked_with(turns):
    made = words(CHATML)
    said = [text for turn in turns for text in turn]
    (sequence,) = encode_conversation(talk(*said), made, 10_000)
    assert learned(sequence, made) == [f"{answer}<|im_end|>" for _, answer in turns]
    messages = talk(*said).messages
    for k in range(1, len(said), 2):
        asked = made.apply_chat_template(
            messages[:k], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert sequence.ids[: len(asked)] == asked and not sequence.weights[len(asked) - 1]
        assert sequence.weights[len(asked)] == 1
    whole = made.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert sequence.ids == whole


def test_where_a_template_rewrites_what_was_said_every_answer_stands_alone():
    made = words(FORGETFUL)
    first, second = encode_conversation(
        talk("q", "<think>a</think>b", "r", "<think>c</think>d"), made, 999
    )
    assert learned(first, made) == ["a</think>b<|im_end|>"]
    assert learned(second, made) == ["c</think>d<|im_end|>"]
    assert "b<|im_end|>" in made.decode(second.ids) and "a</think>" not in made.decode(second.ids)


def test_a_template_that_ends_no_turn_is_given_an_end():
    made = words("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    first, second = encode_conversation(talk("q", "a", "r", "b"), made, 999)
    assert learned(first, made)[0].endswith("a</s>") and learned(second, made)[0].endswith("b</s>")
    assert first.ids[-1] == second.ids[-1] == made.eos_token_id


def test_the_plain_template_asks_as_it_was_taught():
    made = words(PLAIN_TEMPLATE)
    (sequence,) = encode_conversation(talk("red", "a cube", "blue", "빨간 공"), made, 999)
    assert learned(sequence, made) == [" a cube</s>", " 빨간 공</s>"]


def test_tools_reach_the_template_and_calls_without_words_are_answers():
    made = words(
        "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}<|im_end|>{% endfor %}"
    )
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "draw"}}], "content": ""}
    asked = Conversation(
        "f:1", [{"role": "user", "content": "q"}, call], [{"function": {"name": "draw"}}]
    )
    (sequence,) = encode_conversation(asked, made, 999)
    assert made.decode(sequence.ids).startswith("draw;") and learned(sequence, made)[0].endswith(
        "draw<|im_end|>"
    )


def test_what_is_too_long_is_cut_and_left_out_where_no_answer_is_left():
    made = words(CHATML)
    (whole,) = encode_conversation(talk("q", "a red cube"), made, 999)
    (cut,) = encode_conversation(talk("q", "a red cube"), made, len(whole.ids) - 3)
    assert cut.ids == whole.ids[:-3] and cut.weights == whole.weights[:-3]
    assert cut.cut and not whole.cut
    (just,) = encode_conversation(talk("q", "a red cube"), made, len(whole.ids))
    assert just == whole
    assert encode_conversation(talk("q " * 50, "a"), made, 20) == []


def test_both_forms_and_parts_of_text_are_read(tmp_path):
    path = tmp_path / "chat.jsonl"
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "cube"}]
    lines = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]},
        {"prompt": "q", "completion": "a"},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    first, second = read_conversations(path)
    assert first.messages[0]["content"] == "a cube" and first.line == f"{path}:1"
    assert [m["content"] for m in second.messages] == ["q", "a"] and second.line == f"{path}:3"


@pytest.mark.parametrize(
    "line, why",
    [
        ("{", "is not JSON"),
        ("[]", "has no list of messages"),
        ('{"messages": []}', "has no list of messages"),
        ('{"messages": [{"role": "user", "content": "q"}]}', "has no answer to learn"),
        ('{"messages": [{"content": "q"}]}', "has a message without a role"),
        ('{"messages": [{"role": "assistant"}]}', "without text"),
        (
            '{"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}',
            "has a part of type 'image_url'",
        ),
        ("", "holds no conversation"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, why):
    path = tmp_path / "chat.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n' * bool(line) + line)
    with pytest.raises(ConfigError, match=why) as caught:
        read_conversations(path)
    assert "\n" not in str(caught.value) and (":2" in str(caught.value)) == bool(line)


def test_a_template_that_refuses_a_conversation_is_one_line():
    made = words("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ConfigError, match=r"f:1: is refused .* \(roles must alternate\)"):
        encode_conversation(talk("q", "a"), made, 999)
