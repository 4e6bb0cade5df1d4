"""Readers of corpora whose folders and file names hold all metadata: Speech Commands, VCTK, YesNo.

In: a ``Tree``. Out: a ``Reading``.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from speechssl.data.ingest.public.reading import Reading, Tree, is_audio
from speechssl.data.ingest.public.recipes import Recipe
from speechssl.data.ingest.rows import clean_text

__all__ = ["read_speech_commands", "read_vctk", "read_yesno"]


def read_speech_commands(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``WORD/SPEAKER_nohash_N.wav`` with the splits of ``validation_list.txt`` and ``testing_list.txt``.

    The transcript is the word (Warden 2018, section 5); recordings in ``_background_noise_`` are not speech.
    """
    reading = Reading(recipe.code)
    lists = {"validation_list.txt": "dev", "testing_list.txt": "test"}
    roots = {str(PurePosixPath(name).parent): [] for name, _ in tree.match("testing_list\\.txt")}  # type: dict[str, list[str]]
    for root in roots:
        version = next((part.name for part in recipe.parts if part.name in tree.full(root)), None)
        if version is not None and version not in tree.subsets:
            continue
        inside = "" if root == "." else f"{root}/"
        splits: dict[str, str] = {}
        for file, split in lists.items():
            if f"{inside}{file}" not in tree.files:
                reading.note(f"{inside}{file}", "missing_list", f"without it the {split} recordings count as train")
                continue
            splits |= {inside + line.strip(): split for _, line in reading.lines(tree, f"{inside}{file}")}
        count = 0
        for name in tree.files:
            path = PurePosixPath(name)
            if not name.startswith(inside) or not is_audio(name) or str(path.parent.parent) != root:
                continue
            speaker, mark, number = path.stem.partition("_nohash_")
            if not mark:
                reading.note(name, "background_noise", "no recording of a word", "dropped")
                continue
            count += 1
            word = path.parent.name
            reading.say(name, id=f"{word}-{speaker}-{number}", text=word, speaker=speaker,
                        split=splits.pop(name, "train"), subset=version or "")  # fmt: skip
        for name, split in splits.items():
            reading.note(name, "missing_audio", f"listed for {split}, not in the folder")
        if version is not None:
            (part,) = recipe.choose((version,))
            reading.count(version, count, part.utterances)
    return reading


def read_vctk(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``wav48_silence_trimmed/p225/p225_001_mic1.flac``, ``txt/p225/p225_001.txt`` and ``speaker-info.txt``.

    The layout of earlier versions (``wav48/p225/p225_001.wav``, one microphone) is read too.
    """
    reading = Reading(recipe.code, official=False)
    files = set(tree.files)
    people: dict[str, dict[str, str]] = {}
    for name, _ in tree.match(r"speaker-info\.txt"):
        for _, line in reading.lines(tree, name):
            speaker, _, gender, *accent = line.split()[:4] if len(line.split()) > 2 else ("", "", "")
            if speaker and speaker != "ID":
                people[speaker if speaker[0] in "ps" else f"p{speaker}"] = {
                    "gender": gender, "accent": accent[0] if accent else "",
                }  # fmt: skip
    texts: dict[str, str | None] = {}
    pattern = r"wav48\w*/(?P<speaker>[ps]\d+)/(?P<id>(?P=speaker)_\d+)(?:_(?P<mic>mic[12]))?\.\w+"
    for name, match in tree.match(pattern):
        if not is_audio(name) or (match["mic"] and match["mic"] not in tree.subsets):
            continue
        root, speaker = PurePosixPath(name).parents[2], match["speaker"]
        sidecar = str(root / "txt" / speaker / f"{match['id']}.txt")
        if sidecar not in texts:
            lines = reading.lines(tree, sidecar) if sidecar in files else []
            texts[sidecar] = clean_text(" ".join(line for _, line in lines)) or None
        meta = {**people.get(speaker, {}), "microphone": match["mic"]}
        identity = "_".join(filter(None, (match["id"], match["mic"])))
        reading.say(name, id=identity, text=texts[sidecar], speaker=speaker, meta=meta, subset=match["mic"] or "",
                    group=match["id"])  # fmt: skip
    for name, match in tree.match(r"txt/(?P<speaker>[ps]\d+)/(?P<id>(?P=speaker)_\d+)\.txt"):
        if name not in texts:
            reading.absent(name, match["id"])
    return reading


def read_yesno(tree: Tree, recipe: Recipe) -> Reading:
    """Read ``0_0_1_0_1_1_0_1.wav``: each digit is a word, 1 for yes."""
    reading = Reading(recipe.code, official=False)
    for name, match in tree.match(r"(?P<words>[01](?:_[01])+)\.\w+"):
        if is_audio(name):
            text = " ".join("YES" if digit == "1" else "NO" for digit in match["words"].split("_"))
            reading.say(name, id=match["words"], text=text, speaker="yesno", subset="all")
    reading.count("all", len(reading.said), recipe.parts[0].utterances)
    return reading
