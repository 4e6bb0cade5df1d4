"""Probes: how much of a task's labels small heads read from the frozen layers of a model.

In: a model, a task, a manifest or shards. Out: ``probe.json``, ``probe.txt``, the heads (saved.py), and the features,
which are computed once and kept.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.config import FeaturesConfig, ProbeConfig
from speechssl.core.errors import ConfigError
from speechssl.core.files import write_atomic, write_json
from speechssl.core.precision import device_kind
from speechssl.evaluation.bootstrap import Interval, bootstrap_wer
from speechssl.targets.audio import Recordings
from speechssl.understanding.examples import Examples, statistics
from speechssl.understanding.extractors import Extractor, open_extractor
from speechssl.understanding.features import Features, compute_features, pooled
from speechssl.understanding.heads import SMALLEST
from speechssl.understanding.recordings import open_recordings
from speechssl.understanding.results import HeadResult, document, report
from speechssl.understanding.saved import save_probe
from speechssl.understanding.scores import nearest_classes, verification
from speechssl.understanding.targets import frame_targets
from speechssl.understanding.tasks import Task, make_task, without_missing
from speechssl.understanding.train import HeadTraining, predict, score

__all__ = ["open_task", "run_probe"]

NEIGHBOURS = (1, 3, 5, 10, 20)
"""Values of k; dev chooses among them and the layers."""


def open_task(name: str, cfg: ProbeConfig) -> Task:
    """Return a task on ``cfg.data``.

    Raises
    ------
    ConfigError
        Settings that do not fit the task.
    DataError
        The data cannot be read, or do not have what the task needs.
    """
    _, utterances = open_recordings(cfg.data)
    task = make_task(name, utterances, cfg)
    if "knn" in cfg.heads and task.kind in ("text", "frames"):
        raise ConfigError(
            f"head knn predicts one class for each utterance, and task {name!r} has other labels: leave it out"
        )
    return task


def run_probe(model: str, name: str, cfg: ProbeConfig) -> list[HeadResult]:
    """Probe a model on a task, and write results and heads into ``cfg.output``.

    Raises
    ------
    ConfigError
        Settings that do not fit the task.
    DataError, CheckpointError
        The data or the model cannot be used.
    """
    task = open_task(name, cfg)
    needed = sorted({*task.ids["train"], *task.ids["dev"], *task.ids["test"], *task.trials})
    recordings, _ = open_recordings(cfg.data, ids=needed)
    extractor = open_extractor(model, layers=cfg.layers, stack=cfg.stack, device=cfg.device)
    began = time.monotonic()
    by_frame = task.kind in ("text", "frames") or "lstm" in cfg.heads
    features = _kept(recordings, extractor, cfg, by_frame=by_frame)
    spent = time.monotonic() - began
    task = without_missing(task, features)
    train, dev, test, classes = _examples(task, features, recordings, extractor, cfg)
    output = Path(cfg.output)
    results = []
    for head in dict.fromkeys(cfg.heads):
        arm = _arm(head, task, (train, dev, test), features=features, extractor=extractor, classes=classes, cfg=cfg)
        results.append(_neighbours(arm) if head == "knn" else _trained(arm))
        write_json(output / "probe.json", document(model, task, results, cfg) | {"features_seconds": round(spent, 1)})
    write_atomic(output / "probe.txt", report(model, task, results))
    return results


def _kept(recordings: Recordings, extractor: Extractor, cfg: ProbeConfig, *, by_frame: bool) -> Features:
    """Return the features of the task's utterances: those that are there, or new ones."""
    pool = "none" if by_frame else cfg.pool
    digest = hashlib.blake2b(f"{extractor.identity} {extractor.layers} {pool}".encode(), digest_size=6)
    digest.update("\n".join(recordings.ids).encode())
    settings = FeaturesConfig(pool=pool, dtype="float16" if by_frame else "float32")
    return compute_features(
        recordings, extractor, Path(cfg.features or Path(cfg.output) / "features") / digest.hexdigest(), settings
    )


def _plain(ids: tuple[str, ...], features: Features) -> Examples:
    found = [features[item] for item in ids]
    return Examples(ids, [x[:, None] if x.ndim == 2 else x for x in found], [])


def _pool(examples: Examples, cfg: ProbeConfig) -> Examples:
    """Return one vector for each utterance; features that were pooled on the disk stay as they are."""
    found = [
        x if x.shape[1] == 1 and x.dtype == torch.float32 else pooled(x.float(), cfg.pool)[:, None]
        for x in examples.features
    ]
    return replace(examples, features=found)


def _examples(
    task: Task, features: Features, recordings: Recordings, extractor: Extractor, cfg: ProbeConfig
) -> tuple[Examples, Examples, Examples, tuple[str, ...]]:
    """Return train, dev and test, and what the outputs of a head stand for."""
    splits = [_plain(task.ids[split], features) for split in ("train", "dev", "test")]
    if task.kind == "frames":
        targets, classes = frame_targets(task, splits, recordings, extractor, cfg)
    else:
        classes = ("<blank>", *task.classes) if task.kind == "text" else task.classes
        places = {symbol: place for place, symbol in enumerate(classes)}
        # A symbol of dev or test that train has not is an error that no head can avoid: -1 equals no prediction.
        targets = [
            [torch.tensor([places.get(symbol, -1) for symbol in task.labels[item]]) for item in part.ids]
            for part in splits
        ]
    train, dev, test = (replace(part, targets=found) for part, found in zip(splits, targets, strict=True))
    return train, dev, test, classes


@dataclass(frozen=True)
class _Arm:
    """One head, and what it is trained and tested on."""

    task: Task
    train: Examples
    dev: Examples
    test: Examples
    trials: Examples
    about: dict[str, Any]
    cfg: ProbeConfig

    @property
    def output(self) -> Path:
        return Path(self.cfg.output) / str(self.about["head"])

    def verify(self, vectors: list[torch.Tensor]) -> tuple[float, Interval | None, int] | None:
        """Return the equal error rate of the trials, its interval and their number; None where there are none."""
        speakers = [self.task.speakers[item] for item in self.trials.ids]
        if not 1 < len(set(speakers)) < len(speakers):
            return None
        return verification(torch.stack(vectors).numpy(), speakers)

    def result(self, tables: list[list[tuple[int, int]]], **known: Any) -> HeadResult:
        """Return what is known from (errors, total) of each test utterance for each seed."""
        table = np.array(tables, dtype=np.int64).sum(axis=0)  # an utterance's errors of all seeds belong together
        rates = tuple(sum(wrong for wrong, _ in one) / max(1, sum(total for _, total in one)) for one in tables)
        pairs = [pair for pair in known.pop("pairs") if pair]
        return HeadResult(
            head=str(self.about["head"]),
            error=float(table[:, 0].sum() / max(1, table[:, 1].sum())),
            interval=bootstrap_wer(table, n=self.cfg.bootstrap),
            seeds=rates,
            eer=float(np.mean([pair[0] for pair in pairs])) if pairs else None,
            eer_interval=pairs[0][1] if pairs else None,
            trials=pairs[0][2] if pairs else 0,
            **known,
        )


def _arm(
    head: str,
    task: Task,
    splits: tuple[Examples, Examples, Examples],
    *,
    features: Features,
    extractor: Extractor,
    classes: tuple[str, ...],
    cfg: ProbeConfig,
) -> _Arm:
    pools = task.kind in ("class", "speaker") and head != "lstm"
    about = {
        "task": task.name, "kind": task.kind, "model": extractor.name, "identity": extractor.identity,
        "layers": list(extractor.layers), "hop": extractor.hop, "stack": cfg.stack, "head": head,
        "hidden": cfg.hidden, "pool": cfg.pool if pools else "none", "tokens": cfg.tokens, "classes": list(classes),
    }  # fmt: skip
    parts = (*splits, _plain(task.trials, features))
    train, dev, test, trials = (_pool(part, cfg) if pools else part for part in parts)
    return _Arm(task, train, dev, test, trials, about, cfg)


def _trained(arm: _Arm) -> HeadResult:
    began = time.monotonic()
    kind, outputs = arm.about["head"], max(1, len(arm.about["classes"]))
    device = device_kind(arm.cfg.device)
    found = HeadTraining(kind, arm.task.kind, arm.train, arm.dev, outputs, arm.cfg, device).run()
    weights = torch.stack([item.head.mixture.weights.detach().cpu() for item in found]).mean(0).tolist()
    best = min(found, key=lambda item: item.dev)
    save_probe(arm.output, best.head.state_dict(), {**arm.about, "seed": best.seed, "rate": best.rate, "dev": best.dev})
    embedded = [[x[0] for x in predict(item.head, arm.trials.features, embed=True)] for item in found]
    return arm.result(
        [score(item.head, arm.task.kind, arm.test, device=device)[0] for item in found],
        dev=float(np.mean([item.dev[0] for item in found])),
        rate=best.rate,
        layers={layer: round(weight, 4) for layer, weight in zip(arm.about["layers"], weights, strict=True)},
        parameters=sum(value.numel() for value in best.head.parameters()),
        pairs=[arm.verify(vectors) for vectors in embedded],
        seconds=round(time.monotonic() - began, 1),
    )


def _neighbours(arm: _Arm) -> HeadResult:
    """Nearest neighbours by the cosine of standardised vectors of one layer; dev chooses layer and k."""
    began = time.monotonic()
    mean, std = statistics(arm.train)
    std = std.clamp(min=SMALLEST)
    train, dev, test = (torch.cat(part.targets).numpy() for part in (arm.train, arm.dev, arm.test))

    def vectors(examples: Examples, row: int) -> torch.Tensor:
        return torch.stack([(x[row, 0].float() - mean[row]) / std[row] for x in examples.features])

    def guesses(examples: Examples, row: int, counts: Sequence[int]) -> np.ndarray:
        return nearest_classes(vectors(arm.train, row).numpy(), train, vectors(examples, row).numpy(), counts)

    error, row, k = min(
        (float((guess != dev).mean()), row, k)
        for row in range(len(mean))
        for guess, k in zip(guesses(arm.dev, row, NEIGHBOURS), NEIGHBOURS, strict=True)
    )
    (guess,) = guesses(arm.test, row, [k])
    layer = arm.about["layers"][row]
    arrays = {
        "vectors": vectors(arm.train, row),
        "classes": torch.from_numpy(train),
        "mean": mean[row],
        "std": std[row],
    }
    save_probe(arm.output, arrays, {**arm.about, "layer": layer, "k": k, "dev": error})
    return arm.result(
        [[(int(wrong), 1) for wrong in guess != test]],
        dev=error,
        rate=None,
        layers={layer: 1.0},
        parameters=0,
        pairs=[arm.verify(list(vectors(arm.trials, row))) if len(arm.trials) else None],
        seconds=round(time.monotonic() - began, 1),
    )
