"""How long the demo will take on this machine, said before it begins: a few seconds of its own updates, summed up.

In: the configuration of a run. Out: seconds of each stage. Updates are measured as they will run: pretraining and
fine-tuning side by side, where there are two jobs. Stages without training have constants, measured on one processor
and scaled by how fast the updates are here.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from speechssl.config import FinetuneConfig, PretrainConfig, RunConfig
from speechssl.config.load import to_dict
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import RunError
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["Hours", "Speed", "answers", "cores", "expected_seconds", "measure_speed", "tuning_updates"]

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
        A probe failed; the message has its last line.
    """
    requests = [
        _request("pretrain", cfg.pretrain, FILLED),
        _request("finetune", _from_scratch(cfg), FINETUNE_FILLED),
    ]
    groups = [requests] if cores() > 1 and cfg.jobs > 1 else [[request] for request in requests]
    found = [answer for group in groups for answer in answers(group)]
    pretrain, finetune = (
        loaded * (answer["micro_seconds"] + answer["update_seconds"])
        for answer, loaded in zip(found, LOADED, strict=True)
    )
    encoder = found[0]
    operations = 6.0 * encoder["parameters"] * encoder["rows"] * encoder["samples"] / encoder["hop"]
    # Synthesis, search and files gain less from wide vectors than matrix products do.
    slower = math.sqrt(pretrain / (REFERENCE * operations / 1e10))
    return Speed(pretrain, finetune, slower)


def _from_scratch(cfg: RunConfig) -> FinetuneConfig:
    return replace(cfg.finetune, init="", model=cfg.pretrain.model)


def _request(kind: str, cfg: PretrainConfig | FinetuneConfig, filled: float) -> dict[str, Any]:
    seconds = min(UTTERANCE, cfg.data.max_seconds)
    rows = max(1, round(filled * cfg.data.batch_seconds / seconds))
    return {
        "kind": kind,
        "config": to_dict(cfg),
        "rows": rows,
        "samples": round(SAMPLE_RATE * seconds),
        "updates": 2,
        "seconds": PROBE_SECONDS,
    }


def answers(requests: Sequence[dict[str, Any]], environments: Sequence[Mapping[str, str]] = ()) -> list[dict[str, Any]]:
    """Run probes side by side, each with what ``environments`` add to its own; return what they found."""
    added: list[Mapping[str, str]] = [*environments] or [{}] * len(requests)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "speechssl.workflows.cost_probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        for _, environment in zip(requests, added, strict=False)
    ]
    for request, process in zip(requests, processes, strict=True):
        assert process.stdin is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        process.stdin = None
    found = []
    for process in processes:
        out, err = process.communicate()
        if process.returncode:
            raise RunError(f"the probe of an update failed: {(err.strip().splitlines() or ['no message'])[-1]}")
        found.append(json.loads(out.splitlines()[-1]))
    return found


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
    targets = offline_targets(cfg.pretrain.objective)
    if targets is None:
        pretraining = START + cfg.pretrain.training.steps * speed.pretrain
    else:
        pretraining = START + sum(
            steps * speed.pretrain + other * (UNITS[0] * hours.train + UNITS[1] * clusters / 100)
            for steps, clusters in zip(targets.steps, targets.clusters, strict=True)
        )
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
        "finetune-scratch": scratch,
        "evaluate": score,
        "evaluate-scratch": score,
        "report": other * REPORT,
    }
    left_out: set[str] = set() if corpus else {"corpus"}
    left_out |= set() if cfg.scratch else {"finetune-scratch", "evaluate-scratch"}
    return {name: seconds for name, seconds in expected.items() if name not in left_out}


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
    training = cfg.finetune.training
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


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
