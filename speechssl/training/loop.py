"""THE loop, shared by pretraining and fine-tuning.

In: an objective, a stream of batches that is a function of the step, a run folder. Out: trained weights in the
objective, and checkpoints, metrics, findings and a ledger on the disk. Whatever happens to the process, starting it
again continues the run; on a CPU the final weights are bit for bit those of a run that was never stopped.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.config import OptimConfig, TrainingConfig
from speechssl.core.errors import InterruptedRun, RunError
from speechssl.core.precision import uses_bf16
from speechssl.core.randomness import key
from speechssl.data.batches.batch import BatchSummary
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import exact_float32
from speechssl.objectives.base import Loss, Objective, PreparedT
from speechssl.training.allocator import keep_freed_memory
from speechssl.training.averages import Window
from speechssl.training.checkpoints.leaders import Leaders, Mean
from speechssl.training.checkpoints.state import TrainingState
from speechssl.training.ema import WeightAverage
from speechssl.training.feed import Batches, Feed
from speechssl.training.interrupt import Interrupt
from speechssl.training.monitoring.health import Health
from speechssl.training.monitoring.journal import Journal
from speechssl.training.monitoring.log import Progress
from speechssl.training.monitoring.profile import Profile, Profiler
from speechssl.training.optim import build_optimizer, clip_gradients, full_rate_until, lr_at, set_rate
from speechssl.training.parallel import Parallel
from speechssl.training.run_folder import RunFolder

__all__ = ["Batches", "TrainResult", "autocast", "seed_micro_batch", "train"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    step: int
    best_step: int | None
    best_value: float | None
    """Lowest validation value of the selected metric and the step it was reached at; None without validation."""
    stopped: str = ""
    """Why the run ended before its last update; empty if it did not."""
    mean: Mean | None = None
    """The mean of the best weights (``training.average``)."""
    took_mean: bool = False
    """Whether the objective holds that mean."""


def train(
    objective: Objective[PreparedT],
    stream: Batches[PreparedT],
    *,
    run: RunFolder,
    parallel: Parallel,
    training: TrainingConfig,
    optim: OptimConfig,
    seed: int,
    param_groups: Sequence[dict[str, Any]] | None = None,
    validate: Callable[[int], dict[str, float]] | None = None,
    select: str | None = None,
    profiler: Profiler | None = None,
    settled: int = 0,
) -> TrainResult:
    """Train ``objective`` for ``training.steps`` updates, continuing from the newest checkpoint of ``run``.

    The gradient of a step is that of the summed loss divided by the number of targets of the whole step, over all
    micro-batches and ranks, so it does not depend on how the step is divided. Dropout and every other random number
    drawn on the device depend on (seed, step, micro-batch) only.

    The number of targets of a step is known when its last micro-batch has been read, so the sum of gradients is divided
    by it before they are clipped. Counting beforehand would be exact only after reading all audio: a row that cannot be
    read has no targets. A step with many micro-batches then would have to be held in memory as a whole, or read twice.

    On return the objective holds the weights to export: those that validated best (with ``select``), otherwise the last
    ones; their moving average where ``training.ema_decay`` asks for one. With ``training.average`` the mean of the best
    ones takes their place if it validates at least as well.

    Parameters
    ----------
    stream
        Gives what the objective's preparer made of each batch.
    param_groups
        Groups of the optimiser (``optim.build_optimizer``); None for one group of all parameters.
    validate
        Called on every rank with the number of steps done; the weights to judge are in place, in eval mode, gradients
        off. The values that rank 0 returns count.
    select
        Name of the validation value that decides which weights are best; lower is better.
    profiler
        Follows the steps and their parts; None for the profile that ``training.profile`` asks for.
    settled
        Updates before which early stopping counts no validation, besides those before the learning rate falls.

    Raises
    ------
    InterruptedRun
        A signal asked the run to stop; it has saved itself.
    RunError
        Too many steps in a row without an update, diverging ranks, or a collapse with ``on_collapse = "stop"``.
    CheckpointError
        No stored checkpoint is whole, or the last one cannot be written.
    """
    if parallel.device.type == "cpu":
        keep_freed_memory()
    objective.to(parallel.device).train()
    objective.ranks = parallel
    for part in objective.modules():
        if isinstance(part, SpeechEncoder):
            part.recompute = training.recompute
    parameters = list(objective.parameters())
    optimizer = build_optimizer(param_groups or parameters, optim)
    average = WeightAverage(objective, training.ema_decay) if training.ema_decay > 0 else None
    state = TrainingState(objective, optimizer, average)
    done = start = state.resume(run.checkpoints, parallel)
    leaders = None
    if select is not None and training.average > 1:
        leaders = Leaders(run.checkpoints, training.average, parallel)
    settled = max(settled, full_rate_until(training.steps, optim))
    stopped = 0 < training.patience <= state.waited(settled)
    steps = range(start, start if stopped else training.steps)
    if training.compile:
        objective.compile()

    window, module = Window(), None
    profiled = training.profile if parallel.first else 0
    with (
        _settings_of_torch(training),
        Interrupt() as interrupt,
        Progress(training.steps, start, active=parallel.first) as progress,
        Journal(
            run, parallel, training, progress, Health(objective.chance, training.steps, objective.rules)
        ) as journal,
        profiler or Profile(objective, run.path / "profile", start=start, steps=profiled) as profile,
        Feed(stream, parallel.device, steps, part=profile.part) as feed,
    ):
        journal.begin(start)
        for step in steps:
            profile.begin_step(step)
            if objective.begin_step(step) or module is None:
                module = parallel.wrap(objective)  # again whenever the set of trainable parameters changed
            batches: list[BatchSummary] = []
            n_targets = 0
            for i, (item, summary) in enumerate(feed.step(step)):
                batches.append(summary)
                journal.rejected(summary)
                seed_micro_batch(seed, step, i * parallel.world + parallel.rank)
                with parallel.accumulate(module, last=i + 1 == stream.share):
                    with autocast(parallel.device, training):
                        loss: Loss = module(item)
                    summed = loss.sum if item.n_targets else _nothing(parameters)
                    summed.backward()
                if item.n_targets:
                    window.add(loss, item.n_targets)
                n_targets += item.n_targets

            total = parallel.sum(n_targets)
            lr = lr_at(step, training.steps, optim)
            with profile.part("optimiser"):
                # DDP has divided the sum of gradients by the number of ranks; it is to be divided by that of targets.
                norm = clip_gradients(parameters, optim.clip, scale=parallel.world / max(1, total))
                updated = total > 0 and parallel.all_finite(norm)  # every rank takes the same decision
                if updated:
                    set_rate(optimizer, lr)
                    optimizer.step()
                    objective.after_update(step + 1, parallel)
                    if state.average is not None:
                        state.average.update()
                    state.skips_in_row = 0
                optimizer.zero_grad(set_to_none=True)
            window.step(batches, wait_seconds=feed.take_wait(), total=total, norm=norm if updated else None)
            if not updated:
                journal.skipped(step, batches, "non_finite_gradient" if total else "no_targets", state)

            done, last = step + 1, step + 1 == training.steps
            pause = done == training.pause_at
            progress.step(done)
            values = window.close(parallel) if last or done % training.log_every == 0 else None
            with window.paused():
                if values is not None:
                    journal.train(done, {"lr": lr, **values, "skipped": state.skipped}, objective)
                due = training.validate_every and done % training.validate_every == 0
                if validate is not None and (last or pause or due):
                    with state.evaluated():
                        scores = parallel.gather(validate(done))[0]
                        if select is not None:
                            value = _selected(scores, select)
                            state.keep_best(done, value, run.checkpoints, parallel)
                            if due or last:  # a pause changes nothing
                                state.history.append((done, value if math.isfinite(value) else math.inf))
                                if leaders is not None:
                                    leaders.keep(done, value, objective.state_dict())
                    journal.validation(done, scores)
                    stopped = not last and 0 < training.patience <= state.waited(settled)
                stop = pause or parallel.any(interrupt.requested)
                if stopped:
                    run.metrics.append(done, "stopped", {"why": _why(state, training, str(select), lr)})
                if last or stopped or stop or done % training.save_every == 0:
                    journal.flush()
                    state.save(done, run.checkpoints, parallel, must=last or stopped or stop)
            if stopped:
                break
            if stop and not last:
                raise InterruptedRun(f"stopped and saved after step {done}; run the same command again to continue")
        mean = None
        if leaders is not None and validate is not None and select is not None:
            mean = leaders.validated_mean(
                objective, lambda: validate(done), select=select, step=done, metrics=run.metrics
            )
    state.take_best(run.checkpoints, mean, leaders)
    why = _why(state, training, str(select), lr_at(done - 1, training.steps, optim)) if stopped else ""
    return TrainResult(done, state.best_step, state.best_value, why, mean, state.is_best(mean))


def seed_micro_batch(seed: int, step: int, number: int) -> None:
    """Seed torch on every device for one micro-batch, numbered over all ranks.

    Dropout then depends neither on what was drawn before (so no generator needs saving) nor on how many ranks share
    the step.
    """
    torch.manual_seed(key("micro-batch", seed, step, number))


def autocast(device: torch.device, training: TrainingConfig) -> torch.autocast:
    """Return the context that losses are computed in: bfloat16 where ``training.precision`` asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(training.precision, device.type))


def _why(state: TrainingState, training: TrainingConfig, select: str, lr: float) -> str:
    """Say when and why a run ended early."""
    last = state.history[-1][0]
    step, value = min(state.history, key=lambda item: item[1])
    return (
        f"stopped after update {last:,} of {training.steps:,}: {select} was lowest at {step:,} ({value:.4f}), and "
        f"{training.patience} more validations gave no lower one (training.patience); the learning rate was {lr:.2g}"
    )


def _nothing(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return a zero that reaches every trainable parameter: DDP waits for all gradients, also of a rank without
    targets.
    """
    return torch.stack([parameter.float().sum() for parameter in parameters if parameter.requires_grad]).sum() * 0.0


def _selected(scores: dict[str, float], select: str) -> float:
    if select not in scores:
        raise RunError(
            f"validation gave no {select!r} to choose the best weights by, only {', '.join(scores) or 'nothing'}"
        )
    return float(scores[select])


@contextmanager
def _settings_of_torch(training: TrainingConfig) -> Iterator[None]:
    """Set threads, determinism and the precision of float32 for the time of the loop."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if training.threads > 0:
        torch.set_num_threads(training.threads)
    if training.deterministic:
        # Without this setting cuBLAS sums in an order of its own, and PyTorch refuses its products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        with exact_float32(training.precision == "fp32"):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
