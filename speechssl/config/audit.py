"""Settings of the audit: what counts as a fault, and what the exit code says about it."""

from dataclasses import dataclass
from typing import Literal

from speechssl.core.errors import ConfigError

__all__ = ["AuditConfig"]


@dataclass(frozen=True)
class AuditConfig:
    """Look at a corpus for faults before anything is trained on it. Thresholds are those of each check's finding."""

    output: str = ""
    """Where ``audit.json``, ``audit.txt``, ``findings.jsonl`` and ``audit.html`` go; empty for ``audit`` in the current
    folder."""
    fail_on: Literal["error", "warning", "never"] = "error"
    """Exit code 1 when there is a finding of this severity or a graver one."""
    ignore: tuple[str, ...] = ()
    """Checks that are left out, by code."""
    workers: int = 0
    """Processes that decode; 0 takes one per core. The findings do not depend on it."""
    suspects: int = 3
    """Recordings shown with spectrogram and player for each check; 0 for none."""
    suspect_seconds: float = 12.0
    """Longer recordings are shown up to here."""
    max_channels: int = 16
    max_file_hours: float = 6.0
    """Longer files are refused before they are decoded."""
    hang_minutes: float = 30.0
    """A file whose decoding takes longer is given up (with two processes or more: one alone has nobody to watch it)."""
    min_seconds: float = 0.1
    max_seconds: float = 30.0
    """Utterances outside are too_short, too_long."""
    duration_tolerance: float = 0.1
    """Seconds (and one per cent) by which the manifest's duration may differ from the file's."""
    clipped_share: float = 0.002
    """Share of samples within one per cent of the largest or smallest value."""
    silent_db: float = -60.0
    """Level of the loudest frames, in decibels below full scale, under which nothing is there."""
    quiet_db: float = -48.0
    edge_silence: float = 2.0
    """Seconds of silence at the start or at the end."""
    speech_share: float = 0.2
    """Least share of the frames that is not silence."""
    snr_db: float = 10.0
    dynamic_db: float = 4.0
    """Least distance from the quiet to the loud frames: speech comes and goes, noise does not."""
    dc_offset: float = 0.01
    """Of full scale."""
    bandwidth_hz: float = 5_000.0
    """A sharp edge in the spectrum below this, with nothing above, is telephone audio at a higher rate."""
    low_rate_hz: int = 16_000
    hum_db: float = 14.0
    """Prominence of two or more harmonics of 50 or 60 Hz over their neighbourhood, at the quietest moments."""
    inverted_correlation: float = -0.9
    duplicate_errors: float = 0.25
    """Share of differing fingerprint bits up to which two recordings are one; unrelated speech is near 0.48, and never
    below 0.38 in what we measured."""
    duplicate_overlap: float = 0.5
    """Share of the shorter recording's fingerprint that must lie over the longer one's."""
    rate_ratio: float = 2.2
    """Characters per second of speech may be this many times the corpus' median, or its inverse."""
    max_chars_per_second: float = 30.0
    """Nobody speaks faster than this for a whole utterance."""
    frame_samples: int = 320
    receptive_samples: int = 400
    """Stride and first window of the model's frames at 16 kHz (wav2vec 2.0, HuBERT), for the CTC check."""
    rare_count: int = 2
    """A character seen at most this often, in at least a thousand, is rare."""
    minority_share: float = 0.2
    """Digits, punctuation or capitals in at most this share of the transcripts are an inconsistency; in more, a habit
    of the corpus."""
    repeated_transcripts: int = 5
    """Occurrences of one transcript of three words or more."""
    looped_words: int = 4
    """The same word, or two to four words, this often in a row."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.suspects < 0 or self.suspect_seconds <= 0 or self.frame_samples < 1:
            raise ConfigError("audit: workers and suspects must not be negative, seconds and samples must be positive")
        if self.hang_minutes <= 0:
            raise ConfigError("audit: hang_minutes must be positive; 30 is enough for recordings of six hours")
        if not 0 < self.duplicate_errors < 0.38:
            raise ConfigError("audit: duplicate_errors must lie in 0..0.38; unrelated recordings differ in more bits")
        if not 0 < self.duplicate_overlap <= 1 or not 0 <= self.minority_share < 1 or self.rate_ratio <= 1:
            raise ConfigError("audit: shares lie within 0 and 1, and rate_ratio is above 1")
