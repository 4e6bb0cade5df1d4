"""Measures of layers: similarity (CKA, CCA), linear probes and anisotropy, in float64.

In: frames [N, D]. Out: numbers. Frames that are constant or of low rank have a defined result, never NaN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from speechssl.core.spectrum import centred, principal

__all__ = ["anisotropy", "canonical_correlations", "cka", "held_out_cca", "linear_probe", "one_hot"]


def cka(first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Return the linear CKA [L, M] of the layers of one model and another, or of one model with itself [L, L].

    Centred kernel alignment is HSIC(x, y) over the root of HSIC(x, x) HSIC(y, y) (Kornblith et al. 2019).
    HSIC is estimated without bias (Song et al. 2012, HSIC_1), so that unrelated layers give about 0 also where
    they are wide. A constant layer gives 0.

    Parameters
    ----------
    first, second
        Frames [N, D] of each layer; N, at least 4, is the same for all, and so is the order of the frames.
    """
    others = first if second is None else second
    own = [[_hsic(x, x) for x in map(centred, layers)] for layers in ((first,) if second is None else (first, others))]
    found = np.zeros((len(first), len(others)))
    for row, layer in enumerate(first):
        x = centred(layer)
        for column in range(0 if second is not None else row, len(others)):
            scale = max(own[0][row], 0.0) ** 0.5 * max(own[-1][column], 0.0) ** 0.5
            value = _hsic(x, centred(others[column])) / scale if scale else 0.0
            found[row, column] = min(max(value, -1.0), 1.0)
            if second is None:
                found[column, row] = found[row, column]
    return found


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased HSIC of centred frames with linear kernels, times N (N - 3).

    HSIC_1 of Song et al. 2012, with the kernels written as products: in centred kernels the rows sum to 0, so those
    without their diagonal sum to minus the diagonal.
    """
    n = len(x)
    a, b = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    whole = float(np.square(x.T @ y).sum())
    return whole - float(a @ b) * n / (n - 2) + float(a.sum() * b.sum()) / ((n - 1) * (n - 2))


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the canonical correlations of [N, D] and [N, E], largest first (Hotelling 1936).

    There are as many as the smaller rank; none for constant frames.
    """
    return _fit(x, y).correlations


def held_out_cca(x: np.ndarray, y: np.ndarray, half: np.ndarray) -> tuple[float, float]:
    """Return the projection-weighted mean of the canonical correlations of x and y, on each half of the frames.

    Directions and weights come from the other half, so that unrelated x and y give about 0. Pasad et al. (2021, 2023)
    compare layers with log-mel, phones and words by this mean (PWCCA: Morcos et al. 2018). A direction
    weighs as much as y projects on it; one without a counterpart in x counts as 0. The mean does not change with
    invertible linear maps of x.

    Parameters
    ----------
    x, y
        [N, D] and [N, E].
    half
        bool [N]: which half each frame belongs to. All frames of an utterance should be in the same.
    """
    return _tested(x, y, ~half, half), _tested(x, y, half, ~half)


class _Fit(NamedTuple):
    correlations: np.ndarray
    x: np.ndarray
    """[D, K]: directions in x."""
    y: np.ndarray
    """[E, R]: directions in y, those with a correlation first; R is the rank of y."""


def _fit(x: np.ndarray, y: np.ndarray) -> _Fit:
    x, y = centred(x), centred(y)
    a, b = _whitening(x), _whitening(y)
    left, values, right = np.linalg.svd((x @ a).T @ (y @ b) / len(x))
    return _Fit(np.clip(values, 0.0, 1.0), a @ left[:, : len(values)], b @ right.T)


def _tested(x: np.ndarray, y: np.ndarray, fit: np.ndarray, new: np.ndarray) -> float:
    found = _fit(x[fit], y[fit])
    known = centred(y[fit])
    weights = np.abs((known @ found.y).T @ known).sum(axis=1)
    count = found.x.shape[1]
    a, b = centred(centred(x[new]) @ found.x), centred(centred(y[new]) @ found.y[:, :count])
    scale = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    correlations = np.divide((a * b).sum(axis=0), scale, out=np.zeros_like(scale), where=scale > 0)
    return float(weights[:count] @ correlations / weights.sum()) if len(weights) else 0.0


def _whitening(x: np.ndarray) -> np.ndarray:
    values, vectors = principal(x)
    return vectors / np.sqrt(values)


def linear_probe(x: np.ndarray, labels: Sequence[str], half: np.ndarray) -> tuple[float, float]:
    """Return the share of frames [N, D] whose label a linear classifier names, on each half; fitted to the other half.

    The classifier is linear discriminant analysis, whose covariance is shrunk (Ledoit & Wolf 2004). It has a closed
    form: nothing is trained, and the layers differ by what they hold alone. Each half needs two labels.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    wide, names = np.asarray(x, dtype=np.float64), np.array(labels)

    def named(fit: np.ndarray, new: np.ndarray) -> float:
        classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(wide[fit], names[fit])
        return float(classifier.score(wide[new], names[new]))

    return named(~half, half), named(half, ~half)


def one_hot(labels: Sequence[str]) -> np.ndarray:
    """Return [N, K] with a one at each label's place."""
    _, places = np.unique(np.array(labels), return_inverse=True)
    return np.eye(int(places.max(initial=-1)) + 1)[places]


def anisotropy(x: np.ndarray) -> float:
    """Return the mean cosine of all pairs of frames (Ethayarajh 2019): 0 where they point everywhere, 1 one way.

    Pairs with a frame of zeros count as 0.
    """
    wide = np.asarray(x, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    total = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0).sum(axis=0)
    return float(total @ total - (norms > 0).sum()) / (len(wide) * (len(wide) - 1))
