"""The page on what models have learned: what is planted leads its rows, finished parts stay, sentences follow rates."""

import json

import pytest

from speechssl.cli.main import main
from speechssl.config import LayersConfig, UnderstandConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.reports.understand_page import Measure, Rate, _compared
from speechssl.understanding import probe as probe_module
from speechssl.understanding.abx import run as abx_module
from speechssl.understanding.extractors import open_extractor
from speechssl.understanding.layers import compare as compare_module
from speechssl.workflows import understand as understand_module
from speechssl.workflows.understand import understand
from tests.understanding.test_understanding import Planted, corpus

__all__ = ["corpus"]


@pytest.fixture
def planted(monkeypatch):
    """``planted`` opens frames that hold speakers and phones; other names open what they name. Lists what is opened."""
    opened = []

    def open_any(model, **settings):
        opened.append(model)
        return Planted() if model == "planted" else open_extractor(model, **settings)

    for module in (abx_module, compare_module, probe_module, understand_module):
        monkeypatch.setattr(module, "open_extractor", open_any)
    return opened


def words(corpus, output):
    """Return a command line of small measurements."""
    return [
        "understand", "good=planted", f"random:{corpus / 'model'}", str(corpus), "--output", str(output),
        "--tasks", "speaker", "phones", "--alignment", str(corpus / "phones.ctm"), "--device", "cpu",
        "--layers.frames", "600", "--layers.clusters", "8", "--layers.max-bad-fraction", "0.5",
        "--abx.span", "phone", "--abx.context", "any", "--abx.max-items", "4", "--abx.bootstrap", "50",
        "--probe.heads", "linear", "mlp", "--probe.rates", "0.03", "--probe.seeds", "1", "--probe.steps", "40",
        "--probe.hidden", "16", "--probe.bootstrap", "50",
    ]  # fmt: skip


def test_one_command_measures_all_and_finished_parts_stay(corpus, tmp_path, planted, capsys):
    assert main(words(corpus, tmp_path)) == 0
    said = capsys.readouterr().out
    for measure in ("speaker, linear", "phones, mlp", "ABX within speakers", "ABX across speakers"):
        assert f"{measure}: the lowest error is that of good" in said
    assert "good: phones are best predicted from layer 2" in said
    page = (tmp_path / "understand.html").read_text()
    assert "What good and B learned" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Weights of the layers that the head mlp has learned for speaker" in page
    assert "ABX error across speakers of each layer" in page
    found = json.loads((tmp_path / "good" / "speaker" / "probe.json").read_text())
    assert found["heads"][0]["layers"]["1"] > 0.5  # where the speakers were planted
    assert not list(tmp_path.glob("*/features"))
    assert "understand.html" in said.splitlines()[-1]

    planted.clear()
    assert main(words(corpus, tmp_path)) == 0
    assert capsys.readouterr().out.count("done before") == 7  # layers; of each model ABX and two tasks
    assert len(planted) == 2  # to see whether the weights are still the same
    (tmp_path / "B" / "phones" / "probe.json").unlink()
    assert main(words(corpus, tmp_path)) == 0
    assert capsys.readouterr().out.count("done before") == 6
    assert (tmp_path / "B" / "phones" / "probe.json").is_file()


def test_without_the_times_of_phones_there_is_no_abx(corpus, tmp_path):
    layers = LayersConfig(frames=600, max_bad_fraction=0.5)
    cfg = UnderstandConfig(output=str(tmp_path), tasks=(), device="cpu", layers=layers)
    page = understand(["logmel"], str(corpus), cfg).read_text()
    assert "What logmel learned" in page
    assert "Phones were not measured" in page
    assert "ABX error" not in page
    assert not (tmp_path / "logmel").joinpath("abx").exists()


@pytest.mark.parametrize(
    ("models", "tasks", "said"),
    [
        (["layers=logmel"], (), "'layers' cannot be the name of a folder"),
        (["stages=logmel"], (), "'stages' cannot be the name of a folder"),
        (["..=logmel"], (), "cannot be the name of a folder"),
        (["logmel"], ("abx",), "abx is no task of probe"),
        (["logmel"], ("meta.emotion",), "meta.emotion"),
        (["a=logmel", "a=mfcc"], (), "name of its own"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(corpus, tmp_path, models, tasks, said):
    with pytest.raises((ConfigError, DataError), match=said):
        understand(models, str(corpus), UnderstandConfig(output=str(tmp_path / "out"), tasks=tasks))
    assert not (tmp_path / "out").exists()


def test_the_sentences_follow_the_rates():
    def measure(name, task="", **rates):
        return Measure(name, {model: Rate(*own) for model, own in rates.items()}, task)

    said = list(
        _compared([
            measure("speaker, linear", "speaker", A=(0.2, 0.1, 0.3), B=(0.25, 0.15, 0.35), C=(0.5, 0.4, 0.6)),
            measure("speaker, knn", "speaker", A=(0.4, 0.3, 0.5), B=(0.1, 0.05, 0.2), C=(0.5, 0.4, 0.6)),
            measure("ABX within speakers", A=(0.1, None, None), B=(0.2, None, None), C=(0.3, None, None)),
        ])
    )  # fmt: skip
    assert said == [
        "speaker, linear: the lowest error is that of A, 20.0 %; its interval overlaps with that of B.",
        "speaker, knn: the lowest error is that of B, 10.0 %.",
        "ABX within speakers: the lowest error is that of A, 10.0 %; its interval overlaps with that of B and C.",
        "speaker: which model is best depends on the head (A and B).",
    ]
    assert list(_compared([measure("speaker, linear", "speaker", A=(0.2, 0.1, 0.3))])) == []
