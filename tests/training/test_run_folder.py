"""The run folder: one writer, one configuration, one ledger."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.config import DataConfig, HubertConfig, OptimConfig, PretrainConfig, TrainingConfig
from speechssl.config.load import read_toml
from speechssl.core.errors import RunError
from speechssl.core.ledger import Entry, read_ledger
from speechssl.training.parallel import start_parallel
from speechssl.training.run_folder import RunFolder, config_changes

CFG = PretrainConfig()


def open_run(path, cfg=CFG, **options):
    return RunFolder(path).open(cfg, start_parallel("cpu"), **options)


def test_the_resolved_configuration_is_stored(tmp_path):
    cfg = replace(CFG, seed=7, training=TrainingConfig(keep=9))
    with open_run(tmp_path / "run", cfg) as run:
        assert run.path == tmp_path / "run"
        assert run.checkpoints.keep == 9
        assert run.stage == "pretrain"
    assert read_toml(PretrainConfig, tmp_path / "run" / "config.toml") == cfg


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 2}, "seed: 1 -> 2"),
        ({"objective": HubertConfig()}, 'objective.kind: "wav2vec2" -> "hubert"'),
        ({"optim": OptimConfig(lr=1.0)}, "optim.lr: 0.0005 -> 1.0"),
        ({"data": DataConfig(splits=("train", "dev"))}, r'data.splits: \["train"\] -> \["train", "dev"\]'),
        ({"training": TrainingConfig(steps=5)}, "training.steps: 400000 -> 5"),
    ],
)
def test_what_a_run_computes_may_not_change(tmp_path, change, line):
    with open_run(tmp_path):
        pass
    before = (tmp_path / "config.toml").read_text()
    with pytest.raises(RunError, match=line), open_run(tmp_path, replace(CFG, **change)):
        pass
    assert (tmp_path / "config.toml").read_text() == before
    with open_run(tmp_path, replace(CFG, **change), allow_changes=True):
        pass
    assert (tmp_path / "config.toml").read_text() != before


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other", "output": "runs/other"},
        {"data": DataConfig(workers=7, timeout=1.0, cache="/elsewhere", max_bad_fraction=0.5)},
        {"training": TrainingConfig(save_every=7, log_every=3, keep=2, device="cpu", threads=2, max_skips=3)},
        {"training": TrainingConfig(on_collapse="stop", compile=True)},
        {"data": DataConfig(shards="elsewhere", loader="processes")},
        {"training": TrainingConfig(recompute=True, profile=3, validate_every=5)},
    ],
)
def test_M3_how_a_run_is_computed_may_change(tmp_path, change):
    with open_run(tmp_path):
        pass
    with open_run(tmp_path, replace(CFG, **change)):
        pass
    assert read_toml(PretrainConfig, tmp_path / "config.toml") == replace(CFG, **change)


def test_a_setting_that_an_older_version_did_not_know_has_its_default(tmp_path):
    with open_run(tmp_path):
        pass
    stored = tmp_path / "config.toml"
    stored.write_text("\n".join(x for x in stored.read_text().splitlines() if not x.startswith("ema_decay")))
    with open_run(tmp_path):
        pass


@pytest.mark.parametrize("text", ["not toml [", "unknown_key = 1", "seed = 'x'"])
def test_an_unreadable_stored_configuration_is_named(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(RunError, match="stored configuration cannot be read"), open_run(tmp_path):
        pass


def test_missing_and_new_keys_are_differences():
    assert config_changes({"a": 1, "t": {"b": 2}}, {"t": {"b": 3, "c": 4}}) == [
        "a: 1 -> absent",
        "t.b: 2 -> 3",
        "t.c: absent -> 4",
    ]


def _hold(path, ready):
    with open_run(path):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that has the run folder open."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(20)
    yield process
    process.kill()
    process.join()


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path, holder):
    with pytest.raises(RunError, match=rf"in use by process {holder.pid} on "), open_run(tmp_path / "run"):
        pass


def test_a_killed_writer_leaves_no_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with open_run(tmp_path / "run"):
        pass


def _hold_with_worker(path, queue):
    with open_run(path):
        worker = multiprocessing.get_context("fork").Process(target=_linger, args=(queue,))
        worker.start()
        time.sleep(60)


def _linger(queue):
    queue.put(os.getpid())
    time.sleep(60)


def test_a_worker_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_hold_with_worker, args=(tmp_path, queue))
    process.start()
    worker = queue.get(timeout=300)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        with open_run(tmp_path):
            os.kill(worker, 0)  # it is still there
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used as a run folder"), open_run(tmp_path / "file" / "run"):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with open_run(tmp_path):
        assert "no lock on this file system" in caplog.text


def test_entries_are_recorded_once_also_over_restarts(tmp_path):
    first, second = Entry("pretrain", "a", "not_audio"), Entry("pretrain", "b", "not_audio")
    with open_run(tmp_path) as run:
        run.record([first, first])
    with open_run(tmp_path) as run:
        run.record([first, second])
        run.record([second])
    assert read_ledger(tmp_path / "ledger.jsonl") == [first, second]


def test_leftovers_of_a_save_are_removed_at_start(tmp_path):
    (tmp_path / "checkpoints" / "step-00000002.tmp").mkdir(parents=True)
    with open_run(tmp_path):
        assert list(Path(tmp_path / "checkpoints").iterdir()) == []


def test_a_run_of_the_old_form_of_an_objective_is_not_resumed(tmp_path):
    with open_run(tmp_path):
        pass
    stored = tmp_path / "config.toml"
    stored.write_text('objective = "hubert"\n[hubert]\nfinal_dim = 9\n')
    message = (
        r'\[objective\]\nkind = "hubert"\nfinal_dim = 9\nA run that was started with the old form cannot be resumed'
    )
    with pytest.raises(RunError, match=message), open_run(tmp_path):
        pass
