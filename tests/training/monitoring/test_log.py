"""metrics.jsonl survives kills and resumes; progress is a bar on a terminal and lines elsewhere."""

import importlib.util
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from speechssl.training.monitoring.log import MetricsLog, Progress, read_metrics


def write(log, steps):
    for step in steps:
        log.append(step, "train", {"loss": 1.0 / step})
    log.close()


def test_lines_are_on_the_disk_at_once(tmp_path):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.append(3, "valid", {"dev_wer": 0.5, "name": "é"})
    (line,) = read_metrics(log.path)
    assert (line["step"], line["phase"], line["dev_wer"], line["name"]) == (3, "valid", 0.5, "é")
    assert line["time"] > 1.7e9
    log.close()


def test_cut_drops_later_steps_and_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    write(log, [1, 2, 3, 4])
    with log.path.open("a") as file:
        file.write('{"step": 5, "pha')
    log.cut(2)
    write(log, [3])
    assert [line["step"] for line in read_metrics(log.path)] == [1, 2, 3]
    assert all(json.loads(line) for line in log.path.read_text().splitlines())
    assert not list(tmp_path.glob("*.tmp"))


def test_a_resumed_event_file_purges_what_is_done_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path / "metrics.jsonl")
    write(log, [1, 2, 3, 4])
    time.sleep(1.05 - time.time() % 1)  # event files are read in the order of their names, which count seconds
    log.cut(2)
    write(log, [3])
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]


def test_numbers_json_does_not_know_become_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, "train", {"loss": float("nan"), "norm": float("inf"), "lr": 0.5})
    log.close()
    (line,) = [json.loads(text, parse_constant=None) for text in log.path.read_text().splitlines()]
    assert (line["loss"], line["norm"], line["lr"]) == (None, None, 0.5)


def test_other_ranks_write_nothing(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", active=False)
    log.append(1, "train", {"loss": 1.0})
    log.cut(0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_only_the_lines_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write(MetricsLog(tmp_path / "metrics.jsonl"), [1])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_reading_skips_what_is_not_a_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n17\n\nnonsense\n{"step": 2}\n')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_plain_lines_say_where_the_run_is_and_what_is_left(capsys):
    with Progress(10, 4) as progress:
        progress.step(5)
        progress.report(6, {"loss": 1.23456, "skipped": 0})
    assert capsys.readouterr().err.startswith("step 6/10  loss 1.235  skipped 0  left 0:")


def test_other_ranks_are_silent(capsys):
    with Progress(10, active=False) as progress:
        progress.report(6, {"loss": 1.0})
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar():
    script = """
from speechssl.training.monitoring.log import Progress
with Progress(10, 4) as progress:
    progress.report(6, {"loss": 1.5})
    progress.step(7)
"""
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", script],
        stderr=theirs,
        check=True,
        timeout=500,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "7/10" in text
    assert "loss 1.5" in text
