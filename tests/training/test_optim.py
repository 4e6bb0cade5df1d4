"""Schedules against values computed by hand, AdamW's groups, clipping."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from speechssl.config import OptimConfig
from speechssl.core.errors import ConfigError
from speechssl.training.optim import build_optimizer, clip_gradients, lr_at, set_rate

POLYNOMIAL = OptimConfig(lr=2.0, schedule="polynomial", warmup=0.2)
TRI_STAGE = OptimConfig(lr=1.0, schedule="tri-stage", warmup=0.1, hold=0.4, init_scale=0.01, final_scale=0.05)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        # 10 steps, 2 of warm-up: 1/2, 2/2, then (8 - n) / 8 from n = 0
        (POLYNOMIAL, [1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0]),
        (replace(POLYNOMIAL, final_scale=0.5), [1.0, 2.0, 2.0, 1.875, 1.75, 1.625, 1.5, 1.375, 1.25, 1.125, 1.0]),
        (replace(POLYNOMIAL, schedule="constant"), [1.0] + [2.0] * 10),
        (replace(POLYNOMIAL, warmup=0.0, schedule="constant"), [2.0] * 11),
        # cosine of multiples of 22.5 degrees
        (
            replace(POLYNOMIAL, schedule="cosine"),
            [1.0, 2.0, 2.0, 1.923880, 1.707107, 1.382683, 1.0, 0.617317, 0.292893, 0.076120, 0.0],
        ),
        # 1 step of warm-up from 0.01, 4 at the peak, 5 of decay: 0.05 ** (n / 5)
        (TRI_STAGE, [0.01, 1.0, 1.0, 1.0, 1.0, 1.0, 0.549280, 0.301709, 0.165723, 0.091028, 0.05]),
    ],
)
def test_schedules_give_the_values_computed_by_hand(cfg, expected):
    assert [lr_at(step, 10, cfg) for step in range(11)] == pytest.approx(expected, abs=1e-6)


def test_published_schedule_of_the_base_model():
    cfg = OptimConfig(lr=5e-4, schedule="polynomial", warmup=0.08)
    assert lr_at(31_999, 400_000, cfg) == pytest.approx(5e-4)
    assert lr_at(15_999, 400_000, cfg) == pytest.approx(2.5e-4)
    assert lr_at(216_000, 400_000, cfg) == pytest.approx(2.5e-4)


def test_tri_stage_rises_linearly_from_its_first_scale():
    assert lr_at(50, 1000, TRI_STAGE) == pytest.approx(0.01 + 0.99 / 2)


def test_past_the_end_the_rate_stays():
    assert lr_at(25, 10, TRI_STAGE) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("cfg", "word"),
    [
        (replace(TRI_STAGE, final_scale=0.0), "final_scale"),
        (replace(TRI_STAGE, warmup=0.7), "optim.warmup"),
        (replace(TRI_STAGE, warmup=-0.1), "optim.warmup"),
        (replace(TRI_STAGE, lr=0.0), "optim.lr"),
    ],
)
def test_contradictions_are_refused_before_the_first_step(cfg, word):
    with pytest.raises(ConfigError, match=word):
        build_optimizer([nn.Parameter(torch.ones(1))], cfg)


def test_groups_have_their_own_rate_and_decay():
    body, head = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [{"params": [body], "weight_decay": 0.0}, {"params": [head], "lr_scale": 10.0}]
    optimizer = build_optimizer(groups, OptimConfig(lr=1.0, weight_decay=0.5))
    set_rate(optimizer, 1e-3)
    body.grad, head.grad = torch.zeros(3), torch.zeros(3)
    optimizer.step()
    assert torch.equal(body.detach(), torch.ones(3))
    assert torch.allclose(head.detach(), torch.full((3,), 1 - 1e-2 * 0.5))


def test_adamw_makes_the_step_that_its_formula_says():
    value = nn.Parameter(torch.tensor([2.0]))
    cfg = OptimConfig(lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    optimizer = build_optimizer([value], cfg)
    expected, m, v = 2.0, 0.0, 0.0
    for step, gradient in enumerate([0.5, -1.0, 3.0], start=1):
        value.grad = torch.tensor([gradient])
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        expected -= 0.1 * 0.01 * expected
        expected -= 0.1 * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.98**step)) + 1e-6)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_frozen_parameters_are_neither_moved_nor_decayed():
    frozen, free = nn.Parameter(torch.ones(2), requires_grad=False), nn.Parameter(torch.ones(2))
    optimizer = build_optimizer([frozen, free], OptimConfig(weight_decay=0.5))
    free.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(2))
    assert not torch.equal(free.detach(), torch.ones(2))


def test_clipping_scales_the_global_norm_and_returns_the_old_one():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(5))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 0.0).item() == pytest.approx(5.0)
    assert parameters[1].grad.item() == 4.0
    assert clip_gradients(parameters, 1.0).item() == pytest.approx(5.0)
    assert parameters[1].grad.item() == pytest.approx(0.8, rel=1e-5)
    assert clip_gradients(parameters, 10.0).item() == pytest.approx(1.0, rel=1e-5)
    assert parameters[1].grad.item() == pytest.approx(0.8, rel=1e-5)


def test_no_gradient_at_all_has_norm_zero():
    assert clip_gradients([nn.Parameter(torch.zeros(2))], 1.0).item() == 0.0
