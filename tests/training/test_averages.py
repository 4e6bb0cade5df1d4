"""Averages of a window: weighted by targets, without skipped steps, without the time of validation."""

import time

import pytest
import torch

from speechssl.objectives.base import Loss
from speechssl.training.averages import Window
from speechssl.training.parallel import start_parallel
from tests.support.tiny import batch_of

PARALLEL = start_parallel("cpu")


def loss(total, n, **metrics):
    return Loss(torch.tensor(total), n, {name: torch.tensor(value) for name, value in metrics.items()})


def end(window, total, norm, wait=0.0):
    norm = None if norm is None else torch.tensor(norm)
    window.step([batch_of(0, 0)], wait_seconds=wait, total=total, norm=norm)


def test_loss_and_metrics_are_weighted_by_targets():
    window = Window()
    window.add(loss(6.0, 3, accuracy=0.5), 3)
    window.add(loss(1.0, 1, accuracy=0.9, extra=7.0), 1)
    end(window, 4, 2.0)
    window.add(loss(9.0, 4, accuracy=0.1), 4)
    end(window, 4, 4.0)
    values = window.close(PARALLEL)
    assert values["loss"] == pytest.approx(16 / 8)
    assert values["accuracy"] == pytest.approx((0.5 * 3 + 0.9 + 0.1 * 4) / 8)
    assert values["extra"] == pytest.approx(7.0)
    assert (values["grad_norm"], values["grad_norm_max"]) == (3.0, 4.0)
    assert values["n_targets"] == 4
    assert values["audio_seconds"] == pytest.approx(64 / 16_000)


def test_L3_metrics_of_some_of_the_targets_have_a_weight_of_their_own():
    window = Window()
    window.add(Loss(torch.tensor(8.0), 4, {"accuracy": torch.tensor(0.5)}, metrics_weight=1), 4)
    window.add(Loss(torch.tensor(4.0), 4, {"accuracy": torch.tensor(0.1)}, metrics_weight=3), 4)
    end(window, 8, 2.0)
    values = window.close(PARALLEL)
    assert values["loss"] == pytest.approx(12 / 8)
    assert values["accuracy"] == pytest.approx((0.5 + 3 * 0.1) / 4)


def test_a_skipped_step_does_not_spoil_the_averages():
    window = Window()
    window.add(loss(float("nan"), 2), 2)
    end(window, 2, None)
    window.add(loss(3.0, 2), 2)
    end(window, 2, 1.0)
    assert window.close(PARALLEL)["loss"] == pytest.approx(1.5)


def test_a_window_of_skipped_steps_only_has_no_loss():
    window = Window()
    end(window, 0, None)
    values = window.close(PARALLEL)
    assert "loss" not in values
    assert "grad_norm" not in values
    assert values["n_targets"] == 0


def test_close_starts_a_new_window():
    window = Window()
    window.add(loss(3.0, 1), 1)
    end(window, 1, 1.0)
    window.close(PARALLEL)
    window.add(loss(5.0, 1), 1)
    end(window, 1, 1.0)
    assert window.close(PARALLEL)["loss"] == 5.0


def test_time_of_validation_is_not_training_time():
    window = Window()
    with window.paused():
        time.sleep(0.2)
    time.sleep(0.02)
    end(window, 1, 1.0, wait=0.01)
    values = window.close(PARALLEL)
    assert 0.02 <= values["step_seconds"] < 0.15
    assert 0.05 < values["loader_wait"] <= 0.5
    assert values["throughput"] == pytest.approx(values["audio_seconds"] / values["step_seconds"])
