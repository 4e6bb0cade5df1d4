import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.cli.main import main
from speechssl.evaluation.bootstrap import PairedBootstrap
from speechssl.evaluation.compare.pairs import Pair
from speechssl.evaluation.nist.score_report import bootstrap_p
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.summary import summarise

DATA = Path(__file__).parents[2] / "support" / "sctk"


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """(output folder, what was printed) of three systems on real speech."""
    output = tmp_path_factory.mktemp("score")
    names = ("ref", "lexicon", "greedy", "scratch")
    for name in names:  # some of each part of the data
        lines = (DATA / f"{name}.trn").read_text().splitlines()[::12]
        (output / f"{name}.trn").write_text("".join(f"{line}\n" for line in lines))
    words = ["score", *(str(output / f"{name}.trn") for name in names)]
    settings = ["--output", str(output / "out"), "--speakers", "prefix", "--cost", "sclite", "--bootstrap", "200"]
    assert main([*words, *settings]) == 0
    return output / "out"


def test_everything_is_written(scored, capsys):
    found = sorted(str(path.relative_to(scored)) for path in scored.rglob("*") if path.is_file())
    each = [
        f"{name}/{file}"
        for name in ("greedy", "lexicon", "scratch")
        for file in ("hypotheses.jsonl", "wer.json", "wer.txt")
    ]
    assert found == sorted([*each, "comparison.json", "comparison.txt", "config.toml", "ledger.jsonl"])
    assert tomllib.loads((scored / "config.toml").read_text())["cost"] == "sclite"


def test_the_comparison_follows_from_the_rows(scored):
    document = json.loads((scored / "comparison.json").read_text())
    for system in document["systems"]:
        rows = read_hypotheses(scored / system["name"])
        report = summarise(rows, n=200, seed=1)
        assert (system["wer"], system["ci_low"], system["cer"]) == (report.wer, report.ci_low, report.cer)
        assert system["raw"]["wer"] == pytest.approx(report.wer)  # the data is normalised already
        info = json.loads((scored / system["name"] / "wer.json").read_text())["info"]
        assert "own: NFC" in info["text"] and "sclite: weights 4, 3, 3" in info["alignment"]
    assert [(pair["a"], pair["b"]) for pair in document["pairs"]] == [
        ("lexicon", "greedy"),
        ("lexicon", "scratch"),
        ("greedy", "scratch"),
    ]
    for pair in document["pairs"]:
        assert pair["p"] <= pair["p_holm"] <= 1 and pair["bootstrap_p"] <= pair["bootstrap_p_holm"] <= 1
    assert document["pairs"][0]["better"] == "lexicon"


def test_the_tables(scored):
    text = (scored / "comparison.txt").read_text()
    for words in ("raw WER %", "by speaker", "MER %", "WIL %", "SER %", "MAPSSWE p", "lexicon, greedy", "own: NFC"):
        assert words in text
    assert all(len(line) <= 120 for line in text.splitlines())


def pair_with(bootstrap):
    """A pair of which only the bootstrap matters here."""
    names = dict.fromkeys(Pair.__dataclass_fields__, 0)
    return Pair(**(names | {"a": "a", "b": "b", "bootstrap": bootstrap, "better": None}))


def test_the_p_of_the_bootstrap():
    base = PairedBootstrap(0.2, 0.1, -0.1, -0.2, 0.0, 0.5, probability=1.0, utterances=9, resamples=999)
    assert bootstrap_p(pair_with(base)) == pytest.approx(2 / 1000)
    assert bootstrap_p(pair_with(replace(base, probability=0.0))) == pytest.approx(2 / 1000)
    assert bootstrap_p(pair_with(replace(base, probability=0.5))) == 1
    assert bootstrap_p(pair_with(replace(base, probability=0.9))) == pytest.approx(2 * 100.9 / 1000)
    assert bootstrap_p(pair_with(None)) == 1


def run(tmp_path, monkeypatch, capsys, files, *words):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    code = main(["score", *words])
    return code, capsys.readouterr()


def test_what_is_missing_is_said(tmp_path, monkeypatch, capsys):
    files = {"r.trn": "a (s-1)\nb (s-2)\n", "h.trn": "a (s-1)\nc (s-3)\n"}
    code, shown = run(tmp_path, monkeypatch, capsys, files, "r.trn", "h.trn", "--allow-extra", "--output", "out")
    assert code == 0
    assert "h: 1 have no hypothesis: scored as empty: s-2" in shown.out
    assert "h: 1 have no reference: s-3" in shown.out
    text = (tmp_path / "out/h/wer.txt").read_text()
    assert "1 utterances without a hypothesis (scored as empty)" in text and "1 without a reference" in text
    assert len((tmp_path / "out/ledger.jsonl").read_text().splitlines()) == 2


def test_alternatives_resolved_in_two_ways(tmp_path, monkeypatch, capsys):
    files = {
        "r.trn": "{ a b / c } d (s-1)\nx (uh) y (s-2)\nz (s-3)\n",
        "h1.trn": "a b d (s-1)\nx y (s-2)\nz (s-3)\n",
        "h2.trn": "c d (s-1)\nx y (s-2)\nw (s-3)\n",
    }
    words = ("--ref", "r.trn", "--hyp", "h1.trn", "h2.trn", "--output", "out")
    code, shown = run(tmp_path, monkeypatch, capsys, files, *words)
    assert code == 0
    assert "1 utterances whose alternatives were resolved to other words" in shown.out
    assert json.loads((tmp_path / "out/comparison.json").read_text())["not_in_pairs"] == ["s-1"]
    assert "1 optional words left out; they are not in N" in (tmp_path / "out/h1/wer.txt").read_text()


def test_segments_that_are_not_scored(tmp_path, monkeypatch, capsys):
    files = {
        "r.stm": "f A s 0 1 yes\nf A s 1 2 ignore_time_segment_in_scoring\n",
        "h.ctm": "f A 0.1 0.1 yes\nf A 1.5 0.1 no\n",
    }
    code, shown = run(tmp_path, monkeypatch, capsys, files, "r.stm", "h.ctm", "--output", "out")
    assert code == 0 and "\n  h        0.00" in shown.out
    assert "1 segments marked as not to be scored" in (tmp_path / "out/h/wer.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: speechssl score REF HYP"),
        (("r.trn",), "usage: speechssl score REF HYP"),
        (("r.trn", "h.trn", "--ref", "r.trn"), "not both"),
        (("r.trn", "none.trn"), "none.trn: no such file"),
    ],
)
def test_wrong_use_is_explained(words, message, tmp_path, monkeypatch, capsys):
    code, shown = run(tmp_path, monkeypatch, capsys, {"r.trn": "a (s-1)\n", "h.trn": "a (s-1)\n"}, *words)
    assert code == 1 and message in shown.err
