"""The catalogues: every sentence of the planner has Korean, and a wrong command says it."""

import ast
import copy
import pickle
import re
import string
from pathlib import Path

import pytest

import onnuri.planner
from onnuri.cli import main
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase, joined
from onnuri.planner.own_cluster import RULES
from onnuri.planner.words import catalogue, complaint

KEPT = r"--[\w-]+|\w+ = \S+|dp=\S+|\d+xH\d+|`.*?`|torchtitan|torch|transformers|config|TFLOPs|FLOPs|token|GiB"
"""what is a name in Korean sentences too"""


def raised():
    """Rule and repair of every `raise ConfigError(...)` in the planner, as they are written."""
    for path in sorted(Path(onnuri.planner.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "ConfigError"
                and len(node.args) == 3
            ):
                for argument in node.args[1:]:
                    yield path.stem, argument


def sentences():
    """Templates of what is raised, and of every other phrase of the planner."""
    for stem, argument in raised():
        if isinstance(argument, ast.Constant) and re.search("[a-z]{3}", argument.value):
            yield pytest.param(argument.value, id=f"{stem}-{argument.value[:40]}")
    for path in sorted(Path(onnuri.planner.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Phrase":
                template = node.args[0]
                said = isinstance(template, ast.Constant) and re.sub("{.*?}", "", template.value)
                if said and re.search("[a-z]{3}", said):
                    yield pytest.param(template.value, id=f"{path.stem}-{template.value[:40]}")


def test_no_sentence_that_is_raised_hides_its_template() -> None:
    hidden = [(stem, ast.unparse(a)) for stem, a in raised() if isinstance(a, ast.JoinedStr)]
    assert not hidden, "write Phrase(template, values), which a catalogue can say in Korean"


@pytest.mark.parametrize("template", sentences())
def test_every_sentence_has_korean_with_the_same_values(template: str) -> None:
    korean = catalogue("ko").sentences.get(template)
    assert korean and korean != template, f"data/ko.json has no {template!r}"
    left = set(re.findall("[A-Za-z]{4,}", re.sub(KEPT, "", korean)))
    assert left <= {"TFLOPS", "TOML", "true", "false", "NAME"}, korean


def test_every_korean_sentence_gives_each_value_as_its_template_does() -> None:
    for template, korean in catalogue("ko").sentences.items():
        written = [parts for parts in string.Formatter().parse(template) if parts[1] is not None]
        fields = {(name or str(k), *how) for k, (_, name, *how) in enumerate(written)}
        used = {(name, *how) for _, name, *how in string.Formatter().parse(korean) if name}
        assert {name for name, *_ in used} == {name for name, *_ in fields}, template
        assert used == fields, template


def test_both_languages_have_the_same_words() -> None:
    korean, english = (catalogue(language).words for language in ("ko", "en"))
    assert list(korean) == list(english)
    for key in english:
        values = [
            {name for _, name, *_ in string.Formatter().parse(words[key]) if name}
            for words in (korean, english)
        ]
        assert values[0] == values[1], key


def test_units_of_rules_have_korean():
    assert {rule.unit for rule in RULES.values()} <= set(catalogue("ko").sentences)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("axk1 --gpus 7", "병렬화 구성"),
        ("axk1 --gpu H2000", "하드웨어 표에 없음"),
        ("axk1 --tokens ten", "토큰 수가 아님"),
        ("axk1 --days -1", "양수가 아님"),
        ("axk1 --layout dp=3", "1024장이 아님"),
        ("axk1 --gpus 0", "정수를 주세요"),
        ("axk1 --price-usd 0", "GPU 시간당 달러"),
        ("axk1 --cluster none.toml", "읽을 수 없음"),
        ("axk1 --isl 9", "빠진 것"),
        ("budget --gpu B200 --gpus 8 --days 0", "양수 일수가 아님"),
        ("axk3", "모델 'axk3'"),
        ("axk1 --gpus-for soon", "기간이 아님"),
        ("axk1 --layout own --json /dev/null/p.json", "폴더로 만들 수 없음"),
    ],
)
def test_a_wrong_command_is_said_in_the_language_asked_for(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments.split(), "--language", "ko"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and says in said
    assert not re.search(r"\b(is|are|not|the|give|use|write|leave)\b", said), said


def test_english_stays():
    error = ConfigError(Phrase("days {:g}", -1), "is not a number", "give more than 0")
    assert (
        complaint(error, "en") == str(error)
        and complaint(error, "ko") == "일수 -1: 숫자가 아님; 0보다 큰 수를 주세요"
    )


def test_a_phrase_keeps_what_it_is_made_of() -> None:
    inner = joined("; ", [Phrase("{} GPUs", 8), "text"])
    whole = Phrase("assumed: {}", inner)
    assert (
        whole == "assumed: 8 GPUs; text"
        and catalogue("ko").translate(whole) == "가정: GPU 8장; 텍스트"
    )
    again = copy.deepcopy(pickle.loads(pickle.dumps(whole)))
    assert again == whole and catalogue("ko").translate(again) == catalogue("ko").translate(whole)
    assert catalogue("ko").translate("a file that is no entry") == "a file that is no entry"
    assert catalogue("ko").translate(Phrase("model {}", "{x}")) == "모델 {x}"
