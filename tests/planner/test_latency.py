"""Serving within limits, against Little's law, counting by hand and DeepSeek's published
prefill."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.cli import main
from onnuri.errors import ConfigError
from onnuri.planner import latency, serving_cost, shapes
from onnuri.planner.hardware import Cluster, gpu
from onnuri.planner.latency import Demand, limited

LLAMA, DEEPSEEK = shapes.shape("Llama3-8B"), shapes.shape("DeepSeek-V3-671B")
H100 = Cluster(gpu="H100", gpus=64)
MIDS = (serving_cost.BANDWIDTH.mid, serving_cost.PRODUCTS.mid, serving_cost.LAYER_SECONDS.mid)


def server(a, kind, asked):
    return latency._Server(a, gpu(kind), asked, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 100_000),
    st.integers(1, 4_000),
    st.one_of(st.none(), st.floats(0.01, 10)),
    st.one_of(st.none(), st.floats(0.001, 1)),
)
def test_limits_are_kept_one_more_user_breaks_them_and_littles_law_holds(isl, osl, ttft, tpot):
    found = limited(LLAMA, H100, Demand(isl=isl, osl=osl, ttft=ttft, tpot=tpot))
    on = server(LLAMA, "H100", found.demand)
    if not found.met:
        assert found.users == 1 and found.bound in ("ttft", "tpot")
        best = {n: (on.ttft(n, 1, *MIDS), on.tpot(n, 1, *MIDS)) for n in (1, 2, 4, 8)}
        assert all(
            (ttft and t > ttft) or (tpot and p > tpot) for t, p in best.values()
        )  # no instance can
        return
    assert ttft is None or found.ttft.mid <= ttft
    assert tpot is None or found.tpot.mid <= tpot
    assert on.broken_limit(found.gpus, found.users + 1) == found.bound
    kept = serving_cost.kv_bytes(LLAMA, max(1, isl + osl // 2))
    most = (
        found.gpus * gpu("H100").memory_bytes * serving_cost.MEMORY_SHARE - LLAMA.num_params()
    ) / kept  # weights in 8 bits
    assert found.users <= max(1, most) and (found.bound != "memory" or found.users + 1 > most)
    assert found.bound == "memory" or ttft or tpot
    # users at once = requests a second x seconds that each writes for (Little 1961)
    assert found.users == pytest.approx(found.requests_per_s.mid * osl * found.tpot.mid)
    assert found.tokens_per_s_per_gpu.mid == pytest.approx(
        found.requests_per_s.mid * osl / found.gpus
    )


def test_prefill_by_hand_and_as_deepseek_published():
    """A dense model's prompt is 2 FLOPs a parameter and token, and half the square of its length in
    attention."""
    asked = Demand(isl=4096, osl=1)
    on = server(LLAMA, "H100", asked)
    weights = LLAMA.num_params() - LLAMA.embedding()
    attention = (
        32 * 32 * 128 * 2 * 2 * 4096**2 / 2
    )  # layers, heads, width; scores and sums, 2 FLOPs each; causal half
    flops = 2 * weights * 4096 + attention
    assert on.prefill(1, *MIDS) == pytest.approx(
        flops / (gpu("H100").fp8_tflops * 1e12 * MIDS[1]), rel=0.01
    )
    # its inference system overview, 2025-03: 73,700 tokens a second and node of 8 H800, 56.3 % of
    # them from the cache
    published = 73_700 * (1 - 0.563) / 8
    deepseek = server(DEEPSEEK, "H800", asked)
    slow, fast = (
        4096 / 16 / deepseek.prefill(16, bandwidth, products, layer)
        for bandwidth, products, layer in (
            (
                serving_cost.BANDWIDTH.low,
                serving_cost.PRODUCTS.low,
                serving_cost.LAYER_SECONDS.high,
            ),
            (
                serving_cost.BANDWIDTH.high,
                serving_cost.PRODUCTS.high,
                serving_cost.LAYER_SECONDS.low,
            ),
        )
    )
    assert slow <= published <= fast


def test_looser_limits_serve_no_fewer_tokens_and_a_cache_shortens_prefill():
    rates = [
        limited(LLAMA, H100, Demand(isl=4000, osl=500, tpot=t)).tokens_per_s_per_gpu.mid
        for t in (0.01, 0.02, 0.05, 0.2)
    ]
    assert rates == sorted(rates)
    whole, cached = (
        limited(LLAMA, H100, Demand(isl=8000, osl=500, tpot=0.05, prompts_per_token=r))
        for r in (None, 2.0)
    )
    assert (
        cached.ttft.mid < whole.ttft.mid
        and cached.tokens_per_s_per_gpu.mid > whole.tokens_per_s_per_gpu.mid
    )
    alike = limited(LLAMA, H100, Demand(isl=8000, osl=500, tpot=0.05, prompts_per_token=16.0))
    assert alike.replace(demand=whole.demand) == whole  # 16 x 500 tokens are the whole prompt


def test_dollars_of_input_and_output_sum_to_the_gpus_hours():
    found = limited(
        LLAMA,
        H100.replace(own=gpu("H100").replace(usd_low=2.0, usd_high=2.0)),
        Demand(isl=4000, osl=500, tpot=0.05),
    )
    read = found.usd_per_million_input.mid * found.requests_per_s.mid * 4000 / 1e6
    written = found.usd_per_million_output.mid * found.requests_per_s.mid * 500 / 1e6
    assert read + written == pytest.approx(
        found.gpus * 2 / 3600 / serving_cost.BUSY.mid
    )  # hours without users too


def test_what_cannot_be_met_is_said_with_what_can(capsys):
    arguments = ["plan", "hyperclovax_omni", "--layout", "own", "--isl", "4000", "--osl", "500"]
    main([*arguments, "--ttft", "500", "--tpot", "0.1"])
    said = capsys.readouterr().out
    assert "cannot be met (TPOT). What can: 8 GPU(s)" in said
    main([*arguments, "--ttft", "0.5s", "--tpot", "50ms", "--language", "ko"])
    assert (
        "첫 토큰 500 ms 이하, 토큰당 50 ms 이하" in (said := capsys.readouterr().out)
        and "지킬 확률" in said
    )


@pytest.mark.parametrize(
    "flags, value, rule",
    [
        ("--isl 0 --osl 5", "isl 0", "1 to"),
        ("--isl 5 --osl -3", "osl -3", "1 to"),
        ("--isl 5", "serving", "lacks --osl"),
        ("--ttft 5", "serving", "lacks --isl and --osl"),
        ("--isl 5 --osl 5 --ttft soon", "ttft 'soon'", "is not a time"),
        ("--isl 5 --osl 5 --tpot 0", "tpot 0 ms", "above 0"),
        ("--isl 5 --osl 5 --tpot -4", "tpot -4 ms", "above 0"),
        ("--isl 5 --osl 5 --ttft 1e9", "ttft 1e+09 ms", "3600 s"),
        ("--isl 5 --osl 5 --prompts-per-token 2", "prompts per token 2", "isl / osl, 1"),
        ("--isl 5 --osl 5 --prompts-per-token nan", "prompts per token nan", "isl / osl"),
        ("--isl 99999999999 --osl 5", "isl 99999999999", "10,000,000"),
    ],
)
def test_a_wrong_demand_is_one_line_and_status_2(flags, value, rule, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "hyperclovax_omni", "--layout", "own", *flags.split()])
    said = capsys.readouterr()
    assert (
        stop.value.code == 2
        and said.out == ""
        and said.err.count("\n") == 1
        and value in said.err
        and rule in said.err
    )


@pytest.mark.parametrize(
    "text, seconds",
    [("500", 0.5), ("500ms", 0.5), ("2s", 2.0), (" 1.5 s", 1.5), ("1e3", 1.0), (None, None)],
)
def test_times(text, seconds):
    assert latency.seconds("ttft", text) == seconds
    for wrong in ("", "ms", "5m", "five", "1_0"):
        with pytest.raises(ConfigError):
            latency.seconds("ttft", wrong)
