"""Tasks: which utterances, which labels, and what is predicted.

In: a name (a built-in task, or a field of the manifest) and the manifest's entries. Out: a ``Task``.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from speechssl.asr.tokens import normalise_text
from speechssl.config import ProbeConfig
from speechssl.config.understanding import TASKS, BuiltInTask
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.randomness import key
from speechssl.data.ingest.manifest import Utterance
from speechssl.understanding.recordings import field_of, read_ids

__all__ = ["NUMBERS", "Kind", "Task", "majority_error", "make_task", "without_missing"]

Kind = Literal["text", "class", "speaker", "frames"]
Split = Literal["train", "dev", "test"]
NUMBERS = ("pitch", "energy")
"""Tasks whose targets are numbers, computed from the waveform."""
PHONES = "phones"
SHARE = 0.1
"""Of the training utterances: dev, or test, where the data have none."""


@dataclass(frozen=True)
class Task:
    """Utterances with their labels."""

    name: str
    kind: Kind
    ids: dict[Split, tuple[str, ...]]
    labels: dict[str, tuple[str, ...]]
    """Symbols of a transcript, or one class; empty for targets that are computed by frame."""
    classes: tuple[str, ...]
    """What can be predicted, from the training utterances; empty for numbers, and for labels by frame."""
    speakers: dict[str, str]
    trials: tuple[str, ...] = ()
    """Utterances of speakers that are not trained on, for verification."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def _find_task(name: str, cfg: ProbeConfig) -> BuiltInTask:
    """Return a built-in task, or one that a field of the manifest makes."""
    if name in TASKS:
        return TASKS[name]
    kind = cfg.kind
    if kind == "auto":
        kind = {"text": "text", "speaker": "speaker"}.get(name, "class")  # type: ignore[assignment]
        kind = "frames" if name in (*NUMBERS, PHONES) else kind
    return BuiltInTask(name, kind, "")  # type: ignore[arg-type]


def make_task(name: str, utterances: Mapping[str, Utterance], cfg: ProbeConfig) -> Task:
    """Return a task on the utterances of a manifest.

    Raises
    ------
    ConfigError
        The task needs a list of ids, or an alignment, that was not given.
    DataError
        No utterance has the field, or a split is empty.
    """
    about = _find_task(name, cfg)
    labels = _labels(about, utterances, cfg)
    if not labels:
        fields = sorted({field for item in utterances.values() for field in item.meta})
        raise DataError(
            f"task {name!r}: no utterance of {cfg.data}{f' named {about.prefix}*' * bool(about.prefix)} has the field "
            f"{about.field!r}; fields of meta there: {', '.join(fields) or 'none'}; built-in tasks: {', '.join(TASKS)}"
        )
    speakers = {item: field_of(utterances[item], "speaker") or "" for item in labels}
    ids, trials = _split(about, labels, utterances, cfg)
    parts = [set(items) for items in ids.values()]
    if sum(map(len, parts)) > len(set().union(*parts)):
        raise DataError(f"task {name!r}: some utterances are in two of train, dev and test; give lists without overlap")
    notes: list[str] = []
    if cfg.shuffle_labels:
        labels = _shuffled(labels, [*ids["train"], *ids["dev"]])
    classes = tuple(sorted({symbol for item in ids["train"] for symbol in labels[item]}))
    if about.kind in ("class", "speaker"):
        if len(classes) < 2:
            raise DataError(
                f"task {name!r}: the training utterances have {len(classes)} class; a probe needs two or more"
            )
        for split in ("dev", "test"):
            unseen = [item for item in ids[split] if labels[item][0] not in classes]
            if unseen:
                notes.append(f"{len(unseen)} utterances of {split} left out: their class is not in train")
                ids[split] = tuple(item for item in ids[split] if item not in set(unseen))
    task = Task(name, about.kind, ids, labels, classes, speakers, trials, tuple(notes))
    if empty := [split for split, items in task.ids.items() if not items]:
        raise DataError(f"task {name!r}: {empty[0]} has no utterance; give its ids with --{empty[0]}-ids")
    return task


def _labels(about: BuiltInTask, utterances: Mapping[str, Utterance], cfg: ProbeConfig) -> dict[str, tuple[str, ...]]:
    mine = {item: utterance for item, utterance in utterances.items() if item.startswith(about.prefix)}
    if about.kind == "frames":
        return dict.fromkeys(mine, ())
    found = {item: field_of(utterance, about.field) for item, utterance in mine.items()}
    if about.kind != "text":
        return {item: (value,) for item, value in found.items() if value}
    if cfg.tokens == "words":
        return {item: tuple(value.split()) for item, value in found.items() if value and value.split()}
    texts = {item: normalise_text(value, "basic") for item, value in found.items() if value}
    return {item: tuple(text.replace(" ", "|")) for item, text in texts.items() if text}


def _split(
    about: BuiltInTask, labels: Mapping[str, Sequence[str]], utterances: Mapping[str, Utterance], cfg: ProbeConfig
) -> tuple[dict[Split, tuple[str, ...]], tuple[str, ...]]:
    """Return the ids of each split, and those of verification trials."""
    given: dict[Split, str] = {"train": cfg.train_ids, "dev": cfg.dev_ids, "test": cfg.test_ids}
    if about.lists and not all(given.values()):
        if not cfg.lists:
            raise ConfigError(
                f"this task is defined by {', '.join(about.lists)}: give their folder with --lists FOLDER"
            )
        given = dict(zip(given, (str(Path(cfg.lists) / name) for name in about.lists), strict=True))
    listed = {split: read_ids(path) if path else None for split, path in given.items()}
    ids: dict[Split, tuple[str, ...]] = {}
    splits: tuple[Split, ...] = ("train", "dev", "test")
    for split in splits:
        wanted = listed[split]
        chosen = labels if wanted is None else [item for item in wanted if item in labels]
        ids[split] = tuple(
            item for item in chosen if wanted is not None or (utterances[item].split or "train") == split
        )
    trials: tuple[str, ...] = ()
    if about.kind == "speaker":
        # Splits of speech corpora share no speaker: identification is tested on other utterances of those of train.
        known = {labels[item][0] for item in ids["train"]}
        trials = tuple(item for item in (*ids["dev"], *ids["test"]) if labels[item][0] not in known)
        ids |= {split: tuple(item for item in ids[split] if labels[item][0] in known) for split in ("dev", "test")}
    for split in splits[:0:-1]:  # test, then dev
        if not ids[split] and (listed[split] is None or about.kind == "speaker"):
            moved = {item for item in ids["train"] if key("probe", split, item) % 1000 < 1000 * SHARE}
            ids[split] = tuple(item for item in ids["train"] if item in moved)
            ids["train"] = tuple(item for item in ids["train"] if item not in moved)
    return ids, trials


def _shuffled(labels: dict[str, tuple[str, ...]], items: Sequence[str]) -> dict[str, tuple[str, ...]]:
    order = sorted(items, key=lambda item: key("shuffled", item))
    return labels | {item: labels[other] for item, other in zip(items, order, strict=True)}


def without_missing(task: Task, there: Container[str]) -> Task:
    """Return the task without utterances that have no features, and a note that counts them."""
    ids = {split: tuple(item for item in items if item in there) for split, items in task.ids.items()}
    lost = sum(map(len, task.ids.values())) - sum(map(len, ids.values()))
    notes = (*task.notes, f"{lost} utterances without features (ledger.jsonl says why)") if lost else task.notes
    trials = tuple(item for item in task.trials if item in there)
    return replace(task, ids=ids, trials=trials, notes=notes)


def majority_error(task: Task) -> float | None:
    """Return the test error of always predicting the most frequent class of train; None for other kinds."""
    if task.kind not in ("class", "speaker"):
        return None
    ((best, _),) = Counter(task.labels[item][0] for item in task.ids["train"]).most_common(1)
    return sum(task.labels[item][0] != best for item in task.ids["test"]) / len(task.ids["test"])
