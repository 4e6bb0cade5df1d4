"""How clean a recording is: the estimate against noise of known strength, on signals made here and on real speech."""

import json

import numpy as np
import pytest

from speechssl.data.audio.decode import decode
from speechssl.data.audio.snr import FFT, HOP, bands, frame_power, snr_db
from tests.support.voices import voice


def noise(kind, samples, seed=0):
    wave = np.random.default_rng(seed).standard_normal(samples)
    if kind == "pink":
        spectrum = np.fft.rfft(wave)
        wave = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), samples / 320)), samples)
    return wave / np.sqrt(np.mean(wave**2))


def add_noise(wave, snr, kind="white", seed=0):
    """Noise ``snr`` dB below the louder half of the frames."""
    level = frame_power(wave).sum(axis=1)
    loud = level[level >= np.median(level)].mean()
    return (wave + noise(kind, len(wave), seed) * np.sqrt(loud / 10 ** (snr / 10))).astype(np.float32)


def test_frame_power_is_the_mean_square():
    wave = (0.1 * np.random.default_rng(1).standard_normal(16_000 * 20)).astype(np.float32)
    power = frame_power(wave)
    assert power.shape == ((len(wave) - FFT) // HOP + 1, FFT // 2 + 1)
    assert power.sum(axis=1).mean() == pytest.approx(0.01, rel=0.02)
    assert frame_power(wave[: FFT - 1]).shape == (0, FFT // 2 + 1)


@pytest.mark.parametrize(("count", "low", "high"), [(24, 100, 7800), (33, 200, 3800), (60, 0, 8000)])
def test_bands_are_neighbours_and_none_is_empty(count, low, high):
    weights = bands(count, low, high)
    assert weights.shape == (FFT // 2 + 1, count)
    assert (weights.sum(axis=0) >= 1).all()
    assert weights.sum(axis=1).max() == 1
    edges = np.argmax(weights, axis=0)
    assert (np.diff(edges) == weights.sum(axis=0)[:-1]).all()


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr", [30, 20, 10, 5])
def test_noise_of_known_strength(kind, snr):
    assert snr_db(add_noise(voice(6), snr, kind)) == pytest.approx(snr, abs=2.5)


def test_more_noise_reads_lower_and_gain_changes_nothing():
    clean = voice(5)
    values = [snr_db(add_noise(clean, snr)) for snr in (40, 25, 15, 8, 0)]
    assert values == sorted(values, reverse=True)
    noisy = add_noise(clean, 15)
    assert snr_db(0.05 * noisy) == pytest.approx(snr_db(noisy), abs=0.01)


def test_pure_noise_is_no_signal():
    assert snr_db(0.1 * noise("white", 64_000).astype(np.float32)) < 3


def test_nothing_to_measure():
    assert snr_db(np.zeros(64_000, np.float32)) is None
    assert snr_db(voice(0.25)) is None
    assert snr_db(np.zeros(0, np.float32)) is None


def test_gaps_of_digital_silence_are_not_the_noise():
    noisy = add_noise(voice(5), 15)
    gated = np.concatenate([noisy, np.zeros(48_000, np.float32)])
    assert snr_db(gated) == pytest.approx(snr_db(noisy), abs=1.0)


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="one channel"):
        snr_db(np.zeros((2, 16_000), np.float32))


@pytest.mark.shared_data
def test_real_speech(shared_data):
    """Clean read speech reads high; noise of known strength is found again within 2 dB."""
    lines = (shared_data / "libri_mini" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[::90]]
    waves = [decode(shared_data / "libri_mini" / row["audio"], item=row["id"]) for row in rows]
    clean = [snr_db(wave) for wave in waves]
    assert min(clean) > 20
    assert np.median(clean) > 35
    for wave, value in zip(waves, clean, strict=True):
        if value > 35:
            for snr in (20, 10):
                assert snr_db(add_noise(wave, snr)) == pytest.approx(snr, abs=2)
