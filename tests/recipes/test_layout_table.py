"""`onnuri verify-table`: its rows, its cells and what it refuses."""

import json
from pathlib import Path

import pytest
from processes import start_python

from onnuri import recipes
from onnuri.cli import main
from onnuri.parallel.apply import check_divides, experts_of
from onnuri.planner.parallel import ParallelConfig, parse, to_string
from onnuri.recipes import layout_table
from onnuri.recipes.layout_table import COLUMNS, LayoutTable, PlannedLayout, rows_for, scaled
from onnuri.training.verify import Difference, Tolerances, Verification, _routers, layouts_for
from onnuri.training.verify_config import VerifyConfig

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "layout_table.json"


def table(*models, plans=()):
    """A table of models, each the differences of its layouts."""
    verifications = tuple(
        Verification(name=f"m{k}", differences=each, packing=0.0, allowed=Tolerances())
        for k, each in enumerate(models)
    )
    return LayoutTable(
        machine="", config=VerifyConfig(), seconds=0.0, plans=plans, models=verifications
    )


def test_rows_are_all_kinds_of_layouts_and_those_of_the_plans():
    rows, plans = rows_for(4)
    every = layouts_for(4, True, combinations=True)
    assert rows[: len(every)] == every
    assert len(set(map(to_string, rows))) == len(rows)
    assert [plan.recipe for plan in plans] == list(recipes.NAMES)
    assert {plan.row for plan in plans} <= set(map(to_string, rows))


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_stage_of_a_frozen_plan_is_a_row(name):
    rows = set(map(to_string, rows_for(4)[0]))
    answer = json.loads(recipes.frozen(name).read_text())
    layouts = [answer["layout"], *(stage["layout"] for stage in answer["stages"])]
    assert {to_string(scaled(ParallelConfig.from_json(each), 4)) for each in layouts} <= rows


@pytest.mark.parametrize(
    "plan, row",
    [
        ("dp=512,ep=8,micro_batch=8,hsdp:32,recompute=full", "dp=4,ep=2,hsdp:2,recompute=full"),
        ("dp=512,fsdp", "dp=4,fsdp,recompute=selective"),
        ("dp=64,tp=8,ep=8,ddp", "dp=2,tp=2,ep=2,ddp,recompute=selective"),
        ("dp=64,tp=8,hsdp:8", "dp=2,tp=2,hsdp:1,recompute=selective"),
    ],
)
def test_a_plan_is_scaled_down_to_its_kinds_of_parallelism(plan, row):
    assert to_string(scaled(parse(plan, 512), 4)) == f"{row},bf16"


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_layout_divides_every_columns_model(column):
    rows, config = rows_for(4)[0], column.outline().config
    cells = column.cells(rows)
    assert set(rows) - set(cells) == {row for row in rows if row.ep > 1 and not experts_of(config)}
    for layout in cells:
        check_divides(config, layout)


def test_columns_have_the_property_that_they_are_named_after():
    configs = {column.name: column.outline().config for column in COLUMNS}
    assert configs["llama"].num_key_value_heads < configs["llama"].num_attention_heads
    assert configs["MLA"].kv_lora_rank and configs["mixture"].num_experts
    assert set(configs["windows"].layer_types) == {"sliding_attention", "full_attention"}
    # shorter than sequences, or a window hides nothing
    assert configs["windows"].sliding_window < VerifyConfig().tokens // 4
    assert [name for name, each in configs.items() if each.tie_word_embeddings] == ["tied"]
    assert [column.name for column in COLUMNS if column.unpacked] == ["packed"]


def test_choices_are_recorded_of_routers_of_any_spelling():
    outlines = {column.name: column.outline() for column in COLUMNS}
    found = {name: len(_routers(outline)) for name, outline in outlines.items()}
    # DeepSeek's is a TopkRouter, Qwen's a TopKRouter
    assert {name: n for name, n in found.items() if n} == {"MLA": 1, "mixture": 2}


def test_cells_say_the_largest_difference_or_why_there_is_none():
    whole = table(
        (
            Difference(layout="a,bf16", norm=3e-14, exported=2e-13),
            Difference(layout="b,bf16", norm=0.1),
        ),
        (Difference(layout="a,bf16", refused="x"), Difference(layout="c", crashed="y")),
        (Difference(layout="c", refused="z"), Difference(layout="b,bf16", refused="x")),
    )
    assert whole.texts() == [
        ["a", "2e-13", "refused 1", "–"],
        ["b", "wrong 1e-01", "–", "refused 1"],
        ["c", "–", "ended", "refused 2"],
    ]
    assert (whole.cells, whole.refused, whole.refusals) == (6, 3, ["x", "z"])
    assert whole.failures() == [
        "m0, b,bf16: gradient norm differs by 1.0e-01 (allowed 1e-11)",
        "m1, c: ended with an error: y",
    ]


def test_a_refused_layout_of_a_plan_is_wrong():
    plan = PlannedLayout(recipe="axk1", plan="dp=8", row="a")
    refused = (Difference(layout="a", refused="x"), Difference(layout="b"))
    assert not table(refused).failures()
    assert table(refused, plans=(plan,)).failures() == [
        "m0, a: refused, and the plan of axk1 needs it"
    ]
    assert table(refused[:1]).failures() == ["no layout was compared"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--world-size", "2", "--rows", "2"], "--world-size 2: is less than 4"),
        (["--steps", "1"], "--steps 1: is less than 2"),
        (["--layouts", "dp=2"], "--layouts dp=2: takes 2 ranks, and --world-size is 4"),
        (["-o", "/proc/no/file.json"], "cannot be a folder"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(["verify-table", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1


def test_the_committed_table_is_right_and_refuses_at_most_a_tenth():
    stored = LayoutTable.load(RESULT)
    assert not stored.failures() and 10 * stored.refused <= stored.cells
    assert [model.name for model in stored.models] == [column.name for column in COLUMNS]
    assert {plan.row for plan in stored.plans} <= set(stored.layouts)
    assert stored.plans == rows_for(4)[1]


@pytest.mark.parametrize("norm, status", [(1e-15, None), (1e-3, 1)])
def test_the_command_prints_writes_and_fails_where_a_cell_differs(
    tmp_path, capsys, monkeypatch, norm, status
):
    def verify(name, build, outline, config, layouts, report, unpacked):
        each = tuple(Difference(layout=to_string(layout), norm=norm) for layout in layouts)
        report(each[0])
        return Verification(name=name, differences=each, packing=0.0, allowed=Tolerances())

    monkeypatch.setattr(layout_table, "verify", verify)
    arguments = ["--layouts", "dp=4,fsdp", "--layouts", "dp=4,ep=2", "-o", str(tmp_path / "t.json")]
    if status:
        with pytest.raises(SystemExit) as stop:
            main(["verify-table", *arguments])
        assert stop.value.code == status
    else:
        main(["verify-table", *arguments])
    said = capsys.readouterr().out
    assert f"{norm:.0e}" in said and "8 cells, 0 refused" in said
    assert ("differs by 1.0e-03" in said) == (status == 1)
    stored = LayoutTable.load(tmp_path / "t.json")
    assert stored.config.steps == 4 and stored.cells == 8 and not stored.plans


@pytest.mark.long
def test_the_command_verifies_columns_and_writes_them(tmp_path):
    out = tmp_path / "table.json"
    command = ("-m", "onnuri", "verify-table", "--steps", "2", "-o", out)
    with (tmp_path / "log").open("w") as log:
        layout = "dp=4,ep=2,hsdp:2,recompute=full"
        process = start_python(*command, "--layouts", layout, stdout=log, stderr=log)
    text = (tmp_path / "log").read_text
    assert process.wait() == 0, text()[-3000:]
    assert "2 cells, 0 refused" in text()
    assert [model.name for model in LayoutTable.load(out).models] == ["MLA", "mixture"]
