"""Faults that can be read off transcripts, each beside a text that has none."""

from collections import Counter

import pytest

from speechssl.config import AuditConfig
from speechssl.data.audit.text import alphabet, check_wording, labels, scripts
from speechssl.data.ingest.utterance import Utterance

PLAIN = "abcdefghij klmnopqrst uvwxyz "


def said(*texts, **fields):
    return [Utterance(f"u{i}", f"{i}.wav", 1.0, 16_000, 1, text=text, **fields) for i, text in enumerate(texts)]


def found(utterances, **settings):
    return [(f.check, f.item, f.value) for f in check_wording(utterances, AuditConfig(**settings))]


def checks(text):
    return [check for check, *_ in found(said(text))]


def test_labels_are_what_ctc_learns():
    assert labels("Hello,  WORLD -- it's 7!") == "hello world it's 7"
    assert labels("...") == ""
    assert labels("naïve (café)") == "naïve café"


def test_scripts_and_alphabet():
    assert scripts("hello, мир 7") == Counter(LATIN=5, CYRILLIC=3)
    assert scripts("ひらカタ漢字") == Counter({"JAPANESE OR CHINESE": 6})
    assert alphabet(said("aab", None, "b")) == Counter(a=2, b=2)


@pytest.mark.parametrize("text", ["hello <unk>", "a &amp; b", "[laughter] no", "well {cough}", "((uh)) yes"])
def test_markup(text):
    assert checks(text) == ["markup"]


@pytest.mark.parametrize("text", ["cafÃ©", "itâ€™s", "bad \ufffd one", "ï»¿first"])
def test_mojibake(text):
    assert "mojibake" in checks(text)


@pytest.mark.parametrize("text", ["h\u0435llo there", "\u0430 cat sat on it", "\u03b5lse it is"])
def test_look_alikes(text):
    assert checks(text) == ["mixed_script"]


@pytest.mark.parametrize("text", ["café naïve Ângela", "a < b or b > a", "hello привет", "AT&T", "rock'n'roll", ""])
def test_nothing_wrong(text):
    assert checks(text) == []


@pytest.mark.parametrize(
    ("text", "times"),
    [("the the the the cat", 4), ("on the on the on the on the", 4), ("a b c d " * 5, 5), ("so the the the cat", None)],
)
def test_loops(text, times):
    assert found(said(text)) == ([] if times is None else [("looped_text", "u0", times)])


def test_rare_characters_name_all_that_hold_them():
    texts = said(*[PLAIN * 2] * 40, "a\xf1", "b\xf1\xe9", "\xe9", "\xe9")
    rare = [f for f in check_wording(texts, AuditConfig(ignore=())) if f.check == "rare_character"]
    assert [(f.item, f.value, f.others) for f in rare] == [("u40", "\xf1", ("u41",))]
    assert not [f for f in check_wording(said(PLAIN, "\xf1"), AuditConfig()) if f.check == "rare_character"]


@pytest.mark.parametrize(
    ("odd", "check"),
    [("cost 10 pounds", "digits"), ("is it?", "punctuation"), ("IT IS", "odd_case"), ("It is", "odd_case")],
)
def test_habits(odd, check):
    few = [f"word{'abcdefghijklmnopqrstuvwxy'[i]}" for i in range(25)]
    assert [(c, i) for c, i, _ in found(said(*few, odd))] == [(check, "u25")]
    many = found(said(*few[:20], *[f"{odd} {word}" for word in few[:6]]))
    assert check not in [c for c, *_ in many]  # six of twenty-six: a habit
    assert found(said(*few[:10], odd)) == []  # too few to tell


def test_a_script_of_its_own_language_is_not_foreign():
    english = [f"word {'abcdefghijklmnopqrstuvwxy'[i]}" for i in range(25)]
    russian = Utterance("ru", "r.wav", 1.0, 16_000, 1, text="это другое")
    assert [(c, i) for c, i, _ in found([*said(*english), russian])] == [("foreign_script", "ru")]
    named = Utterance("ru", "r.wav", 1.0, 16_000, 1, text="это другое", language="ru")
    assert found([*said(*english, language="en"), named]) == []


def test_texts_that_come_again():
    same = said(*["turn the light on"] * 5, "light on", "light on")
    assert found(same) == [("repeated_transcript", "u0", 5)]
    assert found(same[:4]) == []
    other = Utterance("t", "t.wav", 1.0, 16_000, 1, text="Turn the light on.", split="test")
    assert found([*said("turn the light on", split="train"), other]) == [("shared_transcript", "u0", 2)]
