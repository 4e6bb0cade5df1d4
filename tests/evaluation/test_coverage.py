"""Do 95 % intervals hold the true rate in 95 % of test sets? 1,000 simulated sets of each kind, all seeded.

Utterance lengths vary, errors cluster (each utterance has an error probability of its own, drawn from a beta
distribution, and a fifth of the utterances have further insertions, so that errors may outnumber words), and speakers
differ. The true rate is the expected number of errors over the expected number of words.
"""

import numpy as np
import pytest

from speechssl.evaluation.bootstrap import bootstrap_wer, paired_bootstrap

SETS = 1000
INSERTIONS = 0.04
"""Insertions per reference word, on average: 0.2 in a fifth of the utterances."""


def lengths(rng, size):
    return np.minimum(rng.geometric(1 / 12, size), 60)


def errors_of(rng, words, probability):
    inserted = rng.poisson(5 * INSERTIONS * words * (rng.random(words.shape) < 0.2))
    return rng.binomial(words, probability) + inserted


def independent(rng, utterances, a, b):
    """[utterances, 2] errors and words; the true rate is a / (a + b) + INSERTIONS."""
    words = lengths(rng, utterances)
    return np.stack([errors_of(rng, words, rng.beta(a, b, utterances)), words], axis=1)


def by_speakers(rng, speakers):
    """(counts, speaker labels) of speakers with a rate (mean 1/6) and 10 to 40 utterances each."""
    labels = np.repeat(np.arange(speakers), rng.integers(10, 41, speakers))
    rate = rng.beta(2, 10, speakers)[labels]
    words = lengths(rng, len(labels))
    return np.stack([errors_of(rng, words, rng.beta(4 * rate, 4 * (1 - rate))), words], axis=1), labels


def coverage(intervals, true):
    low, high = np.array(intervals).T
    return float(np.mean((low <= true) & (true <= high)))


@pytest.mark.parametrize(("utterances", "a", "b"), [(50, 0.8, 5.0), (200, 0.8, 5.0), (150, 0.3, 13.0), (100, 2.0, 2.0)])
def test_intervals_over_utterances(utterances, a, b):
    """About 18 % and 6 % WER with errors in few utterances, and 54 % with errors in most."""
    rng = np.random.default_rng(1)
    sets = [independent(rng, utterances, a, b) for _ in range(SETS)]
    assert np.mean([np.any(counts[:, 0] > counts[:, 1]) for counts in sets]) > 0.01
    intervals = [bootstrap_wer(counts, n=400, seed=trial) for trial, counts in enumerate(sets)]
    held = coverage(intervals, a / (a + b) + INSERTIONS)
    print(f"coverage {held:.3f}")
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize("speakers", [8, 12, 40])
def test_intervals_over_speakers(speakers):
    rng = np.random.default_rng(2)
    whole, single = [], []
    for trial in range(SETS):
        counts, labels = by_speakers(rng, speakers)
        whole.append(bootstrap_wer(counts, n=400, seed=trial, block=labels))
        if trial < 200:
            single.append(bootstrap_wer(counts, n=200, seed=trial))
    true = 1 / 6 + INSERTIONS
    held = coverage(whole, true)
    print(f"coverage {held:.3f}")
    assert 0.93 <= held <= 0.97
    assert coverage(single, true) < 0.85, "speakers differ: drawing utterances alone is not enough"


def test_intervals_of_a_difference():
    """Two systems on the same utterances: b has a third of a's substitutions right, and no insertions."""
    rng = np.random.default_rng(3)
    intervals = []
    for trial in range(SETS):
        words = lengths(rng, 100)
        substituted = rng.binomial(words, rng.beta(0.8, 5, 100))
        inserted = rng.poisson(5 * INSERTIONS * words * (rng.random(100) < 0.2))
        a = np.stack([substituted + inserted, words], axis=1)
        b = np.stack([rng.binomial(substituted, 2 / 3), words], axis=1)
        paired = paired_bootstrap(a, b, n=400, seed=trial)
        intervals.append((paired.low, paired.high))
    held = coverage(intervals, -(0.8 / 5.8) / 3 - INSERTIONS)
    print(f"coverage {held:.3f}")
    assert 0.93 <= held <= 0.97
