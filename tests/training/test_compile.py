"""``training.compile``: the compiled objective gives the loss and the gradients of the plain one, on a CPU."""

import shutil
import warnings

import pytest
import torch

from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import load_config
from speechssl.training.loop import seed_micro_batch
from speechssl.workflows import cost_probe
from tests.support.objectives import with_objective

COMPILER = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
PRESETS = {"wav2vec2": "tiny", "hubert": "hubert-tiny"}


def build(kind):
    if kind == "ctc":
        cfg = load_config(FinetuneConfig, "finetune-tiny")
    else:
        cfg = load_config(PretrainConfig, PRESETS[kind], ["--model.encoder.layers", "1"])
        # Dropout of a compiled graph draws from another stream than ours.
        if kind == "wav2vec2":
            cfg = with_objective(cfg, feature_dropout=0.0)
    torch.manual_seed(0)
    return cost_probe._objective(cfg, memory=False).train()


def steps(objective, *, labelled):
    """Yield (loss, gradient) of two batches of different noise, masks and seeds."""
    for number in range(2):
        item = objective.prepare(cost_probe._batch(2, 8_000, number, labelled=labelled)).to("cpu")
        objective.zero_grad()
        seed_micro_batch(0, number, 0)
        loss = objective(item)
        (loss.sum / loss.n_targets).backward()
        gradients = [parameter.grad.flatten() for parameter in objective.parameters() if parameter.grad is not None]
        yield loss.sum.item(), torch.cat(gradients)


def check(kind, **options):
    plain, compiled = build(kind), build(kind)
    compiled.compile(**options)
    labelled = kind == "ctc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about what it does not fuse
        pairs = list(zip(steps(plain, labelled=labelled), steps(compiled, labelled=labelled), strict=True))
    assert pairs[0][0][0] != pairs[1][0][0]
    for (loss, gradient), (same, alike) in pairs:
        assert same == pytest.approx(loss, rel=1e-5)
        assert float((alike - gradient).norm()) <= 1e-4 * float(gradient.norm())
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler for torch.compile: apt-get install g++")
def test_what_is_compiled_computes_the_same():
    check("hubert")  # the tiny one draws no random numbers in its forward pass: the compiler has generators of its own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2", "ctc"])
def test_what_the_compiler_sees_is_the_same(kind):
    check(kind, backend="aot_eager")  # everything but code generation, with PyTorch's own random numbers
