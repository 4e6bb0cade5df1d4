"""flashlight's search: the best sequence of known words, against exhaustive search and torchaudio's wrapper."""

import itertools
import math

import pytest
import torch

from speechssl.asr.decoding.decode import collapse
from speechssl.asr.decoding.lexicon import words_of
from speechssl.asr.decoding.search import Graph, Search
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError, DataError
from tests.oracles import ctc
from tests.support.spelled import peaky, random_log_probs, tokens_of

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")


def words(search, log_probs):
    found = search(log_probs)
    return " ".join(found[0].words) if found else ""


def test_spelling_mistakes_become_words():
    tokens = tokens_of("the cat sat on the mat")
    search = Search(Graph(tokens, words_of(["the cat sat on the mat"])), DecoderConfig())
    assert words(search, peaky(tokens, "the cat sat")) == "the cat sat"
    assert words(search, peaky(tokens, "thh cat sat")) == "the cat sat"


def test_no_frames_and_silence_give_no_words():
    tokens = tokens_of("ab ba")
    search = Search(Graph(tokens, ["ab", "ba"]), DecoderConfig())
    assert search(torch.zeros(0, tokens.size)) == []
    silence = torch.full((6, tokens.size), -20.0)
    silence[:, 0] = 0.0
    (found,) = search(silence.log_softmax(-1))
    assert found.words == ()
    assert found.labels.tolist() == [0] * 6


@pytest.mark.parametrize("seed", range(12))
def test_the_best_path_of_known_words_is_found(seed):
    """The search scores single paths (maximum, not sum); so does this enumeration of all of them."""
    tokens = tokens_of("ab ba a")
    boundary = tokens.symbols.index("|")
    log_probs = random_log_probs(5, tokens, seed)
    scores = {}
    for path in itertools.product(range(tokens.size), repeat=len(log_probs)):
        text = "".join(tokens.symbols[label] for label in ctc.collapse([*path, boundary])).replace("|", " ")
        if set(said := text.split()) <= {"a", "ab", "ba"}:
            score = sum(float(log_probs[t, label]) for t, label in enumerate(path)) + 0.5 * len(said)
            scores[" ".join(said)] = max(score, scores.get(" ".join(said), -math.inf))
    search = Search(Graph(tokens, ["a", "ab", "ba"]), DecoderConfig(beam=500, word_score=0.5))
    found = search(log_probs, 3)
    best = sorted(scores.values(), reverse=True)
    assert [scores[" ".join(one.words)] for one in found] == pytest.approx(best[:3], abs=1e-4)
    assert [one.score for one in found] == pytest.approx(best[:3], abs=1e-4)
    for one in found:
        assert tokens.decode(collapse(one.labels)) == " ".join(one.words)
    (alone,) = search(log_probs)
    assert (alone.words, alone.labels.tolist()) == (found[0].words, found[0].labels.tolist())


def test_what_cannot_be_searched_is_refused():
    tokens = tokens_of("ab ba")
    with pytest.raises(DataError, match="not a number"):
        Search(Graph(tokens, ["ab"]), DecoderConfig())(torch.full((3, tokens.size), math.nan))
    with pytest.raises(ConfigError, match="without a lexicon needs a language model"):
        Graph(tokens, None)
    pieces = tokens_of("ab ba abba ab", kind="sentencepiece", vocab_size=8)
    with pytest.raises(ConfigError, match="sentencepiece tokens"):
        Graph(pieces, ["ab"])
    assert Search(Graph(tokens, ["ab"]), DecoderConfig())(torch.full((3, tokens.size), -math.inf)) == []


@pytest.mark.parametrize("seed", range(6))
def test_hypotheses_are_those_of_torchaudio(tmp_path, seed):
    from torchaudio.models.decoder import ctc_decoder

    said = ["abba", "ab", "cab", "ca", "b", "bac"]
    tokens = tokens_of("abc")
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join(f"{word} {' '.join(word)} |\n" for word in said))
    peer = ctc_decoder(
        lexicon=str(lexicon), tokens=list(tokens.symbols), beam_size=20, beam_threshold=30, beam_size_token=5,
        blank_token="<blank>", sil_token="|", nbest=5, word_score=-0.3, lm_weight=0.0,
    )  # fmt: skip
    log_probs = random_log_probs(60, tokens, seed)
    closing = torch.full((1, tokens.size), -1e4)
    closing[0, :2] = 0.0
    expected = peer(torch.cat([log_probs, closing])[None])[0]
    search = Search(Graph(tokens, said), DecoderConfig(beam=20, beam_tokens=5, word_score=-0.3, lm_weight=0.0))
    assert words(search, log_probs) == " ".join(expected[0].words)
    found = search(log_probs, 50)
    texts = list(dict.fromkeys(tuple(one.words) for one in expected))
    assert [one.words for one in found][: len(texts)] == texts
