import itertools

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.evaluation.wer.sclite_weights import LEVENSHTEIN, SCLITE, align_weighted

few = st.lists(st.sampled_from("abc"), max_size=7)


def price(pairs, weights):
    return sum({"C": 0, "S": weights.substitution, "D": weights.indel, "I": weights.indel}[op] for op, _, _ in pairs)


def every_alignment(ref, hyp):
    """All alignments of two short sequences, by recursion."""
    if not ref and not hyp:
        return [[]]
    found = []
    if ref and hyp:
        op = "C" if ref[0] == hyp[0] else "S"
        found += [[(op, ref[0], hyp[0]), *rest] for rest in every_alignment(ref[1:], hyp[1:])]
    if ref:
        found += [[("D", ref[0], None), *rest] for rest in every_alignment(ref[1:], hyp)]
    if hyp:
        found += [[("I", None, hyp[0]), *rest] for rest in every_alignment(ref, hyp[1:])]
    return found


@pytest.mark.parametrize("weights", [SCLITE, LEVENSHTEIN])
@settings(max_examples=60, deadline=None)
@given(ref=st.lists(st.sampled_from("ab"), max_size=4), hyp=st.lists(st.sampled_from("abc"), max_size=4))
def test_no_alignment_is_cheaper(weights, ref, hyp):
    pairs = align_weighted(ref, hyp, weights)
    assert pairs in every_alignment(ref, hyp)
    assert price(pairs, weights) == min(price(other, weights) for other in every_alignment(ref, hyp))


@settings(max_examples=100, deadline=None)
@given(ref=few, hyp=few)
def test_with_equal_weights_the_errors_are_those_of_jiwer(ref, hyp):
    found = jiwer.process_words(" ".join(ref), " ".join(hyp))
    errors = sum(op != "C" for op, _, _ in align_weighted(ref, hyp, LEVENSHTEIN))
    assert errors == found.substitutions + found.deletions + found.insertions


@settings(max_examples=100, deadline=None)
@given(ref=few, hyp=few)
def test_an_alignment_spells_both_sides(ref, hyp):
    pairs = align_weighted(ref, hyp)
    assert [a for _, a, _ in pairs if a is not None] == ref
    assert [b for _, _, b in pairs if b is not None] == hyp


def ops(ref, hyp, weights=SCLITE):
    return "".join(op for op, _, _ in align_weighted(ref, hyp, weights))


def test_sclite_prefers_more_matches_to_fewer_errors():
    assert ops("abcd", "cdxy") == "DDCCII"  # costs 12, four substitutions 16
    assert ops("abcde", "dexyz") == "DDDCCIII"  # costs 18, five substitutions 20: more errors, not fewer
    assert len(ops("abcde", "dexyz", LEVENSHTEIN).replace("C", "")) == 5


def test_ties_go_to_matches_and_substitutions_then_to_insertions():
    """From the end, as sclite's search does: its own output is compared in test_sctk_equality.py."""
    assert ops("ab", "ba") == "DCI"
    assert ops("abc", "cde") == "SSS"  # as dear as DDCII
    assert [ops(*pair) for pair in itertools.product(["", "a", "aa"], repeat=2)] == [
        "", "I", "II", "D", "C", "IC", "DD", "DC", "CC",
    ]  # fmt: skip
