"""Copies of run folders: complete, without what was pruned, and enough for another machine to go on bit for bit."""

import shutil

import fsspec
import pytest
import torch

from speechssl.config import PretrainConfig, TrainingConfig
from speechssl.core.errors import DataError, InterruptedRun
from speechssl.data.store import remote
from speechssl.data.store.remote import fetch, files_below
from speechssl.training.checkpoints.checkpoint import Checkpoints
from speechssl.training.parallel import start_parallel
from speechssl.training.run_folder import RunFolder

ADDRESS = "memory://runs/one"
CFG = PretrainConfig(training=TrainingConfig(device="cpu", upload=ADDRESS, keep=2))


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def go(folder, steps, cfg=CFG):
    """Write a metric and a checkpoint of each step, as the loop does; return the step that it begins at."""
    with RunFolder(folder).open(cfg, start_parallel("cpu")) as run:
        found = run.checkpoints.newest()
        for step in steps:
            run.metrics.append(step, "train", {"loss": 1.0})
            run.checkpoints.save(step, {"weights": torch.full((100,), float(step))})
        return found[0] if found else 0


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_the_copy_is_the_folder_and_another_machine_goes_on(tmp_path):
    assert go(tmp_path / "a", [1, 2, 3]) == 0
    here = files(tmp_path / "a")
    assert files_below(ADDRESS).keys() == here.keys()
    assert all(fetch(f"{ADDRESS}/{name}") == data for name, data in here.items())
    assert {name for name in here if "step-" in name} == {f"checkpoints/step-0000000{i}/state.pt" for i in (2, 3)}
    assert go(tmp_path / "b", [4]) == 3
    assert files_below(ADDRESS).keys() == files(tmp_path / "b").keys()
    assert go(tmp_path / "a", []) == 4, "the first machine lacks the newest checkpoint"
    shutil.rmtree(tmp_path / "a")
    assert go(tmp_path / "a", []) == 4


def test_a_run_that_is_interrupted_is_uploaded_before_it_ends(tmp_path):
    with pytest.raises(InterruptedRun), RunFolder(tmp_path / "a").open(CFG, start_parallel("cpu")) as run:
        run.checkpoints.save(7, {"weights": torch.zeros(3)})
        run.metrics.append(7, "train", {"loss": 0.5})
        raise InterruptedRun("stopped")
    assert b'"step": 7' in fetch(f"{ADDRESS}/metrics.jsonl")
    assert go(tmp_path / "b", []) == 7


def test_a_store_that_is_away_stops_nothing_and_is_an_error_at_the_end(tmp_path, memory, monkeypatch, caplog):
    def away(*_):
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", away)
        with pytest.raises(DataError, match=r"the run is whole in .*a, and its copy is not: .*away.* uploads the rest"):
            go(tmp_path / "a", [1, 2, 3])
        assert "is tried again after the next checkpoint" in caplog.text
        assert Checkpoints(tmp_path / "a" / "checkpoints").steps() == [2, 3]
    assert go(tmp_path / "a", []) == 3
    assert files_below(ADDRESS).keys() == files(tmp_path / "a").keys()


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, memory):
    memory.pipe_file("/runs/one/../../evil", b"x")
    with pytest.raises(Exception, match=r"evil: not a file of a run folder"):
        go(tmp_path / "a", [1])


def test_nothing_is_uploaded_unless_it_is_asked_for(tmp_path, memory):
    go(tmp_path / "a", [1], PretrainConfig(training=TrainingConfig(device="cpu")))
    assert not memory.store
