"""The public corpora that ``speechssl corpus`` knows: facts, parts, archives.

In: a name. Out: a ``Recipe``. Addresses are here; checksums come from torchaudio when an archive is fetched
(download.py). Uncertain facts are left out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from speechssl.core.errors import ConfigError

__all__ = ["RECIPES", "Archive", "Part", "Recipe", "find_recipe"]


@dataclass(frozen=True)
class Archive:
    """A file whose checksum torchaudio has."""

    url: str
    module: str
    """Module of ``torchaudio.datasets`` that lists the checksum."""
    creates: str
    """Folder below the corpus folder that is there exactly when the archive is unpacked."""
    into: str = ""
    """Where members go, below the corpus folder; empty when they begin with ``creates`` themselves."""
    gigabytes: float | None = None
    """Approximate size of the archive."""

    @property
    def name(self) -> str:
        """File name of the archive."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Part:
    """A part of a corpus, as in ``--subset``."""

    name: str
    hours: float | None = None
    utterances: int | None = None
    """Utterances of the published corpus; if there are fewer, the ledger says so."""
    archive: Archive | None = None


@dataclass(frozen=True)
class Recipe:
    """One corpus."""

    name: str
    title: str
    hours: str
    """Approximate, for display."""
    language: str
    """Code of its only language, or a description of several."""
    licence: str
    page: str
    parts: tuple[Part, ...]
    example: str
    """Path of a recording in the layout that is read."""
    default: tuple[str, ...] = ()
    """Parts that are read when none is named; empty for all."""
    official: bool = True
    """Whether the corpus has splits of its own; they are kept as they are, and nothing is divided by hash."""
    note: str = ""

    @property
    def code(self) -> str | None:
        """The language of every utterance, when there is one."""
        return self.language if len(self.language) == 2 else None

    @property
    def archives(self) -> tuple[Archive, ...]:
        """Every archive, once."""
        return tuple(dict.fromkeys(part.archive for part in self.parts if part.archive is not None))

    def choose(self, names: tuple[str, ...]) -> tuple[Part, ...]:
        """Return the named parts; ``all`` for every one, nothing for the usual ones.

        Raises ConfigError when there is no part of this name.
        """
        wanted = names or self.default or ("all",)
        known = {part.name: part for part in self.parts}
        if "all" in wanted:
            return self.parts
        for name in wanted:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ConfigError(f"{self.name} has no subset {name!r}; {hint}its subsets: {', '.join(known)}, all")
        return tuple(part for part in self.parts if part.name in wanted)


def _openslr(number: int, parts: tuple[tuple[str, float, int | None, float], ...], root: str) -> tuple[Part, ...]:
    """Return the parts of LibriSpeech or LibriTTS: name, hours, utterances, gigabytes."""
    module = root.lower()
    base = f"http://www.openslr.org/resources/{number}/"
    return tuple(
        Part(name, hours, count, Archive(f"{base}{name}.tar.gz", module, f"{root}/{name}", gigabytes=size))
        for name, hours, count, size in parts
    )


_LIMITED = Archive(
    "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz",
    "librilight_limited",
    "librispeech_finetuning",
)
_SLR = "http://www.openslr.org/resources/"
_COMMANDS = "http://download.tensorflow.org/data/speech_commands_"
_SPLITS = (Part("train"), Part("dev"), Part("test"))

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "librispeech", "LibriSpeech", "982", "en", "CC BY 4.0", "https://www.openslr.org/12",
        _openslr(12, (
            ("dev-clean", 5.4, 2703, 0.34), ("dev-other", 5.3, 2864, 0.31), ("test-clean", 5.4, 2620, 0.35),
            ("test-other", 5.1, 2939, 0.33), ("train-clean-100", 100.6, 28539, 6.3),
            ("train-clean-360", 363.6, 104014, 23.0), ("train-other-500", 496.7, 148688, 30.0),
        ), "LibriSpeech"),
        "LibriSpeech/dev-clean/1272/128104/1272-128104-0000.flac",
    ),
    Recipe(
        "mini-librispeech", "Mini LibriSpeech", "7", "en", "CC BY 4.0", "https://www.openslr.org/31",
        (Part("train-clean-5"), Part("dev-clean-2")),
        "LibriSpeech/train-clean-5/1088/134315/1088-134315-0000.flac",
    ),
    Recipe(
        "librilight-limited", "Libri-Light limited-resource training sets", "10", "en", "CC BY 4.0",
        "https://github.com/facebookresearch/libri-light",
        (Part("10min", archive=_LIMITED), Part("1h", archive=_LIMITED), Part("10h", archive=_LIMITED)),
        "librispeech_finetuning/1h/0/clean/1272/128104/1272-128104-0000.flac",
        default=("10h",),
        note="labels for a model pretrained on LibriSpeech or Libri-Light: train only; ids as in LibriSpeech",
    ),
    Recipe(
        "libritts", "LibriTTS", "585", "en", "CC BY 4.0", "https://www.openslr.org/60",
        _openslr(60, (
            ("dev-clean", 9.0, None, 1.2), ("dev-other", 6.4, None, 0.92), ("test-clean", 8.6, None, 1.2),
            ("test-other", 6.7, None, 0.96), ("train-clean-100", 53.8, None, 7.7),
            ("train-clean-360", 191.3, None, 27.0), ("train-other-500", 310.1, None, 44.0),
        ), "LibriTTS"),
        "LibriTTS/dev-clean/84/121123/84_121123_000007_000001.wav",
    ),
    Recipe(
        "ljspeech", "LJ Speech", "24", "en", "public domain", "https://keithito.com/LJ-Speech-Dataset/",
        (Part("all", 24.0, 13100, Archive("https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2", "ljspeech",
                                          "LJSpeech-1.1", gigabytes=2.6)),),
        "LJSpeech-1.1/wavs/LJ001-0001.wav",
        official=False,
        note="one speaker, no splits of its own: divided by recording",
    ),
    Recipe(
        "speech-commands", "Speech Commands", "29", "en", "CC BY 4.0", "https://arxiv.org/abs/1804.03209",
        (
            Part("v0.02", None, 105829, Archive(f"{_COMMANDS}v0.02.tar.gz", "speechcommands",
                 "SpeechCommands/speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02", 2.4)),
            Part("v0.01", None, 64727, Archive(f"{_COMMANDS}v0.01.tar.gz", "speechcommands",
                 "SpeechCommands/speech_commands_v0.01", "SpeechCommands/speech_commands_v0.01", 1.5)),
        ),
        "SpeechCommands/speech_commands_v0.02/yes/0a7c2a8d_nohash_0.wav",
        default=("v0.02",),
        note="splits of validation_list.txt and testing_list.txt; the transcript is the word",
    ),
    Recipe(
        "vctk", "VCTK 0.92", "44", "en", "CC BY 4.0", "https://datashare.ed.ac.uk/handle/10283/3443",
        tuple(Part(mic, archive=Archive(
            "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip", "vctk",
            "VCTK-Corpus-0.92", "VCTK-Corpus-0.92", 11.7)) for mic in ("mic1", "mic2")),
        "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac",
        default=("mic1",), official=False,
        note="110 speakers with their accents; each utterance was recorded by two microphones",
    ),
    Recipe(
        "yesno", "YesNo", "0.1", "he", "", "https://www.openslr.org/1",
        (Part("all", 0.1, 60, Archive("http://www.openslr.org/resources/1/waves_yesno.tar.gz", "yesno", "waves_yesno",
                                      gigabytes=0.005)),),
        "waves_yesno/0_0_0_0_1_1_1_1.wav",
        official=False,
        note="one speaker; transcripts are the words YES and NO, from the file names (Hebrew is spoken)",
    ),
    Recipe(
        "tedlium", "TED-LIUM", "452", "en", "CC BY-NC-ND 3.0", "https://www.openslr.org/51",
        (
            Part("release3", 452, None, Archive(f"{_SLR}51/TEDLIUM_release-3.tgz", "tedlium", "TEDLIUM_release-3",
                                                gigabytes=54)),
            Part("release2", 207, None, Archive(f"{_SLR}19/TEDLIUM_release2.tar.gz", "tedlium", "TEDLIUM_release2",
                                                gigabytes=37)),
            Part("release1", 118, None, Archive(f"{_SLR}7/TEDLIUM_release1.tar.gz", "tedlium", "TEDLIUM_release1",
                                                gigabytes=22)),
        ),
        "TEDLIUM_release-3/legacy/test/sph/AimeeMullins_2009P.sph",
        default=("release3",),
        note="talks with time-marked segments; dev and test are those of the legacy distribution",
    ),
    Recipe(
        "common-voice", "Common Voice", "", "many", "CC0 1.0", "https://commonvoice.mozilla.org",
        (*_SPLITS, Part("validated"), Part("other"), Part("invalidated")),
        "cv-corpus-17.0-2024-03-15/cy/clips/common_voice_cy_17299384.mp3",
        default=("train", "dev", "test"),
        note="unpack your own archive; validated: also what is in no split; other, invalidated: unlabelled",
    ),
    Recipe(
        "mls", "Multilingual LibriSpeech", "50500", "8 languages", "CC BY 4.0", "https://www.openslr.org/94", _SPLITS,
        "mls_german/test/audio/1844/931/1844_931_000000.flac",
        note="the lists of the limited supervision become lists of ids",
    ),
    Recipe(
        "fleurs", "FLEURS", "1400", "102 languages", "CC BY 4.0", "https://huggingface.co/datasets/google/fleurs",
        _SPLITS,
        "fr_fr/audio/test/10043080770129042197.wav",
        note="its speakers are not known",
    ),
    Recipe(
        "voxpopuli", "VoxPopuli, transcribed", "1800", "16 languages", "CC0 1.0",
        "https://github.com/facebookresearch/voxpopuli", _SPLITS,
        "transcribed_data/de/2019/20190115-0900-PLENARY-3-de_20190115-09_01_01_0.ogg",
    ),
)  # fmt: skip


def find_recipe(name: str) -> Recipe:
    """Return the corpus of this name; ConfigError when there is none; the message has the nearest name, or all."""
    known = {recipe.name: recipe for recipe in RECIPES}
    plain = name.lower().replace("_", "-")
    if plain in known:
        return known[plain]
    same = [each for each in known if each.replace("-", "") == plain.replace("-", "")]
    if same:
        return known[same[0]]
    close = difflib.get_close_matches(plain, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise ConfigError(f"no recipe for a corpus named {name!r}; {hint} (any other folder: `speechssl manifest`)")
