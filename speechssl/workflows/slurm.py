"""An sbatch script for a command: SLURM starts one process for each GPU, and starts a stopped run again.

In: a ``speechssl`` command and ``LaunchConfig``. Out: the text of a bash script. Before the time limit, and when the
job is preempted, SLURM sends SIGTERM; the command saves, ends with 75, and the script requeues the job.
"""

import shlex
import sys
from collections.abc import Sequence

from speechssl.config import LaunchConfig
from speechssl.core.errors import ConfigError

__all__ = ["SHARED_OUT", "sbatch_script"]

SHARED_OUT = ("pretrain", "finetune", "evaluate")
"""Verbs whose work several processes share."""

_BODY = """\
set -u
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# One task is one rank. exec: signals of SLURM reach the command itself.
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec "$@"' rank \\
    {command}
code=$?

# 75: stopped and saved. The same command goes on from there.
if [ "$code" -eq 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
"""


def sbatch_script(command: Sequence[str], cfg: LaunchConfig, *, python: str = sys.executable) -> str:
    """Return a script for ``speechssl`` with these words.

    Raises ConfigError for settings that do not fit the command.
    """
    verb = command[0]
    if cfg.parts and (verb != "shard" or "--part" in command):
        raise ConfigError("parts = N is for shard without --part: each task of an array makes one of N parts")
    if verb not in SHARED_OUT and (cfg.nodes > 1 or cfg.gpus > 1):
        raise ConfigError(
            f"{verb} runs in one process: nodes and gpus are at most 1 (more are for {', '.join(SHARED_OUT)})"
        )
    words = [shlex.quote(word) for word in (python, "-m", "speechssl", *command)]
    if cfg.parts:
        words += ["--part", f'"$SLURM_ARRAY_TASK_ID/{cfg.parts}"']
    options = {
        "job-name": cfg.name or f"speechssl-{verb}",
        "nodes": cfg.nodes,
        "ntasks-per-node": max(cfg.gpus, 1),
        "gpus-per-node": cfg.gpus,
        "cpus-per-task": cfg.cpus,
        "mem": cfg.memory,
        "time": cfg.time,
        "partition": cfg.partition,
        "account": cfg.account,
        "array": f"1-{cfg.parts}" if cfg.parts else "",
        "signal": f"TERM@{cfg.notice}",
        "output": "%x-%A-%a.log" if cfg.parts else "%x-%j.log",
        "open-mode": "append",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in options.items() if value)]
    lines += ["#SBATCH --requeue", *(f"#SBATCH --{option}" for option in cfg.options), ""]
    return "\n".join(lines) + "\n" + _BODY.format(command=" ".join(words), restarts=cfg.restarts)
