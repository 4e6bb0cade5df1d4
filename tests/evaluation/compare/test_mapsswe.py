import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.evaluation.compare.mapsswe import Mapsswe, holm, mapsswe, segment_errors
from speechssl.evaluation.wer.edit_distance import align_words
from tests.oracles import mapsswe as oracle

words = st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join)
triples = st.lists(st.tuples(words, words, words), max_size=8)


def aligned(texts, side):
    return [align_words(item[0], item[side]) for item in texts]


def errors(pairs):
    return sum(op != "C" for op, _, _ in pairs)


@settings(max_examples=200, deadline=None)
@given(triples)
def test_everything_equals_a_state_machine_and_exact_sums(texts):
    a, b = aligned(texts, 1), aligned(texts, 2)
    expected = [oracle.segments(left, right) for left, right in zip(a, b, strict=True)]
    assert [segment_errors(left, right) for left, right in zip(a, b, strict=True)] == expected
    differences = [x - y for x, y in itertools.chain(*expected)]
    mean, variance, z = oracle.statistic(differences)
    result = mapsswe(a, b)
    assert result.segments == len(differences)
    assert (result.mean, result.variance, result.z) == pytest.approx((mean, variance, z), abs=1e-12)
    assert result.p == pytest.approx(oracle.two_tailed(z), abs=1e-9)
    assert sum(x for x, _ in itertools.chain(*expected)) == sum(map(errors, a))
    assert sum(y for _, y in itertools.chain(*expected)) == sum(map(errors, b))


@settings(max_examples=50, deadline=None)
@given(triples)
def test_the_other_way_round_changes_only_the_sign(texts):
    forth, back = mapsswe(aligned(texts, 1), aligned(texts, 2)), mapsswe(aligned(texts, 2), aligned(texts, 1))
    assert (forth.segments, forth.mean, forth.p) == (back.segments, -back.mean, back.p)


@pytest.mark.parametrize(
    ("ref", "a", "b", "segments"),
    [
        ("u v w x y z", "u v w x y z", "u v w x y z", []),
        ("u v w x y z", "U v w x y z", "u v w x y Z", [(1, 0), (0, 1)]),  # four good words part them
        ("u v w x", "U v w x", "u v w X", [(1, 0), (0, 1)]),  # two good words part them
        ("u v w", "U v w", "u v W", [(1, 1)]),  # one does not
        ("u v w x", "U v w x", "u v o w X", [(1, 2)]),  # nor do two with an insertion between them
        ("u v w", "u v w", "u v w x", [(0, 1)]),
        ("", "", "", []),
        ("", "u", "", [(1, 0)]),
        ("", "", "u v", [(0, 2)]),
        ("u v", "", "u v", [(2, 0)]),
        ("u v w x y", "o u v w x y p", "u v w x y", [(1, 0), (1, 0)]),
    ],
)
def test_where_segments_end(ref, a, b, segments):
    assert segment_errors(align_words(ref, a), align_words(ref, b)) == segments


def test_a_difference_without_variance_cannot_be_tested():
    worse = [align_words("u v w", "u v x")] * 30
    right = [align_words("u v w", "u v w")] * 30
    assert mapsswe(worse, right) == Mapsswe(30, 1.0, 0.0, 0.0, 1.0)
    assert mapsswe([], []) == Mapsswe(0, 0.0, 0.0, 0.0, 1.0)


def test_the_better_system_is_found():
    worse = [align_words("u v w", "u v x"), align_words("u v w", "u x y")] * 15
    right = [align_words("u v w", "u v w")] * 30
    assert mapsswe(right, worse).mean < 0 < mapsswe(worse, right).mean
    assert mapsswe(right, worse).p == mapsswe(worse, right).p < 0.05
    assert mapsswe(worse, worse).p == 1.0


@pytest.mark.parametrize(
    ("z", "tabled"), [(0.0, 0.0), (1.0, 1.0), (1.9599, 1.95), (-1.9601, 1.96), (0.1, 0.1), (7.0, 5.14)]
)
def test_the_p_of_sctk_is_from_a_table(z, tabled):
    result = Mapsswe(10, z, 1.0, z, oracle.two_tailed(z))
    assert result.p_sctk == pytest.approx(oracle.two_tailed(tabled), abs=1e-9)
    assert result.p - 1e-9 <= result.p_sctk < result.p + 0.008


def test_other_utterances_are_refused():
    one = [align_words("u v", "u v")]
    with pytest.raises(ValueError, match="1 and 2 utterances"):
        mapsswe(one, one * 2)
    other = [align_words("u w x", "u")]
    with pytest.raises(ValueError, match="utterance 0 has other reference words"):
        mapsswe(one, other)


def holm_by_definition(p_values):
    m = len(p_values)
    order = sorted(p_values)
    return [max(min(1.0, (m - j) * q) for j, q in enumerate(order) if q <= p) for p in p_values]


@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_equals_its_definition(p_values):
    adjusted = holm(p_values)
    assert adjusted == holm_by_definition(p_values)
    assert all(old <= new <= 1 for old, new in zip(p_values, adjusted, strict=True))


def test_holm_on_known_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    with pytest.raises(ValueError, match="not a probability"):
        holm([0.5, 1.2])
