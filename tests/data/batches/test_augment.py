"""Augmentation: keyed, of the right length and level, and nothing when nothing is asked for."""

import pickle

import numpy as np
import pytest

from speechssl.config import AugmentConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.augment import (
    Sounds,
    augmenter,
    band_limited,
    coloured_noise,
    simulated_room,
    with_noise,
    with_pitch,
    with_reverb,
    with_speed,
)
from tests.oracles import reconstruction as oracle
from tests.support.chirps import chirp

ALL = AugmentConfig(speeds=(0.9, 1.0, 1.1), gain_db=6.0, noise_snr_db=(5.0, 15.0), noise_prob=0.5)
WAVE = chirp(3, 2.0)


def test_nothing_asked_for_is_none():
    assert augmenter(AugmentConfig(), 1) is None
    assert augmenter(AugmentConfig(speeds=(1.0,)), 1) is None
    assert augmenter(AugmentConfig(noise_snr_db=(0.0, 1.0), noise_prob=0.0), 1) is None
    assert augmenter(AugmentConfig(reverb_prob=0.1), 1) is not None


def test_equal_keys_give_equal_audio_and_each_part_of_the_key_matters():
    augment = augmenter(ALL, 1)
    first = augment(WAVE, 3, "a")
    np.testing.assert_array_equal(first, pickle.loads(pickle.dumps(augment))(WAVE, 3, "a"))
    others = [augment(WAVE, 4, "a"), augment(WAVE, 3, "b"), augmenter(ALL, 2)(WAVE, 3, "a")]
    assert all(len(other) != len(first) or not np.array_equal(other, first) for other in others)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(WAVE, chirp(3, 2.0))


def test_every_speed_is_drawn_about_equally():
    augment = augmenter(AugmentConfig(speeds=(0.9, 1.0, 1.1)), 1)
    lengths = [len(augment(WAVE[:1600], epoch, "a")) for epoch in range(300)]
    counts = np.unique(lengths, return_counts=True)
    assert counts[0].tolist() == pytest.approx([1455, 1600, 1778], abs=1)
    assert counts[1].min() > 70


def test_speed_moves_pitch_and_length():
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    faster = with_speed(tone, 1.25)
    assert len(faster) == 12_800
    peak = np.abs(np.fft.rfft(faster)).argmax() * 16_000 / len(faster)
    assert peak == pytest.approx(1250, abs=3)


@pytest.mark.parametrize("factor", [1.25, 0.8])
def test_pitch_moves_frequencies_and_nothing_in_time(factor):
    time = np.arange(16_001) / 16_000
    tone = (np.sin(2 * np.pi * 1000 * time) * (time > 0.5)).astype(np.float32)
    shifted = with_pitch(tone, factor)
    assert (len(shifted), shifted.dtype) == (16_001, np.float32)
    peak = np.abs(np.fft.rfft(shifted)).argmax() * 16_000 / len(shifted)
    assert peak == pytest.approx(1000 * factor, abs=5)
    assert np.flatnonzero(np.abs(shifted) > 0.5)[0] / 16_000 == pytest.approx(0.5, abs=0.07)  # half a window


def test_gain_stays_within_its_bounds():
    augment = augmenter(AugmentConfig(gain_db=6.0), 1)
    gains = [20 * np.log10(np.abs(augment(WAVE, epoch, "a")).max() / np.abs(WAVE).max()) for epoch in range(200)]
    assert -6.01 < min(gains) < -5
    assert 5 < max(gains) < 6.01


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_has_the_asked_level(snr_db):
    noise = coloured_noise(len(WAVE), 0.5, np.random.Generator(np.random.PCG64(1)))
    added = with_noise(WAVE, noise, snr_db) - WAVE
    assert 10 * np.log10(np.mean(WAVE**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)


def test_noise_is_drawn_as_often_and_as_loud_as_asked():
    augment = augmenter(AugmentConfig(noise_snr_db=(5.0, 15.0), noise_prob=0.5), 1)
    added = [augment(WAVE, epoch, "a") - WAVE for epoch in range(200)]
    ratios = [10 * np.log10(np.mean(WAVE**2) / np.mean(noise**2)) for noise in added if noise.any()]
    assert 70 < len(ratios) < 130
    assert 4.9 < min(ratios) < 6.5
    assert 13.5 < max(ratios) < 15.1


def test_pink_noise_falls_by_three_decibels_an_octave():
    noise = coloured_noise(1 << 18, 1.0, np.random.Generator(np.random.PCG64(1)))
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [10 * np.log10(power[1 << i : 2 << i].mean()) for i in range(8, 16)]
    np.testing.assert_allclose(np.diff(octaves), -3.01, atol=0.5)
    white = np.abs(np.fft.rfft(coloured_noise(1 << 16, 0.0, np.random.Generator(np.random.PCG64(1))))) ** 2
    assert 10 * np.log10(white[:8192].mean() / white[16384:24576].mean()) == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("samples", [1, 60, 61])
@pytest.mark.parametrize("cutoff_hz", [10.0, 3000.0, 7999.0, 8000.0])
def test_band_limits_are_those_of_a_fourier_series(samples, cutoff_hz):
    wave = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    expected = oracle.band_limited(wave.tolist(), cutoff_hz, 16_000)
    assert band_limited(wave, cutoff_hz).tolist() == pytest.approx(expected, abs=1e-6)
    assert np.allclose(expected, wave, atol=1e-6) == (
        cutoff_hz == 8000 or samples == 1 or (samples, cutoff_hz) == (61, 7999)
    )


def test_silence_and_single_samples_stay_finite():
    augment = augmenter(AugmentConfig(noise_snr_db=(0.0, 0.0), noise_prob=1.0, gain_db=3.0), 1)
    assert not augment(np.zeros(100, np.float32), 0, "a").any()
    assert np.isfinite(augment(np.ones(1, np.float32), 0, "a")).all()


@pytest.mark.parametrize(
    "cfg",
    [
        AugmentConfig(speeds=(0.1,)),
        AugmentConfig(gain_db=-1.0),
        AugmentConfig(noise_snr_db=(9.0, 1.0)),
        AugmentConfig(noise_snr_db=(0.0, 1.0), noise_prob=2.0),
        AugmentConfig(reverb_prob=-0.1),
    ],
)
def test_impossible_settings_are_refused(cfg):
    with pytest.raises(ConfigError, match="augment"):
        augmenter(cfg, 1)


def test_a_room_delays_nothing_keeps_the_power_and_blurs():
    augment = augmenter(AugmentConfig(reverb_prob=0.5), 1)
    heard = [augment(WAVE, epoch, "a") for epoch in range(60)]
    changed = [wave for wave in heard if not np.array_equal(wave, WAVE)]
    assert 15 < len(changed) < 45
    for wave in changed:
        assert wave.dtype == np.float32 and len(wave) == len(WAVE)
        assert np.mean(wave**2) == pytest.approx(np.mean(WAVE**2), rel=1e-4)
        assert np.corrcoef(wave, WAVE)[0, 1] > 0.6  # the direct sound is half of the power or more
    assert not augmenter(AugmentConfig(reverb_prob=1.0), 1)(np.zeros(100, np.float32), 0, "a").any()


@pytest.mark.parametrize("samples", [1, 2, 50, 300])
def test_a_room_is_a_convolution_from_the_direct_sound_on(samples):
    random = np.random.default_rng(0)
    wave, response = random.normal(size=samples).astype(np.float32), random.normal(size=40).astype(np.float32)
    response[7] = -5.0
    expected = np.convolve(wave, response[7:])[:samples]
    expected *= np.sqrt(np.mean(wave**2) / np.mean(expected**2))
    np.testing.assert_allclose(with_reverb(wave, response), expected, atol=1e-5)


def test_simulated_rooms_decay_by_60_decibels_in_their_reverberation_time():
    """The energy decay curve (Schroeder 1965) of a response falls in a straight line."""
    times, levels = [], []
    for seed in range(60):
        response = simulated_room(np.random.default_rng(seed)).astype(float)
        levels.append(-10 * np.log10(np.sum(response[1:] ** 2)))
        decay = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1] / np.sum(response[1:] ** 2))
        fifth, fifteenth, last = (int(np.argmax(decay < level)) for level in (-5, -15, -25))
        assert fifteenth - fifth == pytest.approx(last - fifteenth, rel=0.25)
        times.append(3 * (last - fifth) / 16_000)
        assert times[-1] == pytest.approx(len(response) / 16_000, rel=0.15)
    assert 0.08 < min(times) < 0.2 and 0.7 < max(times) < 0.9
    assert 0 < min(levels) < 2 and 10 < max(levels) < 12.01


@pytest.mark.parametrize("samples", [1, 1023, 1025, 12_301])
def test_quick_noise_has_unit_power_and_the_same_colour(samples):
    noise = Sounds(quick=True).noise(samples, 1.0, np.random.default_rng(0))
    assert noise.shape == (samples,) and noise.dtype == np.float32
    assert np.mean(noise.astype(float) ** 2) == pytest.approx(1, rel=1e-6)
    if samples > 10_000:
        power = np.abs(np.fft.rfft(noise)) ** 2
        octaves = [10 * np.log10(power[1 << i : 2 << i].mean()) for i in range(6, 12)]
        np.testing.assert_allclose(np.diff(octaves), -3.01, atol=1)


def test_the_made_noise_is_what_it_was_before_there_were_folders():
    augment = augmenter(AugmentConfig(noise_snr_db=(0.0, 0.0), noise_prob=1.0), 1)
    random = generator("noise", 1, 3, "a")
    random.random(), random.uniform(0.0, 0.0)
    expected = with_noise(WAVE, coloured_noise(len(WAVE), random.random(), random), 0.0)
    np.testing.assert_array_equal(augment(WAVE, 3, "a"), expected)
