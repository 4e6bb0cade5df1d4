"""The contrastive objective against its scalar oracle, and its distractors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.config import FrontendConfig, Wav2Vec2Config
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.wav2vec2 import Wav2Vec2, contrast
from tests.oracles import wav2vec2 as oracle
from tests.support.objectives import MASK, MODEL, make_batch

CFG = Wav2Vec2Config(final_dim=8, groups=2, entries=5, negatives=7, mask=MASK)


def make(cfg=CFG, model=MODEL, seed=3):
    torch.manual_seed(0)
    return Wav2Vec2(SpeechEncoder(model), cfg, seed=seed).double()


def internals(objective, prepared):
    """Projected context, targets, probabilities and features, from the objective's parts, in evaluation mode."""
    output = objective.encoder(prepared.batch.wave, prepared.lengths, mask=prepared.mask)
    masked = prepared.mask
    context = objective.project_context(output.x[masked])
    latents = objective.encoder.normalise_features(output.features[masked])
    quantised = objective.quantizer(latents)
    logits = objective.quantizer.weight_proj(latents).view(len(latents), CFG.groups, CFG.entries)
    return context, objective.project_targets(quantised.codes_vectors), logits.softmax(-1), output.features


def one_row(n):
    return FrameSelection.of(np.ones((1, n), dtype=bool))


def per_row(values, counts):
    return [part.tolist() for part in values.split(counts.tolist())]


def test_loss_equals_the_scalar_oracle():
    objective = make().eval()
    prepared = objective.prepare(make_batch([16_000, 16_000, 16_000]))
    with torch.no_grad():
        loss = objective(prepared)
        context, targets, probabilities, features = internals(objective, prepared)
    rows = list(
        zip(
            *(per_row(values, prepared.masked.counts) for values in (context, targets, prepared.negatives)), strict=True
        )
    )
    n = prepared.n_targets
    total, correct = map(sum, zip(*(oracle.contrastive(*row, CFG.logit_temperature) for row in rows), strict=True))
    spread, perplexities = oracle.diversity(probabilities.tolist())
    assert n == len(context) > 60
    assert loss.metrics["contrastive"] * n == pytest.approx(total, rel=1e-9)
    assert loss.metrics["accuracy"] * n == pytest.approx(correct, abs=0.5)
    assert loss.metrics["diversity"] == pytest.approx(spread, rel=1e-9)
    assert [loss.metrics[f"perplexity_{g}"].item() for g in range(2)] == pytest.approx(perplexities, rel=1e-9)
    # Each utterance's own mean square, weighted by its own masked frames.
    counts = prepared.masked.counts.tolist()
    penalty = sum(c * oracle.feature_penalty([row]) for c, row in zip(counts, features.tolist(), strict=True))
    assert loss.sum == pytest.approx(total + n * 0.1 * spread + 10.0 * penalty, rel=1e-9)
    assert loss.metrics["penalty"] * n == pytest.approx(penalty, rel=1e-9)


def test_whole_oracle_when_rows_have_equally_many_targets():
    objective = make().eval()
    prepared = objective.prepare(make_batch([16_000]))
    with torch.no_grad():
        context, targets, probabilities, features = internals(objective, prepared)
        value = objective(prepared).sum
    expected = oracle.loss(
        [(context.tolist(), targets.tolist(), prepared.negatives.tolist())],
        probabilities.tolist(), features.tolist(),
        temperature=CFG.logit_temperature, diversity_weight=CFG.diversity_weight, penalty_weight=CFG.penalty_weight,
    )  # fmt: skip
    assert value == pytest.approx(expected, rel=1e-9)


def test_a_stem_without_weights_is_not_penalised():
    frontend = FrontendConfig(kind="logmel", n_mels=20, stack=2)
    objective = make(model=replace(MODEL, frontend=frontend)).eval()
    loss = objective(objective.prepare(make_batch([16_000])))
    expected = loss.metrics["contrastive"] + CFG.diversity_weight * loss.metrics["diversity"]
    assert loss.sum.item() == pytest.approx(loss.n_targets * expected.item(), rel=1e-6)
    assert "penalty" not in loss.metrics


def test_codes_equal_to_the_positive_do_not_count():
    torch.manual_seed(1)
    context = torch.randn(6, 4, dtype=torch.float64)
    book = torch.randn(3, 4, dtype=torch.float64)
    codes = torch.tensor([0, 1, 0, 2, 2, 1])
    negatives = torch.tensor([[1, 2, 2], [0, 3, 3], [0, 0, 4], [4, 4, 4], [3, 0, 1], [1, 2, 2]])
    result = contrast(context, book[codes], codes=codes, negatives=negatives, masked=one_row(6), temperature=0.1)
    expected, _ = oracle.contrastive(context.tolist(), book[codes].tolist(), negatives.tolist(), 0.1)
    assert result.sum.item() == pytest.approx(expected, rel=1e-12)
    # Frame 3 has no distractor but its own code: nothing to gain, and no success either.
    alone = contrast(
        context[3:5], book[[2, 2]], codes=torch.tensor([2, 2]), negatives=torch.tensor([[1], [0]]),
        masked=one_row(2), temperature=0.1,
    )  # fmt: skip
    assert (alone.sum.item(), alone.correct.item()) == (0.0, 0)


def test_gathering_the_logits_one_by_one_gives_the_same_loss_and_gradient():
    torch.manual_seed(2)
    context = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    negatives = torch.randint(0, 8, (9, 20))
    negatives += negatives >= torch.arange(9)[:, None]
    result = contrast(
        context, targets, codes=torch.arange(9), negatives=negatives,
        masked=one_row(9), temperature=0.1,
    )  # fmt: skip
    fast = torch.autograd.grad(result.sum, [context, targets])
    candidates = torch.cat([targets[:, None], targets[negatives]], dim=1)
    logits = torch.cosine_similarity(context[:, None], candidates, dim=-1) / 0.1
    slow_sum = torch.nn.functional.cross_entropy(logits, torch.zeros(9, dtype=torch.int64), reduction="sum")
    slow = torch.autograd.grad(slow_sum, [context, targets])
    assert result.sum.item() == pytest.approx(slow_sum.item(), rel=1e-12)
    assert result.correct.item() == int((logits.argmax(1) == 0).sum())
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_distractors_are_other_masked_frames_of_the_same_utterance():
    prepared = make().prepare(make_batch([16_000, 9_000, 900]))  # the last is too short for a span
    counts = prepared.masked.counts.tolist()
    assert min(counts[:2]) > 1 and counts[2] == 0
    for count, negatives in zip(counts, prepared.negatives.split(counts), strict=True):
        assert (negatives != torch.arange(count)[:, None]).all()
        assert ((negatives >= 0) & (negatives < count)).all()


def test_gumbel_temperature_follows_the_step_alone():
    objective = make(replace(CFG, gumbel_start=2.0, gumbel_end=0.5, gumbel_decay=0.999))
    for step, expected in ((1000, 2.0 * 0.999**1000), (0, 2.0), (100_000, 0.5)):
        assert objective.begin_step(step) is False
        assert objective.temperature.item() == pytest.approx(expected)
    assert "temperature" not in objective.state_dict()


def test_metrics_and_chance_level():
    objective = make().train()
    prepared = objective.prepare(make_batch([16_000, 16_000]))
    loss = objective(prepared)
    assert objective.chance["contrastive"] == pytest.approx(math.log(1 + CFG.negatives))
    assert all(not value.requires_grad and value.ndim == 0 for value in loss.metrics.values())
    assert loss.metrics["masked_fraction"].item() == pytest.approx(prepared.mask.double().mean().item())
    assert 0 < loss.metrics["codes_used"].item() <= 1
    assert loss.metrics["target_variance"].item() > 0
    with torch.no_grad():
        objective.quantizer.weight_proj.weight.zero_()
        objective.quantizer.weight_proj.bias.view(2, 5)[:, 0] = 50.0
        collapsed = objective(prepared).metrics
    assert collapsed["target_variance"].item() < 1e-9
    assert (collapsed["contrastive"].item(), collapsed["accuracy"].item()) == (0.0, 0.0)
    assert collapsed["codes_used"].item() == pytest.approx(0.2)
    assert collapsed["perplexity_0"].item() == pytest.approx(1.0, abs=1e-6)
