"""The search with a language model and hotwords: exact where the beam is wide, files found or asked for."""

import gzip
import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.asr.decoding.language_model import find_lm, open_graph, search_with
from speechssl.asr.lm.kneser_ney import estimate
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError, DataError
from tests.oracles import ctc
from tests.support.arpa import Arpa
from tests.support.spelled import peaky, random_log_probs, tokens_of

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")

TEXT = ["ab a", "a ba ab", "ba ba", "ab a ba", "a", "ba ab a"]
WIDE = DecoderConfig(kind="lm", beam=5000, beam_tokens=100, beam_threshold=1e3, lm_weight=1.7, word_score=0.4)


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    estimate([line.split() for line in TEXT], 3).write(path)
    return path


def every_text(log_probs, tokens, words):
    """Score of the best path of each sequence of words, by enumeration of all paths."""
    boundary = tokens.symbols.index("|")
    scores = {}
    for path in itertools.product(range(tokens.size), repeat=len(log_probs)):
        text = "".join(tokens.symbols[label] for label in ctc.collapse([*path, boundary])).replace("|", " ")
        if set(said := text.split()) <= set(words):
            score = sum(float(log_probs[t, label]) for t, label in enumerate(path))
            scores[tuple(said)] = max(score, scores.get(tuple(said), -math.inf))
    return scores


def best_of(scores, cfg, model, extra):
    total = {
        words: score + cfg.lm_weight * model.sentence(words) + cfg.word_score * len(words) + extra(words)
        for words, score in scores.items()
    }
    return sorted(total.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("hotwords", [(), ("ba",), ("bab", "a")])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_texts_are_found_with_their_scores(lm, hotwords, seed):
    """Language model, word score and hotwords, known to the model or not, against an enumeration."""
    tokens = tokens_of("ab ba")
    cfg = replace(WIDE, lm=str(lm), hotwords=hotwords, hotword_score=1.3)
    log_probs = random_log_probs(6, tokens, seed)
    model = Arpa.read(lm)
    scores = every_text(log_probs, tokens, {"a", "ab", "ba", *hotwords})
    expected = best_of(scores, cfg, model, lambda words: 1.3 * sum(word in hotwords for word in words))
    found = search_with(cfg, open_graph(cfg, tokens))(log_probs, 5)
    assert [one.score for one in found] == pytest.approx([score for _, score in expected[:5]], abs=1e-3)
    assert [one.words for one in found] == [words for words, _ in expected[:5]]


@pytest.mark.parametrize("seed", range(3))
def test_hotwords_without_a_language_model(tmp_path, seed):
    tokens = tokens_of("ab ba")
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("a\nab\nba\n")
    cfg = replace(WIDE, kind="lexicon", lexicon=str(lexicon), hotwords=("BA!",), hotword_score=2.0)
    log_probs = random_log_probs(6, tokens, seed)
    scores = every_text(log_probs, tokens, {"a", "ab", "ba"})
    expected = best_of(
        scores, replace(cfg, lm_weight=0.0), Arpa(({("<unk>",): (-1.0, 0.0)},)), lambda w: 2.0 * w.count("ba")
    )
    found = search_with(cfg, open_graph(cfg, tokens))(log_probs, 4)
    assert [one.score for one in found] == pytest.approx([score for _, score in expected[:4]], abs=1e-3)


@pytest.mark.parametrize("kind", ["characters", "sentencepiece"])
def test_a_model_of_tokens_needs_no_lexicon(tmp_path, kind):
    """It is told by its word boundary; in three frames no path is out of the beam, so the best labelling is known."""
    tokens = tokens_of("ab ba abba ab a b", kind=kind, vocab_size=6)
    symbols = [[tokens.symbols[index] for index in tokens.encode(line)] for line in TEXT]
    path = tmp_path / "tokens.arpa"
    estimate(symbols, 3).write(path)
    model = Arpa.read(path)
    cfg = replace(WIDE, lm=str(path))
    graph = open_graph(cfg, tokens)
    assert graph.words is None
    for seed in range(4):
        log_probs = random_log_probs(4, tokens, seed)
        scores = {}
        for labels in itertools.product(range(tokens.size), repeat=4):
            if kind == "characters" and labels[0] == 1:
                continue  # the search starts in silence: a boundary in front is no token
            said = tuple(tokens.symbols[index] for index in ctc.collapse(labels))
            score = sum(float(log_probs[t, label]) for t, label in enumerate(labels)) + 1.7 * model.sentence(said)
            scores[said] = max(score, scores.get(said, -math.inf))
        (found,) = search_with(cfg, graph)(log_probs)
        assert found.score >= max(scores.values()) - 1e-3
    with pytest.raises(ConfigError, match="hotwords need a lexicon"):
        open_graph(replace(cfg, hotwords=("ab",)), tokens)


def test_the_lexicon_none_reads_a_binary_as_a_model_of_tokens():
    tokens = tokens_of("ab ba")
    binary = Path(__file__).parents[2] / "support" / "ngram" / "lmplz-3.bin"
    assert open_graph(DecoderConfig(kind="lm", lm=str(binary), lexicon="none"), tokens).words is None
    with pytest.raises(ConfigError, match=r"model of tokens; use --decoder\.kind lm"):
        open_graph(DecoderConfig(kind="lexicon", lexicon="none"), tokens)


def test_a_binary_gives_what_its_arpa_gives(tmp_path):
    folder = Path(__file__).parents[2] / "support" / "ngram"
    tokens = tokens_of("the old man saw the river at night", "went home")
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("the\nold\nman\nsaw\nriver\nat\nnight\nwent\nhome\n")
    log_probs = peaky(tokens, "the old man saw the river", noise=3.0)
    found = []
    for name in ("lmplz-3.bin", "lmplz-3.arpa.gz"):
        cfg = DecoderConfig(kind="lm", lm=str(folder / name), lexicon=str(lexicon))
        found.append(search_with(cfg, open_graph(cfg, tokens))(log_probs, 5))
    assert [one.words for one in found[0]] == [one.words for one in found[1]]
    assert [one.score for one in found[0]] == pytest.approx([one.score for one in found[1]], abs=1e-3)
    with pytest.raises(ConfigError, match=r"this is a KenLM binary; give the ARPA"):
        open_graph(
            DecoderConfig(kind="lm", lm=str(folder / "lmplz-3.bin"), lexicon=str(lexicon), hotwords=("man",)), tokens
        )
    with pytest.raises(ConfigError, match=r"--decoder\.lexicon"):  # a binary does not list its words
        open_graph(DecoderConfig(kind="lm", lm=str(folder / "lmplz-3.bin")), tokens)


def test_a_language_model_is_found(lm, tmp_path):
    assert find_lm(str(lm), None) == lm
    assert find_lm(str(lm.parent), None) == lm
    assert find_lm("", lm.parent) == lm
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(lm.read_bytes()))
    assert find_lm("", tmp_path) == packed
    assert open_graph(DecoderConfig(kind="lm"), tokens_of("ab"), model=tmp_path).words == ("a", "ab", "ba")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"holds no language model .* speechssl lm"):
        find_lm("", empty)
    with pytest.raises(ConfigError, match=r"no such language model; make one: speechssl lm"):
        find_lm(str(tmp_path / "nowhere.arpa"), None)
    with pytest.raises(ConfigError, match=r"give --decoder\.lm"):
        find_lm("", None)


def test_language_models_that_cannot_be_used(lm, tmp_path, capfd):
    tokens = tokens_of("xyz")
    with pytest.raises(ConfigError, match=r"no word of the lexicon .*lm\.arpa: 3 words \(such as 'a'\)"):
        open_graph(DecoderConfig(kind="lm", lm=str(lm)), tokens)
    broken = tmp_path / "broken.arpa"
    broken.write_text(lm.read_text().replace("\\2-grams:", "\\2-gram"))
    with pytest.raises(DataError, match=r"broken\.arpa.* an ARPA file\?|broken\.arpa: not a language model"):
        open_graph(DecoderConfig(kind="lm", lm=str(broken)), tokens_of("ab"))
    late = tmp_path / "late.arpa"
    late.write_text(lm.read_text().replace("\\3-grams:", "\\3-grams:\nnonsense"))
    with pytest.raises(DataError, match=r"late\.arpa: not a language model that KenLM can read \([^:]*nonsense"):
        open_graph(DecoderConfig(kind="lm", lm=str(late)), tokens_of("ab"))
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(range(256)) * 20)
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("ab\n")
    with pytest.raises(DataError, match=r"other\.bin: not a language model"):
        open_graph(DecoderConfig(kind="lm", lm=str(other), lexicon=str(lexicon)), tokens_of("ab"))
    open_graph(DecoderConfig(kind="lm", lm=str(lm)), tokens_of("ab"))
    assert capfd.readouterr() == ("", "")  # KenLM's progress bar stays off the screen


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hotwords": ("!",)}, "no word in the hotwords"),
        ({"hotwords": ("ab",), "hotword_score": 0.0}, "hotword_score must be above 0"),
        ({"hotwords": ("ab",), "lm_weight": 0.0}, "lm_weight must be above 0"),
        ({"hotwords": ("xylo",)}, "hotword 'xylo' cannot be spelled"),
    ],
)
def test_hotwords_that_cannot_work(lm, changes, match):
    with pytest.raises(ConfigError, match=match):
        open_graph(DecoderConfig(kind="lm", lm=str(lm), **changes), tokens_of("ab"))
