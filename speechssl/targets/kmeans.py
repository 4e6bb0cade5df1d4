"""k-means over speech features: fitted with scikit-learn on a sample, applied with one matrix product.

In: frames of features. Out: centroids, and the nearest of them for any frame. Settings are those of HuBERT's released
recipe (mini-batches of 10,000 frames, 20 starts, no reassignment), but for the rule that ends the fit.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from speechssl.core.arrays import map_arrays, save_arrays
from speechssl.core.errors import DataError

__all__ = ["KMeans", "fit_kmeans", "refine_kmeans"]

BATCH_FRAMES = 10_000
START_FRAMES = 3 * BATCH_FRAMES
"""Frames that a start is drawn from, and on which fits are compared."""
LOOK_EVERY = 100
"""Mini-batches from one comparison to the next."""
SMALLEST_GAIN = 1e-3
"""Share by which ``LOOK_EVERY`` mini-batches lower the mean squared distance; the fit ends when it is less."""


@dataclass(frozen=True)
class KMeans:
    """Fitted centroids."""

    centroids: Tensor
    """[K, D] float32."""
    hours: float = 0.0
    """Audio that it was fitted on; 0 where that is not known."""
    frames: int = 0
    """Frames that it was fitted on."""
    sample: int = 0
    """Those of them that memory held at a time, and that the fit started from."""

    def __len__(self) -> int:
        return len(self.centroids)

    def to(self, device: torch.device | str) -> "KMeans":
        """Return the centroids on ``device``."""
        return replace(self, centroids=self.centroids.to(device))

    def assign(self, features: Tensor) -> Tensor:
        """Return [N] int64, the nearest centroid of each row of [N, D] features (the lower index on a tie)."""
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for every c.
        half_norms = self.centroids.square().sum(dim=1) / 2
        return torch.addmm(half_norms, features.float(), self.centroids.t(), alpha=-1.0).argmin(dim=1)

    def save(self, path: Path) -> None:
        """Write the centroids to an ``.npz`` file, atomically."""
        fitted = np.array([self.hours, self.frames, self.sample], dtype=np.float64)
        save_arrays(path, centroids=self.centroids.cpu().numpy(), fitted=fitted)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read centroids; raise DataError when the file is missing or damaged."""
        arrays = map_arrays(path)
        if "centroids" not in arrays:
            raise DataError(f"{path}: holds no centroids; delete it and run again to rebuild it")
        hours, frames, sample = arrays.get("fitted", np.zeros(3)).tolist()
        return cls(torch.from_numpy(np.array(arrays["centroids"])), hours, int(frames), int(sample))


def fit_kmeans(
    features: np.ndarray, clusters: int, *, seed: int, starts: int = 20, check: Callable[[], None] = lambda: None
) -> KMeans:
    """Fit mini-batch k-means (settings of HuBERT's ``learn_kmeans``) until it no longer improves on a fixed sample.

    Parameters
    ----------
    features
        [N, D] float32 frames.
    seed
        Non-negative integer below 2 ** 32.
    starts
        Random starts, of which the best on a sample goes on.
    check
        Called before each start and each mini-batch; stops the fit by raising.

    Raises
    ------
    DataError
        When there are fewer frames, or fewer distinct ones, than clusters, or a frame is not finite.
    """
    from sklearn.cluster import kmeans_plusplus

    if len(features) < clusters:
        raise DataError(
            f"k-means: {len(features)} frames cannot make {clusters} clusters; give more audio or fewer clusters"
        )
    if not np.isfinite(features).all():
        raise DataError("k-means: the features hold values that are not finite; the model that made them has diverged")
    # A large mean costs precision in the distances, so features are centred first; the mean is added again.
    offset = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    points = features - offset
    random = np.random.RandomState(seed)  # a frozen stream: later releases of numpy draw the same numbers

    def draw(frames: int) -> np.ndarray:
        frames = max(frames, clusters)
        return points[random.randint(0, len(points), frames)] if frames < len(points) else points

    sample = draw(START_FRAMES)
    fits = []
    for _ in range(starts):
        check()
        centroids, _ = kmeans_plusplus(draw(START_FRAMES), clusters, random_state=random)
        started = _mini_batches(centroids).partial_fit(draw(BATCH_FRAMES))
        fits.append((-started.score(sample), started))
    distance, model = min(fits, key=itemgetter(0))
    improving = True
    while improving:
        for _ in range(LOOK_EVERY):
            check()
            model.partial_fit(draw(BATCH_FRAMES))
        before, distance = distance, -model.score(sample)
        improving = distance < (1 - SMALLEST_GAIN) * before
    centroids = model.cluster_centers_.astype(np.float32) + offset
    distinct = len(np.unique(centroids, axis=0))
    if distinct < clusters:
        raise DataError(
            f"k-means: only {distinct} of {clusters} centroids are distinct; is most of the audio silence? "
            "Use fewer clusters"
        )
    return KMeans(torch.from_numpy(centroids))


def refine_kmeans(kmeans: KMeans, frames: Iterable[np.ndarray]) -> KMeans:
    """Go once through frames, arrays [n, D] float32 that need not fit in memory, from fitted centroids.

    Each centroid becomes the mean of the frames that were nearest to it when their mini-batch came (Sculley 2010,
    "Web-scale k-means clustering", algorithm 1): every frame weighs the same.
    """
    centroids = kmeans.centroids.cpu().numpy()
    offset = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
    model = _mini_batches(centroids - offset)
    seen = 0
    for batch in _batches(frames, max(BATCH_FRAMES, len(kmeans))):
        if not np.isfinite(batch).all():
            raise DataError("k-means: the features hold values that are not finite; the model that made them diverged")
        model.partial_fit(batch - offset)
        seen += len(batch)
    refined = torch.from_numpy(model.cluster_centers_.astype(np.float32) + offset)
    return replace(kmeans, centroids=refined, frames=seen)


def _mini_batches(centroids: np.ndarray) -> Any:
    """Return mini-batch k-means from centroids [K, D]; nothing in its ``partial_fit`` is random."""
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(len(centroids), init=centroids, n_init=1, reassignment_ratio=0.0, compute_labels=False)


def _batches(frames: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join and cut arrays to ``size`` rows; what is left at the end joins the last one."""
    held: list[np.ndarray] = []
    for array in frames:
        held.append(array)
        while sum(map(len, held)) >= 2 * size:
            joined = np.concatenate(held)
            yield joined[:size]
            held = [joined[size:]]
    if held and sum(map(len, held)):
        yield np.concatenate(held)
