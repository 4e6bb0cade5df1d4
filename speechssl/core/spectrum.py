"""How many directions a cloud of points uses.

In: points [N, D]. Out: variances and directions in float64, and the effective rank. Points that are constant or of low
rank have a defined result, never NaN.
"""

import numpy as np

__all__ = ["centred", "effective_rank", "principal"]

RANK = 1e-10
"""Directions with less than this share of the largest variance do not count."""


def effective_rank(x: np.ndarray) -> float:
    """Return how many directions the centred points use: exp of the entropy of the shares of the singular values.

    Roy and Vetterli 2007, definition 1. From 1 to the rank; 0 for constant points.
    """
    values, _ = principal(centred(x))
    if not len(values):
        return 0.0
    shares = np.sqrt(values) / np.sqrt(values).sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances [K] of centred points and their directions [D, K], without those of no variance."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    there = values > RANK * max(float(values[-1]), 0.0)
    return values[there], vectors[:, there]


def centred(x: np.ndarray) -> np.ndarray:
    """Return points in float64 with mean 0; dimensions that only rounding varies are 0."""
    wide = np.asarray(x, dtype=np.float64)
    moved = wide - wide.mean(axis=0)
    moved[:, np.abs(moved).max(axis=0) <= 1e-12 * np.abs(wide).max(axis=0)] = 0.0
    return moved
