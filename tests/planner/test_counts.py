"""How many GPUs a plan uses: against one plan for every count, and laws that hold on any
cluster."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri import cli, recipes
from onnuri.errors import ConfigError
from onnuri.planner import budget, counts, report, saved
from onnuri.planner import plan as plans
from onnuri.planner.architecture import Architecture, Attention, Block, Experts
from onnuri.planner.hardware import Cluster
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.plan import plan
from onnuri.planner.progress import SearchProgress
from onnuri.planner.recipe import Recipe, TrainingStage

AT = Attention(heads=16, kv_heads=8, head_dim=128)
DENSE = Architecture(
    name="dense", vocabulary=32_000, hidden=2048, blocks=(Block(count=16, attention=AT, mlp=8192),)
)
SPARSE = Architecture(
    name="sparse",
    vocabulary=32_000,
    hidden=2048,
    blocks=(Block(count=12, attention=AT, experts=Experts(routed=48, topk=4, width=1536)),),
)


def recipe(a, sequences=96):
    """Two stages, the second of longer sequences."""
    stages = (
        TrainingStage(
            name="text", tokens=2e11, tokens_per_sequence=4096, batch_tokens=4096 * sequences
        ),
        TrainingStage(
            name="annealing", tokens=1e10, tokens_per_sequence=8192, batch_tokens=4096 * sequences
        ),
    )
    return Recipe(
        name=a.name,
        team="",
        title=a.name,
        family="",
        values={},
        sources={},
        architecture=a,
        media=(),
        stages=stages,
        layout=ParallelConfig(dp=8),
        gpu="H100",
        gpus=8,
    )


def days_on(r, cluster, gpus, **how):
    """Days of the whole recipe on exactly so many GPUs, None where nothing fits."""
    try:
        return plan(r, cluster.replace(gpus=gpus), exact_gpus=True, **how).days.mid
    except ConfigError:
        return None


@pytest.mark.parametrize(
    "a, gpu, engines, most",
    [
        (DENSE, "H100", "here", 37),
        (DENSE, "H100", "any", 13),
        (SPARSE, "A100-40", "here", 12),
        pytest.param(DENSE, "A100-40", "any", 37, marks=pytest.mark.slow),
        pytest.param(SPARSE, "A100-40", "here", 70, marks=pytest.mark.slow),
        pytest.param(SPARSE, "A100-40", "any", 37, marks=pytest.mark.slow),
    ],
)
def test_the_count_is_the_best_of_all(a, gpu, engines, most):
    """Every count is planned by itself. With `here`, counts on which Onnuri's trainer holds the
    text come first."""
    r, cluster = recipe(a), Cluster(gpu=gpu, gpus=most)
    alone = {n: days_on(r, cluster, n, engines=engines) for n in range(1, most + 1)}
    for given_ in (most // 2, most - 2, most):
        found = plan(r, cluster.replace(gpus=given_), engines=engines)
        best = min(d for n, d in alone.items() if d and n <= given_)
        assert found.days.mid == pytest.approx(best, rel=1e-9), (given_, found.cluster.gpus)
        assert found.gpus_given == given_ and found.days.mid == pytest.approx(
            alone[found.cluster.gpus], rel=1e-9
        )


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([DENSE, SPARSE]),
    st.sampled_from(["H100", "A100-40", "B200"]),
    st.lists(st.integers(4, 150), min_size=3, max_size=3, unique=True),
    st.sampled_from(["here", "any"]),
    st.integers(40, 300),
)
def test_more_gpus_never_train_less(a, gpu, gpus, engines, sequences):
    trained = [
        plan(recipe(a, sequences), Cluster(gpu=gpu, gpus=n), days=30, engines=engines).tokens
        for n in sorted(gpus)
    ]
    assert trained == sorted(trained)


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=3, unique=True), st.integers(20, 100))
def test_more_gpus_never_train_a_small_model_less(gpus, sequences):
    a, gpu, engines = DENSE, "H100", "here"
    trained = [
        plan(recipe(a, sequences), Cluster(gpu=gpu, gpus=n), days=30, engines=engines).tokens
        for n in sorted(gpus)
    ]
    assert trained == sorted(trained)


def test_a_date_and_dollars_together_are_an_aim():
    """By brute force: of every count the tokens that both allow."""
    r, cluster = recipe(DENSE), Cluster(gpu="H100", gpus=14)
    for usd in (5e3, 5e4):
        every = [
            plan(
                r, cluster.replace(gpus=n), days=20, budget_usd=usd, exact_gpus=True, here=True
            ).tokens
            for n in range(4, 15)
        ]
        assert plan(r, cluster, days=20, budget_usd=usd, here=True).tokens >= max(every) * (
            1 - 1e-9
        )


def test_which_counts_are_tried_does_not_depend_on_all():
    for most in (100, 5_000, 40_000, 41_003):
        tried = counts.admissible(most, 8)
        assert set(tried) == {n for n in counts.admissible(50_000, 8) if n <= most}
    assert counts.admissible(4_096, 8)[0] == 4_096 and max(counts.admissible(4_100, 8)) == 4_096


def test_batches_stand_on_both_sides_of_the_recipes():
    stage = recipes.find("axk1").stages[0]  # 8,192 sequences
    assert counts.batches(stage, 960, False) == [9 * 960, 8 * 960]
    assert counts.batches(stage, 1024, False) == [8192] and counts.batches(stage, 6000, False) == [
        6000
    ]


@pytest.fixture(scope="module")
def fewer():
    return plan(recipe(SPARSE), Cluster(gpu="A100-40", gpus=37), days=30)


def test_fewer_gpus_are_said_first_in_both_languages(fewer):
    used = fewer.cluster.gpus
    assert used < 37 and fewer.warnings[0].startswith(f"use {used} of 37 GPUs: they train ")
    english, korean = report.text(fewer), report.text(fewer, "ko")
    assert (
        english.splitlines()[0].startswith(f"sparse on {used} of 37 A100-40")
        and "use " in english.splitlines()[2]
    )
    assert (
        f"GPU 37장 가운데 {used}장만 쓰세요" in korean.splitlines()[2]
        and "use " not in korean.splitlines()[2]
    )
    assert fewer.warnings[0] in report.page_of(fewer)
    assert plans.Plan.from_json(fewer.to_json()) == fewer


def test_all_gpus_are_used_if_asked(fewer):
    exact = plan(recipe(SPARSE), Cluster(gpu="A100-40", gpus=37), days=30, exact_gpus=True)
    assert exact.cluster.gpus == 37 and not [w for w in exact.warnings if w.startswith("use ")]
    assert exact.tokens < fewer.tokens
    said = float(fewer.warnings[0].rpartition(" ")[2].rstrip("T"))
    assert said == pytest.approx(exact.tokens / 1e12, rel=0.01)


def test_a_much_faster_engine_stands_beside():
    r, cluster = recipe(SPARSE), Cluster(gpu="H100", gpus=16)
    found = plan(r, cluster, days=75, exact_gpus=True)
    assert found.engine is None and found.faster and found.faster.engine
    times = found.faster.tokens_per_s_per_gpu.mid / found.tokens_per_s_per_gpu.mid
    assert times > plans.FASTER and f"{times:.2g} times faster" in " ".join(found.warnings)
    for language, here in (("en", "runnable here"), ("ko", "여기서 실행")):
        text = report.text(found, language)
        at = next(n for n, line in enumerate(text.splitlines()) if line.startswith(f"    {here} "))
        assert found.faster.engine in text.splitlines()[at + 1] and at < 12
    other = plan(r, cluster, days=75, exact_gpus=True, engines="any")
    assert (
        other.engine
        and other.tokens_per_s_per_gpu.mid >= found.faster.tokens_per_s_per_gpu.mid * 0.999
    )
    assert other.tokens > found.tokens and other.faster is None


def test_stages_that_need_different_engines_are_said_first():
    one = plan(recipe(DENSE), Cluster(gpu="H100", gpus=8), tokens=1e9)
    a, b = one.stages
    said = plans._engines_note((a, b.replace(engine="Megatron-Core")))
    assert said == ["stages need different engines: text here; annealing with Megatron-Core"]
    assert plans._engines_note(one.stages) == []
    korean = report.text(one.replace(warnings=tuple(said)), "ko").splitlines()[2]
    assert "단계마다 필요한 엔진이 다름: 텍스트: 여기서 실행; 어닐링: Megatron-Core" in korean


# ---- answers that are kept


@pytest.fixture
def searches(monkeypatch):
    """Counts how often layouts were searched."""
    done = []
    choose = counts.Counts.choose
    monkeypatch.setattr(counts.Counts, "choose", lambda *args: done.append(args) or choose(*args))
    return done


def test_a_slip_of_days_does_not_search_again(tmp_path, searches):
    r, cluster = recipe(DENSE), Cluster(gpu="H100", gpus=13)
    first = plan(r, cluster, days=30, cache=tmp_path)
    again = plan(r, cluster, days=31, cache=tmp_path)
    assert len(searches) == 1 and again == plan(r, cluster, days=31).replace(search=again.search)
    assert first.search == again.search and first.days.mid == pytest.approx(30)


def test_everything_else_searches_again(tmp_path, searches, monkeypatch):
    r, cluster = recipe(DENSE), Cluster(gpu="H100", gpus=13)
    asked = [
        dict(),
        dict(engines="any"),
        dict(exact_gpus=True),
        dict(here=True),
        dict(software_year=2024.0),
        dict(precisions=("bf16", "fp8")),
        dict(days=30, budget_usd=1e5),
        dict(days=30, budget_usd=1e6),
    ]
    for n, how in enumerate(asked, 1):
        plan(r, cluster, cache=tmp_path, **how)
        plan(r, cluster, cache=tmp_path, **how)
        assert len(searches) == n, how
    plan(r, cluster.replace(nic_gb_per_s=10.0), cache=tmp_path)
    plan(recipe(SPARSE), cluster, cache=tmp_path)
    assert len(searches) == len(asked) + 2
    monkeypatch.setattr(saved, "version", lambda: "another")
    plan(r, cluster, cache=tmp_path)
    assert len(searches) == len(asked) + 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"inputs": 1}', b"\xff\xfe"])
def test_a_damaged_answer_is_none(tmp_path, searches, damage):
    r, cluster = recipe(DENSE), Cluster(gpu="H100", gpus=13)
    first = plan(r, cluster, cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert (
        plan(r, cluster, cache=tmp_path).replace(search=first.search) == first
        and len(searches) == 2
    )
    file.write_bytes(whole.replace(b'"gpus"', b'"sgpu"'))
    assert (
        plan(r, cluster, cache=tmp_path).replace(search=first.search) == first
        and len(searches) == 3
    )


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, searches):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        plan(recipe(DENSE), Cluster(gpu="H100", gpus=13), cache=tmp_path / "file" / "plans")
    assert len(searches) == 2


def test_the_oldest_answers_go(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "MOST", 3)
    store = saved.Saved(tmp_path)
    for n in range(5):
        store.put({"n": n}, {"answer": n})
    assert len(list(tmp_path.glob("*.json"))) == 3 and store.get({"n": 4}) == {"answer": 4}
    assert saved.Saved(None).get({"n": 4}) is None


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert saved.folder() == tmp_path / "onnuri" / "plans"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert saved.folder() == tmp_path / ".cache" / "onnuri" / "plans"


def test_the_command_keeps_answers_unless_told_not_to(monkeypatch, tmp_path, searches, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["plan", "hyperclovax_omni", "--gpu", "H100", "--gpus", "8", "--exact-gpus"]
    cli.main([*command, "--no-cache"])
    assert not list(tmp_path.rglob("*.json"))
    for days in ("30", "31"):
        cli.main([*command, "--days", days])
    assert len(list(tmp_path.rglob("*.json"))) == 1 and len(searches) == 2
    cli.main([*command, "--engines", "any"])
    assert (
        len(searches) == 3
        and "runnable here"
        not in capsys.readouterr().out.rpartition("\n  layout ")[2].split("\n")[0]
    )


@pytest.mark.parametrize(
    "wanted, why", [({"engines": "any", "layout": "dp=8"}, "engines any: stands beside a layout")]
)
def test_bad_input_is_one_line(wanted, why):
    with pytest.raises(ConfigError, match=why) as caught:
        plan(recipe(DENSE), Cluster(gpu="H100", gpus=8), **wanted)
    assert "\n" not in str(caught.value)


# ---- progress


class Stream:
    """A place to write that is a terminal or not."""

    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_plain_lines_come_every_half_minute(monkeypatch):
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr("onnuri.planner.progress.time.monotonic", lambda: next(clock))
    out = Stream(False)
    with SearchProgress("ko", out) as shown:
        for n in range(10):
            shown(100 - n, 100)
    assert 1 < len(out.text.splitlines()) < 6 and out.text.startswith("병렬화 구성 탐색 중: GPU ")


def test_a_terminal_gets_one_line_that_moves():
    out = Stream(True)
    with SearchProgress("en", out) as shown:
        shown(99, 100)
    assert "99 GPUs, best so far 100" in out.text or "searching layouts" in out.text


def test_a_search_reports_how_far_it_is():
    told = []
    plan(recipe(DENSE), Cluster(gpu="H100", gpus=13), report=lambda *line: told.append(line))
    assert told and told[0][0] == 13 and all(1 <= best <= 13 for _, best in told)


def test_a_budget_uses_fewer_gpus_too():
    found = budget.option(recipe(SPARSE), "system", Cluster(gpu="A100-40", gpus=37), 60)
    assert found.plan.cluster.gpus < 37 and found.plan.engine is None
