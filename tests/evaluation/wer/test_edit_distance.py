import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.evaluation.wer.edit_distance import align_characters, align_words, normal_text, score_utterance
from tests.oracles.wer import counts_are_minimal, distance

few_words = st.lists(st.sampled_from(["a", "b", "ab", "é", "the", "é"]), max_size=9)


@settings(max_examples=150, deadline=None)
@given(ref=few_words, hyp=few_words)
def test_counts_equal_a_slow_edit_distance(ref, hyp):
    score = score_utterance(" ".join(ref), " ".join(hyp))
    left, right = ([unicodedata.normalize("NFC", word) for word in side] for side in (ref, hyp))
    assert len(ref) == score.N
    assert counts_are_minimal(left, right, score.S, score.D, score.I)
    assert score.errors == distance(tuple(left), tuple(right))


@settings(max_examples=150, deadline=None)
@given(ref=few_words, hyp=few_words)
def test_an_alignment_spells_both_texts(ref, hyp):
    for align, split in ((align_words, str.split), (align_characters, list)):
        pairs = align(" ".join(ref), " ".join(hyp))
        assert [a for _, a, _ in pairs if a is not None] == split(normal_text(" ".join(ref)))
        assert [b for _, _, b in pairs if b is not None] == split(normal_text(" ".join(hyp)))
        for op, a, b in pairs:
            assert op == ("D" if b is None else "I" if a is None else "C" if a == b else "S")


@settings(max_examples=60, deadline=None)
@given(ref=st.text("ab ", max_size=9), hyp=st.text("ab ", max_size=9))
def test_character_errors_equal_a_slow_edit_distance(ref, hyp):
    pairs = align_characters(ref, hyp)
    assert sum(op != "C" for op, _, _ in pairs) == distance(tuple(normal_text(ref)), tuple(normal_text(hyp)))


def test_one_error_of_each_kind():
    score = score_utterance("the cat sat down on", "a cat down on there")
    assert score.alignment == [
        ("S", "the", "a"), ("C", "cat", "cat"), ("D", "sat", None), ("C", "down", "down"), ("C", "on", "on"),
        ("I", None, "there"),
    ]  # fmt: skip
    assert (score.S, score.D, score.I, score.N, score.wer) == (1, 1, 1, 5, 0.6)


def test_an_empty_reference_has_insertions_and_no_rate():
    score = score_utterance("", "two words")
    assert (score.S, score.D, score.I, score.N, score.wer) == (0, 0, 2, 0, None)


def test_an_empty_hypothesis_is_all_deletions():
    score = score_utterance("two words", " \t")
    assert (score.S, score.D, score.I, score.N, score.wer) == (0, 2, 0, 2, 1.0)


def test_two_empty_texts():
    score = score_utterance("", "")
    assert (score.errors, score.N, score.wer, score.alignment) == (0, 0, None, [])


def test_unicode_forms_of_one_word_are_one_word():
    composed, decomposed = "caf\u00e9 na\u00efve", "cafe\u0301 nai\u0308ve"
    assert composed != decomposed
    assert score_utterance(composed, decomposed).errors == 0
    assert all(op == "C" for op, _, _ in align_characters(composed, decomposed))


def test_any_white_space_separates_words():
    assert normal_text("  a\tb\u00a0c\r\n d\u2028e ") == "a b c d e"
    assert score_utterance("a b c", "a\tb\u00a0\nc").errors == 0
