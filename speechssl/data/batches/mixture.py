"""Batches of several corpora, languages or kinds of labels in set shares: which group batch k is of, by k alone.

In: a corpus, ``MixConfig`` or a share, and a plan of any part of the corpus. Out: a plan whose batches are those of its
groups, each in the order of the group's own plan. A batch holds one group; a step of several batches holds several.
Batches are dealt in blocks of ``BLOCK``: in a block each group has its share of them, rounded, spread evenly with
random offsets. So no state is kept, and a group begins its next epoch when it has been through, whatever the others do.

Shares are those of multilingual wav2vec 2.0 (XLSR, arXiv 2006.13979): proportional to hours to the power of a constant.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from speechssl.config import MixConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.randomness import generator
from speechssl.data.batches.plan import Plan, PlannedBatch
from speechssl.data.store.joined import JoinedCorpus
from speechssl.data.store.reader import Corpus

__all__ = ["Mixture", "mixed", "with_true_share"]

BLOCK = 10_000
"""Batches over which shares are exact, up to rounding."""
UNKNOWN = "unknown"
"""Group of the utterances without a language."""


def mixed(plan: Callable[[np.ndarray | None], Plan], corpus: Corpus, cfg: MixConfig, seed: int) -> Plan:
    """Return the plan of a corpus; a ``Mixture`` where the configuration asks for one.

    Parameters
    ----------
    plan
        Makes the plan of the corpus without some rows (int64, increasing; None: of all of it).

    Raises
    ------
    ConfigError
        A weight is of a group that is not there, or no number above 0.
    DataError
        A group has nothing that can be used.
    """
    whole = plan(None)
    if cfg.by == "none":
        return whole
    names, group_of = _groups(corpus, cfg)
    weights = _weights(cfg, names)
    parts: list[Plan] = []
    for number, name in enumerate(names):
        try:
            parts.append(plan(np.flatnonzero(group_of != number)))
        except DataError as error:
            raise DataError(f"data.mix: {name}: {error}") from error
    hours = np.array([part.n_samples for part in parts], dtype=np.float64) / whole.n_samples
    shares = np.array([weights[name] for name in names]) * hours**cfg.temperature
    return Mixture(whole, dict(zip(names, parts, strict=True)), shares / shares.sum(), seed)


def with_true_share(
    plan: Callable[[np.ndarray | None], Plan], corpus: Corpus, pseudo: Collection[str], share: float, seed: int
) -> Plan:
    """Return the plan of a corpus; a ``Mixture`` of true and pseudo-labels for a ``share`` of true ones above 0.

    ``plan`` is as in `mixed`; ``pseudo`` are the ids of the utterances whose text is a pseudo-label. Where all or none
    are, there is nothing to mix.
    """
    made = np.array([name in pseudo for name in corpus.ids], dtype=bool)
    if not share or made.all() or not made.any():
        return plan(None)
    parts = {"true": plan(np.flatnonzero(made)), "pseudo": plan(np.flatnonzero(~made))}
    return Mixture(plan(None), parts, np.array([share, 1 - share]), seed)


def _groups(corpus: Corpus, cfg: MixConfig) -> tuple[list[str], np.ndarray]:
    """Return the names of the groups, and the number of each row's group."""
    if cfg.by == "corpus":
        if not isinstance(corpus, JoinedCorpus):
            raise ConfigError("data.mix.by = 'corpus' mixes data.shards with data.mix.corpora, which names none")
        present, numbers = np.unique(corpus.folder_of, return_inverse=True)
        return [corpus.folders[number] for number in present.tolist()], numbers
    known = corpus.utterances()
    names, numbers = np.unique([known[name].language or UNKNOWN for name in corpus.ids], return_inverse=True)
    return [str(name) for name in names], numbers


def _weights(cfg: MixConfig, names: list[str]) -> dict[str, float]:
    weights = dict.fromkeys(names, 1.0) | cfg.weight_of()
    if strange := sorted(weights.keys() - set(names)):
        raise ConfigError(f"data.mix.weights: {', '.join(strange)}: not among {', '.join(names)}")
    return weights


class Mixture(Plan):
    """The plan of a whole corpus, whose batches are taken from the plans of its groups.

    Attributes
    ----------
    shares : dict[str, float], what part of all batches each group has
    """

    def __init__(self, whole: Plan, parts: Mapping[str, Plan], shares: np.ndarray, seed: int) -> None:
        self.__setstate__(whole.__getstate__())
        self._parts = list(parts.values())
        self._quotas = _quotas(shares)
        self._dealt_of: tuple[int, np.ndarray, np.ndarray] | None = None
        self._mix_seed = seed
        self.shares = dict(zip(parts, (self._quotas / BLOCK).tolist(), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_dealt_of": None}

    def micro(self, k: int) -> PlannedBatch:
        """Return micro-batch ``k``; its epoch is that of its group."""
        block, place = divmod(k, BLOCK)
        groups, places = self._block(block)
        group = int(groups[place])
        return self._parts[group].micro(block * int(self._quotas[group]) + int(places[place]))

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each batch of a block, and its number among those of its group in the block."""
        known = self._dealt_of
        if known is None or known[0] != block:
            groups = np.repeat(np.arange(len(self._quotas)), self._quotas)
            places = np.concatenate([np.arange(quota) for quota in self._quotas])
            raw = generator("mix", self._mix_seed, block).bit_generator.random_raw(BLOCK)
            times = (places + raw / 2.0**64) / self._quotas[groups]
            order = np.argsort(times, kind="stable")
            known = self._dealt_of = (block, groups[order], places[order])
        return known[1:]


def _quotas(shares: np.ndarray) -> np.ndarray:
    """Return how many of ``BLOCK`` batches each group has: largest remainders, and at least one."""
    exact = shares * BLOCK
    quotas = np.maximum(1, np.floor(exact)).astype(np.int64)
    rest = BLOCK - int(quotas.sum())
    if rest < 0:  # many shares below one batch
        quotas[np.argmax(quotas)] += rest
    else:
        quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    return quotas
