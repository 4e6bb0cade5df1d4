"""Decoding against exhaustive enumeration of all alignments."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.decoding.decode import Span, best_path, collapse, greedy, prefix_beam, spans
from speechssl.asr.tokens import Tokens
from speechssl.config import TokensConfig

TOKENS, _ = Tokens.build(["ab"], TokensConfig())  # blank, |, a, b


def random_log_probs(seed: int, frames: int, tokens: int, sharpness: float = 2.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(frames, tokens)) * sharpness
    return values - np.logaddexp.reduce(values, axis=1, keepdims=True)


def enumerate_labellings(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Sum the probability of every path into its labelling."""
    totals: dict[tuple[int, ...], float] = {}
    frames, tokens = log_probs.shape
    for path in itertools.product(range(tokens), repeat=frames):
        labels = tuple(label for label, _ in itertools.groupby(path) if label != 0)
        totals[labels] = totals.get(labels, 0.0) + math.exp(sum(log_probs[f, t] for f, t in enumerate(path)))
    return totals


@pytest.mark.parametrize(
    ("path", "labels"),
    [([], []), ([0, 0], []), ([2, 2, 0, 2, 3, 3], [2, 2, 3]), ([0, 3, 0, 0, 3], [3, 3]), ([1, 1, 1], [1])],
)
def test_collapse_merges_runs_then_drops_blanks(path: list[int], labels: list[int]) -> None:
    assert collapse(path) == labels


@given(st.lists(st.integers(0, 3), max_size=30))
def test_collapse_matches_the_definition(path: list[int]) -> None:
    assert collapse(path) == [label for label, _ in itertools.groupby(path) if label != 0]


def test_spans_carry_frames_and_mean_scores() -> None:
    found = spans(np.array([0, 2, 2, 0, 3]), np.array([-1, -2, -4, -1, -5], np.float32))
    assert found == [Span(2, 1, 3, -3.0), Span(3, 4, 5, -5.0)]


def test_greedy_takes_tensors_in_any_precision_and_arrays() -> None:
    log_probs = torch.full((5, 4), -10.0)
    log_probs[torch.arange(5), torch.tensor([2, 2, 1, 0, 3])] = -0.1
    assert (
        greedy(log_probs, TOKENS) == greedy(log_probs.bfloat16(), TOKENS) == greedy(log_probs.numpy(), TOKENS) == "a b"
    )
    assert greedy(log_probs[:0], TOKENS) == ""
    path, scores = best_path(log_probs)
    assert path.tolist() == [2, 2, 1, 0, 3]
    assert scores == pytest.approx([-0.1] * 5)


def test_a_batch_is_not_an_utterance() -> None:
    with pytest.raises(ValueError, match=r"\[frames, tokens\]"):
        greedy(torch.zeros(2, 5, 4), TOKENS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.5, 2.0, 5.0]))
def test_wide_beam_is_exact(seed: int, frames: int, sharpness: float) -> None:
    log_probs = random_log_probs(seed, frames, 4, sharpness)
    expected = sorted(enumerate_labellings(log_probs).items(), key=lambda item: -item[1])
    found = prefix_beam(log_probs, TOKENS, beam=4**6, n_best=len(expected))
    assert len(found) == len(expected)
    assert sum(math.exp(hypothesis.score) for hypothesis in found) == pytest.approx(1.0)
    by_labels = {hypothesis.ids: hypothesis.score for hypothesis in found}
    for labels, probability in expected:
        assert by_labels[labels] == pytest.approx(math.log(probability), abs=1e-9)
    assert found[0].score == pytest.approx(math.log(expected[0][1]))
    assert found[0].text == TOKENS.decode(found[0].ids)


def test_narrow_beam_finds_what_greedy_misses() -> None:
    # The best path is blank, blank (0.36); the labelling "a" has three paths that sum to 0.64.
    log_probs = np.log(np.array([[0.6, 1e-9, 0.4, 1e-9], [0.6, 1e-9, 0.4, 1e-9]]))
    assert greedy(log_probs, TOKENS) == ""
    (best,) = prefix_beam(log_probs, TOKENS, beam=3)
    assert best.text == "a"
    assert math.exp(best.score) == pytest.approx(0.64, abs=1e-6)


def test_beam_scores_are_those_of_ctc_loss() -> None:
    log_probs = torch.tensor(random_log_probs(3, 60, 4, sharpness=6.0))
    for hypothesis in prefix_beam(log_probs, TOKENS, beam=400, n_best=3):
        loss = torch.nn.functional.ctc_loss(
            log_probs[:, None], torch.tensor([hypothesis.ids]), torch.tensor([60]), torch.tensor([len(hypothesis.ids)]),
            reduction="sum",
        )  # fmt: skip
        assert -hypothesis.score >= float(loss) - 1e-5  # the beam sums some of the alignments
        assert -hypothesis.score == pytest.approx(float(loss), abs=0.1)


def test_beam_of_one_and_no_frames() -> None:
    assert [h.text for h in prefix_beam(np.zeros((0, 4)), TOKENS)] == [""]
    assert len(prefix_beam(random_log_probs(0, 8, 4), TOKENS, beam=1, n_best=5)) == 1


@pytest.mark.parametrize(("beam", "n_best"), [(0, 1), (5, 0)])
def test_senseless_beams_are_refused(beam: int, n_best: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        prefix_beam(np.zeros((2, 4)), TOKENS, beam=beam, n_best=n_best)


@pytest.mark.parametrize(("value", "message"), [(-np.inf, "probability zero"), (np.nan, "not a number")])
def test_impossible_probabilities_are_an_error(value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefix_beam(np.full((3, 4), value), TOKENS)
