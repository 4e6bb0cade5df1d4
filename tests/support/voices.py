"""Signals like speech, made from numbers: bursts of a few harmonics with pauses between them."""

from pathlib import Path

import numpy as np
import soundfile


def voice(seconds: float, rate: int = 16_000, seed: int = 0, pause: float = 0.1) -> np.ndarray:
    """Return float32 [seconds * rate]: syllables of 0.2 s, ``pause`` between them, faint noise everywhere."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = rng.uniform(90, 220)
    wave = sum(np.sin(2 * np.pi * pitch * k * time + k) / k for k in (1, 2, 3, 5, 8))
    spoken = (time % (0.2 + pause)) < 0.2
    return (0.2 * wave * spoken + 0.001 * rng.standard_normal(len(time))).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = 16_000, **how: str) -> Path:
    """Write audio, whatever the name says: ``format`` and ``subtype`` as soundfile has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        soundfile.write(file, wave, rate, **({"format": "WAV"} | how))
    return path
