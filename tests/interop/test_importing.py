"""``speechssl import``: the comparison with the other library, and that nothing is left where it fails."""

import sys

import pytest
import soundfile
import torch

from speechssl.asr.ctc import load_recogniser
from speechssl.cli.main import main
from speechssl.interop import any_model
from speechssl.interop.any_model import load_any
from speechssl.interop.model_folder import load_folder
from tests.support.public_models import fairseq_checkpoint, of_fairseq, of_transformers, save_with_vocabulary

transformers = pytest.importorskip("transformers")


@pytest.fixture
def audio(tmp_path) -> str:
    wave = 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(2))
    soundfile.write(tmp_path / "talk.wav", wave.numpy(), 16_000)
    return str(tmp_path / "talk.wav")


def made(kind: str, folder) -> str:
    """Write a model in one of the formats."""
    folder.mkdir()
    if kind == "Hugging Face":
        save_with_vocabulary(of_transformers("WavLMForCTC"), folder, normalize=True)
        return str(folder)
    if kind == "fairseq":
        torch.save(fairseq_checkpoint(of_fairseq(large=True)), folder / "model.pt")
    elif kind == "torchaudio":
        from torchaudio.models.wav2vec2.utils import import_fairseq_model

        torch.save(import_fairseq_model(of_fairseq(tuned=32)).state_dict(), folder / "model.pt")
        (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"))
    return str(folder / "model.pt")


@pytest.mark.parametrize("kind", ["Hugging Face", "fairseq", "torchaudio"])
def test_a_model_is_compared_and_written(kind, tmp_path, audio, capsys):
    source, output = made(kind, tmp_path / "theirs"), tmp_path / "ours"
    assert main(["import", source, str(output), "--audio", audio]) == 0
    said = capsys.readouterr().out
    library = "torchaudio" if kind == "torchaudio" else f"transformers {transformers.__version__}"
    assert f"compared with {library} on 1.0 s of 1 recordings" in said
    for row in ("layer 1", "last"):
        assert f"  {row} " in said
    written, read = load_folder(output), load_any(source)
    assert written.cfg == read.cfg
    assert written.tokens == read.tokens
    assert written.state.keys() == read.state.keys()
    assert all(torch.equal(written.state[name], value) for name, value in read.state.items())
    assert written.info["source"] == source
    assert 0 < written.info["largest_difference"] < 1e-4
    if written.tokens:
        assert "  scores " in said
        load_recogniser(output)
    assert main(["import", source, str(output)]) == 1
    assert "exists" in capsys.readouterr().err


def test_a_model_that_differs_is_not_written(tmp_path, audio, capsys, monkeypatch):
    source, output = made("Hugging Face", tmp_path / "theirs"), tmp_path / "ours"
    assert main(["import", source, str(output), "--audio", audio, "--tolerance", "1e-12"]) == 1
    assert "is not written" in capsys.readouterr().err
    encoder_of = any_model.encoder_of

    def wrong(loaded, path):
        encoder = encoder_of(loaded, path)
        with torch.no_grad():
            encoder.blocks[1].down.bias[3] = torch.nan
        return encoder

    monkeypatch.setattr("speechssl.interop.importing.encoder_of", wrong)
    assert main(["import", source, str(output), "--audio", audio]) == 1
    assert "layer 2 differs by inf" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.wav", "theirs"]


def test_without_transformers_nothing_is_compared_and_it_says_so(tmp_path, capsys, monkeypatch):
    source, output = made("fairseq", tmp_path / "theirs"), tmp_path / "ours"
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["import", source, str(output)]) == 0
    assert "not compared: transformers is not installed" in capsys.readouterr().out
    assert main(["import", str(output), str(tmp_path / "again")]) == 1
    assert "a model folder of ours" in capsys.readouterr().err
