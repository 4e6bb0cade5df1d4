"""Augmentation of audio: speed, gain, noise, band limits; an `Augmenter` draws by (seed, epoch, id).

In: one waveform. Out: another; speed changes its length.
"""

from dataclasses import dataclass

import numpy as np

from speechssl.config import AugmentConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator, key
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["Augmenter", "augmenter", "band_limited", "coloured_noise", "with_noise", "with_speed"]


def augmenter(cfg: AugmentConfig, seed: int) -> "Augmenter | None":
    """Return the augmentation of a configuration, or None when it would change nothing.

    Raises ConfigError for a speed outside 0.5 to 2, a negative gain, a reversed range or a probability outside 0 to 1.
    """
    if any(not 0.5 <= speed <= 2 for speed in cfg.speeds):
        raise ConfigError(f"augment.speeds {cfg.speeds}: factors lie between 0.5 and 2, such as [0.9, 1.0, 1.1]")
    if cfg.gain_db < 0 or not 0 <= cfg.noise_prob <= 1:
        raise ConfigError("augment: gain_db is 0 or more, noise_prob lies between 0 and 1")
    if cfg.noise_snr_db is not None and cfg.noise_snr_db[0] > cfg.noise_snr_db[1]:
        raise ConfigError(f"augment.noise_snr_db {cfg.noise_snr_db}: give the lower bound first")
    noisy = cfg.noise_snr_db is not None and cfg.noise_prob > 0
    if not noisy and not cfg.gain_db and all(speed == 1 for speed in cfg.speeds):
        return None
    return Augmenter(cfg, seed)


@dataclass(frozen=True)
class Augmenter:
    """Callable as ``augment(wave, epoch, id)``; equal arguments give equal results in any process."""

    cfg: AugmentConfig
    seed: int

    def __call__(self, wave: np.ndarray, epoch: int, utterance: str) -> np.ndarray:
        """Return the augmented copy of float32 [T]; [T / speed] when a speed was drawn."""
        cfg, parts = self.cfg, (self.seed, epoch, utterance)
        if cfg.speeds:
            wave = with_speed(wave, cfg.speeds[key("speed", *parts) % len(cfg.speeds)])
        if cfg.noise_snr_db is not None:
            random = generator("noise", *parts)
            if random.random() < cfg.noise_prob:
                snr_db = random.uniform(*cfg.noise_snr_db)
                wave = with_noise(wave, coloured_noise(len(wave), random.random(), random), snr_db)
        if cfg.gain_db:
            gain_db = generator("gain", *parts).uniform(-cfg.gain_db, cfg.gain_db)
            wave = wave * np.float32(10 ** (gain_db / 20))
        return wave


def with_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Return the wave played ``factor`` times as fast, pitch and all (Ko et al. 2015); float32 [T / factor]."""
    if factor == 1:
        return wave
    import soxr

    return np.asarray(soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE), dtype=np.float32)


def coloured_noise(samples: int, slope: float, random: np.random.Generator) -> np.ndarray:
    """Return noise whose power falls as 1 / frequency^slope (0 white, 1 pink), with unit power; float32 [samples]."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, samples)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def with_noise(wave: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Return the wave plus unit-power noise at a signal-to-noise ratio; silence stays silent."""
    power = float(np.mean(wave.astype(np.float64) ** 2))
    return (wave + np.float32(np.sqrt(power) * 10 ** (-snr_db / 20)) * noise).astype(np.float32)


def band_limited(wave: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """Return the wave without all frequencies above a cut-off; float32 [T]."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.arange(len(spectrum)) * SAMPLE_RATE / len(wave) > cutoff_hz] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)
