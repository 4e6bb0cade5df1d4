"""``audit``: what is in a corpus, and what is wrong with it, before it costs a week of training.

In: a manifest or a folder, and thresholds. Out: an `Audit`: every utterance with its measurement, every finding, and a
summary. Each recording is decoded once, in parallel; the findings do not depend on the number of processes.
"""

from __future__ import annotations

import faulthandler
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from speechssl.config.audit import AuditConfig
from speechssl.core.errors import ConfigError
from speechssl.core.processes import cores, map_surviving
from speechssl.data.audio.decode import AudioLimits
from speechssl.data.audit.checks import CHECKS, Finding
from speechssl.data.audit.inventory import Inventory, read_inventory, whole_files
from speechssl.data.audit.leakage import check_duplicates, check_speakers
from speechssl.data.audit.measure import Job, Measurement, measure
from speechssl.data.audit.sound import check_sound
from speechssl.data.audit.text import check_wording
from speechssl.data.audit.text_against_audio import check_pairing
from speechssl.data.ingest.utterance import Utterance

__all__ = ["Audit", "audit"]

_THIN_EVERY_HOURS = 200.0
"""The index keeps all keys of this much audio, and one in n of n times as much: its memory does not grow."""
_GRAVITY = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Audit:
    """What was found."""

    inventory: Inventory
    pairs: list[tuple[Utterance, Measurement]]
    findings: list[Finding]
    """In the order of the checks, then of the corpus."""

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found.get(severity, 0) for severity in _GRAVITY}  # type: ignore[call-overload]

    def exit_code(self, fail_on: str) -> int:
        """Return 1 when there is a finding as grave as ``fail_on`` (error, warning, never), else 0."""
        if fail_on == "never":
            return 0
        return int(any(_GRAVITY[finding.severity] <= _GRAVITY[fail_on] for finding in self.findings))


def audit(source: Path, cfg: AuditConfig, progress: Callable[[int, int], None] | None = None) -> Audit:
    """Look at every utterance of a manifest or folder.

    Raises
    ------
    DataError
        The source does not exist, or has neither utterances nor audio.
    ConfigError
        ``cfg.ignore`` names a check that does not exist.
    """
    if unknown := sorted(set(cfg.ignore) - set(CHECKS)):
        raise ConfigError(f"ignore: no check {unknown[0]!r}; checks: {', '.join(CHECKS)}")
    limits = AudioLimits(max_seconds=3600 * cfg.max_file_hours, max_channels=cfg.max_channels)
    inventory = read_inventory(source, cfg, limits)
    utterances = inventory.utterances
    whole = list(whole_files(utterances))
    hours = sum(u.duration for u in utterances) / 3600
    thin = max(1, round(hours / _THIN_EVERY_HOURS))
    jobs = [
        Job(inventory.path(u), u.start, None if all_of_it else u.duration or None, limits, thin)
        for u, all_of_it in zip(utterances, whole, strict=True)
    ]
    pairs = list(zip(utterances, _measure_all(jobs, cfg, progress), strict=True))
    findings = list(inventory.findings)
    for (u, m), all_of_it in zip(pairs, whole, strict=True):
        findings += check_sound(u, m, cfg, whole=all_of_it, claimed=inventory.claimed)
    findings += check_duplicates(pairs, cfg)
    findings += check_speakers(utterances)
    findings += check_pairing(pairs, cfg)
    findings += check_wording(utterances, cfg)
    order = {check: i for i, check in enumerate(CHECKS)}
    findings = [finding for finding in findings if finding.check not in cfg.ignore]
    findings.sort(key=lambda finding: (_GRAVITY[finding.severity], order[finding.check]))
    return Audit(inventory, pairs, findings)


def _measure_all(
    jobs: Sequence[Job], cfg: AuditConfig, progress: Callable[[int, int], None] | None
) -> Iterator[Measurement]:
    workers, seconds = cfg.workers or cores(), 60 * cfg.hang_minutes
    alone = map(measure, jobs)
    several = map_surviving(partial(_watched, seconds=seconds), jobs, workers, partial(_died, seconds=seconds))
    for done, measured in enumerate(alone if workers == 1 else several, 1):
        if progress is not None:
            progress(done, len(jobs))
        yield measured


def _watched(job: Job, seconds: float) -> Measurement:
    """Measure in a process that ends itself when one file takes longer: a decoder that hangs cannot be interrupted."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            return measure(job)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _died(job: Job, seconds: float) -> Measurement:
    del job
    detail = f"the process that decoded it died, or took more than {seconds:g} s; is the file damaged?"
    return Measurement("decoder_crash", detail)
