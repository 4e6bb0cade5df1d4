"""Span masks and negatives: shares, bounds, independence, speed, and an oracle in plain loops."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import MaskConfig
from speechssl.core.randomness import generator
from speechssl.models import masking
from speechssl.models.masking import channel_block, mask_batch, sample_frames, sample_negatives, span_mask
from tests.oracles.masking import masked_fraction
from tests.support.counting import python_lines

FRAMES_15S = (15 * 16_000 - 400) // 320 + 1


@pytest.mark.parametrize(("prob", "share"), [(0.65, 0.49), (0.80, 0.57)])
def test_masked_share_at_15_seconds(prob, share):
    cfg = MaskConfig(prob=prob, length=10)
    masked = [span_mask(FRAMES_15S, cfg, generator("mask", 1, i)).mean() for i in range(400)]
    assert np.mean(masked) == pytest.approx(share, abs=0.008)
    assert np.mean(masked) == pytest.approx(masked_fraction(prob, 10, FRAMES_15S, trials=400), abs=0.005)


def test_expected_number_of_spans_is_not_rounded_down():
    cfg = MaskConfig(prob=0.65, length=1, min_spans=0)  # spans of one frame cannot overlap: the count is exact
    counts = [span_mask(101, cfg, generator("n", i)).sum() for i in range(4000)]
    assert set(counts) == {65, 66}
    assert np.mean(counts) == pytest.approx(0.65 * 101, abs=0.03)


@given(
    frames=st.integers(0, 400),
    prob=st.floats(0.01, 3.0),
    length=st.integers(1, 40),
    min_spans=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_mask_properties(frames, prob, length, min_spans, seed):
    cfg = MaskConfig(prob=prob, length=length, min_spans=min_spans)
    mask = span_mask(frames, cfg, np.random.default_rng(seed))
    assert mask.shape == (frames,)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, span_mask(frames, cfg, np.random.default_rng(seed)))
    if frames <= length:
        assert not mask.any()
        return
    # Whole spans only: every run of masked frames is at least one span long.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    runs = edges[1::2] - edges[::2]
    assert all(run >= length for run in runs)
    if min_spans:
        starts = frames - length + 1
        assert mask.sum() >= length + min(min_spans, starts) - 1  # distinct starts


def test_every_frame_can_be_masked_and_every_start_is_as_likely():
    cfg = MaskConfig(prob=0.01, length=3, min_spans=1)
    starts = Counter(int(np.flatnonzero(span_mask(12, cfg, generator("s", i)))[0]) for i in range(5000))
    assert set(starts) == set(range(10))
    assert max(starts.values()) < 1.35 * min(starts.values())


def test_too_short_and_switched_off():
    assert not span_mask(10, MaskConfig(), generator(0)).any()
    assert span_mask(11, MaskConfig(), generator(0)).any()
    assert span_mask(-3, MaskConfig(), generator(0)).shape == (0,)
    assert not span_mask(100, MaskConfig(prob=0.0), generator(0)).any()


def test_a_batch_is_its_rows_alone():
    lengths = [300, 5, 0, 200]
    cfg = MaskConfig()
    batch = mask_batch(lengths, 320, cfg, (generator("mask", 7, i) for i in range(4)))
    assert batch.shape == (4, 320)
    for i, length in enumerate(lengths):
        assert np.array_equal(batch[i, :length], span_mask(length, cfg, generator("mask", 7, i)))
        assert not batch[i, length:].any()
    with pytest.raises(ValueError, match="shorter"):
        mask_batch([10, 10], 10, cfg, [generator(0)])


def test_the_work_of_masking_an_utterance_does_not_grow_with_its_frames():
    """Eight times the frames have eight times the spans: nothing may be done for each of them in Python."""

    def lines(frames):
        generators = [generator("mask", 1, str(i)) for i in range(64)]
        return python_lines(lambda: mask_batch([frames] * 64, frames, MaskConfig(), generators))

    assert lines(8 * FRAMES_15S) <= 1.2 * lines(FRAMES_15S)
    assert lines(FRAMES_15S) < 64 * 60


def test_a_block_of_channels_has_any_width_and_any_place():
    blocks = [np.flatnonzero(channel_block(6, 3, generator("c", i))) for i in range(8000)]
    assert all(np.array_equal(block, np.arange(block[0], block[-1] + 1)) for block in blocks if len(block))
    widths = Counter(len(block) for block in blocks)
    assert set(widths) == {0, 1, 2, 3}
    assert max(widths.values()) < 1.1 * min(widths.values())
    places = Counter(int(block[0]) for block in blocks if len(block) == 3)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < 1.2 * min(places.values())
    assert not any(channel_block(6, 0, generator("c", i)).any() for i in range(20))
    assert max(channel_block(2, 9, generator("c", i)).sum() for i in range(50)) == 2


@given(n=st.integers(0, 60), k=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_negatives_are_other_masked_frames(n, k, seed):
    drawn = sample_negatives(n, k, np.random.default_rng(seed))
    assert drawn.dtype == np.int32
    assert drawn.shape == ((n, k) if n >= 2 else (n, 0))
    assert ((drawn >= 0) & (drawn < n)).all()
    assert (drawn != np.arange(n)[:, None]).all()


def test_frames_are_uniform():
    drawn = sample_frames(6, 60_000, generator("frames"))
    assert drawn.dtype == np.int64
    assert np.abs(np.bincount(drawn, minlength=6) / 10_000 - 1).max() < 0.05
    assert sample_frames(6, 0, generator("frames")).shape == (0,)


def test_negatives_are_uniform_over_the_others():
    n, k = 7, 60_000
    drawn = sample_negatives(n, k, generator("negatives"))
    for positive in range(n):
        counts = np.bincount(drawn[positive], minlength=n)
        assert counts[positive] == 0
        others = np.delete(counts, positive)
        expected = k / (n - 1)
        chi = float(((others - expected) ** 2 / expected).sum())
        assert chi < 25, f"not uniform for positive {positive}: chi2 {chi:.1f} with 5 degrees of freedom"


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def test_L5_the_streams_of_masks_and_negatives_are_frozen():
    """Whatever numpy does with its own methods: a run that is resumed after an update draws what it drew before."""
    mask = span_mask(60, MaskConfig(prob=0.65, length=4), generator("mask", 7, 0, "a"))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    assert edges.tolist() == [0, 8, 18, 30, 31, 38, 39, 46]
    assert sample_negatives(6, 5, generator("negatives", 7, 0, "a")).tolist() == [
        [5, 2, 1, 2, 2],
        [3, 5, 3, 3, 3],
        [0, 0, 0, 5, 1],
        [5, 0, 2, 2, 5],
        [2, 5, 0, 5, 1],
        [3, 4, 2, 0, 3],
    ]
    assert np.flatnonzero(channel_block(80, 16, generator("channels", 7, 0, "b"))).tolist() == [*range(67, 76)]
    assert sample_frames(9, 8, generator("latents", 7, 0, "a")).tolist() == [4, 1, 4, 2, 3, 1, 3, 0]
    assert digest(span_mask(749, MaskConfig(), generator("mask", 7, 3, "b"))) == "0fc8f9c8430d3113"
    assert digest(sample_negatives(367, 100, generator("negatives", 7, 3, "b")).astype("<i4")) == "59de15dba9c53b82"
    assert digest(sample_negatives(70_000, 2, generator("negatives", 7, 3, "b")).astype("<i4")) == "a0d471ece184ccb7"


class RawOnly:
    """A generator of which nothing but raw words may be used: first all 16-bit words, then zeros."""

    def __init__(self) -> None:
        self.bit_generator = self
        self.asked: list[int] = []

    def random_raw(self, count: int) -> np.ndarray:
        self.asked.append(count)
        if len(self.asked) > 1:
            return np.full(count, 0x0200_0200_0200_0200, dtype=np.uint64)
        return np.arange(1 << 16, dtype="<u2").view("<u8")[:count].astype(np.uint64)


@pytest.mark.parametrize("limit", [1, 2, 3, 99, 366, 4095, 40_000, 65_535])
def test_L5_each_integer_stands_for_equally_many_words(limit):
    """Over all 65,536 words each integer comes as often; those that would be too many are drawn again."""
    raw = RawOnly()
    counts = np.bincount(masking._integers(limit, 1 << 16, raw), minlength=limit)
    again = (1 << 16) % limit
    counts[0x0200 * limit >> 16] -= again  # the word that was drawn instead
    assert set(counts.tolist()) == {(1 << 16) // limit}
    assert len(raw.asked) == 1 + (again > 0)


def test_L5_masks_and_negatives_ask_for_raw_words_only():
    raw = RawOnly()
    assert span_mask(100, MaskConfig(), raw).any()
    assert sample_negatives(10, 3, raw).shape == (10, 3)
    assert channel_block(80, 16, raw).shape == (80,)
    assert sample_frames(10, 3, raw).shape == (3,)


@pytest.mark.parametrize("n", [65_535, 65_536, 65_537, 70_000])
def test_L5_very_long_utterances_draw_from_all_their_masked_frames(n):
    drawn = sample_negatives(n, 3, generator("long", n))
    assert (drawn != np.arange(n)[:, None]).all()
    assert drawn.min() >= 0
    assert n - 10 < drawn.max() < n


@pytest.mark.parametrize(("count", "of"), [(1, 6), (3, 6), (5, 6)])
def test_L5_every_set_of_starts_is_as_likely(count, of):
    seen = Counter(
        tuple(sorted(masking._smallest(generator("sets", i).bit_generator.random_raw(of), count).tolist()))
        for i in range(6000)
    )
    ways = {1: 6, 3: 20, 5: 6}[count]
    assert len(seen) == ways
    expected = 6000 / ways
    assert sum((found - expected) ** 2 / expected for found in seen.values()) < 2.5 * ways
