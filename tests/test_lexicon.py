"""Lexicon decoding: the best sequence of known words, against exhaustive search."""

import itertools
import math

import pytest
import torch

from speechssl.asr.lexicon import LexiconDecoder, words_of
from speechssl.asr.tokens import Tokens
from speechssl.config import TokensConfig
from speechssl.errors import ConfigError
from tests.oracles import ctc

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")


def tokens_of(*texts):
    return Tokens.build(texts, TokensConfig())[0]


def peaky(tokens, text, *, noise=0.0, seed=0):
    """Log-probabilities that spell a text, a blank after each label."""
    ids = [index for label in tokens.encode(text) for index in (label, 0)]
    logits = torch.full((len(ids), tokens.size), 0.0)
    logits[torch.arange(len(ids)), torch.tensor(ids)] = 8.0
    generator = torch.Generator().manual_seed(seed)
    return (logits + noise * torch.randn(logits.shape, generator=generator)).log_softmax(-1)


def test_spelling_mistakes_become_words():
    tokens = tokens_of("the cat sat on the mat")
    decode = LexiconDecoder(tokens, words_of(["the cat sat on the mat"]))
    assert decode(peaky(tokens, "the cat sat")) == "the cat sat"
    assert decode(peaky(tokens, "thh cat sat")) == "the cat sat"


def test_no_frames_give_no_words():
    tokens = tokens_of("ab")
    assert LexiconDecoder(tokens, ["ab"])(torch.zeros(0, tokens.size)) == ""


def test_silence_gives_no_words():
    tokens = tokens_of("ab ba")
    silence = torch.full((6, tokens.size), -20.0)
    silence[:, 0] = 0.0
    assert LexiconDecoder(tokens, ["ab", "ba"])(silence.log_softmax(-1)) == ""


@pytest.mark.parametrize("seed", range(12))
def test_the_best_path_of_known_words_is_found(seed):
    """The search scores single paths (maximum, not sum); so does this enumeration of all of them."""
    tokens = tokens_of("ab ba a")
    boundary = tokens.symbols.index("|")
    log_probs = torch.randn(5, tokens.size, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)
    scores = {}
    for path in itertools.product(range(tokens.size), repeat=len(log_probs)):
        text = "".join(tokens.symbols[label] for label in ctc.collapse([*path, boundary])).replace("|", " ")
        if set(words := text.split()) <= {"a", "ab", "ba"}:
            score = sum(float(log_probs[t, label]) for t, label in enumerate(path))
            scores[" ".join(words)] = max(score, scores.get(" ".join(words), -math.inf))
    found = LexiconDecoder(tokens, ["a", "ab", "ba"], beam=500)(log_probs)
    assert scores[found] == pytest.approx(max(scores.values()), abs=1e-4)


def test_words_that_cannot_be_spelled_are_left_out():
    tokens = tokens_of("abc")
    assert LexiconDecoder(tokens, ["abc", "xyz"]).words == ("abc",)
    with pytest.raises(ConfigError, match="no word of the lexicon"):
        LexiconDecoder(tokens, ["xyz"])


def test_words_of_transcripts_are_sorted_and_distinct():
    assert words_of(["b a", "a c"]) == ["a", "b", "c"]
