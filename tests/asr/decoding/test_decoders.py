"""The contract of decoders: text, words in frames, n-best, confidence, whatever the kind."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

from speechssl.asr.decoding.decode import best_path, greedy, prefix_beam
from speechssl.asr.decoding.decoders import build_decoder, decoded_words, describe
from speechssl.asr.lm.kneser_ney import estimate
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError, DataError
from tests.support.spelled import peaky, random_log_probs, tokens_of

TEXT = ["the cat sat on the mat", "the mat sat", "a cat on a mat"]
needs_flashlight = pytest.mark.parametrize(
    "kind", ["greedy", "beam", pytest.param("lexicon", id="lexicon"), pytest.param("lm", id="lm")]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with all that decoders look for in one."""
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")
    folder = tmp_path_factory.mktemp("model")
    words = sorted({word for line in TEXT for word in line.split()})
    (folder / "config.json").write_text(json.dumps({"info": {"words": words}}))
    estimate([line.split() for line in TEXT], 3).write(folder / "lm.arpa")
    return folder


@needs_flashlight
def test_words_lie_where_their_labels_were_said(model, kind):
    tokens = tokens_of(*TEXT)
    decode = build_decoder(DecoderConfig(kind=kind), tokens, model=model)
    decoded = decode(peaky(tokens, "the cat sat"))
    assert decoded.text == "the cat sat"
    assert [(word.word, word.start, word.end) for word in decoded.words] == [
        ("the", 0, 5),
        ("cat", 8, 13),
        ("sat", 16, 21),
    ]
    assert decoded.n_best[0][0] == decoded.text
    assert all(0.9 < word.confidence <= 1 for word in decoded.words)


@needs_flashlight
def test_a_doubtful_word_has_less_confidence(model, kind):
    tokens = tokens_of(*TEXT)
    log_probs = peaky(tokens, "the cat sat").clone()
    log_probs[8:14] = (log_probs[8:14] * 0.3).log_softmax(-1)
    the, cat, sat = build_decoder(DecoderConfig(kind=kind), tokens, model=model)(log_probs).words
    assert cat.confidence < 0.8 * min(the.confidence, sat.confidence)


@needs_flashlight
def test_no_frames_no_words(model, kind):
    tokens = tokens_of(*TEXT)
    decoded = build_decoder(DecoderConfig(kind=kind), tokens, model=model)(torch.zeros(0, tokens.size))
    assert (decoded.text, decoded.words) == ("", ())
    assert decoded.n_best == (("", 0.0),)


@needs_flashlight
@pytest.mark.parametrize("seed", range(3))
def test_n_best_are_distinct_and_in_order(model, kind, seed):
    tokens = tokens_of(*TEXT)
    log_probs = peaky(tokens, "the cat sat on a mat", noise=4.0, seed=seed)
    decoded = build_decoder(DecoderConfig(kind=kind, n_best=5), tokens, model=model)(log_probs)
    texts, scores = zip(*decoded.n_best, strict=True)
    assert texts[0] == decoded.text == " ".join(word.word for word in decoded.words)
    assert len(set(texts)) == len(texts) == (1 if kind == "greedy" else 5)
    assert list(scores) == sorted(scores, reverse=True)
    for word, following in itertools.pairwise(decoded.words):
        assert 0 <= word.start < word.end <= following.start < len(log_probs)
        assert 0 < word.confidence <= 1


def test_greedy_and_beam_are_the_plain_functions():
    tokens = tokens_of("abc abc")
    for seed in range(5):
        log_probs = random_log_probs(30, tokens, seed)
        path, scores = best_path(log_probs)
        decoded = build_decoder(DecoderConfig(), tokens)(log_probs)
        assert decoded.text == greedy(log_probs, tokens)
        assert decoded.n_best == ((decoded.text, pytest.approx(float(scores.sum()))),)
        assert decoded.words == decoded_words(path, log_probs, tokens)
        found = prefix_beam(log_probs, tokens, 8)[0]
        decoded = build_decoder(DecoderConfig(kind="beam", beam=8), tokens)(log_probs)
        assert decoded.text == found.text
        assert decoded.n_best[0] == (found.text, found.score)


def test_confidence_by_hand():
    """Of two frames of one label: the higher probability, or their geometric mean where a lexicon has chosen."""
    tokens = tokens_of("ab")
    log_probs = torch.tensor([[0.2, 0.1, 0.6, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.3, 0.1, 0.5]]).log()
    path, _ = best_path(log_probs)
    (word,) = decoded_words(path, log_probs, tokens)
    assert (word.word, word.start, word.end) == ("ab", 0, 3)
    assert word.confidence == pytest.approx(0.7 * 0.5)
    (word,) = decoded_words(path, log_probs, tokens, searched=True)
    assert word.confidence == pytest.approx((0.6 * 0.7 * 0.5) ** (1 / 3))


def test_a_hotword_wins_where_it_was_close(model):
    tokens = tokens_of(*TEXT)
    log_probs = peaky(tokens, "the cat sat")
    c, m = (tokens.symbols.index(char) for char in "cm")
    log_probs[8, m] = log_probs[8, c] - 0.5
    for kind in ("lexicon", "lm"):
        cfg = DecoderConfig(kind=kind, lexicon=str(model / "words.txt"), lm_weight=0.5)
        (model / "words.txt").write_text("the\ncat\nmat\nsat\n")
        assert build_decoder(cfg, tokens, model=model)(log_probs).text == "the cat sat"
        hot = replace(cfg, hotwords=("mat",), hotword_score=8.0)
        assert build_decoder(hot, tokens, model=model)(log_probs).text == "the mat sat"


def test_search_that_finds_nothing_says_nothing(model):
    tokens = tokens_of(*TEXT)
    decode = build_decoder(DecoderConfig(kind="lexicon"), tokens, model=model)
    decoded = decode(torch.full((3, tokens.size), -math.inf))
    assert (decoded.text, decoded.words, decoded.n_best) == ("", (), (("", -math.inf),))
    with pytest.raises(DataError, match="not a number"):
        decode(torch.full((3, tokens.size), math.nan))


def test_infinite_log_probabilities_do_not_break_the_beam():
    tokens = tokens_of("ab")
    log_probs = torch.full((3, tokens.size), -math.inf)
    log_probs[[0, 1, 2], [2, 0, 3]] = 0.0
    decoded = build_decoder(DecoderConfig(kind="beam"), tokens)(log_probs)
    assert [(word.word, word.start, word.end) for word in decoded.words] == [("ab", 0, 3)]


@pytest.mark.parametrize(
    ("cfg", "match"),
    [
        (DecoderConfig(beam=0), "must be at least 1"),
        (DecoderConfig(beam_threshold=0.0), "beam_threshold above 0"),
        (DecoderConfig(beam_threshold=math.nan), "beam_threshold above 0"),
        (DecoderConfig(kind="lm", lm_weight=math.nan), "lm_weight must be a finite number, not nan"),
        (DecoderConfig(kind="lm", lm_weight=math.inf), "lm_weight must be a finite number, not inf"),
        (DecoderConfig(kind="lexicon", word_score=-math.inf), "word_score must be a finite number, not -inf"),
        (DecoderConfig(hotwords=("a",)), "hotwords need a lexicon"),
        (DecoderConfig(kind="beam", hotwords=("a",)), "hotwords need a lexicon"),
        (DecoderConfig(kind="lm"), "no language model"),
        (DecoderConfig(kind="lexicon"), "no lexicon"),
    ],
)
def test_settings_that_cannot_be(cfg, match):
    with pytest.raises(ConfigError, match=match):
        build_decoder(cfg, tokens_of("a"))


def test_decoders_in_words():
    assert describe(DecoderConfig()) == "greedy"
    assert "beam 7" in describe(DecoderConfig(kind="beam", beam=7))
    assert "training transcripts" in describe(DecoderConfig(kind="lexicon"))
    assert "words of w.txt" in describe(DecoderConfig(kind="lexicon", lexicon="w.txt"))
    text = describe(DecoderConfig(kind="lm", lm="x.arpa", lm_weight=1.5, word_score=2.0, hotwords=("a",)))
    assert "x.arpa" in text
    assert "weight 1.5, word score 2" in text
    assert "1 hotwords" in text
