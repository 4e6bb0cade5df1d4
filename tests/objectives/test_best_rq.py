"""BEST-RQ against its scalar oracle; what is quantised, and what is frozen. The contract has a test of its own."""

import math
from dataclasses import replace

import pytest
import torch

from speechssl.config import FrontendConfig
from speechssl.core.errors import ConfigError
from tests.oracles import best_rq as oracle
from tests.support.logmel import expected_speech
from tests.support.objectives import CONV2D, MODEL, STEMS, build, make_batch

SMALL = {"entries": 13, "code_dim": 4, "n_mels": 20}
NARROW = replace(MODEL.frontend, conv_layers=((8, 5, 5), (8, 8, 8), (8, 8, 8)))
"""Frames of 320 samples, which end before the mel windows that begin within them."""


@pytest.mark.parametrize("codebooks", [1, 3])
@pytest.mark.parametrize("stem", [*STEMS.values(), NARROW, CONV2D], ids=[*STEMS, "narrow", "conv2d"])
def test_loss_equals_the_scalar_oracle(stem, codebooks):
    model = replace(MODEL, frontend=stem)
    objective = build("best_rq", model=model, codebooks=codebooks, **SMALL).double().eval()
    prepared = objective.prepare(make_batch([16_000, 9_000]))
    quantiser, masked = objective.quantiser, prepared.mask
    with torch.no_grad():
        loss = objective(prepared)
        context = objective.encoder(prepared.batch.wave, prepared.lengths, mask=masked).x[masked]
        logits = quantiser.predict(context).view(-1, codebooks, SMALL["entries"])
    speech = []
    for row, length in enumerate([16_000, 9_000]):
        frames = expected_speech(objective.encoder, prepared.batch.wave[row, :length].numpy(), SMALL["n_mels"])
        speech += [frame for frame, take in zip(frames, masked[row].tolist(), strict=False) if take]
    total, correct, spread, unique = 0.0, 0, 0.0, 0
    for g in range(codebooks):
        codes = [oracle.quantise(x, quantiser.projection[g].tolist(), quantiser.codebooks[g].tolist()) for x in speech]
        part, hits = oracle.cross_entropy(logits[:, g].tolist(), codes)
        total, correct = total + part / codebooks, correct + hits / codebooks
        spread, unique = spread + oracle.entropy(codes) / codebooks, unique + len(set(codes)) / codebooks
    n = len(speech)
    assert n == loss.n_targets > 30 and spread > 1
    assert loss.sum.item() == pytest.approx(total, rel=1e-9)
    assert loss.metrics["masked_loss"].item() * n == pytest.approx(total, rel=1e-9)
    assert loss.metrics["accuracy"].item() * n == pytest.approx(correct, abs=1e-3)
    assert loss.metrics["code_entropy"].item() == pytest.approx(spread, rel=1e-5)
    assert loss.metrics["unique_codes"].item() == pytest.approx(unique, rel=1e-5)


def test_the_oracle_by_hand():
    frames = [[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]
    one, two, _ = oracle.standardise(frames)
    assert one[0] == pytest.approx((1 - 13 / 3) / math.sqrt(104 / 9)) and one[1] == pytest.approx(0.0)
    assert oracle.stacked(frames, 2) == [[1.0, 5.0, 3.0, 1.0]]
    eye = [[1.0, 0.0], [0.0, 1.0]]
    assert oracle.quantise([3.0, 4.0], eye, [[9.0, 0.0], [0.1, 0.1]]) == 1  # by direction, not by distance
    assert oracle.cross_entropy([[0.0, 0.0], [2.0, 0.0]], [1, 0]) == (
        pytest.approx(math.log(2) + math.log(1 + math.exp(-2))), 2,
    )  # fmt: skip
    assert oracle.entropy([4, 4, 7, 7]) == pytest.approx(math.log(2))
    assert two[1] < 0


def test_the_quantiser_is_frozen_and_a_function_of_the_seed():
    here, there = build("best_rq", weights=0, **SMALL), build("best_rq", weights=1, **SMALL)
    other = build("best_rq", seed=4, **SMALL)
    assert {name for name, _ in here.named_parameters() if name.startswith("quantiser")} == {
        "quantiser.predict.weight", "quantiser.predict.bias",
    }  # fmt: skip
    for name in ("projection", "codebooks"):
        assert torch.equal(getattr(here.quantiser, name), getattr(there.quantiser, name))
        assert not torch.equal(getattr(here.quantiser, name), getattr(other.quantiser, name))
        assert f"quantiser.{name}" in here.exported()  # and so in checkpoints
    assert torch.allclose(here.quantiser.codebooks.norm(dim=-1), torch.ones(1, SMALL["entries"]))


def test_codes_do_not_depend_on_loudness_and_use_most_of_a_codebook():
    objective = build("best_rq", **SMALL | {"entries": 64})
    wave = make_batch([16_000, 12_345]).wave.float()
    lengths = torch.tensor([16_000, 12_345])
    quantiser = objective.quantiser
    codes = quantiser.codes(quantiser.mel_frames(wave, lengths)[0])
    assert torch.equal(codes, quantiser.codes(quantiser.mel_frames(0.1 * wave, lengths)[0]))
    assert int((quantiser.shares(codes) > 0).sum()) > 20
    assert quantiser.shares(codes).sum(dim=1).tolist() == pytest.approx([1.0])


def test_frames_that_mel_frames_do_not_divide_are_refused():
    frontend = FrontendConfig(conv_layers=((8, 10, 5), (8, 8, 4), (8, 4, 4)), norm="group")
    with pytest.raises(ConfigError, match="multiple of 160 samples apart, not 80"):
        build("best_rq", model=replace(MODEL, frontend=frontend))
