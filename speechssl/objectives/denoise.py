"""Denoising autoencoder (Vincent et al. 2008; for log-mel of speech: Lu et al. 2013): predict clean from noisy speech.

In: batches of waveforms. Out: the L1 distance between the log-mel of clean speech, s, and what is predicted from noisy
speech, p = f(x + n), summed over all frames and channels: ``sum_{t, c} |p[t, c] - s[t, c]|``. No frame is masked.

n is coloured noise: its power falls as 1 / frequency^a, a uniform in 0 to 2. Its level is uniform in decibels. Then all
above a cut-off is taken away, whose logarithm is uniform. All three, and n, are drawn by (seed, epoch, utterance id).
With ``data.noise``, n is a recording of that folder. A share ``reverb_prob`` of the utterances is heard in a room, too:
the target is the direct sound.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.config.objectives import DenoiseConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.augment import Sounds, band_limited, with_noise, with_reverb
from speechssl.data.batches.batch import Batch, Prepared, full_scale
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import MEL_STRIDE, FrameGrid
from speechssl.objectives.base import Curve, Loss, Objective, Rule
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import empty_loss, frame_counts
from speechssl.objectives.shared.reconstruction import (
    CHANCE,
    CURVES,
    PREDICTION_COLLAPSE,
    Bottleneck,
    LogMelHead,
    reconstruction_loss,
)

__all__ = ["Denoise", "DenoisePrepared", "DenoisePreparer"]


@dataclass(frozen=True)
class DenoisePrepared(Prepared):
    """A clean batch and its noisy copy. ``n_targets`` counts values: all of the frames in ``frames``."""

    noisy: Tensor
    """[B, T] what the encoder hears, in floating point with full scale 1."""
    frames: FrameSelection
    """Frames of the rows that have weight."""
    lengths: Tensor | None
    """[B] int64 samples in each row, or None when no row is padded."""


@dataclass(frozen=True)
class DenoisePreparer:
    """Makes the noisy copy of a CPU batch, keyed by (seed, epoch, utterance id). A row of weight 0 gets no targets."""

    grid: FrameGrid
    cfg: DenoiseConfig
    seed: int
    sounds: Sounds

    def __call__(self, batch: Batch) -> DenoisePrepared:
        """Return the batch with its noisy copy."""
        rows, width = frame_counts(self.grid, batch)
        counted = [count if weight > 0 else 0 for count, weight in zip(rows, batch.weights.tolist(), strict=True)]
        noisy = full_scale(batch.wave.clone())
        for wave, length, count, item in zip(noisy, batch.lengths.tolist(), counted, batch.ids, strict=True):
            if count:
                wave[:length] = torch.from_numpy(self.corrupted(wave[:length].numpy(), batch.epoch, item))
        frames = FrameSelection.of(np.arange(width) < np.array(counted)[:, None])
        return DenoisePrepared(
            batch=batch,
            n_targets=len(frames) * self.cfg.n_mels * (self.grid.hop // MEL_STRIDE),
            noisy=noisy,
            frames=frames,
            lengths=batch.lengths if batch.padded else None,
        )

    def corrupted(self, wave: np.ndarray, epoch: int, item: str) -> np.ndarray:
        """Return the reverberant, noisy, band-limited copy of an utterance, float32 [T]."""
        rooms = generator("reverb", self.seed, epoch, item)
        if rooms.random() < self.cfg.reverb_prob:
            wave = with_reverb(wave, self.sounds.room(rooms))
        random = generator("denoise", self.seed, epoch, item)
        slope, snr_db, place = 2 * random.random(), random.uniform(*self.cfg.snr_db), random.random()
        noisy = with_noise(wave, self.sounds.noise(len(wave), slope, random), snr_db)
        low, high = self.cfg.band_hz
        return band_limited(noisy, low * (high / low) ** place)


class Denoise(Objective[DenoisePrepared]):
    """The objective around an encoder, whose mask embedding is frozen; ``seed`` is the key of the noise.

    Raises
    ------
    ConfigError
        The encoder's frames do not lie a multiple of 10 ms apart; a range is reversed, the band is not above 0 Hz, or a
        share is not between 0 and 1.
    """

    title = "Denoising autoencoder"
    curves = (
        *CURVES,
        Curve(
            "input_error",
            "L1 error of the noisy input, relative to predicting the mean",
            "The loss of a model that returns the log-mel of its noisy input. Below it, noise is removed.",
            zero=True,
            held_out=True,
        ),
    )
    rules = (
        PREDICTION_COLLAPSE,
        Rule(
            metric="input_error",
            finding="clean_input",
            message="{name} is {value:.4f}: the input is practically clean, so a copy of it is the right answer. Lower "
            "objective.snr_db",
            low=0.02,
            after=None,
        ),
    )

    def __init__(self, encoder: SpeechEncoder, cfg: DenoiseConfig, *, seed: int) -> None:
        super().__init__()
        if cfg.snr_db[0] > cfg.snr_db[1] or not 0 < cfg.band_hz[0] <= cfg.band_hz[1] or not 0 <= cfg.reverb_prob <= 1:
            raise ConfigError(
                f"objective.snr_db {cfg.snr_db} and objective.band_hz {cfg.band_hz}: give the lower bound first; a "
                f"band is above 0 Hz; objective.reverb_prob {cfg.reverb_prob} lies between 0 and 1"
            )
        self.encoder = encoder
        self.encoder.mask_embedding.requires_grad = False  # no frame is masked
        self.cfg = cfg
        self.seed = seed
        self.bottleneck = Bottleneck(encoder.dim, cfg.bottleneck)
        self.head = LogMelHead(cfg.n_mels, encoder.frontend.grid, encoder.dim)
        self.chance = dict(CHANCE)

    def preparer(self, seed: int | None = None) -> DenoisePreparer:
        """Return what draws noise and cut-offs."""
        own = self.seed if seed is None else seed
        return DenoisePreparer(self.encoder.frontend.grid, self.cfg, own, self.sounds)

    def forward(self, prepared: DenoisePrepared) -> Loss:
        """Return the L1 loss of the clean log-mel of all frames."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        frames, lengths = prepared.frames, prepared.lengths
        context, divergence = self.bottleneck(frames.pick(self.encoder(prepared.noisy, lengths).x))
        predicted = self.head(context)
        with torch.autocast(predicted.device.type, enabled=False):
            speech = frames.pick(self.head.mel(prepared.batch.wave, lengths))
            heard = frames.pick(self.head.mel(prepared.noisy, lengths))
            loss = reconstruction_loss(predicted, speech, prepared.n_targets)
            copied = reconstruction_loss(heard, speech, prepared.n_targets)
        loss.metrics["input_error"] = copied.metrics["relative_loss"]
        return self.bottleneck.joined(loss, divergence, len(frames))
