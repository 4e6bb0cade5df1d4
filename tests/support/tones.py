"""A language of tones: each letter is a pitch, so that a tiny model learns to read it within seconds on a CPU."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from speechssl.config import (
    CtcConfig,
    DataConfig,
    EncoderConfig,
    FinetuneConfig,
    FrontendConfig,
    ModelConfig,
    OptimConfig,
    ShardConfig,
    TrainingConfig,
)
from speechssl.core.randomness import generator
from speechssl.data.audio.decode import encode_flac
from speechssl.data.ingest.manifest import write_manifest
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.writer import shard_manifest

__all__ = ["MODEL", "make_sentence", "recipe", "speak", "trained", "write_shards"]

LETTERS = "abcde"
MODEL = ModelConfig(
    frontend=FrontendConfig(kind="logmel", n_mels=40, stack=2),
    encoder=EncoderConfig(
        dim=48, layers=1, heads=2, ffn_dim=96, pos_kernel=15, pos_groups=4, dropout=0.0, attention_dropout=0.0,
        input_dropout=0.0, layer_drop=0.0,
    ),
)  # fmt: skip


def speak(text: str, name: str = "voice", rate: int = 16_000) -> np.ndarray:
    """Return the audio of a text: 80 ms a letter, 30 ms between letters, 180 ms of rest for a space."""
    rng = generator("tones", name)
    pieces = [np.zeros(int(0.1 * rate))]
    for char in text:
        if char == " ":
            pieces.append(np.zeros(int(0.15 * rate)))
            continue
        time = np.arange(int(0.08 * rate)) / rate
        pitch = 300 * 1.6 ** (ord(char) - ord("a")) * rng.uniform(0.98, 1.02)
        pieces += [0.2 * np.sin(2 * np.pi * pitch * time) * np.hanning(len(time)), np.zeros(int(0.03 * rate))]
    pieces.append(np.zeros(int(0.1 * rate)))
    wave = np.concatenate(pieces)
    return (wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32)


def make_sentence(name: str, words: int = 3) -> str:
    """Return words of one to three letters, a function of the name."""
    rng = generator("sentence", name)
    return " ".join(
        "".join(rng.choice(list(LETTERS), size=rng.integers(1, 4))) for _ in range(rng.integers(1, words + 1))
    )


def write_shards(folder: Path, counts: dict[str, int], extra: list[tuple[Utterance, np.ndarray]] | None = None) -> Path:
    """Write audio, a manifest and shards with ``counts`` utterances a split, two speakers each; return the shards."""
    audio = folder / "audio"
    audio.mkdir(parents=True)
    rows = list(extra or [])
    for split, count in counts.items():
        for i in range(count):
            name = f"{split}-{i:03d}"
            text = make_sentence(name)
            wave = speak(text, name)
            utterance = Utterance(
                id=name, path="", duration=len(wave) / 16_000, sample_rate=16_000, channels=1, text=text,
                speaker=f"{split}-{i % 2}", split=split,
            )  # fmt: skip
            rows.append((utterance, wave))
    utterances = []
    for utterance, wave in rows:
        path = audio / f"{utterance.id}.flac"
        path.write_bytes(encode_flac(wave))
        utterances.append(Utterance(**{**vars(utterance), "path": f"audio/{path.name}"}))
    write_manifest(folder / "manifest.jsonl", utterances)
    shard_manifest(folder / "manifest.jsonl", folder / "shards", ShardConfig(workers=1))
    return folder / "shards"


def recipe(shards: Path, output: Path, *, steps: int = 150, **changes: object) -> FinetuneConfig:
    """Return settings that learn the language from random weights."""
    settings: dict[str, object] = {
        "output": str(output),
        "model": MODEL,
        "ctc": CtcConfig(
            freeze_steps=0, time_mask_prob=0.1, time_mask_length=2, channel_mask_prob=0.1, channel_mask_length=4,
            activation_dropout=0.0, layer_drop=0.0,
        ),
        "data": DataConfig(shards=str(shards), min_seconds=0.1, max_seconds=5.0, batch_seconds=20.0, workers=0),
        "dev": DataConfig(splits=("dev",), min_seconds=0.0, max_seconds=5.0, batch_seconds=20.0, workers=0),
        "optim": OptimConfig(lr=4e-3, eps=1e-8, schedule="tri-stage", warmup=0.1, hold=0.4, final_scale=0.05),
        "training": TrainingConfig(
            steps=steps, device="cpu", precision="fp32", log_every=10, save_every=50, validate_every=50
        ),
    }  # fmt: skip
    return FinetuneConfig(**{**settings, **changes})  # type: ignore[arg-type]


_PLACE = tempfile.TemporaryDirectory(prefix="tones-")


@cache
def trained() -> tuple[Path, Path]:
    """Return (shards, run folder) of a recogniser that has learnt the language; made once in a process."""
    from speechssl.asr.finetune import finetune

    place = Path(_PLACE.name)
    shards = write_shards(place / "corpus", {"train": 240, "dev": 24, "test": 24})
    finetune(recipe(shards, place / "run"))
    return shards, place / "run"
