"""Bits and keys of fingerprints from band powers written down by hand."""

import numpy as np
import pytest

from speechssl.data.audio.snr import FFT
from speechssl.data.audit.fingerprint import fingerprint, fingerprint_weights


def powers(frames=60, seed=1, level=1.0):
    return (level * np.random.default_rng(seed).uniform(0.01, 1, (frames, 33)) ** 3).astype(np.float32)


def test_bands_lie_within_a_telephone():
    weights = fingerprint_weights()
    assert weights.shape == (FFT // 2 + 1, 33)
    used = np.flatnonzero(weights.sum(axis=1)) * 16_000 / FFT
    assert used[0] >= 180 and used[-1] < 3_900


def test_a_word_is_the_sign_of_the_change_between_neighbouring_bands():
    power = np.ones((40, 33), np.float32)
    power[20:, 10] = 100.0  # one band grows: its difference to the band above rises, that to the band below falls
    found = fingerprint(power)
    assert len(found.words) == len(found.active) == 40 - 8 - 4 + 1
    assert found.words[0] == 0
    assert found.words[16] == 1 << 10
    assert found.words[-1] == 0


def test_gain_changes_nothing():
    loud, soft = fingerprint(powers()), fingerprint(powers(level=1e-3))
    assert np.bitwise_count(loud.words ^ soft.words).sum() <= 2
    assert (loud.active == soft.active).all()


def test_keys_are_those_of_active_frames_with_one_bit_turned():
    found = fingerprint(powers())
    keys = found.words[found.active] >> np.uint32(6) & np.uint32((1 << 24) - 1)
    count = len(keys)
    assert (found.keys[:count] == keys).all()
    assert (np.bitwise_count(found.keys[:count] ^ found.keys[count : 2 * count]) == 1).all()
    assert found.keys.max() < 1 << 24
    assert (found.times[:count] == np.flatnonzero(found.active)).all()


def test_silent_frames_are_no_evidence():
    power = powers()
    power[30:] = 0
    found = fingerprint(power)
    assert found.active[:20].all()
    assert not found.active[-20:].any()
    assert not len(fingerprint(np.zeros((60, 33), np.float32)).keys)


@pytest.mark.parametrize(("frames", "words"), [(0, 0), (12, 0), (13, 2)])
def test_the_shortest(frames, words):
    assert len(fingerprint(powers(frames)).words) == words


def test_thinning_keeps_equal_keys_together():
    whole, thin = fingerprint(powers(600)), fingerprint(powers(600), thin=3)
    assert 0.2 < len(thin.keys) / len(whole.keys) < 0.5
    assert set(thin.keys.tolist()).isdisjoint(set(whole.keys.tolist()) - set(thin.keys.tolist()))
    assert np.isin(whole.keys, thin.keys).sum() == len(thin.keys)
