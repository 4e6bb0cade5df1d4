"""A tiny objective and an in-memory stream: enough to run the loop in milliseconds, with dropout, masks and padding."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import OptimConfig, PretrainConfig, TrainingConfig
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.objectives.base import Loss, Objective, Prepared, Ranks
from speechssl.training.loop import train
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.parallel import start_parallel
from speechssl.training.run_folder import RunFolder

__all__ = [
    "OPTIM",
    "ListStream",
    "Stopping",
    "TinyObjective",
    "batch_of",
    "close",
    "lines_of",
    "prepare",
    "run_tiny",
    "same",
    "tiny",
    "training",
    "weights",
]

OPTIM = OptimConfig(lr=1e-2, warmup=0.2)


def training(**changes) -> TrainingConfig:
    """Return settings for a few float32 steps on the CPU."""
    defaults = {"steps": 6, "device": "cpu", "precision": "fp32", "log_every": 1, "save_every": 2}
    return TrainingConfig(**{**defaults, **changes})


def batch_of(step: int, number: int, rows: int = 2, samples: int = 32) -> Batch:
    """Return a micro-batch that depends on (step, number) only; row j says ``s<step>-m<number>-r<j>``."""
    wave = generator("tiny", step, number).standard_normal((rows, samples)).astype(np.float32)
    return Batch(
        wave=torch.from_numpy(wave),
        lengths=torch.full((rows,), samples),
        starts=torch.zeros(rows, dtype=torch.int64),
        weights=torch.ones(rows),
        ids=tuple(f"s{step}-m{number}-r{row}" for row in range(rows)),
        epoch=0,
    )


def prepare(batch: Batch) -> Prepared:
    """Count the rows that have a weight."""
    return Prepared(batch, int(batch.weights.sum()))


class ListStream:
    """Micro-batches r::world of every step, prepared; ``empty_steps`` have no targets."""

    def __init__(self, batches_per_step: int = 1, rank: int = 0, world: int = 1, make=batch_of, empty_steps=()) -> None:
        self.batches_per_step, self.rank, self.world, self.make = batches_per_step, rank, world, make
        self.share, self.empty_steps = batches_per_step // world, set(empty_steps)
        self.asked: list[int] = []

    def step(self, step: int) -> Iterator[Prepared]:
        self.asked.append(step)
        for number in range(self.rank, self.batches_per_step, self.world):
            item = prepare(self.make(step, number))
            yield replace(item, n_targets=0) if step in self.empty_steps else item


class TinyObjective(Objective[Prepared]):
    """Predicts each row's mean absolute sample; ``bad_steps`` give NaN."""

    def __init__(self, dropout: float = 0.1, bad_steps=(), freeze_until: int = 0) -> None:
        super().__init__()
        self.body = nn.Linear(32, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 1)
        self.bad_steps, self.freeze_until = set(bad_steps), freeze_until
        self.updates: list[int] = []
        self.now = 0
        self.chance = {"error": 1.0}

    def preparer(self):
        return prepare

    def begin_step(self, step: int) -> bool:
        self.now = step
        trainable = step >= self.freeze_until
        changed = self.body.weight.requires_grad != trainable
        self.body.requires_grad_(trainable)
        return changed

    def forward(self, prepared: Prepared) -> Loss:
        batch = prepared.batch
        guess = self.head(self.dropout(functional.gelu(self.body(batch.wave)))).squeeze(-1)
        errors = (guess.float() - batch.wave.abs().mean(dim=1)).square() * batch.weights
        total: Tensor = errors.sum()
        if self.now in self.bad_steps:
            total = total * float("nan")
        return Loss(total, prepared.n_targets, {"error": total.detach() / max(1, prepared.n_targets)})

    def after_update(self, step: int, parallel: Ranks) -> None:
        del parallel
        self.updates.append(step)


def run_tiny(folder, objective=None, stream=None, cfg=None, optim=OPTIM, parallel=None, **options):
    """Train a tiny objective in ``folder``; return (objective, result)."""
    if objective is None:
        torch.manual_seed(0)
        objective = TinyObjective()
    cfg = cfg or training()
    parallel = parallel or start_parallel("cpu")
    stream = stream or ListStream(2, parallel.rank, parallel.world)
    with RunFolder(folder).open(PretrainConfig(training=cfg), parallel) as run:
        result = train(objective, stream, run=run, parallel=parallel, training=cfg, optim=optim, seed=1, **options)
    return objective, result


def tiny(**options):
    torch.manual_seed(0)
    return TinyObjective(**options)


def weights(objective):
    return {name: value.clone() for name, value in objective.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-6) for name in a)


def lines_of(folder, phase="train"):
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["phase"] == phase]


class Stopping(ListStream):
    """Fails at a step, as a killed process would, without a word to the loop."""

    def __init__(self, at):
        super().__init__(2)
        self.at = at

    def step(self, step):
        if step == self.at:
            raise RuntimeError("pulled the plug")
        return super().step(step)
