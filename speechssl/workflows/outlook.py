"""How long the demo will take on this machine, said before it begins: a few seconds of its own updates, summed up.

In: the configuration of a run. Out: seconds of each stage. Updates are measured as they will run: pretraining and
fine-tuning side by side, where there are two jobs. Stages without training have constants, measured on one processor
and scaled by how fast the updates are here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechssl.config import FinetuneConfig, PretrainConfig, RunConfig
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import RunError
from speechssl.core.processes import cores
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.workflows.estimate import run_probes
from speechssl.workflows.rounds import of_round, pretraining_of

__all__ = ["Hours", "Speed", "expected_seconds", "measure_speed", "tuning_updates"]

PROBE_SECONDS = 2.5
"""Of updates that are measured, after one that warms up."""
UTTERANCE = 3.0
"""Seconds of an utterance in the probe: the median of the synthetic corpus."""
FILLED = 0.9
"""Share of a micro-batch of pretraining that is audio: ``batch_seconds`` is its upper limit."""
FINETUNE_FILLED = 0.8
"""The same in fine-tuning, where rows differ in length."""
LOADED = (1.03, 1.08)
"""Time of an update with reading (in fine-tuning also the change of speed) and masks, relative to that without."""
REFERENCE = 0.22
"""Seconds of 10^10 operations of an update on the processor that gave the constants below: an AMD EPYC with AVX2, one
thread, float32."""
CORPUS = 14.0
"""Core seconds to synthesise an hour of speech."""
MANIFEST, SHARD = 2.5, 2.5
"""Core seconds for an hour of audio."""
START = 4.0
"""Seconds in which a process imports what training needs."""
UNITS = (7.0, 5.0)
"""Core seconds to make the units of an hour: features and labels; and to cluster 100 units."""
VALIDATION = 18.0
"""Core seconds to recognise and score an hour of dev speech greedily."""
EVALUATION = 65.0
"""Core seconds to recognise an hour of test speech with a lexicon, and to score it."""
REPORT = 5.0


@dataclass(frozen=True)
class Hours:
    """Audio of each kind."""

    unlabelled: float
    labelled: float
    dev: float
    test: float

    @property
    def train(self) -> float:
        """All of the training split: the labelled part is pretrained on, too."""
        return self.unlabelled + self.labelled

    @property
    def all(self) -> float:
        """All audio."""
        return self.train + self.dev + self.test


@dataclass(frozen=True)
class Speed:
    """What an update takes here."""

    pretrain: float
    finetune: float
    slower: float
    """Time of work that is no training, relative to the processor that gave the constants."""


def measure_speed(cfg: RunConfig) -> Speed:
    """Measure updates of pretraining and of fine-tuning: at once when the run has jobs for two cores.

    Raises
    ------
    RunError
        A probe failed (the message has its last line), or its updates do not fit into memory.
    """
    scratch = replace(cfg.finetune, init="", model=cfg.pretrain.model)
    asked = [_sized(cfg.pretrain, FILLED), _sized(scratch, FINETUNE_FILLED)]
    groups = [asked] if cores() > 1 and cfg.jobs > 1 else [[each] for each in asked]
    found = [answer for group in groups for answer in run_probes(group)]
    if not all(answer["fits"] for answer in found):
        raise RunError("the updates of this run do not fit into memory; lower data.batch_seconds or the model's size")
    pretrain, finetune = (
        loaded * (answer["micro_seconds"] + answer["update_seconds"])
        for answer, loaded in zip(found, LOADED, strict=True)
    )
    encoder = found[0]
    operations = 6.0 * encoder["parameters"] * encoder["rows"] * encoder["samples"] / encoder["hop"]
    # Synthesis, search and files gain less from wide vectors than matrix products do.
    slower = math.sqrt(pretrain / (REFERENCE * operations / 1e10))
    return Speed(pretrain, finetune, slower)


def _sized(
    cfg: PretrainConfig | FinetuneConfig, filled: float
) -> tuple[PretrainConfig | FinetuneConfig, dict[str, Any]]:
    seconds = min(UTTERANCE, cfg.data.max_seconds)
    rows = max(1, round(filled * cfg.data.batch_seconds / seconds))
    return cfg, {"rows": rows, "samples": round(SAMPLE_RATE * seconds), "updates": 2, "seconds": PROBE_SECONDS}


def expected_seconds(cfg: RunConfig, hours: Hours, speed: Speed, *, corpus: bool) -> dict[str, float]:
    """Return the expected wall-clock seconds of each stage, in the order in which they run.

    With two jobs the scratch arm is fine-tuned beside pretraining, and goes on beside the pretrained arm.

    Parameters
    ----------
    corpus
        Whether the corpus is made first.
    """
    there = cores()
    other = speed.slower
    pretraining = _pretraining_seconds(cfg.pretrain, hours, speed)
    arm = _arm_seconds(cfg, hours, speed)
    jobs = min(cfg.jobs, len(cfg.learning_rates) or 1)
    score = 1.0 + other * EVALUATION * hours.test
    ahead = cfg.scratch and cfg.jobs > 1 and there > 1
    pretrained, scratch = _tuning_seconds(arm, pretraining if ahead else 0.0, min(jobs, there), there, ahead=ahead)
    expected = {
        "corpus": other * CORPUS * hours.all / there,
        "manifest": 1.0 + other * MANIFEST * hours.all / there,
        "shard": 1.0 + other * SHARD * hours.all / there,
        "pretrain": pretraining,
        "finetune": pretrained,
        **{
            of_round(name, number): seconds
            for number in range(2, cfg.rounds + 1)
            for name, seconds in (
                ("pretrain", _pretraining_seconds(pretraining_of(cfg, Path(), number), hours, speed)),
                ("finetune", _tuning_seconds(arm, 0.0, min(jobs, there), there, ahead=False)[0]),
            )
        },
        "finetune-scratch": scratch,
        **{of_round("evaluate", number): score for number in range(1, cfg.rounds + 1)},
        "evaluate-scratch": score,
        "report": other * REPORT,
    }
    left_out: set[str] = set() if corpus else {"corpus"}
    left_out |= set() if cfg.scratch else {"finetune-scratch", "evaluate-scratch"}
    return {name: seconds for name, seconds in expected.items() if name not in left_out}


def _pretraining_seconds(cfg: PretrainConfig, hours: Hours, speed: Speed) -> float:
    """Return the seconds of a pretraining with its units."""
    targets = offline_targets(cfg.objective)
    if targets is None:
        return START + cfg.training.steps * speed.pretrain
    return START + sum(
        steps * speed.pretrain + speed.slower * (UNITS[0] * hours.train + UNITS[1] * clusters / 100)
        for steps, clusters in zip(targets.steps, targets.clusters, strict=True)
    )


def tuning_updates(rates: int, steps: int, halve_at: Sequence[float]) -> list[int]:
    """Return the updates of each learning rate of an arm, most first: where rates are halved, most end early."""
    updates, left = [], rates
    for step in sorted({round(share * steps) for share in halve_at}):
        if left > 1 and 0 < step < steps:
            updates += [step] * (left - (left + 1) // 2)
            left = (left + 1) // 2
    return [steps] * left + updates[::-1]


def _arm_seconds(cfg: RunConfig, hours: Hours, speed: Speed) -> list[float]:
    """Return the core seconds of each learning rate of an arm."""
    training, data = cfg.finetune.training, cfg.finetune.data
    if training.epochs:
        batch = FINETUNE_FILLED * data.batch_seconds * data.batches_per_step
        training = replace(training, steps=max(1, round(training.epochs * 3600 * hours.labelled / batch)))
    validations = 1 + training.steps // (training.validate_every or training.steps)
    each = speed.finetune + validations / training.steps * speed.slower * VALIDATION * hours.dev
    rates = len(cfg.learning_rates) or 1
    return [START + steps * each for steps in tuning_updates(rates, training.steps, cfg.halve_at)]


def _tuning_seconds(arm: list[float], before: float, jobs: int, cores: int, *, ahead: bool) -> tuple[float, float]:
    """Return the seconds of the stages of both arms, when the scratch arm began ``before`` seconds earlier."""
    work, longest = sum(arm), max(arm)
    alone = max(longest, work / jobs)
    if not ahead:
        return alone, alone
    rest = max(0.0, work - before)
    share = min(1.0, cores / (jobs + 1))  # of a core, for each process while both arms are trained
    together = alone / share
    if rest >= share * together:
        return together, rest - share * together
    return max(alone, (work + rest) / min(cores, jobs + 1)), 0.0
