"""Results of a report, computed once from a `RunRecord`, so that report.html, report.txt and report.json agree.

In: the record. Out: `Facts`, and through `to_json` plain values without NaN (JSON has none).
"""

import math
import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechssl.core.errors import DataError
from speechssl.core.randomness import key
from speechssl.evaluation.bootstrap import PairedBootstrap
from speechssl.evaluation.wer.hypotheses import Row
from speechssl.evaluation.wer.wer import compare_systems
from speechssl.reports.run.collect import Evaluation, RunRecord, Training

__all__ = ["Facts", "LedgerLine", "TrainingFacts", "dev_wer", "facts_of", "to_json"]

_EXAMPLES = 3
_WORST = 12
_SAMPLES = 5


@dataclass(frozen=True)
class LedgerLine:
    """Items that one stage rejected, repaired or dropped for one reason."""

    stage: str
    reason: str
    action: str
    count: int
    examples: tuple[tuple[str, str], ...]
    """(item, detail) of the first few."""


@dataclass(frozen=True)
class TrainingFacts:
    """One training in numbers."""

    name: str
    phase: str
    scratch: bool
    steps: int
    """Last step logged."""
    planned: int | None
    seconds: float | None
    """Time spent in steps, estimated from the logged ones."""
    seconds_per_step: float | None
    audio_rate: float | None
    """Seconds of audio for each second of time."""
    waiting: float | None
    """Share of the time in which the step waited for the loader."""
    skipped: int
    loss: float | None
    accuracy: float | None
    valid_loss: float | None
    """On held-out audio (pretraining), at the end."""
    valid_accuracy: float | None
    dev_wer: float | None
    """Lowest."""
    dev_wer_step: int | None
    findings: int
    """Health findings."""


@dataclass(frozen=True)
class Facts:
    """The results of a report."""

    main: Evaluation | None
    """The headline: the pretrained arm (of the last round) on the test split, where there is one."""
    scratch: Evaluation | None
    comparison: PairedBootstrap | None
    """The pretrained arm (b) against the scratch arm (a)."""
    trainings: tuple[TrainingFacts, ...]
    ledger: tuple[LedgerLine, ...]
    worst: tuple[Row, ...]
    samples: tuple[Row, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def facts_of(record: RunRecord) -> Facts:
    """Compute the results of a report."""
    notes = list(record.notes)
    last = max((e.round for e in record.evaluations), default=1)
    main = _preferred([e for e in record.evaluations if not e.scratch and e.round == last])
    main = main or _preferred(record.evaluations)
    scratch = comparison = None
    if main is not None and not main.scratch:
        others = [e for e in record.evaluations if e.scratch]
        scratch = _preferred([e for e in others if e.split == main.split]) or _preferred(others)
    if main is not None and scratch is not None:
        try:
            resamples, seed = main.wer.resamples, main.wer.seed
            comparison = compare_systems(scratch.rows, main.rows, n=resamples, seed=seed)
        except DataError as error:
            notes.append(f"The two arms could not be compared: {error}")
    return Facts(
        main=main,
        scratch=scratch,
        comparison=comparison,
        trainings=tuple(_training(training) for training in record.trainings),
        ledger=_ledger(record.ledger),
        worst=tuple(_worst(main.rows)) if main else (),
        samples=tuple(_samples(main.rows)) if main else (),
        commands=_commands(record),
        notes=tuple(notes),
    )


def to_json(record: RunRecord, facts: Facts) -> dict[str, Any]:
    """Return ``report.json`` as plain values."""
    scores = [
        {"name": e.name, "split": e.split, "scratch": e.scratch, **e.wer.to_dict(), "info": e.info}
        for e in record.evaluations
    ]
    document = {
        "name": record.name,
        "headline": None if facts.main is None else facts.main.name,
        "evaluations": scores,
        "comparison": None if facts.comparison is None else asdict(facts.comparison),
        "trainings": [asdict(training) for training in facts.trainings],
        "health": [{"training": training.name, **row} for training in record.trainings for row in training.health],
        "ledger": [asdict(line) for line in facts.ledger],
        "data": None if record.corpus is None else asdict(record.corpus),
        "sweep": record.sweep,
        "stage_seconds": dict(record.seconds),
        "commands": list(facts.commands),
        "environment": record.environment,
        "notes": list(facts.notes),
    }
    plain = _finite(document)
    assert isinstance(plain, dict)
    return plain


def dev_wer(row: dict[str, Any]) -> float | None:
    """Return the WER of a validation row (a fraction), or None."""
    return _number(next((row[name] for name in ("dev_wer", "wer") if name in row), None))


def _preferred(evaluations: list[Evaluation]) -> Evaluation | None:
    """Take the test split where there is one, else the first."""
    tests = [e for e in evaluations if "test" in e.split or "test" in e.name]
    return next(iter(tests or evaluations), None)


def _training(training: Training) -> TrainingFacts:
    rows = training.train
    step_seconds = [float(row["step_seconds"]) for row in rows if _is_number(row.get("step_seconds"))]
    waits = [float(row["loader_wait"]) for row in rows if _is_number(row.get("loader_wait"))]
    audio = [float(row["audio_seconds"]) for row in rows if _is_number(row.get("audio_seconds"))]
    spent = sum(step_seconds)
    typical = statistics.median(step_seconds) if step_seconds else None
    scored = [(wer, row["step"]) for row in training.valid if (wer := dev_wer(row)) is not None]
    best, best_step = min(scored) if scored else (None, None)
    steps = max((row["step"] for row in (*rows, *training.valid)), default=0)
    settings = training.config.get("training")
    planned = settings.get("steps") if isinstance(settings, dict) else None
    last = rows[-1] if rows else {}
    held = training.valid[-1] if training.valid else {}
    return TrainingFacts(
        name=training.name,
        phase=training.phase,
        scratch=training.scratch,
        steps=steps,
        planned=planned if isinstance(planned, int) else None,
        seconds=typical * steps if typical is not None else None,
        seconds_per_step=typical,
        audio_rate=sum(audio) / spent if audio and spent else None,
        waiting=statistics.fmean(waits) if waits else None,
        skipped=int(last["skipped"]) if _is_number(last.get("skipped")) else 0,
        loss=_number(last.get("loss")),
        accuracy=_number(last.get("accuracy")),
        valid_loss=_number(held.get("valid_loss")),
        valid_accuracy=_number(held.get("valid_accuracy")),
        dev_wer=best,
        dev_wer_step=best_step,
        findings=len(training.health),
    )


def _ledger(entries: list[dict[str, Any]]) -> tuple[LedgerLine, ...]:
    """Count by stage and reason; entries of several iterations, or of both arms, about one utterance are one item."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    seen = set()
    for entry in entries:
        name = tuple(str(entry.get(field) or "?") for field in ("stage", "reason", "action"))
        same = (*name, str(entry.get("item")), str(entry.get("detail")))
        if same not in seen:
            seen.add(same)
            groups.setdefault((name[0], name[1], name[2]), []).append(entry)
    order = Counter({name: len(group) for name, group in groups.items()})
    return tuple(
        LedgerLine(
            *name,
            count=count,
            examples=tuple((str(e.get("item", "")), str(e.get("detail", ""))) for e in groups[name][:_EXAMPLES]),
        )
        for name, count in sorted(order.items(), key=lambda item: (-item[1], item[0]))
    )


def _worst(rows: list[Row]) -> list[Row]:
    wrong = [row for row in rows if row["S"] + row["D"] + row["I"]]
    return sorted(wrong, key=lambda row: (-(row["S"] + row["D"] + row["I"]), row["N"], row["id"]))[:_WORST]


def _samples(rows: list[Row]) -> list[Row]:
    """Draw a few utterances by key, so that the same evaluation always shows the same ones."""
    return sorted(rows, key=lambda row: key("report", row["id"]))[:_SAMPLES]


def _commands(record: RunRecord) -> tuple[str, ...]:
    """Return the command lines that make the run again, from its saved configurations."""
    present = {Path(name).parent.as_posix(): name for name, _ in record.configs}
    commands = []
    root = next((text for name, text in record.configs if name == "config.toml"), "")
    if "[pretrain" in root and "[finetune" in root:
        commands.append("speechssl run FOLDER config.toml")
    for training in record.trainings:
        place = Path(training.name or ".")
        if place.name.startswith("iteration-"):  # one command makes all iterations
            place = place.parent
        command = f"speechssl {training.phase} {present.get(place.as_posix())}"
        if place.as_posix() in present and command not in commands:
            commands.append(command)
    scored = [present[e.name or "."] for e in record.evaluations if (e.name or ".") in present]
    commands += [f"speechssl evaluate {config}" for config in scored]
    return (*commands, "speechssl report .")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
