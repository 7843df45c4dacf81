"""Laws of loss, against their papers' own consequences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnuri.planner import loss


def test_epochs_refit_gives_chinchilla_its_own_size():
    """70B is optimal for Chinchilla's 5.76e23 FLOPs within the refit's errors (arXiv 2404.10102):
    about 20 tokens each."""
    best = min((loss.EPOCH.loss(n * 1e9, 5.76e23 / 6 / (n * 1e9)), n) for n in range(20, 200))[1]
    assert 5.76e23 / 6 / (best * 1e9) / (best * 1e9) == pytest.approx(20, rel=0.4)


@given(st.floats(1e21, 1e27))
def test_no_other_size_is_better_than_the_optimal_one(flops):
    for law in (loss.HOFFMANN, loss.EPOCH):
        params, tokens = law.optimal(flops)
        assert 6 * params * tokens == pytest.approx(flops)
        assert (
            law.loss(params, tokens)
            <= min(law.loss(params * k, tokens / k) for k in (0.9, 1.1)) + 1e-12
        )


def test_deepseeks_law_gives_its_own_budget():
    """C = M · D; its 67B on 2T tokens is within half of what it calls optimal (arXiv
    2401.02954)."""
    params, tokens = loss.optimal_sizes(6 * 67e9 * 2e12)["DeepSeek"]
    assert 6 * params * tokens == pytest.approx(
        6 * 67e9 * 2e12, rel=0.1
    ) and params == pytest.approx(67e9, rel=0.5)


def test_ling_mini_equals_the_dense_model_it_was_measured_against():
    assert loss.effective_params(17.5e9, 0.855e9, loss.SPARSITY.high) == pytest.approx(
        6.1e9, rel=0.02
    )
    assert loss.effective_params(8e9, 8e9) == pytest.approx(8e9)


@given(st.floats(1e9, 1e12), st.floats(0.02, 1.0), st.floats(1e11, 1e14), st.floats(0, 1e13))
def test_more_of_anything_is_never_worse_and_the_range_is_in_order(total, share, text, media):
    here = loss.expected_loss(total, total * share, text, media)
    if here is None:
        assert text + media < loss.effective_params(total, total * share)
        return
    assert here.low <= here.mid <= here.high
    for more in (
        (total * 2, total * 2 * share, text, media),
        (total, total * share, text * 2, media),
        (total, total * share, text, media + 1e12),
    ):
        more_of_it = loss.expected_loss(*more)
        assert more_of_it is None or more_of_it.mid <= here.mid
    assert min(loss.HOFFMANN.floor, loss.EPOCH.floor) < here.mid


def test_no_law_speaks_of_fewer_tokens_than_parameters():
    """Of the runs that Epoch read off, 6.8B parameters on 245M tokens reached 5.01: both laws say
    less than 3.8."""
    assert loss.expected_loss(6.8e9, 6.8e9, 245e6) is None and loss.EPOCH.loss(6.8e9, 245e6) < 3.8
    inside = loss.expected_loss(
        12.57e9, 12.57e9, 1.0697 * 12.57e9
    )  # the lowest share that the laws hold for
    assert (
        inside.low
        < (loss.HOFFMANN.loss(12.57e9, 13.446e9) + loss.EPOCH.loss(12.57e9, 13.446e9)) / 2 + 0.038
        < inside.high
    )


def test_a_token_of_another_modality_is_worth_between_none_and_one_of_text():
    none, omni, all_ = (
        loss.expected_loss(8e9, 8e9, 5e12 + more, media)
        for more, media in ((0, 0), (0, 5e12), (5e12, 0))
    )
    assert (
        all_.mid < omni.mid < none.mid
        and omni.low >= all_.low - 1e-3
        and omni.high <= none.high + 1e-3
    )
