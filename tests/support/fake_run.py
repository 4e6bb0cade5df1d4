"""A run folder as the stages would leave it, without training anything: for the tests of the report.

Words, durations and curves are invented but shaped like real ones; everything is drawn from fixed seeds.
"""

import json
import math
from dataclasses import replace

import numpy as np

from speechssl.config import FinetuneConfig, PretrainConfig, RunConfig
from speechssl.config.load import write_toml
from speechssl.core.ledger import Entry, Ledger
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.wer import write_wer

WORDS = """the of and to a in that he was it his is with as for had you not be her on at by which have or from this
him but all she they were my are me one their so an said them we who would been will no when there if
more out up into do any your what has man could other than our some very time upon about may its only
now little then can like made should did such great before must two these see know over much down after
first mr good men own never most old shall day where those came come way work life without go make well
through being long say might how am too house under again water left heart night"""
SPEAKERS = ("1272", "1462", "1673", "1919", "1988", "2035", "2078", "2277", "2412", "2428")
CONFUSED = """the: a they of; and: an in at; to: the do two; a: the of; in: and an; his: is this; was: is what;
there: their; their: there; two: to; him: them; then: than; than: then; where: were; were: where we;
see: say; had: has have"""
NEIGHBOURS = {
    word: others.split() for word, others in (pair.split(":") for pair in " ".join(CONFUSED.split()).split("; "))
}


def hypotheses(error_rate, *, seed=1, utterances=160):
    """Rows whose references do not depend on the error rate, with errors that cluster by speaker and by utterance."""
    words = WORDS.split()
    rank = 1 / np.arange(1, len(words) + 1)
    rng, noise = np.random.default_rng(seed), np.random.default_rng(seed + round(1e6 * error_rate))
    hard = dict(zip(SPEAKERS, np.linspace(0.5, 1.8, len(SPEAKERS)), strict=True))
    rows = []
    for index in range(utterances):
        speaker = SPEAKERS[index % len(SPEAKERS)]
        ref = [str(w) for w in rng.choice(words, size=rng.integers(2, 34), p=rank / rank.sum())]
        rate = min(0.9, error_rate * hard[speaker] * noise.gamma(2, 0.5))
        hyp = []
        for word in ref:
            kind = noise.choice(4, p=[1 - rate, 0.7 * rate, 0.2 * rate, 0.1 * rate])
            other = str(noise.choice(NEIGHBOURS.get(word) or [word + "s", word[:-1] or "a", str(noise.choice(words))]))
            hyp += [[word], [other], [], [word, other]][kind]
        duration = round(0.5 + 0.31 * len(ref) + 0.4 * rng.random(), 2)
        rows.append(
            score_row(f"{speaker}-{index:06d}", " ".join(ref), " ".join(hyp), speaker=speaker, duration=duration)
        )
    return rows


def pretraining_metrics(steps=20_000, every=25):
    rng = np.random.default_rng(0)
    lines = []
    for step in range(every, steps + 1, every):
        done = step / steps
        loss = 1.9 + 2.72 * math.exp(-7 * done) + 0.06 * rng.standard_normal() * (1.3 - done)
        lines.append({
            "step": step, "phase": "train", "time": 1.77e9 + step * 0.41, "loss": loss + 0.12, "contrastive": loss,
            "diversity": 0.4,
            "accuracy": 0.58 * (1 - math.exp(-5 * done)) + 0.01 + 0.008 * rng.standard_normal(),
            "perplexity_0": 20 + 190 * (1 - math.exp(-4 * done)) + 4 * rng.standard_normal(),
            "perplexity_1": 18 + 150 * (1 - math.exp(-5 * done)) + 4 * rng.standard_normal(),
            "lr": 5e-4 * min(step / (0.08 * steps), (steps - step) / (0.92 * steps)), "n_targets": 5400,
            "grad_norm": float(0.9 + 6 * math.exp(-20 * done) + rng.gamma(1.5, 0.15)), "audio_seconds": 348.0,
            "step_seconds": 0.41, "throughput": 848.0, "loader_wait": 0.004, "skipped": int(done > 0.4),
        })  # fmt: skip
    return lines


def finetuning_metrics(final, steps=4_000, every=20, valid=200):
    rng = np.random.default_rng(round(final * 1000))
    lines = []
    for step in range(every, steps + 1, every):
        done = step / steps
        loss = 25 * final + 320 * math.exp(-12 * done / (1 + 4 * final))
        lines.append({
            "step": step, "phase": "train", "time": 1.77e9 + step * 0.3,
            "loss": loss * math.exp(0.12 * rng.standard_normal()),
            "lr": 5e-5 * min(done / 0.1, 1, 0.05 ** ((done - 0.5) / 0.5) if done > 0.5 else 1),
            "grad_norm": float(8 * math.exp(-3 * done) + rng.gamma(2, 1)), "n_targets": 24, "audio_seconds": 180.0,
            "step_seconds": 0.3, "blank_fraction": 1 - 0.3 * (1 - math.exp(-9 * done)),
            "throughput": 600.0, "loader_wait": 0.01, "skipped": 0,
        })  # fmt: skip
        if step % valid == 0:
            wer = min(1.0, final + 1.6 * math.exp(-6 * done / (0.4 + final)) + 0.01 * rng.standard_normal())
            lines.append(
                {
                    "step": step,
                    "phase": "valid",
                    "time": 1.77e9 + step * 0.3,
                    "dev_wer": wer,
                    "dev_cer": wer / 3,
                    "dev_loss": 40 * wer,
                }
            )
    return lines


def write_lines(path, lines, *, torn=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text + ('{"step": 99999, "phase": "tr' if torn else ""), encoding="utf-8")


def manifest_lines(rows):
    rng = np.random.default_rng(2)
    for row in rows:
        yield {"id": row["id"], "path": f"{row['id']}.flac", "duration": row["duration"], "sample_rate": 16_000,
               "channels": 1, "text": row["ref"], "speaker": row["speaker"], "split": "test"}  # fmt: skip
    for index in range(900):
        labelled = index % 9 == 0
        yield {"id": f"u{index:05d}", "path": f"audio/u{index:05d}.flac", "sample_rate": 16_000, "channels": 1,
               "duration": round(float(2 + 14.5 * rng.beta(3, 1.3)), 2), "speaker": f"{100 + index % 60}",
               "text": "the words" if labelled else None, "split": ("train", "dev")[index % 63 == 0]}  # fmt: skip


def write_run(folder, *, scratch=True, error_rate=0.16):
    """Write a whole run; return the folder."""
    write_toml(RunConfig(name="libri-mini", scratch=scratch), folder / "config.toml")
    for index, (name, seconds) in enumerate(
        (("manifest", 12.0), ("shard", 40.0), ("pretrain", 8300.0), ("finetune", 2500.0))
    ):
        write_lines(folder / "stages" / f"{name}.json", [{"key": "0", "seconds": seconds, "finished": float(index)}])
    rows = hypotheses(error_rate)
    write_lines(folder / "shards" / "manifest.jsonl", manifest_lines(rows))
    (folder / "shards" / "shard-000000.idx").touch()
    write_toml(PretrainConfig(), folder / "pretrain" / "config.toml")
    health = [{"step": 8_040, "phase": "health", "name": "skipped_step", "severity": "warning",
               "message": "a gradient was not finite; the update was left out (u00041, u00122)"}]  # fmt: skip
    write_lines(folder / "pretrain" / "metrics.jsonl", [*pretraining_metrics(), *health])
    arms = {"finetune": (0.12, error_rate, "pretrain/model")}
    if scratch:
        arms["finetune-scratch"] = (0.34, min(0.8, 2.3 * error_rate), "")
    for arm, (dev, test, init) in arms.items():
        write_toml(replace(FinetuneConfig(), init=init), folder / arm / "config.toml")
        write_lines(folder / arm / "metrics.jsonl", finetuning_metrics(dev))
        info = {"model": f"{arm}/model", "split": "test", "decoder": "greedy", "not_scored": "1 no_transcript"}
        write_wer(folder / arm.replace("finetune", "evaluate"), hypotheses(test), info)
    ledger = Ledger(folder / "manifest" / "ledger.jsonl")
    for index in range(4):
        ledger.add(Entry("manifest", f"audio/broken{index}.wav", "empty_file", "0 bytes"))
    ledger.add(Entry("manifest", "audio/talk.mp3", "too_long", "7.2 h; at most 6 h"))
    ledger.add(Entry("manifest", "notes.txt", "not_audio"))
    Ledger(folder / "finetune" / "ledger.jsonl").add(
        Entry("finetune", "u00018", "ctc_infeasible", "112 labels in 80 frames", "dropped")
    )
    return folder
