"""Small independent readers of the files that words in time are written to, as strict as the formats' descriptions.

SubRip (cues, blank line between), W3C WebVTT section 6.1 (cues and escapes), NIST CTM (sctk's ctm.5), Praat's long text
format of TextGrids (a sequence of values; everything else is comment).
"""

import re
from dataclasses import dataclass

__all__ = ["Cue", "read_ctm", "read_srt", "read_textgrid", "read_vtt"]


@dataclass(frozen=True)
class Cue:
    start: float
    end: float
    lines: tuple[str, ...]


def _seconds(stamp: str, mark: str) -> float:
    found = re.fullmatch(rf"(\d{{2,}}):([0-5]\d):([0-5]\d)\{mark}(\d{{3}})", stamp)
    assert found, f"no time: {stamp!r}"
    hours, minutes, seconds, rest = map(int, found.groups())
    return ((hours * 60 + minutes) * 60 + seconds) + rest / 1000


def _cue(lines: list[str], mark: str) -> Cue:
    left, right = lines[0].split(" --> ")
    assert all("-->" not in line and line.strip() for line in lines[1:])
    return Cue(_seconds(left, mark), _seconds(right, mark), tuple(lines[1:]))


def read_srt(text: str) -> list[Cue]:
    if not text:
        return []
    assert text.endswith("\n")
    blocks = text.removesuffix("\n").split("\n\n")
    for number, block in enumerate(blocks, 1):
        assert block.split("\n")[0] == str(number)
    return [_cue(block.split("\n")[1:], ",") for block in blocks]


def read_vtt(text: str) -> list[Cue]:
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head.strip() == "WEBVTT"
    cues = []
    for block in blocks:
        cue = _cue(block.split("\n"), ".")
        for line in cue.lines:
            assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", line), f"not escaped: {line!r}"
        plain = [re.sub("&(amp|lt|gt);", lambda m: {"amp": "&", "lt": "<", "gt": ">"}[m[1]], x) for x in cue.lines]
        cues.append(Cue(cue.start, cue.end, tuple(plain)))
    return cues


def read_ctm(text: str) -> list[tuple[str, str, float, float, str, float | None]]:
    rows = []
    for line in text.split("\n"):
        if not line or line.startswith(";;"):
            continue
        fields = line.split(" ")
        assert len(fields) in (5, 6), line
        name, channel, start, length, word = fields[:5]
        rows.append((name, channel, float(start), float(length), word, float(fields[5]) if len(fields) == 6 else None))
    return rows


def read_textgrid(text: str) -> list[tuple[str, float, float, list[tuple[float, float, str]]]]:
    """Return (name, xmin, xmax, intervals) of each tier, from the values alone, as Praat reads them."""
    values = re.findall(r'"((?:[^"]|"")*)"|<(exists|absent)>|(?<![\w\[.])(-?\d+(?:\.\d+)?)(?![\w\].])', text)
    stream = iter([("s", a.replace('""', '"')) if not (b or c) else ("f", b) if b else ("n", c) for a, b, c in values])

    def take(kind: str) -> str:
        found, value = next(stream)
        assert found == kind, (found, kind, value)
        return value

    assert (take("s"), take("s")) == ("ooTextFile", "TextGrid")
    low, high = float(take("n")), float(take("n"))
    assert take("f") == "exists"
    tiers = []
    for _ in range(int(take("n"))):
        assert take("s") == "IntervalTier"
        name, left, right = take("s"), float(take("n")), float(take("n"))
        assert (left, right) == (low, high)
        intervals = [(float(take("n")), float(take("n")), take("s")) for _ in range(int(take("n")))]
        tiers.append((name, left, right, intervals))
    assert next(stream, None) is None
    return tiers
