"""Span masks, masked channels and negative samples: pure functions of the raw words of a bit generator.

In: frame counts and a generator keyed by (seed, epoch, utterance id). Out: boolean masks over frames, indices of
negatives. An utterance's mask depends on nothing but its own length and its own generator, never on its batch
neighbours.

numpy guarantees the raw words of PCG64, but may change what the methods of ``Generator`` make of them. So the
mappings from words to numbers are here; tests/models/test_masking.py holds their values.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.config import MaskConfig

__all__ = ["channel_block", "mask_batch", "sample_frames", "sample_negatives", "span_mask"]


def span_mask(frames: int, cfg: MaskConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask spans of ``cfg.length`` frames (wav2vec 2.0, section 3.1).

    The number of spans is ``floor(prob * frames / length + u)`` with u uniform in [0, 1), so that it is right on
    average. It is at least ``min_spans`` and at most the number of possible starts. Starts are drawn without
    replacement from those whose span lies wholly inside the utterance. Spans may overlap, so the masked share is lower
    than ``prob``: about 49 % of a 15 s utterance at (.65, 10) and 57 % at (.80, 10).

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
    words = rng.bit_generator.random_raw(1 + starts)
    uniform = (int(words[0]) >> 11) * 2.0**-53
    spans = min(max(int(cfg.prob * frames / cfg.length + uniform), cfg.min_spans), starts)
    chosen = _smallest(words[1:], spans)
    mask[(chosen[:, None] + np.arange(cfg.length)).ravel()] = True
    return mask


def mask_batch(
    lengths: Sequence[int], max_frames: int, cfg: MaskConfig, rngs: Iterable[np.random.Generator]
) -> NDArray[np.bool_]:
    """Return one span mask per row as [B, max_frames], false after each row's length.

    Parameters
    ----------
    lengths
        Valid frames of each row.
    max_frames
        Frames of the batch.
    rngs
        One generator per row.
    """
    masks = np.zeros((len(lengths), max_frames), dtype=np.bool_)
    for row, length, rng in zip(masks, lengths, rngs, strict=True):
        row[:length] = span_mask(int(length), cfg, rng)
    return masks


def channel_block(channels: int, widest: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask one block of neighbouring channels (TERA, arXiv 2007.06028; SpecAugment, section 2).

    Its width is uniform in 0 to ``widest``, its place uniform among those where it lies wholly within the channels.

    Returns
    -------
    NDArray[np.bool_]
        [channels]
    """
    mask = np.zeros(channels, dtype=np.bool_)
    width = int(_integers(min(widest, channels) + 1, 1, rng)[0])
    start = int(_integers(channels - width + 1, 1, rng)[0])
    mask[start : start + width] = True
    return mask


def sample_negatives(n_masked: int, n_negatives: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw distractors for each masked frame, uniformly and with replacement, from the utterance's other masked frames.

    The positive is excluded by a shift: of the n - 1 others, an index at or above the positive's stands for the next
    one (wav2vec 2.0, section 3.2).

    Returns
    -------
    NDArray[np.int32]
        [n_masked, n_negatives] indices into the masked frames of the utterance; no column when fewer than two frames
        are masked: such an utterance has no contrastive target.
    """
    if n_masked < 2:
        return np.zeros((max(n_masked, 0), 0), dtype=np.int32)
    drawn = _integers(n_masked - 1, n_masked * n_negatives, rng).reshape(n_masked, n_negatives)
    drawn += drawn >= np.arange(n_masked, dtype=drawn.dtype)[:, None]
    return drawn.astype(np.int32)


def sample_frames(frames: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``count`` of 0 to ``frames - 1``, uniformly and with replacement."""
    return _integers(int(frames), int(count), rng).astype(np.int64)


def _smallest(words: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Return the places of the ``count`` smallest words (uint64), in no order: a draw without replacement.

    The low bits of each word are replaced by its place, so that no two are equal and the result is the same on every
    machine.
    """
    if count < 1:
        return np.zeros(0, dtype=np.int64)
    low = np.uint64((1 << len(words).bit_length()) - 1)
    keys = (words & ~low) | np.arange(len(words), dtype=np.uint64)
    return (np.partition(keys, count - 1)[:count] & low).astype(np.int64)


def _integers(limit: int, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Return ``count`` integers in [0, limit), exactly uniform (Lemire 2019, doi:10.1145/3230636).

    A word w of b bits gives ``w * limit >> b``. Words whose product has low bits below ``2 ** b mod limit`` are drawn
    again, so that each integer corresponds to equally many words. b is 16 while that is enough.
    """
    word, product = ("<u2", "<u4") if limit < 1 << 16 else ("<u4", "<u8")
    raw = rng.bit_generator.random_raw(-(-count * int(word[-1]) // 8)).astype("<u8", copy=False)
    products = raw.view(word)[:count].astype(product)
    products *= limit
    bits = 8 * int(word[-1])
    high = (products >> bits).astype(word)
    refused = np.flatnonzero(products.astype(word) < (1 << bits) % limit)
    if len(refused):
        high[refused] = _integers(limit, len(refused), rng)
    return high
