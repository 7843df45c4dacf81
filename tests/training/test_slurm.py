"""The batch file that `onnuri launch` writes is one that bash reads; mistakes are found before the
queue finds them. tests/recipes/test_launch.py runs it with a stubbed Slurm."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from onnuri.cli import main, parse


def launched(tmp_path, *arguments):
    """The text of the file that `onnuri launch axk1 ARGUMENTS` writes."""
    file = tmp_path / "job.sbatch"
    main(["launch", "axk1", "--target", "slurm", *arguments, "-o", str(file)])
    return file.read_text()


def test_bash_reads_the_file_and_slurm_its_head(tmp_path):
    text = launched(
        tmp_path, "--gpus", "32", "--gpus-per-node", "8", "--layout", "ep=8,fsdp", "--hours", "1.5"
    )
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    settings = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    assert settings["nodes"] == "4" and settings["gpus-per-node"] == "8"
    assert settings["time"] == "1:30:00" and settings["signal"] == "B:TERM@120"
    assert "#SBATCH --requeue\n" in text and "torchrun --nnodes=4 --nproc-per-node=8" in text


def test_the_training_command_is_one_that_the_command_line_reads(tmp_path):
    run = tmp_path / "a run's folder"
    text = launched(tmp_path, "--preset", "nano", "--layout", "fsdp", "--run", str(run))
    command = re.search(r"-m onnuri (.*) &$", text, re.MULTILINE)
    recipe = parse(shlex.split(command[1])).what
    assert (recipe.recipe, recipe.preset, recipe.layout) == ("axk1", "nano", "fsdp")
    assert recipe.out == Path(run)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ("--gpus 0", "--gpus 0: is less than 1"),
        ("--gpus 12", "give such as 16"),
        ("--warning-seconds -5", "is less than 0"),
        ("--gpus 8 --layout dp=4", "takes 4 GPUs, and --gpus is 8"),
        ("--gpus 8 --layout dp=4,pp=2", "needs "),
        ("--gpus 8 --layout warp=2", "'warp=2'"),
        ("--preset evening", "use nano, smoke"),
        ("--hours nan", "--hours nan"),
        ("--hours 0.01", "--hours 0.01"),
        ("--target kubernetes", "kubernetes"),
    ],
)
def test_a_job_that_cannot_run_is_one_line(tmp_path, arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        launched(tmp_path, *arguments.split())
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.count("\n") == 1 and complaint in errors
    assert not (tmp_path / "job.sbatch").exists()
