"""This module writes the file with which Slurm starts a recipe's training over many GPUs.

The file starts one torchrun per node; all of them meet on the first node. Slurm signals the batch
shell before the time limit, which passes it on to training: the step ends, its state is stored, and
the job is put in the queue again, where the same file goes on. The module knows no recipe and no
Slurm cluster.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.files import write_bytes
from onnuri.parallel.layout import parse_layout

PORT_BASE, PORTS = 20_000, 20_000
"""first port and number of ports among which a job's number chooses where its nodes meet"""
RESTARTS = 3
"""times that torchrun starts all ranks again, from the newest state, after one has failed"""
TEMPLATE = """\
#!/bin/bash
# Written by `onnuri launch`. Start it with: sbatch {file}
#SBATCH --job-name={job}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus_per_node}
#SBATCH --exclusive
#SBATCH --time={time}
#SBATCH --output={job}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@{warning_seconds}

set -u
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$(({port_base} + SLURM_JOB_ID % {ports}))

# {warning_seconds} s before the end: training finishes its step and stores its state
stopped=
stop() {{
  stopped=yes
  scancel --signal=TERM "$SLURM_JOB_ID"  # the steps' processes, not this shell
}}
trap stop TERM

srun --kill-on-bad-exit=1 \\
  torchrun --nnodes={nodes} --nproc-per-node={gpus_per_node} --max-restarts={restarts} \\
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first_node:$port" \\
  -m onnuri {command} &
running=$!
wait "$running"
status=$?
while kill -0 "$running" 2>/dev/null; do  # `wait` returns early when a signal is handled
  wait "$running"
  status=$?
done

if [ -n "$stopped" ] && [ "$status" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


class SlurmJob(Config):
    """A SlurmJob says how many GPUs a job takes, for how long, and what it trains on them."""

    preset: str | None = None
    """the recipe's preset; its first one without it"""
    gpus: int = 8
    """number of GPUs over all nodes, one rank each"""
    gpus_per_node: int = 8
    """number of GPUs of a node, all of which a job takes"""
    layout: str | None = None
    """how ranks share the model; None: FSDP over all ranks"""
    run: Path | None = None
    """folder of the run, on a disk that all nodes see; None: that of `onnuri train`"""
    hours: float = 24.0
    """time limit of one sitting"""
    warning_seconds: int = 120
    """seconds before the time limit at which training is asked to stop"""

    def check(self) -> None:
        """Raise ConfigError for numbers of GPUs that fill no whole nodes, for a time limit that the
        warning fills, and for a layout of another number of GPUs."""
        for flag, value in (("gpus", self.gpus), ("gpus-per-node", self.gpus_per_node)):
            if value < 1:
                raise ConfigError(f"--{flag} {value}", "is less than 1", "give a whole number")
        if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
            raise ConfigError(
                f"--gpus {self.gpus}",
                f"fills no whole nodes of {self.gpus_per_node}",
                f"give such as {-(-self.gpus // self.gpus_per_node) * self.gpus_per_node}",
            )
        if self.warning_seconds < 0:
            raise ConfigError(
                f"--warning-seconds {self.warning_seconds}", "is less than 0", "give such as 120"
            )
        # also false for what is no number
        if not self.warning_seconds < 3600 * self.hours < 3600 * 24 * 366:
            raise ConfigError(
                f"--hours {self.hours:g}",
                f"is not between {self.warning_seconds} s and a year",
                "give such as 24",
            )
        if self.layout is not None:
            parse_layout(
                self.layout,
                self.gpus,
                rule="takes {} GPUs, and --gpus is {}",
                repair="let both be the same",
            )


def write(recipe: str, job: SlurmJob, file: Path) -> None:
    """Write the batch file of a recipe's job.

    Raises ConfigError for a job that cannot run, and MediaError if the file cannot be written.
    """
    job.check()
    write_bytes(batch_file(recipe, job, file).encode(), file)


def batch_file(recipe: str, job: SlurmJob, file: Path) -> str:
    """Return the text of the batch file of a recipe's job, which names `file` as its own path."""
    words = ["train", recipe]
    for flag, value in (("--preset", job.preset), ("--layout", job.layout), ("--out", job.run)):
        if value is not None:
            words += [flag, str(value)]
    per_node = min(job.gpus, job.gpus_per_node)
    minutes = round(60 * job.hours)
    return TEMPLATE.format(
        file=shlex.quote(str(file)),
        job=f"onnuri-{recipe}",
        nodes=job.gpus // per_node,
        gpus_per_node=per_node,
        time=f"{minutes // 60}:{minutes % 60:02d}:00",
        warning_seconds=job.warning_seconds,
        restarts=RESTARTS,
        port_base=PORT_BASE,
        ports=PORTS,
        command=shlex.join(words),
    )
