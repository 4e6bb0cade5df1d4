"""ARPA files: backoff by hand, KenLM's own scores, files that are cut or wrong."""

import gzip
import itertools
from pathlib import Path

import pytest

from speechssl.asr.lm.arpa import is_arpa, read_words
from speechssl.core.errors import DataError
from tests.support.arpa import Arpa

SMALL = """\

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.3
-0.5\t</s>
-0.6\ta\t-0.2
-0.7\tb\t-0.4

\\2-grams:
-0.25\t<s> a\t-0.1
-0.35 a b -0.15
-0.45\tb </s>

\\3-grams:
-0.05\t<s> a b

\\end\\
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.arpa"
    path.write_text(SMALL)
    return path


def test_probabilities_back_off(small):
    model = Arpa.read(small)
    assert model.order == 3
    assert model.probability("b", ["<s>", "a"]) == -0.05
    assert model.probability("b", ["b", "a"]) == -0.35  # no backoff weight for "b a", which is not there
    assert model.probability("a", ["a", "b"]) == pytest.approx(-0.15 - 0.4 - 0.6)
    assert model.probability("zebra", ["a"]) == pytest.approx(-0.2 - 1.5)
    assert model.probability("a", ["zebra"]) == -0.6
    assert model.sentence(["a", "b"]) == pytest.approx(-0.25 - 0.05 + (-0.15 - 0.45))
    assert model.sentence([]) == pytest.approx(-0.3 - 0.5)


def test_words_and_kind(small, tmp_path):
    assert read_words(small) == ("a", "b")
    assert is_arpa(small)
    packed = tmp_path / "small.arpa.gz"
    packed.write_bytes(gzip.compress(SMALL.encode()))
    assert is_arpa(packed)
    assert Arpa.read(packed) == Arpa.read(small)
    for content in (
        b"mmap lm http://kheafield.com/code format version 5\n\0",
        b"",
        b"\n \n",
        b"\xff\xfe\n",
        b"\x1f\x8bno",
    ):
        other = tmp_path / "other"
        other.write_bytes(content)
        assert not is_arpa(other)


def test_what_is_written_is_read_again_and_is_the_same_each_time(small, tmp_path):
    model = Arpa.read(small)
    for name in ("copy.arpa", "copy.arpa.gz"):
        model.write(tmp_path / name)
        assert Arpa.read(tmp_path / name) == model
        first = (tmp_path / name).read_bytes()
        model.write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.arpa", "copy.arpa.gz", "small.arpa"]


def test_a_model_without_unknown_words_gives_them_nothing(small):
    small.write_text(SMALL.replace("-1.5\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4"))
    assert Arpa.read(small).probability("zebra") == -99.0


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("\\data\\", "data", r"line 2: an ARPA file starts with"),
        ("ngram 2=3", "ngram 3=3", r"line 4: expected 'ngram 2=COUNT'"),
        ("ngram 1=5", "ngram 1=five", r"line 3: expected 'ngram 1=COUNT'"),
        ("ngram 1=5\nngram 2=3\nngram 3=1\n", "", "no 'ngram 1=COUNT'"),
        ("\\2-grams:", "\\3-grams:", r"expected .2-grams:"),
        ("-0.6\ta\t-0.2", "-0.6", r"line 11: expected a probability, 1 words"),
        ("-0.6\ta\t-0.2", "-0.6\ta\tb\t-0.2", r"line 11: expected a probability, 1 words"),
        ("-0.6\ta\t-0.2", "x\ta\t-0.2", r"line 11: not a number"),
        ("-0.6\ta\t-0.2", "0.6\ta\t-0.2", r"line 11: log10 probabilities are at most 0"),
        ("-0.6\ta\t-0.2", "nan\ta\t-0.2", r"line 11: log10 probabilities are at most 0"),
        ("-0.6\ta\t-0.2", "-0.6\ta\tinf", r"line 11: log10 .* backoffs finite"),
        ("ngram 2=3", "ngram 2=4", r"3 2-grams, but the header says 4"),
        ("\n\\end\\\n", "", r"the file is cut"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(small, old, new, match):
    assert old in SMALL
    small.write_text(SMALL.replace(old, new))
    with pytest.raises(DataError, match=match) as caught:
        Arpa.read(small)
    assert str(small) in str(caught.value)


def test_bytes_that_are_no_text(small, tmp_path):
    small.write_bytes(SMALL.encode().replace(b"\ta\t", b"\t\xe9\t", 1))
    with pytest.raises(DataError, match=r"cannot be read .*utf-8"):
        Arpa.read(small)
    packed = tmp_path / "cut.arpa.gz"
    packed.write_bytes(gzip.compress(SMALL.encode())[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        Arpa.read(packed)


def test_scores_are_those_of_kenlm():
    """flashlight's reader of KenLM's format, on the model that KenLM's lmplz made: every sentence of three words."""
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    folder = Path(__file__).parents[2] / "support" / "ngram"
    ours = Arpa.read(folder / "lmplz-3.arpa.gz")
    words = ["the", "old", "man", "king", "sea", "zebra", "went", "<unk>"]
    entries = Dictionary(words)
    theirs = KenLM(str(folder / "lmplz-3.bin"), entries)
    for line in itertools.product(words, repeat=3):
        state, total = theirs.start(False), 0.0
        for word in line:
            state, score = theirs.score(state, entries.get_index(word))
            total += score
        _, score = theirs.finish(state)
        assert ours.sentence(line) == pytest.approx(total + score, abs=2e-5)
