"""The best CTC path of a long recording and its text: exact, in memory that hardly grows with either.

In: log-probabilities ``[F, V]`` and the labels of words. Out: the label, the blank or the gap of every frame.

A gap lies between two words, before the first or after the last. It takes frames that the text says nothing of, and may
leave out words that the audio says nothing of. CTC segmentation (Kürzinger et al. 2020) allows this at both ends only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.asr.tokens import BLANK

__all__ = ["BLANK_FRAME", "GAP_FRAME", "LongPath", "Words", "long_path"]

BLANK_FRAME = -1
GAP_FRAME = -2

GAP_COST = 2.0
"""Of a frame in a gap, below the most probable token of the frame, or less: no more than a blank costs; nats."""
ENTER_COST = 10.0
"""Of each gap after a word: a short word that a passage without text happens to have is no reason to end it."""
SKIP_COST = 30.0
"""Of each passage of the text that is left out, in nats: a recognition error or two are no reason."""
SKIP_LABEL_COST = 1.0
"""Of each label of such a passage."""

_PARTS = 32
"""States are kept at the beginning of so many parts of a recording, and recomputed inside a part."""
_CELLS = 1 << 23
"""Frames times states whose scores are held at once."""
_RESCALED = 512
"""Frames after which scores are made relative to the best: float32 then resolves 0.001."""

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
State = tuple[Floats, Floats, Floats]
"""Scores of the labels ``[L]``, of the blanks before and after them ``[L + 1]``, of the gaps ``[W + 1]``."""
Place = tuple[str, int]
"""A state of the whole text: label, blank or gap, and its number."""


@dataclass(frozen=True)
class Words:
    """The labels of a text and where its words are in them; labels between words belong to none."""

    labels: Ints
    first: Ints
    last: Ints
    """Place of each word's first and last label."""

    @classmethod
    def of(cls, words: Sequence[Sequence[int]], between: Sequence[Sequence[int]]) -> "Words":
        """Join words of at least one label each; ``between[k]`` are the labels before word k, none before the first."""
        labels: list[int] = []
        first, last = [], []
        for word, before in zip(words, between, strict=True):
            labels += before
            first.append(len(labels))
            labels += word
            last.append(len(labels) - 1)
        return cls(np.array(labels, np.int64), np.array(first, np.int64), np.array(last, np.int64))


@dataclass(frozen=True)
class LongPath:
    """The best path."""

    frames: Ints
    """``[F]``: the place of a label in ``Words.labels``, ``BLANK_FRAME`` or ``GAP_FRAME``."""
    skipped: dict[int, int]
    """Word that the audio says nothing of -> frame at which it was left out."""


def long_path(log_probs: Floats, words: Words, *, gaps: bool) -> LongPath:
    """Return the best path of ``[F, V]`` finite log-probabilities through at least one word.

    Time is proportional to frames times labels. Beside the log-probabilities and a copy, memory is less than 100 MB and
    2 kB for each label: states are kept at 32 frames and recomputed in between, on two or three levels.

    ``gaps = False`` is forced alignment: at least ``frames_needed`` frames must be there.
    """
    search = _Search(log_probs, words, gaps=gaps)
    search.trace(_Part(words, 0, len(words.first)), 0, len(log_probs), None, None)
    return LongPath(search.frames, search.skipped)


class _Part:
    """Words ``begin <= w < end`` of a text: their states, and how scores go on by a frame."""

    def __init__(self, words: Words, begin: int, end: int) -> None:
        self.words, self.begin, self.end = words, begin, end
        self.low = int(words.first[begin])
        self.labels = words.labels[self.low : words.last[end - 1] + 1]
        self.first, self.last = words.first[begin:end] - self.low, words.last[begin:end] - self.low
        self.repeats = np.flatnonzero(self.labels[1:] == self.labels[:-1])
        self.skip = SKIP_LABEL_COST * np.append(words.first, len(words.labels))[begin : end + 1]

    @property
    def states(self) -> int:
        return 2 * len(self.labels) + len(self.first) + 2

    def start(self, *, gaps: bool) -> State:
        """Return the scores before the first frame of a recording."""
        labels = np.full(len(self.labels), -np.inf, np.float32)
        blanks = np.full(len(self.labels) + 1, -np.inf, np.float32)
        gap = np.full(len(self.first) + 1, -np.inf)  # float64: sums of all skipping costs are large
        blanks[0] = 0.0
        gap[0] = 0.0 if gaps else -np.inf
        return labels, blanks, gap

    def of(self, other: "_Part", state: State) -> State:
        """Return the scores of these words out of those of another part that holds them."""
        low, n = self.low - other.low, len(self.labels)
        word = self.begin - other.begin
        labels, blanks, gap = state
        return labels[low : low + n], blanks[low : low + n + 1], gap[word : word + len(self.first) + 1]

    def value(self, state: State, place: Place) -> float:
        kind, number = place
        labels, blanks, gap = state
        if kind == "gap":
            return float(gap[number - self.begin])
        return float((labels if kind == "label" else blanks)[number - self.low])

    def step(self, state: State, row: Floats, *, gaps: bool) -> State:
        """Return the scores after one more frame; ``row`` has its log-probabilities, relative to the highest one."""
        labels, blanks, gap = state
        new_blanks = blanks.copy()
        np.maximum(new_blanks[1:], labels, out=new_blanks[1:])
        new_blanks += row[BLANK]
        new_labels = np.maximum(labels, blanks[:-1])
        before = labels[:-1].copy()
        before[self.repeats] = -np.inf  # equal labels need a blank between them
        np.maximum(new_labels[1:], before, out=new_labels[1:])
        new_gap = gap
        if gaps:
            new_labels[self.first] = np.maximum(new_labels[self.first], gap[:-1])
            new_gap = gap.copy()
            ended = np.maximum(labels[self.last], blanks[self.last + 1]) - np.float64(ENTER_COST)
            np.maximum(new_gap[1:], ended, out=new_gap[1:])
            new_gap += max(float(row[BLANK]), -GAP_COST)
            skipping = np.maximum.accumulate(new_gap + self.skip) - self.skip - SKIP_COST
            np.maximum(new_gap, skipping, out=new_gap)
        new_labels += row[self.labels]
        return new_labels, new_blanks, new_gap


class _Search:
    """Viterbi over a whole recording; ``frames`` and ``skipped`` are filled from its end to its beginning."""

    def __init__(self, log_probs: Floats, words: Words, *, gaps: bool) -> None:
        self.rows = (log_probs - log_probs.max(axis=1, keepdims=True)).astype(np.float32, copy=False)
        self.words, self.gaps = words, gaps
        self.frames = np.full(len(log_probs), BLANK_FRAME, np.int64)
        self.skipped: dict[int, int] = {}
        self._best: dict[int, float] = {}

    def step(self, part: _Part, state: State, frame: int) -> State:
        state = part.step(state, self.rows[frame], gaps=self.gaps)
        if frame % _RESCALED == _RESCALED - 1:  # the first pass over a frame is that of the whole text
            best = self._best.setdefault(frame, max(float(scores.max()) for scores in state))
            state = (state[0] - np.float32(best), state[1] - np.float32(best), state[2] - best)
        return state

    def trace(self, part: _Part, begin: int, end: int, state: State | None, place: Place | None) -> Place:
        """Fill frames ``begin <= f < end`` backwards from a place at the last of them; return the place before them.

        ``state`` has the scores before ``begin`` (None: the recording begins there); without a place the best end of
        the text is taken.
        """
        state = part.start(gaps=self.gaps) if state is None else state
        small = (end - begin) * part.states <= _CELLS or end - begin == 1
        marks = range(begin, end, 1 if small else -(-(end - begin) // _PARTS))
        kept = []
        for frame in range(begin, end):
            if frame in marks:
                kept.append(state)
            state = self.step(part, state, frame)
        kept.append(state)
        if place is None:
            place = max(self._ends(), key=lambda each: part.value(kept[-1], each))
        for number in reversed(range(len(marks))):
            first, last = marks[number], min(marks[number] + marks.step, end)
            if small:
                place = self._back(part, kept[number], kept[number + 1], first, place)
            else:
                place = self._narrow(part, range(first, last), (kept[number], kept[number + 1]), place)
        return place

    def _ends(self) -> list[Place]:
        n = len(self.words.labels)
        return [("blank", n), ("label", n - 1), *([("gap", len(self.words.first))] if self.gaps else [])]

    def _narrow(self, part: _Part, frames: range, states: tuple[State, State], place: Place) -> Place:
        """Trace frames through the words just before a place; through more of them where the path comes from afar.

        A narrower part never has higher scores. So it holds the best path when it has the same score at ``place``.
        """
        first = self.words.first
        kind, at = place
        stop = at if kind == "gap" else int(np.searchsorted(first, at, side="right")) + 1
        stop = min(max(stop, part.begin + 1), part.end)
        if kind == "gap":
            at = int(first[stop - 1])
        width = len(frames) // 2 + 1
        while True:
            near = int(np.searchsorted(first, max(at - width, 0), side="right")) - 1
            inner = _Part(self.words, min(max(near, part.begin), stop - 1), stop)
            state = inner.of(part, states[0])
            if inner.begin > part.begin:
                reached = state
                for frame in frames:
                    reached = self.step(inner, reached, frame)
                if inner.value(reached, place) != part.value(states[1], place):
                    width *= 4
                    continue
            return self.trace(inner, frames.start, frames.stop, state, place)

    def _back(self, part: _Part, before: State, after: State, frame: int, place: Place) -> Place:
        """Fill one frame; return the place at the frame before it."""
        kind, number = place
        entered = 0.0
        if kind == "gap":
            entered = ENTER_COST
            came = self._into_gap(number)
            own = max(self._scores(part, before, came, entered)) + max(float(self.rows[frame, BLANK]), -GAP_COST)
            if part.value(after, place) > own - self._best.get(frame, 0.0):  # words were left out at this frame
                local = number - part.begin
                source = int(np.argmax(after[2][:local] + part.skip[:local])) + part.begin
                self.skipped |= dict.fromkeys(range(source, number), frame)
                came = self._into_gap(source)
            self.frames[frame] = GAP_FRAME
        elif kind == "label":
            self.frames[frame] = number
            came = [place, ("blank", number)]
            if number and self.words.labels[number] != self.words.labels[number - 1]:
                came.append(("label", number - 1))
            word = int(np.searchsorted(self.words.first, number))
            if self.gaps and word < len(self.words.first) and self.words.first[word] == number:
                came.append(("gap", word))
        else:
            came = [place, *([("label", number - 1)] if number else [])]
        scores = self._scores(part, before, came, entered)
        return came[scores.index(max(scores))]

    def _scores(self, part: _Part, before: State, came: list[Place], entered: float) -> list[float]:
        """Return the scores of places, less the cost of entering a gap from a word."""
        return [
            part.value(before, each) - (entered if each[0] != "gap" else 0.0) if self._inside(part, each) else -np.inf
            for each in came
        ]

    def _into_gap(self, number: int) -> list[Place]:
        if not number:
            return [("gap", 0)]
        last = int(self.words.last[number - 1])
        return [("gap", number), ("label", last), ("blank", last + 1)]

    def _inside(self, part: _Part, place: Place) -> bool:
        kind, number = place
        if kind == "gap":
            return part.begin <= number <= part.end
        return part.low <= number < part.low + len(part.labels) + (kind == "blank")
