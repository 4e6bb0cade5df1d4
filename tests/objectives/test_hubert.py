"""Masked unit prediction against its scalar oracle, and its units."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.config import HubertConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.hubert import Hubert
from speechssl.targets.table import UnitTable
from tests.oracles import hubert as oracle
from tests.support.objectives import MASK, MODEL, N_UNITS, make_batch, table

CFG = HubertConfig(final_dim=8, mask=MASK)


def make(cfg=CFG, units=None, seed=3):
    torch.manual_seed(0)
    return Hubert(SpeechEncoder(MODEL), cfg, units or table(), seed=seed).double()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_loss_equals_the_scalar_oracle(weight):
    objective = make(replace(CFG, unmasked_weight=weight)).eval()
    prepared = objective.prepare(make_batch([16_000]))
    with torch.no_grad():
        loss = objective(prepared)
        output = objective.encoder(prepared.batch.wave, mask=prepared.mask)
        projected = objective.projection(output.x)[0]
    units = objective.units.get("u0", 0, len(projected)).tolist()
    split = [
        (projected[side].tolist(), [unit for unit, take in zip(units, side.tolist(), strict=False) if take])
        for side in (prepared.mask[0], ~prepared.mask[0])
    ]
    expected, targets = oracle.loss(
        *split, objective.embeddings.tolist(), output.features.tolist(),
        temperature=0.1, penalty_weight=10.0, unmasked_weight=weight,
    )  # fmt: skip
    total, correct = oracle.cross_entropy(split[0][0], objective.embeddings.tolist(), split[0][1], 0.1)
    masked = len(split[0][0])
    assert masked > 20
    assert loss.n_targets == prepared.n_targets == targets
    assert loss.sum.item() == pytest.approx(expected, rel=1e-9)
    assert loss.metrics["masked_loss"].item() * masked == pytest.approx(total, rel=1e-9)
    assert loss.metrics["accuracy"].item() * masked == pytest.approx(correct, abs=1e-4)
    assert ("unmasked_loss" in loss.metrics) == (weight > 0)


def test_L3_frames_that_are_not_masked_join_the_divisor():
    """Where every frame is equally hard, a weight of 1 leaves the loss per target and its gradient as they are."""
    per_target, gradients = [], []
    for weight in (0.0, 1.0):
        objective = make(replace(CFG, unmasked_weight=weight)).eval()
        with torch.no_grad():
            objective.projection.weight.zero_()  # every frame then predicts the same distribution
            units = UnitTable({"u0": np.zeros(60, dtype=np.int64)}, n_units=N_UNITS, hop=320)
        objective.units = units
        loss = objective(objective.prepare(make_batch([16_000])))
        (loss.sum / loss.n_targets).backward()
        per_target.append(loss.sum.item() / loss.n_targets)
        gradients.append(objective.embeddings.grad)
    assert per_target[1] == pytest.approx(per_target[0], rel=1e-9)
    assert torch.allclose(gradients[1], gradients[0], rtol=1e-9)


def test_L3_a_clip_too_short_for_a_mask_still_teaches_its_other_frames():
    objective = make(replace(CFG, unmasked_weight=1.0)).eval()
    prepared = objective.prepare(make_batch([1_000]))
    loss = objective(prepared)
    assert (len(prepared.units), prepared.n_targets, loss.metrics_weight) == (0, len(prepared.other_units), 0)
    assert prepared.n_targets > 0
    assert all(torch.isfinite(value) for value in loss.metrics.values())
    loss.sum.backward()
    assert objective.embeddings.grad.any()


def test_a_crop_takes_the_units_of_its_own_frames():
    objective = make()
    whole = make_batch([16_000])
    crop = replace(whole, starts=torch.tensor([7 * 320]))
    prepared = objective.prepare(crop)
    frames = prepared.masked.frames.numpy()
    assert prepared.units.tolist() == objective.units.get("u0")[7 + frames].tolist()
    with pytest.raises(ValueError, match="multiple of 320"):
        objective.prepare(replace(whole, starts=torch.tensor([100])))


def test_rows_without_units_or_weight_do_not_count():
    objective = make(units=table(ids=("u0", "u2"))).eval()
    among = objective.prepare(make_batch([16_000, 16_000, 16_000], weights=[1.0, 1.0, 0.0]))
    alone = objective.prepare(make_batch([16_000]))
    assert among.masked.counts.tolist() == [alone.n_targets, 0, 0]
    assert not among.mask[1:].any()
    assert objective(among).sum.item() == pytest.approx(objective(alone).sum.item(), rel=1e-9)
    nothing = objective.prepare(make_batch([16_000], ids=("u1",)))
    loss = objective(nothing)
    loss.sum.backward()
    assert (loss.n_targets, loss.sum.item()) == (0, 0.0)


def test_frames_beyond_the_units_are_not_targets():
    objective = make(units=table(frames=20))
    prepared = objective.prepare(make_batch([16_000]))
    assert int(prepared.masked.frames.max()) < 20 <= int(prepared.mask[0].nonzero().max())


def test_chance_is_what_unit_frequencies_alone_predict():
    units = table()
    objective = make(units=units)
    shares = units.counts() / len(units.units)
    guess = -sum(math.log(shares[unit]) for unit in units.units) / len(units.units)
    assert objective.chance["masked_loss"] == pytest.approx(guess)
    assert objective.chance["masked_loss"] < math.log(N_UNITS)
    assert objective.chance["accuracy"] == pytest.approx(shares.max())


def test_a_table_for_another_grid_is_refused():
    with pytest.raises(ValueError, match="160 samples apart"):
        make(units=table(hop=160))


def test_prediction_perplexity_spans_one_to_all_units():
    objective = make().eval()
    prepared = objective.prepare(make_batch([16_000]))
    with torch.no_grad():
        objective.projection.weight.zero_()
        objective.projection.bias.copy_(objective.embeddings[0])
        objective.embeddings[1:].neg_()
        one = objective(prepared).metrics["prediction_perplexity"].item()
        objective.embeddings.copy_(objective.embeddings[:1].expand(N_UNITS, -1).clone())
        every = objective(prepared).metrics["prediction_perplexity"].item()
    assert one == pytest.approx(1.0, abs=1e-3)
    assert every == pytest.approx(N_UNITS, rel=1e-6)
