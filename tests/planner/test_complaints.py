"""Errors in Korean: every sentence that the planner raises has a pattern, and a wrong command says
it."""

import ast
import re
from pathlib import Path

import pytest

import onnuri.planner
from onnuri.cli import main
from onnuri.errors import ConfigError
from onnuri.planner.complaints import UNITS, complaint, korean
from onnuri.planner.own_cluster import RULES

SILENT = {"shapes.py", "stock.py"}
"""of tables and files, which have no --language"""


def sentences():
    """Rule and repair of every `raise ConfigError(...)` in the planner, a number in each gap."""
    for path in sorted(Path(onnuri.planner.__file__).parent.glob("*.py")):
        if path.name in SILENT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "ConfigError"
                and len(node.args) == 3
            ):
                for argument in node.args[1:]:
                    if (said := filled(argument)) and re.search("[a-z]{3}", said):
                        yield pytest.param(said, id=f"{path.stem}-{said[:40]}")


def filled(node):
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "7" for part in node.values
        )
    return None  # a variable, whose sentence another call makes


@pytest.mark.parametrize("said", sentences())
def test_every_sentence_that_is_raised_has_korean(said):
    put = korean(said)
    assert re.search("[가-힣]", put), f"no pattern of complaints.SAID fits {said!r}"
    left = set(re.findall("[A-Za-z]{4,}", re.sub(r"--[\w-]+|[\w]+ = \S+|dp=\S+|\d+xH\d+", "", put)))
    assert left <= {"TFLOPS", "TOML", "true", "false", "NAME"}, put


def test_units_of_rules_have_korean():
    assert {rule.unit for rule in RULES.values()} <= set(UNITS)


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
    error = ConfigError("days -1", "is not a number", "give more than 0")
    assert (
        complaint(error, "en") == str(error)
        and complaint(error, "ko") == "일수 -1: 숫자가 아님; 0보다 큰 수를 주세요"
    )
