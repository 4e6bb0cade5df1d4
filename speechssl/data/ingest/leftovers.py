"""Files of a corpus that look like audio or transcripts and were not used: each is listed, with advice.

In: the names of files that no reader used. Out: ledger entries, one per file; one per folder for annotations of many
files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from speechssl.core.ledger import Entry
from speechssl.data.audio.formats import AUDIO_EXTENSIONS

__all__ = ["leftovers"]

_SOX = "give it a header, for instance `sox -t raw -r 16000 -e signed -b 16 -c 1 IN OUT.wav` with its true rate"
_HEADERLESS = {
    ".pcm", ".raw", ".vox", ".ul", ".ulaw", ".al", ".alaw", ".g722", ".g723", ".g729", ".sln", ".s16", ".s16le", ".f32",
    ".adpcm",
}  # fmt: skip
_ARCHIVES = {
    ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tbz2", ".txz", ".lz4",
}  # fmt: skip
_TABLES = {
    ".parquet", ".arrow", ".feather", ".xls", ".xlsx", ".ods", ".sqlite", ".db", ".pkl", ".h5", ".hdf5", ".npz", ".ark",
    ".mat", ".rec", ".tfrecord", ".tfrecords", ".lmdb", ".mdb", ".docx", ".odt", ".pdf", ".yaml", ".yml", ".xml",
}  # fmt: skip
_ANNOTATIONS = {
    ".textgrid", ".srt", ".vtt", ".eaf", ".ctm", ".cha", ".lrc", ".ass", ".sbv", ".ttml", ".trs", ".rttm", ".wrd",
    ".phn", ".ltr", ".mlf", ".sami", ".smi", ".praat", ".exb", ".antx", ".wlab", ".lab", ".cleaned", ".stm", ".trn",
}  # fmt: skip
_TEXTS = {".csv", ".tsv", ".jsonl", ".ndjson", ".psv", ".trans", ".transcription", ".transcripts", ".transcript",
          ".manifest", ".filelist"}  # fmt: skip
_PROMISES = ("transcri", "manifest", "filelist", "metadata", "wav.scp", "prompts", "utterances")
_PACKED = {".gz", ".bz2", ".xz", ".zst", ".lz4"}
_PLAIN = {".txt", ".json", ".stm", ".trn"}
_NAMES = {"text", "trans", "transcript", "transcripts"}
_ORDINARY = {".yaml", ".yml", ".xml", ".pdf", ".pkl", ".npz", ".db", ".gz"}
"""Files that mostly do not belong to the corpus: listed only when their name suggests a transcript."""


def leftovers(names: Iterable[str]) -> list[Entry]:
    """Return an entry for each unused file whose name suggests audio or transcripts, by path."""
    entries = []
    annotations: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(names):
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        promised = path.name.lower() in _NAMES or any(word in path.name.lower() for word in _PROMISES)
        inner = PurePosixPath(path.stem).suffix.lower() if suffix in _PACKED else ""
        if inner in _TEXTS | _PLAIN | AUDIO_EXTENSIONS:
            entries.append(_entry(name, "archive", "compressed files are not opened; unpack it, then run again"))
        elif suffix in _HEADERLESS:
            entries.append(_entry(name, "headerless_audio", f"samples without a header; {_SOX}"))
        elif suffix in _ARCHIVES and (suffix not in _ORDINARY or promised or ".tar" in path.name.lower()):
            entries.append(_entry(name, "archive", "archives are not opened; unpack it here, then run again"))
        elif suffix in _ANNOTATIONS and "phone" not in path.name.lower():  # times of phones are no transcripts
            annotations[str(path.parent), suffix].append(name)
        elif suffix in _TABLES and (suffix not in _ORDINARY or promised):
            detail = f"{suffix} is not read; export it as CSV or JSON lines with the columns path and text"
            entries.append(_entry(name, "unread_table", detail))
        elif suffix in _TEXTS or (promised and suffix in ("", ".txt", ".json", ".lst", ".list", ".tab", ".dat")):
            detail = (
                "too few of its lines name a recording of this folder; check its paths and the names of its columns"
            )
            entries.append(_entry(name, "unused_table", detail))
    for (folder, suffix), members in sorted(annotations.items()):
        detail = (
            f"{len(members)} {suffix} files are not read ({PurePosixPath(members[0]).name} ...); write their texts as "
            "JSON lines with audio, start, duration and text"
        )
        entries.append(_entry(folder if len(members) > 1 else members[0], "unread_annotations", detail))
    return sorted(entries, key=lambda entry: entry.item)


def _entry(item: str, reason: str, detail: str) -> Entry:
    return Entry("manifest", item, reason, detail, "dropped")
