"""Which recordings of one set are there again in another: the same samples, or the same sound after some change.

In: waveforms of both sets. Out: ids of the second set, each with the recording that it copies. The second set is read
once and may be of any size; of the first, fingerprints are kept.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from speechssl.config.audit import AuditConfig
from speechssl.data.audio.snr import frame_power
from speechssl.data.audit.duplicates import near_duplicates
from speechssl.data.audit.fingerprint import Fingerprint, fingerprint, fingerprint_weights

__all__ = ["copies"]

TOGETHER = 512
"""Recordings of the second set that are compared at a time."""
Heard = Iterable[tuple[str, np.ndarray]]
"""Ids and waveforms, float32 [T] at 16 kHz with full scale 1."""


def copies(held: Heard, others: Heard, cfg: AuditConfig | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield (id of ``others``, id of ``held``, how much they differ) for each recording of ``others`` that is a copy.

    Limits are those of ``speechssl audit``. Silence has no copies.
    """
    cfg = cfg or AuditConfig()
    names, prints, digests = [], [], dict[bytes, str]()
    for name, wave in held:
        if wave.any():
            digests.setdefault(_digest(wave), name)
            names.append(name)
            prints.append(_print(wave))
    rest, first = iter(others), len(prints)
    while part := list(islice(rest, TOGETHER)):
        matches = near_duplicates(
            [*prints, *(_print(wave) for _, wave in part)],
            most_errors=cfg.duplicate_errors,
            least_overlap=cfg.duplicate_overlap,
        )
        nearest: dict[int, tuple[float, str]] = {}
        for match in matches:
            if match.a < first <= match.b:
                found = (match.errors, names[match.a])
                nearest[match.b - first] = min(nearest.get(match.b - first, found), found)
        for place, (name, wave) in enumerate(part):
            if (same := digests.get(_digest(wave))) is not None:
                yield name, same, "the same samples"
            elif place in nearest:
                errors, original = nearest[place]
                yield name, original, f"{100 * errors:.0f} % of the bits of the fingerprints differ"


def _digest(wave: np.ndarray) -> bytes:
    whole = np.clip(np.rint(wave * 32_768.0), -32_768, 32_767).astype("<i2")
    return hashlib.blake2b(whole.tobytes(), digest_size=16).digest()


def _print(wave: np.ndarray) -> Fingerprint:
    return fingerprint(frame_power(wave) @ fingerprint_weights())
