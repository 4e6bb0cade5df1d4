"""Learning rates in processes: the best by dev WER is kept, finished ones are not repeated, failures are explained."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from speechssl.asr.ctc import load_recogniser
from speechssl.config.load import write_toml
from speechssl.core.errors import DataError, InterruptedRun, RunError
from speechssl.training.monitoring.log import read_metrics
from speechssl.workflows.sweep import Ahead, Candidate, _check, _keep_best, tune
from tests.support.processes import alive, children
from tests.support.tones import recipe, write_shards

RATES = (4e-3, 1e-5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("sweep"), {"train": 24, "dev": 6})


@pytest.fixture(scope="module")
def swept(shards, tmp_path_factory):
    """Two rates, two processes."""
    place = tmp_path_factory.mktemp("swept")
    cfg = recipe(shards, place / "arm", steps=12)
    tune("arm", cfg, RATES, place / "sweep", jobs=2)
    return cfg, place


def test_the_rate_with_the_lowest_dev_wer_is_kept(swept):
    _, place = swept
    rows = json.loads((place / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert [row["lr"] for row in rows] == list(RATES)
    (kept,) = [row for row in rows if row["kept"]]
    assert (kept["dev_wer"], kept["lr"]) == min((row["dev_wer"], row["lr"]) for row in rows)
    info = json.loads((place / "arm" / "model" / "config.json").read_text(encoding="utf-8"))["info"]
    assert info["dev_wer"] == kept["dev_wer"]
    assert (place / "arm" / "metrics.jsonl").exists()
    assert not (place / "arm" / "checkpoints").exists()
    load_recogniser(place / "arm" / "model", "cpu")


@pytest.mark.parametrize("content", ["", '[{"arm": "other", "lr"'])
def test_H6_a_torn_listing_is_named(swept, tmp_path, content):
    cfg, place = swept
    shutil.copytree(place / "sweep", tmp_path / "sweep")
    (tmp_path / "sweep" / "sweep.json").write_text(content, encoding="utf-8")
    candidates = [Candidate("arm", lr, replace(cfg, output=str(tmp_path / "sweep" / f"arm-lr-{lr:g}"))) for lr in RATES]
    with pytest.raises(DataError, match=r"sweep\.json: not whole .*; delete it and run again"):
        _keep_best(candidates, {}, tmp_path / "arm", tmp_path / "sweep" / "sweep.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_H6_a_candidate_with_a_torn_model_is_not_done(swept, tmp_path, name):
    cfg, place = swept
    shutil.copytree(place / "sweep", tmp_path / "sweep")
    candidate = Candidate("arm", RATES[0], replace(cfg, output=str(tmp_path / "sweep" / f"arm-lr-{RATES[0]:g}")))
    assert candidate.done
    with (candidate.folder / "model" / name).open("r+b") as file:
        file.truncate(40)
    assert not candidate.done
    (candidate.folder / "config.toml").write_text("[training", encoding="utf-8")
    candidate.check()  # no more to refuse


def test_finished_candidates_are_not_trained_again(swept, tmp_path):
    cfg, place = swept
    shutil.copytree(place / "sweep", tmp_path / "sweep")
    shutil.rmtree(place / "arm")
    shutil.rmtree(place / "sweep" / "arm-lr-1e-05" / "model")  # as if killed before it was written
    before = (place / "sweep" / "arm-lr-0.004" / "metrics.jsonl").stat().st_mtime_ns
    tune("arm", cfg, RATES, place / "sweep")
    assert (place / "sweep" / "arm-lr-0.004" / "metrics.jsonl").stat().st_mtime_ns == before
    for name in ("arm-lr-0.004", "arm-lr-1e-05"):
        again = [folder / name / "model" / "model.safetensors" for folder in (place / "sweep", tmp_path / "sweep")]
        assert again[0].read_bytes() == again[1].read_bytes()


def test_a_candidate_with_other_settings_is_not_taken(swept):
    cfg, place = swept
    with pytest.raises(RunError, match=r"(?s)arm-lr-0.004 is complete, but .*seed: 1 -> 2\nDelete it"):
        tune("arm", replace(cfg, seed=2), RATES, place / "sweep", jobs=2)


def test_a_second_arm_is_listed_beside_the_first(swept):
    cfg, place = swept
    shutil.copytree(place / "sweep" / "arm-lr-0.004", place / "sweep" / "other-lr-0.004")
    shutil.copytree(place / "sweep" / "arm-lr-1e-05", place / "sweep" / "other-lr-1e-05")
    tune("other", replace(cfg, output=str(place / "other")), RATES, place / "sweep", jobs=2)
    rows = json.loads((place / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert [row["arm"] for row in rows] == ["arm", "arm", "other", "other"]


def test_a_candidate_that_fails_says_why(shards, tmp_path):
    cfg = recipe(tmp_path / "nowhere", tmp_path / "arm", steps=2)
    with pytest.raises(RunError, match=r"(?s)fine-tuning in .*arm-lr-.* failed \(exit code 1\):\n.*nowhere"):
        tune("arm", cfg, RATES, tmp_path / "sweep", jobs=2)
    assert not (tmp_path / "arm").exists()


def test_a_candidate_that_was_interrupted_interrupts_the_sweep(shards, tmp_path):
    candidate = Candidate("arm", 1e-3, recipe(shards, tmp_path / "arm"))
    with pytest.raises(InterruptedRun, match="arm saved itself; run the same command again"):
        _check(candidate, 75)


def test_asked_to_stop_the_candidates_save_themselves_and_go_on_later(shards, tmp_path):
    """``Ahead`` is left early, as when the main work fails: its processes stop at a step, and nothing is lost."""
    cfg = recipe(shards, tmp_path / "arm", steps=400)
    cfg = replace(cfg, training=replace(cfg.training, log_every=1, validate_every=400, save_every=400))
    folder = tmp_path / "sweep"
    others = set(children(os.getpid()))  # of tests before this one: a fork server, say
    with Ahead(lambda stop: tune("arm", cfg, RATES, folder, jobs=2, stop=stop)):
        deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
        while not all((folder / f"arm-lr-{lr:g}" / "metrics.jsonl").exists() for lr in RATES):
            assert time.monotonic() < deadline, [path.read_text() for path in folder.rglob("log.txt")]
            time.sleep(0.02)
        processes = set(children(os.getpid())) - others
    assert len(processes) == len(RATES)
    assert not any(alive(pid) for pid in processes)
    for lr in RATES:
        log = (folder / f"arm-lr-{lr:g}" / "log.txt").read_text(encoding="utf-8")
        assert "SIGTERM" in log
        assert "run the same command again" in log
        assert list((folder / f"arm-lr-{lr:g}" / "checkpoints").glob("step-*"))
    assert not (tmp_path / "arm").exists()


def test_what_fails_ahead_is_raised_where_it_is_waited_for():
    def fail(stop):
        raise RunError("the arm failed")

    with Ahead(fail) as ahead, pytest.raises(RunError, match="the arm failed"):
        ahead.wait()
    done = threading.Event()
    with Ahead(lambda stop: done.set()) as ahead:
        ahead.wait()
    assert done.is_set()


def test_one_rate_and_one_job_train_in_place(shards, tmp_path):
    cfg = recipe(shards, tmp_path / "arm", steps=2)
    tune("arm", cfg, (4e-3,), tmp_path / "sweep")
    assert (tmp_path / "arm" / "model" / "config.json").exists()
    assert not (tmp_path / "sweep").exists()
    write_toml(cfg, tmp_path / "cfg.toml")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_killed_its_candidates_save_themselves_and_a_rerun_goes_on(shards, tmp_path):
    """kill -9 cannot be answered: the candidates have to see for themselves that nobody waits for them."""
    cfg = recipe(shards, tmp_path / "arm", steps=300)  # the first must not be done when the second begins
    cfg = replace(cfg, training=replace(cfg.training, log_every=1, validate_every=300, save_every=300))
    write_toml(cfg, tmp_path / "cfg.toml")
    code = (
        "import sys; from pathlib import Path; from speechssl.config import FinetuneConfig; "
        "from speechssl.config.load import read_toml; from speechssl.workflows.sweep import tune; "
        "place = Path(sys.argv[1]); "
        f"tune('arm', read_toml(FinetuneConfig, place / 'cfg.toml'), {RATES}, place / 'sweep', jobs=2)"
    )
    folders = [tmp_path / "sweep" / f"arm-lr-{lr:g}" for lr in RATES]
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
        while not all((folder / "metrics.jsonl").exists() for folder in folders):
            assert time.monotonic() < deadline, [path.read_text() for path in folders[0].parent.rglob("log.txt")]
            time.sleep(0.02)
        candidates = children(parent.pid)
        assert len(candidates) == len(RATES)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while any(alive(pid) for pid in candidates):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for folder in folders:
        assert list((folder / "checkpoints").glob("step-*"))
        assert not (folder / "model").exists()
    tune("arm", cfg, RATES, tmp_path / "sweep")
    for folder in folders:
        steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if row["phase"] == "train"]
        assert steps == list(range(1, 301))  # each step once: it went on, it did not start again
    assert (tmp_path / "arm" / "model" / "config.json").exists()


HALVED = (4e-3, 2e-3, 1e-5)


def ended_early(place, name):
    """Return the steps that a candidate was trained for, and whether it has a model."""
    folder = place / "sweep" / name
    rows = read_metrics(folder / "metrics.jsonl")
    return max(row["step"] for row in rows if row["phase"] == "valid"), (folder / "model").exists()


@pytest.mark.parametrize(
    ("jobs", "rates", "halve_at", "ends"), [(1, HALVED, (0.25, 0.5), [0, 3, 6]), (2, RATES, (0.5,), [0, 6])]
)
def test_the_worse_half_of_the_rates_ends_early_and_the_best_goes_on_to_the_same_bits(
    shards, tmp_path, jobs, rates, halve_at, ends
):
    cfg = recipe(shards, tmp_path / "arm", steps=12)
    cfg = replace(cfg, training=replace(cfg.training, validate_every=3))
    tune("arm", cfg, rates, tmp_path / "sweep", jobs=jobs, halve_at=halve_at)
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert [row["lr"] for row in rows] == list(rates)
    assert sorted(row["ended_at"] or 0 for row in rows) == ends
    for row in rows:
        assert ended_early(tmp_path, f"arm-lr-{row['lr']:g}") == (row["ended_at"] or 12, row["kept"])
    (kept,) = [row for row in rows if row["kept"]]
    assert kept["ended_at"] is None
    # Whoever goes on was stopped twice, and has the weights of one that never was.
    whole = replace(cfg, output=str(tmp_path / "whole"))
    tune("whole", whole, (kept["lr"],), tmp_path / "other")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("arm", "whole")]
    assert weights[0] == weights[1]


def test_halving_compares_the_rates_at_the_same_update_by_dev_cer(shards, tmp_path):
    cfg = recipe(shards, tmp_path / "arm", steps=12)
    tune("arm", cfg, HALVED, tmp_path / "sweep", halve_at=(0.5,))
    found = {}
    for lr in HALVED:
        rows = read_metrics(tmp_path / "sweep" / f"arm-lr-{lr:g}" / "metrics.jsonl")
        found[lr] = next(row["dev_cer"] for row in rows if row["phase"] == "valid" and row["step"] == 6)
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    (worst,) = [row["lr"] for row in rows if row["ended_at"] == 6]
    assert (found[worst], worst) == max((cer, lr) for lr, cer in found.items())


def test_killed_while_rates_are_halved_a_rerun_decides_the_same(shards, tmp_path):
    cfg = recipe(shards, tmp_path / "arm", steps=40)
    cfg = replace(cfg, training=replace(cfg.training, log_every=1, validate_every=40, save_every=5))
    write_toml(cfg, tmp_path / "cfg.toml")
    code = (
        "import sys; from pathlib import Path; from speechssl.config import FinetuneConfig; "
        "from speechssl.config.load import read_toml; from speechssl.workflows.sweep import tune; "
        "place = Path(sys.argv[1]); "
        "cfg = read_toml(FinetuneConfig, place / 'cfg.toml'); "
        f"tune('arm', cfg, {RATES}, place / 'sweep', jobs=2, halve_at=(0.5,))"
    )
    place = tmp_path / "sweep" / "arm-lr-0.004"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 120
        while not list((place / "checkpoints").glob("step-*")):
            assert time.monotonic() < deadline, (place / "log.txt").read_text()
            time.sleep(0.02)
        candidates = children(parent.pid)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in candidates):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tune("arm", cfg, RATES, tmp_path / "sweep", halve_at=(0.5,))
    tune("other", replace(cfg, output=str(tmp_path / "other")), RATES, tmp_path / "again", halve_at=(0.5,))
    ends = [
        {row["lr"]: row["ended_at"] for row in json.loads((tmp_path / name / "sweep.json").read_text())}
        for name in ("sweep", "again")
    ]
    assert ends[0] == ends[1]
    assert sorted(str(step) for step in ends[0].values()) == ["20", "None"]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("arm", "other")]
    assert weights[0] == weights[1]


def test_a_rate_that_stopped_early_is_judged_by_its_last_validation(shards, tmp_path):
    rows = [{"step": step, "phase": "valid", "dev_cer": value} for step, value in ((2, 0.5), (4, 0.3), (8, 0.2))]
    rows.insert(2, {"step": 4, "phase": "stopped", "why": "patience"})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    candidate = Candidate("arm", 1e-3, recipe(shards, tmp_path))
    assert [candidate.dev_at(step).get("dev_cer") for step in (1, 2, 4, 6, 8)] == [None, 0.5, 0.3, 0.3, 0.2]
