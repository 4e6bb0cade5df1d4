"""Connectionist temporal classification in scalars (Graves et al. 2006, sections 3 and 4)."""

import itertools
import math


def log_add(a, b):
    """log(exp(a) + exp(b)), with -inf as zero."""
    if a == -math.inf:
        return b
    if b == -math.inf:
        return a
    top = max(a, b)
    return top + math.log(math.exp(a - top) + math.exp(b - top))


def loss(log_probs, targets, blank=0):
    """-log p(targets | log_probs [T][V]) by the forward recursion (equations 6 to 8); inf when no path fits."""
    extended = [blank]
    for target in targets:
        extended += [target, blank]
    alpha = [-math.inf] * len(extended)
    for t, frame in enumerate(log_probs):
        new = [-math.inf] * len(extended)
        for s, label in enumerate(extended):
            if t == 0:
                reached = 0.0 if s in (0, 1) else -math.inf
            else:
                reached = alpha[s]
                if s >= 1:
                    reached = log_add(reached, alpha[s - 1])
                if s >= 2 and label not in (blank, extended[s - 2]):
                    reached = log_add(reached, alpha[s - 2])
            new[s] = reached + frame[label]
        alpha = new
    final = alpha[-1] if len(extended) == 1 else log_add(alpha[-1], alpha[-2])
    return -final


def consistency(one, other):
    """Half the sum over frames of KL(other || one) + KL(one || other) of log probabilities [T][V] (CR-CTC)."""
    total = 0.0
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            total += (math.exp(y) * (y - x) + math.exp(x) * (x - y)) / 2
    return total


def conditioned(frame, log_probs, weight, bias):
    """A frame [D] plus the projection (weight [D][V], bias [D]) of its posteriors (Nozaki & Komatsu 2021)."""
    posteriors = [math.exp(value) for value in log_probs]
    return [
        value + sum(w * p for w, p in zip(row, posteriors, strict=True)) + b
        for value, row, b in zip(frame, weight, bias, strict=True)
    ]


def collapse(path, blank=0):
    """B(path): merge repeats, then remove blanks."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def labellings(log_probs, blank=0):
    """Every labelling with its total log probability, by enumeration of all V^T paths. Tiny inputs only."""
    totals = {}
    for path in itertools.product(range(len(log_probs[0])), repeat=len(log_probs)):
        score = math.fsum(frame[label] for frame, label in zip(log_probs, path, strict=True))
        labelling = collapse(path, blank)
        totals[labelling] = log_add(totals.get(labelling, -math.inf), score)
    return totals


def brute_force(log_probs, targets, blank=0):
    """-log p(targets) by enumeration."""
    return -labellings(log_probs, blank).get(tuple(targets), -math.inf)


def alignment_entropy(log_probs, targets, blank=0):
    """Entropy in nats of the paths that collapse to the targets, given these, by enumeration of all paths."""
    scores = [
        math.fsum(frame[label] for frame, label in zip(log_probs, path, strict=True))
        for path in itertools.product(range(len(log_probs[0])), repeat=len(log_probs))
        if collapse(path, blank) == tuple(targets)
    ]
    total = math.fsum(map(math.exp, scores))
    shares = [math.exp(score) / total for score in scores]
    return -math.fsum(share * math.log(share) for share in shares if share > 0)


def best_labelling(log_probs, blank=0):
    """The most probable labelling and its log probability, by enumeration."""
    totals = labellings(log_probs, blank)
    best = max(totals, key=totals.get)
    return best, totals[best]


def greedy(log_probs, blank=0):
    """Best path decoding (section 3.2)."""
    return collapse([max(range(len(frame)), key=frame.__getitem__) for frame in log_probs], blank)


def frames_needed(targets):
    """Fewest frames that can carry the labels: one each, and a blank between equal neighbours."""
    return len(targets) + sum(a == b for a, b in itertools.pairwise(targets))
