"""Scores pooled over seeds, and differences between systems that were trained with several."""

import numpy as np
import pytest

from speechssl.core.errors import DataError
from speechssl.core.randomness import generator
from speechssl.evaluation.bootstrap import bootstrap_wer
from speechssl.evaluation.compare.seeds import character_rate, difference, word_rate
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.wer import compare_systems

WORDS = ("one", "two", "three", "four", "five")


def system(name, share, utterances=40):
    """Return scored rows whose words are wrong with a probability."""
    rows = []
    for number in range(utterances):
        rng, said = generator("said", number), generator(name, number)
        ref = rng.choice(WORDS, size=int(rng.integers(1, 8))).tolist()
        hyp = ["no" if said.random() < share else word for word in ref]
        rows.append(score_row(f"u{number:03d}", " ".join(ref), " ".join(hyp)))
    return rows


def counted(rows):
    return sum(row["S"] + row["D"] + row["I"] for row in rows), sum(row["N"] for row in rows)


def test_the_rate_over_seeds_sums_errors_and_words_and_the_rates_by_seed_stand_beside_it():
    seeds = [system("a", 0.3), system("b", 0.5)]
    rate = word_rate(seeds, n=200, seed=1)
    (wrong, words), (wrong2, words2) = map(counted, seeds)
    assert rate.value == pytest.approx((wrong + wrong2) / (words + words2))
    assert rate.seeds == pytest.approx((wrong / words, wrong2 / words2))
    assert rate.low < rate.value < rate.high


def test_a_second_seed_with_the_same_errors_makes_no_interval_narrower():
    rows = system("a", 0.3)
    once, twice = word_rate([rows], n=200, seed=1), word_rate([rows, rows], n=200, seed=1)
    table = np.array([(row["S"] + row["D"] + row["I"], row["N"]) for row in rows])
    assert (once.low, once.high) == bootstrap_wer(table, n=200, seed=1)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


def test_characters_are_counted_with_the_spaces_between_words():
    rate = character_rate([[score_row("a", "ab cd", "ab cx"), score_row("b", "ef", "")]], n=50, seed=1)
    assert rate.value == pytest.approx((1 + 2) / (5 + 2))
    assert word_rate([[score_row("a", "", "x")]], n=50, seed=1).value is None


def test_the_difference_of_one_seed_is_that_of_two_systems_and_of_two_the_mean():
    a, b, c = system("a", 0.5), system("b", 0.3), system("c", 0.4)
    one = difference([a], [b], n=200, seed=1)
    assert one == compare_systems(a, b, n=200, seed=1)
    both = difference([a, a], [b, c], n=200, seed=1)
    assert both.difference == pytest.approx((one.difference + difference([a], [c], n=200, seed=1).difference) / 2)
    assert difference([a, b], [b, a], n=200, seed=1).difference == pytest.approx(0)


def test_other_utterances_are_refused():
    with pytest.raises(DataError):
        difference([system("a", 0.5)], [system("b", 0.3)[1:]], n=20, seed=1)
