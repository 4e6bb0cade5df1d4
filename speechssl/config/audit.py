"""Settings of the audit: what counts as a fault, and what the exit code says about it."""

from dataclasses import dataclass
from typing import Literal

from speechssl.core.errors import ConfigError

__all__ = ["AuditConfig"]


@dataclass(frozen=True)
class AuditConfig:
    """Thresholds of the checks, and what the exit code says."""

    output: str = ""
    """Where ``audit.json``, ``audit.txt``, ``findings.jsonl`` and ``audit.html`` go; empty for ``audit`` in the current
    folder."""
    fail_on: Literal["error", "warning", "never"] = "error"
    """Exit code 1 when there is a finding of this severity or a worse one."""
    ignore: tuple[str, ...] = ()
    """Codes of checks to leave out."""
    workers: int = 0
    """Processes that decode; 0 takes one per core. The findings do not depend on it."""
    suspects: int = 3
    """Recordings shown with spectrogram and player for each check; 0 for none."""
    suspect_seconds: float = 12.0
    """Longer recordings are shown up to this time."""
    max_channels: int = 16
    """Files with more channels are refused."""
    max_file_hours: float = 6.0
    """Longer files are refused before they are decoded."""
    hang_minutes: float = 30.0
    """Decoding that takes longer is stopped; needs two processes or more."""
    min_seconds: float = 0.1
    """Utterances below are too_short."""
    max_seconds: float = 30.0
    """Utterances above are too_long."""
    duration_tolerance: float = 0.1
    """Seconds, beside one per cent, by which the manifest's duration may differ from that of the file."""
    clipped_share: float = 0.002
    """Largest share of samples within one per cent of the largest or smallest value."""
    silent_db: float = -60.0
    """Level of the loudest frames, in decibels of full scale, below which an utterance counts as silence."""
    quiet_db: float = -48.0
    """Level of the loudest frames, in decibels of full scale, below which an utterance counts as quiet."""
    edge_silence: float = 2.0
    """Most seconds of silence at the start or at the end."""
    speech_share: float = 0.2
    """Least share of frames that are not silence."""
    snr_db: float = 10.0
    """Least estimated signal-to-noise ratio."""
    dynamic_db: float = 4.0
    """Least difference in level between quiet and loud frames; steady noise has less than speech."""
    dc_offset: float = 0.01
    """Largest mean of the samples, relative to full scale."""
    bandwidth_hz: float = 5_000.0
    """A spectrum that ends sharply below this frequency is a finding: telephone audio at a higher rate."""
    low_rate_hz: int = 16_000
    """Lowest sample rate of a file."""
    hum_db: float = 14.0
    """Largest level of harmonics of 50 or 60 Hz over their neighbours, in the quietest frames."""
    inverted_correlation: float = -0.9
    """Channels whose correlation is below this cancel each other when averaged."""
    duplicate_errors: float = 0.25
    """Recordings whose fingerprints differ in at most this share of bits are duplicates. Unrelated speech is near 0.48,
    never below 0.38 in measurements."""
    duplicate_overlap: float = 0.5
    """Least share of the shorter recording that must match the longer one."""
    rate_ratio: float = 2.2
    """Characters per second of speech may differ from the median of the corpus by this factor."""
    max_chars_per_second: float = 30.0
    """Most characters per second over a whole utterance."""
    frame_samples: int = 320
    """Hop of the model's frames in samples at 16 kHz, for the check that CTC can align the text."""
    receptive_samples: int = 400
    """Samples that the first frame sees, for the same check."""
    rare_count: int = 2
    """A character seen at most this often, among at least a thousand, is rare."""
    minority_share: float = 0.2
    """Digits, punctuation or capitals in at most this share of the transcripts are inconsistent. In more, they are
    taken for the style of the corpus."""
    repeated_transcripts: int = 5
    """A transcript of three words or more that occurs this often is a finding."""
    looped_words: int = 4
    """A word, or a group of two to four, repeated this often in a row is a finding."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.suspects < 0 or self.suspect_seconds <= 0 or self.frame_samples < 1:
            raise ConfigError("audit: workers and suspects must not be negative, seconds and samples must be positive")
        if self.hang_minutes <= 0:
            raise ConfigError("audit: hang_minutes must be positive; 30 is enough for recordings of six hours")
        if not 0 < self.duplicate_errors < 0.38:
            raise ConfigError("audit: duplicate_errors must lie in 0..0.38; unrelated recordings differ in more bits")
        if not 0 < self.duplicate_overlap <= 1 or not 0 <= self.minority_share < 1 or self.rate_ratio <= 1:
            raise ConfigError("audit: shares lie within 0 and 1, and rate_ratio is above 1")
