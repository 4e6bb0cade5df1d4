"""Word errors by memoised recursion, and a bootstrap in plain loops."""

import functools
import math
import random

import scipy.stats


def distance(reference, hypothesis):
    """Levenshtein distance by recursion on suffixes."""

    @functools.cache
    def edits(i, j):
        if i == len(reference):
            return len(hypothesis) - j
        if j == len(hypothesis):
            return len(reference) - i
        if reference[i] == hypothesis[j]:
            return edits(i + 1, j + 1)
        return 1 + min(edits(i + 1, j + 1), edits(i + 1, j), edits(i, j + 1))

    return edits(0, 0)


def counts_are_minimal(reference, hypothesis, substitutions, deletions, insertions):
    """Whether counts are consistent with the lengths and add up to the least number of edits."""
    hits = len(reference) - substitutions - deletions
    return (
        min(hits, substitutions, deletions, insertions) >= 0
        and hits + substitutions + insertions == len(hypothesis)
        and substitutions + deletions + insertions == distance(tuple(reference), tuple(hypothesis))
    )


def ratio_and_deviation(units):
    """Pooled rate, and its standard error from the residuals of the units. units: [(errors, words), ...]."""
    words = sum(w for _, w in units)
    rate = sum(e for e, _ in units) / words
    squares = math.fsum((e - rate * w) ** 2 for e, w in units)
    return rate, math.sqrt(squares * len(units) / (len(units) - 1)) / words


def quantile(values, q):
    """Linear interpolation between order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def limits(units, draws, level=0.95):
    """The outer of studentised and expanded percentile limits, for given draws ([[row, ...], ...])."""
    rate, deviation = ratio_and_deviation(units)
    tail = (1 - level) / 2
    rates, scores = [], []
    for rows in draws:
        drawn = [units[row] for row in rows]
        if not sum(w for _, w in drawn):
            continue
        one, its = ratio_and_deviation(drawn)
        rates.append(one)
        scores.append((one - rate) / (its if its > 1e-12 else deviation))
    size = len(units)
    wider = scipy.stats.norm.cdf(scipy.stats.t.ppf(tail, size - 1) * math.sqrt(size / (size - 1)))
    low = min(rate - quantile(scores, 1 - tail) * deviation, quantile(rates, wider))
    high = max(rate - quantile(scores, tail) * deviation, quantile(rates, 1 - wider))
    return low, high


def bootstrap(counts, resamples, seed, level=0.95):
    """Interval of a pooled error rate with draws of its own (Bisani and Ney 2004). counts: [(errors, words), ...]."""
    rng = random.Random(seed)
    draws = [[rng.randrange(len(counts)) for _ in counts] for _ in range(resamples)]
    low, high = limits(counts, draws, level)
    return max(low, 0.0), high
