"""Files of words with times: text, JSON, JSON lines, NIST CTM, Praat TextGrid, SRT and WebVTT.

In: a ``Transcript``. Out: the content of one file. Times are rounded to milliseconds (CTM: as NIST sctk reads them).
"""

import json
from collections.abc import Callable

from speechssl.asr.transcription.captions import captions, to_srt, to_vtt
from speechssl.asr.transcription.transcript import Transcript, to_row
from speechssl.config import CaptionConfig
from speechssl.core.errors import ConfigError

__all__ = ["JOINABLE", "SUFFIXES", "parse_formats", "render"]

SUFFIXES = {
    "text": ".txt",
    "json": ".json",
    "jsonl": ".jsonl",
    "ctm": ".ctm",
    "textgrid": ".TextGrid",
    "srt": ".srt",
    "vtt": ".vtt",
}
"""Formats and the ends of their files' names."""

JOINABLE = frozenset({"jsonl", "ctm"})
"""Formats whose files may follow each other in one stream."""


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats of a list separated by commas, each once.

    Raises ConfigError when one of them is unknown, or there is none.
    """
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in SUFFIXES]
    if unknown or not names:
        said = f"unknown format {unknown[0]!r}" if unknown else "no format"
        raise ConfigError(f"{said}; choose one or more of {', '.join(SUFFIXES)}, separated by commas")
    return names


def render(transcript: Transcript, kind: str, *, name: str, cfg: CaptionConfig) -> str:
    """Return the content of a file of a kind of ``SUFFIXES``, for a transcript without error.

    CTM calls the recording ``name``; spaces in it become ``_``. ``cfg`` has the limits of captions.
    """
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: transcript.text + "\n",
        "json": lambda: json.dumps(to_row(transcript), ensure_ascii=False, indent=1) + "\n",
        "jsonl": lambda: json.dumps(to_row(transcript), ensure_ascii=False) + "\n",
        "ctm": lambda: _ctm(transcript, "_".join(name.split()) or "-"),
        "textgrid": lambda: _textgrid(transcript),
        "srt": lambda: to_srt(captions(transcript.words, cfg)),
        "vtt": lambda: to_vtt(captions(transcript.words, cfg)),
    }
    return writers[kind]()


def _ctm(transcript: Transcript, name: str) -> str:
    """Lines of recording, channel, start, duration, word, confidence (NIST sctk, ctm.5)."""
    name = name.lstrip(";") or "-"  # ;; begins a comment
    return "".join(
        f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.word} {word.score:.3f}\n"
        for word in transcript.words
    )


def _intervals(transcript: Transcript) -> list[tuple[int, int, str]]:
    """Return intervals in milliseconds that cover the recording without gap or overlap; silence has no text."""
    found: list[tuple[int, int, str]] = []
    now, total = 0, round(transcript.duration * 1000)
    for word in transcript.words:
        start, end = max(now, round(word.start * 1000)), round(word.end * 1000)
        if end <= start:
            end = start + 1
        if start > now:
            found.append((now, start, ""))
        found.append((start, end, word.word))
        now = end
    if total > now or not found:
        found.append((now, max(total, now + 1), ""))
    return found


def _textgrid(transcript: Transcript) -> str:
    """Praat's long text format with one interval tier; a quote inside a text is written twice."""
    intervals = _intervals(transcript)
    end = _seconds(intervals[-1][1])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "words"',
        "        xmin = 0",
        f"        xmax = {end}",
        f"        intervals: size = {len(intervals)}",
    ]
    for number, (left, right, text) in enumerate(intervals, 1):
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {_seconds(left)}",
            f"            xmax = {_seconds(right)}",
            '            text = "{}"'.format(text.replace('"', '""')),
        ]
    return "\n".join(lines) + "\n"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")
