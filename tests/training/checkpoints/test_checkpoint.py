"""Checkpoints: whole or not there; every kind of damage is found; nothing valid is ever lost."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from speechssl.core.errors import CheckpointError
from speechssl.training.checkpoints.checkpoint import Checkpoints

STATE = {"objective": {"weight": torch.arange(5000, dtype=torch.float32)}, "numbers": [1, 2.5, "x", None]}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def filled(folder, steps, keep=5):
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, {**STATE, "mark": step})
    return checkpoints


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[data.find(STATE["objective"]["weight"].numpy().tobytes()[:400]) + 200] ^= 1
    path.write_bytes(bytes(data))


def zero_page(path):
    data = bytearray(path.read_bytes())
    at = data.find(STATE["objective"]["weight"].numpy().tobytes()[:400])
    data[at + 4096 : at + 8192] = bytes(4096)
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-700])


def empty(path):
    path.write_bytes(b"")


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def remove(path):
    path.unlink()


def foreign_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "not a checkpoint")


def without_step(path):
    torch.save({"mark": 1}, path)


DAMAGES = [flip_bit, zero_page, truncate, empty, zeros, remove, foreign_zip, without_step]


def test_what_is_saved_comes_back(tmp_path):
    step, state = filled(tmp_path, [10]).newest()
    assert step == state["step"] == 10
    assert torch.equal(state["objective"]["weight"], STATE["objective"]["weight"])
    assert state["numbers"] == [1, 2.5, "x", None]
    assert names(tmp_path) == ["step-00000010"]


def test_an_empty_run_has_none(tmp_path):
    assert Checkpoints(tmp_path / "nowhere").newest() is None
    assert Checkpoints(tmp_path).best() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_skipped_loudly(tmp_path, damage, caplog):
    checkpoints = filled(tmp_path, [10, 20])
    damage(tmp_path / "step-00000020" / "state.pt")
    step, state = checkpoints.newest()
    assert (step, state["mark"]) == (10, 10)
    assert "step-00000020" in caplog.text
    assert "skipping a damaged checkpoint" in caplog.text
    assert "resuming from" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_named_checkpoint_is_never_replaced_by_another(tmp_path, damage):
    checkpoints = filled(tmp_path, [10, 20])
    damage(tmp_path / "step-00000020" / "state.pt")
    with pytest.raises(CheckpointError, match="step-00000020"):
        checkpoints.load(checkpoints.path(20))


def test_torch_alone_would_not_notice_a_flipped_bit(tmp_path):
    filled(tmp_path, [10])
    path = tmp_path / "step-00000010" / "state.pt"
    flip_bit(path)
    damaged = torch.load(path, weights_only=True)["objective"]["weight"]
    assert not torch.equal(damaged, STATE["objective"]["weight"])


def test_nothing_valid_left_is_an_error_and_nothing_is_touched(tmp_path):
    checkpoints = filled(tmp_path, [10, 20])
    for step in (10, 20):
        truncate(checkpoints.path(step) / "state.pt")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    with pytest.raises(CheckpointError, match=r"no checkpoint of this run is whole.*step-00000020.*step-00000010"):
        checkpoints.newest()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before


def test_a_foreign_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'owned'}",))

    folder = tmp_path / "step-00000001"
    folder.mkdir()
    torch.save({"step": 1, "evil": Evil()}, folder / "state.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of speechssl"):
        Checkpoints(tmp_path).load(folder)
    assert not (tmp_path / "owned").exists()


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(10, STATE, best=True)
    for step in (10, 20, 30, 40):
        checkpoints.save(step, STATE)
    assert checkpoints.steps() == [30, 40]
    assert checkpoints.best()[0] == 10


def test_never_fewer_than_two_are_kept(tmp_path):
    assert filled(tmp_path, [1, 2, 3], keep=0).steps() == [2, 3]


def test_pruning_counts_valid_ones_only(tmp_path):
    filled(tmp_path, [10, 20, 30])
    truncate(tmp_path / "step-00000030" / "state.pt")
    checkpoints = Checkpoints(tmp_path, keep=2)  # a new process, which resumes from 20
    checkpoints.save(25, STATE)
    assert checkpoints.steps() == [20, 25, 30]
    checkpoints.save(30, STATE)
    assert checkpoints.steps() == [25, 30]
    assert checkpoints.newest()[0] == 30


def test_the_best_is_replaced_in_one_step(tmp_path):
    checkpoints = filled(tmp_path, [10])
    checkpoints.save(10, {"objective": {}, "value": 0.5}, best=True)
    checkpoints.save(20, {"objective": {}, "value": 0.4}, best=True)
    assert checkpoints.best()[1]["value"] == 0.4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-00000010"]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["state.pt"]


def test_a_damaged_best_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, STATE, best=True)
    truncate(tmp_path / "best" / "state.pt")
    with pytest.raises(CheckpointError, match="best"):
        checkpoints.best()


def test_leftovers_of_a_killed_save_are_cleaned(tmp_path, caplog):
    checkpoints = filled(tmp_path, [10])
    (tmp_path / "step-00000020.tmp").mkdir()
    (tmp_path / "step-00000020.tmp" / "state.pt").write_bytes(b"half")
    assert checkpoints.newest()[0] == 10
    checkpoints.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert "interrupted" in caplog.text
    Checkpoints(tmp_path / "nowhere").clean()


def test_a_state_that_cannot_be_saved_leaves_nothing_behind(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path, [10])

    def torn(state, file):
        file.write(b"PK half of a file")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(CheckpointError, match="read back is damaged"):
        checkpoints.save(20, STATE)
    assert names(tmp_path) == ["step-00000010"]


def test_killed_while_writing_the_old_one_is_intact(tmp_path):
    """A child is killed between the writing and the renaming; the next start finds the older checkpoint."""
    script = f"""
import os, signal, torch
from pathlib import Path
from speechssl.training.checkpoints.checkpoint import Checkpoints
checkpoints = Checkpoints(Path({str(tmp_path)!r}))
checkpoints.save(1, {{"x": torch.ones(3)}})
write = torch.save
def half(state, file):
    write(state, file); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
checkpoints.save(2, {{"x": torch.ones(3)}})
"""
    child = subprocess.run([sys.executable, "-c", script], check=False, timeout=500, cwd=Path(__file__).parents[3])
    assert child.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("step-00000002.*.tmp"))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.clean()
    assert checkpoints.newest()[0] == 1
    assert names(tmp_path) == ["step-00000001"]
