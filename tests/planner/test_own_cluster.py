"""A cluster of one's own: what it changes, what it leaves, and how a slip is said."""

import pytest

import onnuri
from onnuri.cli import main
from onnuri.errors import ConfigError
from onnuri.planner import hardware, own_cluster
from onnuri.planner.cost import price
from onnuri.planner.own_cluster import Own

LAYOUT = {"layout": "own"}
LAB = """gpus = 256
price_usd = 1.5
[gpu]
name = "Zeta1"
bf16_tflops = 989
fp8_tflops = 1979
memory_gib = 128
memory_tb_per_s = 3.35
nvlink_gbps = 450
nic_gbps = 400
gemm_tflops = 700
power_w = 650
launched = 2023.0
"""


def planned(**figures):
    return onnuri.plan("hyperclovax_omni", {"gpu": "H200", **figures}, **LAYOUT)


@pytest.mark.parametrize("name", ["H100", "H200", "GB200", "A100-80"])
def test_the_tables_own_figures_change_nothing(name):
    """Whoever says what the table says gets the table's plan: units are read as they are named."""
    row = hardware.gpu(name)
    said = {
        "nic_gbps": row.nic_gb_per_s * 8,
        "nvlink_gbps": row.link_gb_per_s,
        "gemm_tflops": row.gemm_share * row.bf16_tflops,
        "power_w": row.power_w,
        "memory_gib": row.memory_bytes / 2**30,
        "memory_tb_per_s": row.memory_tb_per_s,
        "nvlink_domain": row.domain,
        "gpus_per_node": 8,
    }
    if row.fp8_tflops:
        said["gemm_fp8_tflops"] = row.gemm_fp8_share * row.fp8_tflops
    precision = "fp8" if row.fp8_tflops else "bf16"
    layout = f"dp=1024,ep=8,fsdp,recompute=full,{precision}"
    plain, mine = (
        onnuri.plan("axk1", {"gpu": name, "gpus": 1024, **more}, layout=layout)
        for more in ({}, said)
    )
    assert mine.step_seconds.mid == pytest.approx(plain.step_seconds.mid)
    assert mine.memory_gib == plain.memory_gib and mine.capacity_gib == pytest.approx(
        plain.capacity_gib
    )
    assert mine.bill.energy_mwh.mid == pytest.approx(plain.bill.energy_mwh.mid)
    assert mine.goodput == plain.goodput


@pytest.mark.parametrize(
    "figures, slower",
    [
        ({"nic_gbps": 50}, True),
        ({"nvlink_gbps": 40}, True),
        ({"gemm_tflops": 400}, True),
        ({"power_w": 350}, True),
        ({"memory_tb_per_s": 1.5}, True),
        ({"compiled": True}, False),
        ({"gemm_tflops": 950}, False),
    ],
)
def test_a_worse_machine_is_slower_and_a_better_one_faster(figures, slower):
    change = planned(**figures).step_seconds.mid / planned().step_seconds.mid
    assert change > 1.001 if slower else change < 0.999


def test_measured_fp8_products_speed_fp8_alone():
    def step(precision, **more):
        layout = f"dp=1024,ep=8,fsdp,recompute=full,{precision}"
        return onnuri.plan(
            "axk1", {"gpu": "H200", "gpus": 1024, **more}, layout=layout
        ).step_seconds.mid

    assert step("fp8", gemm_fp8_tflops=1900) < step("fp8") < step("fp8", gemm_fp8_tflops=700)
    assert step("bf16", gemm_fp8_tflops=1900) == step("bf16")


def test_dollars_energy_and_serving_follow_ones_own_price_and_power():
    plain, mine = planned(), planned(price_usd=2.0, power_w=1400)
    assert mine.bill.usd.mid == pytest.approx(2 * mine.gpu_hours.mid, rel=1e-6)
    assert mine.bill.usd.high / mine.bill.usd.mid == pytest.approx(
        mine.gpu_hours.high / mine.gpu_hours.mid
    )
    assert mine.bill.energy_mwh.mid == pytest.approx(2 * plain.bill.energy_mwh.mid)
    assert mine.step_seconds == plain.step_seconds  # more power than the board's own speeds nothing
    listed = price(hardware.gpu("H200")).mid
    assert (
        mine.serving.usd_per_million_tokens.mid / plain.serving.usd_per_million_tokens.mid
        == pytest.approx(2 / listed)
    )
    assert planned(gpu="B300", price_usd=3).bill.usd and not planned(gpu="B300").bill.usd


def test_nodes_of_other_sizes_fail_and_talk_otherwise():
    small, large = (Own(gpu="H100", gpus=64, gpus_per_node=n).cluster() for n in (4, 16))
    assert (small.node, small.kind.domain) == (4, 4) and (large.node, large.kind.domain) == (16, 16)
    rack = Own(gpu="GB200", gpus=144, gpus_per_node=4).cluster()
    assert (rack.node, rack.kind.domain) == (4, 72)  # a rack's links go beyond its trays
    pairs = Own(gpu="H100-PCIe", gpus=64, gpus_per_node=8).cluster()
    assert (pairs.node, pairs.kind.domain) == (8, 2)  # a bridge joins two, whatever a node holds
    assert planned(gpus_per_node=4).goodput.mttf_hours.mid < planned().goodput.mttf_hours.mid


def test_what_is_yours_is_said_beside_the_tables():
    said = "; ".join(
        planned(price_usd=2, nic_gbps=200, nvlink_gbps=900, compiled=True).evidence["cluster"]
    )
    for part in (
        "price: yours, 2 dollars a GPU hour (table: 2.5 to 10.6)",
        "network: yours, 200 Gb/s a GPU, one way (table: 400)",
        "twice the table's",
        "compiled kernels of Onnuri's own step: yours",
    ):
        assert part in said
    assert "cluster" not in planned().evidence
    assert "your price" in planned(price_usd=2).evidence["bill"][0]


def test_a_file_with_a_gpu_of_ones_own(tmp_path, capsys):
    file = tmp_path / "lab.toml"
    file.write_text(LAB)
    mine = onnuri.plan("hyperclovax_omni", file, layout="fsdp,recompute=full,bf16")
    assert (
        mine.cluster.gpu == "Zeta1"
        and mine.cluster.gpus == 256
        and mine.capacity_gib == pytest.approx(128)
    )
    assert mine.bill.usd.mid == pytest.approx(1.5 * mine.gpu_hours.mid, rel=1e-6)
    assert mine.cluster.kind.gemm_share == 700 / 989
    assert (
        onnuri.plan("hyperclovax_omni", str(file), layout="fsdp,recompute=full,bf16").days
        == mine.days
    )
    main(
        [
            "plan",
            "hyperclovax_omni",
            "--cluster",
            str(file),
            "--gpus",
            "128",
            "--price-usd",
            "3",
            "--layout",
            "fsdp,recompute=full,bf16",
        ]
    )
    said = capsys.readouterr().out
    assert (
        "128 Zeta1" in said and "yours, 3 dollars" in said and "special_tera_per_s" in said
    )  # flags before the file
    assert type(mine).from_json(mine.to_json()) == mine


def test_a_row_equal_to_the_tables_plans_as_the_tables(tmp_path):
    row = hardware.gpu("H100")
    like = own_cluster.of(
        {
            "gpus": 1024,
            "gpu": {
                "name": "Twin",
                "bf16_tflops": row.bf16_tflops,
                "fp8_tflops": row.fp8_tflops,
                "memory_gib": row.memory_bytes / 2**30,
                "memory_tb_per_s": row.memory_tb_per_s,
                "nvlink_gbps": row.link_gb_per_s,
                "nic_gbps": row.nic_gb_per_s * 8,
                "gemm_tflops": row.gemm_share * row.bf16_tflops,
                "launched": row.launched,
                "power_w": row.power_w,
                "special_tera_per_s": row.special_tera_per_s,
                "nvlink_domain": row.domain,
            },
        }
    ).cluster()
    twin, table = (
        onnuri.plan("axk1", c, layout="dp=1024,ep=8,fsdp,recompute=full,bf16")
        for c in (like, "1024xH100")
    )
    assert twin.step_seconds.mid == pytest.approx(table.step_seconds.mid)
    assert (
        twin.tokens_per_s_per_gpu.low < table.tokens_per_s_per_gpu.low
    )  # nobody has published a run on it


WRONG = [
    ("--price-usd 0", "price_usd 0", "0.001"),
    ("--price-usd -3", "price_usd -3", "write"),
    ("--price-usd nan", "price_usd nan", "number"),
    ("--price-usd inf", "price_usd inf", "1,000"),
    ("--nic-gbps 0", "nic_gbps 0", "Gb/s"),
    ("--nvlink-gbps -1", "nvlink_gbps -1", "GB/s"),
    ("--gemm-tflops 2000", "gemm_tflops 2000", "peak of a H200, 989"),
    ("--gemm-fp8-tflops 2500", "gemm_fp8_tflops 2500", "peak"),
    ("--gpu A100-80 --gemm-fp8-tflops 300", "gemm_fp8_tflops 300", "leave it out"),
    ("--gpus-per-node 0", "gpus_per_node 0", "from 1"),
    ("--nvlink-domain -8", "nvlink_domain -8", "from 1"),
    ("--power-w 1", "power_w 1", "from 10"),
    ("--memory-gib 0.5", "memory_gib 0.5", "GiB"),
    ("--memory-tb-per-s 0", "memory_tb_per_s 0", "TB/s"),
    ("--cluster nowhere.toml", "nowhere.toml", "cannot be read"),
    ("--cluster /", "/", "cannot be read"),
]


@pytest.mark.parametrize("flags, value, rule", WRONG)
@pytest.mark.parametrize(
    "verb", ["axk1 --layout own", "budget --gpu H200 --gpus 8 --days 30"], ids=["plan", "budget"]
)
def test_a_wrong_figure_is_one_line_and_status_2(verb, flags, value, rule, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *verb.split(), *flags.split()])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert value in said.err and rule in said.err and said.err.count("; ") >= 1


@pytest.mark.parametrize(
    "text, value, repair",
    [
        ("price_us = 2", "price_us", "did you mean price_usd?"),
        ("nic-gbps = 2", "nic-gbps", "did you mean nic_gbps?"),
        ("wombat = 2", "wombat", "known are gpu, gpus"),
        ("[gpu]\nname = 'Z'", "[gpu]", "lacks bf16_tflops"),
        (LAB.replace("memory_gib", "memory_gb"), "gpu.memory_gb", "did you mean gpu.memory_gib?"),
        (LAB.replace("Zeta1", "h100"), "gpu.name 'h100'", 'write gpu = "H100"'),
        (LAB.replace('"Zeta1"', "7"), "gpu.name 7", "name"),
        (LAB.replace("= 989", "= 'fast'"), "gpu.bf16_tflops 'fast'", "is not a number"),
        ("gpu = 7", "gpu 7", "name"),
        (LAB.replace("= 700", "= 1200"), "gpu.gemm_tflops 1200", "989"),
        ("gpus = 8.5", "gpus 8.5", "whole"),
        ("gpus = true", "gpus True", "number"),
        ("gpu = 'H2O0'", "H2O0", "H200"),
        ("compiled = 1", "compiled 1", "true"),
        ("", "c.toml", "says nothing of a cluster"),
        ("# a lab\n", "c.toml", "says nothing of a cluster"),
        ("gpu = ", "c.toml", "is not TOML"),
        ("gpu = 'B200'", "'H200'", "leave one of them out"),
        ("gpus = 0", "0 GPUs", "from 1"),
    ],
)
def test_a_slip_in_a_file_names_the_key_and_the_repair(text, value, repair, tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text(text)
    extra = ["--gpu", "H200"] if "B200" in text else []
    with pytest.raises(SystemExit) as stop:
        main(["plan", "axk1", "--layout", "own", "--cluster", str(file), *extra])
    said = capsys.readouterr()
    assert (
        stop.value.code == 2
        and said.out == ""
        and said.err.count("\n") == 1
        and value in said.err
        and repair in said.err
    )


@pytest.mark.parametrize(
    "cluster",
    [{"gpu": "H200", "gpus": "many"}, {"gpu": "H200", "gpus": 8, "prize_usd": 2}, {"gpu": ""}],
)
def test_a_dict_is_held_to_the_same_rules(cluster):
    with pytest.raises(ConfigError):
        onnuri.plan("axk1", cluster, layout="own")
