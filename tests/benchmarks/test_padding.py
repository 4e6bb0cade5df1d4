"""benchmarks.padding: its shares against sums by hand."""

import numpy as np
import pytest

from benchmarks import padding
from tests.data.batches.test_plan import corpus_of


def test_shares_are_those_of_the_batches():
    corpus = corpus_of([1.0, 1.0, 2.0, 3.0, 4.0, 4.0])
    found = padding.shares(corpus)
    assert found["utterances"] == 6
    assert found["minutes"] == 0.2  # 15 s
    # 12 s hold three rows of 4 s (4 + 4 + 3) and four of 2 s (2 + 1 + 1): 11 of 12 and 4 of 6 seconds are useful.
    assert found["batches of 12 s"]["sorted"] == pytest.approx(15 / 18, abs=1e-3)
    assert found["batches of 200 s"]["sorted"] == pytest.approx(15 / 24, abs=1e-3)  # one batch of six rows of 4 s
    assert found["batches of 200 s"]["random order"] == pytest.approx(15 / 24, abs=1e-3)


def test_random_order_counts_what_it_pads():
    lengths = np.array([16_000, 32_000])
    assert padding.in_random_order(lengths, 64_000) == pytest.approx(3 / 4)  # together: two rows of 2 s
    assert padding.in_random_order(lengths, 40_000) == 1  # each alone
