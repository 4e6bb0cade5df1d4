"""CPC against its scalar oracle; where its negatives come from; and broken versions, which a health rule names."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.build import build_objective
from tests.oracles import cpc as oracle
from tests.support.objectives import KINDS, MODEL, STEMS, build, findings, fit, make_batch

LENGTHS = [16_000, 9_000, 4_000]
SMALL = {"steps": 4, "within": 5, "across": 3}


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("stem", STEMS)
def test_loss_equals_the_scalar_oracle(stem, first):
    objective = build("cpc", model=replace(MODEL, frontend=STEMS[stem]), first=first, **SMALL).double().eval()
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if "feature_norm" in name or name == "predict.weight":
                parameter.add_(0.3 * torch.randn_like(parameter))
        prepared = objective.prepare(make_batch(LENGTHS))
        loss = objective(prepared)
        output = objective.encoder(prepared.batch.wave, prepared.lengths)
        latents = objective.encoder.normalise_features(output.features)
    width, dim = latents.shape[1:]
    predictors = objective.predict.weight.view(4, dim, -1).tolist()
    total, n, right, last, counted = 0.0, 0, 0, 0, 0
    for row, length in enumerate(LENGTHS):
        for t in range(max(0, objective.encoder.frames(length) - (first + 3))):
            negatives = [divmod(place, width) for place in prepared.negatives[n].tolist()]
            context, n = output.x[row, t].tolist(), n + 1
            for step, predictor in enumerate(predictors):
                cost, hit, count = oracle.info_nce(
                    latents.tolist(), row, t, first + step, predictor=predictor, context=context, negatives=negatives
                )
                total, right, counted = total + cost / 4, right + hit, counted + count
                last += hit and step == 3
    assert n == loss.n_targets > 60
    assert counted < n * 4 * 8  # a negative that is the frame to predict has been met
    assert loss.sum.item() == pytest.approx(total, rel=1e-9)
    assert loss.metrics["contrastive"].item() == pytest.approx(total / n, rel=1e-9)
    assert loss.metrics["accuracy"].item() == pytest.approx(right / n / 4, rel=1e-5)
    assert loss.metrics["last_accuracy"].item() == pytest.approx(last / n, rel=1e-5)
    assert loss.metrics["negatives_counted"].item() == pytest.approx(counted / n / 32, rel=1e-5)


def test_the_oracle_by_hand():
    assert oracle.score([1.0, 2.0, 0.0, 3.0], [[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [1.0, 1.0]], [2.0, 4.0]) == 14.0
    latents = [[[1.0], [2.0], [0.0]], [[3.0]]]
    one = {"predictor": [[1.0]], "context": [1.0]}
    loss, right, counted = oracle.info_nce(latents, 0, 0, 1, **one, negatives=[(0, 0), (0, 1), (0, 0)])
    assert loss == pytest.approx(np.log(1 + 2 * np.exp(-1))) and right and counted == 2
    loss, right, counted = oracle.info_nce(latents, 0, 0, 1, **one, negatives=[(1, 0)])
    assert loss == pytest.approx(np.log(1 + np.exp(1))) and not right and counted == 1
    assert oracle.info_nce(latents, 0, 0, 1, **one, negatives=[(0, 1)]) == (0.0, False, 0)


def test_negatives_are_of_the_own_utterance_and_of_the_others():
    objective = build("cpc", steps=2, within=40, across=60)
    lengths, weights = [16_000, 9_000, 12_000, 16_000], [1.0, 1.0, 1.0, 0.0]
    prepared = objective.prepare(make_batch(lengths, weights=weights))
    width = objective.encoder.frames(16_000)
    frames = np.array([objective.encoder.frames(length) for length in lengths])
    rows, places = np.divmod(prepared.negatives.numpy(), width)
    assert (places < frames[rows]).all() and not (rows == 3).any()  # never padding, nor a row of weight 0
    start = 0
    for row in range(3):
        mine = slice(start, start + frames[row] - 2)
        start += frames[row] - 2
        assert (rows[mine, :40] == row).all()
        others = np.delete(np.arange(3), row)
        assert set(np.unique(rows[mine, 40:])) == set(others)
        share = (rows[mine, 40:] == others[0]).mean()
        assert share == pytest.approx(frames[others[0]] / frames[others].sum(), abs=0.03)
        assert len(np.unique(places[mine, :40])) == frames[row]  # every frame, first to last
    assert start == prepared.n_targets == len(prepared.negatives)


def test_an_utterance_alone_has_its_own_frames_for_the_others():
    prepared = build("cpc", **SMALL).prepare(make_batch([9_000]))
    frames = build("cpc").encoder.frames(9_000)
    assert prepared.negatives.shape == (frames - 4, 8)
    assert prepared.negatives.min() >= 0 and prepared.negatives.max() < frames


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"first": 0}, {"within": 0, "across": 0}, {"within": -1}])
def test_settings_without_anything_to_tell_apart_are_refused(wrong):
    with pytest.raises(ConfigError, match="at least one step, one frame ahead, and one negative"):
        build("cpc", **wrong)


def trained(broken, updates, **changes):
    """Train on white noise, of which nothing can be predicted; return what the health checks find."""
    model = ModelConfig(
        frontend=FrontendConfig(kind="logmel", n_mels=20, stack=1, statistics="past"),
        encoder=EncoderConfig(
            dim=64, layers=1, heads=2, ffn_dim=64, norm="pre", pos_kernel=16, pos_groups=1, dropout=0.0,
            attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0, causal=True,
        ),
    )  # fmt: skip
    torch.manual_seed(1)
    cfg = KINDS["cpc"](**{"steps": 2, "first": 3, "within": 8, "across": 8} | changes)
    objective = build_objective(cfg, SpeechEncoder(model), None, 1)
    if broken:
        broken(objective)
    batch = make_batch([16_000] * 4)
    noise = (replace(batch, wave=torch.randn(4, 16_000)) for _ in range(updates))
    return findings(objective, fit(objective, noise, 5e-3))


def sees_what_follows(objective):
    objective.encoder.position.causal = False
    objective.encoder.blocks[0].attention.causal = False


def has_one_latent(objective):
    objective.encoder.feature_norm.requires_grad_(requires_grad=False).weight.zero_()
    objective.encoder.feature_norm.bias.fill_(1.0)


def negatives_are_the_positive(objective):
    prepare = objective.prepare

    def prepared(batch):
        sound = prepare(batch)
        positive = sound.context.frames[:, None] + objective.cfg.first
        return replace(sound, negatives=positive.expand_as(sound.negatives))

    objective.prepare = prepared


@pytest.mark.parametrize(
    ("broken", "finding", "changes"),
    [
        (None, {"not_learning"}, {}),
        (sees_what_follows, {"target_leak"}, {}),
        (has_one_latent, {"target_collapse"}, {}),
        (negatives_are_the_positive, {"negatives_collide", "too_good"}, {"steps": 1}),
    ],
    ids=["sound", "leak", "collapse", "negatives"],
)
def test_a_health_rule_names_what_is_broken(broken, finding, changes):
    found = trained(broken, 60 if broken in {None, sees_what_follows} else 10, **changes)
    assert found - ({"not_learning"} if broken else set()) == finding
