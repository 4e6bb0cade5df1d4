"""Stretches: a stream of log-probabilities cut at pauses between words, so that any decoder can follow it.

In: ``[F, V]`` log-probabilities, block by block. Out: words in time, as soon as the stretch they are in has ended. A
decoder keeps what it needs for one stretch only, so memory does not grow with the recording.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.asr.decoding.decode import best_path
from speechssl.asr.decoding.decoders import Decoder
from speechssl.asr.tokens import BLANK, BOUNDARY, Tokens
from speechssl.asr.transcription.forced_alignment import Word

__all__ = ["CutRule", "Pause", "decode_stream", "pauses"]

_KEPT_SILENCE = 0.3
"""Seconds of silence that a decoder sees before the first word."""


@dataclass(frozen=True)
class CutRule:
    """When a stretch may end; seconds."""

    least: float
    """Shortest stretch: each cut resets the language model's history."""
    pause: float
    """Shortest silence that ends a stretch. 0: any word boundary ends one, and the last boundary is used."""
    longest: float
    """A stretch without such a pause is cut here at the latest: at its longest blank, or anywhere."""
    silence: float = float("inf")
    """A silence this long ends a word, whether or not a boundary was heard."""

    @classmethod
    def greedy(cls) -> "CutRule":
        """Greedy decoding decides each frame by itself, so a cut between words changes nothing."""
        return cls(5.0, 0.0, 600.0)

    @classmethod
    def search(cls, longest: float) -> "CutRule":
        """Beam search never places a word across 0.3 s of silence, so cutting there is safe."""
        return cls(5.0, 0.3, longest)


class Pause(NamedTuple):
    """A run of blanks in a best path."""

    start: int
    end: int
    """Frames ``start <= f < end``."""
    safe: bool
    """Whether no word continues across it."""

    @property
    def length(self) -> int:
        """In frames."""
        return self.end - self.start

    @property
    def middle(self) -> int:
        """Where a cut leaves half of the silence on each side."""
        return (self.start + self.end) // 2


def pauses(path: npt.NDArray[np.int64], tokens: Tokens) -> list[Pause]:
    """Return the runs of blanks of a best path, except one at its very start.

    A run is safe when no word continues across it: the label before or after is the boundary ``|``, or (sentencepiece)
    the next label begins a word. What comes after the last run is not known yet.
    """
    changes = np.flatnonzero(path[1:] != path[:-1]) + 1
    ends = [*changes[1:].tolist(), len(path)]
    found = []
    for start, end in zip(changes.tolist(), ends, strict=False):
        if path[start] != BLANK:
            continue
        before = tokens.symbols[path[start - 1]]
        after = tokens.symbols[path[end]] if end < len(path) else ""
        safe = BOUNDARY in (before, after) if tokens.kind == "characters" else after.startswith("▁")
        found.append(Pause(start, end, safe))
    return found


def decode_stream(
    blocks: Iterable[Tensor], decoder: Decoder, tokens: Tokens, *, frame_seconds: float, rule: CutRule
) -> Iterator[Word]:
    """Yield the words of a recording, in order and without overlap, each as soon as its stretch has ended.

    ``blocks`` are ``[F, V]`` log-probabilities on the CPU, in order; ``decoder`` decodes a stretch at a time.
    """
    buffer = torch.zeros(0, tokens.size)
    path = np.zeros(0, np.int64)
    offset = 0
    now = 0.0

    def words(log_probs: Tensor) -> Iterator[Word]:
        nonlocal now
        for word in decoder(log_probs).words:
            start = max((offset + word.start) * frame_seconds, now)
            now = max((offset + word.end) * frame_seconds, start + frame_seconds / 2)
            yield Word(word.word, start, now, min(max(word.confidence, 0.0), 1.0))

    for block in blocks:
        buffer, path = torch.cat([buffer, block]), np.r_[path, best_path(block)[0]]
        while True:
            drop = _leading_silence(path, round(_KEPT_SILENCE / frame_seconds))
            buffer, path, offset = buffer[drop:], path[drop:], offset + drop
            cut = _cut(path, tokens, frame_seconds, rule)
            if cut is None:
                break
            yield from words(buffer[:cut])
            buffer, path, offset = buffer[cut:], path[cut:], offset + cut
    yield from words(buffer)


def _leading_silence(path: npt.NDArray[np.int64], kept: int) -> int:
    """Return the blank frames at the start beyond ``kept``: nothing is said there."""
    labels = np.flatnonzero(path != BLANK)
    return max(0, (int(labels[0]) if len(labels) else len(path)) - kept)


def _cut(path: npt.NDArray[np.int64], tokens: Tokens, frame_seconds: float, rule: CutRule) -> int | None:
    """Return the frame where a stretch ends, or None to wait for more."""
    if len(path) * frame_seconds < rule.least:
        return None
    limit = max(1, round(rule.longest / frame_seconds))
    found = [pause for pause in pauses(path, tokens) if pause.middle <= limit]
    safe = [pause for pause in found if pause.safe or pause.length * frame_seconds >= rule.silence]
    safe_and_long = [pause for pause in safe if pause.length * frame_seconds >= rule.pause]
    if safe_and_long:
        return (safe_and_long[-1] if rule.pause == 0 else max(safe_and_long, key=_length)).middle
    if len(path) < limit:
        return None
    return max(safe or found, key=_length).middle if found else limit


def _length(pause: Pause) -> int:
    return pause.length
