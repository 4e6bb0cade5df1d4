"""A language model that is cut or damaged: a clear error that names it, and no results."""

import gzip
from pathlib import Path

import pytest

from speechssl.asr.decoding.search import Graph
from speechssl.asr.lm.kneser_ney import estimate
from speechssl.cli.main import main
from speechssl.core.errors import DataError
from tests.support.spelled import tokens_of

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install 'speechssl[decode]'")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_refused(tmp_path, keep):
    path = tmp_path / "lm.arpa"
    estimate([["a", "b"], ["b", "a", "b"], ["a"]], 3).write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"lm\.arpa"):
        Graph(tokens_of("ab"), ["a", "b"], lm=path)


def test_evaluate_refuses_a_damaged_model_before_it_decodes(tmp_path, tone_corpus, capsys):
    import torch

    from speechssl.asr.ctc import CtcModel
    from speechssl.interop.model_folder import save_model
    from speechssl.models.encoder import SpeechEncoder
    from tests.support.tones import MODEL

    torch.manual_seed(0)
    tokens = tokens_of("abcd")
    made = CtcModel(SpeechEncoder(MODEL), tokens.size)
    head = {f"head.{name}": value for name, value in made.head.state_dict().items()}
    save_model(tmp_path / "model", encoder=made.encoder, extra=head, tokens=tokens)
    packed = tmp_path / "model" / "lm.arpa.gz"
    estimate([["a", "b"], ["b", "a", "b"]], 2).write(packed)
    packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes())[:-20]))
    words = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--data.shards", str(tone_corpus.shards), "--data.splits", "dev", "--data.workers", "0"]
    assert main(["evaluate", *words, "--decoder.kind", "lm"]) == 1
    assert f"error: {packed}: not a language model" in capsys.readouterr().err
    assert not (Path(tmp_path) / "out" / "wer.json").exists()
