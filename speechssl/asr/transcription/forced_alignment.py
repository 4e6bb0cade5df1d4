"""Forced alignment: when each word of a known transcript was spoken (torchaudio's CTC Viterbi, or that of blocks).

In: ``[F, V]`` log-probabilities of one utterance and its transcript. Out: words with start and end in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import exp

import numpy as np
import numpy.typing as npt
import torch

from speechssl.asr.decoding.decode import Span, spans
from speechssl.asr.tokens import BLANK, BOUNDARY, Tokens
from speechssl.asr.transcription.long_viterbi import Words, long_path
from speechssl.core.errors import AudioError

__all__ = ["Word", "align", "frames_needed", "word_times"]

MAX_CELLS = 2_000_000_000
"""Most frames times states (twice the labels) of torchaudio's search, a byte each: about 20 minutes of speech."""

Spelling = tuple[str, list[int]]
"""A word and its labels."""


@dataclass(frozen=True)
class Word:
    """A word and its time."""

    word: str
    start: float
    """Seconds."""
    end: float
    score: float
    """Geometric mean of the probabilities of its frames, 0 to 1."""
    spelled: bool = True
    """False for a word without any character of the model: it has the time between its neighbours."""


def frames_needed(ids: Sequence[int]) -> int:
    """Return the fewest frames that can emit these labels: one each, and a blank between equal neighbours."""
    return len(ids) + sum(left == right for left, right in pairwise(ids))


def word_times(labels: Sequence[Span], tokens: Tokens, frame_seconds: float) -> list[Word]:
    """Join label spans into words; a frame lasts ``frame_seconds``."""
    words = []
    for text, positions in tokens.words([span.token for span in labels]):
        parts = [labels[position] for position in positions]
        words.append(Word(text, parts[0].start * frame_seconds, parts[-1].end * frame_seconds, _score(parts)))
    return words


def align(log_probs: torch.Tensor, text: str, tokens: Tokens, *, frame_seconds: float, item: str = "") -> list[Word]:
    """Return the words of ``text`` with their times in the utterance.

    Parameters
    ----------
    log_probs
        ``[F, V]`` float, one utterance, no padding.
    text
        The transcript; normalised here. Every word is returned. A word that can be spelled in part is aligned by those
        characters. A word without any character of the model gets the frames between its neighbours and the score 0.
    frame_seconds
        Length of a frame: the encoder's hop divided by the sample rate.
    item
        Utterance id or path, for errors.

    Raises
    ------
    AudioError
        ``ctc_infeasible``: the utterance has fewer frames than its labels need. ``not_finite``: the model gave NaN.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] != tokens.size:
        raise ValueError(f"log-probabilities must be [frames, {tokens.size}], not {list(log_probs.shape)}")
    spellings = [(word, tokens.encode(word)) for word in tokens.normal(text).split()]
    if not any(labels for _, labels in spellings):
        return []
    ids, places = _labels(spellings, tokens)
    if (needed := frames_needed(ids)) > len(log_probs):
        raise AudioError(item, "ctc_infeasible", f"{len(log_probs)} frames, but the transcript needs {needed}")
    values = log_probs.detach().float().cpu().contiguous()
    if not torch.isfinite(values).all():  # the kernel does not check bounds
        raise AudioError(item, "not_finite", "the model's log-probabilities are not finite")
    if tokens.size in ids:  # unspellable text scores as the most probable token at each frame
        values = torch.cat([values, values.amax(dim=1, keepdim=True)], dim=1)
    labels = spans(*_path(values, ids))
    return [word for words, place in places for word in _timed(words, labels[place], tokens, frame_seconds)]


def _path(values: torch.Tensor, ids: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the token and the log-probability of every frame."""
    if len(values) * (2 * len(ids) + 1) > MAX_CELLS:
        array = values.numpy()
        found = long_path(array, Words.of([[label] for label in ids], [[]] * len(ids)), gaps=False)
        path = np.where(found.frames >= 0, np.array(ids)[np.maximum(found.frames, 0)], BLANK)
        return path, np.take_along_axis(array, path[:, None], axis=1)[:, 0]
    import torchaudio.functional

    path, scores = torchaudio.functional.forced_align(values[None], torch.tensor([ids], dtype=torch.int32), blank=BLANK)
    return path[0].numpy().astype("int64"), scores[0].numpy()


def _labels(spellings: Sequence[Spelling], tokens: Tokens) -> tuple[list[int], list[tuple[list[str], slice]]]:
    """Return the labels of all words, and the place of each word in them.

    Words in a row that cannot be spelled share one place, whose label is ``tokens.size``.
    """
    boundary = [tokens.symbols.index(BOUNDARY)] if tokens.kind == "characters" else []
    ids: list[int] = []
    places: list[tuple[list[str], slice]] = []
    for spelled, group in groupby(spellings, key=lambda pair: bool(pair[1])):
        pairs = list(group)
        for words, labels in pairs if spelled else [(None, [tokens.size])]:
            ids += boundary if ids else []
            place = slice(len(ids), len(ids) + len(labels))
            places.append(([word for word, _ in pairs] if words is None else [words], place))
            ids += labels
    return ids, places


def _timed(words: Sequence[str], labels: Sequence[Span], tokens: Tokens, frame_seconds: float) -> list[Word]:
    """Return the words of one place: one that is spelled, or several that share their time evenly."""
    start, end = labels[0].start * frame_seconds, labels[-1].end * frame_seconds
    if labels[0].token != tokens.size:
        return [Word(words[0], start, end, _score(labels))]
    share = (end - start) / len(words)
    return [Word(word, start + k * share, start + (k + 1) * share, 0.0, spelled=False) for k, word in enumerate(words)]


def _score(labels: Sequence[Span]) -> float:
    frames = sum(label.end - label.start for label in labels)
    return min(exp(sum(label.score * (label.end - label.start) for label in labels) / frames), 1.0)
