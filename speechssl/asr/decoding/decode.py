"""Decoding: frame-wise CTC log-probabilities to text, greedily or by prefix beam search.

In: ``[F, V]`` log-probabilities (blank at index 0) of one utterance, padding already cut off. Out: text, or spans.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from speechssl.asr.tokens import BLANK

__all__ = ["Hypothesis", "Labels", "Span", "best_path", "collapse", "greedy", "prefix_beam", "spans"]

Array = npt.NDArray[np.floating]


class Labels(Protocol):
    """The part of ``Tokens`` that decoding needs."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of collapsed label ids."""


@dataclass(frozen=True)
class Span:
    """A label and the frames ``start <= f < end`` that emit it."""

    token: int
    start: int
    end: int
    score: float
    """Mean log-probability of the label over its frames."""


@dataclass(frozen=True)
class Hypothesis:
    """One labelling of an utterance."""

    text: str
    ids: tuple[int, ...]
    score: float
    """Natural log of its probability, summed over alignments (within the beam)."""


def _numpy(log_probs: torch.Tensor | Array) -> Array:
    values: Array
    values = log_probs.detach().float().cpu().numpy() if isinstance(log_probs, torch.Tensor) else np.asarray(log_probs)
    if values.ndim != 2:
        raise ValueError(f"log-probabilities of one utterance have shape [frames, tokens], not {list(values.shape)}")
    return values


def best_path(log_probs: torch.Tensor | Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return, for each frame, the most probable token ``[F]`` and its log-probability ``[F]``."""
    values = _numpy(log_probs)
    path = values.argmax(axis=1).astype(np.int64) if len(values) else np.zeros(0, np.int64)
    return path, np.take_along_axis(values, path[:, None], axis=1)[:, 0].astype(np.float32)


def spans(path: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> list[Span]:
    """Collapse a frame-wise path: merge runs, then drop blanks (Graves et al. 2006, section 3.1)."""
    if not len(path):
        return []
    starts = np.flatnonzero(np.r_[True, path[1:] != path[:-1]])
    ends = np.r_[starts[1:], len(path)]
    return [
        Span(int(path[start]), int(start), int(end), float(scores[start:end].mean()))
        for start, end in zip(starts, ends, strict=True)
        if path[start] != BLANK
    ]


def collapse(path: npt.ArrayLike) -> list[int]:
    """Return the labels of a frame-wise path ``[F]``: runs merged, blanks dropped."""
    ids = np.asarray(path, dtype=np.int64)
    return [span.token for span in spans(ids, np.zeros(len(ids), np.float32))]


def greedy(log_probs: torch.Tensor | Array, tokens: Labels) -> str:
    """Return the text of the most probable path through ``[F, V]`` log-probabilities."""
    return tokens.decode(collapse(best_path(log_probs)[0]))


def prefix_beam(log_probs: torch.Tensor | Array, tokens: Labels, beam: int = 50, n_best: int = 1) -> list[Hypothesis]:
    """Return the ``n_best`` most probable labellings, best first, by prefix beam search (no language model).

    Each prefix keeps two probabilities, of ending in a blank and in a label, so alignments of one labelling are summed
    (Graves et al. 2006, section 3.2; Hannun et al. 2014, algorithm 1). Exact when ``beam`` exceeds the number of
    prefixes. Ties are broken by the order of tokens.
    """
    if beam < 1 or n_best < 1:
        raise ValueError(f"beam ({beam}) and n_best ({n_best}) must be at least 1")
    values = _numpy(log_probs).astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("log-probabilities are not a number; the model's weights or its input are broken")
    parents, lasts = [-1], [-1]  # the trie of prefixes: node 0 is the empty one
    nodes: dict[tuple[int, int], int] = {}
    active = np.zeros(1, np.int64)
    blank, label = np.zeros(1), np.full(1, -np.inf)  # log-probability of each active prefix, by its last emission
    for frame in values:
        n_active, n_tokens = len(active), len(frame)
        total = np.logaddexp(blank, label)
        last = np.array([lasts[node] for node in active])
        has_last = last >= 0
        grow = total[:, None] + frame[None, :]
        rows = np.flatnonzero(has_last)
        grow[rows, last[rows]] = blank[rows] + frame[last[rows]]  # a repeat is a new label only after a blank
        grow[:, BLANK] = -np.inf
        stay_blank = total + frame[BLANK]
        stay_label = np.where(has_last, label + frame[last], -np.inf)
        place = {int(node): index for index, node in enumerate(active)}
        for index in rows:  # extending a parent may give a prefix that is active already: merge the two
            parent = place.get(parents[active[index]])
            if parent is not None:
                stay_label[index] = np.logaddexp(stay_label[index], grow[parent, last[index]])
                grow[parent, last[index]] = -np.inf
        scores = np.concatenate([np.logaddexp(stay_blank, stay_label), grow.ravel()])
        finite = np.flatnonzero(scores > -np.inf)
        chosen = finite[np.argsort(-scores[finite], kind="stable")[:beam]]
        new_active, new_blank, new_label = [], [], []
        for choice in chosen:
            if choice < n_active:
                new_active.append(int(active[choice]))
                new_blank.append(stay_blank[choice])
                new_label.append(stay_label[choice])
                continue
            row, token = divmod(int(choice) - n_active, n_tokens)
            step = (int(active[row]), token)
            if step not in nodes:
                nodes[step] = len(parents)
                parents.append(step[0])
                lasts.append(token)
            new_active.append(nodes[step])
            new_blank.append(-np.inf)
            new_label.append(grow[row, token])
        if not new_active:
            raise ValueError("every path has probability zero: log-probabilities of a frame are all -inf")
        active, blank, label = np.array(new_active), np.array(new_blank), np.array(new_label)
    total = np.logaddexp(blank, label)
    best = np.argsort(-total, kind="stable")[:n_best]
    return [_hypothesis(int(active[index]), float(total[index]), parents, lasts, tokens) for index in best]


def _hypothesis(node: int, score: float, parents: list[int], lasts: list[int], tokens: Labels) -> Hypothesis:
    ids: list[int] = []
    while node:
        ids.append(lasts[node])
        node = parents[node]
    return Hypothesis(tokens.decode(ids[::-1]), tuple(ids[::-1]), score)
