"""`WerReport`: every rate, count and breakdown of an evaluation, as in ``wer.json``.

In: nothing; `summary` fills it. Out: plain values.
"""

from dataclasses import asdict, dataclass
from typing import Any

from speechssl.core.text_table import interval_text, percent
from speechssl.evaluation.wer.breakdown import Group
from speechssl.evaluation.wer.calibration import Calibration
from speechssl.evaluation.wer.rarity import WordBand

__all__ = ["WerReport"]


@dataclass(frozen=True)
class WerReport:
    """All results of one system on one set of utterances. Rates are fractions, not percent."""

    wer: float | None
    ci_low: float | None
    ci_high: float | None
    """95 % bootstrap interval of ``wer`` over utterances."""
    speaker_ci_low: float | None
    speaker_ci_high: float | None
    """The same with whole speakers drawn (wider: it covers new speakers); None with fewer than five known speakers."""
    cer: float | None
    cer_ci_low: float | None
    cer_ci_high: float | None
    mer: float | None
    """Match error rate (S + D + I) / (C + S + D + I) (Morris, Maier & Green 2004)."""
    wil: float | None
    """Word information lost 1 - C^2 / (reference words x hypothesis words) (Morris, Maier & Green 2004)."""
    ser: float | None
    """Sentence error rate: share of utterances with at least one error."""
    S: int
    D: int
    I: int
    N: int
    C: int
    """Correct words."""
    characters: dict[str, int]
    """S, D, I and N by characters; the space between words is a character."""
    utterances: int
    seconds: float | None
    """Audio; None when no duration is known."""
    speakers: int
    empty_references: int
    """Utterances without reference words; every word recognised in them is an insertion."""
    empty_hypotheses: int
    """Utterances with reference words in which nothing was recognised; all their words are deletions."""
    by_speaker: tuple[Group, ...]
    """Highest WER first; empty when no speaker is known."""
    by_length: tuple[Group, ...]
    """By number of reference words."""
    by_duration: tuple[Group, ...]
    by_rate: tuple[Group, ...]
    """By reference words per second of audio."""
    by_snr: tuple[Group, ...]
    """By signal-to-noise ratio (dB), where the rows have it."""
    by_field: dict[str, tuple[Group, ...]]
    """By each field of the manifest that divides the utterances."""
    fields_left_out: dict[str, str]
    """Fields that do not, with the reason."""
    by_frequency: tuple[WordBand, ...]
    """Reference words by their number of occurrences in the training text; empty when that is not known."""
    oov_rate: float | None
    """Share of reference words that the training text does not have."""
    unseen_words: tuple[tuple[str, int, int], ...]
    """(word, occurrences, errors) of those, most errors first; at most 20."""
    calibration: Calibration | None
    """Of the confidences, where the rows have them."""
    substitutions: tuple[tuple[str, str, int], ...]
    """(reference word, hypothesis word, count), most frequent first; at most 20, as in the next four."""
    deletions: tuple[tuple[str, int], ...]
    insertions: tuple[tuple[str, int], ...]
    character_substitutions: tuple[tuple[str, str, int], ...]
    character_deletions: tuple[tuple[str, int], ...]
    character_insertions: tuple[tuple[str, int], ...]
    resamples: int
    seed: int
    unspaced: bool = False
    """Whether the references are in scripts without spaces between words: then ``cer`` is the rate to quote."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the headline in one line; ``wer.txt`` has the rest."""
        if self.unspaced:
            c = self.characters
            return (
                f"CER {percent(self.cer)} %, 95 % interval {interval_text(self.cer_ci_low, self.cer_ci_high)} %; "
                f"S {c['S']}, D {c['D']}, I {c['I']}, N {c['N']} characters in {self.utterances} utterances "
                f"(written without spaces between words; WER {percent(self.wer)} % counts phrases)"
            )
        return (
            f"WER {percent(self.wer)} %, 95 % interval {interval_text(self.ci_low, self.ci_high)} %; "
            f"S {self.S}, D {self.D}, I {self.I}, N {self.N} in {self.utterances} utterances"
        )
