"""One line of a transcript table of any format: what it says about one recording.

In: the named fields of a line, under any of the names that corpora use. Out: a Row, its text in NFC.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from speechssl.data.ingest.text.characters import visible

__all__ = ["FIELDS", "Row", "clean_text", "field_name", "row_from_fields"]

FIELDS: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "path", "audio_filepath", "audio_path", "audio_file", "file", "file_name", "filename",
              "filepath", "file_path", "wav", "wav_path", "wav_file", "wav_filename", "recording", "audio_filename",
              "audiofile", "audio_name", "wavfile", "wav_filepath", "clip", "clip_path", "recording_path",
              "recording_id"),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text", "text_normalized", "words", "wrd",
             "normalized_transcript", "normalized_transcription", "raw_transcription", "src_text", "tgt_text", "trans"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id", "speakerid", "reader_id", "reader",
                "speaker_name"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "subset", "partition"),
    "id": ("id", "utt_id", "utterance_id", "uttid", "audio_id", "key", "utt", "file_id", "segment_id"),
    "start": ("start", "offset", "start_time", "begin", "begin_time"),
    "end": ("end", "end_time", "stop", "stop_time"),
    "duration": ("duration", "dur"),
    "meta": ("meta",),
    "": ("sample_rate", "samplerate", "channels", "num_channels"),  # measured from the audio, never taken from the row
}  # fmt: skip
"""Names of columns and JSON fields, in order of preference; the first one present is used, others stay in ``meta``."""

_TRANSLATED = {
    "audio": "audiodatei datei dateiname fichier archivo arquivo файл аудио 文件 文件名 音频 ファイル 音声",
    "text": "texte texto testo tekst текст транскрипция 文本 转写 テキスト transkript transkription satz phrase frase",
    "speaker": "sprecher locuteur locutor hablante parlante диктор спикер 说话人 話者",
}
_ENGLISH = {word: role for role, words in _TRANSLATED.items() for word in words.split()}
_SAMPLE_RATES = range(4_000, 192_001)


@dataclass(frozen=True)
class Row:
    """The fields of one line about one recording."""

    key: str
    """Path, file name or stem of the recording, as written."""
    line: int
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    id: str | None = None
    span: tuple[float, float | None] | None = None
    """(start, duration or None for the rest) in seconds, when the line is about a part of the recording."""
    meta: dict[str, Any] = field(default_factory=dict)


def clean_text(text: str) -> str:
    """Return a transcript in NFC, with single spaces, without invisible, control or unpaired characters."""
    text = visible(unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")))
    return unicodedata.normalize("NFC", " ".join(text.split()))


def field_name(written: str) -> str:
    """Return the name of a column as ``FIELDS`` has it: lower case, underscores, the usual foreign words in English."""
    name = re.sub(r"[\s-]+", "_", written.strip().lower().lstrip("\ufeff"))
    return _ENGLISH.get(name, name)


def row_from_fields(fields: dict[Any, Any], line: int, split: str | None, *, empty_is_text: bool) -> Row:
    """Convert the fields of a line into a row; ValueError names the fault."""
    by_name = {field_name(str(key)): key for key in reversed(list(fields))}
    taken: dict[str, Any] = {}
    used = set()
    for role, names in FIELDS.items():
        present = [by_name[n] for n in names if n in by_name and fields[by_name[n]] is not None]
        if role == "text" and len(present) > 1:  # lists of aligned words are given beside the text
            present = [key for key in present if isinstance(fields[key], str)] or present
        used |= set(present) if role == "" else set(present[:1])
        if role and present:
            taken[role] = fields[present[0]]
    audio = taken.get("audio", taken.get("id"))
    if isinstance(audio, dict):
        if "start" in audio or "stop" in audio:  # SpeechBrain: samples of an unknown rate
            raise ValueError("start and stop of the audio count samples; name start and duration in seconds instead")
        audio = next((audio[name] for name in ("path", "file") if audio.get(name)), None)
    if not isinstance(audio, str | int) or not str(audio).strip():
        raise ValueError("no field names the audio file")
    text = taken.get("text")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the transcript is not a string but {text!r}")
    text = None if text is None else clean_text(text)
    own_meta = taken["meta"] if isinstance(taken.get("meta"), dict) else {}
    rest = {str(k): v for k, v in fields.items() if k not in used and k is not None and v not in (None, "")}
    return Row(
        key=str(audio).strip(),
        line=line,
        text=text if text or empty_is_text else None,
        speaker=_word(taken.get("speaker")),
        language=_word(taken.get("language")),
        split=_word(taken.get("split")) or split,
        id=_word(taken.get("id")),
        span=_span(taken),
        meta={**own_meta, **rest},
    )


def _word(value: Any) -> str | None:
    return clean_text(str(value)) or None if isinstance(value, str | int) and not isinstance(value, bool) else None


def _span(taken: dict[str, Any]) -> tuple[float, float | None] | None:
    """Return the part of the recording that a line describes; a duration alone describes the whole file.

    A start and an end whose distance is a sampling rate times the duration count samples (SpeechBrain's VoxCeleb).
    """
    if "start" not in taken and "end" not in taken:
        return None
    try:
        start = float(taken.get("start", 0.0))
        end = None if taken.get("end") is None else float(taken["end"])
        duration = float(taken["duration"]) if "duration" in taken else None
    except (TypeError, ValueError) as error:
        raise ValueError("start, end or duration is not a number of seconds") from error
    if end is not None and end >= 0:  # -1: to the end of the recording
        length = end - start
        if duration and round(length / duration) in _SAMPLE_RATES:
            start *= duration / length
        duration = length if duration is None else duration
    if not 0 <= start < 1e7 or not (duration is None or 0 < duration < 1e7):
        raise ValueError(f"start {start} s and duration {duration} s cannot be a part of a recording")
    return start, duration
