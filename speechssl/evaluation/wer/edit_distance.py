"""Minimum edit distance alignment of one reference with one hypothesis, by words and by characters.

In: two texts. Out: counts of substitutions, deletions and insertions, and the aligned pairs. Both texts are converted
to Unicode NFC first and split at any white space: jiwer compares code points, so the same word in NFC and in NFD would
be an error. The alignment with the fewest errors is jiwer's. Its ratios are not used, because for an empty reference
they are counts, not rates. With the cost ``sclite`` words are aligned as NIST sclite does (`sclite_weights`).
"""

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from speechssl.evaluation.wer.sclite_weights import Cost, align_weighted
from speechssl.evaluation.wer.unspaced import without_spaces

__all__ = [
    "AlignedPair",
    "Cost",
    "Op",
    "UtteranceScore",
    "align_characters",
    "align_words",
    "normal_text",
    "score_utterance",
]

Op = Literal["C", "S", "D", "I"]
"""Correct, substituted, deleted, inserted (the letters of NIST sclite)."""
AlignedPair = tuple[Op, str | None, str | None]
"""(operation, reference unit or None, hypothesis unit or None)."""

_OPS: dict[str, Op] = {"equal": "C", "substitute": "S", "delete": "D", "insert": "I"}


@dataclass(frozen=True)
class UtteranceScore:
    """Word errors of one utterance."""

    S: int
    """Substitutions."""
    D: int
    """Deletions."""
    I: int
    """Insertions."""
    N: int
    """Words in the reference."""
    alignment: list[AlignedPair]

    @property
    def errors(self) -> int:
        """S + D + I."""
        return self.S + self.D + self.I

    @property
    def wer(self) -> float | None:
        """Errors over reference words; None when the reference is empty (no rate exists)."""
        return self.errors / self.N if self.N else None


def normal_text(text: str) -> str:
    """Return the text in NFC with words separated by single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def align_words(ref: str, hyp: str, cost: Cost = "levenshtein") -> list[AlignedPair]:
    """Return the word alignment, left to right.

    Examples
    --------
    >>> align_words("the cat sat", "a cat")
    [('S', 'the', 'a'), ('C', 'cat', 'cat'), ('D', 'sat', None)]
    """
    if cost == "sclite":
        return align_weighted(normal_text(ref).split(), normal_text(hyp).split())
    import jiwer

    output = jiwer.process_words(normal_text(ref), normal_text(hyp))
    return _pairs(output)


def align_characters(ref: str, hyp: str) -> list[AlignedPair]:
    """Return the character alignment; the single space between words counts as a character, as is usual for CER.

    Spaces beside Chinese, Japanese, Thai, Lao, Khmer and Burmese letters do not count: these scripts write no spaces
    between words.
    """
    import jiwer

    output = jiwer.process_characters(without_spaces(normal_text(ref)), without_spaces(normal_text(hyp)))
    return _pairs(output)


def score_utterance(ref: str, hyp: str, cost: Cost = "levenshtein") -> UtteranceScore:
    """Align one hypothesis with its reference by words and count the errors.

    An empty reference gives N = 0, every hypothesis word an insertion; an empty hypothesis gives N deletions.
    """
    alignment = align_words(ref, hyp, cost)
    ops = [op for op, _, _ in alignment]
    n_words = sum(1 for op in ops if op != "I")
    return UtteranceScore(ops.count("S"), ops.count("D"), ops.count("I"), n_words, alignment)


def _pairs(output: Any) -> list[AlignedPair]:
    """Expand jiwer's chunks into aligned pairs (``substitute`` and ``equal`` chunks have two sides of equal length)."""
    refs, hyps = output.references[0], output.hypotheses[0]
    pairs: list[AlignedPair] = []
    for chunk in output.alignments[0]:
        op = _OPS[chunk.type]
        left = list(refs[chunk.ref_start_idx : chunk.ref_end_idx])
        right = list(hyps[chunk.hyp_start_idx : chunk.hyp_end_idx])
        if op == "D":
            pairs += [(op, unit, None) for unit in left]
        elif op == "I":
            pairs += [(op, None, unit) for unit in right]
        else:
            pairs += [(op, a, b) for a, b in zip(left, right, strict=True)]
    return pairs
