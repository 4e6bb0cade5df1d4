"""The verb export: a folder with its card where numbers agree, and nothing at all where they do not."""

import json

import pytest
import torch

from speechssl.asr.export import Comparison, Recording, compare, recordings
from speechssl.cli.main import main
from speechssl.config import DataConfig, ExportConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.interop.export.peer import Answer, collapsed
from speechssl.interop.model_folder import save_model
from tests.interop.export.models import recogniser
from tests.support.tones import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), {"train": 4, "dev": 6})


def test_an_export_is_whole_or_not_there(shards, tmp_path, capsys):
    model, module, tokens = recogniser("large", normalize=True)
    head = {name: value for name, value in model.state.items() if name.startswith("head.")}
    save_model(tmp_path / "run" / "model", encoder=module.encoder, extra=head, tokens=tokens, info=model.info)
    command = ["export", str(tmp_path / "run" / "model"), str(tmp_path / "out"), "--to", "torchaudio"]
    assert main(command) == 1
    assert "--data.shards" in capsys.readouterr().err
    (tmp_path / "run" / "config.toml").write_text(f'[data]\nshards = "{shards}"\n')
    assert main([*command, "--tolerance", "1e-12"]) == 1
    said = capsys.readouterr().err
    assert "was not written" in said and "more than tolerance = 1e-12" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert main(command) == 0
    assert "same text in 11 of 11" in capsys.readouterr().out
    assert {"model.pt", "README.md", "export.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "library_name: torchaudio" in card and "mean 0 and variance 1 first, by the caller" in card
    assert json.loads((tmp_path / "out" / "export.json").read_text())["largest"] < 1e-4
    assert main(command) == 1
    assert "is there already" in capsys.readouterr().err


def test_recordings_are_real_and_some_hold_digital_silence(shards):
    items = recordings(DataConfig(shards=str(shards), splits=("dev",), min_seconds=0.0), 3)
    assert [item.id for item in items].count("silence") == 1 and len(items) == 3 + 3 + 1
    assert [item.text is None for item in items] == [False] * 3 + [True] * 4
    plain, longer = items[0].wave, items[3].wave
    assert len(longer) == len(plain) + 3 * 8000
    assert not longer[:8000].any() and not longer[-8000:].any()
    half = (len(plain) + 1) // 2
    assert not longer[8000 + half : 16_000 + half].any()
    with pytest.raises(DataError, match="no recording of test"):
        recordings(DataConfig(shards=str(shards), splits=("test",)), 3)


def test_differences_are_found():
    """A wrong value, a NaN, another number of frames, another text."""
    items = [Recording("a", torch.zeros(4), None), Recording("b", torch.ones(4), None)]
    right = {0.0: Answer(torch.zeros(2, 3), "one"), 1.0: Answer(torch.ones(2, 3), "two")}

    def peer(**changes):
        answers = right | {1.0: right[1.0]._replace(**changes)}
        return lambda wave: answers[float(wave[0])]

    same = compare(peer(), peer(), items)
    assert same == Comparison(2, 4, 0.0, "a", 2, ())
    assert compare(peer(), peer(values=torch.full((2, 3), 1.25)), items).largest == 0.25
    assert compare(peer(), peer(values=torch.full((2, 3), float("nan"))), items).largest == float("inf")
    assert compare(peer(), peer(values=torch.ones(1, 3)), items).where == "b"
    assert compare(peer(), peer(text="too"), items).differing == (("b", "two", "too"),)


def test_the_best_path_is_read_from_a_vocabulary_file():
    values = torch.nn.functional.one_hot(torch.tensor([0, 2, 2, 0, 2, 1, 0, 1, 3, 3, 0]), 4).float()
    assert collapsed(values, ["<blk>", "▁", "a", "b"]) == "aa b"


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="int8 is for ONNX"):
        ExportConfig(to="hf", int8=True)
    with pytest.raises(ConfigError, match="utterances must be positive"):
        ExportConfig(utterances=0)
