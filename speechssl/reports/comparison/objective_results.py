"""The results of a comparison of objectives, read from its run folders.

In: finished arms, and what their updates cost. Out: an `ObjectiveResult` for each arm. Everything follows from
``metrics.jsonl`` and ``hypotheses.jsonl`` of the runs, and from ``costs.json``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from speechssl.config import CompareObjectivesConfig
from speechssl.core.errors import DataError
from speechssl.core.files import read_json
from speechssl.evaluation.bootstrap import PairedBootstrap
from speechssl.evaluation.compare.seeds import Rate, character_rate, difference, word_rate
from speechssl.evaluation.wer.hypotheses import Row, read_hypotheses
from speechssl.reports.comparison.probe_results import probe_errors
from speechssl.reports.run.collect import Training, collect
from speechssl.training.monitoring.log import read_metrics

__all__ = ["CHOSEN", "ArmRun", "Cost", "LabelScore", "Learnt", "ObjectiveResult", "results_of"]


CHOSEN = "chosen.json"
"""In the folder of a label set: the candidate with the lowest dev WER."""


class Cost(Protocol):
    """What an update of an arm costs (``workflows.comparison.arm_costs.ArmCost``)."""

    @property
    def kind(self) -> str:
        """Of its objective."""
        ...

    @property
    def parameters(self) -> int:
        """Number of them, those of the objective included."""
        ...

    @property
    def step_seconds(self) -> float | None:
        """Of an update of pretraining."""
        ...

    @property
    def peak_bytes(self) -> int | None:
        """Highest memory of pretraining."""
        ...


@dataclass(frozen=True)
class ArmRun:
    """One finished arm with one seed."""

    name: str
    title: str
    seed: int
    causal: bool
    scratch: bool
    folder: Path


@dataclass(frozen=True)
class Learnt:
    """The pretraining of one arm with one seed, by the model that dev chose on the first label set."""

    hours: float
    """Audio seen, epochs counted as often as they were made."""
    updates: int
    seconds: float
    """Of all updates."""
    target_seconds: float
    """To make targets before training."""
    metric: str
    """On held-out audio, at the end: the first for which chance is known."""
    value: float | None
    chance: float | None
    findings: tuple[str, ...]
    """Names of what the health checks found."""


@dataclass(frozen=True)
class LabelScore:
    """One arm on one label set."""

    labels: str
    chosen: tuple[dict[str, Any], ...]
    """By seed: learning rates of the candidate with the lowest dev WER, and that WER."""
    dev_wer: Rate
    dev_cer: Rate
    test_wer: Rate
    test_cer: Rate
    against_scratch: PairedBootstrap | None
    """On test, against random weights in the same encoder and with the same seeds; None for those themselves."""


@dataclass(frozen=True)
class ObjectiveResult:
    """One arm over its seeds."""

    name: str
    title: str
    kind: str
    causal: bool
    scratch: bool
    seeds: tuple[int, ...]
    parameters: int
    step_seconds: float | None
    step_relative: float | None
    """To the reference."""
    memory_relative: float | None
    peak_bytes: int | None
    learnt: tuple[Learnt, ...]
    """By seed; empty from random weights."""
    scores: tuple[LabelScore, ...]
    probes: dict[str, float]
    """Test error of each task and head on the frozen model (``probe_results``)."""

    @property
    def test_wer(self) -> float | None:
        """A mean over label sets; None where one has no words."""
        rates = [score.test_wer.value for score in self.scores]
        return None if None in rates or not rates else sum(rates) / len(rates)  # type: ignore[arg-type]


def results_of(
    cfg: CompareObjectivesConfig, runs: Sequence[ArmRun], labels: Sequence[str], costs: Mapping[str, Cost]
) -> list[ObjectiveResult]:
    """Read the results of finished arms.

    Raises
    ------
    DataError
        A run folder is damaged.
    """
    reference = next((cost for cost in costs.values() if cost.kind == cfg.reference), None)
    found = []
    for name in dict.fromkeys(run.name for run in runs):
        mine = [run for run in runs if run.name == name]
        first, cost = mine[0], costs[name]
        scratch = [run for run in runs if run.scratch and run.causal == first.causal]
        found.append(
            ObjectiveResult(
                name=name,
                title=first.title,
                kind=cost.kind,
                causal=first.causal,
                scratch=first.scratch,
                seeds=tuple(run.seed for run in mine),
                parameters=cost.parameters,
                step_seconds=cost.step_seconds,
                step_relative=_relative(cost.step_seconds, reference.step_seconds if reference else None),
                memory_relative=_relative(cost.peak_bytes, reference.peak_bytes if reference else None),
                peak_bytes=cost.peak_bytes,
                learnt=() if first.scratch else tuple(_learnt(run.folder, labels[0]) for run in mine),
                scores=tuple(_score(cfg, each, mine, scratch) for each in labels),
                probes=probe_errors([run.folder for run in mine]),
            )
        )
    return found


def _relative(value: float | None, reference: float | None) -> float | None:
    return value / reference if value and reference else None


def _score(cfg: CompareObjectivesConfig, labels: str, runs: Sequence[ArmRun], scratch: Sequence[ArmRun]) -> LabelScore:
    n, seed = cfg.evaluate.bootstrap, cfg.evaluate.seed
    dev, test = ([read_hypotheses(run.folder / labels / split) for run in runs] for split in ("dev", "test"))
    pairs: list[tuple[list[Row], list[Row]]] = [
        (read_hypotheses(other.folder / labels / "test"), rows)
        for run, rows in zip(runs, test, strict=True)
        for other in scratch
        if other.seed == run.seed and not run.scratch
    ]
    chosen = (_chosen(run.folder / labels) for run in runs)
    return LabelScore(
        labels=labels,
        chosen=tuple(chosen),
        dev_wer=word_rate(dev, n=n, seed=seed),
        dev_cer=character_rate(dev, n=n, seed=seed),
        test_wer=word_rate(test, n=n, seed=seed),
        test_cer=character_rate(test, n=n, seed=seed),
        against_scratch=difference([a for a, _ in pairs], [b for _, b in pairs], n=n, seed=seed) if pairs else None,
    )


def _chosen(place: Path) -> dict[str, Any]:
    """Return what says which candidate dev chose."""
    found: dict[str, Any] = read_json(place / CHOSEN, f"delete {place} to train it again")
    return found


def _learnt(folder: Path, labels: str) -> Learnt:
    """Read the pretraining whose model was chosen."""
    chosen = _chosen(folder / labels)
    place = Path(chosen["init"]).parent
    place = folder / place.name  # the folder may have been moved
    trainings = [training for training in collect(place).trainings if training.phase == "pretrain"]
    if not trainings:
        raise DataError(f"{place}: no metrics of pretraining")
    rows = {training.name: read_metrics(place / training.name / "metrics.jsonl") for training in trainings}
    last = trainings[-1]
    chance: dict[str, Any] = next((row for row in rows[last.name] if row.get("phase") == "chance"), {})
    metric, value, level = _held_out(last, chance)
    lines = [row for named in rows.values() for row in named]
    return Learnt(
        hours=sum(training.total("audio_seconds") for training in trainings) / 3600,
        updates=sum(training.train[-1]["step"] for training in trainings if training.train),
        seconds=sum(training.total("step_seconds") for training in trainings),
        target_seconds=sum(row["seconds"] for row in lines if row.get("phase") == "targets"),
        metric=metric,
        value=value,
        chance=level,
        findings=tuple(dict.fromkeys(str(row.get("name")) for t in trainings for row in t.health)),
    )


def _held_out(training: Training, chance: Mapping[str, Any]) -> tuple[str, float | None, float | None]:
    """Return name, last value and level of chance of the first held-out metric for which chance is known."""
    for curve in training.objective.curves:
        level = curve.level if curve.level is not None else chance.get(curve.metric)
        name = f"valid_{curve.metric}"
        values = [row[name] for row in training.valid if isinstance(row.get(name), int | float)]
        if curve.held_out and level is not None and values:
            return curve.metric, float(values[-1]), float(level)
    return "", None, None
