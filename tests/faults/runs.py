"""Real runs in processes of their own, for tests that kill them, starve them, and compare what they leave.

Processes come from a fork server that has imported torch once, so that a start costs a fraction of a second.
"""

import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.config import (
    CtcConfig,
    DataConfig,
    EncoderConfig,
    FinetuneConfig,
    FrontendConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    TargetsConfig,
    TrainingConfig,
)
from speechssl.config.load import write_toml
from speechssl.objectives.build import objective_class
from speechssl.training.monitoring.log import read_metrics
from tests.support.objectives import causal, settings

__all__ = ["Run", "config", "digest", "start", "wait_for"]

MODEL = ModelConfig(
    frontend=FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8)), grad_scale=0.5),
    encoder=EncoderConfig(dim=32, layers=1, heads=2, ffn_dim=64, pos_kernel=9, pos_groups=4),
)
"""A few milliseconds a step; every kind of dropout is on."""


def config(kind: str, shards: Path, output: Path, *, workers: int = 0, steps: int = 24, **training: Any) -> Any:
    """Return the configuration of a small run on the tone corpus: an objective by its kind, or ctc."""
    data = DataConfig(
        shards=str(shards), min_seconds=0.4, max_seconds=1.0, batch_seconds=3.0, batches_per_step=2, buckets=2,
        workers=workers, loader="processes", timeout=300.0,
    )  # fmt: skip
    optim = OptimConfig(lr=1e-3, warmup=0.1)
    usual = {"steps": steps, "device": "cpu", "precision": "fp32", "log_every": 1, "save_every": 4, "threads": 1}
    loop = TrainingConfig(**{**usual, **training})
    if kind == "ctc":
        return FinetuneConfig(
            output=str(output), model=MODEL, data=replace(data, max_seconds=3.0, batch_seconds=6.0),
            dev=replace(data, splits=("dev",), min_seconds=0.0, max_seconds=10.0, batch_seconds=30.0),
            ctc=CtcConfig(time_mask_prob=0.3, time_mask_length=2, channel_mask_prob=0.2, channel_mask_length=4),
            optim=replace(optim, schedule="tri-stage", final_scale=0.1), training=replace(loop, validate_every=6),
        )  # fmt: skip
    mask = MaskConfig(prob=0.5, length=3)
    targets = TargetsConfig(steps=(steps // 2, steps // 2), clusters=(8, 6), layers=(0, 1))
    objective = settings(kind, final_dim=16, entries=8, negatives=10, mask=mask, targets=targets)
    model = causal(MODEL) if objective_class(objective).causal else MODEL
    return PretrainConfig(output=str(output), objective=objective, data=data, model=model, optim=optim, training=loop)


def _main(arguments: list[str], log: str, environment: dict[str, str], setup: Callable[[], None] | None) -> None:
    os.environ |= environment
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    if setup is not None:
        setup()
    from speechssl.cli.main import main

    os._exit(_leave(main(arguments)))


def _leave(code: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class Run:
    """A process that runs the command line."""

    def __init__(self, process: Any, log: Path, output: Path) -> None:
        self.process, self.log, self.output = process, log, output

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, timeout: float = 300.0) -> int:
        """Wait, and return the exit code (minus the signal that killed it)."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.text()}")
        return self.process.exitcode

    def text(self) -> str:
        """Return everything it said."""
        return self.log.read_text()

    def last_line(self) -> str:
        return self.text().strip().splitlines()[-1]


def start(
    cfg: Any,
    *,
    environment: dict[str, str] | None = None,
    setup: Callable[[], None] | None = None,
    log: Path | None = None,
) -> Run:
    """Start ``speechssl pretrain`` or ``finetune`` with a configuration; ``setup`` runs in the process before it."""
    output = Path(cfg.output)
    verb = "finetune" if isinstance(cfg, FinetuneConfig) else "pretrain"
    file = output.with_suffix(".toml")
    write_toml(cfg, file)
    log = log or output.with_name(f"{output.name}{(environment or {}).get('RANK', '')}.log")
    log.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.preload"])
    process = context.Process(target=_main, args=([verb, str(file)], str(log), environment or {}, setup))
    process.start()
    return Run(process, log, output)


def wait_for(run: Run, step: int, timeout: float = 300.0) -> None:
    """Wait until the run has logged ``step`` (of all its phases together)."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        files = [run.output / "metrics.jsonl", *sorted(run.output.glob("iteration-*/metrics.jsonl"))]
        if sum(line["phase"] == "train" for file in files for line in read_metrics(file)) >= step:
            return
        assert run.process.is_alive(), f"ended before step {step}:\n{run.text()}"
        time.sleep(0.01)  # polling more often takes the processor from the run
    raise AssertionError(f"no step {step} within {timeout} s:\n{run.text()}")


def digest(output: Path) -> str:
    """Return the sha256 of the exported weights."""
    return hashlib.sha256((output / "model" / "model.safetensors").read_bytes()).hexdigest()
