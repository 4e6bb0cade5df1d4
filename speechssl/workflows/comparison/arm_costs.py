"""What the arms of a comparison of objectives cost: a few updates of each are measured before any is trained.

In: the arms, and the audio that they will see. Out: for each arm an `ArmCost`, kept in ``costs.json``: time and memory
of an update on micro-batches as large as the real ones, and the seconds that the whole arm will take. Updates are
measured as they will run, side by side.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.asr.labelled import open_labelled
from speechssl.config import CompareObjectivesConfig, DataConfig, FinetuneConfig, PretrainConfig
from speechssl.config.load import to_dict
from speechssl.config.objectives import offline_targets
from speechssl.core.files import find_json, write_json
from speechssl.core.processes import cores
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.holdout import held_out
from speechssl.data.batches.plan import Plan
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.reader import open_corpus
from speechssl.models.frame_counts import frame_grid
from speechssl.workflows.comparison.arms import Arm, Labels, finetunings, pretrainings
from speechssl.workflows.estimate import run_probes
from speechssl.workflows.outlook import LOADED, REFERENCE, START, UNITS, tuning_updates

__all__ = ["ArmCost", "Audio", "arm_costs", "expected_seconds", "slot_environments"]

PROBE_SECONDS = 2.5
"""Of updates that are measured, after one that warms up."""
SURVEYED = 200
"""Micro-batches whose sizes are averaged."""
RECOGNITION = 6.0
"""Core seconds to recognise and score an hour of speech, besides the forward pass."""
SCORING = 3.0
"""Core seconds to resample and write one evaluation."""
FORWARD = 1 / 3
"""Share of an update that is its forward pass."""
VALIDATION = 0.02
"""Share of the time that pretraining spends on held-out audio, where it chooses the interval."""


@dataclass(frozen=True)
class Audio:
    """The micro-batches of one training, on average."""

    rows: int
    samples: int
    """Of each row."""
    hours: float
    """Audio of the corpus."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What a probe is asked for."""
        return {"rows": self.rows, "samples": self.samples, "updates": 2, "seconds": PROBE_SECONDS}


@dataclass(frozen=True)
class ArmCost:
    """One arm, with one seed."""

    name: str
    kind: str
    """Of its objective; empty from random weights."""
    parameters: int
    step_seconds: float | None
    """Of one update of pretraining; None from random weights."""
    peak_bytes: int | None
    """Highest memory of pretraining."""
    seconds: float
    """What all its trainings and scores are expected to take."""


def slot_environments(jobs: int) -> list[dict[str, str]]:
    """Return the environment of each process that runs beside others: a GPU each, or a share of the cores."""
    import torch

    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(gpus)]
    slots = jobs or gpus or cores()
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // slots))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": names[slot % gpus]} if gpus else {}) for slot in range(slots)]


def arm_costs(
    cfg: CompareObjectivesConfig,
    arms: Sequence[Arm],
    labels: Sequence[Labels],
    slots: Sequence[dict[str, str]],
    path: Path,
) -> dict[str, ArmCost]:
    """Return the cost of each arm by name; what ``path`` holds for the same arms is not measured again."""
    stored = find_json(path)
    asked = _requests(cfg, arms, labels)
    settings = [(to_dict(training), sizes) for training, sizes in asked]
    text = json.dumps([settings, cfg.learning_rates, cfg.halve_at, [each.name for each in labels]])
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    if isinstance(stored, dict) and stored.get("of") == key:
        return {name: ArmCost(**values) for name, values in stored["arms"].items()}
    print(f"measuring updates of {len(arms)} arms", flush=True)
    found: list[dict[str, Any]] = []
    for first in range(0, len(asked), len(slots)):
        found += run_probes(asked[first : first + len(slots)], slots)
    costs = dict(zip([arm.name for arm in arms], _costs(cfg, arms, labels, found), strict=True))
    write_json(path, {"of": key, "arms": {name: asdict(cost) for name, cost in costs.items()}})
    return costs


def _requests(
    cfg: CompareObjectivesConfig, arms: Sequence[Arm], labels: Sequence[Labels]
) -> list[tuple[PretrainConfig | FinetuneConfig, dict[str, Any]]]:
    """Return a probe for the pretraining of each objective, and one for fine-tuning each kind of encoder."""
    place = Path(cfg.output)
    found: list[tuple[PretrainConfig | FinetuneConfig, dict[str, Any]]] = []
    for arm in arms:
        if arm.objective is None:
            tuning, *_ = finetunings(cfg, arm, cfg.seeds[0], labels[0], place).values()
            found.append((tuning, _labelled_audio(tuning).sizes))
        else:
            training, *_ = pretrainings(cfg, arm, cfg.seeds[0], place).values()
            found.append((training, _unlabelled_audio(training).sizes))
    return found


def _unlabelled_audio(cfg: PretrainConfig) -> Audio:
    data, grid = cfg.data, frame_grid(cfg.model.frontend)
    corpus = open_corpus(
        data.shards, cache=data.cache, splits=data.splits, ids=read_ids(data.ids) if data.ids else None
    )
    held = held_out(corpus, cfg.validation, min_samples=max(round(data.min_seconds * SAMPLE_RATE), grid.receptive))
    return _average(Plan.pretrain(corpus, data, cfg.seed, align=grid.hop, without=held), cfg.training.steps)


def _labelled_audio(cfg: FinetuneConfig) -> Audio:
    corpus = open_labelled(cfg.data, stage="finetune").corpus()
    return _average(Plan.finetune(corpus, cfg.data, cfg.seed), cfg.training.steps)


def _labelled_samples(cfg: CompareObjectivesConfig, arm: Arm, labels: Sequence[Labels]) -> list[int]:
    """Return the samples of an average batch of each label set; updates are measured on the first."""
    tunings = [next(iter(finetunings(cfg, arm, cfg.seeds[0], each, Path(cfg.output)).values())) for each in labels]
    return [audio.rows * audio.samples for audio in map(_labelled_audio, tunings)]


def _average(plan: Plan, steps: int) -> Audio:
    batches = [plan.micro(k) for k in range(min(steps, SURVEYED))]
    whole = float(np.mean([len(batch.rows) * batch.samples for batch in batches]))
    samples = round(float(np.average([b.samples for b in batches], weights=[len(b.rows) * b.samples for b in batches])))
    rows = max(1, round(whole / samples))
    return Audio(rows, round(whole / rows), plan.n_samples / SAMPLE_RATE / 3600)


def _hours(data: DataConfig) -> float:
    return float(open_labelled(data, stage="evaluate").corpus().samples.sum()) / SAMPLE_RATE / 3600


def _costs(
    cfg: CompareObjectivesConfig, arms: Sequence[Arm], labels: Sequence[Labels], found: Sequence[dict[str, Any]]
) -> list[ArmCost]:
    """Add up what each arm will take."""
    slower = _slower(found)
    tuned = {
        arm.causal: (answer["micro_seconds"], answer["update_seconds"], answer["rows"] * answer["samples"])
        for arm, answer in zip(arms, found, strict=True)
        if arm.objective is None
    }
    hours = [(_hours(each.dev), _hours(each.test)) for each in labels]
    audio = _labelled_samples(cfg, arms[0], labels)
    loop = cfg.finetune.training
    validations = 1 + loop.steps // (loop.validate_every or loop.steps)
    costs = []
    for arm, answer in zip(arms, found, strict=True):
        micro, update, samples = tuned[arm.causal]
        recognise = slower * RECOGNITION + FORWARD * micro / samples * SAMPLE_RATE * 3600
        starts = pretrainings(cfg, arm, cfg.seeds[0], Path(cfg.output))
        rates = (cfg.scratch_rates if arm.objective is None else ()) or cfg.learning_rates
        seconds = slower * START
        for (dev, test), batch in zip(hours, audio, strict=True):
            each_update = LOADED[1] * (cfg.finetune.data.batches_per_step * micro * batch / audio[0] + update)
            updates = tuning_updates(len(rates), loop.steps, cfg.halve_at)
            share = sum(updates) / loop.steps
            tuning = sum(updates) * each_update + share * validations * dev * recognise
            seconds += max(1, len(starts)) * tuning + (dev + test) * recognise + 2 * slower * SCORING
        step = None
        if arm.objective is not None:
            step = cfg.pretrain.data.batches_per_step * answer["micro_seconds"] + answer["update_seconds"]
            for training in starts.values():
                seconds += _pretraining(training, LOADED[0] * step, slower)
        costs.append(
            ArmCost(
                name=arm.name,
                kind="" if arm.objective is None else arm.objective.kind,
                parameters=answer["parameters"],
                step_seconds=step,
                peak_bytes=None if step is None else answer["peak_bytes"],
                seconds=seconds,
            )
        )
    return costs


def _pretraining(cfg: PretrainConfig, step: float, slower: float) -> float:
    """Return the seconds of one pretraining, its targets included."""
    targets, hours = offline_targets(cfg.objective), _unlabelled_audio(cfg).hours
    units = 0.0
    if targets is not None:
        units = sum(slower * (UNITS[0] * hours + UNITS[1] * clusters / 100) for clusters in targets.clusters)
    return (1 + VALIDATION) * cfg.training.steps * step + units


def _slower(found: Sequence[dict[str, Any]]) -> float:
    """Return the time of work that is no training, relative to the processor that gave the constants."""
    ratios = []
    for answer in found:
        operations = 6.0 * answer["parameters"] * answer["rows"] * answer["samples"] / answer["hop"]
        ratios.append((answer["micro_seconds"] + answer["update_seconds"]) / (REFERENCE * operations / 1e10))
    return math.sqrt(float(np.median(ratios)))


def expected_seconds(seconds: Sequence[float], jobs: int) -> float:
    """Return when the last of some tasks ends that are begun in order, ``jobs`` at a time."""
    ends = [0.0] * jobs
    for each in seconds:
        first = ends.index(min(ends))
        ends[first] += each
    return max(ends)
