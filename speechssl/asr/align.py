"""Forced alignment: when each word of a known transcript was spoken (torchaudio's CTC Viterbi).

In: ``[F, V]`` log-probabilities of one utterance and its transcript. Out: words with start and end in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp

import torch

from speechssl.asr.decode import Span, spans
from speechssl.asr.tokens import BLANK, Tokens
from speechssl.errors import AudioError

__all__ = ["Word", "align", "frames_needed", "word_times"]


@dataclass(frozen=True)
class Word:
    """A word in time."""

    word: str
    start: float
    """Seconds."""
    end: float
    score: float
    """Geometric mean of the probabilities of its frames, 0 to 1."""


def frames_needed(ids: Sequence[int]) -> int:
    """Return the fewest frames that can emit these labels: one each, and a blank between equal neighbours."""
    return len(ids) + sum(left == right for left, right in pairwise(ids))


def word_times(labels: Sequence[Span], tokens: Tokens, frame_seconds: float) -> list[Word]:
    """Join label spans into words; a frame lasts ``frame_seconds``."""
    words = []
    for text, positions in tokens.words([span.token for span in labels]):
        parts = [labels[position] for position in positions]
        frames = sum(part.end - part.start for part in parts)
        score = exp(sum(part.score * (part.end - part.start) for part in parts) / frames)
        words.append(Word(text, parts[0].start * frame_seconds, parts[-1].end * frame_seconds, min(score, 1.0)))
    return words


def align(log_probs: torch.Tensor, text: str, tokens: Tokens, *, frame_seconds: float, item: str = "") -> list[Word]:
    """Return the words of ``text`` with their times in the utterance.

    Parameters
    ----------
    log_probs
        ``[F, V]`` float, one utterance, no padding.
    text
        The transcript; normalised here. Characters outside the vocabulary are left out of the words.
    frame_seconds
        Length of a frame: the encoder's hop divided by the sample rate.
    item
        Utterance id or path, for errors.

    Raises
    ------
    AudioError
        ``ctc_infeasible``: the utterance has fewer frames than its labels need. ``not_finite``: the model gave NaN.
    """
    import torchaudio.functional

    if log_probs.ndim != 2 or log_probs.shape[1] != tokens.size:
        raise ValueError(f"log-probabilities must be [frames, {tokens.size}], not {list(log_probs.shape)}")
    ids = tokens.encode(text)
    if not ids:
        return []
    if (needed := frames_needed(ids)) > len(log_probs):
        raise AudioError(item, "ctc_infeasible", f"{len(log_probs)} frames, but the transcript needs {needed}")
    values = log_probs.detach().float().cpu().contiguous()
    if not torch.isfinite(values).all():  # the kernel would index out of bounds
        raise AudioError(item, "not_finite", "the model's log-probabilities are not finite")
    path, scores = torchaudio.functional.forced_align(values[None], torch.tensor([ids], dtype=torch.int32), blank=BLANK)
    labels = spans(path[0].numpy().astype("int64"), scores[0].numpy())
    return word_times(labels, tokens, frame_seconds)
