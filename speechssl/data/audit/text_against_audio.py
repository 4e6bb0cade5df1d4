"""Whether a transcript can belong to its sound: too long for CTC, too much or too little text, two texts exchanged.

In: utterances with their measurements. Out: findings. Rates count seconds of sound, not of file, so that silence at
the edges makes no slow speaker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from speechssl.config.audit import AuditConfig
from speechssl.data.audit.checks import Finding
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.text import labels
from speechssl.data.ingest.utterance import Utterance

__all__ = ["check_pairing", "rates"]

_SHORTEST = 0.6
"""Seconds of sound below which a rate means little."""
_FEWEST = 8


def rates(pairs: Sequence[tuple[Utterance, Measurement]]) -> list[tuple[Utterance, float, float]]:
    """Return (utterance, characters a second, words a second) of the transcribed recordings that can be judged."""
    result = []
    for u, m in pairs:
        if u.text and m.activity is not None and m.activity.speech_seconds >= _SHORTEST:
            text = labels(u.text)
            if text:
                seconds = m.activity.speech_seconds
                result.append((u, len(text) / seconds, len(text.split()) / seconds))
    return result


def check_pairing(pairs: Sequence[tuple[Utterance, Measurement]], cfg: AuditConfig) -> Iterator[Finding]:
    """Yield transcripts that do not fit their sound."""
    for u, m in pairs:
        if u.text is None or m.reason:
            continue
        text = labels(u.text)
        if not text:
            if m.activity is not None and m.activity.loud_db > cfg.silent_db and m.activity.speech_seconds > 0.3:
                detail = f"{m.activity.speech_seconds:.1f} s of sound"
                yield Finding("empty_transcript", u.id, u.path, m.activity.speech_seconds, 0.3, detail)
            continue
        frames = max(0, (m.samples - cfg.receptive_samples) // cfg.frame_samples + 1)
        needed = len(text) + sum(a == b for a, b in pairwise(text))
        if frames < needed:
            detail = f"{needed} labels (repeats need a blank between) for {frames} frames"
            yield Finding("unalignable", u.id, u.path, needed, frames, detail)
    yield from _outliers(pairs, cfg)


def _outliers(pairs: Sequence[tuple[Utterance, Measurement]], cfg: AuditConfig) -> Iterator[Finding]:
    known = rates(pairs)
    if len(known) < _FEWEST:
        return
    logs = np.log([rate for _, rate, _ in known])
    middle = float(np.median(logs))
    # Short recordings vary more: the bound widens with the inverse root of the characters, and with the corpus' own.
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    found = []
    for (u, rate, words), log in zip(known, logs.tolist(), strict=True):
        bound = max(math.log(cfg.rate_ratio), 3.5 * spread) + 1.0 / math.sqrt(len(u.text or "x"))
        spelled = len((u.text or "").replace(" ", "")) < 2 * len((u.text or "").split())  # letters said as syllables
        if (abs(log - middle) > bound and not (spelled and log < middle)) or rate > cfg.max_chars_per_second:
            found.append((u, rate, words, log - middle, bound))
    for u, rate, words, distance, bound in found:
        fast = distance > 0 or rate > cfg.max_chars_per_second  # the median of the corpus may itself be too fast
        check = "fast_text" if fast else "slow_text"
        limit = min(math.exp(middle + bound), cfg.max_chars_per_second) if fast else math.exp(middle - bound)
        detail = f"{rate:.1f} characters ({words:.1f} words) a second of sound; the median is {math.exp(middle):.1f}"
        yield Finding(check, u.id, u.path, round(rate, 2), round(limit, 2), detail)
    seconds = {u.id: m.activity.speech_seconds for u, m in pairs if m.activity is not None}
    yield from _swaps([(u, distance) for u, _, _, distance, _ in found], seconds, middle)


def _swaps(found: Sequence[tuple[Utterance, float]], seconds: dict[str, float], middle: float) -> Iterator[Finding]:
    """Yield outliers that would be usual if they exchanged their texts: the best partner of each, mutual only."""
    fast = [u for u, distance in found if distance > 0]
    slow = [u for u, distance in found if distance < 0]

    def misfit(a: Utterance, b: Utterance) -> float:
        return max(abs(math.log(len(labels(y.text or "x")) / seconds[x.id]) - middle) for x, y in ((a, b), (b, a)))

    for a in fast:
        near = sorted((misfit(a, b), b.id) for b in slow)
        if near and near[0][0] < math.log(1.5):
            back = min((misfit(c, next(b for b in slow if b.id == near[0][1])), c.id) for c in fast)
            if back[1] == a.id:
                detail = f"their texts would fit if they were exchanged with {near[0][1]}"
                value = round(math.exp(near[0][0]), 3)
                yield Finding("mixed_up", a.id, a.path, value, 1.5, detail, (near[0][1],))
