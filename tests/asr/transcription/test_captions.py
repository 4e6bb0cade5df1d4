"""Captions: within their limits, split at pauses, balanced, never overlapping."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.transcription.captions import captions, clock
from speechssl.asr.transcription.forced_alignment import Word
from speechssl.config import CaptionConfig
from speechssl.core.errors import ConfigError

CFG = CaptionConfig()


def spoken(text: str, *, start: float = 0.0, each: float = 0.3, gap: float = 0.1) -> list[Word]:
    return [Word(w, start + i * (each + gap), start + i * (each + gap) + each, 1.0) for i, w in enumerate(text.split())]


@given(
    st.lists(st.tuples(st.integers(1, 90), st.floats(0.02, 15.0), st.floats(0.0, 3.0)), min_size=1, max_size=30),
    st.integers(5, 50),
    st.integers(1, 3),
)
def test_no_limit_is_ever_broken(shapes: list[tuple[int, float, float]], width: int, lines: int) -> None:
    now, words = 0.0, []
    for size, seconds, gap in shapes:
        words.append(Word("x" * size, now + gap, now + gap + seconds, 1.0))
        now += gap + seconds
    cfg = replace(CFG, line_chars=width, lines=lines)
    made = captions(words, cfg)
    assert all(1 <= len(item.lines) <= lines for item in made)
    assert all(0 < len(line) <= width for item in made for line in item.lines)
    assert all(item.start < item.end <= item.start + 6001 for item in made)
    assert all(one.end <= two.start for one, two in pairwise(made))
    assert sum(line.count("x") for item in made for line in item.lines) == sum(size for size, _, _ in shapes)
    assert made[0].start == round(words[0].start * 1000)


def test_a_pause_begins_a_new_caption() -> None:
    made = captions([*spoken("good morning"), *spoken("my name is", start=3.0)], CFG)
    assert [item.lines for item in made] == [("good morning",), ("my name is",)]
    assert (made[0].start, made[0].end) == (0, 1000)  # 0.7 s of speech stay a second
    assert made[1].start == 3000


def test_lines_are_of_about_one_length() -> None:
    (one,) = captions(spoken("the quick brown fox jumps over the lazy dog again"), replace(CFG, max_seconds=9.0))
    assert one.lines == ("the quick brown fox jumps", "over the lazy dog again")


def test_time_and_room_end_a_caption() -> None:
    made = captions(spoken("word " * 60), CFG)
    assert len(made) > 3
    assert max(item.end - item.start for item in made) <= 6000
    narrow = captions(spoken("word " * 60), replace(CFG, line_chars=10, lines=1))
    assert {item.lines for item in narrow} == {("word word",)}


def test_a_long_word_is_broken_and_its_time_shared() -> None:
    made = captions([Word("a" * 100, 0.0, 4.0, 1.0)], replace(CFG, line_chars=25, lines=2))
    assert [item.lines for item in made] == [("a" * 25, "a" * 25)] * 2
    assert [(item.start, item.end) for item in made] == [(0, 2000), (2000, 4000)]


def test_clock() -> None:
    assert clock(3_723_004, ",") == "01:02:03,004"
    assert clock(100 * 3_600_000, ".") == "100:00:00.000"


@pytest.mark.parametrize("change", [{"line_chars": 0}, {"lines": 0}, {"max_seconds": 0.0}, {"pause_seconds": -1.0}])
def test_impossible_limits(change: dict) -> None:
    with pytest.raises(ConfigError, match="captions need at least one character"):
        captions([], replace(CFG, **change))
