"""The questions the other way round, against asking every count and every size one by one."""

import itertools
import math
from types import SimpleNamespace

import pytest

import onnuri
from onnuri import recipes
from onnuri.cli import main
from onnuri.errors import ConfigError
from onnuri.planner import budget, hardware, inverse
from onnuri.planner.interval import exact

OMNI = recipes.find("hyperclovax_omni")


def stand_in(days):
    """Plans of a cluster whose days are a function of its GPUs; infinite where nothing fits."""
    asked = []

    def answer(gpus):
        asked.append(gpus)
        if math.isinf(took := days(gpus)):
            raise ConfigError(f"{gpus} GPUs", "are too few", "use more")
        return Stub(days=exact(took), cluster=SimpleNamespace(gpus=gpus))

    return answer, asked


class Stub(SimpleNamespace):
    def replace(self, **changes):
        return Stub(**{**vars(self), **changes})


@pytest.mark.parametrize(
    "work, fits, days",
    itertools.product((3, 700, 9_000, 61_234, 800_000), (1, 5, 100, 1500), (1.0, 30.0)),
)
def test_the_fewest_of_all_admissible_counts_is_found_with_few_questions(work, fits, days):
    """Days are work / GPUs plus what more GPUs never shorten."""
    answer, asked = stand_in(lambda gpus: work / gpus + 0.1 if gpus >= fits else math.inf)
    found = inverse.fewest(OMNI, hardware.cluster("H100", 1), days, answer=answer).fewest
    admissible = [*range(1, 8), *range(8, 1_000_000, 8)]
    assert found.gpus == next(n for n in admissible if n >= fits and work / n + 0.1 <= days)
    assert found.monotone and len(set(asked)) <= 45 and found.tried == len(set(asked))
    less = admissible[admissible.index(found.gpus) - 1] if found.gpus > 1 else None
    assert found.less == less
    assert found.less_days == (
        None if less is None or less < fits else pytest.approx(work / less + 0.1)
    )


def test_counts_that_are_not_monotone_are_said():
    answer, _ = stand_in(lambda gpus: (9_000 / gpus + 0.1) * (3 if gpus % 128 else 1))
    assert not inverse.fewest(OMNI, hardware.cluster("H100", 1), 30, answer=answer).fewest.monotone


def test_no_number_of_gpus_is_one_line_with_what_would_do():
    with pytest.raises(ConfigError, match=r"1 days: are too few for any number.*give \d days"):
        inverse.fewest(
            OMNI, hardware.cluster("H100", 1), 1, answer=stand_in(lambda gpus: 100 / gpus + 3)[0]
        )
    with pytest.raises(ConfigError, match="GPUs: are too few; use more"):
        inverse.fewest(
            OMNI, hardware.cluster("H100", 1), 1, answer=stand_in(lambda gpus: math.inf)[0]
        )


def test_a_plan_on_the_fewest_gpus_is_in_time_and_one_on_fewer_is_not(capsys):
    found = inverse.fewest(OMNI, hardware.cluster("H100", 1), 30, tokens=2e12)
    assert (
        found.days.mid <= 30
        and found.tokens == pytest.approx(2e12)
        and found.cluster.gpus == found.fewest.gpus
    )
    assert found.in_time == pytest.approx(found.days.cdf(30))
    fewer = onnuri.plan(OMNI, {"gpu": "H100", "gpus": found.fewest.less}, tokens=2e12, here=True)
    assert fewer.days.mid > 30
    main(
        [
            "plan",
            "hyperclovax_omni",
            "--gpu",
            "H100",
            "--gpus-for",
            "30d",
            "--tokens",
            "2T",
            "--price-usd",
            "2",
        ]
    )
    said = capsys.readouterr().out
    assert f"{found.fewest.gpus:,} H100 train all of them in 30 days" in said
    assert "fewest GPUs" in said.split("layout (text)")[0]


def test_the_largest_is_in_time_and_the_next_is_not():
    cluster = hardware.cluster("H100", 64)
    found = inverse.largest([OMNI], cluster, 20)
    for kind, shape in (("dense", budget.dense), ("sparse", budget.sparse)):
        done, late = [s for s in found.sizes if s.kind == kind]
        assert done.done and not late.done and done.plan.days.mid <= 20 < late.plan.days.mid
        layers = [
            next(n for n in inverse.LAYERS if shape(n).num_params() == s.plan.total_params)
            for s in (done, late)
        ]
        assert layers[1] - layers[0] == inverse.LAYERS.step
        assert done.likely == done.plan.days.cdf(20)
    assert [s.kind for s in found.best.values()] == list(found.best)
    assert next(iter(found.best.values())).plan.total_params == max(
        s.plan.total_params for s in found.sizes if s.done
    )
    omni = next(s for s in found.sizes if s.kind == "system")
    assert not omni.done and omni.plan.tokens == pytest.approx(OMNI.tokens)


def test_the_largest_of_given_tokens(capsys):
    few = inverse.largest([OMNI], hardware.cluster("H100", 64), 20, tokens=3e11)
    assert all(s.plan.tokens == pytest.approx(3e11) for s in few.sizes)
    main(
        [
            "plan",
            "--largest-for",
            "20d",
            "--tokens",
            "300B",
            "--gpu",
            "H100",
            "--gpus",
            "64",
            "--language",
            "ko",
        ]
    )
    said = capsys.readouterr().out
    assert (
        said.index("가장 큰 모델") < said.index("전체 / 활성")
        and f"{next(iter(few.best.values())).title}:" in said
    )


@pytest.mark.parametrize(
    "arguments, value, rule",
    [
        ("axk1 --gpus-for soon", "'soon'", "is not a length of time"),
        ("axk1 --gpus-for 0d", "'0d'", "above 0"),
        ("axk1 --gpus-for -3d", "'-3d'", "above 0"),
        ("axk1 --gpus-for 30d --gpus 8", "--gpus 8", "leave one out"),
        ("axk1 --gpus-for 30d --days 3", "--days 3", "leave one out"),
        ("axk1 --gpus-for 30d --layout own", "--layout own", "leave one out"),
        ("axk1 --gpus-for 30d --tokens 0", "tokens 0", "positive"),
        ("axk1 --gpus-for 30d --budget-usd 5", "--budget-usd", "leave one out"),
        ("--largest-for 5x --gpu H100 --gpus 8", "'5x'", "is not a length of time"),
        ("--largest-for 5d --gpus 8", "cluster", "names no GPU"),
        ("--largest-for 5d --gpu H100", "cluster", "has no number"),
        ("--largest-for 1e-9d --gpu H100 --gpus 8", "8 H100", "none of the sizes"),
        ("--largest-for 5d --gpu H100 --gpus 8 --days 3", "--days and --largest-for", "one of"),
        ("--largest-for 5d --gpu H100 --gpus 8 --tokens 0", "tokens 0", "positive"),
        ("--largest-for 5d --gpu H100 --gpus 8 --engines any", "--engines any", "leave it out"),
        ("budget --gpu H100 --gpus 8", "budget", "one of --days"),
        ("budget --gpu H100 --gpus 8 --days 3 --tokens 1T", "--tokens 1T", "--largest-for"),
    ],
)
def test_a_wrong_question_is_one_line_and_status_2(arguments, value, rule, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments.split()])
    said = capsys.readouterr()
    assert (
        stop.value.code == 2
        and said.out == ""
        and said.err.count("\n") == 1
        and value in said.err
        and rule in said.err
    )


@pytest.mark.parametrize(
    "text, days", [("30d", 30), ("6w", 42), ("72h", 3), ("30", 30), (" 1.5 d ", 1.5)]
)
def test_lengths_of_time(text, days):
    assert inverse.duration("gpus-for", text) == days
