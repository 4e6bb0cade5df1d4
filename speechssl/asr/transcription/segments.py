"""Training utterances out of a long recording and its text: aligned words, cut at pauses, each piece with a score.

In: log-probabilities of a recording and its text. Out: its words in time, first; out of them, the segments, and ledger
entries for what is in one of both only or does not fit well (Kürzinger et al. 2020, CTC segmentation).
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
from torch import Tensor

from speechssl.asr.tokens import BLANK, BOUNDARY, Tokens
from speechssl.asr.transcription.forced_alignment import Word
from speechssl.asr.transcription.long_viterbi import GAP_FRAME, Words, long_path
from speechssl.core.errors import AudioError
from speechssl.core.ledger import Entry
from speechssl.evaluation.wer.unspaced import is_unspaced

__all__ = ["Segment", "align_loosely", "cut"]

_LEAST_GAP = 0.3
"""Seconds of sound without text that end a segment."""
_LONGEST_PAUSE = 2.0
"""Seconds; a longer pause ends a segment."""
_MARGIN = 0.3
"""Seconds kept before the first word and after the last one, at most half of the pause."""
_WINDOW = 1.2
"""Seconds of words whose mean is taken: 30 frames of 40 ms in the paper."""
_LEAST_SCORE = 0.001
"""Of a word: scores have three digits."""
_LEAST_SHARE = 0.5
"""A recording of whose words, and of whose seconds, less is kept has another text."""


@dataclass(frozen=True)
class Segment:
    """A piece of a recording and its text."""

    start: float
    """Seconds from the start of the recording."""
    end: float
    text: str
    score: float
    """0 to 1: the lowest geometric mean of the probabilities of labels over about 1.2 s of words."""


def align_loosely(log_probs: Tensor, text: str, tokens: Tokens, *, frame_seconds: float, item: str = "") -> list[Word]:
    """Return the words of a text, as they are written, with their times in ``[F, V]`` log-probabilities.

    A word that was not found has no length. Nor has one that cannot be spelled (``spelled`` is False). A stretch of
    sound that the text says nothing of is a word without characters. Where the script has no spaces, each character is
    a word. Times and scores have three digits, as in the journal of a job, so that a job that resumes cuts the same.

    Raises AudioError (``not_finite``).
    """
    values = log_probs.numpy()
    if not np.isfinite(values).all():
        raise AudioError(item, "not_finite", "the model's log-probabilities are not finite")
    source, units = _units(text, tokens)
    labels = [tokens.encode(source[start:end]) for start, end in units]
    spelled = [number for number, each in enumerate(labels) if each]
    if not spelled or not len(values):
        return [
            Word(source[start:end], 0.0, 0.0, 0.0, bool(each)) for (start, end), each in zip(units, labels, strict=True)
        ]
    boundary = [tokens.symbols.index(BOUNDARY)] if tokens.kind == "characters" else []
    between: list[list[int]] = [[]]
    for left, right in pairwise(spelled):
        between.append(boundary if re.search(r"\s", source[units[left][1] : units[right][0]]) else [])
    words = Words.of([labels[number] for number in spelled], between)
    found = long_path(values, words, gaps=True)
    heard = np.flatnonzero(found.frames >= 0)
    places = found.frames[heard]  # they rise
    columns = np.where(found.frames >= 0, words.labels[np.maximum(found.frames, 0)], BLANK)
    scores = np.take_along_axis(values, columns[:, None], axis=1)[:, 0].astype(np.float64)
    result: list[Word] = []
    now = 0.0
    ranks = {number: rank for rank, number in enumerate(spelled)}
    for number, (begin, stop) in enumerate(units):
        unit, rank = source[begin:stop], ranks.get(number)
        if rank is None or rank in found.skipped:
            result.append(Word(unit, now, now, 0.0, spelled=rank is not None))
            continue
        start = int(heard[np.searchsorted(places, words.first[rank])])
        end = int(heard[np.searchsorted(places, words.last[rank], side="right") - 1]) + 1
        now = round(end * frame_seconds, 3)
        mean = float(scores[start:end][found.frames[start:end] >= 0].mean())  # blanks inside say nothing of the word
        result.append(Word(unit, round(start * frame_seconds, 3), now, round(min(math.exp(mean), 1.0), 3)))
    return sorted(
        [*result, *_gaps(found.frames == GAP_FRAME, values.argmax(axis=1) != BLANK, frame_seconds)],
        key=lambda word: word.start,
    )


def _units(text: str, tokens: Tokens) -> tuple[str, list[tuple[int, int]]]:
    """Return the text and where its words are in it; punctuation alone belongs to the word before it.

    The text is as written, or normalised where that cannot be done word by word, as with a tag of several words.
    """
    single = tokens.kind == "characters" and is_unspaced([text])
    for source in (text, tokens.normal(text)):
        units: list[tuple[int, int]] = []
        normal = ""
        for match in re.finditer(r"\S" if single else r"\S+", source):
            part = tokens.normal(match[0])
            mark = single and unicodedata.category(match[0])[0] == "M"
            if units and (mark or not part):
                units[-1] = (units[-1][0], match.end())
            else:
                units.append(match.span())
            normal += part
        if "".join(normal.split()) == "".join(tokens.normal(source).split()):
            break
    return source, units


def _gaps(gap: npt.NDArray[np.bool_], loud: npt.NDArray[np.bool_], frame_seconds: float) -> list[Word]:
    """Return the gaps as words without characters, from the first to the last frame that is no blank."""
    found = []
    for start, end in np.flatnonzero(np.diff(np.r_[False, gap, False].astype(np.int8))).reshape(-1, 2).tolist():
        heard = np.flatnonzero(loud[start:end])
        if len(heard):
            first, last = ((start + int(n)) * frame_seconds for n in (heard[0], heard[-1] + 1))
            found += [Word("", round(first, 3), round(last, 3), 0.0)] if last - first >= _LEAST_GAP else []
    return found


def cut(
    words: Sequence[Word], text: str, *, seconds: float, max_seconds: float, min_score: float, item: str
) -> tuple[list[Segment], list[Entry]]:
    """Return the segments of a recording of ``seconds``, and ledger entries for the rest.

    A segment ends at the longest pause of the second half of ``max_seconds``. It holds no sound without text
    (``audio_without_text``), no text without sound (``text_without_audio``), no word that cannot be spelled
    (``unspelled_words``), and no pause of more than 2 s. One below ``min_score`` is left out (``low_score``).

    Raises AudioError (``text_mismatch``) when less than half of the words and of the seconds is kept.
    """
    entries = _left_out(words, item)
    source, offsets = _offsets(words, text)
    solid, begins = [], []
    for word, offset in zip(words, offsets, strict=True):
        if word.end > word.start:
            solid.append(word)
            begins.append(offset)
    ends = [0.0, *(word.end for word in solid)]
    starts = [*(word.start for word in solid), seconds]
    pauses = [max(right - left, 0.0) for left, right in zip(ends, starts, strict=True)]  # pauses[k]: before word k
    margins = [min(_MARGIN, pause / 2) for pause in pauses]
    segments: list[Segment] = []
    kept = 0
    for run in _runs(words, pauses):
        while run:
            first = run[0]
            begin = solid[first].start - margins[first]
            lasts = [solid[number].end + margins[number + 1] for number in run]
            fits = [place for place, last in enumerate(lasts) if last - begin <= max_seconds]
            if not fits:
                detail = f"{begin:.1f} s: {solid[first].word[:40]!r} alone has {lasts[0] - begin:.1f} s"
                entries.append(Entry("align", item, "too_long", detail, "dropped"))
                run = run[1:]
                continue
            last = fits[-1]
            if last + 1 < len(run):
                late = [place for place in fits if lasts[place] - begin >= max_seconds / 2] or [last]
                last = max(late, key=lambda place: pauses[run[place] + 1])
            piece, run = [solid[number] for number in run[: last + 1]], run[last + 1 :]
            stop = begins[first + last] + len(piece[-1].word)
            segment = Segment(begin, lasts[last], source[begins[first] : stop], _score(piece))
            if segment.score >= min_score:
                segments.append(segment)
                kept += len(piece)
            else:
                detail = f"{begin:.1f} s to {lasts[last]:.1f} s, score {segment.score:.3f}: {segment.text[:80]}"
                entries.append(Entry("align", item, "low_score", detail, "dropped"))
    held = sum(segment.end - segment.start for segment in segments)
    total = sum(bool(word.word) for word in words)
    if kept < _LEAST_SHARE * total and held < _LEAST_SHARE * seconds:
        raise AudioError(
            item,
            "text_mismatch",
            f"of {total} words {kept} fit with a score of {min_score:g} or more; check that this is the recording's "
            "text and that the model knows the language, or lower --min-score",
        )
    return segments, entries


def _offsets(words: Sequence[Word], text: str) -> tuple[str, list[int]]:
    """Return a text and where each word begins in it: the one that is given, or else the words in a line."""
    found, now = [], 0
    for word in words:
        place = text.find(word.word, now)
        if place < 0:
            return _offsets(words, " ".join(word.word for word in words if word.word))
        found.append(place)
        now = place + len(word.word)
    return text, found


def _runs(words: Sequence[Word], pauses: Sequence[float]) -> Iterator[list[int]]:
    """Yield the words that may be in one segment, by their numbers among those with a length."""
    run: list[int] = []
    number = -1
    for word in words:
        heard = word.end > word.start
        number += heard
        if run and not (heard and word.word and pauses[number] <= _LONGEST_PAUSE):
            yield run
            run = []
        if heard and word.word:
            run.append(number)
    if run:
        yield run


def _score(words: Sequence[Word]) -> float:
    lowest = 1.0
    for first in range(len(words)):
        seconds = total = 0.0
        for word in words[first:]:
            length = word.end - word.start
            seconds += length
            total += length * math.log(max(word.score, _LEAST_SCORE))
            if seconds >= _WINDOW:
                break
        if seconds >= _WINDOW or first == 0:
            lowest = min(lowest, math.exp(total / seconds))
    return lowest


def _left_out(words: Sequence[Word], item: str) -> list[Entry]:
    """Return ledger entries for what is in the sound or in the text only, and for words that cannot be spelled."""
    entries = []
    for (empty, heard, spelled), group in groupby(words, key=lambda w: (not w.word, w.end > w.start, w.spelled)):
        run = list(group)
        if empty:
            entries += [
                Entry("align", item, "audio_without_text", f"{w.start:.1f} s to {w.end:.1f} s", "dropped") for w in run
            ]
        elif not heard:
            reason = "text_without_audio" if spelled else "unspelled_words"
            said = " ".join(word.word for word in run)
            said = said if len(said) <= 80 else f"{said[:38]} … {said[-38:]}"
            entries.append(Entry("align", item, reason, f"{run[0].start:.1f} s: {len(run)} words: {said}", "dropped"))
    return entries
