"""Pretrained against scratch on real speech: the table in README and in docs/results.md.

usage: python -m benchmarks.real_speech DATA OUT [TASK ...]      (tasks: an4, libri-1h, libri-5h, fsdd; it resumes)

DATA holds the corpora with a `manifest.jsonl` each and `protocols/*.txt` lists of utterance ids. One HuBERT model with
Conformer blocks is pretrained on every English training utterance. For each task it is fine-tuned, and so is the same
model from random weights, with the same settings and updates, while the other core is busy with the other arm. Dev
chooses among the weights of a training. Test is decoded once an arm and decoder.
Results go to benchmarks/results/real_speech.json with hardware, versions and date; tasks that are not named stay.
"""

import json
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.machine import RESULTS, write
from speechssl.asr.evaluate import evaluate
from speechssl.config import DecoderConfig, EvaluateConfig, FinetuneConfig, ManifestConfig, PretrainConfig, ShardConfig
from speechssl.config.load import read_toml
from speechssl.core.presets import find_config
from speechssl.data.ingest.manifest import build_manifest, read_manifest
from speechssl.data.store.writer import shard_manifest
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.wer import compare_systems
from speechssl.reports.run.collect import collect
from speechssl.training.pretrain import pretrain
from speechssl.workflows.sweep import Ahead, tune

ARMS = ("pretrained", "scratch")
DECODERS = ("greedy", "lexicon")


@dataclass(frozen=True)
class Task:
    """Lists of utterance ids, the updates of 12 s of audio that each arm makes, and those between two validations."""

    title: str
    train: str
    dev: str
    test: str
    updates: int
    validate_every: int = 500


TASKS = {
    "an4": Task("AN4 (0.57 h)", "an4-train", "an4-dev", "an4-test", 16_000),
    "libri-1h": Task("LibriSpeech (1 h)", "libri-1h", "libri-dev", "libri-test", 12_000, 1_000),
    "libri-5h": Task("LibriSpeech (5 h)", "libri-5h", "libri-dev", "libri-test", 16_000, 1_000),
    "fsdd": Task("spoken digits (0.17 h)", "fsdd-train", "fsdd-dev", "fsdd-test", 1_200),
}


class Bench:
    """The corpus, the lists and the models in OUT."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        if not (out / "corpus" / "manifest.jsonl").exists():
            print(build_manifest(data, out / "corpus", ManifestConfig()), flush=True)
        print(shard_manifest(out / "corpus" / "manifest.jsonl", out / "shards", ShardConfig()), flush=True)

    def ids(self, name: str) -> tuple[str, ...]:
        """Return the path of a list: one of the protocols, or of a corpus whose own splits are the protocol."""
        path = self.data / "protocols" / f"{name}.txt"
        if not path.exists():
            corpus, split = name.split("-")
            path = self.out / f"{name}.txt"
            chosen = [u.id for u in read_manifest(self.out / "corpus" / "manifest.jsonl")
                      if u.split == split and u.id.startswith(f"{corpus}_")]  # fmt: skip
            path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        return (str(path),)

    def place(self, task: Task, arm: str) -> Path:
        return self.out / f"{task.train}-{arm}"

    def pretraining(self) -> PretrainConfig:
        cfg = read_toml(PretrainConfig, find_config("hubert-conformer-cpu"))
        data = replace(cfg.data, shards=str(self.out / "shards"), ids=self.ids("unlabelled-en"))
        return replace(cfg, output=str(self.out / "pretrain"), data=data, training=replace(cfg.training, threads=1))

    def finetuning(self, task: Task, arm: str) -> FinetuneConfig:
        cfg = read_toml(FinetuneConfig, find_config("finetune-conformer-cpu"))
        shards = str(self.out / "shards")
        return replace(
            cfg,
            init=str(self.out / "pretrain" / "model") if arm == "pretrained" else "",
            output=str(self.place(task, arm)),
            data=replace(cfg.data, shards=shards, ids=self.ids(task.train)),
            dev=replace(cfg.dev, shards=shards, ids=self.ids(task.dev)),
            training=replace(
                cfg.training, steps=task.updates, validate_every=task.validate_every, average=5, threads=1
            ),
        )

    def train(self, task: Task, arm: str, stop: threading.Event | None = None) -> None:
        cfg = self.finetuning(task, arm)
        tune(f"{task.train}-{arm}", cfg, (cfg.optim.lr,), self.out / "sweep", stop=stop)

    def scored(self, task: Task, arm: str, decoder: str) -> dict:
        """Return a row of the results; test is decoded unless it has been."""
        place = self.place(task, arm)
        cfg = EvaluateConfig(
            model=str(place / "model"),
            output=str(place / decoder),
            decoder=DecoderConfig(kind=decoder, beam=100),  # type: ignore[arg-type]
        )
        report = evaluate(
            replace(cfg, data=replace(cfg.data, shards=str(self.out / "shards"), ids=self.ids(task.test), workers=0))
        )
        info = json.loads((place / "model" / "config.json").read_text(encoding="utf-8"))["info"]
        return {
            "task": task.title,
            "arm": arm,
            "decoder": decoder,
            "wer": report.wer,
            "ci": [report.ci_low, report.ci_high],
            "cer": report.cer,
            "words": report.N,
            "utterances": report.utterances,
            "dev_wer_greedy": info["dev_wer"],
            "steps": info["steps"],
            "train_hours": info["train_hours"],
            "hours_heard": hours_heard(place),
        }

    def difference(self, task: Task, decoder: str) -> dict:
        """Return the paired difference, pretrained less scratch, with its interval and the share of errors saved."""
        scratch, pretrained = (read_hypotheses(self.place(task, arm) / decoder) for arm in ("scratch", "pretrained"))
        paired = compare_systems(scratch, pretrained)
        if paired is None:
            return {}
        return {
            "task": task.title,
            "decoder": decoder,
            "difference": paired.difference,
            "ci": [paired.low, paired.high],
        }


def hours_heard(run: Path) -> float:
    """Return the hours of audio of all updates of a training."""
    return sum(training.total("audio_seconds") for training in collect(run).trainings) / 3600


def main(data: Path, out: Path, names: list[str]) -> None:
    """Run everything that is not done yet, then write and print the results."""
    bench = Bench(data, out)
    tasks = [TASKS[name] for name in names]

    def scratch(stop: threading.Event) -> None:
        for task in tasks:
            if not stop.is_set():
                bench.train(task, "scratch", stop)

    with Ahead(scratch) as ahead:  # it does not depend on pretraining
        pretrain(bench.pretraining())
        for task in tasks:
            bench.train(task, "pretrained")
        ahead.wait()
    rows = [bench.scored(task, arm, decoder) for task in tasks for decoder in DECODERS for arm in ARMS]
    differences = [bench.difference(task, decoder) for task in tasks for decoder in DECODERS]
    titles = {task.title for task in tasks}
    stored = json.loads((RESULTS / "real_speech.json").read_text(encoding="utf-8"))
    kept = {
        name: [row for row in stored.get(name, []) if row.get("task") not in titles] for name in ("rows", "differences")
    }
    result = {
        "hours_heard_in_pretraining": hours_heard(out / "pretrain"),
        "rows": kept["rows"] + rows,
        "differences": kept["differences"] + differences,
    }
    write("real_speech.json", result, "torchaudio", "numpy")
    print(
        "| task | decoder | pretrained WER (95 % interval) | from scratch | paired difference |\n|---|---|---|---|---|"
    )
    for pair, gap in zip(zip(rows[::2], rows[1::2], strict=True), differences, strict=True):
        cells = [f"{row['wer']:.1%} ({row['ci'][0]:.1%} to {row['ci'][1]:.1%})" for row in pair]
        saved = f"{gap['difference']:+.1%} ({gap['ci'][0]:+.1%} to {gap['ci'][1]:+.1%})" if gap else "n/a"
        print(f"| {pair[0]['task']} | {pair[0]['decoder']} | {cells[0]} | {cells[1]} | {saved} |")


if __name__ == "__main__":
    if len(sys.argv) < 3 or set(sys.argv[3:]) - set(TASKS):
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:] or list(TASKS))
