"""Kneser-Ney: equal to lmplz, sums to one, and nothing depends on the order of sentences."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.lm.kneser_ney import FALLBACK, estimate
from speechssl.core.errors import ConfigError, DataError
from tests.support.arpa import Arpa

PUBLISHED = Path(__file__).parents[2] / "support" / "ngram"


def sentences():
    return [line.split() for line in (PUBLISHED / "text.txt").read_text().splitlines()]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_probability_and_backoff_is_that_of_lmplz(order):
    theirs = Arpa.read(PUBLISHED / f"lmplz-{order}.arpa.gz")
    model = estimate(sentences(), order)
    ours = Arpa.of(model)
    assert ours.order == order
    for mine, other in zip(ours.grams, theirs.grams, strict=True):
        assert mine.keys() == other.keys()
        keys = [gram for gram in mine if gram != ("<s>",)]  # never predicted; lmplz writes 0
        assert [mine[gram][0] for gram in keys] == pytest.approx([other[gram][0] for gram in keys], abs=1e-6)
        assert [mine[gram][1] for gram in mine] == pytest.approx([other[gram][1] for gram in mine], abs=1e-6)
    if order == 3:  # few counts of one, two and three words: the closed form fails below the highest order
        assert [grams.closed_form for grams in model.orders] == [False, False, True]
        assert model.orders[0].discounts == FALLBACK
        assert model.orders[2].discounts == pytest.approx((0.557522, 0.762301, 1.55346), abs=1e-5)


TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=1, max_size=12).filter(any)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 4), st.lists(st.sampled_from(["a", "b", "d", "zebra", "<s>"]), max_size=3))
def test_probabilities_sum_to_one_in_any_context(text, order, context):
    model = Arpa.of(estimate(text, order))
    if "<s>" in context:  # a sentence begins only once
        context = context[context.index("<s>") :]
        context = ["<s>", *(word for word in context if word != "<s>")]
    words = [gram[0] for gram in model.grams[0] if gram != ("<s>",)]
    assert sum(10 ** model.probability(word, context) for word in words) == pytest.approx(1.0, abs=1e-9)


def test_a_discount_of_zero_leaves_no_context_without_backoff():
    """The closed form gives these bigrams a discount of exactly 0."""
    model = estimate([list("abcc"), list("accc")], 3)
    assert all(np.isfinite(order.backoff).all() for order in model.orders[:-1])
    assert model.orders[1].discounts == (0.5, 1.0, 1.5)


def test_known_counts_by_hand():
    """One sentence "a": of the unigram's three types, a and the end of the sentence were each seen after one word."""
    model = estimate([["a"]], 2)
    unigram = {word: 10**value for (word,), (value, _) in Arpa.of(model).grams[0].items() if word != "<s>"}
    kept, given_away = (1 - 0.5) / 2, (0.5 + 0.5) / 2
    assert unigram == pytest.approx(
        {"a": kept + given_away / 3, "</s>": kept + given_away / 3, "<unk>": given_away / 3}
    )
    assert 10 ** Arpa.of(model).probability("a", ["<s>"]) == pytest.approx(0.5 + 0.5 * unigram["a"])


def test_the_same_text_gives_the_same_file(tmp_path):
    text = sentences()
    estimate(text, 3).write(tmp_path / "a.arpa.gz")
    estimate(text[::-1], 3).write(tmp_path / "b.arpa.gz")
    assert (tmp_path / "a.arpa.gz").read_bytes() == (tmp_path / "b.arpa.gz").read_bytes()


def test_empty_sentences_count_for_nothing_and_short_ones_shorten_the_model():
    model = estimate([[], ["yes"], [], ["no"]], 5)
    assert (model.sentences, model.tokens, len(model.orders)) == (2, 2, 3)
    assert Arpa.of(model).grams == Arpa.of(estimate([["yes"], ["no"]], 5)).grams
    assert "2 sentences, 2 words, 2 of them distinct" in str(model)
    assert "fallback" in str(model)


def test_what_cannot_be_estimated():
    with pytest.raises(ConfigError, match=r"lm\.order must be from 1 to 10, not 0"):
        estimate([["a"]], 0)
    with pytest.raises(DataError, match="every sentence is empty"):
        estimate([[], []], 2)
    with pytest.raises(DataError, match="sentence 2 holds <unk>"):
        estimate([["a"], ["<unk>", "a"]], 2)
