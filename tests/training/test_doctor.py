"""`onnuri doctor` tries what it reports: on this machine, on a folder that cannot be written, and on
the table of a machine with GPUs."""

import subprocess

import pytest
from processes import start_python

from onnuri.training import doctor

MATRIX = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\x1b[0m
GPU0\t X \tNV18\tSYS\tPIX\t0-47
GPU1\tNV18\t X \tSYS\tPIX\t0-47
GPU2\tSYS\tSYS\t X \tSYS\t48-95
NIC0\tPIX\tPIX\tSYS\t X \t

Legend:
  SYS  = Connection traversing PCIe
"""


def run_doctor(folder):
    """Status, output and errors of `onnuri doctor` in an interpreter that may start others."""
    pipe = subprocess.PIPE
    process = start_python(
        "-m", "onnuri", "doctor", "--out", folder, stdout=pipe, stderr=pipe, text=True
    )
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.mark.slow
def test_a_machine_that_can_train_has_status_0(tmp_path):
    status, output, errors = run_doctor(tmp_path / "not/yet/there")
    assert (status, errors) == (0, "")
    lines = [line.split(maxsplit=2) for line in output.splitlines()]
    names = ["torch", "CUDA", "NCCL", "links", "attention", "gloo", "disk", "clock"]
    assert [name for _, name, _ in lines] == names
    status_of = {name: status for status, name, _ in lines}
    assert all(status_of[name] == "ok" for name in ("torch", "attention", "gloo"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_has_status_1(tmp_path):
    (tmp_path / "file").write_text("")
    status, output, _ = run_doctor(tmp_path / "file/runs")
    (line,) = [line for line in output.splitlines() if line.startswith("missing ")]
    assert status == 1 and line.split()[1] == "disk" and "--out" in line


def test_attention_of_this_machine_is_right():
    assert doctor.check_attention().status == "ok"


def test_links_are_those_between_gpus():
    assert doctor.gpu_links(MATRIX) == {"NV18", "SYS"}


def test_an_old_torch_is_missing(monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.9.1")
    assert doctor.check_torch().status == "missing"


@pytest.mark.parametrize("clock, status", [(1.0, "ok"), (1.5, "warning")])
def test_a_wall_clock_that_is_being_set_shows(monkeypatch, clock, status):
    start = doctor.time.time()
    monkeypatch.setattr(
        doctor.time, "time", lambda: start + clock * (doctor.time.monotonic() - began)
    )
    began = doctor.time.monotonic()
    assert doctor.check_clock().status == status
