"""What is in a corpus: hours by split, speaker and source, and how its lengths, levels and characters are spread.

In: an `Audit`. Out: the summary of audit.json, a function of the audit alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from speechssl.data.audit.audit import Audit
from speechssl.data.audit.checks import CHECKS
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.text import alphabet, scripts
from speechssl.data.audit.text_against_audio import rates
from speechssl.data.ingest.utterance import Utterance

__all__ = ["census"]

Pair = tuple[Utterance, Measurement]
_LISTED = 50
_SHARES = (0, 5, 50, 95, 100)


def census(audit: Audit) -> dict[str, Any]:
    """Return the summary: counts, hours, distributions, alphabet, findings by check."""
    sound = [(u, m) for u, m in audit.pairs if not m.reason]
    texts = [u for u, _ in audit.pairs if u.text]
    rated = rates(sound)
    words = Counter(word for u in texts for word in (u.text or "").split())
    letters = alphabet(texts)
    found = Counter(finding.check for finding in audit.findings)
    return {
        "source": audit.inventory.source,
        "utterances": len(audit.pairs),
        "usable": len(sound),
        "hours": _hours(sound),
        "transcribed": len(texts),
        "speakers": len({u.speaker for u, _ in sound if u.speaker}),
        "splits": _groups(sound, lambda u: u.split or "(none)"),
        "by_speaker": _groups(sound, lambda u: u.speaker or "(unknown)"),
        "by_source": _groups(sound, _source),
        "sample_rates": _counted(m.sample_rate for _, m in sound),
        "channels": _counted(m.channels for _, m in sound),
        "formats": _counted(m.format for _, m in sound),
        "seconds": _spread([m.duration for _, m in sound]),
        "speech_share": _spread([m.activity.speech_share for _, m in sound if m.activity]),
        "snr_db": _spread([m.snr_db for _, m in sound if m.snr_db is not None]),
        "level_db": _spread([m.activity.loud_db for _, m in sound if m.activity]),
        "bandwidth_hz": _spread([_bandwidth(m) for _, m in sound]),
        "characters_per_second": _spread([rate for _, rate, _ in rated]),
        "words_per_second": _spread([rate for _, _, rate in rated]),
        "words": {"running": words.total(), "distinct": len(words), "once": sum(n == 1 for n in words.values())},
        "alphabet": dict(sorted(letters.items(), key=lambda entry: (-entry[1], entry[0]))),
        "scripts": dict(scripts("".join(letters.elements())).most_common()),
        "severities": audit.counts(),
        "checks": {check: found[check] for check in CHECKS if found[check]},
    }


def _bandwidth(m: Measurement) -> float:
    return m.bandwidth if m.bandwidth is not None else min(m.sample_rate, 16_000) / 2


def _hours(pairs: Sequence[Pair]) -> float:
    return round(sum(m.duration for _, m in pairs) / 3600, 6)


def _source(u: Utterance) -> str:
    named = u.meta.get("source")
    if isinstance(named, str) and named:
        return named
    parts = u.path.split("/")
    return parts[0] if len(parts) > 1 and parts[0] not in ("", ".", "..") else "(one folder)"


def _groups(pairs: Sequence[Pair], name: Callable[[Utterance], str]) -> dict[str, dict[str, float]]:
    """Return hours, utterances and speakers of each group, the largest first; beyond fifty the rest is one."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for u, m in pairs:
        groups[name(u)].append((u, m))
    ordered = sorted(groups.items(), key=lambda entry: (-sum(m.duration for _, m in entry[1]), entry[0]))
    rest = [pair for _, members in ordered[_LISTED:] for pair in members]
    listed = [*ordered[:_LISTED], *([(f"({len(ordered) - _LISTED} others)", rest)] if rest else [])]
    return {
        group: {
            "utterances": len(members),
            "hours": _hours(members),
            "transcribed": sum(u.text is not None for u, _ in members),
            "speakers": len({u.speaker for u, _ in members if u.speaker}),
        }
        for group, members in listed
    }


def _counted(values: Iterable[object]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, five percentiles and a histogram of at most forty bars."""
    if not values:
        return {}
    data = np.asarray(values, np.float64)
    low, high = float(data.min()), float(data.max())
    counts, edges = np.histogram(
        data, bins=min(40, max(5, round(len(data) ** 0.5))), range=(low, max(high, low + 0.01))
    )
    return {
        "mean": round(float(data.mean()), 4),
        **{f"p{share}": round(float(x), 4) for share, x in zip(_SHARES, np.percentile(data, _SHARES), strict=True)},
        "histogram": [[round(float(edges[i]), 4), round(float(edges[i + 1]), 4), int(n)] for i, n in enumerate(counts)],
    }
