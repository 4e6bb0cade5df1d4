"""Readers of the LibriSpeech family: folders SUBSET/SPEAKER/CHAPTER with a transcript file or a sidecar.

In: a ``Tree``. Out: a ``Reading`` whose ids are those of the corpus (``1272-128104-0000``).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

from speechssl.data.ingest.public.reading import Reading, Tree, is_audio
from speechssl.data.ingest.public.recipes import Recipe
from speechssl.data.ingest.rows import clean_text

__all__ = ["read_librilight", "read_librispeech", "read_libritts", "read_mls"]

_LANGUAGES = {
    "english": "en", "german": "de", "dutch": "nl", "french": "fr", "spanish": "es", "italian": "it",
    "portuguese": "pt", "polish": "pl",
}  # fmt: skip
_BOOK = r"(?P<speaker>\d+)/(?P<chapter>\d+)/"
_UTTERANCE = _BOOK + r"(?P<id>(?P=speaker)-(?P=chapter)-\d+)\.\w+"


def read_librispeech(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``dev-clean/1272/128104/1272-128104-0000.flac`` and ``1272-128104.trans.txt`` beside it."""
    reading = Reading(recipe.code)
    counts: dict[str, int] = defaultdict(int)
    transcripts = _Transcripts(tree, reading)
    for name, match in tree.match(rf"(?P<subset>(?:train|dev|test)-(?:clean|other)[-\d]*)/{_UTTERANCE}"):
        if match["subset"] in tree.subsets and is_audio(name):
            counts[match["subset"]] += 1
            split = match["subset"].split("-")[0]
            text = transcripts.take(name, match["id"])
            reading.say(name, id=match["id"], text=text, speaker=match["speaker"], split=split, subset=match["subset"],
                        meta={"subset": match["subset"]})  # fmt: skip
    transcripts.rest(rf"(?P<subset>{'|'.join(sorted(tree.subsets))})/{_BOOK}[\d-]+\.trans\.txt")
    for part in recipe.parts:
        if counts[part.name]:
            reading.count(part.name, counts[part.name], part.utterances)
    return reading


class _Transcripts:
    """The ``.trans.txt`` beside each recording, and their rows that no recording has used yet."""

    def __init__(self, tree: Tree, reading: Reading) -> None:
        self.tree, self.reading = tree, reading
        self.files = set(tree.files)
        self.read: dict[str, dict[str, str]] = {}

    def take(self, audio: str, name: str) -> str | None:
        """Return the transcript of a recording, once."""
        return self._open(str(PurePosixPath(audio).parent / f"{name.rsplit('-', 1)[0]}.trans.txt")).pop(name, None)

    def rest(self, pattern: str) -> None:
        """List the rows of the wanted transcript files that are left over."""
        for path, _ in self.tree.match(pattern):
            for name in self._open(path):
                self.reading.absent(path, name)

    def _open(self, path: str) -> dict[str, str]:
        if path not in self.read:
            self.read[path] = self.reading.pairs(self.tree, path) if path in self.files else {}
        return self.read[path]


def read_librilight(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``1h/0/clean/...`` to ``1h/5/other/...`` and ``9h/...``; six lists of ten minutes, one of 1 h, one of 10 h.

    As in torchaudio, the list ``10min`` is the first of the six. All are parts of LibriSpeech's
    train (Kahn et al. 2020, section 2.3).
    """
    reading = Reading(recipe.code)
    transcripts = _Transcripts(tree, reading)
    lists: dict[str, list[str]] = defaultdict(list)
    for name, match in tree.match(rf"(?P<part>1h/[0-5]|9h)/(?P<kind>clean|other)/{_UTTERANCE}"):
        wanted = {"1h/0": {"10min", "1h", "10h"}, "9h": {"10h"}}.get(match["part"], {"1h", "10h"})
        if not wanted & tree.subsets or not is_audio(name):
            continue
        text = transcripts.take(name, match["id"])
        meta = {"subset": f"{match['part']}/{match['kind']}"}
        reading.say(name, id=match["id"], text=text, speaker=match["speaker"], split="train", meta=meta)
        reading.seen |= wanted
        own = f"10min-{match['part'][-1]}" if match["part"] != "9h" else "9h"
        for label in {own} | (wanted & tree.subsets):
            lists[label].append(match["id"])
    folders = ["1h/0"] if tree.subsets == {"10min"} else ["1h/[0-5]"] + ["9h"] * ("10h" in tree.subsets)
    transcripts.rest(rf"(?:{'|'.join(folders)})/(?:clean|other)/{_BOOK}[\d-]+\.trans\.txt")
    reading.lists = dict(sorted(lists.items()))
    return reading


def read_libritts(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``dev-clean/84/121123/84_121123_000007_000001.wav`` and its ``.normalized.txt``."""
    reading = Reading(recipe.code)
    pattern = rf"(?P<subset>(?:train|dev|test)-(?:clean|other)[-\d]*)/{_BOOK}(?P<id>(?P=speaker)_(?P=chapter)_\d+_\d+)"
    counts: dict[str, int] = defaultdict(int)
    files = set(tree.files)
    spoken: set[str] = set()
    for name, match in tree.match(pattern + r"\.\w+"):
        if match["subset"] in tree.subsets and is_audio(name):
            counts[match["subset"]] += 1
            stem = str(PurePosixPath(name).with_suffix(""))
            spoken.add(stem)
            meta = {"subset": match["subset"]}
            if f"{stem}.original.txt" in files:
                meta["original_text"] = _whole(reading, tree, f"{stem}.original.txt") or ""
            text = _whole(reading, tree, f"{stem}.normalized.txt") if f"{stem}.normalized.txt" in files else None
            split = match["subset"].split("-")[0]
            reading.say(name, id=match["id"], text=text, speaker=match["speaker"], split=split, meta=meta,
                        subset=match["subset"])  # fmt: skip
    for name, match in tree.match(pattern + r"\.normalized\.txt"):
        if match["subset"] in tree.subsets and name.removesuffix(".normalized.txt") not in spoken:
            reading.absent(name, match["id"])
    for part in recipe.parts:
        if counts[part.name]:
            reading.count(part.name, counts[part.name], part.utterances)
    return reading


def _whole(reading: Reading, tree: Tree, name: str) -> str | None:
    """Return a text file as one line."""
    return clean_text(" ".join(line for _, line in reading.lines(tree, name))) or None


def read_mls(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``mls_german/test/audio/1844/931/1844_931_000000.flac`` and ``test/transcripts.txt``.

    The limited supervision (``train/limited_supervision/1hr/0/handles.txt`` ...) becomes lists of ids.
    """
    reading = Reading(recipe.code)
    texts: dict[str, dict[str, str]] = {}
    for name, match in tree.match(r"(?P<split>train|dev|test)/transcripts\.txt"):
        if match["split"] in tree.subsets:
            texts[str(PurePosixPath(name).parent)] = reading.pairs(tree, name)
    pattern = rf"(?P<split>train|dev|test)/audio/{_BOOK}(?P<id>(?P=speaker)_(?P=chapter)_\d+)\.\w+"
    for name, match in tree.match(pattern):
        if match["split"] not in tree.subsets or not is_audio(name):
            continue
        folder = str(PurePosixPath(name).parents[3])
        language = _mls_language(tree.full(folder))
        text = texts.get(folder, {}).pop(match["id"], None)
        reading.say(name, id=match["id"], text=text, speaker=match["speaker"], split=match["split"], language=language,
                    subset=match["split"])  # fmt: skip
    for folder, left in texts.items():
        for key in left:
            reading.absent(f"{folder}/transcripts.txt", key)
    lists: dict[str, list[str]] = defaultdict(list)
    for name, match in tree.match(r"limited_supervision/(?P<hours>[19]hr)(?:/(?P<part>\d+))?/handles\.txt"):
        language = _mls_language(tree.full(name))
        handles = [line.strip() for _, line in reading.lines(tree, name)]
        whole = "-".join(filter(None, ("limited", match["hours"], language)))
        lists[whole] += handles
        if match["part"]:
            lists[f"{whole}-{match['part']}"] += handles
    reading.lists = dict(sorted(lists.items()))
    return reading


def _mls_language(path: str) -> str | None:
    """Return the language of ``mls_german/...`` or ``mls_german_opus/...``."""
    for folder in PurePosixPath(path).parts:
        if folder.startswith("mls_"):
            return _LANGUAGES.get(folder.split("_")[1])
    return None
