"""Span masks and negative samples: pure functions of a numpy generator.

In: frame counts and a generator keyed by (seed, epoch, utterance id). Out: boolean masks over frames, indices of
negatives. An utterance's mask depends on nothing but its own length and its own generator, never on its batch
neighbours.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.config import MaskConfig

__all__ = ["mask_batch", "sample_negatives", "span_mask"]


def span_mask(frames: int, cfg: MaskConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask spans of ``cfg.length`` frames (wav2vec 2.0, section 3.1).

    The number of spans is ``floor(prob * frames / length + u)`` with u uniform in [0, 1), so that it is right on
    average, at least ``min_spans``, at most the number of possible starts. Starts are drawn without replacement from
    those whose span lies wholly inside the utterance; spans may overlap, so the masked share is lower than ``prob``:
    about 49 % of a 15 s utterance at (.65, 10) and 57 % at (.80, 10).

    Parameters
    ----------
    frames
        Valid frames of the utterance (or crop).
    cfg
        Probability, span length, smallest number of spans.
    rng
        Generator of this utterance.

    Returns
    -------
    NDArray[np.bool_]
        [frames]; all false when the utterance is not longer than one span, as a mask would leave no context to predict
        from.
    """
    mask = np.zeros(max(frames, 0), dtype=np.bool_)
    starts = frames - cfg.length + 1
    if starts < 2 or cfg.prob <= 0:
        return mask
    spans = max(int(cfg.prob * frames / cfg.length + rng.random()), cfg.min_spans)
    chosen = rng.choice(starts, min(spans, starts), replace=False, shuffle=False)
    mask[(chosen[:, None] + np.arange(cfg.length)).ravel()] = True
    return mask


def mask_batch(
    lengths: Sequence[int], max_frames: int, cfg: MaskConfig, rngs: Iterable[np.random.Generator]
) -> NDArray[np.bool_]:
    """Return one span mask a row as [B, max_frames], false after each row's length.

    Parameters
    ----------
    lengths
        Valid frames of each row.
    max_frames
        Frames of the batch.
    rngs
        One generator a row.
    """
    masks = np.zeros((len(lengths), max_frames), dtype=np.bool_)
    for row, length, rng in zip(masks, lengths, rngs, strict=True):
        row[:length] = span_mask(int(length), cfg, rng)
    return masks


def sample_negatives(n_masked: int, n_negatives: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw distractors for each masked frame, uniformly and with replacement, from the utterance's other masked frames.

    The positive is excluded by a shift: of the n - 1 others, an index at or above the positive's stands for the next
    one (wav2vec 2.0, section 3.2).

    Returns
    -------
    NDArray[np.int64]
        [n_masked, n_negatives] indices into the masked frames of the utterance; no column when fewer than two frames
        are masked, as there is nothing to contrast with: such an utterance has no contrastive target.
    """
    if n_masked < 2:
        return np.zeros((max(n_masked, 0), 0), dtype=np.int64)
    drawn = rng.integers(0, n_masked - 1, size=(n_masked, n_negatives))
    drawn += drawn >= np.arange(n_masked)[:, None]
    return drawn
