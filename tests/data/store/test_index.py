"""The index: what is written is what is read, and no damaged byte goes unnoticed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry
from speechssl.data.store.index import IndexRow, Listing, ShardIndex, ShardRecord, parse_index

ids = st.text("abcXYZ019_-", min_size=1, max_size=120)
numbers = st.integers(1, 2**39)
rows = st.builds(
    IndexRow,
    ids,
    st.just(3),
    numbers,
    numbers,
    numbers,
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, "train", "x y"]),
)
text = st.text(st.characters(codec="utf-8"), max_size=30)
entries = st.builds(Entry, st.just("shard"), ids, ids, text)
INDEX = ShardIndex(
    [IndexRow("a", 0, 512, 100, 16_000, 7, "train"), IndexRow("b", 0, 2048, 90, 8_000, 2**32 - 1, None)],
    [Entry("shard", "c", "not_audio", "a\ttab, a\nline and \x85")],
    10_240,
    0xABCDEF01,
    "5eed",
)
LISTING = Listing((ShardRecord("shard-000000", 2, 10_240, 1, 200, 2),), 2, 0.5, {"not_audio": 1}, 300, 4, {"seed": 0})


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=5), st.lists(entries, max_size=3), numbers, st.integers(0, 2**32 - 1))
def test_round_trip(some_rows, some_entries, size, crc32):
    index = ShardIndex(some_rows, some_entries, size, crc32, "00ff")
    assert parse_index(index.to_bytes(), where="x", shard=3) == index


def test_every_flipped_bit_and_every_truncation_is_noticed():
    data = INDEX.to_bytes()
    assert parse_index(data, where="x") == INDEX
    for i in range(len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        with pytest.raises(DataError, match=r"shard-9.idx: the shard index is damaged"):
            parse_index(bytes(damaged), where="shard-9.idx")
        with pytest.raises(DataError):
            parse_index(data[:i], where="shard-9.idx")


@pytest.mark.parametrize("row", [("../evil", 512), ("a", -1), ("a", 0), ("a", 2**50)])
def test_rows_that_no_writer_of_ours_made_are_refused(row):
    name, offset = row
    index = ShardIndex([IndexRow(name, 0, offset, 1, 1, 1, None)], [], 1, 1, "")
    with pytest.raises(DataError, match="row of"):
        parse_index(index.to_bytes(), where="x")


def test_listing_round_trip_and_damage():
    data = LISTING.to_bytes()
    assert Listing.from_bytes(data, where="x") == LISTING
    fields = json.loads(data)
    for damaged in (
        b"",
        b"[]",
        b"\xff\xfe",
        data[:-10],
        json.dumps(fields | {"version": 2}).encode(),
        json.dumps(fields | {"extra": 2}).encode(),
        json.dumps(fields | {"shards": [{"name": "x"}]}).encode(),
        data.replace(b"shard-000000", b"../../x-000000"),
    ):
        with pytest.raises(DataError, match=r"summary.json: not the summary of a folder of shards"):
            Listing.from_bytes(damaged, where="summary.json")
