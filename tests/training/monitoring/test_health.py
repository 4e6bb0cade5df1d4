"""Healthy curves raise nothing; each way to fail raises its finding, once."""

import math

import pytest

from speechssl.asr.ctc import CtcObjective
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.training.monitoring.health import Health

CHANCE = {"contrastive": math.log(101), "accuracy": 1 / 101}
TOTAL = 20_000


def healthy(step):
    """Return metrics of a wav2vec 2.0 run that learns: shapes follow published logs, with ripples on them."""
    part = step / TOTAL
    ripple = 1 + 0.05 * math.sin(step / 130)
    return {
        "loss": ripple * (2.0 + 3.2 * math.exp(-12 * part)),
        "contrastive": min(4.62, ripple * (1.7 + 2.9 * math.exp(-25 * part))),
        "accuracy": 0.6 * (1 - math.exp(-8 * part)),
        "perplexity_0": ripple * (60 + 200 * math.exp(-10 * part) + 60 * part),
        "perplexity_1": ripple * (50 + 220 * math.exp(-10 * part) + 70 * part),
        "target_variance": 0.6 * ripple,
        "masked_fraction": 0.49 * ripple,
        "grad_norm": ripple * (0.4 + 3 * math.exp(-30 * part)),
        "skipped": 1 if part > 0.5 else 0,
        "loader_wait": 0.05 * ripple,
    }


def healthy_ctc(step):
    part = step / TOTAL
    return {
        "loss": 300 * math.exp(-6 * part) + 20,
        "blank_fraction": 0.999 if part < 0.15 else 0.75,
        "grad_norm": 20 * math.exp(-2 * part) + 5,
        "dev_wer": max(0.12, 1.0 - 3 * max(0.0, part - 0.1)),
        "loader_wait": 0.0,
        "skipped": 0,
    }


def findings(curve, chance=CHANCE, total=TOTAL, every=100, rules=Wav2Vec2.rules):
    health = Health(chance, total, rules)
    return [(step, item) for step in range(every, total + 1, every) for item in health.watch(step, curve(step))]


def names(curve, **options):
    return [(item.name, item.severity) for _, item in findings(curve, **options)]


@pytest.mark.parametrize(("curve", "owner"), [(healthy, Wav2Vec2), (healthy_ctc, CtcObjective)])
def test_healthy_curves_raise_nothing(curve, owner):
    assert findings(curve, rules=owner.rules) == []


def test_a_short_run_is_left_in_peace():
    assert names(lambda step: {**healthy(0), "contrastive": 4.62, "perplexity_0": 1.0}, total=300, every=10) == []


def after(begin, **values):
    """Return a curve that is healthy up to ``begin`` and has these values afterwards."""
    return lambda step: {**healthy(step), **values} if step >= begin else healthy(step)


def test_chance_level_is_named_with_the_step_it_began():
    found = findings(after(0, contrastive=4.61))
    assert [(step, item.name, item.severity) for step, item in found] == [
        (2000, "not_learning", "warning"),
        (6000, "not_learning", "collapse"),
    ]
    assert "since step 100" in found[0][1].message
    assert "4.615" in found[0][1].message
    assert "optim.lr" in found[0][1].message


def test_falling_back_to_chance_is_noticed():
    found = findings(after(9000, contrastive=4.7))
    assert [(step, item.name) for step, item in found] == [(9000, "not_learning")]
    assert "since step 9000" in found[0][1].message


def test_accuracy_at_chance_is_not_a_loss_at_chance():
    assert names(after(0, accuracy=1.0)) == []


def test_a_collapse_that_looks_like_success():
    found = [
        item
        for _, item in findings(after(8000, contrastive=0.0013, perplexity_0=1.0, perplexity_1=1.0, accuracy=0.999))
    ]
    assert {(item.name, item.severity) for item in found} == {
        ("too_good", "collapse"),
        ("codebook_collapse", "collapse"),
    }
    (message,) = (item.message for item in found if item.name == "too_good")
    assert "looks like success. perplexity_0 is 1.00" in message and "diversity weight" in message  # its rule's advice


def test_collapsed_targets_without_a_codebook():
    found = names(after(8000, contrastive=0.001, target_variance=1e-4))
    assert found == [("too_good", "collapse"), ("target_collapse", "collapse")]


def test_too_good_alone_is_a_warning():
    assert names(after(8000, contrastive=0.01)) == [("too_good", "warning")]


def test_each_group_of_the_codebook_is_watched():
    found = findings(after(5000, perplexity_1=1.2))
    assert [(step, item.name) for step, item in found] == [(5000, "codebook_collapse")]
    assert "perplexity_1" in found[0][1].message


def test_a_dying_codebook_is_named_before_it_is_dead():
    assert names(after(15_000, perplexity_0=8.0)) == [("codebook_shrinking", "warning")]


def test_L1_the_advice_on_predictions_is_that_of_hubert():
    """A codebook it does not have: nothing about diversity weights or Gumbel temperatures."""
    found = findings(after(5000, prediction_perplexity=1.0), rules=Hubert.rules)
    assert [(step, item.name, item.severity) for step, item in found] == [(5000, "prediction_collapse", "collapse")]
    message = found[0][1].message
    assert message.startswith("prediction_perplexity is 1.00: the same unit is predicted")
    assert "units.json" in message
    assert not any(word in message.lower() for word in ("codebook", "diversity", "gumbel", "entry"))
    assert findings(after(5000, prediction_perplexity=1.0)) == []  # wav2vec 2.0 has no such metric


def test_L1_predictions_may_become_fewer_while_hubert_learns():
    curve = lambda step: {**healthy(step), "prediction_perplexity": 500.0 if step < 600 else 20.0}  # noqa: E731
    assert findings(curve, rules=Hubert.rules) == []


@pytest.mark.parametrize("masked", [0.05, 0.95])
def test_masks_that_are_off(masked):
    assert names(after(0, masked_fraction=masked)) == [("masked_fraction", "warning")]


def test_a_spike_of_the_gradient_is_reported_each_time():
    def spiky(step):
        return {**healthy(step), **({"grad_norm": 80.0} if step in {9000, 14_000} else {})}

    assert [(step, item.name) for step, item in findings(spiky)] == [
        (9000, "gradient_explosion"),
        (14_000, "gradient_explosion"),
    ]


def test_many_skipped_steps():
    assert names(lambda step: {**healthy(step), "skipped": step // 50}) == [("skipped_steps", "warning")]


def test_a_slow_loader_is_reported_when_it_lasts():
    assert names(after(9000, loader_wait=0.5)) == [("slow_loader", "warning")]
    assert names(lambda step: {**healthy(step), "loader_wait": 0.5 if step == 9000 else 0.01}) == []


def test_all_blank_that_lasts():
    found = findings(lambda step: {**healthy_ctc(step), "blank_fraction": 1.0}, chance={}, rules=CtcObjective.rules)
    assert [(step, item.name) for step, item in found] == [(6000, "ctc_all_blank")]
    assert "vocabulary" in found[0][1].message


def test_a_plateau_of_the_ctc_loss():
    found = names(lambda step: {**healthy_ctc(step), "loss": 250.0, "blank_fraction": 0.95}, rules=CtcObjective.rules)
    assert found == [("ctc_plateau", "warning")]


def test_a_converged_loss_is_no_plateau():
    curve = lambda step: {**healthy_ctc(step), "loss": 5.0, "blank_fraction": 0.7}  # noqa: E731
    assert names(curve, rules=CtcObjective.rules) == []


def test_nothing_recognised_by_half_time():
    found = findings(lambda step: {**healthy_ctc(step), "dev_wer": 1.0}, chance={}, rules=CtcObjective.rules)
    assert [(step, item.name) for step, item in found] == [(10_000, "ctc_no_words")]


def test_a_finding_that_ended_may_come_again():
    def curve(step):
        bad = 4000 <= step < 6000 or step >= 12_000
        return {**healthy(step), **({"perplexity_0": 1.0} if bad else {})}

    assert [step for step, _ in findings(curve)] == [4000, 12_000]


def test_values_that_are_no_numbers_are_passed_over():
    health = Health(CHANCE, TOTAL)
    assert health.watch(5000, {"contrastive": None, "perplexity_0": float("nan"), "phase": "train"}) == []


def test_frames_that_use_few_directions_are_found_whatever_the_objective_is():
    health = Health({}, 1000)
    ranks = {100: 131.0, 600: 60.0, 700: 12.0, 800: 30.0}
    found = {step: health.watch(step, {"valid_effective_rank": rank}) for step, rank in ranks.items()}
    assert [[each.name for each in new] for new in found.values()] == [[], [], ["few_directions"], []]
    assert "from 131 to 12.0" in found[700][0].message
    assert found[700][0].severity == "warning"
