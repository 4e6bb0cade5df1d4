"""A corpus of chirps: real WAV files and a manifest, made in a moment, each utterance different and recognisable."""

from pathlib import Path

import numpy as np
import soundfile

from speechssl.config import ShardConfig
from speechssl.data.ingest.manifest import Utterance, write_manifest
from speechssl.data.store.writer import shard_manifest

__all__ = ["chirp", "chirp_manifest", "chirp_shards"]

RATE = 16_000


def chirp(number: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Return a rising tone in a little noise; it depends on the arguments only."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.Generator(np.random.PCG64(number)).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * (100 + 7 * number + 40 * time) * time) + 0.01 * noise).astype(np.float32)


def chirp_manifest(folder: Path, seconds: list[float], *, labelled: bool = True, prefix: str = "tone") -> Path:
    """Write one WAV file an utterance and the manifest of all; every tenth is dev, every tenth (from 5) test."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for i, length in enumerate(seconds):
        soundfile.write(folder / f"{i}.wav", chirp(i, length), RATE, subtype="PCM_16")
        utterances.append(
            Utterance(
                f"{prefix}-{i:03d}",
                f"{i}.wav",
                round(length * RATE) / RATE,
                RATE,
                1,
                text=f"tone number {i}" if labelled else None,
                speaker=f"s{i % 3}",
                split={0: "dev", 5: "test"}.get(i % 10, "train"),
            )
        )
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


def chirp_shards(folder: Path, seconds: list[float], *, shard_seconds: float = 20.0, labelled: bool = True) -> Path:
    """Make the corpus and its shards (in this process); return the folder of shards."""
    manifest = chirp_manifest(folder / "audio", seconds, labelled=labelled)
    shard_manifest(manifest, folder / "shards", ShardConfig(shard_seconds=shard_seconds, workers=1))
    return folder / "shards"
