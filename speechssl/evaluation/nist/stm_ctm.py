"""NIST stm references and ctm hypotheses: assigns each recognised word to a reference segment.

In: an stm and a ctm file. Out: a reference and a hypothesis `Transcript` for each segment. As in sclite, the words of a
channel are assigned in the order of time, to the first segment that ends after the middle of the word. Words after the
last segment belong to it. Words in segments marked ``IGNORE_TIME_SEGMENT_IN_SCORING`` are not scored.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.alternatives import Alternatives, Item, parse_markup, untagged
from speechssl.evaluation.nist.files import markup
from speechssl.evaluation.nist.identity import channel_keys, match_ids
from speechssl.evaluation.nist.transcript import Transcript, collect, read_lines

__all__ = ["Grouped", "Segment", "group_words", "read_ctm", "read_stm"]

IGNORED = ("ignore_time_segment_in_scoring", "ignoretimesegmentinscoring")
Channel = tuple[str, str]
"""(file, channel)."""


@dataclass(frozen=True)
class Segment:
    """One line of an stm file."""

    channel: Channel
    start: float
    end: float
    ignored: bool
    transcript: Transcript


@dataclass(frozen=True)
class Word:
    """One line of a ctm file, or the lines of several alternatives."""

    channel: Channel
    start: float
    end: float
    middle: float
    """The middle of the word; for alternatives the latest middle of their words."""
    item: Item
    confidence: float | None
    where: str


@dataclass(frozen=True)
class Grouped:
    """A ctm file cut at the segments of an stm file."""

    hypotheses: dict[str, Transcript]
    """One for every segment that is scored and whose channel is in the ctm file; empty where nothing was recognised."""
    outside: list[Word]
    """Words of channels that the stm file does not have."""
    ignored_words: int
    """Words in segments that are not scored."""
    renamed: dict[Channel, Channel]
    """Channels of the ctm file that are written in another way in the stm file, and how."""


def read_stm(path: Path, *, optional: bool = True) -> list[Segment]:
    """Read ``file channel speaker start end [<labels>] words`` lines, in the order of time within each channel.

    Raises DataError, which names the line, when one is not of this form.
    """
    counted: dict[Channel, int] = {}
    spelled: dict[Hashable, Channel] = {}
    segments: list[Segment] = []
    for where, line in _fields(path):
        parts = line.split(None, 5)
        if len(parts) < 5:
            raise DataError(f"{where}: fewer than the five fields 'file channel speaker start end': {line[:60]!r}")
        start, end = _seconds(parts[3], where), _seconds(parts[4], where)
        if end < start:
            raise DataError(f"{where}: ends at {end:g} s, before it starts ({start:g} s)")
        text = parts[5].strip() if len(parts) > 5 else ""
        labels: tuple[str, ...] = ()
        if text.startswith("<"):
            first, _, text = text.partition(" ")
            labels = tuple(first.strip("<>").split(","))
        channel = _one_spelling((parts[0], parts[1]), spelled)
        counted[channel] = counted.get(channel, 0) + 1
        ignored = any(word in text.lower() for word in IGNORED)
        transcript = Transcript(
            id=f"{channel[0]}-{channel[1]}-{counted[channel]:04d}",
            items=() if ignored else markup(text, where, optional=optional),
            where=where,
            speaker=parts[2],
            duration=round(end - start, 3),
            labels=labels,
        )
        segments.append(Segment(channel, start, end, ignored, transcript))
    collect(segment.transcript for segment in segments)
    return sorted(segments, key=lambda segment: (segment.channel, segment.start, segment.end))


def read_ctm(path: Path, *, optional: bool = True) -> list[Word]:
    """Read ``file channel start duration word [confidence]`` lines, with ``<ALT_BEGIN> <ALT> <ALT_END>``.

    Raises DataError, which names the line, when one is not of this form or alternatives are not closed.
    """
    words: list[Word] = []
    branches: list[list[Word]] | None = None
    opened = ""
    for where, line in _fields(path):
        parts = line.split()
        if len(parts) < 5:
            raise DataError(f"{where}: fewer than the five fields 'file channel start duration word': {line[:60]!r}")
        mark = parts[4].upper()
        if mark == "<ALT_BEGIN>":
            branches, opened = [[]], where
        elif mark.startswith("<ALT") and branches is None:
            raise DataError(f"{where}: {parts[4]} without <ALT_BEGIN>")
        elif mark == "<ALT>" and branches is not None:
            branches.append([])
        elif mark == "<ALT_END>" and branches is not None:
            words.append(_alternatives((parts[0], parts[1]), branches, opened))
            branches = None
        else:
            (words if branches is None else branches[-1]).append(_word(parts, where, optional=optional))
    if branches is not None:
        raise DataError(f"{opened}: <ALT_BEGIN> without <ALT_END>")
    return words


def group_words(segments: Sequence[Segment], words: Iterable[Word]) -> Grouped:
    """Give every word to a segment of its channel; the names of files and channels may differ in case."""
    channels: dict[Channel, list[Segment]] = {}
    for segment in segments:
        channels.setdefault(segment.channel, []).append(segment)
    by_channel: dict[Channel, list[Word]] = {}
    spelled: dict[Hashable, Channel] = {channel_keys[0](channel): channel for channel in channels}
    for word in words:
        by_channel.setdefault(_one_spelling(word.channel, spelled), []).append(word)
    renamed = match_ids(channels, by_channel, channel_keys)
    by_channel = {renamed.get(channel, channel): found for channel, found in by_channel.items()}
    outside = [word for channel, found in by_channel.items() if channel not in channels for word in found]
    renamed |= {w.channel: name for name, found in by_channel.items() for w in found if w.channel != name in channels}
    hypotheses: dict[str, Transcript] = {}
    ignored_words = 0
    for channel, spans in channels.items():
        if channel not in by_channel:
            continue
        groups: list[list[Word]] = [[] for _ in spans]
        current = 0
        for word in sorted(by_channel[channel], key=lambda word: word.start):
            while current < len(spans) - 1 and word.middle >= spans[current].end:
                current += 1
            groups[current].append(word)
        for segment, group in zip(spans, groups, strict=True):
            if segment.ignored:
                ignored_words += len(group)
            else:
                hypotheses[segment.transcript.id] = _hypothesis(segment, group)
    return Grouped(hypotheses, outside, ignored_words, renamed)


def _one_spelling(channel: Channel, spelled: dict[Hashable, Channel]) -> Channel:
    """Return the first spelling of a channel; others in another case are the same one, as for sclite."""
    return spelled.setdefault(channel_keys[0](channel), channel)


def _hypothesis(segment: Segment, group: Sequence[Word]) -> Transcript:
    plain = all(isinstance(word.item, str) for word in group)
    known = [word.confidence for word in group if word.confidence is not None]
    return replace(
        segment.transcript,
        items=tuple(word.item for word in group),
        where=group[0].where if group else segment.transcript.where,
        times=tuple((word.start, word.end) for word in group) if plain else (),
        confidences=tuple(known) if plain and len(known) == len(group) else (),
    )


def _fields(path: Path) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield f"{path}, line {number}", line


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise DataError(f"{where}: {text!r} is not a time in seconds")
    return value


def _word(parts: Sequence[str], where: str, *, optional: bool) -> Word:
    start, duration = _seconds(parts[2], where), _seconds(parts[3], where)
    confidence = None
    if len(parts) > 5 and parts[5].upper() != "NA":
        confidence = _seconds(parts[5], where) if parts[5][:1] != "-" else None
        if confidence is not None and confidence > 1:
            raise DataError(f"{where}: the confidence {parts[5]} is not between 0 and 1")
    word = untagged(parts[4])
    items = parse_markup(word, optional=optional) if word[:1] == "(" else (word,)
    return Word((parts[0], parts[1]), start, start + duration, start + duration / 2, items[0], confidence, where)


def _alternatives(channel: Channel, branches: Sequence[Sequence[Word]], where: str) -> Word:
    spoken = [word for branch in branches for word in branch]
    if not spoken:
        raise DataError(f"{where}: alternatives without a word")
    return Word(
        channel=channel,
        start=min(word.start for word in spoken),
        end=max(word.end for word in spoken),
        middle=max(word.middle for word in spoken),
        item=Alternatives(tuple(tuple(word.item for word in branch) for branch in branches)),
        confidence=None,
        where=where,
    )
