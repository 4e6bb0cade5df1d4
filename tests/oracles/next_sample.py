"""Next-sample prediction in scalars (WaveNet, arXiv 1609.03499, section 2.2, and ITU-T G.711's mu-law)."""

import math

from tests.oracles.wav2vec2 import log_sum_exp


def mu_law(x, classes):
    """Class of a sample: round((f(x) + 1) / 2 * mu), f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = classes - 1."""
    mu = classes - 1
    x = max(-1.0, min(1.0, x))
    f = math.copysign(math.log(1 + mu * abs(x)) / math.log(1 + mu), x)
    return math.floor((f + 1) / 2 * mu + 0.5)


def coming(wave, frame, hop, receptive, ahead, samples, every):
    """Samples that a frame predicts; None where the wave ends before the last of them."""
    last_seen = frame * hop + receptive - 1
    places = [last_seen + ahead + j * every for j in range(samples)]
    return [wave[place] for place in places] if places[-1] < len(wave) else None


def cross_entropy(logits, classes):
    """Sum of -log softmax at the class. logits: [N][V], classes: [N]. Returns (sum, correct)."""
    total = math.fsum(log_sum_exp(row) - row[each] for row, each in zip(logits, classes, strict=True))
    return total, sum(row[each] == max(row) for row, each in zip(logits, classes, strict=True))


def entropy(classes):
    """Entropy in nats of how often each class occurs."""
    shares = [classes.count(each) / len(classes) for each in set(classes)]
    return -math.fsum(share * math.log(share) for share in shares)
