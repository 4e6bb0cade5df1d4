"""The denoising autoencoder against its scalar oracle; what is added to speech; broken versions that are named."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.augment import (
    Sounds,
    band_limited,
    coloured_noise,
    simulated_room,
    with_noise,
    with_reverb,
)
from tests.oracles import reconstruction as oracle
from tests.support.logmel import expected_speech
from tests.support.objectives import MODEL, STEMS, build, findings, make_batch


@pytest.mark.parametrize("stem", STEMS)
def test_loss_equals_the_scalar_oracle(stem):
    objective = build("denoise", model=replace(MODEL, frontend=STEMS[stem]), n_mels=20).double().eval()
    prepared = objective.prepare(make_batch([16_000, 9_000, 9_000], weights=[1.0, 1.0, 0.0]))
    with torch.no_grad():
        loss = objective(prepared)
        predicted = objective.head(objective.encoder(prepared.noisy, prepared.lengths).x)
    total, copied, baseline, count, spreads = 0.0, 0.0, 0.0, 0, ([], [])
    for row, length in enumerate([16_000, 9_000]):
        clean, heard = (
            expected_speech(objective.encoder, wave[row, :length].numpy(), 20)
            for wave in (prepared.batch.wave, prepared.noisy)
        )
        everything = [[1] * 40] * len(clean)
        predictions = predicted[row, : len(clean)].tolist()
        parts = oracle.l1(predictions, clean, everything)
        total, baseline, count = total + parts[0], baseline + parts[1], count + parts[2]
        copied += oracle.l1(heard, clean, everything)[0]
        spreads[0].extend(predictions)
        spreads[1].extend(clean)
    assert count == loss.n_targets == 40 * sum(objective.encoder.frames(n) for n in (16_000, 9_000))
    assert loss.sum.item() == pytest.approx(total, rel=1e-6)  # window and filters are kept in float32
    assert loss.metrics["relative_loss"].item() == pytest.approx(total / baseline, rel=1e-6)
    assert loss.metrics["input_error"].item() == pytest.approx(copied / baseline, rel=1e-3)  # rounding above cut-off
    assert 0.1 < copied / baseline < 2
    spread = oracle.spread(spreads[0]) / oracle.spread(spreads[1])
    assert loss.metrics["prediction_spread"].item() == pytest.approx(spread, rel=1e-6)


def test_noise_has_the_asked_level_and_nothing_is_left_above_the_cut_off():
    wave = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    whole = build("denoise", snr_db=(10.0, 10.0), band_hz=(8000.0, 8000.0)).preparer()
    for item in "abc":
        noise = whole.corrupted(wave, 0, item) - wave
        assert 10 * math.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.01)
    low = build("denoise", band_hz=(1000.0, 4000.0)).preparer()
    edges = []
    for item in map(str, range(200)):
        power = np.abs(np.fft.rfft(low.corrupted(wave, 0, item))) ** 2
        edges.append(int(np.flatnonzero(power > 1e-6 * power.max())[-1]))  # in hertz: the wave lasts a second
    assert min(edges) >= 990 and max(edges) <= 4000
    assert np.median(edges) == pytest.approx(2000, rel=0.15)  # its logarithm is uniform


def test_rooms_come_first_and_noise_from_where_sounds_says():
    wave = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    dry, wet = (build("denoise", reverb_prob=prob) for prob in (0.0, 1.0))
    rooms, random = generator("reverb", 3, 0, "a"), generator("denoise", 3, 0, "a")
    rooms.random()
    slope, snr_db, place = 2 * random.random(), random.uniform(0.0, 20.0), random.random()
    noisy = with_noise(with_reverb(wave, simulated_room(rooms)), coloured_noise(16_000, slope, random), snr_db)
    np.testing.assert_array_equal(wet.preparer().corrupted(wave, 0, "a"), band_limited(noisy, 1000 * 8**place))

    class Ones(Sounds):
        def noise(self, samples, slope, random):
            return np.ones(samples, np.float32)

    dry.sounds = Ones()
    added = dry.preparer().corrupted(wave, 0, "a") - band_limited(wave, 1000 * 8**place)
    np.testing.assert_allclose(added, added[0], atol=1e-5)


def test_int16_batches_give_float_copies_and_keep_the_clean_samples():
    batch = make_batch([16_000, 9_000])
    samples = (batch.wave * 3000).clamp(-32768, 32767).to(torch.int16)
    prepared = build("denoise").prepare(replace(batch, wave=samples))
    assert prepared.noisy.dtype == torch.float32
    assert prepared.batch.wave is samples and torch.equal(samples, (batch.wave * 3000).clamp(-32768, 32767).short())
    assert not prepared.noisy[1, 9_000:].any()
    again = build("denoise").prepare(replace(batch, wave=samples.float() / 32768))
    assert torch.equal(prepared.noisy, again.noisy)


@pytest.mark.parametrize(
    "changes",
    [{"snr_db": (20.0, 0.0)}, {"band_hz": (4000.0, 1000.0)}, {"band_hz": (0.0, 8000.0)}, {"reverb_prob": 2}],
)
def test_impossible_ranges_are_refused(changes):
    with pytest.raises(ConfigError, match="lower bound first"):
        build("denoise", **changes)


# ----------------------------------------------------------------------------------------- broken versions


def judged(objective):
    batch = make_batch([16_000, 9_000])
    return findings(objective, objective(objective.prepare(replace(batch, wave=batch.wave.float()))))


def test_a_sound_version_that_has_learnt_nothing_is_named_for_that_alone():
    objective = build("denoise")
    torch.nn.init.normal_(objective.head.predict.weight, std=0.1)
    assert judged(objective) == {"not_learning"}


def test_noise_that_is_never_added_is_named(monkeypatch):
    objective = build("denoise")
    torch.nn.init.normal_(objective.head.predict.weight, std=0.1)
    monkeypatch.setattr(type(objective.preparer()), "corrupted", lambda self, wave, epoch, item: wave)
    assert judged(objective) == {"not_learning", "clean_input"}


def test_a_head_that_predicts_one_spectrum_is_named():
    objective = build("denoise")
    torch.nn.init.zeros_(objective.head.predict.weight)
    assert judged(objective) == {"not_learning", "prediction_collapse"}
