"""Where the words of a search come from, and what is refused."""

import json

import pytest

from speechssl.asr.decoding.lexicon import read_lexicon, spellable, training_words, words_of
from speechssl.core.errors import ConfigError, DataError
from tests.support.spelled import tokens_of


def test_words_of_transcripts_are_sorted_and_distinct():
    assert words_of(["b a", "a c"]) == ["a", "b", "c"]


def test_words_that_cannot_be_spelled_are_left_out():
    tokens = tokens_of("abc")
    assert spellable(["cab", "abc", "xyz", "abc", ""], tokens, source="a test") == ["cab", "abc"]
    with pytest.raises(ConfigError, match=r"no word of the lexicon \(a test: 1 words \(such as 'XYZ'"):
        spellable(["XYZ"], tokens, source="a test")


def test_a_lexicon_file_has_words_with_or_without_spelling(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("\ufeffcat c a t |\r\n\nthe\ncat\nhe h e\n", encoding="utf-8")
    assert read_lexicon(path) == ["cat", "the", "he"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"cat c a t |\ncat k ae t\n", r"line 2: 'cat' is not spelled by its characters \(k ae t\)"),
        (b"\n \n", "no words"),
        (b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_lexicon_files_that_cannot_be_used(tmp_path, content, match):
    path = tmp_path / "lexicon.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_lexicon(path)
    with pytest.raises(ConfigError, match="no such lexicon"):
        read_lexicon(tmp_path / "other.txt")


def test_the_model_folder_lists_its_training_words(tmp_path):
    with pytest.raises(ConfigError, match=r"--decoder\.lexicon"):
        training_words(None)
    with pytest.raises(ConfigError, match="not a model folder"):
        training_words(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"info": {"words": ["a", "b"]}}))
    assert training_words(tmp_path) == ["a", "b"]
    config.write_text(json.dumps({"info": {}}))
    with pytest.raises(ConfigError, match="does not list its training words"):
        training_words(tmp_path)


def test_a_lexicon_of_which_nearly_nothing_can_be_spelled_is_refused_with_its_share():
    words = [*(chr(65 + a) + chr(65 + b) for a in range(3) for b in range(3)), "AAA", "BBB", "a"]
    said = r"11 of 12 words .*up\.lex.* cannot be spelled.*'AA'.*11 of them can be spelled .*'aa'"
    with pytest.raises(ConfigError, match=said):
        spellable(words, tokens_of("abc"), source="up.lex")
    with pytest.raises(ConfigError, match="another case or script"):
        spellable(["\u044f", "\u044e"], tokens_of("abc"), source="up.lex")


def test_a_lexicon_that_can_be_spelled_in_part_is_used_and_that_is_said(capsys):
    assert spellable(["cab", "3d", "abc"], tokens_of("abc"), source="some.lex") == ["cab", "abc"]
    assert "warning: 1 of 3 words of the lexicon (some.lex) cannot be spelled" in capsys.readouterr().err
    spellable(["cab"], tokens_of("abc"), source="some.lex")
    assert capsys.readouterr().err == ""
