import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.evaluation.compare.multialign import align_systems
from speechssl.evaluation.wer.edit_distance import align_words


def columns(ref, *hyps):
    return [(c.ref, *c.words) for c in align_systems([align_words(ref, hyp) for hyp in hyps])]


def test_by_hand():
    assert columns("the cat sat", "the bat sat", "cat sat down") == [
        ("the", "the", None), ("cat", "bat", "cat"), ("sat", "sat", "sat"), (None, None, "down"),
    ]  # fmt: skip


def test_equal_insertions_share_a_column():
    # Between "a" and "b": one inserts "x y", the other "y z", the third nothing.
    assert columns("a b", "a x y b", "a y z b", "a b") == [
        ("a", "a", "a", "a"), (None, "x", None, None), (None, "y", "y", None), (None, None, "z", None),
        ("b", "b", "b", "b"),
    ]  # fmt: skip
    assert columns("", "so", "so") == [(None, "so", "so")]
    assert columns("", "", "") == []


def test_agreement():
    found = align_systems([align_words("a b c", hyp) for hyp in ("a x", "a x", "a x")])
    assert all(column.agreed for column in found)
    assert [c.agreed for c in align_systems([align_words("a b", "a b"), align_words("a b", "a c")])] == [True, False]


texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(ref=texts, hyps=st.lists(texts, min_size=1, max_size=4))
def test_every_row_reads_as_its_text_and_keeps_its_errors(ref, hyps):
    found = align_systems([align_words(ref, hyp) for hyp in hyps])
    assert [c.ref for c in found if c.ref is not None] == ref.split()
    for k, hyp in enumerate(hyps):
        assert [c.words[k] for c in found if c.words[k] is not None] == hyp.split()
        errors = sum(c.words[k] != c.ref for c in found)
        assert errors == sum(op != "C" for op, *_ in align_words(ref, hyp))
    assert all(any(word is not None for word in c.words) for c in found if c.ref is None)


def test_other_references_are_refused():
    with pytest.raises(ValueError, match="different reference words"):
        align_systems([align_words("a b", "a"), align_words("a c", "a")])
