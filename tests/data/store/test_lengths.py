"""lengths.bin: five bytes an utterance, bound to its listing by a checksum."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from speechssl.core.errors import DataError
from speechssl.data.store.index import IndexRow, Listing
from speechssl.data.store.lengths import LengthTable, pack_lengths
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.verify import verify_shards
from tests.support.chirps import chirp_shards


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


@pytest.mark.parametrize("how", ["bit", "long", "missing", "length", "split", "name"])
def test_verify_compares_it_with_the_indexes(folder, how):
    path, listing = folder / "lengths.bin", listing_of(folder)
    assert verify_shards(folder).ok
    data = bytearray(path.read_bytes())
    place = {"bit": 5, "length": 4 * 7, "split": 4 * 20 + 7}.get(how)
    if place is not None:
        data[place] = data[place] ^ 1 if data[place] < 2 else data[place] - 1
    path.write_bytes(data + b"\0" * (how == "long"))
    if how in {"length", "split"}:  # as if the file had been written like this
        listing = replace(listing, lengths_crc32=zlib.crc32(path.read_bytes()))
    if how == "name":
        listing = replace(listing, splits=("dev", "test"))
    (folder / "summary.json").write_bytes(listing.to_bytes())
    if how == "missing":
        path.unlink()
    summary = verify_shards(folder)
    assert {(entry.item, entry.reason) for entry in summary.problems} == {("lengths.bin", "damaged_lengths")}
    shards = [entry for entry in summary.problems if "other lengths or splits" in entry.detail]
    assert len(shards) == (how in {"length", "split"})


def test_verify_asks_nothing_of_shards_without_it(folder):
    (folder / "summary.json").write_bytes(replace(listing_of(folder), splits=(), lengths_crc32=0).to_bytes())
    (folder / "lengths.bin").unlink()
    assert verify_shards(folder).ok


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
