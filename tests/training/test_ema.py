"""The average of the weights against its recurrence, in place and back."""

import pytest
import torch
from torch import nn

from speechssl.training.ema import WeightAverage


def module(value):
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(value)
    return layer


def test_average_follows_the_recurrence():
    layer = module(1.0)
    average = WeightAverage(layer, 0.5)
    expected = 1.0
    for updates, weight in enumerate([2.0, 4.0, -3.0, 5.0, 0.5, 7.0, 1.0, 2.5]):
        layer.weight.data.fill_(weight)
        average.update()
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * weight
    with average.applied():
        assert layer.weight.item() == pytest.approx(expected, rel=1e-6)


def test_weights_come_back_even_after_an_error():
    layer = module(1.0)
    average = WeightAverage(layer, 0.9)
    layer.weight.data.fill_(3.0)
    with pytest.raises(KeyError), average.applied():
        assert layer.weight.item() == 1.0
        raise KeyError
    assert layer.weight.item() == 3.0


def test_copy_to_module_exports_the_average():
    layer = module(1.0)
    average = WeightAverage(layer, 0.9)
    layer.weight.data.fill_(3.0)
    average.copy_to_module()
    assert layer.weight.item() == 1.0


def test_bf16_weights_have_a_float32_average():
    layer = module(1.0).bfloat16()
    average = WeightAverage(layer, 0.999)
    for _ in range(50):
        layer.weight.data.fill_(1.0078125)  # the next bfloat16 after 1
        average.update()
    assert 1.0 < average.average["weight"].item() < 1.0078125 + 1e-6


def test_state_round_trip_continues_the_ramp():
    first, second = WeightAverage(module(1.0), 0.9), WeightAverage(module(5.0), 0.9)
    first.module.weight.data.fill_(2.0)
    first.update()
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    assert torch.equal(second.average["weight"], first.average["weight"])


@pytest.mark.parametrize("state", [{"updates": 1, "average": {}}, {"updates": 1, "average": None}])
def test_state_of_another_model_is_refused(state):
    with pytest.raises(ValueError, match="another model"):
        WeightAverage(module(1.0), 0.9).load_state_dict(state)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_useless_decays_are_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(module(1.0), decay)
