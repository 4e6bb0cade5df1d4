"""Hotwords in an ARPA file: every other word loses the same in every context, and nothing is above zero."""

import itertools

import pytest

from speechssl.asr.decoding.hotwords import favour, favour_in
from speechssl.asr.lm.kneser_ney import estimate
from tests.support.arpa import Arpa

TEXT = ["the cat sat", "the dog sat on the cat", "a dog", "the cat", "on and on"]


def test_only_hotwords_keep_their_probability_in_every_context(tmp_path):
    plain = tmp_path / "plain.arpa.gz"
    estimate([line.split() for line in TEXT], 3).write(plain)
    favour_in(plain, tmp_path / "hot.arpa", ["cat", "zebra"], 0.75)
    before, after = Arpa.read(plain), Arpa.read(tmp_path / "hot.arpa")
    words = ["the", "cat", "dog", "sat", "on", "zebra", "quagga"]
    for context in itertools.product(["<s>", *words], repeat=2):
        context = ["<s>", context[1]] if context[0] == "<s>" else list(context)
        for word in [*words, "</s>"]:
            loss = 0.0 if word in ("cat", "zebra", "</s>") else 0.75
            known = [part if part != "zebra" else "quagga" for part in (*context, word)]
            expected = before.probability(known[-1], known[:-1]) - loss
            if "zebra" not in context:  # as a context the new word has no backoff weight, as <unk> has none
                assert after.probability(word, context) == pytest.approx(expected, abs=1e-5), (context, word)
    assert all(value <= 0 for grams in after.grams for value, _ in grams.values())


def test_without_a_model_words_cost_the_boost(tmp_path):
    favour(tmp_path / "hot.arpa", ["a", "b", "c"], ["b", "d"], 2.0)
    model = Arpa.read(tmp_path / "hot.arpa")
    assert [model.probability(word, ["<s>", "a"]) for word in ("a", "b", "c", "d", "e", "</s>")] == [
        -2,
        0,
        -2,
        0,
        -2,
        0,
    ]
