"""Frames of several models at common instants, drawn from a bounded amount of audio.

In: recordings and extractors. Out: frames of each layer of each model, log-mel, phones and speakers of the same
instants. The instants are the centres of the frames of the model with the longest hop. Of any other model, and of
log-mel, the frame with the nearest centre is taken; instants from which it is more than half its hop away are left
out. So models of different frame rates are compared on equal terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from speechssl.config import LayersConfig
from speechssl.core.errors import DataError
from speechssl.core.ledger import Ledger
from speechssl.core.progress import progress
from speechssl.core.randomness import generator, key
from speechssl.core.tolerance import Tolerance
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.targets.audio import Recordings, group_rows
from speechssl.understanding.alignment import Interval, frame_labels
from speechssl.understanding.extractors import Extractor, Spectra
from speechssl.understanding.features import each_batch

__all__ = ["Sample", "common_frames", "draw_frames"]


class _Instants(NamedTuple):
    layers: list[np.ndarray]
    """[L, n, D] of each model, log-mel last."""
    rows: np.ndarray
    """[n]: the frame of the slowest model that each instant is the centre of."""
    frames: int
    """Of the slowest model, in all."""


@dataclass(frozen=True)
class Sample:
    """N instants."""

    models: list[list[np.ndarray]]
    """[N, D] float32 of each layer of each model."""
    log_mel: np.ndarray
    """[N, 80]."""
    phones: list[str | None]
    speakers: list[str | None]
    half: np.ndarray
    """bool [N]: in which half of the utterances each is. Both halves have utterances of each speaker."""
    pooled: list[list[np.ndarray]]
    """[W, D] of each layer of each model: the mean of all frames of a spoken word."""
    words: list[str]
    words_half: np.ndarray
    """bool [W]."""
    utterances: int
    seconds: float
    """Length of the utterances."""


def common_frames(extractors: Sequence[Extractor], counts: Sequence[int]) -> list[np.ndarray]:
    """Return which frames of each extractor [n] belong together, for an utterance with these numbers of frames."""
    slowest = max(range(len(extractors)), key=lambda one: extractors[one].hop)
    own = extractors[slowest]
    centres = np.arange(counts[slowest]) * own.hop + own.receptive / 2
    rows, there = [], np.ones(len(centres), dtype=bool)
    for extractor, count in zip(extractors, counts, strict=True):
        first = extractor.receptive / 2
        nearest = np.clip(np.rint((centres - first) / extractor.hop), 0, max(count - 1, 0)).astype(np.int64)
        there &= (np.abs(nearest * extractor.hop + first - centres) <= extractor.hop / 2) & (count > 0)
        rows.append(nearest)
    return [nearest[there] for nearest in rows]


class _Together:
    """Several extractors as one, with log-mel (25 ms windows, 10 ms apart) as the last."""

    def __init__(self, extractors: Sequence[Extractor]) -> None:
        self.extractors = [*extractors, Spectra("logmel", stack=1)]
        self.receptive = max(one.receptive for one in self.extractors)
        self.slowest = max(range(len(extractors)), key=lambda one: extractors[one].hop)

    def __call__(self, waves: Sequence[np.ndarray]) -> list[_Instants]:
        return [self._at_instants(found) for found in zip(*(one(waves) for one in self.extractors), strict=True)]

    def _at_instants(self, found: Sequence[Tensor]) -> _Instants:
        counts = [x.shape[1] for x in found]
        rows = common_frames(self.extractors, counts)
        layers = [x.numpy()[:, own] for x, own in zip(found, rows, strict=True)]
        return _Instants(layers, rows[self.slowest], counts[self.slowest])


def draw_frames(
    recordings: Recordings,
    extractors: Sequence[Extractor],
    ledger: Ledger,
    cfg: LayersConfig,
    *,
    speakers: Mapping[str, str | None],
    phones: Mapping[str, Sequence[Interval]],
    words: Mapping[str, Sequence[Interval]],
) -> Sample:
    """Draw utterances, and instants in them; both depend on the seed and the ids alone.

    Raises DataError when fewer than two utterances can be read, too many cannot, or too few instants are left.
    """
    order = sorted(range(len(recordings.ids)), key=lambda row: key("layers", cfg.seed, recordings.ids[row]))
    ends = np.cumsum(recordings.samples[order])
    drawn = order[: int(np.searchsorted(ends, cfg.minutes * 60 * SAMPLE_RATE)) + 1]
    together = _Together(extractors)
    grid = {name: getattr(together.extractors[together.slowest], name) for name in ("hop", "receptive")}
    share = cfg.frames / max(1, int(recordings.samples[drawn].sum()) // grid["hop"])
    tolerance = Tolerance(cfg.max_bad_fraction, what="layers")
    kept: dict[str, list[np.ndarray]] = {}
    pooled: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[str | None]] = {}
    spoken: dict[str, list[str]] = {}
    groups = group_rows(recordings, drawn, cfg.batch_seconds)
    with progress("layers", unit="groups") as advance:
        for number, (found, bad) in enumerate(each_batch(recordings, groups, together, stage="layers")):
            for item, instants in found:
                chosen = generator("layers-frames", cfg.seed, item).random(len(instants.rows)) < share
                kept[item] = [x[:, chosen] for x in instants.layers]
                every = frame_labels(phones.get(item, ()), instants.frames, **grid)
                labels[item] = [every[row] for row in instants.rows[chosen].tolist()]
                pooled[item], spoken[item] = _pooled(instants, words.get(item, ()), grid)
            tolerance.good(len(found))
            ledger.extend(bad)
            for entry in bad:
                tolerance.bad(entry.reason)
            advance(number + 1, len(groups))
    tolerance.finish()
    names = sorted(kept, key=lambda item: (speakers.get(item) or "", key("layers", cfg.seed, item)))
    counts = [len(labels[item]) for item in names]
    half = np.arange(len(names)) % 2 == 0
    if len(names) < 2:
        raise DataError(
            "layers: fewer than two utterances can be used; what is fitted to one half of the utterances is measured "
            "on the other. Give more data"
        )
    if sum(counts) < max(cfg.clusters, 10):
        raise DataError(
            f"layers: {sum(counts)} frames are left, which is less than {cfg.clusters} clusters need; give more audio, "
            "or a higher --frames or --minutes"
        )
    *models, log_mel = _joined([kept[item] for item in names])
    places = {item: row for row, item in enumerate(recordings.ids)}
    return Sample(
        models,
        log_mel[0],
        [phone for item in names for phone in labels[item]],
        [speakers.get(item) for item, count in zip(names, counts, strict=True) for _ in range(count)],
        np.repeat(half, counts),
        _joined([pooled[item] for item in names])[:-1],
        [word for item in names for word in spoken[item]],
        np.repeat(half, [len(spoken[item]) for item in names]),
        len(names),
        float(recordings.samples[[places[item] for item in names]].sum()) / SAMPLE_RATE,
    )


def _pooled(
    instants: _Instants, words: Sequence[Interval], grid: Mapping[str, int]
) -> tuple[list[np.ndarray], list[str]]:
    """Return [L, w, D] of each model, the mean over each word that has a frame, and these words."""
    numbered = [word._replace(label=str(number)) for number, word in enumerate(words)]
    labels = frame_labels(numbered, instants.frames, hop=grid["hop"], receptive=grid["receptive"])
    places = np.array([int(labels[row] or -1) for row in instants.rows.tolist()])
    there = np.unique(places[places >= 0])
    share = (places == there[:, None]).astype(np.float32)  # [w, n]
    share /= share.sum(axis=1, keepdims=True)
    return [share @ x for x in instants.layers], [words[place].label for place in there.tolist()]


def _joined(parts: Sequence[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Join the utterances: [L, n, D] of each model to [N, D] of each layer of each model."""
    return [[np.concatenate(layer) for layer in zip(*model, strict=True)] for model in zip(*parts, strict=True)]
