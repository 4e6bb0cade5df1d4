"""Word errors by memoised recursion, and a bootstrap in plain loops."""

import functools
import random


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


def bootstrap(counts, resamples, seed, level=0.95):
    """Percentile interval of pooled error rate (Bisani and Ney 2004). counts: [(errors, words), ...]."""
    rng = random.Random(seed)
    rates = []
    for _ in range(resamples):
        drawn = [counts[rng.randrange(len(counts))] for _ in counts]
        words = sum(n for _, n in drawn)
        if words:
            rates.append(sum(e for e, _ in drawn) / words)
    rates.sort()
    tail = (1 - level) / 2
    return rates[int(tail * len(rates))], rates[min(len(rates) - 1, int((1 - tail) * len(rates)))]
