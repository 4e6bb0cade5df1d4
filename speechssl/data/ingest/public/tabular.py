"""Readers of corpora with tables: Common Voice, FLEURS, VoxPopuli, LJ Speech, TED-LIUM.

In: a ``Tree``. Out: a ``Reading`` with the splits of the tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from speechssl.data.ingest.public.reading import Reading, Tree, is_audio
from speechssl.data.ingest.public.recipes import Recipe
from speechssl.data.ingest.rows import Row, clean_text
from speechssl.data.ingest.tables import parse_table

__all__ = ["read_common_voice", "read_fleurs", "read_ljspeech", "read_tedlium", "read_voxpopuli"]

_CAUTION = ("test", "dev", "train")
"""A recording in two tables belongs to the first of these."""
_EXTRA = "extra"
"""Split of validated clips whose speaker is in dev or test: in none of the three, so that each stays as published."""


def _parent(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _join(folder: str, *parts: str) -> str:
    return str(PurePosixPath(folder, *parts))


def _rows(reading: Reading, tree: Tree, name: str) -> list[Row]:
    """Return the rows of a table with a header."""
    table, entries = parse_table(name, reading.text(tree, name), lambda _: False)
    reading.entries += entries
    if table is None or not table.certain:
        reading.note(name, "unreadable_text", "no header that names the audio and its text")
        return []
    return list(table.rows)


def read_common_voice(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``LANGUAGE/{train,dev,test,...}.tsv`` and ``LANGUAGE/clips``; splits exactly as published.

    ``validated`` adds the clips that are in no split: to train, or to ``extra`` when their speaker is in dev or test.
    ``other`` and ``invalidated`` add unlabelled audio under the same rule.
    """
    reading = Reading(recipe.code)
    files = set(tree.files)
    folders = sorted({_parent(name) for name, _ in tree.match(r"(?:train|dev|test|validated)\.tsv")})
    for folder in folders:
        speakers: dict[str, str] = {}
        taken: dict[str, str] = {}
        for table in (*_CAUTION, "validated", "other", "invalidated"):
            name = _join(folder, f"{table}.tsv")
            official = table in _CAUTION
            if name not in files or not (official or table in tree.subsets):
                continue  # the official tables are always read: they assign speakers to splits
            for row in _rows(reading, tree, name):
                clip = _join(folder, "clips", row.key)
                clip = clip if is_audio(clip) else f"{clip}.mp3"
                split = table if official else _EXTRA if speakers.get(row.speaker or "") in ("test", "dev") else "train"
                if official and row.speaker:
                    speakers.setdefault(row.speaker, table)
                if clip in taken:
                    if official and taken[clip] != table:
                        detail = f"in {taken[clip]}.tsv and in {table}.tsv; {taken[clip]} is used"
                        reading.note(clip, "conflicting_splits", detail, "repaired")
                elif official and table not in tree.subsets:
                    taken[clip] = table
                elif clip not in files:
                    reading.absent(f"{name}:{row.line}", row.key)
                else:
                    taken[clip] = table
                    language = row.language or PurePosixPath(tree.full(folder)).name
                    reading.say(clip, id=PurePosixPath(clip).stem, text=row.text, speaker=row.speaker, split=split,
                                language=language, meta=row.meta, subset=table,
                                labelled=table in (*_CAUTION, "validated"))  # fmt: skip
    return reading


def read_fleurs(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``fr_fr/test.tsv`` (id, file, raw text, text, characters, samples, gender; no header) and its audio."""
    reading = Reading(recipe.code)
    files = set(tree.files)
    for name, match in tree.match(r"(?P<language>[a-z]{2,4}(?:_[a-z0-9]+)*)/(?P<split>train|dev|test)\.tsv"):
        split, folder = match["split"], _parent(name)
        if split not in tree.subsets:
            continue
        places = [_join(folder, *parts) for parts in (("audio", split), (split,), ("audio",))]
        used = set()
        for number, line in reading.lines(tree, name):
            cells = line.split("\t")
            if len(cells) < 4:
                reading.note(f"{name}:{number}", "bad_row", f"{len(cells)} columns; expected at least 4")
                continue
            found = next((path for place in places if (path := _join(place, cells[1])) in files), None)
            if found is None:
                reading.absent(f"{name}:{number}", cells[1])
                continue
            used.add(found)
            meta = {"sentence": cells[0], "raw_text": clean_text(cells[2])}
            meta |= {"gender": cells[6].strip().lower()} if len(cells) > 6 else {}
            key = f"{match['language']}-{split}-{PurePosixPath(found).stem}"
            text = clean_text(cells[3]) or None
            reading.say(found, id=key, text=text, split=split, language=match["language"], meta=meta,
                        subset=split)  # fmt: skip
        for path in tree.files:
            if _parent(path) in places[:2] and is_audio(path) and path not in used:
                reading.say(path, text=None, split=split, language=match["language"], subset=split)
    return reading


def read_voxpopuli(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``transcribed_data/de/asr_test.tsv`` and ``transcribed_data/de/2019/ID.ogg``."""
    reading = Reading(recipe.code)
    for name, match in tree.match(r"(?P<language>[a-z]{2,3})/asr_(?P<split>train|dev|test)\.tsv"):
        if match["split"] not in tree.subsets:
            continue
        below = f"{_parent(name)}/" if "/" in name else ""
        audio = {PurePosixPath(f).stem: f for f in tree.files if f.startswith(below) and is_audio(f)}
        for row in _rows(reading, tree, name):
            path = audio.get(row.key)
            if path is None:
                reading.absent(f"{name}:{row.line}", row.key)
                continue
            speaker = None if row.speaker in ("None", "") else row.speaker
            reading.say(path, id=row.key, text=row.text, speaker=speaker, split=match["split"],
                        language=match["language"], meta=row.meta, subset=match["split"])  # fmt: skip
    return reading


def read_ljspeech(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``metadata.csv`` (id|text|normalised text) and ``wavs/ID.wav``."""
    reading = Reading(recipe.code, official=False)
    for name, _ in tree.match(r"metadata\.csv"):
        wavs = _join(_parent(name), "wavs") + "/"
        audio = {PurePosixPath(f).stem: f for f in tree.files if f.startswith(wavs) and is_audio(f)}
        for number, line in reading.lines(tree, name):
            key, *texts = line.split("|")
            if key not in audio:
                reading.absent(f"{name}:{number}", key)
                continue
            text = clean_text(texts[-1]) if texts else ""
            meta = {"raw_text": clean_text(texts[0])} if len(texts) > 1 else {}
            reading.say(audio.pop(key), id=key, text=text or None, speaker="LJ", meta=meta, subset="all")
        for key, path in audio.items():
            reading.say(path, id=key, text=None, speaker="LJ", subset="all")
        reading.count("all", len(reading.said), recipe.parts[0].utterances)
    return reading


_STM = re.compile(
    r"(?P<talk>\S+)\s+\S+\s+(?P<speaker>\S+)\s+(?P<start>[\d.]+)\s+(?P<end>[\d.]+)\s+(?:<[^>]*>\s+)?(?P<text>.*)"
)
_UNKNOWN = re.compile(r"<unk>|\(\d+\)|\{[^}]*\}")


def read_tedlium(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``{train,dev,test}/stm/TALK.stm`` (release 3: ``data`` and ``legacy``) and the talks in ``sph``.

    Words that the corpus marks ``<unk>`` are taken out of their transcripts and counted in ``meta.unknown_words``;
    segments marked ``ignore_time_segment_in_scoring`` are left out.
    """
    reading = Reading(recipe.code)
    files = set(tree.files)
    talks = {PurePosixPath(f).stem: f for f in reversed(tree.files) if "/sph/" in f"/{f}" and is_audio(f)}
    read: set[tuple[str, str]] = set()
    found = [(name, m, _release(tree.full(name))) for name, m in tree.match(r"(?P<part>\w+)/stm/(?P<talk>[^/]+)\.stm")]
    order = {
        "test": 0,
        "dev": 1,
        "train": 2,
        "data": 3,
    }  # data holds every talk; dev and test were assigned before
    for name, match, release in sorted(found, key=lambda item: (order.get(item[1]["part"], 9), item[0])):
        wanted = release is None or release in tree.subsets
        if not wanted or match["part"] not in order or (release or "", match["talk"]) in read:
            continue
        read.add((release or "", match["talk"]))
        beside = [_join(_parent(_parent(name)), "sph", f"{match['talk']}{end}") for end in (".sph", ".wav", ".flac")]
        audio = next((path for path in beside if path in files), talks.get(match["talk"]))
        split = "train" if match["part"] == "data" else match["part"]
        if audio is None:
            reading.absent(name, match["talk"])
            continue
        for number, speaker, span, words in _segments(reading, tree, name):
            unknown = len(re.findall("<unk>", words))
            text = clean_text(_UNKNOWN.sub(" ", words).replace(" '", "'"))
            if unknown:
                detail = f"{unknown} unknown words taken out of the transcript"
                reading.note(f"{name}:{number}", "unknown_words", detail, "repaired")
            meta = {"unknown_words": unknown} if unknown else {}
            reading.say(audio, id=f"{match['talk']}-{number:04d}", text=text or None, speaker=speaker, split=split,
                        span=span, meta=meta)  # fmt: skip
        reading.seen |= {release} if release else set(tree.subsets)
    return reading


def _segments(reading: Reading, tree: Tree, name: str) -> Iterator[tuple[int, str, tuple[float, float], str]]:
    """Yield (line, speaker, (start, duration), words) of an stm file (NIST sclite's format)."""
    for number, line in reading.lines(tree, name):
        match = _STM.match(line.strip())
        if match is None or float(match["end"]) <= float(match["start"]):
            if not line.startswith(";;"):
                reading.note(f"{name}:{number}", "bad_row", "not: talk channel speaker start end <labels> words")
        elif match["text"] == "ignore_time_segment_in_scoring":
            continue
        else:
            start = float(match["start"])
            yield number, match["speaker"], (start, float(match["end"]) - start), match["text"]


def _release(path: str) -> str | None:
    """Return ``release3`` of ``TEDLIUM_release-3/...``; None where the folder has another name."""
    match = re.search(r"TEDLIUM_release-?(\d)", path)
    return f"release{match[1]}" if match else None
