"""Invisible characters: none is a boundary, none is a label; joiners stay where they are spelling."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.ingest.rows import clean_text
from speechssl.data.ingest.text.characters import visible

ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("co\u00adoperate now", "cooperate now"),
        ("Auf\u00adla\u00adge", "Auflage"),
        ("word\u2060joiner", "wordjoiner"),
        ("\ufeffbegin mid\ufeffdle", "begin middle"),
        ("\u200eleft\u200f to\u202a right\u202c\u2066\u2069", "left to right"),
        ("zero\u200bwidth", "zerowidth"),
        ("Auf\u200clage of\u200dfice", "Auflage office"),
        ("no\u00a0break thin\u202fspace\u3000wide", "no break thin space wide"),
        ("\u845b\U000e0100\u57ce \u2764\ufe0f", "葛城 ❤"),
        ("a\u034fb", "ab"),
        ("tab\tand\x00null\x1eend", "tab and null end"),
        ("line\u2028and\u2029paragraph", "line and paragraph"),
        ("한\u3164글", "한 글"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("می\u200c\u200cخواهم", "می\u200cخواهم"),
        ("می\u200c خواهم\u200c.", "می خواهم."),
        ("क\u094d\u200dष क\u094d\u200cष", "क\u094d\u200dष क\u094d\u200cष"),
        ("ശ്രീ\u200d അവന\u0d4d\u200d", "ശ്രീ അവന\u0d4d\u200d"),
        ("ភាសា\u200bខ្មែរ", "ភាសា ខ្មែរ"),
        ("ไทย\u200bคำ", "ไทย คำ"),
        ("👩\u200d💻", "👩💻"),
        ("e\u200b\u0301", "\u00e9"),
    ],
)
def test_a_transcript_has_no_character_that_is_not_seen(text, expected):
    assert clean_text(text) == expected


@given(ANY_TEXT)
def test_what_is_left_is_seen_and_stays(text):
    once = visible(text)
    assert visible(once) == once
    assert not any(unicodedata.category(c) in ("Cc", "Cf") and c not in "\u200c\u200d" for c in once)
