"""Fingerprints find a recording again after re-encoding, gain, trimming and shifts, and never take another for it."""

import numpy as np
import pytest

from speechssl.data.audio.snr import frame_power
from speechssl.data.audit.duplicates import compare, near_duplicates
from speechssl.data.audit.fingerprint import fingerprint, fingerprint_weights
from tests.support.planted import lossy

BOUNDS = {"most_errors": 0.25, "least_overlap": 0.5}


def babble(seconds, seed):
    """Noise whose bands come and go independently: no two are alike."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * 16_000)
    wave = np.zeros(samples)
    for low in range(200, 3_800, 150):
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        hertz = np.fft.rfftfreq(samples, 1 / 16_000)
        spectrum[(hertz < low) | (hertz > low + 150)] = 0
        points = np.arange(0, samples + 3_200, 3_200)
        wave += np.fft.irfft(spectrum, samples) * np.interp(
            np.arange(samples), points, rng.uniform(0, 1, len(points)) ** 2
        )
    return (0.05 * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


def printed(wave, **how):
    return fingerprint(frame_power(wave) @ fingerprint_weights(), **how)


@pytest.mark.parametrize(
    ("change", "shift"),
    [
        (lambda w: 0.05 * w, 0.0),
        (lambda w: lossy(w, "opus"), 0.0),
        (lambda w: lossy(w, "mp3"), 0.0),
        (lambda w: w[8_000:], -0.5),
        (lambda w: w[160:], -0.0),
        (lambda w: np.concatenate([np.zeros(4_960, np.float32), w]), 0.32),
    ],
)
def test_a_changed_copy_is_found_where_it_is(change, shift):
    original = babble(4, 1)
    prints = [printed(babble(4, seed)) for seed in (2, 3)] + [printed(original), printed(change(original))]
    (match,) = near_duplicates(prints, **BOUNDS)
    assert (match.a, match.b) == (2, 3)
    assert match.shift == pytest.approx(shift, abs=0.021)
    assert match.overlap > 0.8


def test_unrelated_recordings_differ_in_nearly_half_of_the_bits():
    prints = [printed(babble(5, seed)) for seed in range(8)]
    assert near_duplicates(prints, **BOUNDS) == []
    errors = [compare(a, b, 0)[0] for i, a in enumerate(prints) for b in prints[:i]]
    assert 0.4 < np.mean(errors) < 0.55


def test_an_excerpt_is_found_in_a_longer_recording():
    long = babble(8, 5)
    (match,) = near_duplicates([printed(long), printed(long[48_000:96_000])], **BOUNDS)
    assert match.shift == pytest.approx(-3.0, abs=0.021)
    assert match.length_ratio < 0.45


def test_a_thinned_index_keeps_the_same_keys_everywhere():
    whole, thin = printed(babble(6, 7)), printed(babble(6, 7), thin=4)
    assert set(thin.keys) < set(whole.keys)
    assert 0.1 < len(thin.keys) / len(whole.keys) < 0.45
    assert len(near_duplicates([thin, printed(0.3 * babble(6, 7), thin=4)], **BOUNDS)) == 1


def test_nothing_to_compare():
    empty = printed(np.zeros(1_000, np.float32))
    assert len(empty.words) == len(empty.keys) == 0
    assert near_duplicates([], **BOUNDS) == []
    assert near_duplicates([empty, empty], **BOUNDS) == []
    assert compare(empty, printed(babble(2, 1)), 0) == (1.0, 0.0)
    silent = printed(np.zeros(48_000, np.float32))
    assert near_duplicates([silent, silent], **BOUNDS) == []
