"""Stretches: the words of one pass, whatever the blocks, wherever there are pauses; bounded where there are none."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.decoding.decoders import Decoded, build_decoder
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.stretches import CutRule, decode_stream, pauses
from speechssl.config import DecoderConfig, TokensConfig

TOKENS, _ = Tokens.build(["abcde"], TokensConfig())
HOP = 0.02
SHARP = 12.0


def emit(pieces: list[tuple[str, int]], noise: float = 0.0) -> torch.Tensor:
    """Return log-probabilities of symbols (``-`` is blank) that last some frames each."""
    ids = [0 if s == "-" else TOKENS.symbols.index(s) for s, n in pieces for _ in range(n)]
    logits = torch.randn(len(ids), TOKENS.size, generator=torch.Generator().manual_seed(len(ids))) * noise
    if ids:
        logits[torch.arange(len(ids)), torch.tensor(ids)] += SHARP
    return logits.log_softmax(-1)


def speech(text: str, pause: int) -> list[tuple[str, int]]:
    pieces = [("-", 3)]
    for word in text.split():
        for letter in word:
            pieces += [(letter, 2), ("-", 2)]
        pieces += [("|", 1), ("-", pause)]
    return pieces


def blocks(log_probs: torch.Tensor, size: int):
    return (log_probs[i : i + size] for i in range(0, len(log_probs), size))


def words(log_probs: torch.Tensor, decoder, rule: CutRule, size: int = 37) -> list[tuple[str, float, float]]:
    found = list(decode_stream(blocks(log_probs, size), decoder, TOKENS, frame_seconds=HOP, rule=rule))
    assert all(left.end <= right.start for left, right in pairwise(found))
    return [(word.word, round(word.start, 4), round(word.end, 4)) for word in found]


def one_pass(log_probs: torch.Tensor, decoder) -> list[tuple[str, float, float]]:
    return [(w.word, round(w.start * HOP, 4), round(w.end * HOP, 4)) for w in decoder(log_probs).words]


RANDOM = st.lists(st.tuples(st.sampled_from("-||ab--"), st.integers(1, 40)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(RANDOM, st.integers(1, 100))
def test_greedy_words_are_those_of_one_pass_whatever_is_said(pieces: list[tuple[str, int]], size: int) -> None:
    log_probs = emit(pieces, noise=1.0)
    greedy = build_decoder(DecoderConfig(), TOKENS)
    rule = CutRule(0.2, 0.0, 600.0)
    assert words(log_probs, greedy, rule, size) == one_pass(log_probs, greedy)


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_words_are_those_of_one_pass_where_there_are_pauses(kind: str) -> None:
    log_probs = emit(speech("abc de a bcd ea " * 12, pause=25), noise=1.5)
    decoder = build_decoder(DecoderConfig(kind=kind, beam=8), TOKENS)
    lengths: list[int] = []

    def watched(rows: torch.Tensor) -> Decoded:
        lengths.append(len(rows))
        return decoder(rows)

    found = words(log_probs, watched, CutRule.search(20.0))
    assert found == one_pass(log_probs, decoder)
    assert len(found) == 60
    assert len(lengths) > 5  # it was cut
    assert max(lengths) <= 20.0 / HOP


def test_without_pauses_a_stretch_ends_at_the_limit() -> None:
    log_probs = emit([("a", 1), ("-", 1)] * 2000)  # one word of 80 seconds
    lengths: list[int] = []

    def decoder(rows: torch.Tensor) -> Decoded:
        lengths.append(len(rows))
        return Decoded("")

    list(decode_stream(blocks(log_probs, 50), decoder, TOKENS, frame_seconds=HOP, rule=CutRule.search(10.0)))
    assert max(lengths) <= 10.0 / HOP + 1
    assert sum(lengths) >= 3900


def test_a_stretch_without_any_blank_is_cut_all_the_same() -> None:
    lengths: list[int] = []

    def decoder(rows: torch.Tensor) -> Decoded:
        lengths.append(len(rows))
        return Decoded("")

    pieces = [("a", 1), ("b", 1)] * 1000
    list(decode_stream(blocks(emit(pieces), 64), decoder, TOKENS, frame_seconds=HOP, rule=CutRule.search(8.0)))
    assert (max(lengths), sum(lengths)) == (400, 2000)


def test_silence_is_not_held() -> None:
    held: list[int] = []

    def decoder(rows: torch.Tensor) -> Decoded:
        held.append(len(rows))
        return Decoded("")

    silence = emit([("-", 500)])
    stream = (silence for _ in range(100))
    list(decode_stream(stream, decoder, TOKENS, frame_seconds=HOP, rule=CutRule.search(30.0)))
    assert held == [15]


def test_a_word_comes_out_when_its_boundary_is_heard() -> None:
    parts = [emit([("a", 3), ("-", 3)]), emit([("|", 2), ("-", 4)]), emit([("b", 3), ("-", 30)]), emit([("-", 30)])]
    seen: list[int] = []

    def stream():
        for number, part in enumerate(parts):
            seen.append(number)
            yield part

    found = [
        (word.word, seen[-1])
        for word in decode_stream(
            stream(), build_decoder(DecoderConfig(), TOKENS), TOKENS, frame_seconds=HOP,
            rule=CutRule(0.0, 0.0, 30.0, silence=1.0),
        )
    ]  # fmt: skip
    assert found == [("a", 1), ("b", 3)]  # b: after a second of silence, without a boundary


def test_pauses_of_pieces() -> None:
    pieces = Tokens("sentencepiece", "none", ("<blank>", "▁a", "b"), b"x")
    path = np.array([0, 1, 0, 0, 2, 0, 1, 0])
    assert [(p.start, p.end, p.safe) for p in pauses(path, pieces)] == [(2, 4, False), (5, 6, True), (7, 8, False)]
    assert pauses(np.zeros(0, np.int64), pieces) == []
