"""A speech corpus made on the spot by a real synthesiser (espeak-ng): the embedded data of the demo and of the tests.

In: a SynthConfig. Out: a folder of 16 kHz mono WAV files with `metadata.jsonl` and `phones.ctm` beside them. Train, dev
and test never share a voice nor a sentence; the accents of dev and test are all heard in training, the voice variants
are not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile

from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import atomic_folder, remove_leftovers
from speechssl.core.processes import cores, process_pool
from speechssl.core.randomness import generator, key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.synth.espeak import Espeak, library_paths
from speechssl.data.synth.sentences import sentences

__all__ = ["SynthConfig", "SynthSummary", "Voice", "make_corpus", "voices"]

SHORTEST_SENTENCE = 1.0  # seconds; a floor used only to set aside enough sentences for each speaker
MISFITS = 6  # sentences that may be too long for what is left of a quota before the speaker stops


@dataclass(frozen=True)
class SynthConfig:
    """What to make. Equal configurations give equal bytes, whatever the number of processes."""

    seed: int = 0
    """Key of every random choice: sentences, rates, pitches, who speaks with which accent."""
    unlabelled_minutes: float = 60.0
    """Training speech whose text is thrown away."""
    labelled_minutes: float = 10.8
    """Training speech that keeps its text, at most: a sentence that does not fit a speaker's share is not cut."""
    dev_minutes: float = 5.0
    test_minutes: float = 20.0
    train_speakers: int = 48
    """Speakers (variant, accent, rate, pitch) of the training split; variants are taken in turn."""
    labelled_speakers: int = 48
    """How many of the training speakers have labelled speech; they have unlabelled speech too."""
    dev_speakers: int = 12
    test_speakers: int = 24
    accents: tuple[str, ...] = ("en-us", "en", "en-gb-x-rp")
    """English accents of espeak-ng, shared by all splits: American, British, received pronunciation."""
    train_variants: tuple[str, ...] = (
        "f1", "m1", "f2", "m2", "f3", "m4", "f5", "m7", "Annie", "m8", "steph", "Alex", "aunty", "Denis", "shelby",
        "Mike", "grandma", "Gene", "paul", "Mario", "david", "edward2", "travis", "gustave",
    )  # fmt: skip
    """Voice variants (vocal tract, voicing, intonation) heard in training."""
    dev_variants: tuple[str, ...] = ("m5", "belinda", "Diogo", "rob", "steph3", "benjamin")
    """Voice variants heard in dev only."""
    test_variants: tuple[str, ...] = (
        "f4", "m3", "linda", "m6", "steph2", "Michael", "adam", "Hugo", "victor", "robert", "max", "marcelo",
    )  # fmt: skip
    """Voice variants heard in test only."""
    slowest: int = 110
    fastest: int = 145
    """Speaking rate of a speaker, words a minute, drawn between the two."""
    lowest: int = 35
    highest: int = 65
    """Base pitch of a speaker on espeak's scale from 0 to 100, drawn between the two."""

    def __post_init__(self) -> None:
        groups = (self.train_variants, self.dev_variants, self.test_variants)
        if not self.accents or not all(groups):
            raise ConfigError("synth: accents and the variants of each split must not be empty")
        if len(set().union(*groups)) < sum(len(group) for group in groups):
            raise ConfigError("synth: a voice variant is listed once, in one split: held-out voices must stay unheard")
        if not 0 < self.labelled_speakers <= self.train_speakers or self.dev_speakers < 1 or self.test_speakers < 1:
            raise ConfigError("synth: each split needs a speaker, and labelled_speakers is at most train_speakers")
        if min(self.labelled_minutes, self.dev_minutes, self.test_minutes) <= 0 or self.unlabelled_minutes < 0:
            raise ConfigError("synth: minutes of labelled, dev and test speech must be positive")
        if not 80 <= self.slowest <= self.fastest <= 450 or not 0 <= self.lowest <= self.highest <= 100:
            raise ConfigError("synth: rates must be ordered within 80..450 words a minute, pitches within 0..100")


@dataclass(frozen=True)
class Voice:
    """One speaker and how much it says, in seconds."""

    speaker: str
    split: str
    name: str
    """What espeak calls the voice: accent+variant."""
    rate: int
    pitch: int
    labelled_seconds: float
    unlabelled_seconds: float


@dataclass(frozen=True)
class SynthSummary:
    """What the folder holds."""

    folder: Path
    utterances: dict[str, int]
    """Counts for train_labelled, train_unlabelled, dev and test."""
    minutes: dict[str, float]
    speakers: dict[str, int]
    held_out: str
    """One sentence on what dev and test do not share with training."""
    seconds: float = field(compare=False)
    """Wall-clock seconds it took; 0 when a finished corpus was found."""


def voices(cfg: SynthConfig) -> list[Voice]:
    """Draw the speakers of every split: variants and accents in turn, rate and pitch at random."""
    plan = (
        ("train", cfg.train_variants, cfg.train_speakers),
        ("dev", cfg.dev_variants, cfg.dev_speakers),
        ("test", cfg.test_variants, cfg.test_speakers),
    )
    drawn = []
    for split, variants, count in plan:
        rng = generator("synth-voices", cfg.seed, split)
        accents = [cfg.accents[i] for i in rng.permutation(len(cfg.accents))]
        for i in range(count):
            variant, turn = i % len(variants), i // len(variants)
            accent = accents[(variant + turn) % len(accents)]
            labelled = {
                "train": cfg.labelled_minutes / cfg.labelled_speakers if i < cfg.labelled_speakers else 0.0,
                "dev": cfg.dev_minutes / cfg.dev_speakers,
                "test": cfg.test_minutes / cfg.test_speakers,
            }[split]
            drawn.append(
                Voice(
                    speaker=f"{split}{i:03d}",
                    split=split,
                    name=f"{accent}+{variants[variant]}",
                    rate=int(rng.integers(cfg.slowest, cfg.fastest + 1)),
                    pitch=int(rng.integers(cfg.lowest, cfg.highest + 1)),
                    labelled_seconds=60 * labelled,
                    unlabelled_seconds=60 * cfg.unlabelled_minutes / cfg.train_speakers if split == "train" else 0.0,
                )
            )
    return drawn


def make_corpus(folder: Path, cfg: SynthConfig, *, workers: int | None = None) -> SynthSummary:
    """Synthesise the corpus into `folder`, or return at once when it is already there with the same configuration.

    Writes `audio/SPEAKER/UTTERANCE.wav` (16 kHz, mono, int16), `metadata.jsonl` (`id, audio, text, speaker, split,
    duration`, one line an utterance; `text` is null for unlabelled training speech), `phones.ctm` (when espeak-ng says
    each phone) and `corpus.json` (the configuration). Everything is made beside the folder and renamed into place, so
    the folder is whole or not there. The bytes do not depend on `workers`, the number of processes (None: one a core).

    Raises DataError when espeak-ng is not installed, does not know a voice, or the folder holds something else.
    """
    done = _finished(folder, cfg)
    if done is not None:
        return done
    began = time.monotonic()
    library_paths()
    drawn = voices(cfg)
    quotas = [_sentences_needed(voice) for voice in drawn]
    stream = sentences(key("synth-text", cfg.seed))
    # Slices of one stream of distinct sentences: no test sentence occurs in training.
    texts = [list(islice(stream, quota)) for quota in quotas]

    remove_leftovers(folder.parent, deep=False)
    with atomic_folder(folder) as partial:
        # A fresh process for each speaker: espeak carries noise and flutter state from one utterance to the next.
        with process_pool(workers or cores(), preload=[__name__], max_tasks_per_child=1) as pool:
            spoken = [pair for part in pool.map(_speak, drawn, texts, [partial] * len(drawn)) for pair in part]
        rows = "".join(json.dumps(row) + "\n" for row, _ in spoken)
        (partial / "metadata.jsonl").write_text(rows, encoding="utf-8")
        (partial / "phones.ctm").write_text("".join(phones for _, phones in spoken), encoding="utf-8")
        (partial / "corpus.json").write_text(json.dumps(asdict(cfg), indent=1) + "\n", encoding="utf-8")
    return _summary(folder, cfg, time.monotonic() - began)


def _sentences_needed(voice: Voice) -> int:
    return sum(MISFITS + math.ceil(s / SHORTEST_SENTENCE) for s in (voice.labelled_seconds, voice.unlabelled_seconds))


def _finished(folder: Path, cfg: SynthConfig) -> SynthSummary | None:
    """Return the summary of a finished corpus of this configuration; None where nothing is there yet."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{folder} is not empty and is not a synthetic corpus: choose another folder") from None
    if found != json.loads(json.dumps(asdict(cfg))):
        raise DataError(f"{folder} holds a corpus of another configuration: choose another folder, or remove it")
    return _summary(folder, cfg, 0.0)


def _summary(folder: Path, cfg: SynthConfig, seconds: float) -> SynthSummary:
    utterances: dict[str, int] = {}
    minutes: dict[str, float] = {}
    heard: dict[str, set[str]] = {}
    for row in _rows(folder):
        part = row["split"]
        if part == "train":
            part += "_unlabelled" if row["text"] is None else "_labelled"
        utterances[part] = utterances.get(part, 0) + 1
        minutes[part] = minutes.get(part, 0.0) + row["duration"] / 60
        heard.setdefault(part, set()).add(row["speaker"])
    return SynthSummary(
        folder=folder,
        utterances=utterances,
        minutes=minutes,
        speakers={part: len(names) for part, names in heard.items()},
        held_out=(
            f"Dev and test speak with {len(cfg.dev_variants)} and {len(cfg.test_variants)} voice variants that "
            f"training ({len(cfg.train_variants)} variants) never hears, and with sentences it never hears; "
            f"the {len(cfg.accents)} accents and the vocabulary are shared."
        ),
        seconds=seconds,
    )


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / "metadata.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _speak(voice: Voice, texts: list[str], folder: Path) -> list[tuple[dict[str, Any], str]]:
    """Synthesise one speaker: labelled, then unlabelled speech, each within its quota.

    Returns the metadata row and the lines of the CTM for each utterance.
    """
    espeak = Espeak()
    espeak.set_voice(voice.name, rate=voice.rate, pitch=voice.pitch)
    place = folder / "audio" / voice.speaker
    place.mkdir(parents=True)
    rows: list[tuple[dict[str, Any], str]] = []
    remaining = iter(texts)
    for quota, labelled in ((voice.labelled_seconds, True), (voice.unlabelled_seconds, False)):
        spoken, misfits = 0.0, 0
        for text in remaining if quota else ():
            samples = espeak.say(text)
            duration = len(samples) / SAMPLE_RATE
            if spoken and spoken + duration > quota:
                misfits += 1
                if misfits == MISFITS:
                    break
                continue
            spoken += duration
            name = f"{voice.speaker}-{len(rows):04d}"
            path = place / f"{name}.wav"
            soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
            row = {
                "id": name,
                "audio": path.relative_to(folder).as_posix(),
                "text": text if labelled else None,
                "speaker": voice.speaker,
                "split": voice.split,
                "duration": duration,
            }
            rows.append((row, _ctm(name, espeak.phones, duration)))
    return rows


def _ctm(name: str, phones: list[tuple[float, str]], duration: float) -> str:
    """Return the lines `id channel start duration phone`; a phone lasts until the next one, the last until the end."""
    ends = [start for start, _ in phones[1:]] + [duration]
    times = zip(phones, ends, strict=True)
    return "".join(f"{name} 1 {start:.4f} {end - start:.4f} {phone}\n" for (start, phone), end in times if end > start)
