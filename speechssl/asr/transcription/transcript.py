"""The transcript of one recording: its words with times, or the reason why there are none.

In: what a decoder or an aligner found. Out: a record that the word files (wordfiles.py) are written from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speechssl.asr.transcription.forced_alignment import Word
from speechssl.core.errors import AudioError

__all__ = ["Transcript", "from_row", "to_row"]


@dataclass(frozen=True)
class Transcript:
    """The transcription of one file."""

    path: str
    text: str
    words: tuple[Word, ...] = ()
    """In seconds from the start of the file, in order, without overlap."""
    duration: float = 0.0
    """Seconds of audio."""
    error: AudioError | None = None
    """Why the file could not be transcribed; ``text`` is then empty."""


def to_row(transcript: Transcript) -> dict[str, Any]:
    """Return plain JSON values, times to the millisecond, of a transcript without error."""
    words = [
        {"word": word.word, "start": round(word.start, 3), "end": round(word.end, 3), "score": round(word.score, 3)}
        | ({} if word.spelled else {"spelled": False})
        for word in transcript.words
    ]
    return {"path": transcript.path, "text": transcript.text, "duration": transcript.duration, "words": words}


def from_row(row: Mapping[str, Any]) -> Transcript:
    """Return the transcript that ``to_row`` wrote; other fields are ignored.

    Raises KeyError or TypeError when the row is not from ``to_row``.
    """
    words = tuple(
        Word(str(w["word"]), float(w["start"]), float(w["end"]), float(w["score"]), bool(w.get("spelled", True)))
        for w in row["words"]
    )
    return Transcript(row["path"], row["text"], words, float(row["duration"]))
