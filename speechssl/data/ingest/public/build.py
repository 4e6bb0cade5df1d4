"""``speechssl corpus NAME FOLDER``: a public corpus, downloaded on request, made into a manifest.

In: the name of a recipe and a folder. Out: ``manifest.jsonl`` with the corpus' own splits, speakers and transcripts, a
ledger of what is missing, and ``ids/*.txt`` for the lists that the corpus publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from speechssl.config import CorpusConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import write_atomic
from speechssl.data.ingest.manifest import ManifestSummary, build_manifest, read_manifest, safe_id
from speechssl.data.ingest.public.download import fetch
from speechssl.data.ingest.public.folders import read_speech_commands, read_vctk, read_yesno
from speechssl.data.ingest.public.libri import read_librilight, read_librispeech, read_libritts, read_mls
from speechssl.data.ingest.public.reading import Reading, Tree
from speechssl.data.ingest.public.recipes import Recipe, find_recipe
from speechssl.data.ingest.public.tabular import (
    read_common_voice,
    read_fleurs,
    read_ljspeech,
    read_tedlium,
    read_voxpopuli,
)

__all__ = ["READERS", "make_corpus", "read_corpus"]

READERS: dict[str, Callable[[Tree, Recipe], Reading]] = {
    "librispeech": read_librispeech,
    "mini-librispeech": read_librispeech,
    "librilight-limited": read_librilight,
    "libritts": read_libritts,
    "ljspeech": read_ljspeech,
    "speech-commands": read_speech_commands,
    "vctk": read_vctk,
    "yesno": read_yesno,
    "tedlium": read_tedlium,
    "common-voice": read_common_voice,
    "mls": read_mls,
    "fleurs": read_fleurs,
    "voxpopuli": read_voxpopuli,
}
"""By name of the recipe."""


def make_corpus(
    name: str, folder: Path, cfg: CorpusConfig, progress: Callable[[int, int], None] | None = None
) -> ManifestSummary:
    """Download on request, then write the manifest of a public corpus, named as its recipe (recipes.py).

    ``folder`` is where the corpus lies, at any depth, or where it is downloaded to. ``progress`` is called with (files
    read, files).

    Raises
    ------
    ConfigError
        There is no such corpus or part, or nothing that could be downloaded.
    DataError
        An archive is damaged, incomplete or hostile; or no recording of the corpus is in the folder.
    """
    recipe = find_recipe(name)
    parts = recipe.choose(cfg.subset)
    if cfg.download:
        if not recipe.archives:
            raise ConfigError(
                f"{recipe.name} cannot be downloaded by this program; get it from {recipe.page}, unpack it"
            )
        if not cfg.subset and not recipe.default and len(recipe.archives) > 1:
            names = ", ".join(part.name for part in recipe.parts)
            raise ConfigError(f"say what to download: --subset with one or more of {names}, or all")
        fetch(parts, Path(folder))
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of {recipe.title}{_way(recipe)}")
    output = Path(cfg.output) if cfg.output else Path(folder) / "manifest"
    found: list[Reading] = []

    def source(root: Path, files: list[str]) -> Reading:
        found.append(
            read_corpus(
                recipe,
                root,
                files,
                tuple(part.name for part in parts),
                named=bool(cfg.subset) and "all" not in cfg.subset,
            )
        )
        return found[0]

    settings = cfg.manifest
    if recipe.official:  # published splits stay as they are, so that results are comparable
        settings = replace(settings, dev_fraction=0.0, test_fraction=0.0)
    summary = build_manifest(Path(folder), output, settings, progress, source=source)
    there = {utterance.id for utterance in read_manifest(output / "manifest.jsonl")}
    for label, ids in found[0].lists.items():
        kept = [item for item in map(safe_id, ids) if item in there]
        if kept:
            (output / "ids").mkdir(exist_ok=True)
            write_atomic(output / "ids" / f"{label}.txt", ("\n".join(kept) + "\n").encode())
    return summary


def read_corpus(recipe: Recipe, root: Path, files: list[str], subsets: tuple[str, ...], *, named: bool) -> Reading:
    """Return transcripts, speakers and splits of a corpus's recordings; no audio is read.

    With ``named``, each of the parts ``subsets`` must be present; otherwise absent parts are listed in the ledger.

    Raises DataError when no recording of the wanted parts, or of one that was named, is in the folder.
    """
    reading = READERS[recipe.name](Tree(root, tuple(files), frozenset(subsets)), recipe)
    missing = [] if "" in reading.seen else [name for name in subsets if name not in reading.seen]
    if not reading.said or (missing and named):
        wanted = ", ".join(missing)
        raise DataError(
            f"{root}: no recording of {recipe.title} ({wanted}) here; expected files such as "
            f"{recipe.example}{_way(recipe)}"
        )
    for name in missing:
        reading.note(name, "missing_subset", f"not in the folder{_way(recipe)}", "dropped")
    return reading


def _way(recipe: Recipe) -> str:
    return "; --download fetches them" if recipe.archives else f"; it is available from {recipe.page}"
