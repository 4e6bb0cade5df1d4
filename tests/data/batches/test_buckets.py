"""Buckets: edges lose as little as any choice could, and batches are a matter of counts alone."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.batches.buckets import bucket_of, deal, edges

lengths = st.lists(st.integers(10, 60), min_size=1, max_size=12)


def waste(values: np.ndarray, some_edges: np.ndarray, crop: bool) -> int:
    """Samples cropped away or padded, one utterance at a time."""
    total = 0
    for value in values.tolist():
        fitting = [edge for edge in some_edges.tolist() if (edge <= value if crop else edge >= value)]
        total += value - max(fitting) if crop else min(fitting) - value
    return total


@settings(max_examples=80, deadline=None)
@given(lengths, st.integers(1, 4), st.booleans())
def test_no_other_edges_lose_less(values, n_buckets, crop):
    values = np.array(values, dtype=np.int64)
    chosen = edges(values, n_buckets, crop=crop)
    distinct = np.unique(values)
    must = distinct[0] if crop else distinct[-1]
    best = min(
        waste(values, np.array(sorted({must, *others})), crop)
        for others in combinations(distinct.tolist(), min(n_buckets, len(distinct)) - 1)
    )
    assert len(chosen) <= n_buckets
    assert (np.diff(chosen) > 0).all()
    assert waste(values, chosen, crop) == best


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(400, 20_000), min_size=1, max_size=200), st.integers(1, 20), st.booleans())
def test_edges_are_aligned_and_every_length_has_a_bucket(values, n_buckets, crop):
    values = np.array(values, dtype=np.int64)
    chosen = edges(values, n_buckets, align=320, crop=crop)
    assert (chosen % 320 == 0).all()
    own = chosen[bucket_of(values, chosen, crop=crop)]
    assert ((own <= values) if crop else (own >= values)).all()


def test_a_large_corpus_is_thinned_to_quantiles_and_still_loses_little():
    values = np.random.Generator(np.random.PCG64(0)).integers(32_000, 250_000, 50_000)
    for crop in (True, False):
        chosen = edges(values, 16, align=320, crop=crop)
        own = chosen[bucket_of(values, chosen, crop=crop)]
        assert np.abs(values - own).mean() < 1.1 * (250_000 - 32_000) / 16 / 2 + 320


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 400), st.booleans())
def test_every_row_is_dealt_once_and_batches_fit(counts, batch_samples, crop):
    some_edges = np.cumsum(np.arange(10, 10 + len(counts)))
    cuts = deal(counts, some_edges, batch_samples, crop=crop)
    assert sum(size for cut in cuts for size in cut.sizes) == sum(counts)
    carried = 0
    for cut in cuts:
        edge = int(some_edges[cut.bucket])
        rows = max(1, batch_samples // edge)
        assert all(1 <= size <= rows for size in cut.sizes)
        assert sum(size < rows for size in cut.sizes) <= 1
        assert carried + counts[cut.bucket] == sum(cut.sizes) + cut.passed_on
        assert cut.passed_on < rows
        carried = cut.passed_on
    assert carried == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.booleans())
def test_no_row_moves_to_a_bucket_of_less_than_half_or_more_than_twice_its_length(counts, crop):
    some_edges = np.array([10, 14, 19, 26, 36, 49, 70, 99])[: len(counts)]
    origin: list[int] = []  # own edges of the rows that wait, the carried ones first
    for cut in deal(counts, some_edges, 300, crop=crop):
        edge = int(some_edges[cut.bucket])
        origin += [edge] * counts[cut.bucket]
        for own in origin[: sum(cut.sizes)]:
            assert edge <= own <= 2 * edge if crop else own <= edge <= 2 * own
        origin = origin[sum(cut.sizes) :]
    assert not origin


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True),
    st.sampled_from([1, 7, 320]),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=300),
    st.booleans(),
)
def test_a_bucket_is_the_nearest_edge_on_the_right_side(places, align, lengths, crop):
    """Few lengths are searched, many are looked up; both against a loop."""
    found_edges = np.sort(np.array(places)) * align
    usable = [n for n in lengths if (n >= found_edges[0] if crop else n <= found_edges[-1])]
    for values in (usable, usable * 400):
        if not values:
            continue
        found = bucket_of(np.array(values[-2000:]), found_edges, crop=crop).tolist()
        for length, bucket in zip(values[-2000:], found, strict=True):
            sides = [i for i, edge in enumerate(found_edges) if (edge <= length if crop else edge >= length)]
            assert bucket == (sides[-1] if crop else sides[0])
