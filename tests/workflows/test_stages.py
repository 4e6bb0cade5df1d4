"""Stages: order, skipping, refusal."""

import json

import pytest

from speechssl.core.errors import ConfigError, DataError
from speechssl.workflows.stages import Stage, run_stages


class Recorder:
    """Stages that write their output and remember when they ran."""

    def __init__(self, folder):
        self.folder = folder
        self.ran = []

    def stage(self, name, key="k", *, cheap=False, writes=True):
        output = self.folder / name / "done.txt"

        def make():
            self.ran.append(name)
            if writes:
                output.parent.mkdir(exist_ok=True)
                output.write_text(name, encoding="utf-8")

        return Stage(name, key, output, make, cheap=cheap)


def test_stages_run_once_in_order(tmp_path):
    recorder = Recorder(tmp_path)
    stages = [recorder.stage("a"), recorder.stage("b"), recorder.stage("c", cheap=True)]
    run_stages(tmp_path, stages)
    run_stages(tmp_path, stages)
    assert recorder.ran == ["a", "b", "c"]


def test_a_missing_output_is_made_again(tmp_path):
    recorder = Recorder(tmp_path)
    stages = [recorder.stage("a"), recorder.stage("b")]
    run_stages(tmp_path, stages)
    (tmp_path / "b" / "done.txt").unlink()
    run_stages(tmp_path, stages)
    assert recorder.ran == ["a", "b", "b"]


def test_an_output_without_a_stamp_is_not_trusted(tmp_path):
    recorder = Recorder(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "done.txt").write_text("half", encoding="utf-8")
    run_stages(tmp_path, [recorder.stage("a")])
    assert recorder.ran == ["a"]


def test_changed_settings_stop_before_work_is_thrown_away(tmp_path):
    recorder = Recorder(tmp_path)
    run_stages(tmp_path, [recorder.stage("a"), recorder.stage("b")])
    with pytest.raises(ConfigError, match=r"stage 'b' .* completed with other settings"):
        run_stages(tmp_path, [recorder.stage("a"), recorder.stage("b", key="other")])
    assert (tmp_path / "b" / "done.txt").exists()


def test_a_changed_early_stage_invalidates_later_ones(tmp_path):
    recorder = Recorder(tmp_path)
    run_stages(tmp_path, [recorder.stage("a", cheap=True), recorder.stage("b")])
    with pytest.raises(ConfigError, match="stage 'b'"):
        run_stages(tmp_path, [recorder.stage("a", key="other", cheap=True), recorder.stage("b")])
    assert recorder.ran == ["a", "b"]  # refused before anything is done


def test_cheap_stages_follow_their_settings(tmp_path):
    recorder = Recorder(tmp_path)
    run_stages(tmp_path, [recorder.stage("a", cheap=True)])
    run_stages(tmp_path, [recorder.stage("a", key="other", cheap=True)])
    assert recorder.ran == ["a", "a"]


def test_a_stage_that_writes_nothing_is_an_error(tmp_path):
    recorder = Recorder(tmp_path)
    with pytest.raises(DataError, match="ended without writing"):
        run_stages(tmp_path, [recorder.stage("a", writes=False)])
    assert not (tmp_path / "stages" / "a.json").exists()


def test_stamps_tell_time(tmp_path):
    run_stages(tmp_path, [Recorder(tmp_path).stage("a")])
    assert json.loads((tmp_path / "stages" / "a.json").read_text(encoding="utf-8"))["seconds"] >= 0
