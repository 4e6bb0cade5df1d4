"""Learning rates by depth and release from the top down: which parameter is in which group, trained from when."""

from dataclasses import replace

import pytest
import torch

from speechssl.asr.ctc import CtcModel, CtcObjective
from speechssl.asr.finetune import ctc_settings
from speechssl.asr.layers import parameters_by_depth
from speechssl.config import CtcConfig, FinetuneConfig, OptimConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.training.optim import build_optimizer, set_rate
from tests.support.tones import MODEL

LAYERS = 3
PRE = replace(MODEL, encoder=replace(MODEL.encoder, layers=LAYERS, norm="pre", relative_position="gated"))
POST = replace(PRE, encoder=replace(PRE.encoder, norm="post"))
CONFORMER = replace(PRE, encoder=replace(PRE.encoder, block="conformer", relative_position="none"))


def made(model, **changes) -> CtcObjective:
    torch.manual_seed(0)
    cfg = replace(CtcConfig(freeze_steps=0, freeze_frontend=False), **changes)
    return CtcObjective(CtcModel(SpeechEncoder(model), 5), cfg, seed=1)


def depth_of(name: str, model) -> int:
    """Return the depth of a parameter of the encoder, or L + 1 for the head; written down name by name."""
    if name.startswith("head."):
        return LAYERS + 1
    name = name.removeprefix("encoder.")
    for i in range(LAYERS):
        if name.startswith(f"blocks.{i}."):
            return i + 1
    return LAYERS if name in {"norm.weight", "norm.bias"} and model.encoder.norm == "pre" else 0


@pytest.mark.parametrize("model", [PRE, POST, CONFORMER], ids=["pre", "post", "conformer"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_each_parameter_has_the_rate_of_its_depth(model, decay):
    objective = made(model, layer_lr_decay=decay, head_lr_scale=5.0)
    optimizer = build_optimizer(objective.param_groups(), OptimConfig())
    set_rate(optimizer, 1e-3)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    names = dict(objective.model.named_parameters())
    assert len(rates) == len(names) == sum(len(group["params"]) for group in optimizer.param_groups)
    scales = [decay**3, decay**2, decay, 1.0, 5.0]
    assert {name: rates[id(value)] for name, value in names.items()} == {
        name: pytest.approx(1e-3 * scales[depth_of(name, model)]) for name in names
    }
    if decay == 1.0:  # as before there was a decay: moments of a checkpoint are numbered by this order
        assert [len(group["params"]) for group in optimizer.param_groups] == [len(names) - 2, 2]
        assert optimizer.param_groups[0]["params"] == list(objective.model.encoder.parameters())


@pytest.mark.parametrize("model", [PRE, POST, CONFORMER], ids=["pre", "post", "conformer"])
@pytest.mark.parametrize("frozen_stem", [True, False])
def test_blocks_are_released_from_the_top_down(model, frozen_stem):
    objective = made(model, freeze_steps=4, unfreeze_every=3, freeze_frontend=frozen_stem)
    before: set[str] = set()
    for step in range(16):
        changed = objective.begin_step(step)
        trained = {name for name, value in objective.model.named_parameters() if value.requires_grad}
        lowest = LAYERS + 1 if step < 4 else max(0, LAYERS - (step - 4) // 3)
        expected = {name for name, _ in objective.model.named_parameters() if depth_of(name, model) >= lowest}
        if frozen_stem:
            expected -= {name for name in expected if name.startswith("encoder.frontend.")}
        assert trained == expected
        assert changed == (step in {4, 7, 10, 13})
        assert before <= trained
        before = trained
    other = made(model, freeze_steps=4, unfreeze_every=3, freeze_frontend=frozen_stem)
    other.begin_step(9)  # a resumed run begins here
    assert [p.requires_grad for p in other.parameters()] == [
        depth_of(name.removeprefix("model."), model) >= 2 for name, _ in other.named_parameters()
    ]


def test_depths_hold_every_parameter_once():
    encoder = SpeechEncoder(PRE)
    found = [id(parameter) for depth in parameters_by_depth(encoder) for parameter in depth]
    assert sorted(found) == sorted(map(id, encoder.parameters()))


def test_from_random_weights_all_layers_are_trained_alike():
    ctc = CtcConfig(unfreeze_every=10, layer_lr_decay=0.7)
    assert ctc_settings(FinetuneConfig(ctc=ctc)) == CtcConfig(freeze_steps=0, freeze_frontend=False)
    assert ctc_settings(FinetuneConfig(ctc=ctc, init="model")) == ctc


@pytest.mark.parametrize("wrong", [{"layer_lr_decay": 0.0}, {"layer_lr_decay": 1.1}, {"unfreeze_every": -1}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CtcConfig(**wrong)
