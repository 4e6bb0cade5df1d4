"""kill -9, SIGTERM and Ctrl-C at random steps: the run goes on as if nothing had happened, to the last bit."""

import os
import signal
import time
from dataclasses import replace

import pytest

from speechssl.core.randomness import generator
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.pretrain import pretrain
from tests.faults.runs import config, digest, start, wait_for
from tests.support.objectives import KINDS

STEPS = 24


def seen(output):
    """Return (folder, step) of every training line, and check that no step is there twice."""
    files = sorted(output.rglob("metrics.jsonl"))
    steps = [(file.parent.name, x["step"]) for file in files for x in read_metrics(file) if x["phase"] == "train"]
    assert len(steps) == len(set(steps))
    return steps


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        *[("wav2vec2", 0), ("hubert", 0), ("ctc", 0), ("wav2vec2", 2), ("ctc", 2)],
        pytest.param("hubert", 2, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_it_ends_with_the_same_bits(kind, workers, tone_corpus, uninterrupted, tmp_path):
    """Each start takes the folder at once, although the loader processes of the killed one live on for seconds.

    Three kills of one kind, one of the others: with loader processes each start takes many seconds.
    """
    cfg = config(kind, tone_corpus.shards, tmp_path / "run", workers=workers)
    times = 3 if (kind, workers) == ("wav2vec2", 0) else 1
    kills = sorted(generator("kill", kind, workers).choice(range(1, STEPS - 5), size=times, replace=False).tolist())
    for step in kills:
        run = start(cfg)
        wait_for(run, step)
        os.kill(run.pid, signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
        assert not (tmp_path / "run" / "model").exists()
    run = start(cfg)
    assert run.end() == 0, run.text()
    assert len(seen(run.output)) == STEPS
    assert digest(run.output) == digest(uninterrupted(kind))
    assert not list(run.output.rglob("*.tmp"))


def slow_updates():
    """Make each update take a twentieth of a second longer, so that a run of a few updates can be killed in time."""
    from speechssl.training import loop

    clip = loop.clip_gradients

    def slowly(*arguments, **options):
        time.sleep(0.05)
        return clip(*arguments, **options)

    loop.clip_gradients = slowly


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"wav2vec2", "hubert"}))
def test_every_objective_killed_once_ends_with_the_same_bits(kind, tone_corpus, tmp_path):
    """The others are killed above. Only the run that is killed has a process of its own."""
    cfg = config(kind, tone_corpus.shards, tmp_path / "run", steps=10, save_every=2)
    run = start(cfg, setup=slow_updates)
    wait_for(run, int(generator("kill", kind).integers(1, 7)))
    os.kill(run.pid, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    assert not (run.output / "model").exists()
    whole = tmp_path / "whole"
    for output in (run.output, whole):
        pretrain(replace(cfg, output=str(output)))
        assert len(seen(output)) == 10
    assert digest(run.output) == digest(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_says_so_and_continues(number, tone_corpus, uninterrupted, tmp_path):
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", save_every=1000)
    run = start(cfg)
    wait_for(run, 7)
    os.kill(run.pid, number)
    assert run.end() == 75
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert 7 <= step < STEPS
    assert f"stopped and saved after step {step}; run the same command again" in run.last_line()
    run = start(cfg)
    assert run.end() == 0, run.text()
    assert len(seen(run.output)) == STEPS
    assert digest(run.output) == digest(uninterrupted("wav2vec2"))


def test_two_runs_in_one_folder_are_refused(tone_corpus, tmp_path):
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=100_000)
    first = start(cfg)
    wait_for(first, 2)
    second = start(cfg, log=tmp_path / "second.log")
    assert second.end() == 1
    assert f"in use by process {first.pid} on" in second.last_line()
    assert first.process.is_alive(), first.text()
    os.kill(first.pid, signal.SIGKILL)
    first.end()


def slow_labels():
    """Make the labelling of each group take a fifth of a second."""
    from speechssl.targets import units

    features = units.features_of

    def slowly(*arguments):
        time.sleep(0.2)
        return features(*arguments)

    units.features_of = slowly


def slow_kmeans():
    """Make each mini-batch of k-means take a tenth of a second, and say that it has begun."""
    from sklearn.cluster import MiniBatchKMeans

    fit = MiniBatchKMeans.partial_fit

    def slowly(self, *arguments):
        print("a mini-batch", flush=True)
        time.sleep(0.1)
        return fit(self, *arguments)

    MiniBatchKMeans.partial_fit = slowly


def test_asked_to_stop_in_k_means_it_stops_between_mini_batches(tone_corpus, uninterrupted, tmp_path):
    cfg = config("hubert", tone_corpus.shards, tmp_path / "run")
    run = start(cfg, setup=slow_kmeans)
    units = tmp_path / "run" / "iteration-1" / "units"
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while not run.log.exists() or "a mini-batch" not in run.text():
        assert time.monotonic() < deadline, run.text()
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGTERM)
    assert run.end(300) == 75, run.text()
    assert f"stopped while units were made in {units}; run the same command again" in run.last_line()
    assert not (units / "kmeans.npz").exists()
    run = start(cfg)
    assert run.end() == 0, run.text()
    assert digest(run.output) == digest(uninterrupted("hubert"))


def test_asked_to_stop_while_units_are_made_it_stops_between_groups(tone_corpus, uninterrupted, tmp_path):
    cfg = config("hubert", tone_corpus.shards, tmp_path / "run")
    run = start(cfg, setup=slow_labels)
    units = tmp_path / "run" / "iteration-1" / "units"
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while not (units / "kmeans.npz").exists():
        assert time.monotonic() < deadline, run.text()
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGTERM)
    assert run.end(300) == 75, run.text()
    assert f"stopped while units were made in {units}; run the same command again" in run.last_line()
    assert not (units / "units.npz").exists()
    run = start(cfg)
    assert run.end() == 0, run.text()
    assert digest(run.output) == digest(uninterrupted("hubert"))
