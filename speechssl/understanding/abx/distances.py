"""Distances of frame sequences: dynamic time warping over distances of frames.

In: frames, where each sequence lies, pairs of sequences. Out: a distance for each pair.
"""

import math

import numpy as np
import torch
from torch import Tensor

from speechssl.config.understanding.abx import Distance

__all__ = ["pair_distances", "warped"]

CHUNK_BYTES = 1 << 27
"""Frames and their distances held at a time."""


def pair_distances(
    frames: Tensor, starts: np.ndarray, lengths: np.ndarray, pairs: np.ndarray, distance: Distance
) -> np.ndarray:
    """Return the distance of each pair of sequences, float64 [P]; computed in float64.

    Parameters
    ----------
    frames
        [F, dim] of all sequences.
    starts, lengths
        [N] first frame of each sequence, and its number of frames.
    pairs
        [P, 2] sequences.
    """
    found = np.zeros(len(pairs))
    longest = lengths[pairs].max(axis=1) if len(pairs) else np.zeros(0, dtype=np.int64)
    order = np.argsort(-longest, kind="stable")
    place = 0
    while place < len(pairs):
        most = int(longest[order[place]])
        size = max(1, CHUNK_BYTES // (8 * most * (2 * frames.shape[1] + 4 * most)))
        rows = order[place : place + size]
        (x, x_lengths), (y, y_lengths) = (
            _gathered(frames, starts[pairs[rows, side]], lengths[pairs[rows, side]]) for side in (0, 1)
        )
        found[rows] = warped(_between(x, y, distance), x_lengths, y_lengths).numpy()
        place += size
    return found


def _gathered(frames: Tensor, starts: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return sequences [P, longest, dim] float64, whose last frames are repeated, and their lengths [P]."""
    steps = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    return frames[torch.from_numpy(starts[:, None] + steps)].double(), torch.from_numpy(lengths)


def _between(x: Tensor, y: Tensor, distance: Distance) -> Tensor:
    """Return the distances [P, m, n] of the frames x [P, m, dim] and y [P, n, dim].

    The angle of a frame of zeros and any other is a right one.
    """
    if distance == "euclidean":
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    x, y = (torch.nn.functional.normalize(side, dim=-1, eps=1e-300) for side in (x, y))
    return torch.bmm(x, y.transpose(1, 2)).clamp(-1, 1).acos() / math.pi


def warped(costs: Tensor, m_lengths: Tensor, n_lengths: Tensor) -> Tensor:
    """Return the mean of ``costs`` along the path of the least sum, [P].

    Steps go to the next frame of either sequence or of both, with equal weights. Of equal sums the path before is taken
    from the diagonal, then from n, then from m, as fastabx does: the length of the path depends on it.

    Parameters
    ----------
    costs
        [P, m, n]; what lies beyond the lengths is not used.
    m_lengths, n_lengths
        [P], at least 1.
    """
    pairs, m, n = costs.shape
    infinite = float("inf")
    # Row i moves i places to the right: column k then holds the diagonal of frames with i + j = k.
    moved = costs.new_full((pairs, m, m + n), infinite)
    moved[:, :, :n] = costs
    moved = moved.reshape(pairs, -1)[:, : m * (m + n - 1)].view(pairs, m, m + n - 1)
    # Sums and lengths of the last two diagonals, with an entry before row 0.
    sums, earlier = (costs.new_full((pairs, m + 1), infinite) for _ in range(2))
    steps, earlier_steps = (costs.new_zeros((pairs, m + 1)) for _ in range(2))
    earlier[:, 0] = 0.0  # from where the path starts, by a diagonal step
    last, row = (m_lengths + n_lengths - 2)[:, None], m_lengths[:, None]
    found = costs.new_zeros((pairs, 1))
    for k in range(m + n - 1):
        diagonal, by_n, by_m = earlier[:, :-1], sums[:, 1:], sums[:, :-1]
        straight = (diagonal <= by_n) & (diagonal <= by_m)
        sideways = by_n <= by_m
        best = torch.where(straight, diagonal, torch.where(sideways, by_n, by_m))
        length = torch.where(straight, earlier_steps[:, :-1], torch.where(sideways, steps[:, 1:], steps[:, :-1]))
        earlier, earlier_steps = sums, steps
        sums = torch.nn.functional.pad(best + moved[:, :, k], (1, 0), value=infinite)
        steps = torch.nn.functional.pad(length + 1, (1, 0))
        found = torch.where(last == k, sums.gather(1, row) / steps.gather(1, row), found)
    return found[:, 0]
