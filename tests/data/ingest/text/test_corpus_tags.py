"""Corpus tags: dropped, or the spoken word within kept, and counted; never labels in silence."""

import pytest

from speechssl.asr.tokens import Tokens, normalise_text
from speechssl.config import TokensConfig
from speechssl.data.ingest.text.corpus_tags import find_tags, only_tags, untag


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HELLO <COMMA> HOW ARE YOU <QUESTIONMARK>", "hello how are you"),
        ("<SIL>", ""),
        ("he said <unk> to <UNK> me [noise]", "he said to me"),
        ("<s> yes </s>", "yes"),
        ("so {laugh} no {NOISE} (laughs) *coughs* ++breath++", "so no"),
        ("well (()) maybe ((so or so))", "well maybe so or so"),
        ("[laughter-yes] [laughter] [vocalized-noise] th[at]- -[an]d", "yes th d"),
        ("[it'n/isn't] them_1 {yuppiedom}", "isn't them yuppiedom"),
        ("NSN hello SPN !SIL", "hello"),
        ("%hesitation i %uh (%HESITATION) go", "i uh go"),
        ("a(2) dog(1)", "a dog"),
        ("{ seventy-two / seventy two } years", "seventy two years"),
        ("<i>word</i> <font color=red>red</font>", "word red"),
        ("don&#39;t &amp; can&apos;t &lt;unk&gt; stop", "don't can't stop"),
        ("[inaudible 00:12:34] [Music] [BLANK_AUDIO] go [uh] on", "go uh on"),
        ("<no-speech> <foreign> <breath>", ""),
        ("<雑音> はい <шум> да", "はい да"),
        ("ignore_time_segment_in_scoring", ""),
        ("th- -ing sem-", "th ing sem"),
    ],
)
def test_tags_are_no_words(text, expected):
    assert normalise_text(text, "basic") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if 1 < 2 and 3 > 2", "if 1 2 and 3 2"),
        ("i <3 you", "i 3 you"),
        ("he said (of course) yes", "he said of course yes"),
        ("the human (and the other) race", "the human and the other race"),
        ("2*3 is 6*1", "2 3 is 6 1"),
        ("nsn and spn in lower case", "nsn and spn in lower case"),
        ("laughter and music and noise", "laughter and music and noise"),
        ("at&t; r&b", "at t r b"),
        ("vor- und nachteile", "vor und nachteile"),
    ],
)
def test_spoken_words_stay(text, expected):
    assert normalise_text(text, "basic") == expected


def test_a_transcript_of_tags_alone_does_not_say_what_was_spoken():
    assert all(map(only_tags, ["<SIL>", "<MUSIC>", " [noise] (()) ", "NSN", "{laugh} ."]))
    assert not any(map(only_tags, ["", "yes", "<unk> yes", "...", "[laughter-yes]", "((maybe))"]))


def test_every_tag_is_listed_with_what_became_of_it():
    assert find_tags("a [noise] ((b)) [laughter-c] th- <unk>") == [
        ("[noise]", False),
        ("((…))", True),
        ("[laughter-c]", True),
        ("<unk>", False),
        ("th-", True),
    ]
    assert untag("plain words") == "plain words"


def test_the_ledger_counts_tags_by_kind():
    tokens, _ = Tokens.build(["abc <COMMA> [Noise]"], TokensConfig())
    assert tokens.symbols[2:] == ("a", "b", "c")
    entries = tokens.tags({"u1": "abc <COMMA> b", "u2": "<comma> th- [laughter-a]"})
    assert [(e.item, e.reason, e.action) for e in entries] == [
        ("<comma>", "corpus_tag", "dropped"),
        ("[laughter-a]", "corpus_tag", "kept"),
        ("a word fragment", "corpus_tag", "kept"),
    ]
    assert entries[0].detail == "2 times, first in u1; dropped"
    plain, _ = Tokens.build(["a <unk>"], TokensConfig(normalise="none"))
    (entry,) = plain.tags({"u1": "a <unk>"})
    assert (entry.action, entry.detail) == ("kept", "1 times, first in u1; kept: tokens.normalise is none")
