"""Numbers that go wrong in real runs: overflowing weights, pure silence, damage of every stored checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechssl.config import ShardConfig
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.manifest import write_manifest
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.writer import shard_manifest
from speechssl.training.monitoring.log import read_metrics
from tests.faults.runs import config, start


@pytest.mark.parametrize("kind", ["wav2vec2", "ctc"])
def test_overflow_stops_the_run_with_the_utterances_on_record(kind, tone_corpus, tmp_path):
    cfg = config(kind, tone_corpus.shards, tmp_path / "run", steps=200, max_skips=3)
    cfg = replace(cfg, optim=replace(cfg.optim, lr=1e30, warmup=0.0, schedule="constant"))
    run = start(cfg)
    assert run.end() == 1
    assert "3 steps in a row without an update (non_finite_gradient)" in run.last_line()
    assert "optim.lr" in run.last_line()
    entries = [x for x in read_ledger(run.output / "ledger.jsonl") if x.reason == "non_finite_gradient"]
    assert len({entry.detail for entry in entries}) == 3
    assert all(entry.item.startswith("tone") for entry in entries)
    health = [line for line in read_metrics(run.output / "metrics.jsonl") if line["phase"] == "health"]
    assert len([line for line in health if line["name"] == "skipped_step"]) == 3


@pytest.fixture(scope="module")
def silence(tmp_path_factory):
    """Shards of eight recordings of nothing."""
    folder = tmp_path_factory.mktemp("silence")
    utterances = []
    for number in range(8):
        samples = 12_000 + 400 * number
        soundfile.write(folder / f"s{number}.wav", np.zeros(samples), 16_000)
        utterances.append(Utterance(f"s{number}", f"s{number}.wav", samples / 16_000, 16_000, 1, split="train"))
    write_manifest(folder / "manifest.jsonl", utterances)
    shard_manifest(folder / "manifest.jsonl", folder / "shards", ShardConfig(workers=1))
    return folder / "shards"


def test_pure_silence_gives_finite_numbers(silence, tmp_path):
    run = start(config("wav2vec2", silence, tmp_path / "run", steps=6))
    assert run.end() == 0, run.text()
    lines = [x for x in read_metrics(run.output / "metrics.jsonl") if x["phase"] == "train"]
    assert len(lines) == 6
    assert all(np.isfinite(line["loss"]) and line["skipped"] == 0 for line in lines)


def test_pure_silence_cannot_be_clustered_and_the_message_says_so(silence, tmp_path):
    run = start(config("hubert", silence, tmp_path / "run", steps=6))
    assert run.end() == 1
    assert "silence" in run.last_line()
    assert "Traceback" not in run.text()


def test_no_whole_checkpoint_left_is_refused_and_nothing_is_touched(tone_corpus, tmp_path):
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=8)
    first = start(cfg)
    assert first.end() == 0, first.text()
    for path in (first.output / "model").iterdir():
        path.unlink()
    files = sorted((first.output / "checkpoints").rglob("state.pt"))
    for path in files:
        path.write_bytes(path.read_bytes()[:5000])
    metrics = (first.output / "metrics.jsonl").read_bytes()
    second = start(cfg)
    assert second.end() == 1
    assert "no checkpoint of this run is whole" in second.last_line()
    assert [path.stat().st_size for path in files] == [5000] * len(files)
    assert (first.output / "metrics.jsonl").read_bytes() == metrics


def test_a_changed_configuration_is_refused_with_the_difference(tone_corpus, tmp_path):
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=4)
    assert start(cfg).end() == 0
    run = start(replace(cfg, seed=2))
    assert run.end() == 1
    assert "seed: 1 -> 2" in run.text()
