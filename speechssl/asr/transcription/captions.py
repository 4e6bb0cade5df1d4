"""Captions in SRT and WebVTT: words with times, grouped into short pieces of text.

In: words with start and end. Out: captions of at most a few lines, none longer than a limit, which never overlap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from speechssl.asr.transcription.forced_alignment import Word
from speechssl.config import CaptionConfig
from speechssl.core.errors import ConfigError

__all__ = ["Caption", "captions", "clock", "to_srt", "to_vtt"]


@dataclass(frozen=True)
class Caption:
    """The text that is on the screen at one time."""

    start: int
    """Milliseconds."""
    end: int
    lines: tuple[str, ...]


def captions(words: Iterable[Word], cfg: CaptionConfig) -> list[Caption]:
    """Split words into captions.

    A caption ends before a pause of ``pause_seconds``, and where the next word would make it longer than
    ``max_seconds`` or fill more than ``lines`` lines of ``line_chars``. It appears with its first word and stays until
    its last word ends, longer (to ``min_seconds``) where the next caption leaves room. A word longer than a line is
    broken over lines, and its time is shared out by length.

    Raises ConfigError when a limit is not positive.
    """
    if min(cfg.line_chars, cfg.lines) < 1 or min(cfg.max_seconds, cfg.pause_seconds) <= 0 or cfg.min_seconds < 0:
        raise ConfigError(
            "captions need at least one character, one line, and positive max_seconds and pause_seconds: "
            f"{cfg.line_chars}, {cfg.lines}, {cfg.max_seconds:g}, {cfg.pause_seconds:g}"
        )
    groups: list[list[Word]] = []
    for word in _pieces(words, cfg):
        group = groups[-1] if groups else []
        fits = (
            bool(group)
            and word.start - group[-1].end < cfg.pause_seconds
            and word.end - group[0].start <= cfg.max_seconds
            and len(_wrap([*group, word], cfg.line_chars)) <= cfg.lines
        )
        if fits:
            group.append(word)
        else:
            groups.append([word])
    starts = [_milliseconds(group[0].start) for group in groups]
    made: list[Caption] = []
    for index, group in enumerate(groups):
        start = max(starts[index], made[-1].end if made else 0)
        stay = max(_milliseconds(group[-1].end), start + _milliseconds(cfg.min_seconds))
        limit = starts[index + 1] if index + 1 < len(groups) else stay
        end = max(min(stay, limit, start + _milliseconds(cfg.max_seconds)), start + 1)
        made.append(Caption(start, end, tuple(_balanced(group, cfg))))
    return made


def _pieces(words: Iterable[Word], cfg: CaptionConfig) -> Iterable[Word]:
    """Yield words, those too long for a line or a caption in pieces that share their time."""
    for word in words:
        seconds = word.end - word.start
        count = max(-(-len(word.word) // cfg.line_chars), min(len(word.word), int(-(-seconds // cfg.max_seconds))), 1)
        size = -(-len(word.word) // count)
        cuts = [*range(0, len(word.word), size), len(word.word)] if word.word else [0, 0]
        share = seconds / max(len(word.word), 1)
        for left, right in pairwise(cuts):
            end = min(word.start + share * right, word.start + share * left + cfg.max_seconds)
            yield Word(word.word[left:right], word.start + share * left, end, word.score)


def _wrap(words: Sequence[Word], width: int) -> list[str]:
    """Fill lines from the left."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word.word) <= width:
            lines[-1] += " " + word.word
        else:
            lines.append(word.word)
    return lines


def _balanced(words: Sequence[Word], cfg: CaptionConfig) -> list[str]:
    """Wrap to the narrowest width that needs no further line, so that lines are of about one length."""
    count = len(_wrap(words, cfg.line_chars))
    longest = max(len(word.word) for word in words)
    width = next(w for w in range(longest, cfg.line_chars + 1) if len(_wrap(words, w)) <= count)
    return _wrap(words, width)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def clock(milliseconds: int, separator: str) -> str:
    """Return ``HH:MM:SS`` and milliseconds after ``separator``; hours grow beyond two digits."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{rest:03}"


def to_srt(items: Sequence[Caption]) -> str:
    """Return SubRip text. It has no escapes; an arrow inside a word, which would end a cue, loses a dash."""
    blocks = [
        f"{number}\n{clock(item.start, ',')} --> {clock(item.end, ',')}\n"
        + "\n".join(line.replace("-->", "->") for line in item.lines)
        + "\n"
        for number, item in enumerate(items, 1)
    ]
    return "\n".join(blocks)


def to_vtt(items: Sequence[Caption]) -> str:
    """Return WebVTT; ``&``, ``<`` and ``>`` are escaped (W3C WebVTT, section 4.2.2)."""
    blocks = [
        f"{clock(item.start, '.')} --> {clock(item.end, '.')}\n"
        + "\n".join(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in item.lines)
        + "\n"
        for item in items
    ]
    return "\n".join(["WEBVTT\n", *blocks])
