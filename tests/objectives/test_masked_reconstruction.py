"""Masked reconstruction against its scalar oracle; hidden channels; broken versions that the health rules name."""

from dataclasses import replace
from itertools import repeat

import pytest
import torch

from speechssl.core.errors import ConfigError
from tests.objectives.test_contract import LENGTHS, gradients
from tests.oracles import reconstruction as oracle
from tests.support.logmel import expected_speech
from tests.support.objectives import MODEL, STEMS, build, findings, fit, make_batch

LOGMEL = replace(MODEL, frontend=STEMS["logmel"])
KIND = "masked_reconstruction"


@pytest.mark.parametrize(("stem", "channels"), [("group", 0), ("layer", 0), ("logmel", 0), ("logmel", 12)])
def test_loss_equals_the_scalar_oracle(stem, channels):
    objective = build(KIND, model=replace(MODEL, frontend=STEMS[stem]), n_mels=20, channels=channels).double().eval()
    prepared = objective.prepare(make_batch([16_000, 9_000]))
    blocks = torch.zeros(2, 20, dtype=torch.bool) if prepared.channels is None else prepared.channels
    with torch.no_grad():
        loss = objective(prepared)
        hide = blocks.repeat(1, 2) if channels else None
        output = objective.encoder(prepared.batch.wave, prepared.lengths, mask=prepared.mask, feature_mask=hide)
        predicted = objective.head(output.x)
    total, baseline, count, spreads = 0.0, 0.0, 0, ([], [])
    for row, length in enumerate([16_000, 9_000]):
        speech = expected_speech(objective.encoder, prepared.batch.wave[row, :length].numpy(), 20)
        frames = len(speech)
        hidden = oracle.hidden_values(prepared.mask[row, :frames].tolist(), blocks[row].tolist(), 2)
        predictions = predicted[row, :frames].tolist()
        parts = oracle.l1(predictions, speech, hidden)
        total, baseline, count = total + parts[0], baseline + parts[1], count + parts[2]
        for place, values in enumerate((predictions, speech)):
            spreads[place].extend(frame for frame, hides in zip(values, hidden, strict=True) if any(hides))
    assert count == loss.n_targets > 40 * 30
    assert bool(blocks.any()) == (channels > 0)
    assert loss.sum.item() == pytest.approx(total, rel=1e-6)  # window and filters are kept in float32
    assert loss.metrics["l1"].item() == pytest.approx(total / count, rel=1e-6)
    assert loss.metrics["relative_loss"].item() == pytest.approx(total / baseline, rel=1e-6)
    spread = oracle.spread(spreads[0]) / oracle.spread(spreads[1])
    assert loss.metrics["prediction_spread"].item() == pytest.approx(spread, rel=1e-6)


def test_the_oracle_by_hand():
    hidden = oracle.hidden_values([True, False], [0, 1], stack=2)
    assert hidden == [[1, 1, 1, 1], [0, 1, 0, 1]]
    speech, predicted = [[1.0, -2.0, 0.0, 1.0], [9.0, 3.0, 9.0, -1.0]], [[0.0] * 4, [0.0, 1.0, 0.0, 1.0]]
    assert oracle.l1(predicted, speech, hidden) == (4.0 + 2.0 + 2.0, 4.0 + 4.0, 6)
    assert oracle.spread([[1.0, 5.0], [3.0, 5.0]]) == pytest.approx(0.5)


def test_predicting_the_mean_is_the_level_of_chance():
    objective = build(KIND, model=LOGMEL, n_mels=20, channels=8).double()
    for value in objective.head.predict.parameters():
        value.data.zero_()
    metrics = objective(objective.prepare(make_batch(LENGTHS))).metrics
    assert metrics["relative_loss"].item() == pytest.approx(objective.chance["relative_loss"])
    assert 0.7 < metrics["l1"].item() < 0.9  # sqrt(2 / pi) for a normal distribution
    assert metrics["prediction_spread"].item() == 0


def test_padding_neighbours_and_accumulation_change_nothing_with_hidden_channels():
    objective = build(KIND, model=LOGMEL, n_mels=20, channels=12).double().eval()
    together = gradients(objective, make_batch(LENGTHS))
    padded = gradients(objective, make_batch(LENGTHS, total=20_000))
    alone = gradients(objective, *(make_batch([n], ids=(f"u{i}",)) for i, n in enumerate(LENGTHS)))
    for total, targets, found in (padded, alone):
        assert targets == together[1]
        assert total == pytest.approx(together[0], rel=1e-9)
        for name, value in found.items():
            torch.testing.assert_close(value, together[2][name], rtol=1e-6, atol=1e-9, msg=name)
    weightless = gradients(objective, make_batch([16_000, 16_000], weights=[1.0, 0.0]))
    assert weightless[:2] == pytest.approx(gradients(objective, make_batch([16_000]))[:2])


def test_hidden_channels_are_not_shown_and_a_short_utterance_has_them_too():
    objective = build(KIND, model=LOGMEL, n_mels=20, channels=12).double().eval()
    prepared = objective.prepare(make_batch([1_200, 1_200], ids=("u1", "u2")))
    assert not prepared.mask.any()  # too short for a span
    block = prepared.channels[0]
    assert 0 < int(block.sum()) <= 12
    assert prepared.n_targets == 2 * 3 * int(prepared.channels.sum())  # 2 frames of 10 ms in each of 3 frames
    features = objective.encoder.features(prepared.batch.wave)
    features[:1, :, block.repeat(2)] = 99.0
    same = objective.encoder.context(
        objective.encoder.project(features.masked_fill(prepared.channels.repeat(1, 2)[:, None], 0.0))
    )
    shown = objective.encoder(prepared.batch.wave, feature_mask=prepared.channels.repeat(1, 2))
    torch.testing.assert_close(same.x, shown.x)


@pytest.mark.parametrize(
    ("stem", "changes", "message"),
    [
        ("group", {"channels": 4}, "a waveform stem has not"),
        ("logmel", {"channels": 4, "n_mels": 40}, "the stem shows 20 channels"),
        ("logmel", {"channels": 20, "n_mels": 20}, "hide 0 to 19 of 20"),
        ("logmel", {"channels": -1, "n_mels": 20}, "hide 0 to 19 of 20"),
    ],
)
def test_channels_that_cannot_be_hidden_are_refused(stem, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(KIND, model=replace(MODEL, frontend=STEMS[stem]), **changes)


# ----------------------------------------------------------------------------------------- broken versions


def fitted(objective):
    """Fit one batch of noise in 40 updates; return what the health rules find then, by name."""
    batch = make_batch([16_000] * 4, ids=("u0", "u1", "u2", "u3"))
    return findings(objective, fit(objective, repeat(replace(batch, wave=batch.wave.float()), 41), 1e-2))


def small():
    cfg = replace(MODEL.encoder, dim=64, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, norm="pre")
    return build(KIND, model=replace(LOGMEL, encoder=cfg), n_mels=20)


def test_a_sound_version_is_named_for_nothing():
    assert fitted(small()) == set()


def test_targets_that_leak_through_the_mask_are_named(monkeypatch):
    objective = small()
    sound = objective.encoder.forward

    def leaky(wave, lengths, *, mask, **options):
        return sound(wave, lengths, **options)

    monkeypatch.setattr(objective.encoder, "forward", leaky)
    assert fitted(objective) == {"target_leak"}


def test_a_head_that_predicts_one_spectrum_is_named():
    objective = small()
    objective.head.predict.weight.requires_grad_(False).zero_()  # its bias alone is left
    assert fitted(objective) == {"prediction_collapse", "not_learning"}
