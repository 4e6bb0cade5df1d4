"""Next sample against its scalar oracle; mu-law against torchaudio; nothing predicted is seen; broken versions."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import torch
import torchaudio

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths
from speechssl.objectives.build import build_objective
from speechssl.objectives.next_sample import mu_law
from tests.oracles import next_sample as oracle
from tests.support.objectives import KINDS, MODEL, STEMS, build, findings, fit, make_batch

LENGTHS = [16_000, 9_000]
SMALL = {"classes": 9, "samples": 3}


def quiet(batch, level=0.2):
    """Return a batch that is not clipped."""
    return replace(batch, wave=level * batch.wave)


@pytest.mark.parametrize(("every", "ahead"), [(1, 1), (5, 1), (40, 100), (1, 400)])
@pytest.mark.parametrize("stem", ["layer", "logmel"])
def test_loss_equals_the_scalar_oracle(stem, every, ahead):
    model = replace(MODEL, frontend=STEMS[stem])
    objective = build("next_sample", model=model, every=every, ahead=ahead, **SMALL).double().eval()
    prepared = objective.prepare(quiet(make_batch(LENGTHS)))
    grid = objective.encoder.frontend.grid
    with torch.no_grad():
        loss = objective(prepared)
        logits = objective.predict(objective.encoder(prepared.batch.wave, prepared.lengths).x)
    rows, classes, frames = [], [], 0
    for row, length in enumerate(LENGTHS):
        wave = prepared.batch.wave[row, :length].tolist()
        for frame in range(grid.frames(length)):
            samples = oracle.coming(wave, frame, grid.hop, grid.receptive, ahead, 3, every)
            if samples is not None:
                frames += 1
                classes += [oracle.mu_law(x, 9) for x in samples]
                rows += logits[row, frame].view(3, 9).tolist()
    total, correct = oracle.cross_entropy(rows, classes)
    n = len(classes)
    assert n == loss.n_targets == 3 * frames > 3 * 60
    assert loss.sum.item() == pytest.approx(total, rel=1e-9)
    metrics = {name: value.item() for name, value in loss.metrics.items()}
    assert metrics["sample_loss"] == pytest.approx(total / n, rel=1e-9)
    assert metrics["class_entropy"] == pytest.approx(oracle.entropy(classes), rel=1e-5)
    assert metrics["relative_loss"] == pytest.approx(total / n / oracle.entropy(classes), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(correct / n, rel=1e-5)
    assert metrics["frequent_share"] == pytest.approx(max(map(classes.count, classes)) / n, rel=1e-5)


def test_the_oracle_by_hand():
    assert [oracle.mu_law(x, 256) for x in (-2.0, -1.0, 0.0, 1.0)] == [0, 0, 128, 255]
    assert oracle.coming(list(range(20)), 1, hop=4, receptive=6, ahead=1, samples=3, every=2) == [10, 12, 14]
    assert oracle.coming(list(range(14)), 1, hop=4, receptive=6, ahead=1, samples=3, every=2) is None
    total, correct = oracle.cross_entropy([[0.0, 0.0], [0.0, 50.0]], [0, 0])
    assert (total, correct) == (pytest.approx(np.log(2) + 50), 1)
    assert oracle.entropy([1, 1, 2, 2]) == pytest.approx(np.log(2))


@pytest.mark.parametrize("classes", [256, 16])
def test_mu_law_is_torchaudio_s(classes):
    wave = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    expected = torchaudio.functional.mu_law_encoding(wave, classes)
    assert torch.equal(mu_law(wave, classes), expected)
    assert mu_law(wave, classes).tolist() == [oracle.mu_law(x, classes) for x in wave.tolist()]
    assert mu_law(torch.tensor([-3.0, 3.0]), classes).tolist() == [0, classes - 1]


@pytest.mark.parametrize("stem", ["layer", "logmel"])
def test_no_gradient_of_a_prediction_reaches_the_samples_of_its_target(stem):
    model = replace(MODEL, frontend=STEMS[stem], encoder=replace(MODEL.encoder, layers=2))
    objective = build("next_sample", model=model, **SMALL)
    grid = objective.encoder.frontend.grid
    wave = make_batch([8_000]).wave.float().requires_grad_()
    with plain_paths():
        predicted = objective.predict(objective.encoder(wave).x[0])
        for t in (1, 3, len(predicted) - 1):
            wave.grad = None
            predicted[t].square().sum().backward(retain_graph=True)
            end = t * grid.hop + grid.receptive
            assert not wave.grad[0, end:].any()
            assert wave.grad[0, t * grid.hop : end].any()


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"samples": 0}, {"every": 0}, {"ahead": 0}])
def test_what_is_seen_or_nothing_cannot_be_predicted(wrong):
    with pytest.raises(ConfigError, match="use 2 or more classes, and 1 or more of the others"):
        build("next_sample", **wrong)


def test_an_encoder_that_sees_what_follows_is_refused():
    with pytest.raises(ConfigError, match=r"Next sample predicts what follows a frame: set model.encoder.causal"):
        build_objective(KINDS["next_sample"](), SpeechEncoder(MODEL), None, 1)


def test_digital_silence_is_named():
    objective = build("next_sample")
    batch = make_batch(LENGTHS)
    silent = objective(objective.prepare(replace(batch, wave=torch.zeros(2, 16_000))))
    assert "silent_targets" in findings(objective, silent)


def trained(broken, steps):
    """Train on clips of noise whose power falls with frequency, all new; return what the health checks find."""
    model = ModelConfig(
        frontend=FrontendConfig(conv_layers=((64, 8, 4), (64, 8, 8)), norm="layer", bias=True, grad_scale=1.0),
        encoder=EncoderConfig(
            dim=64, layers=1, heads=2, ffn_dim=64, norm="pre", pos_kernel=8, pos_groups=1, dropout=0.0,
            attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0, causal=True,
        ),
    )  # fmt: skip
    torch.manual_seed(1)
    objective = build_objective(KINDS["next_sample"](classes=4, samples=2), SpeechEncoder(model), None, 1)
    if broken:
        broken(objective)
    rng = np.random.default_rng(1)
    waves = (scipy.signal.lfilter([0.1], [1, -0.9], rng.normal(size=(4, 4_000))) for _ in range(steps))
    batch = make_batch([4_000] * 4)
    return findings(objective, fit(objective, (replace(batch, wave=torch.tensor(x).float()) for x in waves), 3e-3))


def sees_what_follows(objective):
    objective.encoder.position.causal = False
    objective.encoder.blocks[0].attention.causal = False


def predicts_what_it_hears(objective):
    objective.cfg = replace(objective.cfg, ahead=-2)  # which building would refuse


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
    assert trained(broken, steps=20 if broken is ignores_its_input else 200) - {"not_learning"} == finding
