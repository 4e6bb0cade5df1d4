"""SpecAugment for fine-tuning: draws what hides and warps the log-mel of a batch, keyed by (seed, epoch, utterance id).

In: a CPU batch. Out: a `MelAugmentation`, which the log-mel stem applies on the device. What an utterance gets depends
on nothing but its length and its key.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.config import FrontendConfig, SpecAugmentConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.models.frame_counts import mel_frames
from speechssl.models.logmel import MelAugmentation
from speechssl.models.masking import channel_block, sample_frames

__all__ = ["SpecAugment", "spec_augment", "warped"]

FRAMES_A_SECOND = 100


@dataclass(frozen=True)
class SpecAugment:
    """Callable as ``draw(batch)``; equal arguments give equal results in any process.

    The number of time masks grows with the utterance ("adaptive multiplicity", Park et al. 2019, arXiv 1912.05533), and
    none hides more than a share of it (arXiv 1904.08779, section 2).
    """

    cfg: SpecAugmentConfig
    n_mels: int
    seed: int

    def __call__(self, batch: Batch, views: int = 1) -> MelAugmentation:
        """Return the masks and warps of all rows, view after view; a row has the same warp in all of them."""
        drawn = [self._draw(batch, (view,) if view else ()) for view in range(views)]
        frames, mels, places = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return MelAugmentation(frames, mels, places if self.cfg.time_warp else None)

    def _draw(self, batch: Batch, view: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        cfg, shape = self.cfg, (len(batch.ids), mel_frames(batch.wave.shape[1]))
        frames, mels = np.zeros(shape, dtype=np.bool_), np.zeros((shape[0], self.n_mels), dtype=np.bool_)
        source = np.tile(np.arange(shape[1], dtype=np.float32), (shape[0], 1))
        for row, (name, length) in enumerate(zip(batch.ids, mel_frames(batch.lengths).tolist(), strict=True)):
            key = (self.seed, batch.epoch, name)
            frames[row, :length] = self.time_mask(length, generator("spec-time", *key, *view))
            rng = generator("spec-mel", *key, *view)
            for _ in range(cfg.mel_masks):
                mels[row] |= channel_block(self.n_mels, cfg.mel_mask_channels, rng)
            if cfg.time_warp:
                source[row, :length] = warped(length, cfg.time_warp, generator("spec-warp", *key))
        return torch.from_numpy(frames), torch.from_numpy(mels), torch.from_numpy(source)

    def time_mask(self, length: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return the time masks of an utterance, [length]; their number is rounded up or down at random."""
        cfg, mask = self.cfg, np.zeros(length, dtype=np.bool_)
        expected = cfg.time_masks * length / FRAMES_A_SECOND
        number = int(expected + int(sample_frames(1 << 15, 1, rng)[0]) / (1 << 15))
        longest = min(cfg.time_mask_frames, int(cfg.time_mask_share * length))
        for _ in range(number):
            mask |= channel_block(length, longest, rng)
        return mask


def spec_augment(cfg: SpecAugmentConfig, stem: FrontendConfig, seed: int) -> SpecAugment | None:
    """Return what draws SpecAugment for a stem, or None when it would change nothing.

    Raises ConfigError when the stem has no log-mel.
    """
    if not cfg.used:
        return None
    if stem.kind != "logmel":
        raise ConfigError(
            "ctc.spec_augment changes log-mel, which a waveform stem does not compute: leave it out and use "
            "ctc.time_mask_prob and ctc.channel_mask_prob"
        )
    return SpecAugment(cfg, stem.n_mels, seed)


def warped(length: int, furthest: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return where each of ``length`` frames is read from after a time warp, [length] (Park et al. 2019, section 2).

    One point moves by at most ``furthest`` frames to the left or right; the first and the last frame stay, and time
    between these is stretched evenly. The point has twice that distance on both sides (in a short utterance it moves
    less): no part is shorter than half, or longer than one and a half times, what it was.
    """
    furthest = min(furthest, (length - 1) // 4)
    at = np.arange(max(length, 0), dtype=np.float64)
    if furthest < 1:
        return at.astype(np.float32)
    point = 2 * furthest + int(sample_frames(length - 4 * furthest, 1, rng)[0])
    moved = point + int(sample_frames(2 * furthest + 1, 1, rng)[0]) - furthest
    return np.interp(at, [0, moved, length - 1], [0, point, length - 1]).astype(np.float32)
