"""Tolerance: an accident passes, a fault stops."""

import pytest

from speechssl.core.errors import DataError
from speechssl.core.tolerance import Tolerance


def test_a_window_of_one_thousand():
    tolerance = Tolerance(0.01, what="batches")
    for _ in range(30):  # ten bad in each thousand, for thirty thousand
        for i in range(10):
            tolerance.bad(f"reason_{i % 2}")
        tolerance.good(990)
    tolerance.bad("reason_0")
    with pytest.raises(DataError, match=r"^batches: 11 of the last 1000 .*\(reason_0: 161, reason_1: 150\).*max_bad_f"):
        for _ in range(11):
            tolerance.bad("reason_0")
    assert tolerance.seen == 30_011


def test_one_hundred_in_a_row_whatever_the_share():
    tolerance = Tolerance(0.5, what="x")
    for _ in range(99):
        tolerance.bad("a")
    tolerance.good()
    for _ in range(99):
        tolerance.bad("b")
    with pytest.raises(DataError, match=r"100 utterances in a row could not be read \(b: 100, a: 99\)"):
        tolerance.bad("b")


@pytest.mark.parametrize(("bad", "good", "fraction", "stops"), [
    (0, 0, 0.01, False), (1, 0, 0.01, True), (1, 1, 0.01, True), (1, 3, 0.01, False), (5, 5, 0.6, False),
    (6, 4, 0.6, True), (3, 1, 1.0, False), (3, 0, 1.0, True),
])  # fmt: skip
def test_the_end_of_a_small_corpus(bad, good, fraction, stops):
    tolerance = Tolerance(fraction, what="x")
    for _ in range(bad):
        tolerance.bad("a")
    tolerance.good(good)
    if stops:
        with pytest.raises(DataError, match=f"{bad} of {bad + good}"):
            tolerance.finish()
    else:
        tolerance.finish()


def test_a_fraction_of_one_turns_every_check_off():
    tolerance = Tolerance(1.0, what="x")
    for _ in range(2_000):
        tolerance.bad("a")
    assert tolerance.reasons["a"] == 2_000
