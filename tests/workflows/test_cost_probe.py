"""The probe: what it builds is what a run would train, and its memory is its own."""

import subprocess
import sys
from contextlib import suppress
from itertools import count

import pytest
import torch

from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import load_config
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.training import loop
from speechssl.workflows import cost_probe as module
from speechssl.workflows.cost_probe import peak_memory, run_probe

SECOND = 16_000


def pretraining(*words):
    return load_config(PretrainConfig, "tiny", ["--training.threads", "1", *words])


def finetuning(*words):
    return load_config(FinetuneConfig, "finetune-tiny", ["--training.threads", "1", *words])


def test_memory_is_not_that_of_the_process_that_asks():
    child = (
        "import torch; from speechssl.workflows.cost_probe import peak_memory; print(peak_memory(torch.device('cpu')))"
    )
    parent = (
        "import subprocess, sys; ballast = bytearray(b'x') * (2 << 30); "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True); print(len(ballast))"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 5e7 < int(done.stdout.split()[0]) < 1.5e9


def test_memory_is_the_highest_so_far():
    before = peak_memory(torch.device("cpu"))
    ballast = torch.ones(before // 4 + (200 << 20) // 4)
    top = peak_memory(torch.device("cpu"))
    assert top >= before + (100 << 20)
    del ballast
    assert peak_memory(torch.device("cpu")) >= 0.99 * top  # Linux adds pages up a little late


@pytest.mark.parametrize("preset", ["tiny", "hubert-tiny"])
def test_pretraining_is_probed(preset):
    found = run_probe(load_config(PretrainConfig, preset, ["--training.threads", "1"]), 2, SECOND, 2)
    assert (found.rows, found.samples, found.fits) == (2, SECOND, True)
    assert found.micro_seconds > found.update_seconds > 0


def test_fine_tuning_has_the_size_of_the_model_it_starts_from(tmp_path):
    cfg = pretraining()
    save_model(tmp_path / "model", encoder=SpeechEncoder(cfg.model))
    scratch, tuned = (
        run_probe(finetuning(*words), 2, SECOND, 1) for words in ([], ["--init", str(tmp_path / "model")])
    )
    encoder = sum(parameter.numel() for parameter in SpeechEncoder(cfg.model).parameters())
    assert tuned.parameters == encoder + (cfg.model.encoder.dim + 1) * module.VOCABULARY
    assert scratch.parameters != tuned.parameters


def test_continued_pretraining_has_the_size_of_the_model_it_starts_from(tmp_path):
    wide = pretraining("--model.encoder.dim", "96")
    save_model(tmp_path / "model", encoder=SpeechEncoder(wide.model))
    words = ("--init", str(tmp_path / "model"), "--model-from-init")
    sizes = [run_probe(cfg, 1, SECOND, 1).parameters for cfg in (wide, pretraining(*words))]
    assert sizes[0] == sizes[1] > run_probe(pretraining(), 1, SECOND, 1).parameters


def test_an_average_of_the_weights_is_part_of_the_update(monkeypatch):
    updates = []
    monkeypatch.setattr(loop.WeightAverage, "update", lambda self: updates.append(self))  # noqa: PLW0108
    run_probe(pretraining(), 1, SECOND, 2)
    assert not updates
    run_probe(pretraining("--training.ema-decay", "0.99"), 1, SECOND, 2)
    assert len(updates) == 3


def test_memory_that_runs_out_is_an_answer(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(loop, "clip_gradients", full)
    assert not run_probe(pretraining(), 1, SECOND, 1).fits


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def timed(monkeypatch, updates, seconds):
    """Go through steps of 4 s loading, 2 s forward and backward, 0.5 s optimiser, 0.25 s notes, 10 times longer first.

    Return the stopwatch that has ended them.
    """
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    stopwatch = module._Stopwatch(torch.device("cpu"), updates, seconds)
    with suppress(module._Enough), stopwatch:
        for step in count():
            slow = 10.0 if step == 0 else 1.0
            stopwatch.begin_step(step)
            with stopwatch.part("loader"):
                clock.now += slow * 4.0
            clock.now += slow * 2.0
            with stopwatch.part("optimiser"):
                clock.now += slow * 0.5
            clock.now += slow * 0.25
    return stopwatch


def test_time_is_that_of_the_parts_without_loading(monkeypatch):
    found = timed(monkeypatch, 3, 0.0)
    assert found.micro == pytest.approx([20.0, 2.0, 2.0, 2.0])
    assert found.update == pytest.approx([7.5, 0.75, 0.75, 0.75])
    assert found.peak >= found.start > 0


def test_updates_that_begin_in_the_given_time_are_measured(monkeypatch):
    assert len(timed(monkeypatch, 2, 10.0).micro) == 3  # the time is over after the first: two more all the same
    assert len(timed(monkeypatch, 2, 67.5 + 5 * 6.75).micro) == 7


class Kept:
    """A temporary directory that stays."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return str(self.path)

    def __exit__(self, *_):
        pass


def test_the_loop_makes_the_updates_and_writes_nothing(monkeypatch, tmp_path):
    steps = []
    monkeypatch.setattr(loop, "lr_at", lambda step, total, cfg: steps.append(step) or 1e-4)
    monkeypatch.setattr(module, "TemporaryDirectory", lambda: Kept(tmp_path))
    words = ("--training.save-every", "1", "--training.log-every", "1", "--training.pause-at", "1")
    run_probe(pretraining(*words, "--training.profile", "1"), 1, SECOND, 5)
    assert steps == [0, 1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []
