"""The same recording twice, and what train and test share: recordings and speakers.

In: utterances with measurements. Out: findings, one for each recording that is not the first of its kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from speechssl.config.audit import AuditConfig
from speechssl.data.audit.checks import Finding
from speechssl.data.audit.duplicates import near_duplicates
from speechssl.data.audit.fingerprint import Fingerprint
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.text import labels
from speechssl.data.ingest.utterance import Utterance

__all__ = ["check_duplicates", "check_speakers"]

_SURE = 0.15
"""Share of differing bits below which two transcripts of the pair are a contradiction, not a resemblance."""
Pair = tuple[Utterance, Measurement]


def check_duplicates(pairs: Sequence[Pair], cfg: AuditConfig) -> Iterator[Finding]:
    """Yield recordings that are there again: the same samples, or the same sound after some change."""
    sounding = [
        (u, m)
        for u, m in pairs
        if not m.reason and m.activity is not None and max(m.activity.loud_db, *m.channel_db) > cfg.silent_db
    ]
    same: dict[str, list[Utterance]] = defaultdict(list)
    for u, m in sounding:
        same[m.digest].append(u)
    for copies in same.values():
        first = copies[0]
        for copy in copies[1:]:
            yield Finding("duplicate_audio", copy.id, copy.path, 0.0, 0.0, f"the samples of {first.id}", (first.id,))
            yield from _consequences(copy, first, "the same samples")
    once: dict[str, tuple[Utterance, Fingerprint]] = {}
    for u, m in sounding:
        if m.fingerprint is not None:
            once.setdefault(m.digest, (u, m.fingerprint))
    kept = list(once.values())
    matches = near_duplicates(
        [fingerprint for _, fingerprint in kept],
        most_errors=cfg.duplicate_errors,
        least_overlap=cfg.duplicate_overlap,
    )
    told: set[int] = set()
    for match in matches:
        a, b = kept[match.a][0], kept[match.b][0]
        if a.path == b.path and a.start != b.start:
            continue  # adjacent segments of one file may overlap by design
        detail = f"{a.id}, shifted by {match.shift:+.2f} s; {100 * match.errors:.0f} % of the bits differ"
        if match.b not in told:
            told.add(match.b)
            yield Finding("near_duplicate", b.id, b.path, round(match.errors, 3), cfg.duplicate_errors, detail, (a.id,))
        yield from _consequences(
            b, a, "one recording, changed", texts=match.errors < _SURE and match.length_ratio > 0.8
        )


def _consequences(copy: Utterance, first: Utterance, how: str, *, texts: bool = True) -> Iterator[Finding]:
    if copy.split and first.split and copy.split != first.split:
        detail = f"in {copy.split}; {first.id} is in {first.split} ({how})"
        yield Finding("leaked_audio", copy.id, copy.path, copy.split, first.split, detail, (first.id,))
    if texts and copy.text and first.text and labels(copy.text) != labels(first.text):
        detail = f"{copy.text[:60]!r}; {first.id} has {first.text[:60]!r}"
        yield Finding("conflicting_transcripts", copy.id, copy.path, None, None, detail, (first.id,))


def check_speakers(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    """Yield speakers that are heard in more than one split."""
    heard: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for u in utterances:
        if u.speaker and u.split:
            heard[u.speaker][u.split].append(u)
    for speaker in sorted(heard):
        splits = heard[speaker]
        if len(splits) > 1:
            detail = ", ".join(f"{len(us)} utterances in {split}" for split, us in sorted(splits.items()))
            fewest = min(splits.values(), key=len)
            others = tuple(u.id for u in fewest[:20])
            yield Finding("leaked_speaker", f"speaker {speaker}", fewest[0].path, len(splits), 1, detail, others)
