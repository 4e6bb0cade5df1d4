"""Online clustering: codebooks whose entries are moving averages of the vectors that are nearest to them.

In: N frames of G vectors each, one for each codebook. Out: the code of each vector. Vectors are collected over the
micro-batches of an update; then every codebook moves once, by sums over all of them and over all ranks (DinoSR,
equations 3 to 5).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.core.errors import ConfigError
from speechssl.models.norm import standardise

__all__ = ["OnlineCodebooks"]


class OnlineCodebooks(nn.Module):
    """G codebooks of V entries with D channels, and how they follow what they code.

    Entry v of a codebook is ``e_v = s_v / n_v``. With the vectors Z_v that were nearest to it in an update,
    ``s_v <- decay * s_v + (1 - decay) * sum(Z_v)`` and ``n_v <- decay * n_v + (1 - decay) * |Z_v|``. An entry without
    vectors stays as it is. At the start ``n_v = 1``, and the entries are random, with mean 0 and ``deviation`` over V
    in each channel. Below 1, unused entries lie nearer to the origin, and so nearer to vectors of unit variance that no
    entry in use is close to: they come into use.

    Raises
    ------
    ConfigError
        Fewer than two entries, or a decay out of its range.
    """

    sums: Tensor
    """s: [G, V, D]."""
    counts: Tensor
    """n: [G, V]."""
    seen_sums: Tensor
    """[G, V, D] sum of the vectors of each entry since the last update; not part of checkpoints."""
    seen_counts: Tensor
    """[G, V] their number."""

    def __init__(self, codebooks: int, entries: int, dim: int, *, decay: float, deviation: float = 1.0) -> None:
        super().__init__()
        if entries < 2 or not 0 <= decay < 1 or deviation <= 0:
            raise ConfigError(
                f"objective.entries = {entries} must be at least 2, codebook_decay = {decay} at least 0 and below 1, "
                f"and codebook_deviation = {deviation} above 0"
            )
        self.decay = decay
        self.register_buffer("sums", deviation * standardise(torch.randn(codebooks, entries, dim), None))
        self.register_buffer("counts", torch.ones(codebooks, entries))
        self.register_buffer("seen_sums", torch.zeros_like(self.sums), persistent=False)
        self.register_buffer("seen_counts", torch.zeros_like(self.counts), persistent=False)

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes [N, G] of vectors x [N, G, D]: the entry e at the least Euclidean distance.

        That is where ``x e - e^2 / 2`` is largest: x^2 is the same for all entries.
        """
        entries = self.sums / self.counts[..., None]
        return (torch.einsum("ngd,gvd->ngv", x, entries) - entries.square().sum(dim=2) / 2).argmax(dim=2)

    def collect(self, x: Tensor, codes: Tensor) -> None:
        """Add vectors [N, G, D] and their codes [N, G] to those of this update."""
        chosen = functional.one_hot(codes, self.counts.shape[1]).to(x.dtype)  # a product is deterministic on a GPU
        self.seen_sums += torch.einsum("ngv,ngd->gvd", chosen, x)
        self.seen_counts += chosen.sum(dim=0)

    def forget(self) -> None:
        """Drop what was collected."""
        self.seen_sums.zero_()
        self.seen_counts.zero_()

    def follow(self, total: Callable[[Tensor], Tensor]) -> None:
        """Move the entries towards what was collected; ``total`` sums a tensor over ranks."""
        sums, counts = total(self.seen_sums), total(self.seen_counts)
        rate = (1 - self.decay) * (counts > 0).to(counts.dtype)
        self.sums.lerp_(sums, rate[..., None])
        self.counts.lerp_(counts, rate)
