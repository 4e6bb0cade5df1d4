"""Transformation prediction: which of a few transformations was applied to an utterance.

The task is that of image rotations (Gidaris et al. 2018, arXiv 1803.07728), with transformations of sound. In: batches
of waveforms. Out: with T_k the transformations and h the encoder's output averaged over F frames, the cross-entropy of
the one that was applied, ``-log softmax(W h + b)[k]``, h = (1 / F) sum_t f(T_k x)[t], summed over utterances.

k and the place of the crop are drawn by (seed, epoch, utterance id). Three things would tell k without listening:

- Length. All views of an utterance are cropped to what the fastest leaves of it, whatever k is.
- Edges. 25 ms at either end of a view, where resampling and filtering meet the edge, are never in a crop.
- Bandwidth. ``slow`` and ``lower`` leave the top of the spectrum empty, so it is taken away in all views.

What remains: a faster view shows more of the utterance, and so more often the silence before and after it; a corpus
that was band-limited below 8 kHz has its limit moved; a phase vocoder (``higher``, ``lower``) can be heard. Log-mel
cannot show ``polarity``. A mean of frames tells ``reversed`` only by an encoder that knows the order of frames.
"""

from dataclasses import dataclass

import numpy as np

from speechssl.config.objectives import TransformationConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.augment import band_limited, with_pitch, with_speed
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.objectives.base import Loss, Objective
from speechssl.objectives.classification.classes import (
    CURVES,
    RULES,
    ClassHead,
    ClassPrepared,
    chance,
    class_loss,
    utterances,
)
from speechssl.objectives.shared.masked import empty_loss

__all__ = ["Transformation", "TransformationPreparer", "common_limit"]

MARGIN = 400
"""Samples at either end of a view that no crop contains."""
PASSBAND = 0.9
"""Share of its bandwidth that resampling surely keeps."""


def common_limit(cfg: TransformationConfig) -> float:
    """Return the frequency, in hertz, above which no view has anything."""
    nyquist = SAMPLE_RATE / 2
    return PASSBAND * nyquist / cfg.factor if {"slow", "lower"} & set(cfg.classes) else nyquist


@dataclass(frozen=True)
class TransformationPreparer:
    """Draws and applies a transformation to each utterance of a CPU batch, keyed by (seed, epoch, utterance id)."""

    grid: FrameGrid
    cfg: TransformationConfig
    seed: int

    def __call__(self, batch: Batch) -> ClassPrepared:
        """Return the batch with its views. A row of weight 0, or too short for one frame, gets no target."""
        views, classes, spans = [], [], []
        for item, wave in utterances(batch):
            samples = self.samples(len(wave))
            if self.grid.frames(samples) > 0:
                random = generator("transformation", self.seed, batch.epoch, item)
                classes.append(int(random.integers(len(self.cfg.classes))))
                view = self.transformed(wave, self.cfg.classes[classes[-1]], random)
                start = int(random.integers(MARGIN, len(view) - MARGIN - samples, endpoint=True))
                views.append(view[start : start + samples])
                spans.append([(0, self.grid.frames(samples))])
        return ClassPrepared.of(batch, self.grid, views, classes, spans)

    def samples(self, length: int) -> int:
        """Return the length of every view of an utterance of ``length`` samples, 0 when it is too short."""
        shortest = int(length / self.cfg.factor) if "fast" in self.cfg.classes else length
        return max(0, shortest - 1 - 2 * MARGIN)  # resampling may round down

    def transformed(self, wave: np.ndarray, name: str, random: np.random.Generator) -> np.ndarray:
        """Return the whole utterance with a transformation, up to the limit that all have in common."""
        factor, limit = self.cfg.factor, common_limit(self.cfg)
        match name:
            case "fast":
                wave = with_speed(wave, factor)
            case "slow":
                wave = with_speed(wave, 1 / factor)
            case "higher":
                wave = with_pitch(wave, factor)
            case "lower":
                wave = with_pitch(wave, 1 / factor)
            case "reversed":
                wave = wave[::-1]
            case "polarity":
                wave = -wave
            case "band_limited":
                low, high = self.cfg.band_hz
                limit = low * (high / low) ** random.random()
        return band_limited(wave, limit) if limit < SAMPLE_RATE / 2 else wave


class Transformation(Objective[ClassPrepared]):
    """The objective around an encoder, whose mask embedding is frozen; ``seed`` is the key of the transformations.

    Raises
    ------
    ConfigError
        Fewer than two classes, or one of them twice; a factor outside 1 to 2; a reversed band, or one that reaches
        above the limit of all views.
    """

    title = "Transformation prediction"
    curves = CURVES
    rules = RULES

    def __init__(self, encoder: SpeechEncoder, cfg: TransformationConfig, *, seed: int) -> None:
        super().__init__()
        if len(cfg.classes) < 2 or len(set(cfg.classes)) < len(cfg.classes):
            raise ConfigError(f"objective.classes {list(cfg.classes)}: name two or more, each once")
        if not 1 < cfg.factor <= 2:
            raise ConfigError(f"objective.factor = {cfg.factor}: give a factor above 1, and at most 2")
        if not 0 < cfg.band_hz[0] <= cfg.band_hz[1] <= common_limit(cfg):
            raise ConfigError(
                f"objective.band_hz {list(cfg.band_hz)}: give the lower bound first; all views end at "
                f"{common_limit(cfg):.0f} Hz"
            )
        self.encoder = encoder
        self.encoder.mask_embedding.requires_grad = False  # no frame is masked
        self.cfg = cfg
        self.seed = seed
        self.head = ClassHead(encoder.dim, len(cfg.classes))
        self.chance = chance(len(cfg.classes))

    @staticmethod
    def candidates(cfg: TransformationConfig, iteration: int) -> int:
        """Return the number of classes."""
        del iteration
        return len(cfg.classes)

    def preparer(self, seed: int | None = None) -> TransformationPreparer:
        """Return what draws and applies transformations."""
        return TransformationPreparer(self.encoder.frontend.grid, self.cfg, self.seed if seed is None else seed)

    def forward(self, prepared: ClassPrepared) -> Loss:
        """Return the cross-entropy of the transformations."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        x = self.encoder(prepared.audio, prepared.lengths).x
        return class_loss(self.head(x, prepared.segments), prepared.classes)
