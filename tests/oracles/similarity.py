"""HSIC_1 from whole kernels as its paper writes it (Song et al. 2012), and linear CKA from it."""

import numpy as np


def hsic(k: np.ndarray, l: np.ndarray) -> float:
    """Of two kernels [N, N]."""
    n = len(k)
    k, l = k.copy(), l.copy()
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(l, 0.0)
    one = np.ones(n)
    together = one @ k @ l @ one
    total = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * together
    return total / (n * (n - 3))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Of frames [N, D] and [N, E]; nothing is centred."""
    k, l = x @ x.T, y @ y.T
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
