"""The variational bottleneck of the autoencoders against its scalar oracle; its noise; a collapse is named."""

from dataclasses import replace
from itertools import repeat

import pytest
import torch

from speechssl.config.objectives import BottleneckConfig
from speechssl.core.errors import ConfigError
from speechssl.objectives.shared.reconstruction import Bottleneck
from tests.objectives.test_contract import LENGTHS, gradients, in_float32
from tests.oracles import reconstruction as oracle
from tests.support.objectives import MODEL, STEMS, build, findings, fit, make_batch

KINDS = ["masked_reconstruction", "denoise"]
LOGMEL = replace(MODEL, frontend=STEMS["logmel"])


def narrowed(kind, dim=4, beta=1.0, **changes):
    return build(kind, model=LOGMEL, n_mels=20, bottleneck=BottleneckConfig(dim, beta), **changes)


def test_the_divergence_equals_the_scalar_oracle_and_that_of_torch():
    torch.manual_seed(1)
    bottleneck = Bottleneck(6, BottleneckConfig(dim=3)).double().eval()
    context = torch.randn(5, 6, dtype=torch.float64)
    passed, divergence = bottleneck(context)
    mean, log_variance = bottleneck.narrow(context).chunk(2, dim=1)
    expected = sum(oracle.divergence(m, v) for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True))
    assert divergence.item() == pytest.approx(expected, rel=1e-12)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    assert torch.distributions.kl_divergence(posterior, prior).sum().item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(passed, bottleneck.widen(mean))  # nothing is drawn in evaluation


def test_the_oracle_by_hand():
    assert oracle.divergence([0.0, 0.0], [0.0, 0.0]) == 0.0
    assert oracle.divergence([2.0], [0.0]) == 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_has_the_weighted_divergence_of_the_frames_with_a_target(kind):
    with_beta, without = (narrowed(kind, beta=beta).double().eval() for beta in (0.25, 0.0))
    batch = make_batch(LENGTHS)
    loss, reconstruction = (objective(objective.prepare(batch)) for objective in (with_beta, without))
    frames = loss.n_targets / 40  # 2 log-mel frames of 20 channels
    kl = loss.metrics["kl"].item()
    assert kl > 0
    assert (loss.sum - reconstruction.sum).item() == pytest.approx(0.25 * kl * frames, rel=1e-9)
    assert loss.metrics["relative_loss"].item() == reconstruction.metrics["relative_loss"].item()


@pytest.mark.parametrize("kind", KINDS)
def test_off_it_has_no_parameters_and_draws_nothing(kind):
    objective = build(kind)
    assert not list(objective.bottleneck.parameters())
    assert objective.rules == build(kind, seed=4).rules and "kl" not in {rule.metric for rule in objective.rules}
    state = torch.get_rng_state()
    context = torch.ones(2, 16)
    assert objective.bottleneck.train()(context) == (context, None)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_loop_relies_on_holds_with_a_bottleneck(kind):
    objective = narrowed(kind).double().eval()
    together = gradients(objective, make_batch(LENGTHS))
    alone = gradients(objective, *(make_batch([n], ids=(f"u{i}",)) for i, n in enumerate(LENGTHS)))
    assert alone[:2] == (pytest.approx(together[0], rel=1e-5), together[1])
    for name, value in together[2].items():
        assert value is not None and value.any(), name
        torch.testing.assert_close(alone[2][name], value, rtol=1e-4, atol=1e-7)
    objective.train()
    prepared = objective.prepare(make_batch(LENGTHS))
    values = []
    for seed in (9, 9, 10):
        torch.manual_seed(seed)
        values.append(objective(prepared).sum.item())
    assert values[0] == values[1] != values[2]
    assert {"bottleneck.narrow.weight", "bottleneck.widen.bias"} <= objective.exported().keys()
    assert {curve.metric for curve in objective.curves} | {"kl"} <= objective(prepared).metrics.keys()
    assert objective.title.endswith(", variational")


def test_the_noise_is_that_of_the_posterior():
    bottleneck = Bottleneck(3, BottleneckConfig(dim=2)).train()
    with torch.no_grad():
        bottleneck.narrow.weight.zero_()
        bottleneck.narrow.bias.copy_(torch.tensor([1.0, -2.0, 0.0, -2.0]))  # means, logarithms of variances
        bottleneck.widen.weight.copy_(torch.eye(3, 2))
        bottleneck.widen.bias.zero_()
        torch.manual_seed(2)
        z = bottleneck(torch.zeros(20_000, 3))[0]
    assert z.mean(dim=0).tolist() == pytest.approx([1.0, -2.0, 0.0], abs=0.03)
    assert z.var(dim=0).tolist() == pytest.approx([1.0, 0.1353, 0.0], abs=0.03)


@pytest.mark.parametrize("wrong", [BottleneckConfig(dim=-1), BottleneckConfig(beta=-0.1)])
def test_negative_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="use 0 or more"):
        build("denoise", bottleneck=wrong)


def silent_encoder(objective):
    """Cut the posterior off from the encoder."""
    for value in objective.bottleneck.narrow.parameters():
        value.data.zero_()
        value.requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("beta", "broken", "finding"),
    [(0.01, None, set()), (0.01, silent_encoder, {"posterior_collapse"}), (1e4, None, {"posterior_collapse"})],
)
def test_a_health_rule_names_a_collapsed_posterior(beta, broken, finding):
    objective = narrowed("denoise", beta=beta).train()
    if broken:
        broken(objective)
    loss = fit(objective, repeat(in_float32(make_batch([16_000] * 4)), 60), 1e-2)
    assert findings(objective, loss) & {"posterior_collapse"} == finding
