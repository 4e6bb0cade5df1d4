"""Pretrained against scratch on real speech: AN4 and one hour of LibriSpeech, the table in README.

usage: python -m benchmarks.real_speech DATA OUT [RATE ...]     (about half an hour on two CPU cores; resumes)

DATA holds the corpora with a `manifest.jsonl` each and `protocols/*.txt` lists of utterance ids. One HuBERT model is
pretrained on every English training utterance; for each task it is fine-tuned, and so is the same model from random
weights, with the same learning rates of which dev chooses one, and the same updates. Test is decoded once an arm.
Results go to benchmarks/results/real_speech.json with hardware, versions, date and the learning rates (where the file
does not list them, they were 1e-3 and 2e-3).
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import write
from speechssl.asr.evaluate import evaluate
from speechssl.config import DecoderConfig, EvaluateConfig, FinetuneConfig, ManifestConfig, PretrainConfig, ShardConfig
from speechssl.config.load import find_config, read_toml
from speechssl.data.ingest.manifest import build_manifest
from speechssl.data.store.writer import shard_manifest
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.wer import compare_systems
from speechssl.training.pretrain import pretrain
from speechssl.workflows.sweep import Ahead, tune

RATES = (5e-4, 1e-3, 2e-3)
TASKS = {
    "AN4": ("an4-train", "an4-dev", "an4-test"),
    "LibriSpeech 1 h": ("libri-1h", "libri-dev", "libri-test"),
}


def main(data: Path, out: Path, rates: tuple[float, ...]) -> None:
    """Run everything that is not done yet, then write and print the results."""
    protocol = data / "protocols"
    if not (out / "corpus" / "manifest.jsonl").exists():
        print(build_manifest(data, out / "corpus", ManifestConfig()), flush=True)
    print(shard_manifest(out / "corpus" / "manifest.jsonl", out / "shards", ShardConfig()), flush=True)

    def ids(name: str) -> tuple[str, ...]:
        return (str(protocol / f"{name}.txt"),)

    shards = str(out / "shards")
    base = read_toml(FinetuneConfig, find_config("finetune-cpu"))
    base = replace(base, training=replace(base.training, threads=1))  # two trainings run at a time
    arms: dict[tuple[str, str], FinetuneConfig] = {}
    for task, (train, dev, _) in TASKS.items():
        for arm, init in (("pretrained", str(out / "pretrain" / "model")), ("scratch", "")):
            arms[task, arm] = replace(
                base,
                init=init,
                output=str(out / f"{train}-{arm}"),
                data=replace(base.data, shards=shards, ids=ids(train)),
                dev=replace(base.dev, shards=shards, ids=ids(dev)),
            )
    cfg = read_toml(PretrainConfig, find_config("hubert-cpu"))
    cfg = replace(
        cfg,
        output=str(out / "pretrain"),
        data=replace(cfg.data, shards=shards, ids=ids("unlabelled-en")),
        training=replace(cfg.training, threads=1),
    )

    def scratch(stop):  # type: ignore[no-untyped-def]
        for task in TASKS:
            tune(f"{TASKS[task][0]}-scratch", arms[task, "scratch"], rates, out / "sweep", jobs=1, stop=stop)

    with Ahead(scratch) as ahead:  # it does not depend on pretraining
        start = time.monotonic()
        pretrain(cfg)
        pretraining = time.monotonic() - start
        ahead.wait()
    rows = []
    for task, (train, _, test) in TASKS.items():
        tune(f"{train}-pretrained", arms[task, "pretrained"], rates, out / "sweep", jobs=2)
        for arm in ("pretrained", "scratch"):
            place = out / f"{train}-{arm}"
            for decoder in ("greedy", "lexicon"):
                scoring = EvaluateConfig(
                    model=str(place / "model"),
                    output=str(place / decoder),
                    decoder=DecoderConfig(kind=decoder, beam=100),  # type: ignore[arg-type]
                )
                report = evaluate(replace(scoring, data=replace(scoring.data, shards=shards, ids=ids(test), workers=0)))
                info = json.loads((place / "model" / "config.json").read_text(encoding="utf-8"))["info"]
                rows.append(
                    {
                        "task": task,
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
                    }
                )
    result = {
        "learning_rates": rates,
        "pretraining_seconds_in_this_run": round(pretraining),
        "rows": rows,
    }
    write("real_speech.json", result, "torchaudio", "numpy")
    print(
        "| task | decoder | pretrained WER (95 % interval) | from scratch | paired difference |\n|---|---|---|---|---|"
    )
    for task, (train, _, _) in TASKS.items():
        for decoder in ("greedy", "lexicon"):
            cells = []
            for arm in ("pretrained", "scratch"):
                row = next(r for r in rows if (r["task"], r["arm"], r["decoder"]) == (task, arm, decoder))
                cells.append(f"{row['wer']:.1%} ({row['ci'][0]:.1%} to {row['ci'][1]:.1%})")
            pair = [read_hypotheses(out / f"{train}-{arm}" / decoder) for arm in ("scratch", "pretrained")]
            paired = compare_systems(*pair)
            difference = f"{paired.difference:+.1%} ({paired.low:+.1%} to {paired.high:+.1%})" if paired else "n/a"
            print(f"| {task} | {decoder} | {cells[0]} | {cells[1]} | {difference} |")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    chosen = tuple(float(word) for word in sys.argv[3:]) or RATES
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), chosen)
