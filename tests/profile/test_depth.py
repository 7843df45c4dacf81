"""What follows from few layers against what all of them count."""

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onnuri.model.backbone import build_hf_model
from onnuri.model.layers import layers_of
from onnuri.planner.parallel import ParallelConfig
from onnuri.profile import depth, dryrun
from onnuri.profile.trace import Window
from onnuri.recipes import find
from onnuri.recipes.nano import nano

LAYOUTS = {
    "shards": ParallelConfig(dp=4, recompute="none"),
    "experts": ParallelConfig(dp=4, ep=2, micro_batch=2, recompute="full"),
    "tensors": ParallelConfig(dp=2, tp=2, recompute="selective", sequence_parallel=False),
}


def same(one, other):
    keep = {"seconds": 0.0, "traced_layers": 0}
    assert one.replace(**keep).to_json() == other.replace(**keep).to_json()


@pytest.mark.parametrize(
    ("recipe", "layout"),
    [
        pytest.param("hyperclovax_omni", "shards", marks=pytest.mark.slow),
        *(
            pytest.param(*case, marks=pytest.mark.slow if "experts" in case else pytest.mark.long)
            for case in (("axk1", "experts"), ("axk1", "shards"), ("hyperclovax_omni", "tensors"))
        ),
    ],
)
def test_few_layers_say_what_all_count(recipe, layout):
    """A dense layer before the mixtures, one that recomputes, one whose products are cut."""
    values = {**nano(recipe).values, "vocab_size": 512, "hidden_size": 48, "num_hidden_layers": 30}
    if "mlp_layer_types" in values:
        values["mlp_layer_types"] = ["dense"] + ["sparse"] * 29
    few, all_ = (
        dryrun.trace(
            lambda: build_hf_model(find(recipe).family, values),
            "",
            LAYOUTS[layout],
            1,
            64,
            whole=whole,
        )
        for whole in (False, True)
    )
    assert few.traced_layers < few.layers == all_.traced_layers == 30
    same(few, all_)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("axk1", marks=pytest.mark.long),
        pytest.param("solar_open", marks=pytest.mark.long),
        pytest.param("hyperclovax_omni", marks=pytest.mark.slow),
    ],
)
def test_few_layers_of_a_recipe_say_what_all_count(recipe):
    few, all_ = (
        dryrun.run(find(recipe), find(recipe).gpus, whole=whole) for whole in (False, True)
    )
    assert few.traced_layers < few.layers == all_.traced_layers
    same(few, all_)


def test_layers_are_the_longest_list_of_a_network():
    short, long = (nn.ModuleList(nn.Linear(1, 1) for _ in range(n)) for n in (2, 5))
    for lists in ((short, long), (long, short)):
        assert layers_of(nn.ModuleDict({"a": lists[0], "b": lists[1]})) is long


@given(
    st.lists(st.integers(0, 1), max_size=3),
    st.lists(st.integers(2, 4), min_size=1, max_size=2),
    st.integers(1, 40),
    st.lists(st.integers(5, 6), max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_the_unit_that_repeats_is_found(before, unit, repeats, after):
    """Layers are alike where they are as wide; a row is taken apart into what it was made of, or
    into less to trace."""
    widths = [*before, *unit * repeats, *after]
    row = depth.find_pattern(nn.ModuleList(nn.Linear(1 + w, 1) for w in widths))
    wanted = sum(len(before) + len(after) + len(unit) * r for r in depth.REPEATS)
    if repeats > max(depth.REPEATS) and wanted <= depth.LARGEST_TRACED_SHARE * len(widths):
        assert row
    if row:
        assert row.layers == len(widths) and sum(row.cut(r).layers for r in depth.REPEATS) <= min(
            depth.LARGEST_TRACED_SHARE * len(widths), wanted
        )
        middle = widths[row.before : row.before + row.unit * row.repeats]
        assert middle == middle[: row.unit] * row.repeats
        for r in depth.REPEATS:  # a cut row is the whole one less some units
            assert [widths[k] for k in row.layers_of_cut(r)] == (
                widths[: row.before] + middle[: row.unit] * r + widths[len(widths) - row.after :]
            )


def counted(
    row,
    peak=lambda phase, layer, layers: (
        100 + 7 * layer + 3 * (layers - layer) + 50 * (phase == "backward")
    ),
):
    """A step that lives by a rule."""
    layers = row.layers
    windows = {
        (p, k): Window(
            Counter(activations=peak(p, k, layers) + 5), Counter(activations=peak(p, k, layers))
        )
        for p in ("forward", "backward")
        for k in range(layers)
    } | {("head", 0): Window(Counter(activations=9), Counter())}
    gathers = Counter({("all_gather", 8, 64, "fsdp"): layers})
    return depth.StepCounts(
        Counter(parameters=10 * layers),
        4 * layers + 1,
        11 * layers,
        gathers,
        torch.tensor([layers, 2 * layers]),
        windows,
    )


ROW = depth.LayerPattern(1, 2, 24, 1)


def test_lines_lead_to_the_whole_row():
    made = depth.extrapolate(ROW, [counted(ROW.cut(r)) for r in depth.REPEATS])
    whole = counted(ROW)
    assert made.peak == whole.peak and made.most("activations") == whole.most("activations")
    assert dataclasses.replace(made, sizes=None, windows={}) == dataclasses.replace(
        whole, sizes=None, windows={}
    )
    assert torch.equal(made.sizes, whole.sizes)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: dataclasses.replace(c, flops=c.flops + 1),
        lambda c: dataclasses.replace(c, calls=c.calls + Counter({("x", 1, 1, ""): 1})),
        lambda c: dataclasses.replace(c, sizes=c.sizes + torch.tensor([0, 1])),
        lambda c: dataclasses.replace(
            c, windows={**c.windows, ("backward", 1): Window(Counter(), Counter(activations=10**6))}
        ),
    ],
)
def test_what_is_no_line_is_not_followed(change):
    with pytest.raises(depth.NotAffine):
        depth.extrapolate(
            ROW,
            [
                *(counted(ROW.cut(r)) for r in depth.REPEATS[:2]),
                change(counted(ROW.cut(depth.REPEATS[2]))),
            ],
        )


def test_a_middle_that_bends_is_not_followed():
    def bent(phase, layer, layers):
        return 100 + layer + 40 * (1 < layer < layers - 2) * (layers > 5)

    row = depth.LayerPattern(0, 1, 20)
    with pytest.raises(depth.NotAffine, match="of layer"):
        depth.extrapolate(row, [counted(row.cut(r), bent) for r in depth.REPEATS])


def test_every_layer_that_is_judged_as_the_middle_is():
    """One before, units of two, one after: of six units the two in the middle and, as their
    neighbours, two more."""
    row = depth.LayerPattern(1, 2, 6, 1)
    refused = []
    for bump in range(row.layers):
        windows = {
            (phase, k): Window(
                Counter(), Counter(activations=100 + 7 * k + (k == bump and phase == "backward"))
            )
            for phase in ("forward", "backward")
            for k in range(row.layers)
        }
        try:
            depth._check_middle(row, windows)
        except depth.NotAffine:
            refused.append(bump)
    assert row.layers == 14 and refused == list(range(3, 11))
