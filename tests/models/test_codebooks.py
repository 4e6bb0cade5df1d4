"""Online codebooks against their scalar oracle; entries without frames, micro-batches, and what is kept."""

import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.models.codebooks import OnlineCodebooks
from tests.oracles import codebooks as oracle


def drawn(decay=0.9, entries=7, dim=3, **options):
    torch.manual_seed(0)
    return OnlineCodebooks(2, entries, dim, decay=decay, **options).double()


def alone(value):
    return value


def followed(books, vectors):
    """Make an update of one micro-batch; return its codes."""
    codes = books.codes(vectors)
    books.collect(vectors, codes)
    books.follow(alone)
    books.forget()
    return codes


@pytest.mark.parametrize("decay", [0.9, 0.5, 0.0])
def test_codes_and_moves_equal_the_scalar_oracle(decay):
    """Three updates of two micro-batches each, of vectors that leave entries without any."""
    books = drawn(decay)
    sums, counts = books.sums.tolist(), books.counts.tolist()
    for step in range(3):
        vectors = torch.randn(9, 2, 3, dtype=torch.float64) + step
        codes = books.codes(vectors)
        for part, own in zip(vectors.split(5), codes.split(5), strict=True):
            books.collect(part, own)
        books.follow(alone)
        books.forget()
        for g in range(2):
            frames = vectors[:, g].tolist()
            codebook = oracle.entries(sums[g], counts[g])
            assert codes[:, g].tolist() == [oracle.nearest(frame, codebook) for frame in frames]
            sums[g], counts[g] = oracle.moved(sums[g], counts[g], frames, decay)
        torch.testing.assert_close(books.counts, torch.tensor(counts, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(books.sums, torch.tensor(sums, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert len(set(codes[:, 0].tolist())) < 7  # so some entries had no vectors


def test_the_oracle_by_hand():
    assert oracle.entries([[2.0, 4.0], [1.0, 1.0]], [2.0, 1.0]) == [[1.0, 2.0], [1.0, 1.0]]
    assert oracle.nearest([1.0, 1.4], [[1.0, 2.0], [1.0, 1.0]]) == 1
    sums, counts = oracle.moved([[0.0], [10.0]], [1.0, 1.0], [[2.0], [4.0]], 0.75)
    assert (sums, counts) == ([[1.5], [10.0]], [1.25, 1.0])


def test_an_entry_without_vectors_does_not_drift():
    books = drawn()
    far = oracle.entries(books.sums[0].tolist(), books.counts[0].tolist())
    vectors = books.sums[:, :1].transpose(0, 1).expand(5, 2, 3)  # all at the first entry
    for _ in range(1000):
        followed(books, vectors)
    assert oracle.entries(books.sums[0].tolist(), books.counts[0].tolist())[1:] == far[1:]
    assert books.counts[:, 0].tolist() == pytest.approx([5.0, 5.0])
    assert torch.equal(books.counts[:, 1:], torch.ones(2, 6, dtype=torch.float64))


def test_sums_over_ranks_move_the_codebooks_as_one_rank_would():
    one, two = drawn(), drawn()
    vectors = torch.randn(4, 2, 3, dtype=torch.float64)
    for books, items in ((one, vectors.repeat(2, 1, 1)), (two, vectors)):
        books.collect(items, books.codes(items))
    one.follow(alone)
    two.follow(lambda value: 2 * value)
    torch.testing.assert_close(one.sums, two.sums)
    torch.testing.assert_close(one.counts, two.counts)


def test_what_is_forgotten_moves_nothing_and_is_not_saved():
    books = drawn()
    before = {name: value.clone() for name, value in books.state_dict().items()}
    books.collect(torch.randn(4, 2, 3, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.int64))
    assert books.seen_counts[:, 0].tolist() == [4.0, 4.0]
    books.forget()
    books.follow(alone)
    assert set(before) == {"sums", "counts"}
    assert all(torch.equal(value, before[name]) for name, value in books.state_dict().items())


def test_entries_begin_at_random_with_unit_variance_in_every_channel():
    entries = drawn(entries=50).sums
    assert entries.mean(dim=1).abs().max() < 1e-6
    torch.testing.assert_close(
        entries.std(dim=1, correction=0), torch.ones(2, 3, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert not torch.equal(entries[0], entries[1])


def test_more_entries_come_into_use_when_they_begin_near_the_origin():
    """Vectors of unit variance that differ in four directions; with the published deviation of 1 most entries die."""
    torch.manual_seed(1)
    few = torch.randn(60, 50, 4, dtype=torch.float64) @ torch.randn(4, 64, dtype=torch.float64) / 2
    used = []
    for deviation in (1.0, 0.1):
        books = drawn(entries=64, dim=64, deviation=deviation)
        assert books.sums.std(dim=1, correction=0).mean().item() == pytest.approx(deviation, rel=1e-4)
        codes = torch.cat([followed(books, vectors[:, None].expand(-1, 2, -1)) for vectors in few][-10:])
        used.append(len(set(codes[:, 0].tolist())))
    assert used[1] > 2 * used[0]


@pytest.mark.parametrize("changes", [{"entries": 1}, {"decay": 1.0}, {"decay": -0.1}, {"deviation": 0.0}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigError, match="objective"):
        drawn(**changes)
