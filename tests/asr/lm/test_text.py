"""Text for a language model: where it is from, how it is normalised, and the verb."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from speechssl.asr.ctc import CtcModel
from speechssl.asr.lm.arpa import read_arpa, read_words
from speechssl.asr.lm.text import estimate_lm, read_text
from speechssl.asr.tokens import Tokens
from speechssl.cli.main import main
from speechssl.config import LmConfig, TokensConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from tests.support.tones import MODEL


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    tokens, _ = Tokens.build(["ABab"], TokensConfig(normalise="none"))
    made = CtcModel(SpeechEncoder(MODEL), tokens.size)
    folder = tmp_path_factory.mktemp("lm") / "model"
    head = {f"head.{name}": value for name, value in made.head.state_dict().items()}
    save_model(folder, encoder=made.encoder, extra=head, tokens=tokens)
    return folder


def test_a_text_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\ufeffThe cat.\n\nA CAT’s hat\n", encoding="utf-8")
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for source in (path, packed):
        estimate_lm(source, tmp_path / "lm.arpa", LmConfig(order=2))
        assert read_words(tmp_path / "lm.arpa") == ("a", "cat", "cat's", "hat", "the")


def test_manifest_and_shards_give_the_same(tone_corpus, tmp_path, capsys):
    lines = [json.loads(line) for line in tone_corpus.manifest.read_text().splitlines()]
    train = sorted(row["text"] for row in lines if row["split"] == "train")
    for source in (tone_corpus.manifest, tone_corpus.folder, tone_corpus.shards):
        assert sorted(read_text(source, LmConfig())) == train
        assert len(list(read_text(source, LmConfig(splits=())))) == len(lines)
        ids = tmp_path / "ids.txt"
        ids.write_text("tone03\ntone36\nabsent\n")
        texts = [row["text"] for row in lines if row["id"] in ("tone03", "tone36")]
        assert sorted(read_text(source, LmConfig(ids=(str(ids),)))) == sorted(texts)
        assert "1 listed ids are not in the corpus: absent" in capsys.readouterr().err
        with pytest.raises(DataError, match=r"no transcript in test; choose other splits"):
            list(read_text(source, LmConfig(splits=("test",))))


def test_the_model_decides_normalisation_and_tokens(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("AB b\nba BA\n")
    estimate_lm(path, tmp_path / "words.arpa.gz", LmConfig(model=str(model)))
    assert read_words(tmp_path / "words.arpa.gz") == ("AB", "BA", "b", "ba")
    estimate_lm(path, tmp_path / "tokens.arpa", LmConfig(model=str(model), unit="tokens", order=4))
    assert ("A", "B", "|", "b") in read_arpa(tmp_path / "tokens.arpa")[3]
    with pytest.raises(ConfigError, match="give --model"):
        estimate_lm(path, tmp_path / "tokens.arpa", LmConfig(unit="tokens"))


def test_bad_input(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n ... \n")
    output = tmp_path / "lm.arpa"
    with pytest.raises(DataError, match="every sentence is empty"):
        estimate_lm(empty, output, LmConfig())
    with pytest.raises(DataError, match=r"nowhere\.txt.*give a UTF-8 text file"):
        estimate_lm(tmp_path / "nowhere.txt", output, LmConfig())
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt"):
        estimate_lm(tmp_path / "latin.txt", output, LmConfig())
    with pytest.raises(ConfigError, match=r"name it lm\.bin\.arpa"):
        estimate_lm(empty, tmp_path / "lm.bin", LmConfig())
    with pytest.raises(ConfigError, match="order must be at least 2"):
        estimate_lm(empty, output, LmConfig(order=1))
    assert not output.exists()


def test_the_verb_writes_the_model_and_says_what_it_holds(tmp_path, capsys):
    text = Path(__file__).parents[2] / "support" / "ngram" / "text.txt"
    assert main(["lm", str(text), str(tmp_path / "lm.arpa.gz"), "--order", "2"]) == 0
    assert "183 sentences, 1365 words, 65 of them distinct" in capsys.readouterr().out
    assert len(read_arpa(tmp_path / "lm.arpa.gz")) == 2
    assert main(["lm", str(text), str(tmp_path / "lm.arpa"), "--normalise", "none", "--order", "12"]) == 1
    assert "from 1 to 10" in capsys.readouterr().err
