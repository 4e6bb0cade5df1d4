"""A disk that is full while a checkpoint is written: nothing that was there is lost, and the end is not silent."""

import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.training.checkpoints.checkpoint import Checkpoints
from tests.faults.runs import config, digest, start, wait_for

LIMIT = 60_000
"""Bytes a file may have: enough for logs, not for a checkpoint of the small model."""


def limit_files():
    """Make writes beyond ``LIMIT`` fail with EFBIG, as ENOSPC would."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


@pytest.fixture
def interrupted(tone_corpus, tmp_path):
    """A configuration whose run has been stopped in the middle, and its only checkpoint."""
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", save_every=1000)
    run = start(cfg)
    wait_for(run, 6)
    run.process.terminate()
    assert run.end() == 75
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert (checkpoint / "state.pt").stat().st_size > LIMIT
    return cfg, checkpoint / "state.pt"


@pytest.mark.parametrize(("save_every", "warnings"), [(1000, 0), (5, 2), (1, 2)])
def test_a_full_disk_leaves_the_old_checkpoint_and_ends_loudly(interrupted, uninterrupted, save_every, warnings):
    cfg, checkpoint = interrupted
    before = checkpoint.read_bytes()
    full = replace(cfg, training=replace(cfg.training, save_every=save_every))
    run = start(full, setup=limit_files)
    assert run.end() == 1
    assert "cannot save" in run.last_line()
    assert str(Path("checkpoints") / "step-") in run.last_line()
    assert "is the disk full" in run.last_line()
    assert run.text().count("going on without a checkpoint") == warnings
    assert checkpoint.read_bytes() == before
    assert [path.parent for path in run.output.rglob("state.pt")] == [checkpoint.parent]
    assert not list(run.output.rglob("*.tmp"))
    assert Checkpoints(run.output / "checkpoints").newest()[0] > 0
    run = start(cfg)
    assert run.end() == 0, run.text()
    assert digest(run.output) == digest(uninterrupted("wav2vec2"))
