"""Recordings for the utterances of a fake run: rising tones of the durations that were scored, in real shards."""

import json
from pathlib import Path

import soundfile

from speechssl.config import ShardConfig
from speechssl.data.ingest.manifest import write_manifest
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.writer import shard_manifest
from tests.support.chirps import RATE, chirp

__all__ = ["add_sound"]


def add_sound(evaluation: Path, rows: list[dict], shards: Path) -> Path:
    """Write shards that hold audio for rows, and the configuration by which the evaluation names them; return it."""
    folder = shards.with_name(f"{shards.name}-wav")
    folder.mkdir(parents=True)
    utterances = []
    for i, row in enumerate(rows):
        wave = chirp(i, row["duration"])
        soundfile.write(folder / f"{i}.wav", wave, RATE, subtype="PCM_16")
        text, speaker = row["ref"], row.get("speaker")
        utterances.append(
            Utterance(row["id"], f"{i}.wav", len(wave) / RATE, RATE, 1, text=text, speaker=speaker, split="test")
        )
    write_manifest(folder / "manifest.jsonl", utterances)
    shard_manifest(folder / "manifest.jsonl", shards, ShardConfig(workers=1))
    config = evaluation / "config.toml"
    config.write_text(f'output = ""\n\n[data]\nshards = {json.dumps(str(shards))}\n', encoding="utf-8")
    return config
