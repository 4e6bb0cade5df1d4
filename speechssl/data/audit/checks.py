"""The checks of the audit: their codes, how grave each is, and what to do about it.

Codes are stable: scripts and configurations name them. A `Finding` is one fault of one utterance (or of one file, row,
speaker or character).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CHECKS", "UNUSABLE", "Check", "Finding", "Severity"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Check:
    """One kind of fault."""

    severity: Severity
    title: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One fault."""

    check: str
    item: str
    """Utterance id; ``line N`` for a row that is none, ``speaker S``, ``character C``, or a path."""
    path: str = ""
    value: float | str | None = None
    threshold: float | str | None = None
    detail: str = ""
    others: tuple[str, ...] = ()
    """Ids of the other utterances that it concerns."""

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return CHECKS[self.check].severity


_LEAK = "keep one of them, or move both to one split: a test on what was trained on measures nothing"
CHECKS: dict[str, Check] = {
    "bad_row": Check("error", "Row that is no utterance", "repair the line of the manifest"),
    "duplicate_id": Check("error", "Id used twice", "give each utterance an id of its own"),
    "unusable": Check("error", "Audio that cannot be decoded", "get the file again, or take its row out"),
    "missing_file": Check("error", "File not there", "correct the path, or take the row out"),
    "empty_file": Check("error", "File of 0 bytes", "get the file again, or take its row out"),
    "no_samples": Check("error", "Header without audio", "get the file again, or take its row out"),
    "not_audio": Check("error", "File that holds no audio", "get the file again, or take its row out"),
    "truncated": Check("error", "File that ends too early", "get the file again, or take its row out"),
    "corrupt": Check("error", "Damaged file", "get the file again, or take its row out"),
    "out_of_range": Check("error", "Part behind the end of its file", "correct start and duration"),
    "duration_mismatch": Check("error", "Duration that is not the file's", "measure again: `speechssl manifest`"),
    "header_mismatch": Check("warning", "Rate or channels that are not the file's", "measure: `speechssl manifest`"),
    "too_short": Check("warning", "Very short", "leave it out; nothing can be learnt from it"),
    "too_long": Check("note", "Very long", "cut it at pauses (`speechssl manifest` does), or expect it left out"),
    "silent": Check("error", "Silent", "take it out: a dead microphone, or the wrong track"),
    "no_speech": Check("warning", "Steady noise without speech", "listen; take it out unless it is meant as noise"),
    "quiet": Check("note", "Very quiet", "raise the level where the recording allows it"),
    "leading_silence": Check("warning", "Long silence at the start", "trim it; it slows training and teaches blanks"),
    "trailing_silence": Check("warning", "Long silence at the end", "trim it; it slows training and teaches blanks"),
    "mostly_silence": Check("warning", "Mostly silence", "cut at pauses, or look whether audio is missing"),
    "dropouts": Check("warning", "Holes in the sound", "record again or leave it out: samples were lost"),
    "clipping": Check("warning", "Clipped", "use the original, or leave it out of the test split"),
    "low_snr": Check("warning", "Low signal-to-noise ratio", "listen; keep it for robustness, not for a clean test"),
    "dc_offset": Check("warning", "Mean away from zero", "subtract the mean, or high-pass at 20 Hz"),
    "narrowband": Check("warning", "Upsampled narrow-band audio", "find the original, or treat it as telephone speech"),
    "low_rate": Check("note", "Sampled below 16 kHz", "it will be resampled; nothing above half its rate is there"),
    "hum": Check("note", "Mains hum", "notch 50 or 60 Hz and harmonics, or keep it for robustness"),
    "dead_channel": Check("warning", "One channel is dead", "keep the other channel; the mean halves its level"),
    "inverted_channel": Check("error", "Channels cancel", "take one channel: the mean of both is almost nothing"),
    "duplicate_audio": Check("warning", "The same samples again", "keep one of them"),
    "near_duplicate": Check("warning", "The same recording, changed", "keep the best of them"),
    "leaked_audio": Check("error", "One recording in two splits", _LEAK),
    "leaked_speaker": Check("warning", "One speaker in two splits", "divide by speakers, or say that it is not so"),
    "shared_transcript": Check("note", "One transcript in two splits", "expected of prompts; else make texts disjoint"),
    "conflicting_transcripts": Check("error", "One recording, two transcripts", "listen, and correct the wrong one"),
    "empty_transcript": Check("warning", "Speech with an empty transcript", "transcribe it, or make it unlabelled"),
    "unalignable": Check("error", "Transcript too long for CTC", "correct the pair: no alignment exists"),
    "fast_text": Check("warning", "Too much text for its sound", "look for a wrong or longer transcript, or cut audio"),
    "slow_text": Check("warning", "Too little text for its sound", "look for a wrong or shortened transcript"),
    "mixed_up": Check("warning", "Transcripts that seem swapped", "listen to both, and exchange their texts"),
    "rare_character": Check("note", "Rare character", "spell it out or leave it out; it cannot be learnt"),
    "digits": Check("warning", "Digits among spelt numbers", "write numbers the way the rest of the corpus does"),
    "punctuation": Check("note", "Punctuation among plain text", "write punctuation in all transcripts or in none"),
    "odd_case": Check("note", "Letter case unlike the rest", "write one case; scoring would count it as errors"),
    "mixed_script": Check("warning", "Scripts mixed within a word", "replace the look-alike letters"),
    "foreign_script": Check("warning", "Script unlike the rest", "give it its language, or take it out"),
    "markup": Check("warning", "Markup in a transcript", "remove tags, entities and bracketed notes"),
    "mojibake": Check("warning", "Wrongly decoded characters", "read the source again with its own encoding"),
    "looped_text": Check("warning", "Words repeated in a loop", "listen: machine transcripts do that when they fail"),
    "repeated_transcript": Check("note", "Transcript used often", "expected of commands; else look for a default text"),
}  # fmt: skip
"""By code, in the order of the report."""

UNUSABLE = ("missing_file", "empty_file", "no_samples", "not_audio", "truncated", "corrupt", "out_of_range")
"""Reasons of ``AudioError`` that are checks of their own; the others are ``unusable``, the reason in the detail."""
