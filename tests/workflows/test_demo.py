"""The demo at its smallest: both arms on synthetic speech, and the table that says what pretraining is worth."""

import json

import pytest

from speechssl.cli.main import main
from speechssl.config.load import load_config
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.wer import write_wer
from speechssl.workflows.demo import DemoConfig, _table, demo
from tests.support.whole import settings, write_folder


def test_both_arms_on_synthetic_speech(tmp_path, capsys):
    """``speechssl demo --smoke`` takes the whole path of the demo; started again, it finds every stage done."""
    pytest.importorskip("espeakng_loader", reason="the synthesiser is not installed: pip install 'speechssl[demo]'")
    words = ["demo", "--smoke", "--output", str(tmp_path / "demo")]
    assert main(words) == 0
    said = capsys.readouterr().out
    report = tmp_path / "demo" / "run" / "report.html"
    assert report.exists()
    for words_of_it in ("pretrained  ", "from scratch", "difference", "(smoke size:", f"in all; report: {report}"):
        assert words_of_it in said
    rows = json.loads((tmp_path / "demo" / "run" / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    rates = load_config(DemoConfig, "demo-smoke", []).run.learning_rates
    assert {(row["arm"], row["lr"]) for row in rows} == {
        (arm, lr) for arm in ("finetune", "finetune-scratch") for lr in rates
    }
    assert sum(row["kept"] for row in rows) == 2
    assert main(words) == 0
    again = capsys.readouterr().out
    assert "pretrain: done before" in again
    assert again.split("pretrained  ")[1].splitlines()[0] == said.split("pretrained  ")[1].splitlines()[0]


def test_your_own_audio(tmp_path, capsys):
    folder = write_folder(tmp_path / "tones", {"train": 12, "dev": 3, "test": 3})
    demo(DemoConfig(output=str(tmp_path / "demo"), corpus=str(folder), run=settings(tmp_path, steps=2)))
    said = capsys.readouterr().out
    assert "synthetic" not in said
    assert "smoke" not in said
    assert "from scratch" in said
    assert not (tmp_path / "demo" / "corpus").exists()


def test_the_table_compares_utterance_by_utterance(tmp_path):
    refs = [f"one two three {word}" for word in ("four", "five", "six", "seven", "eight")]
    for name, wrong in (("evaluate", 1), ("evaluate-scratch", 4)):
        hyps = [ref if i >= wrong else ref.replace("one", "none") for i, ref in enumerate(refs)]
        rows = [
            score_row(f"u{i}", ref, hyp, speaker=f"s{i}") for i, (ref, hyp) in enumerate(zip(refs, hyps, strict=True))
        ]
        write_wer(tmp_path / name, rows, {}, n=100)
    lines = {line[:22].strip(): line[22:].split() for line in _table(tmp_path).splitlines()}
    assert lines["pretrained"][0] == "5.0%"
    assert lines["from scratch"][0] == "20.0%"
    assert lines["relative reduction"] == ["75.0%"]
    assert lines["difference"][0] in {"15.0%", "-15.0%"}


def test_the_table_compares_greedy_decoding_too_where_another_decoder_was_used(tmp_path):
    refs = [f"one two three {word}" for word in ("four", "five", "six", "seven", "eight")]
    for name, wrong in (("evaluate", 2), ("evaluate-scratch", 5)):
        rows = [
            {**score_row(f"u{i}", ref, ref), "greedy": ref if i >= wrong else ref.replace("one", "won")}
            for i, ref in enumerate(refs)
        ]
        write_wer(tmp_path / name, rows, {"decoder": "lexicon, beam 100"}, n=100)
    lexicon, greedy = _table(tmp_path).split("\n\n")
    assert "(greedy)" in greedy
    assert "relative reduction       60.0%" in greedy
    assert "pretrained               10.0%" in greedy
    assert "(lexicon, beam 100)" in lexicon
    assert "pretrained                0.0%" in lexicon
