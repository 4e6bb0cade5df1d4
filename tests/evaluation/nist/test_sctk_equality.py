"""The counts of every utterance and the p-values of NIST sctk, on real speech: see tests/support/sctk/README.md."""

import re
from functools import cache
from pathlib import Path

import jiwer
import pytest

from speechssl.evaluation.compare.mapsswe import mapsswe
from speechssl.evaluation.wer.edit_distance import align_words
from tests.oracles import sctk

DATA = Path(__file__).parents[2] / "support" / "sctk"
needs_sclite = pytest.mark.skipif(sctk.program("sclite") is None, reason="no NIST sctk: apt-get install sctk")


@cache
def transcripts(name):
    """{id: text} by a reader that is not the program's own."""
    return {
        re.search(r"\(([^()]*)\)$", line).group(1): line[: line.rindex("(")].strip()
        for line in sctk.lines_of(DATA / f"{name}.trn")
    }


@cache
def alignments(name, cost):
    refs, hyps = transcripts("ref"), transcripts(name)
    assert list(refs) == list(hyps)
    return [align_words(refs[id_], hyps[id_], cost) for id_ in refs]


def counts(pairs):
    ops = [op for op, _, _ in pairs]
    return tuple(ops.count(letter) for letter in "CSDI")


def expected_counts():
    """{id: ((C, S, D, I) of each system)}."""
    rows = [line.split() for line in sctk.lines_of(DATA / "counts.txt") if not line.startswith("#")]
    return {id_: tuple(tuple(map(int, n[i : i + 4])) for i in (0, 4, 8)) for id_, *n in rows}


def test_there_are_a_thousand_real_pairs_with_ties_and_empty_lines():
    ids = [id_ for id_ in transcripts("ref") if not id_.startswith("edge")]
    assert len(ids) == 1246
    assert sum(not transcripts(name)[id_] for name in sctk.SYSTEMS for id_ in ids) >= 20
    assert sum(not text for text in transcripts("ref").values()) >= 10


@pytest.mark.parametrize("system", sctk.SYSTEMS)
def test_the_counts_of_every_utterance_are_those_of_sclite(system):
    expected = {id_: rows[sctk.SYSTEMS.index(system)] for id_, rows in expected_counts().items()}
    ours = dict(zip(transcripts("ref"), map(counts, alignments(system, "sclite")), strict=True))
    assert {id_.lower(): numbers for id_, numbers in ours.items()} == expected
    C, S, D, I = (sum(column) for column in zip(*expected.values(), strict=True))
    words = sum(len(text.split()) for text in transcripts("ref").values())
    wer = sum(sum(numbers[1:]) for numbers in ours.values()) / words
    assert (C + S + D, wer) == (words, (S + D + I) / words)


@pytest.mark.parametrize("system", sctk.SYSTEMS)
def test_the_fewest_errors_are_those_of_jiwer_and_near_those_of_sclite(system):
    other = 0
    refs, hyps = transcripts("ref"), transcripts(system)
    for id_, nearest, nist in zip(refs, alignments(system, "levenshtein"), alignments(system, "sclite"), strict=True):
        found = jiwer.process_words(refs[id_], hyps[id_])
        assert counts(nearest) == (found.hits, found.substitutions, found.deletions, found.insertions)
        if not id_.startswith("edge"):
            other += sum(counts(nist)[1:]) != sum(counts(nearest)[1:])
        assert sum(counts(nist)[1:]) >= sum(counts(nearest)[1:])
        assert counts(nist)[0] >= counts(nearest)[0]
    assert other <= 0.01 * 1246


def mapsswe_lines():
    return [line.split() for line in sctk.lines_of(DATA / "mapsswe.txt") if not line.startswith("#")]


def test_mapsswe_is_that_of_sc_stats_to_every_printed_digit():
    seen = []
    for start, end, a, b, segments, mean, deviation, z, p in mapsswe_lines():
        part = slice(int(start), int(end))
        result = mapsswe(alignments(a, "sclite")[part], alignments(b, "sclite")[part])
        ours = (f"{result.segments}", f"{result.mean:.3f}", f"{result.variance**0.5:.3f}", f"{result.z:.3f}")
        shown = "<0.001" if result.p_sctk < 0.001 else f"{result.p_sctk:.3f}"
        assert (*ours, shown) == (segments, mean, deviation, z, p), (start, end, a, b)
        seen.append(p)
    assert len(seen) == 222 and sum(p not in ("<0.001", "1.000") for p in seen) > 100


@needs_sclite
def test_a_live_sclite_says_the_same(tmp_path):
    """A part of the data: the committed numbers are those of the sclite on this machine."""
    part = (930, 1446)
    files = {name: sctk.part(DATA / f"{name}.trn", *part, tmp_path) for name in ("ref", *sctk.SYSTEMS)}
    expected = expected_counts()
    for column, system in enumerate(sctk.SYSTEMS):
        live = sctk.sclite(files["ref"], files[system], tmp_path)
        assert live == {id_: expected[id_][column] for id_ in list(live)}
        assert len(live) == part[1] - part[0]
    first = sctk.mapsswe(files["ref"], files["greedy"], files["scratch"], tmp_path)
    pairs = [alignments(name, "sclite")[slice(*part)] for name in ("greedy", "scratch")]
    assert f"{mapsswe(*pairs).z:.3f}" == first[3]


def own_counts(ref, hyp):
    """The system as `score` scores it with the cost ``sclite``."""
    from speechssl.config import ScoreConfig
    from speechssl.evaluation.nist.score import score_files

    cfg = ScoreConfig(ref=str(ref), hyp=(str(hyp),), cost="sclite", normalise="none")
    scoring = score_files(cfg, str, "none")
    return scoring.systems[0]


def as_sclite_numbers(rows):
    """sclite numbers the segments of each speaker in the order of the file."""
    seen = {}
    for row in rows:
        seen[row["speaker"]] = seen.get(row["speaker"], -1) + 1
        yield f"{row['speaker']}-{seen[row['speaker']]:03d}", row


def compare_with(expected, named_rows, optional):
    """Errors of every utterance are equal; optional words left out are correct words for sclite, and none for us."""
    more = 0
    for id_, row in named_rows:
        correct = row["N"] - row["S"] - row["D"]
        assert (row["S"], row["D"], row["I"]) == expected[id_][1:], id_
        assert expected[id_][0] >= correct
        more += expected[id_][0] - correct
    assert more == optional > 0


def check_constructed(folder, trn, timed):
    system = own_counts(folder / "markup-ref.trn", folder / "markup-hyp.trn")
    compare_with(trn, [(row["id"], row) for row in system.rows], system.optional)
    system = own_counts(folder / "timed.stm", folder / "timed.ctm")
    named = list(as_sclite_numbers(system.rows))
    assert {id_ for id_, _ in named} == set(timed)
    compare_with(timed, named, system.optional)


def test_alternatives_optional_words_and_times_are_those_of_sclite():
    rows = [line.split() for line in sctk.lines_of(DATA / "constructed.txt") if not line.startswith("#")]
    table = {id_: tuple(map(int, numbers)) for id_, *numbers in rows}
    trn = {id_: numbers for id_, numbers in table.items() if id_.startswith("m-")}
    check_constructed(DATA, trn, {id_: numbers for id_, numbers in table.items() if id_ not in trn})


@needs_sclite
@pytest.mark.parametrize("seed", [3, 4])
def test_a_live_sclite_says_the_same_of_other_constructed_files(seed, tmp_path):
    """(Of seed 2, one line in 200 differs: sclite adds 0.001 in single precision, and its rounding decides a tie.)"""
    sctk.write_markup(tmp_path, seed, 200)
    sctk.write_timed(tmp_path, seed, 15)
    check_constructed(tmp_path, *sctk.constructed(tmp_path, tmp_path))
