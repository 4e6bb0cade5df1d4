"""APC against its scalar oracle; no target is seen, by gradients; broken versions, which a health rule names."""

from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import frame_grid
from speechssl.models.kernels.choice import plain_paths
from speechssl.objectives.apc import least_ahead
from speechssl.objectives.build import build_objective
from tests.oracles import apc as oracle
from tests.support.logmel import expected_speech
from tests.support.objectives import CONV2D, KINDS, MODEL, STEMS, build, findings, fit, make_batch

NARROW = replace(MODEL.frontend, conv_layers=((8, 5, 5), (8, 8, 8), (8, 8, 8)))
"""Frames of 320 samples that share none: the next one may be predicted."""
SINGLE = FrontendConfig(kind="logmel", n_mels=20, stack=1)
"""The paper's frames, of 25 ms every 10 ms."""
LENGTHS = [16_000, 9_000]


@pytest.mark.parametrize("stem", [*STEMS.values(), NARROW, SINGLE], ids=[*STEMS, "narrow", "single"])
def test_loss_equals_the_scalar_oracle(stem):
    objective = build("apc", model=replace(MODEL, frontend=stem), n_mels=20, ahead=4).double().eval()
    prepared = objective.prepare(make_batch(LENGTHS))
    with torch.no_grad():
        loss = objective(prepared)
        predictions = objective.predict(objective.encoder(prepared.batch.wave, prepared.lengths).x)
    total = repeated = mean = 0.0
    n, known, guessed = 0, [], []
    for row, length in enumerate(LENGTHS):
        speech = expected_speech(objective.encoder, prepared.batch.wave[row, :length].numpy(), 20)
        said = predictions[row, : len(speech)].tolist()
        part, frames = oracle.prediction_loss(speech, said, 4)
        total, n = total + part, n + frames
        repeated, mean = repeated + oracle.repeating_loss(speech, 4), mean + oracle.mean_loss(speech, 4)
        known, guessed = known + speech[4:], guessed + said[:-4]
    n *= len(known[0])
    assert n == loss.n_targets > 60 * 20
    assert loss.sum.item() == pytest.approx(total, rel=1e-6)
    assert loss.metrics["l1"].item() == pytest.approx(total / n, rel=1e-6)
    assert loss.metrics["relative_loss"].item() == pytest.approx(total / mean, rel=1e-6)
    assert loss.metrics["repeating_loss"].item() == pytest.approx(repeated / mean, rel=1e-6)
    spread = oracle.deviation(guessed) / oracle.deviation(known)
    assert loss.metrics["prediction_spread"].item() == pytest.approx(spread, rel=1e-6)


def test_the_oracle_by_hand():
    speech, predictions = [[0.0, 1.0], [2.0, 3.0], [4.0, -1.0]], [[2.0, 2.0], [0.0, 0.0], [9.0, 9.0]]
    assert oracle.prediction_loss(speech, predictions, 1) == (1.0 + 5.0, 2)
    assert oracle.prediction_loss(speech, predictions, 2) == (5.0, 1)
    assert oracle.prediction_loss(speech, predictions, 3) == (0.0, 0)
    assert oracle.repeating_loss(speech, 1) == 4.0 + 6.0
    assert oracle.mean_loss(speech, 1) == 5.0 + 5.0
    assert oracle.deviation([[0.0, 1.0], [2.0, 1.0]]) == 0.5


@pytest.mark.parametrize(
    "stem",
    [STEMS["layer"], STEMS["logmel"], NARROW, SINGLE, CONV2D],
    ids=["layer", "logmel", "narrow", "single", "conv2d"],
)
def test_no_gradient_of_a_prediction_reaches_the_samples_of_its_target(stem):
    """With the least n of each stem: exactly none from the loss at t to the samples of frame t + n, or after it."""
    model = replace(MODEL, frontend=stem, encoder=replace(MODEL.encoder, layers=2))
    ahead = least_ahead(frame_grid(stem))
    objective = build("apc", model=model, n_mels=20, ahead=ahead)
    hop = objective.encoder.hop
    batch = make_batch([8_000])
    wave = batch.wave.float().requires_grad_()
    with plain_paths():
        predicted = objective.predict(objective.encoder(wave).x[0])
        targets = objective.mel(wave.detach())[0]
        frames = len(targets)
        for t in (1, 3, frames - ahead - 1):
            wave.grad = None
            (predicted[t] - targets[t + ahead]).abs().sum().backward(retain_graph=True)
            assert not wave.grad[0, (t + ahead) * hop :].any()
            assert wave.grad[0, t * hop : t * hop + objective.encoder.frontend.receptive].any()


def test_a_loss_of_all_frames_is_blind_to_the_target_on_the_fast_paths_too():
    """The last target of an utterance, and all that follows it, changed beyond recognition: the same predictions."""
    objective = build("apc", n_mels=20).eval()
    hop, ahead = objective.encoder.hop, objective.cfg.ahead
    batch = make_batch([16_000])
    wave = batch.wave.float()
    t = 30
    changed = wave.clone()
    changed[:, (t + ahead) * hop :] = 0.0
    with torch.no_grad():
        a, b = (objective.predict(objective.encoder(given).x[0, : t + 1]) for given in (wave, changed))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("stem", "least"), [(FrontendConfig(norm="layer"), 2), (STEMS["logmel"], 2), (NARROW, 1), (SINGLE, 3), (CONV2D, 5)]
)
def test_frames_that_show_a_part_of_the_target_are_refused(stem, least):
    model = replace(MODEL, frontend=stem)
    assert build("apc", model=model, ahead=least).cfg.ahead == least
    with pytest.raises(
        ConfigError, match=rf"show a part of the {least - 1} that follow; predict the one {least} ahead"
    ):
        build("apc", model=model, ahead=least - 1)


def test_an_encoder_that_sees_what_follows_is_refused():
    with pytest.raises(ConfigError, match=r"APC predicts what follows a frame: set model.encoder.causal = true"):
        build_objective(KINDS["apc"](), SpeechEncoder(MODEL), None, 1)


def test_what_is_not_masked_needs_no_mask_embedding():
    objective = build("apc")
    assert not objective.encoder.mask_embedding.requires_grad
    assert objective.exported().keys() == {"mel.window", "mel.filters", "predict.weight", "predict.bias"}


def trained(broken=None, steps=150):
    """Train on eight short clips that are always the same; return what the health checks find."""
    model = ModelConfig(
        frontend=replace(SINGLE, statistics="past"),
        encoder=EncoderConfig(
            dim=64, layers=1, heads=2, ffn_dim=64, norm="pre", pos_kernel=8, pos_groups=1, dropout=0.0,
            attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0, causal=True,
        ),
    )  # fmt: skip
    torch.manual_seed(1)
    objective = build_objective(KINDS["apc"](n_mels=20), SpeechEncoder(model), None, 1)
    if broken:
        broken(objective)
    batches = (make_batch([16_000] * 4, ids=tuple(f"u{(step + i) % 8}" for i in range(4))) for step in range(steps))
    return findings(objective, fit(objective, (replace(batch, wave=batch.wave.float()) for batch in batches), 3e-3))


def sees_what_follows(objective):
    objective.encoder.position.causal = False
    objective.encoder.blocks[0].attention.causal = False


def predicts_what_it_hears(objective):
    objective.cfg = replace(objective.cfg, ahead=0)  # which building would refuse


def ignores_its_input(objective):
    objective.predict.weight.requires_grad_(requires_grad=False).zero_()


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (None, set()),
        (sees_what_follows, {"target_leak"}),
        (predicts_what_it_hears, {"target_leak"}),
        (ignores_its_input, {"prediction_collapse"}),
    ],
)
def test_a_health_rule_names_what_is_broken(broken, finding):
    """The sound objective learns these clips, too, but slowly, by heart."""
    assert trained(broken, steps=20 if broken is ignores_its_input else 150) - {"not_learning"} == finding
