"""The Viterbi of long recordings against a slow search of the whole graph, whatever its blocks are."""

import itertools
import tracemalloc

import numpy as np
import pytest

from speechssl.asr.transcription import long_viterbi
from speechssl.asr.transcription.long_viterbi import BLANK_FRAME, GAP_FRAME, LongPath, Words, long_path
from tests.oracles import long_alignment

COSTS = {"gap_cost": 0.7, "enter_cost": 1.1, "skip_cost": 2.5, "skip_label_cost": 0.4}


@pytest.fixture(params=[(32, 1 << 23), (3, 150), (3, 40)], ids=["whole", "blocks", "blocks of blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(long_viterbi, "_PARTS", request.param[0])
    monkeypatch.setattr(long_viterbi, "_CELLS", request.param[1])
    monkeypatch.setattr(long_viterbi, "_RESCALED", 7)
    for name, value in COSTS.items():
        monkeypatch.setattr(long_viterbi, name.upper(), value)


def random_text(rng, most=6) -> Words:
    words = [rng.integers(2, 5, rng.integers(1, 4)).tolist() for _ in range(rng.integers(1, most))]
    boundary = [[1]] if rng.random() < 0.5 else [[]]
    return Words.of(words, [[], *boundary * (len(words) - 1)])


def emissions(rng, frames, scale=2.0):
    x = rng.normal(size=(frames, 5)) * scale
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


def score(log_probs, words: Words, found: LongPath, *, gaps: bool) -> float:
    """Return the score of a path, after a check that it goes through the whole text in order."""
    labels, first, last = words.labels.tolist(), words.first.tolist(), words.last.tolist()
    total = sum(
        float(row[0 if place == BLANK_FRAME else labels[place]])
        if place != GAP_FRAME
        else max(float(row.max()) - 0.7, float(row[0]))
        for row, place in zip(log_probs, found.frames.tolist(), strict=True)
    )
    assert gaps or (GAP_FRAME not in found.frames and not found.skipped)
    runs = [place for place, _ in itertools.groupby(found.frames.tolist())]
    total -= 1.1 * sum(left != GAP_FRAME == right for left, right in itertools.pairwise(runs))
    heard = [place for place in runs if place >= 0]
    assert heard == sorted(set(heard))
    for left, right in itertools.pairwise(runs):  # equal labels have a blank or a gap between them
        assert left < 0 or right < 0 or (right == left + 1 and labels[left] != labels[right])
    for word in range(len(first)):
        wanted = set(range(first[word], last[word] + 1))
        assert wanted.isdisjoint(heard) if word in found.skipped else wanted <= set(heard)
    passages = [
        [word for _, word in group]
        for _, group in itertools.groupby(enumerate(sorted(found.skipped)), key=lambda pair: pair[1] - pair[0])
    ]
    starts = [*first, len(labels)]
    for passage in passages:
        frames = {found.skipped[word] for word in passage}
        assert all(found.frames[frame] == GAP_FRAME for frame in frames)
        total -= 2.5 * len(frames) + 0.4 * (starts[passage[-1] + 1] - starts[passage[0]])
    return total


@pytest.mark.parametrize("gaps", [False, True])
def test_the_path_is_the_best_one(blocks, gaps):
    rng = np.random.default_rng(0)
    skipped = 0
    for _ in range(60):
        words = random_text(rng)
        least = 5 if gaps else 2 * len(words.labels) + 1
        log_probs = emissions(rng, int(rng.integers(least, 36)))
        found = long_path(log_probs, words, gaps=gaps)
        best = long_alignment.best_score(
            log_probs.tolist(), words.labels.tolist(), words.first.tolist(), words.last.tolist(), gaps=gaps, **COSTS
        )
        assert score(log_probs, words, found, gaps=gaps) == pytest.approx(best, abs=1e-3)
        skipped += len(found.skipped)
    assert bool(skipped) is gaps


def spoken(rng, words, silence=3):
    """Return the labels of each frame: two for a label, blanks between and after words."""
    path = []
    for word in words:
        for label in word:
            path += [label, label, 0]
        path += [0] * int(rng.integers(1, silence + 1))
    return path


def peaked(path, size=6, probability=0.9):
    values = np.full((len(path), size), (1 - probability) / (size - 1))
    values[np.arange(len(path)), path] = probability
    return np.log(values).astype(np.float32)


def test_passages_that_only_one_of_both_has_are_found(monkeypatch):
    """Far more words than a block looks back are left out, in many blocks."""
    monkeypatch.setattr(long_viterbi, "_CELLS", 4000)
    monkeypatch.setattr(long_viterbi, "_PARTS", 4)
    rng = np.random.default_rng(1)
    said = [rng.integers(1, 6, 4).tolist() for _ in range(60)]
    other = [rng.integers(1, 6, 4).tolist() for _ in range(20)]
    audio = spoken(rng, said[:15]) + spoken(rng, other) + spoken(rng, said[15:30]) + spoken(rng, said[50:])
    text = Words.of(said, [[] for _ in said])
    found = long_path(peaked(audio), text, gaps=True)
    assert sorted(found.skipped) == list(range(30, 50))
    assert len(set(found.skipped.values())) == 1
    gap = np.flatnonzero(found.frames == GAP_FRAME)
    assert 20 * 12 < len(gap) < 20 * 16
    heard = found.frames >= 0
    assert (text.labels[found.frames[heard]] == np.array(audio)[heard]).all()
    assert set(found.frames[heard].tolist()) == set(range(30 * 4)) | set(range(50 * 4, 60 * 4))


def test_another_text_is_left_out():
    rng = np.random.default_rng(2)
    said, other = ([rng.integers(1, 6, 5).tolist() for _ in range(30)] for _ in range(2))
    found = long_path(peaked(spoken(rng, said), probability=0.999), Words.of(other, [[] for _ in other]), gaps=True)
    assert len(found.skipped) > 20


def test_memory_is_bounded():
    """All scores would be 240 MB."""
    rng = np.random.default_rng(3)
    text = Words.of(rng.integers(1, 5, (1500, 4)).tolist(), [[]] * 1500)
    log_probs = emissions(rng, 4000)
    tracemalloc.start()
    try:
        found = long_path(log_probs, text, gaps=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.frames) == 4000 and found.skipped
    assert peak < 30e6
