"""Selection: who is used, by length and transcript; everybody else is counted and named once."""

import numpy as np
import pytest

from speechssl.data.batches import selection
from speechssl.data.batches.selection import Selection
from speechssl.data.store.reader import open_corpus, open_lazily
from tests.support.chirps import chirp_shards

LENGTHS = np.array([7_999, 8_000, 20_000, 32_000, 32_001, 1])


def test_limits_are_inclusive_to_the_sample():
    assert Selection("x", 0.5, 2.0).kept(LENGTHS, 0).tolist() == [False, True, True, True, False, False]
    assert Selection("x", 0.5, None).kept(LENGTHS, 0).tolist() == [False, True, True, True, True, False]


def test_transcripts_are_those_of_the_rows_asked_about():
    labelled = np.array([True, True, True, False, True, True, True, True, True])
    chosen = Selection("x", 0.5, 2.0, labelled)
    assert chosen.kept(LENGTHS, 0).tolist() == [False, True, True, False, False, False]
    assert chosen.kept(LENGTHS, 2).tolist() == [False, False, True, True, False, False]


def test_nobody_is_left_out_for_two_reasons():
    chosen = Selection("x", 0.5, 2.0, np.array([False, True, False, True, False, True]))
    kept = chosen.kept(LENGTHS, 0)
    assert chosen.reasons(LENGTHS, kept) == {"too_short": 2, "too_long": 1, "no_transcript": 1}
    assert sum(chosen.reasons(LENGTHS, kept).values()) + kept.sum() == len(LENGTHS)
    assert Selection("x", 0.0, None).reasons(LENGTHS, np.ones(6, dtype=bool)) == {}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    seconds = [0.3 + 0.1 * i for i in range(20)]
    return chirp_shards(tmp_path_factory.mktemp("selection"), seconds, shard_seconds=4.0)


def test_everybody_left_out_is_named_with_the_length_and_the_limit(shards):
    corpus = open_corpus(shards)
    labelled = np.array([i != 4 for i in range(20)])
    entries = Selection("finetune", 0.45, 2.0, labelled).entries(corpus)
    by_length = [(entry.item, entry.reason, entry.detail) for entry in entries[:-1]]
    short = [(row.id, row.samples) for row in map(corpus.row, range(20)) if row.samples < 0.45 * 16_000]
    long = [(row.id, row.samples) for row in map(corpus.row, range(20)) if row.samples > 2.0 * 16_000]
    expected = [(name, "too_short", f"{samples / 16_000:.2f} s, the limit is 0.45 s") for name, samples in short]
    expected += [(name, "too_long", f"{samples / 16_000:.2f} s, the limit is 2 s") for name, samples in long]
    assert sorted(by_length) == sorted(expected)
    assert {"too_short", "too_long"} == {reason for _, reason, _ in by_length}
    last = entries[-1]
    assert (last.item, last.reason, last.detail) == (corpus.row(4).id, "no_transcript", "")
    assert {(entry.stage, entry.action) for entry in entries} == {("finetune", "dropped")}


def test_a_large_corpus_names_them_while_few_indexes_are_needed(shards, monkeypatch):
    corpus = open_corpus(shards)
    chosen = Selection("pretrain", 0.45, 2.0)
    lazy = open_lazily(corpus.source, corpus.listing, ())
    assert chosen.entries(lazy) == chosen.entries(corpus)
    monkeypatch.setattr(selection, "LISTED_SHARDS", 1)
    entries = {entry.reason: entry for entry in chosen.entries(lazy)}
    counts = chosen.reasons(corpus.samples, chosen.kept(corpus.samples, 0))
    assert {reason: entry.detail.split()[0] for reason, entry in entries.items()} == {
        reason: str(count) for reason, count in counts.items()
    }
    assert entries["too_long"].detail == f"{counts['too_long']} utterances, the limit is 2 s"
    assert {entry.item for entry in entries.values()} == {corpus.source.name}
    assert len(chosen.entries(corpus)) == sum(counts.values())  # what is in memory is always named
