"""lengths.bin: five bytes an utterance, bound to its listing by a checksum."""

from dataclasses import replace

import numpy as np
import pytest

from speechssl.data.index import IndexRow, Listing
from speechssl.data.lengths import LengthTable, pack_lengths
from speechssl.data.shards import open_corpus
from speechssl.errors import DataError
from tests.chirps import chirp_shards


def row(samples: int, split: str | None = None) -> IndexRow:
    return IndexRow("a", 0, 512, 10, samples, 0, split)


@pytest.fixture
def folder(tmp_path):
    return chirp_shards(tmp_path, [0.5 + 0.05 * i for i in range(20)], shard_seconds=6.0)


def listing_of(folder) -> Listing:
    return Listing.from_bytes((folder / "summary.json").read_bytes(), where="x")


def test_shards_come_with_the_lengths_and_splits_of_their_indexes(folder):
    listing, corpus = listing_of(folder), open_corpus(folder)
    table = LengthTable.of(folder / "lengths.bin", listing)
    assert (folder / "lengths.bin").stat().st_size == 5 * 20
    assert listing.splits == ("dev", "test", "train")
    assert table.lengths(0, 20).tolist() == corpus.samples.tolist()
    assert table.lengths(7, 9).tolist() == corpus.samples[7:9].tolist()
    assert table.chosen(0, 20, ()).all()
    expected = [corpus.row(i).split in {"dev", "test"} for i in range(3, 20)]
    assert table.chosen(3, 20, {"dev", "test"}).tolist() == expected


def test_what_does_not_fit_the_format_has_no_file():
    assert pack_lengths([row(1 << 32)]) == (b"", ())
    assert pack_lengths([row(5, f"s{i}") for i in range(257)]) == (b"", ())
    data, splits = pack_lengths([row(5), row((1 << 32) - 1, "dev")])
    assert splits == ("dev", "train")
    assert data == b"\5\0\0\0\xff\xff\xff\xff\1\0"


@pytest.mark.parametrize("how", ["bit", "short", "long", "missing"])
def test_a_damaged_file_is_refused(folder, how):
    path = folder / "lengths.bin"
    data = bytearray(path.read_bytes())
    data[3] ^= 1 if how == "bit" else 0
    path.write_bytes({"short": data[:-1], "long": data + b"\0"}.get(how, data))
    if how == "missing":
        path.unlink()
    with pytest.raises(DataError, match=r"lengths.bin: .*run `speechssl shard` again"):
        LengthTable.of(path, listing_of(folder))


def test_a_file_that_shrinks_or_goes_while_in_use(folder):
    path = folder / "lengths.bin"
    table = LengthTable.of(path, listing_of(folder))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="became shorter"):
        table.lengths(0, 20)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        table.lengths(0, 20)


def test_a_split_without_a_name_is_refused(folder):
    table = replace(LengthTable.of(folder / "lengths.bin", listing_of(folder)), splits=("dev",))
    with pytest.raises(DataError, match="names a split that summary"):
        table.chosen(0, 20, ())
    assert np.array_equal(table.chosen(0, 0, ()), np.zeros(0, dtype=bool))
