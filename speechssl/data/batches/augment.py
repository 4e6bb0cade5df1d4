"""Augmentation of audio: speed, pitch, rooms, gain, noise, band limits; an `Augmenter` draws by (seed, epoch, id).

In: one waveform. Out: another; speed changes its length. Noise and rooms are those of the user's folders (`Sounds`), or
made: coloured noise, and the late field of a room as in the statistical model (Polack 1988; Moorer 1979).
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from speechssl.config import AugmentConfig, DataConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator, key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.recordings import Recordings

__all__ = [
    "Augmenter",
    "Sounds",
    "augmenter",
    "band_limited",
    "coloured_noise",
    "simulated_room",
    "with_noise",
    "with_pitch",
    "with_reverb",
    "with_speed",
]

NO_FOLDER = Recordings()
RT60 = (0.1, 0.8)
"""Range of simulated rooms, from a small office to a hall, in seconds: the time in which sound decays by 60 dB."""
DIRECT_DB = (0.0, 12.0)
"""Range of the level of direct sound over that of all reflections, in decibels."""
FIRST_REFLECTION = 0.002
"""Seconds after the direct sound: a path that is longer by 0.7 m."""


@dataclass(frozen=True)
class Sounds:
    """Where noise and rooms come from: the user's folders, or simulation where there is none."""

    noises: Recordings = NO_FOLDER
    responses: Recordings = NO_FOLDER
    quick: bool = False
    """Cut made noise from a longer one, whose length is a power of two. A length with a large prime factor takes 15
    times as long; the numbers are others."""

    @classmethod
    def of(cls, cfg: DataConfig) -> Self:
        """Return the sounds of a configuration; a folder without recordings is a ConfigError."""
        return cls(Recordings.of(cfg.noise, "data.noise"), Recordings.of(cfg.reverb, "data.reverb"))

    def noise(self, samples: int, slope: float, random: np.random.Generator) -> np.ndarray:
        """Return noise with unit power, float32 [samples]; ``slope`` is that of made noise.

        A recording begins anywhere, and is repeated where it is too short. One that is silent adds nothing.
        """
        if self.noises.paths:
            wave = self.noises.draw(random)
            start = int(random.integers(max(1, len(wave) - samples + 1)))
            noise = np.resize(wave[start:], samples)
        elif self.quick:
            noise = coloured_noise(1 << (samples - 1).bit_length(), slope, random)[:samples]
        else:
            return coloured_noise(samples, slope, random)
        return noise / np.float32(max(math.sqrt(np.mean(noise.astype(np.float64) ** 2)), 2.0**-15))

    def room(self, random: np.random.Generator) -> np.ndarray:
        """Return an impulse response, float32 [K]."""
        return self.responses.draw(random) if self.responses.paths else simulated_room(random)


def augmenter(cfg: AugmentConfig, seed: int, sounds: Sounds = Sounds()) -> "Augmenter | None":
    """Return the augmentation of a configuration, or None when it would change nothing.

    Raises ConfigError for a speed outside 0.5 to 2, a negative gain, a reversed range or a probability outside 0 to 1.
    """
    if any(not 0.5 <= speed <= 2 for speed in cfg.speeds):
        raise ConfigError(f"augment.speeds {cfg.speeds}: factors lie between 0.5 and 2, such as [0.9, 1.0, 1.1]")
    if cfg.gain_db < 0 or not 0 <= cfg.noise_prob <= 1 or not 0 <= cfg.reverb_prob <= 1:
        raise ConfigError("augment: gain_db is 0 or more, noise_prob and reverb_prob lie between 0 and 1")
    if cfg.noise_snr_db is not None and cfg.noise_snr_db[0] > cfg.noise_snr_db[1]:
        raise ConfigError(f"augment.noise_snr_db {cfg.noise_snr_db}: give the lower bound first")
    noisy = cfg.noise_snr_db is not None and cfg.noise_prob > 0
    if not noisy and not cfg.reverb_prob and not cfg.gain_db and all(speed == 1 for speed in cfg.speeds):
        return None
    return Augmenter(cfg, seed, sounds)


@dataclass(frozen=True)
class Augmenter:
    """Callable as ``augment(wave, epoch, id)``; equal arguments give equal results in any process."""

    cfg: AugmentConfig
    seed: int
    sounds: Sounds = Sounds()

    def __call__(self, wave: np.ndarray, epoch: int, utterance: str) -> np.ndarray:
        """Return the augmented copy of float32 [T]; [T / speed] when a speed was drawn."""
        cfg, parts = self.cfg, (self.seed, epoch, utterance)
        if cfg.speeds:
            wave = with_speed(wave, cfg.speeds[key("speed", *parts) % len(cfg.speeds)])
        if cfg.reverb_prob:
            random = generator("reverb", *parts)
            if random.random() < cfg.reverb_prob:
                wave = with_reverb(wave, self.sounds.room(random))
        if cfg.noise_snr_db is not None:
            random = generator("noise", *parts)
            if random.random() < cfg.noise_prob:
                snr_db = random.uniform(*cfg.noise_snr_db)
                wave = with_noise(wave, self.sounds.noise(len(wave), random.random(), random), snr_db)
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


def with_pitch(wave: np.ndarray, factor: float) -> np.ndarray:
    """Return the wave with all frequencies times ``factor``, as long as before, by a phase vocoder; float32 [T].

    A vocoder stretches the wave, and then it is played faster. It takes about fifty times as long as `with_speed`.
    """
    from librosa.effects import time_stretch
    from librosa.util import fix_length

    shifted = with_speed(time_stretch(wave.astype(np.float32), rate=1 / factor), factor)
    return np.asarray(fix_length(shifted, size=len(wave)), dtype=np.float32)


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


def simulated_room(random: np.random.Generator) -> np.ndarray:
    """Return the impulse response of a room: direct sound, then noise that decays exponentially; float32 [K].

    RT60 and the level of the direct sound are uniform in their ranges. The response ends where it has decayed by 60 dB.
    """
    rt60, direct_db = random.uniform(*RT60), random.uniform(*DIRECT_DB)
    time = np.arange(round(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    field = random.standard_normal(len(time)) * 10 ** (-3 * time / rt60) * (time >= FIRST_REFLECTION)
    field *= 10 ** (-direct_db / 20) / math.sqrt(np.sum(field**2))
    field[0] = 1.0
    return field.astype(np.float32)


def with_reverb(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return the wave in a room, float32 [T]: its direct sound stays where it was, and its power as it was.

    The direct sound is the largest sample of the response; what stands before it is left out, and so is what would
    sound on after the wave's end.
    """
    response = response[int(np.abs(response).argmax()) :]
    size = 1 << (len(wave) + len(response) - 2).bit_length()
    heard = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]
    power, before = np.mean(heard**2), np.mean(wave.astype(np.float64) ** 2)
    return (heard * math.sqrt(before / power)).astype(np.float32) if power > 0 else wave


def band_limited(wave: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """Return the wave without all frequencies above a cut-off; float32 [T]."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.arange(len(spectrum)) * SAMPLE_RATE / len(wave) > cutoff_hz] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)
