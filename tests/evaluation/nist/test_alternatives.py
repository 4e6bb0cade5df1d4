import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.evaluation.nist.alternatives import Alternatives, Optional, has_markup, parse_markup, resolve, rewrite
from speechssl.evaluation.wer.sclite_weights import LEVENSHTEIN, SCLITE, align_weighted

word = st.sampled_from("abc")
leaf = st.one_of(word, word.map(Optional), st.just(""))
item = st.recursive(
    leaf,
    lambda inner: st.lists(st.lists(inner, max_size=2).map(tuple), min_size=1, max_size=3).map(tuple).map(Alternatives),
)
sequence = st.lists(item, max_size=4).map(tuple)


def readings(items):
    """Every plain reading: [(words, cost of what was left out, optional words left out)], by recursion."""
    if not items:
        return [((), 0, 0)]
    first, rest = items[0], readings(items[1:])
    if isinstance(first, Alternatives):
        heads = [reading for branch in first.branches for reading in readings(branch or ("",))]
    elif isinstance(first, Optional):
        heads = [((first.word,), 0, 0), ((), SCLITE.optional, 1)]
    else:
        heads = [((first,), 0, 0)] if first else [((), SCLITE.nothing, 0)]
    return [(a + b, x + y, m + n) for (a, x, m), (b, y, n) in itertools.product(heads, rest)]


def count(items):
    """How many readings there are; a few nested alternatives have millions, which nobody should list to filter them."""
    ways = 1
    for item in items:
        if isinstance(item, Alternatives):
            ways *= sum(count(branch or ("",)) for branch in item.branches)
        elif isinstance(item, Optional):
            ways *= 2
    return ways


def price(ref, hyp, weights):
    cost = {"C": 0, "S": weights.substitution, "D": weights.indel, "I": weights.indel}
    return sum(cost[op] for op, _, _ in align_weighted(ref, hyp, weights))


@pytest.mark.parametrize("weights", [SCLITE, LEVENSHTEIN])
@settings(max_examples=60, deadline=None)
@given(ref=sequence.filter(lambda items: count(items) < 300), hyp=st.lists(word, max_size=5).map(tuple))
def test_the_best_of_all_readings_is_chosen(weights, ref, hyp):
    """A reading with a word is never dearer than one without it that costs less to leave out, so both are tried."""
    found = resolve(ref, hyp, weights)
    assert len(readings(ref)) == count(ref)
    options = {(words, left_out): extra + price(words, hyp, weights) for words, extra, left_out in readings(ref)}
    chosen = (tuple(found.ref.split()), found.optional)
    assert found.hyp.split() == list(hyp)
    assert chosen in options
    assert options[chosen] <= min(options.values()) + 100 * SCLITE.nothing


@pytest.mark.parametrize(
    ("ref", "hyp", "chosen", "optional"),
    [
        ("the { cat / hat } sat", "the hat sat", "the hat sat", 0),
        ("the {cat/hat} sat", "the hat sat", "the hat sat", 0),
        ("i { do not / don't } know", "i do not know", "i do not know", 0),
        ("so { well / @ } yes", "so yes", "so yes", 0),
        ("so { well / } yes", "so yes", "so yes", 0),
        ("(uh) yes", "yes", "yes", 1),
        ("(uh) yes", "uh yes", "uh yes", 0),
        ("a { b { c / d } / e } f", "a b d f", "a b d f", 0),
        ("", "a", "", 0),
        ("{ a / b }", "", "a", 0),
        ("and/or", "and/or", "and/or", 0),
    ],
)
def test_examples(ref, hyp, chosen, optional):
    resolved = resolve(parse_markup(ref), parse_markup(hyp), SCLITE)
    assert (resolved.ref, resolved.hyp, resolved.optional) == (chosen, hyp, optional)


def test_alternatives_of_the_hypothesis():
    resolved = resolve(parse_markup("a b"), parse_markup("{ x / a } { b / @ } (uh)"), SCLITE)
    assert (resolved.ref, resolved.hyp, resolved.optional) == ("a b", "a b", 1)


def test_parentheses_may_be_words():
    assert parse_markup("(uh) yes", optional=False) == ("(uh)", "yes")
    assert not has_markup(parse_markup("plain words"))
    assert all(has_markup(parse_markup(text)) for text in ("{ a }", "(a)", "@"))


@pytest.mark.parametrize(("text", "message"), [("a { b", "opening"), ("a } b", "closing"), ("{ a / { b }", "opening")])
def test_braces_without_partner(text, message):
    with pytest.raises(ValueError, match=message):
        parse_markup(text)


def test_a_normalisation_keeps_the_structure():
    items = parse_markup("The Cat, { Do Not / Don't / @ } (Uh) sat")
    changed = rewrite(items, lambda text: text.lower().replace(",", " !"))
    assert changed == ("the", "cat", "!", Alternatives((("do", "not"), ("don't",), ("",))), Optional("uh"), "sat")
