"""Reads a run folder, however incomplete, from its files alone.

In: the folder of one stage (pretraining, fine-tuning, evaluation) or of a whole run with its stages as subfolders. Out:
a `RunRecord`. A run that is in progress, or was killed, has incomplete last lines: they are left out and named in
``notes``.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from speechssl.core.environment import environment
from speechssl.core.errors import DataError
from speechssl.evaluation.wer.hypotheses import HYPOTHESES, Row, read_hypotheses
from speechssl.evaluation.wer.rarity import read_train_words
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.summary import summarise
from speechssl.reports.page.lines import read_lines
from speechssl.reports.run.corpus import Corpus, read_corpus
from speechssl.reports.run.objective import Trained
from speechssl.reports.run.unit_use import UnitUse, read_units

__all__ = ["Evaluation", "RunRecord", "Training", "collect"]

_SKIPPED = frozenset({"checkpoints", "model", "events", "tensorboard", "sweep", "corpus", "audio", "stages"})
_DEPTH = 3


@dataclass(frozen=True)
class Training:
    """One training: its configuration and what it logged, a row for each step, in order."""

    name: str
    """Folder, relative to the run; empty for the run folder itself."""
    phase: Literal["pretrain", "finetune"]
    scratch: bool
    """Fine-tuned from random weights."""
    config: dict[str, Any]
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    health: list[dict[str, Any]]
    units: UnitUse | None = None
    """The discrete targets of an iteration."""

    @property
    def round(self) -> int:
        """Which pretraining, or which fine-tuning, of a run with several rounds."""
        return _round(self.name)

    @cached_property
    def objective(self) -> Trained:
        """What this version knows of the objective."""
        return Trained.by(self.config)

    def total(self, metric: str) -> float:
        """Return the sum over updates of what was logged as a mean since the line before."""
        total, before = 0.0, 0
        for row in self.train:
            total += row.get(metric, 0.0) * (row["step"] - before)
            before = row["step"]
        return total


@dataclass(frozen=True)
class Evaluation:
    """One scored set of utterances."""

    name: str
    scratch: bool
    split: str
    rows: list[Row]
    wer: WerReport
    info: dict[str, Any]
    config: dict[str, Any]
    """Its resolved configuration; empty when there is none."""

    @property
    def round(self) -> int:
        """Which round of a run it scores."""
        return _round(self.name)


def _round(name: str) -> int:
    """Return the number at the end of a stage's folder: 2 of ``evaluate-2``, 1 of ``evaluate``."""
    found = re.fullmatch(r"(?:pretrain|finetune|evaluate)-(\d+)", name.partition("/")[0])
    return int(found[1]) if found else 1


@dataclass(frozen=True)
class RunRecord:
    """Everything the report is made from."""

    name: str
    folder: Path
    trainings: list[Training] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    corpus: Corpus | None = None
    configs: list[tuple[str, str]] = field(default_factory=list)
    """(relative path, text) of each resolved configuration."""
    sweep: list[dict[str, Any]] = field(default_factory=list)
    """Candidates of the learning rate: arm, lr, dev_wer, kept."""
    seconds: list[tuple[str, float]] = field(default_factory=list)
    """(stage, wall-clock seconds)."""
    environment: dict[str, str] = field(default_factory=dict)
    lengths: list[str] = field(default_factory=list)
    """Why the trainings are as long as they are, a sentence each."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, for the reader of the report."""

    @property
    def title(self) -> str:
        """Name of the folder, or of the one around a folder that is only called ``run``."""
        return self.name if self.name != "run" else self.folder.resolve().parent.name or self.name


def collect(folder: Path) -> RunRecord:
    """Read a run folder; DataError when the folder does not exist, or nothing in it comes from a run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a run folder, such as runs/NAME")
    record = RunRecord(name=folder.resolve().name, folder=folder)
    places = list(_places(folder))
    for place in places:
        name = place.relative_to(folder).as_posix() if place != folder else ""
        _read_place(record, place, name)
    _read_sweep(record, folder / "sweep" / "sweep.json")
    _read_stages(record, folder / "stages")
    _read_lengths(record, folder / "budget" / "lengths.json")
    corpus, problem = read_corpus(_corpus_files(record, folder, places), folder)
    if problem:
        record.notes.append(problem)
    record.trainings.sort(key=lambda t: (t.round, t.phase != "pretrain", t.scratch, len(t.name), t.name))
    record.evaluations.sort(key=lambda e: (e.scratch, e.name))
    record.environment.update(_environment(folder, record))
    if not (record.trainings or record.evaluations or corpus or record.ledger):
        raise DataError(
            f"{folder}: nothing to report. A run folder holds metrics.jsonl (training), {HYPOTHESES} (evaluation) or "
            "manifest.jsonl, itself or in subfolders"
        )
    return RunRecord(**{**vars(record), "corpus": corpus})


def _places(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        place = Path(root)
        deep = len(place.relative_to(folder).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(n for n in folders if n not in _SKIPPED and not n.startswith("."))
        if names:
            yield place


def _read_place(record: RunRecord, place: Path, name: str) -> None:
    config = place / "config.toml"
    if config.exists():
        record.configs.append((config.relative_to(record.folder).as_posix(), _text(config)))
    if (place / "metrics.jsonl").exists():
        record.trainings.append(_training(record, place, name))
    if (place / "ledger.jsonl").exists():
        record.ledger.extend(read_lines(place / "ledger.jsonl", record.notes, record.folder))
    if (place / HYPOTHESES).exists():
        try:
            record.evaluations.append(_evaluation(record, place, name))
        except DataError as error:
            record.notes.append(str(error))


def _training(record: RunRecord, place: Path, name: str) -> Training:
    steps: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "valid": {}}
    health = []
    for row in read_lines(place / "metrics.jsonl", record.notes, record.folder):
        phase, step = row.get("phase"), row.get("step")
        if not isinstance(step, int):
            continue
        if phase == "health":
            health.append(row)
        elif phase in steps:
            steps[phase][step] = row  # a resumed run logs the steps after its checkpoint again: the last one counts
    config = _config(place, record.folder, record.notes)
    scratch = "scratch" in name or (not name and "scratch" in record.name)
    return Training(
        name=name,
        phase=_phase(config, name or record.name),
        scratch=scratch,
        config=config,
        train=[steps["train"][step] for step in sorted(steps["train"])],
        valid=[steps["valid"][step] for step in sorted(steps["valid"])],
        health=sorted(health, key=lambda row: row["step"]),
        units=read_units(place / "units", record.notes, record.folder),
    )


def _phase(config: dict[str, Any], name: str) -> Literal["pretrain", "finetune"]:
    if "ctc" in config or "tokens" in config:
        return "finetune"
    if "objective" in config:
        return "pretrain"
    return "finetune" if "finetune" in name else "pretrain"


def _config(place: Path, top: Path, notes: list[str]) -> dict[str, Any]:
    """Return the nearest configuration, from ``place`` upwards to the run folder; iterations share their parent's."""
    candidates = [place, *place.parents]
    for folder in candidates[: candidates.index(top) + 1]:
        path = folder / "config.toml"
        if not path.exists():
            continue
        try:
            config = tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            note = f"{path.relative_to(top)}: not TOML ({error})"
            notes += [] if note in notes else [note]  # several stages may look at one file
            continue
        inner = config.get(place.relative_to(folder).parts[0]) if folder != place else None
        return inner if isinstance(inner, dict) else config
    return {}


def _evaluation(record: RunRecord, place: Path, name: str) -> Evaluation:
    rows = read_hypotheses(place / HYPOTHESES)
    score = _json(place / "wer.json", record.notes, record.folder)
    known: dict[str, Any] = score if isinstance(score, dict) else {}
    info: dict[str, Any] = known["info"] if isinstance(known.get("info"), dict) else {}
    n, seed = known.get("resamples"), known.get("seed")
    wer = summarise(
        rows,
        n=n if isinstance(n, int) and n > 0 else 2_000,
        seed=seed if isinstance(seed, int) else 1,
        train_words=_train_words(record, place),
    )
    split = info.get("split", info.get("splits", ""))
    if isinstance(split, list | tuple):
        split = ", ".join(str(part) for part in split)
    config = _config(place, record.folder, record.notes)
    return Evaluation(name, "scratch" in (name or record.name), str(split), rows, wer, info, config)


def _train_words(record: RunRecord, place: Path) -> dict[str, int] | None:
    try:
        return read_train_words(place)
    except DataError as error:
        record.notes.append(str(error))
        return None


def _corpus_files(record: RunRecord, folder: Path, places: list[Path]) -> list[Path]:
    """Return manifests, best first: of shards below the folder, of a manifest, of the shards a training read."""
    found = [place / "manifest.jsonl" for place in places if (place / "manifest.jsonl").exists()]
    found.sort(key=lambda path: not any(path.parent.glob("*.idx")))
    for training in record.trainings:
        data = training.config.get("data")
        shards = data.get("shards") if isinstance(data, dict) else None
        if isinstance(shards, str) and shards and "://" not in shards:
            found.append(folder / shards / "manifest.jsonl")
            found.append(Path(shards) / "manifest.jsonl")
    return [path for path in found if path.is_file()]


def _read_sweep(record: RunRecord, path: Path) -> None:
    rows = _json(path, record.notes, record.folder)
    if isinstance(rows, list):
        record.sweep.extend(row for row in rows if isinstance(row, dict))


def _read_lengths(record: RunRecord, path: Path) -> None:
    settled = _json(path, record.notes, record.folder)
    if isinstance(settled, dict) and isinstance(settled.get("why"), list):
        record.lengths.extend(map(str, settled["why"]))


def _read_stages(record: RunRecord, folder: Path) -> None:
    stamps = []
    for path in sorted(folder.glob("*.json")):
        stamp = _json(path, record.notes, record.folder)
        if isinstance(stamp, dict) and isinstance(stamp.get("seconds"), int | float) and path.stem != "report":
            stamps.append((float(stamp.get("finished", 0.0)), path.stem, float(stamp["seconds"])))
    record.seconds.extend((name, seconds) for _, name, seconds in sorted(stamps))


def _environment(folder: Path, record: RunRecord) -> dict[str, str]:
    """Return versions: those saved with the run, else those of the machine that makes the report."""
    saved = _json(folder / "environment.json", record.notes, folder)
    if isinstance(saved, dict):
        return {str(name): str(value) for name, value in saved.items()}
    return environment()


def _json(path: Path, notes: list[str], top: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        notes.append(f"{os.path.relpath(path, top)}: not JSON ({error.msg}); left out")
        return None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
