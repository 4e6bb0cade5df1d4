"""Fixtures that tests of several rooms share: real speech where there is some, and a small corpus of tones."""

import os
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.core.randomness import generator


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Name what was skipped at the very end, after coverage and durations; each reason says how to have it."""
    yield
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Several test processes share the cores; one thread each is fastest, and keeps sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the development speech pack, or skip."""
    folder = Path(os.environ.get("SPEECHSSL_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
    if not (folder / "README.md").exists():
        pytest.skip(f"no speech pack at {folder}: set SPEECHSSL_DATA")
    return folder.resolve()  # manifests name files by their real paths


@dataclass(frozen=True)
class ToneCorpus:
    """Forty short recordings of tones and noise, transcribed by the tones in them."""

    folder: Path
    """Holds ``audio/*.wav``."""
    manifest: Path
    """``manifest.jsonl``: splits train (34) and dev (6), every utterance with text, speaker and language."""
    shards: Path
    """Two shards or more."""


LETTERS = {"a": 300.0, "b": 600.0, "c": 1100.0, "d": 2000.0}
"""Each letter is a tone of this frequency in hertz, 0.15 s long; words are separated by 0.1 s of faint noise."""


def tone_wave(text: str, rng: np.random.Generator) -> np.ndarray:
    """Return 16 kHz float32 audio that says ``text`` in tones."""
    pieces = [np.zeros(1600)]
    for letter in text:
        time = np.arange(2400 if letter in LETTERS else 1600) / 16_000
        pieces.append(0.3 * np.sin(2 * np.pi * LETTERS.get(letter, 0.0) * time + rng.uniform(0, 6)))
        pieces.append(np.zeros(320))
    wave = np.concatenate([*pieces, np.zeros(1600)])
    return (wave + 0.01 * rng.standard_normal(len(wave))).astype(np.float32)


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> ToneCorpus:
    """Write the tone corpus as WAV files, a manifest and shards."""
    import soundfile

    from speechssl.config import ShardConfig
    from speechssl.data.ingest.manifest import write_manifest
    from speechssl.data.ingest.utterance import Utterance
    from speechssl.data.store.writer import shard_manifest

    folder = tmp_path_factory.mktemp("tones")
    (folder / "audio").mkdir()
    utterances = []
    for number in range(40):
        rng = generator("tones", number)
        words = ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        text, name = " ".join(words), f"tone{number:02d}"
        wave = tone_wave(text, rng)
        soundfile.write(folder / "audio" / f"{name}.wav", wave, 16_000, subtype="PCM_16")
        utterances.append(
            Utterance(
                id=name,
                path=f"audio/{name}.wav",
                duration=len(wave) / 16_000,
                sample_rate=16_000,
                channels=1,
                text=text,
                speaker=f"voice{number % 4}",
                language="xx",
                split="dev" if number >= 34 else "train",
            )
        )
    write_manifest(folder / "manifest.jsonl", utterances)
    shard_manifest(folder / "manifest.jsonl", folder / "shards", ShardConfig(shard_seconds=15.0, workers=1))
    return ToneCorpus(folder, folder / "manifest.jsonl", folder / "shards")
