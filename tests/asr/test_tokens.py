"""Tokens: normalisation, vocabulary, round trips, the audit of unseen characters, and what is stored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.tokens import BLANK, Tokens, normalise_text
from speechssl.config import TokensConfig
from speechssl.core.errors import ConfigError, DataError

TEXTS = ["the cat sat on the mat", "it's a dog's life", "naïve café", "the end of the day", "a cat and a dog"]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def characters(texts: list[str], **options: object) -> Tokens:
    return Tokens.build(texts, TokensConfig(**options))[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pieces() -> Tokens:
    pytest.importorskip("sentencepiece")
    return characters(TEXTS * 10, kind="sentencepiece", vocab_size=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  WORLD!", "hello world"),
        ("it’s the dogs' bone — 'quoted'", "it's the dogs bone quoted"),
        ("rock ''n'' roll", "rock n roll"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffzero\u200bwidth so\u00adft", "zerowidth soft"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a|b ▁c_d\te\r\nf", "a b c d e f"),
        ("50% of $3.20", "50 of 3 20"),
        ("ΟΔΟΣ İ", "οδος i"),
        ("हिन्दी।", "हिन्दी"),
        ("...", ""),
        ("don‘t don`t don´t don′t donʼt don＇t don’t", " ".join(["don't"] * 7)),
        ("l´été 5′ `quoted´ ‘so’", "l'été 5 quoted so"),
        ('ג׳ירפה צה״ל צה"ל', "ג'ירפה צהל צהל"),
        ("col·lecció · mig", "col·lecció mig"),
        ("ﬁnd ｆｕｌｌ １２ ｶﾞ", "find full 12 ガ"),
        ("ﻻ", "لا"),
    ],
)
def test_basic_rule(text: str, expected: str) -> None:
    assert normalise_text(text, "basic") == expected


def test_rule_none_changes_only_form_and_spaces() -> None:
    assert normalise_text("  Cafe\u0301,\t|Bar!  ", "none") == "Caf\u00e9, Bar!"


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'shout'.*none, basic"):
        normalise_text("a", "shout")  # type: ignore[arg-type]


@given(ANY_TEXT | st.text("aInSP<>[]{}()*+-/&;%_'’`·l\"σςİı\u0307\u200b\u200c 12N", max_size=25),
       st.sampled_from(["none", "basic"]), st.sampled_from(["", "tr", "el"]))  # fmt: skip
def test_normalising_twice_changes_nothing(text: str, rule: str, language: str) -> None:
    once = normalise_text(text, rule, language)  # type: ignore[arg-type]
    assert normalise_text(once, rule, language) == once  # type: ignore[arg-type]
    assert once == " ".join(once.split())


@given(st.lists(ANY_TEXT, min_size=1, max_size=5), st.sampled_from(["none", "basic"]))
def test_round_trip_is_the_normalised_text(texts: list[str], rule: str) -> None:
    tokens = characters([*texts, "a"], normalise=rule)
    for text in texts:
        ids = tokens.encode(text)
        assert tokens.decode(ids) == normalise_text(text, rule)  # type: ignore[arg-type]
        assert all(BLANK < index < tokens.size for index in ids)
        assert " ".join(word for word, _ in tokens.words(ids)) == tokens.decode(ids)


@given(ANY_TEXT)
def test_characters_outside_the_vocabulary_are_left_out(text: str) -> None:
    tokens = characters(["abc def"])
    normal = normalise_text(text, "basic")
    expected = " ".join("".join(char for char in normal if char in "abcdef ").split())
    assert tokens.decode(tokens.encode(text)) == expected == tokens.spell(text)
    reported = {entry.item for entry in tokens.unseen({"u": text}, split="dev")}
    assert reported == set(normal) - set("abcdef ")


def test_vocabulary_has_blank_boundary_and_characters_in_a_fixed_order() -> None:
    tokens = characters(["ba", "c a"])
    assert tokens.symbols == ("<blank>", "|", "a", "b", "c")
    assert tokens.encode("a b") == [2, 1, 3]
    assert characters(["c a", "ab"]) == tokens


def test_rare_characters_are_left_out_and_reported() -> None:
    tokens, entries = Tokens.build(["aaa bbb", "ab é"], TokensConfig(min_count=2))
    assert tokens.symbols[2:] == ("a", "b")
    (entry,) = entries
    assert (entry.item, entry.reason, entry.action) == ("é", "rare_character", "dropped")
    assert "U+00E9" in entry.detail
    assert "1 times" in entry.detail


def test_unseen_characters_name_the_split_the_count_and_an_utterance() -> None:
    (entry,) = characters(["abc"]).unseen({"u1": "abc", "u2": "a7 b7"}, split="dev")
    assert (entry.item, entry.reason) == ("7", "unseen_character")
    assert "2 times in split dev, first in u2" in entry.detail


@pytest.mark.parametrize("texts", [[], ["", "..."], ["a", "b"]])
def test_no_text_to_learn_is_an_error(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no characters to learn"):
        characters(texts, min_count=2)


def test_words_index_their_tokens() -> None:
    tokens = characters(["ab c"])
    ids = tokens.encode("ab c")
    assert tokens.words([1, *ids, BLANK, 1]) == [("ab", [1, 2]), ("c", [4])]
    assert tokens.words([]) == []


def test_characters_survive_json() -> None:
    tokens = characters(TEXTS)
    assert Tokens.from_dict(json.loads(json.dumps(tokens.to_dict()))) == tokens


def test_sentencepiece_round_trips_and_survives_json(pieces: Tokens) -> None:
    again = Tokens.from_dict(json.loads(json.dumps(pieces.to_dict())))
    assert again == pieces
    for text in [*TEXTS, "the dog's end"]:
        ids = again.encode(text)
        assert ids
        assert BLANK not in ids
        assert max(ids) < again.size
        assert again.decode(ids) == text
        assert " ".join(word for word, _ in again.words(ids)) == text
    assert again.encode("") == []
    assert again.decode(again.encode("the 7 cats")) == "the cats"
    assert [entry.item for entry in again.unseen({"u": "7"}, split="dev")] == ["7"]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["the", "cat", "dogs", "a", "café", "it's"]), max_size=6))
def test_sentencepiece_spells_any_sequence_of_known_characters(pieces: Tokens, words: list[str]) -> None:
    assert pieces.decode(pieces.encode(" ".join(words))) == " ".join(words)


def test_sentencepiece_that_cannot_be_built_says_so() -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(ConfigError, match=r"vocab_size = 2.*characters"):
        characters(["abcdefgh ijkl"], kind="sentencepiece", vocab_size=2)


def test_missing_sentencepiece_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['sentencepiece'] = None\n"
        "from speechssl.asr.tokens import Tokens; from speechssl.config import TokensConfig\n"
        "from speechssl.core.errors import ConfigError\n"
        "try: Tokens.build(['ab'], TokensConfig(kind='sentencepiece'))\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "speechssl[bpe]" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "phones"}, "unknown kind 'phones'"),
        ({"symbols": ["<blank>"]}, "symbols"),
        ({"symbols": ["<blank>", "|", "a", "a"]}, "distinct"),
        ({"symbols": ["<blank>", "a", "b"]}, "word boundary"),
        ({"kind": "sentencepiece"}, "missing"),
        ({"sentencepiece": "%%%"}, "cannot be read"),
        ({"symbols": None}, "cannot be read"),
    ],
)
def test_damaged_tokens_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tokens.from_dict({**characters(["ab"]).to_dict(), **change})


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["an4", "libri_mini", "kerstin_de"])
def test_real_transcripts_round_trip(shared_data: Path, name: str) -> None:
    lines = (shared_data / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    texts = [text for row in rows if (text := row["text"] or row.get("text_raw"))]
    tokens, entries = Tokens.build(texts, TokensConfig())
    assert entries == []
    assert tokens.size <= 40
    for row in rows:
        for text in (row["text"], row.get("text_raw")):
            if text:
                assert tokens.decode(tokens.encode(text)) == normalise_text(text, "basic")
        if row["text"]:
            words = [word.strip("'") for word in row["text"].split()]
            assert normalise_text(row["text"], "basic") == " ".join(word for word in words if word)
            assert normalise_text(row["text"], "none") == row["text"]
