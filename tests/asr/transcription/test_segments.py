"""Segments of long recordings, on log-probabilities whose truth is known: times, texts, and what is left out."""

import itertools
import random

import pytest
import torch

from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.forced_alignment import Word
from speechssl.asr.transcription.segments import align_loosely, cut
from speechssl.config import TokensConfig
from speechssl.core.errors import AudioError

LETTERS = "abcdefgh"
TOKENS, _ = Tokens.build([LETTERS], TokensConfig())
FRAME = 0.02
RANDOM = random.Random(0)
SENTENCES = [" ".join("".join(RANDOM.choices(LETTERS, k=RANDOM.randint(2, 5))) for _ in range(8)) for _ in range(12)]


def said(text: str, *, pause: int = 40, tokens: Tokens = TOKENS) -> list[int]:
    """Return the token of each frame: letters of two frames, 0.1 s around words, ``pause`` frames at the end."""
    path = []
    for label in tokens.encode(text):
        path += [0, 0, label, 0, 0] if label == 1 else [label, label, 0]
    return [0] * 5 + path + [0] * pause


def heard(path: list[int], probability: float = 0.95, tokens: Tokens = TOKENS) -> torch.Tensor:
    values = torch.full((len(path), tokens.size), (1 - probability) / (tokens.size - 1))
    values[torch.arange(len(path)), torch.tensor(path)] = probability
    return values.log()


def segments(path: list[int], text: str, *, probability: float = 0.95, tokens: Tokens = TOKENS, **limits: float):
    words = align_loosely(heard(path, probability, tokens), text, tokens, frame_seconds=FRAME)
    settings = {"max_seconds": 8.0, "min_score": 0.2, **limits}
    found, entries = cut(words, text, seconds=len(path) * FRAME, item="talk", **settings)
    for segment in found:
        assert 0 <= segment.start < segment.end <= len(path) * FRAME
        assert segment.end - segment.start <= settings["max_seconds"]
    assert all(left.end <= right.start for left, right in itertools.pairwise(found))
    return found, entries


def joined(parts: list[list[int]]) -> list[int]:
    return [label for part in parts for label in part]


def starts(parts: list[list[int]]) -> list[float]:
    return [FRAME * sum(map(len, parts[:number])) for number in range(len(parts))]


def test_joined_utterances_are_found_again() -> None:
    """The longest pause of the second half of the limit is the one between sentences."""
    parts = [said(text) for text in SENTENCES]
    raw = " ".join(f"{text.capitalize()}, —" for text in SENTENCES)
    longest = max(map(len, parts)) * FRAME
    found, entries = segments(joined(parts), raw, max_seconds=longest)
    assert [segment.text for segment in found] == [f"{text.capitalize()}, —" for text in SENTENCES]
    for segment, start, part in zip(found, starts(parts), parts, strict=True):
        assert start - 0.3 <= segment.start <= start + 0.1 and start + 0.1 < segment.end <= start + len(part) * FRAME
        assert segment.score == pytest.approx(0.95, abs=0.01)
    assert entries == []


def test_a_passage_that_is_missing_in_the_sound() -> None:
    found, entries = segments(said(" ".join(SENTENCES[:3])) + said(" ".join(SENTENCES[7:9])), " ".join(SENTENCES[:9]))
    assert " ".join(segment.text for segment in found) == " ".join(SENTENCES[:3] + SENTENCES[7:9])
    (entry,) = entries
    assert entry.reason == "text_without_audio" and "32 words: " + SENTENCES[3][:20] in entry.detail


def test_a_passage_that_is_missing_in_the_text() -> None:
    parts = [said(" ".join(SENTENCES[:3])), said(" ".join(SENTENCES[3:7])), said(" ".join(SENTENCES[7:9]))]
    found, entries = segments(joined(parts), " ".join(SENTENCES[:3] + SENTENCES[7:9]))
    assert " ".join(segment.text for segment in found) == " ".join(SENTENCES[:3] + SENTENCES[7:9])
    begin, end = starts(parts)[1:]
    assert all(segment.end <= begin + 0.2 or segment.start >= end - 1.0 for segment in found)
    assert {entry.reason for entry in entries} == {"audio_without_text"}
    first, last = entries[0].detail.split()[0], entries[-1].detail.split(" to ")[1].split()[0]
    assert float(first) == pytest.approx(begin, abs=1.0) and float(last) == pytest.approx(end, abs=1.0)


def test_another_text_and_silence_are_refused() -> None:
    other = " ".join("".join(reversed(text)) for text in SENTENCES[6:])
    for path in (said(" ".join(SENTENCES[:6])), [0] * 3000):
        with pytest.raises(AudioError, match=r"talk: text_mismatch.*of 48 words .* fit.*lower --min-score"):
            segments(path, other)


def test_silence_is_left_out() -> None:
    path = said(SENTENCES[0], pause=200) + said(SENTENCES[1])
    found, entries = segments(path, f"{SENTENCES[0]} {SENTENCES[1]}", max_seconds=60.0)
    assert [segment.text for segment in found] == SENTENCES[:2]
    assert found[1].start - found[0].end > 2.0
    assert entries == []


def test_a_low_score_is_left_out() -> None:
    parts = [said(text) for text in SENTENCES[:4]]
    values = heard(joined(parts))
    begin = len(parts[0])
    values[begin + 20 : begin + 90] = heard(joined(parts), 0.16)[begin + 20 : begin + 90]
    text = " ".join(SENTENCES[:4])
    words = align_loosely(values, text, TOKENS, frame_seconds=FRAME)
    longest = max(map(len, parts)) * FRAME
    found, entries = cut(words, text, seconds=len(values) * FRAME, max_seconds=longest, min_score=0.3, item="talk")
    assert [segment.text for segment in found] == [SENTENCES[0], *SENTENCES[2:4]]
    (entry,) = entries
    assert entry.reason == "low_score" and SENTENCES[1][:20] in entry.detail


def test_words_that_cannot_be_spelled_are_in_no_segment() -> None:
    path = said(SENTENCES[0]) + said(SENTENCES[1])
    found, entries = segments(path, f"{SENTENCES[0]} 42 {SENTENCES[1]}", max_seconds=60.0)
    assert [segment.text for segment in found] == SENTENCES[:2]
    assert [(entry.reason, entry.detail.split(": ")[1:]) for entry in entries] == [
        ("unspelled_words", ["1 words", "42"])
    ]


def test_a_script_without_spaces_is_cut_between_characters() -> None:
    text = "今天天气很好我爱你们" * 4
    tokens, _ = Tokens.build([text], TokensConfig())
    parts = [said(text[:20], tokens=tokens), said(text[20:], tokens=tokens)]
    found, entries = segments(joined(parts), text, tokens=tokens, max_seconds=2.2)
    assert [segment.text for segment in found] == [text[:20], text[20:]]
    assert entries == []


def test_a_word_longer_than_the_limit_is_left_out() -> None:
    words = [Word("a", 0.0, 1.0, 0.9), Word("long", 1.5, 9.0, 0.9), Word("b", 9.5, 10.0, 0.9)]
    found, (entry,) = cut(words, "a long b", seconds=10.0, max_seconds=3.0, min_score=0.0, item="talk")
    assert [(segment.text, segment.start, segment.end) for segment in found] == [("a", 0.0, 1.25), ("b", 9.25, 10.0)]
    assert entry.reason == "too_long"


def test_a_blank_inside_a_word_is_no_sign_that_it_was_said() -> None:
    """The label of a word that was not said is improbable, however many blanks are around it."""
    path = [0] * 10 + TOKENS.encode("abc") + [0] * 30 + TOKENS.encode("d") + [0] * 10
    values = heard(path)
    values[43] = heard([0])[0]
    (word,) = align_loosely(values, "abcd", TOKENS, frame_seconds=FRAME)
    assert word.end - word.start > 0.05
    assert word.score == pytest.approx((0.95**3 * (0.05 / (TOKENS.size - 1))) ** 0.25, abs=1e-3)


def test_the_score_is_that_of_the_worst_second() -> None:
    words = [Word("a", float(n), n + 0.7, 0.01 if n == 5 else 0.81) for n in range(9)]
    (segment,), _ = cut(words, " ".join("a" * 9), seconds=9.0, max_seconds=20.0, min_score=0.0, item="talk")
    assert segment.score == pytest.approx((0.81 * 0.01) ** 0.5)
