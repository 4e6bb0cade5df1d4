"""Forced alignment: known times come back, impossible requests are clear errors."""

import itertools
import math

import pytest
import torch

from speechssl.asr.decoding.decode import best_path, spans
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.forced_alignment import align, frames_needed, word_times
from speechssl.config import TokensConfig
from speechssl.core.errors import AudioError

TOKENS, _ = Tokens.build(["abc"], TokensConfig())  # blank, |, a, b, c


def peaked(path: list[int], probability: float = 0.9) -> torch.Tensor:
    rest = (1 - probability) / (TOKENS.size - 1)
    values = torch.full((len(path), TOKENS.size), rest)
    values[torch.arange(len(path)), torch.tensor(path)] = probability
    return values.log()


def test_words_get_the_frames_that_spell_them() -> None:
    #          0  1  2  3  4  5  6  7  8  9
    path = [0, 2, 2, 0, 3, 1, 0, 4, 0, 4]
    words = align(peaked(path), "Ab, cc!", TOKENS, frame_seconds=0.02)
    assert [(word.word, word.start, word.end) for word in words] == [
        ("ab", pytest.approx(0.02), pytest.approx(0.10)),
        ("cc", pytest.approx(0.14), pytest.approx(0.20)),
    ]
    assert [word.score for word in words] == pytest.approx([0.9, 0.9], abs=1e-5)


def test_alignment_follows_the_transcript_not_the_best_path() -> None:
    words = align(peaked([2, 2, 2, 0, 3]), "cb", TOKENS, frame_seconds=1.0)
    assert [word.word for word in words] == ["cb"]
    assert words[0].end == 5.0
    assert words[0].score < 0.3


def test_alignment_is_the_most_probable_path() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(7, TOKENS.size, generator=generator).mul(2).log_softmax(-1)
    best = max(
        (sum(float(log_probs[f, t]) for f, t in enumerate(path)), path) for path in _paths(7, TOKENS.encode("a b"))
    )
    words = align(log_probs, "a b", TOKENS, frame_seconds=1.0)
    for word, token in zip(words, (2, 3), strict=True):
        frames = [frame for frame, label in enumerate(best[1]) if label == token]
        assert (word.start, word.end) == (frames[0], frames[-1] + 1)
        assert math.log(word.score) == pytest.approx(sum(float(log_probs[f, token]) for f in frames) / len(frames))


def _paths(frames: int, labels: list[int]) -> list[tuple[int, ...]]:
    return [
        path
        for path in itertools.product(sorted({0, *labels}), repeat=frames)
        if [label for label, _ in itertools.groupby(path) if label != 0] == labels
    ]


def test_best_path_gives_word_times_too() -> None:
    labels = spans(*best_path(peaked([2, 1, 1, 3, 0, 3])))
    words = word_times(labels, TOKENS, 0.5)
    assert [(word.word, word.start, word.end) for word in words] == [("a", 0.0, 0.5), ("bb", 1.5, 3.0)]


def test_nothing_to_align() -> None:
    assert align(peaked([0, 0]), "?!", TOKENS, frame_seconds=0.02) == []


def test_too_few_frames_is_an_audio_error() -> None:
    assert frames_needed(TOKENS.encode("aabb")) == 6
    with pytest.raises(AudioError, match=r"u7: ctc_infeasible.*5 frames.*needs 6"):
        align(peaked([0] * 5), "aabb", TOKENS, frame_seconds=0.02, item="u7")
    assert len(align(peaked([0] * 6), "aabb", TOKENS, frame_seconds=0.02)) == 1


def test_not_a_number_is_an_audio_error() -> None:
    broken = peaked([0] * 6)
    broken[3] = float("nan")
    with pytest.raises(AudioError, match="not_finite"):
        align(broken, "a", TOKENS, frame_seconds=0.02)


def test_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[frames, 5\]"):
        align(torch.zeros(4, 3), "a", TOKENS, frame_seconds=0.02)


def test_a_word_that_cannot_be_spelled_keeps_its_place_and_its_time() -> None:
    #       0  1  2  3  4  5  6  7  8  9 10 11
    path = [0, 2, 3, 1, 0, 4, 4, 4, 1, 3, 4, 0]
    words = align(peaked(path), "ab 42 bc", TOKENS, frame_seconds=1.0)
    assert [word.word for word in words] == ["ab", "42", "bc"]
    assert [word.spelled for word in words] == [True, False, True]
    assert (words[0].start, words[0].end) == (1.0, 3.0) and (words[2].start, words[2].end) == (9.0, 11.0)
    assert words[0].end <= words[1].start <= 5.0 and 8.0 <= words[1].end <= 9.0
    assert [word.score for word in words] == pytest.approx([0.9, 0.0, 0.9], abs=1e-5)


def test_words_that_cannot_be_spelled_share_the_time_between_their_neighbours() -> None:
    path = [4, 4, 4, 4, 4, 4, 1, 2, 3, 1, 4, 4, 4]
    words = align(peaked(path), "42 市場 ab 7", TOKENS, frame_seconds=1.0)
    assert [word.word for word in words] == ["42", "市場", "ab", "7"]
    assert words[0].end == words[1].start == pytest.approx((words[0].start + words[1].end) / 2)
    assert words[1].end <= words[2].start == 7.0 and words[3].start >= words[2].end == 9.0


def test_a_word_that_can_be_spelled_in_part_keeps_its_text() -> None:
    (word,) = align(peaked([2, 3, 0]), "aéb", TOKENS, frame_seconds=1.0)
    assert (word.word, word.start, word.end, word.spelled) == ("aéb", 0.0, 2.0, True)
