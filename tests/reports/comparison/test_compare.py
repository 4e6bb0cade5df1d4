"""The three files of a comparison, and the verb."""

import json
import re
from datetime import UTC, datetime

import pytest

from speechssl.cli.main import main
from speechssl.config import CompareConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.evaluation.compare.comparison import compare
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.wer import write_wer
from speechssl.reports.comparison.compare import build_comparison
from tests.reports.run.test_build import Page
from tests.support.fake_run import hypotheses

MADE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
ATTACK = "<script>alert(1)</script> <img src=x onerror=alert(2)> \"'&amp; \u202e</style></pre>"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three systems on the same utterances, with fields of the manifest."""
    place = tmp_path_factory.mktemp("systems")
    for name, rate in (("weak", 0.3), ("strong", 0.1), ("close", 0.29)):
        rows = [{**row, "fields": {"source": ("read", "told")[k % 2], "snr_db": float(k % 50)}}
                for k, row in enumerate(hypotheses(rate))]  # fmt: skip
        write_wer(place / name, rows, {"split": "test", "decoder": f"greedy {name}"}, n=5)
    return place


def build(place, names, folder, **settings):
    cfg = CompareConfig(output=str(folder), bootstrap=200, **settings)
    page = build_comparison([str(place / name) for name in names], cfg, made=MADE)
    assert page == folder / "compare.html"
    document = json.loads((folder / "compare.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    text = (folder / "compare.txt").read_text(encoding="utf-8")
    return page.read_text(encoding="utf-8"), document, text


def plain(text):
    """Text without its line breaks."""
    return " ".join(text.split())


def test_the_three_files_say_the_same(place, tmp_path):
    html, document, text = build(place, ["weak", "strong"], tmp_path)
    page = Page(html)
    rows = {name: read_hypotheses(place / name) for name in ("weak", "strong")}
    expected = json.loads(json.dumps(compare(rows, n=200).to_dict()))
    assert {name: document[name] for name in expected if name != "systems"} == {
        name: value for name, value in expected.items() if name != "systems"
    }
    assert [s["wer"] for s in document["systems"]] == [s["score"]["wer"] for s in expected["systems"]]
    assert document["systems"][1]["info"]["decoder"] == "greedy strong"
    weak, strong = (f"{100 * s['wer']:.2f}" for s in document["systems"])
    for said in (page.text, plain(text)):
        assert f"strong makes fewer errors than weak: WER {strong} % against {weak} %" in said
        assert "MAPSSWE p < 0.0001" in said and "Probability of improvement > 99.5 %" in said
    for word in ("strong against weak", "Where", "Words", "Utterances", "words per second", "SNR (dB)", "source",
                 "read", "strong gained most against weak", "Said words that strong has right more often than weak",
                 "words apart", "1 March 2026", "greedy strong"):  # fmt: skip
        assert word.lower() in page.text.replace("01 March", "1 March").lower(), word
    for word in ("words per second", "SNR (dB)", "source", "strong gained most against weak", "utt. -/=/+"):
        assert word in text
    assert document["made"] == "2026-03-01T12:30:00+00:00" and document["notes"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "compare.json", "compare.txt"]


def test_the_page_is_one_file_that_asks_for_nothing(place, tmp_path):
    html, _, _ = build(place, ["weak", "strong"], tmp_path)
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "embed"} & set(page.tags)
    assert [link for link in page.links if not link.startswith("#")] == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src 'none'" in html.replace("&#x27;", "'")
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert len(html) < 300_000


def test_a_comparison_is_a_function_of_the_evaluations(place, tmp_path):
    one = build(place, ["weak", "close", "strong"], tmp_path / "one")
    two = build(place, ["weak", "close", "strong"], tmp_path / "two")
    assert one[0].replace("/one", "/two") == two[0] and one[2].replace("/one", "/two") == two[2]


def test_many_systems(place, tmp_path):
    html, document, text = build(place, ["weak", "strong", "close"], tmp_path, baseline="close")
    assert document["baseline"] == "close" and len(document["pairs"]) == 3
    page = Page(html)
    assert "3 systems compared" in page.text and "strong has the lowest word error rate" in plain(text)
    assert "weak gained most against close" in page.text and "strong − close" in page.text
    assert "--baseline close" in document["command"] and "corrected over 3 pairs" in page.text


def test_commands_can_be_run_again(place, tmp_path):
    _, document, _ = build(place, ["weak", "strong"], tmp_path / "a b", shown=3)
    command = document["command"]
    assert command == (
        f"speechssl compare {place / 'weak'} {place / 'strong'} --output '{tmp_path / 'a b'}' --shown 3 --bootstrap 200"
    )


def test_a_part_of_the_utterances_is_said_loudly(place, tmp_path):
    rows = read_hypotheses(place / "strong")[:60]
    write_wer(place / "part", rows, {"split": "test"}, n=5)
    with pytest.raises(DataError, match=r"different utterances .*--common"):
        build(place, ["weak", "part"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    html, document, text = build(place, ["weak", "part"], tmp_path / "out", common=True)
    for said in (Page(html).text, plain(text), " ".join(document["notes"])):
        assert "NOT ALL UTTERANCES ARE COMPARED. Only the 60 that all systems share" in said
    assert '<aside class="loud">' in html
    assert document["left_out"] == {"weak": 100, "part": 0} and document["command"].endswith("--common")


def test_nothing_in_a_file_becomes_markup(tmp_path):
    for name, hyp in (("one<script>", f"{ATTACK}\x00 \ud800 heard"), ("two", f"{ATTACK} said twice {ATTACK}")):
        rows = [
            {"id": f"u{k}<b>", "ref": f"{ATTACK} said", "hyp": hyp, "speaker": f"<i>s{k % 2}</i>", "duration": 1.0,
             "fields": {"<u>": f"<s>{k % 2}"}}
            for k in range(6)
        ]  # fmt: skip
        write_wer(tmp_path / name, rows, {"split": ATTACK, "decoder": ATTACK, "text": name, "not_scored": ATTACK}, n=5)
    html, _, text = build(tmp_path, ["one<script>", "two"], tmp_path / "out")
    page = Page(html)
    assert not {"script", "img", "i", "b", "u", "s"} & set(page.tags) and page.tags.count("style") == 1
    assert "<script>alert(1)</script>" in page.text and "u0<b>" in page.text and "one<script>" in page.text
    assert "\x00" not in html + text


def test_scripts_without_capitals_still_show_what_is_wrong(tmp_path):
    for name, hyp in (("a", "猫 は 本"), ("b", "犬")):
        write_wer(tmp_path / name, [{"id": f"u{k}", "ref": "犬 は 本", "hyp": hyp} for k in range(3)], n=5)
    _, _, text = build(tmp_path, ["a", "b"], tmp_path / "out")
    assert re.search(r"a +\[猫\] は 本", text) and re.search(r"b +犬 +\* +\*\n", text)


def test_long_utterances_are_wrapped_in_text_and_cut_on_the_page(tmp_path):
    ref = " ".join(f"word{k}" for k in range(230))
    for name, hyp in (("a", ref), ("b", ref.replace("word7 ", "other "))):
        write_wer(tmp_path / name, [{"id": f"u{k}", "ref": ref, "hyp": hyp} for k in range(2)], n=5)
    html, _, text = build(tmp_path, ["a", "b"], tmp_path / "out")
    assert "and 30 more words" in Page(html).text
    assert max(len(line) for line in text.splitlines() if line.startswith("    ")) <= 100
    listed = [line for line in text.splitlines() if line.startswith("    reference")]
    assert " ".join(" ".join(line.split()[1:]) for line in listed).split() == ref.split() * 2


def test_systems_that_never_differ(tmp_path):
    for name in ("a", "b"):
        write_wer(tmp_path / name, [{"id": f"u{k}", "ref": "x", "hyp": "x"} for k in range(3)], n=5)
    html, document, text = build(tmp_path, ["a", "b"], tmp_path / "out")
    page = Page(html)
    assert "The test cannot tell" in page.text and ">Utterances<" not in html and ">Words</h2>" not in html
    assert document["changed"] == {"b": []} and "gained" not in text


def test_without_any_reference_word(tmp_path):
    for name in ("a", "b"):
        write_wer(tmp_path / name, [{"id": f"u{k}", "ref": "", "hyp": name} for k in range(3)], n=5)
    html, document, text = build(tmp_path, ["a", "b"], tmp_path / "out")
    assert "no word error rate to compare" in Page(html).text and "no word error rate to compare" in plain(text)
    assert document["pairs"][0]["bootstrap"] is None and document["oracle"] is None


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["weak"], {}, "a comparison needs two systems; .*weak gives only 1"),
        (["weak", "strong"], {"baseline": "best"}, "no system is called 'best'; the systems are weak, strong"),
        (["weak", "strong"], {"bootstrap": 0}, "bootstrap must be at least 1"),
        (["weak", "strong"], {"shown": -1}, "shown at least 0"),
    ],
)
def test_wrong_use_is_explained(place, tmp_path, words, settings, message):
    cfg = CompareConfig(**{"output": str(tmp_path / "out"), **settings})
    with pytest.raises(ConfigError, match=message):
        build_comparison([str(place / word) for word in words], cfg)
    assert not (tmp_path / "out").exists()


def test_the_verb(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["compare", "weak", "new=strong", "--output", str(tmp_path), "--bootstrap", "50"]) == 0
    said = capsys.readouterr().out
    assert "new makes fewer errors than weak" in said and said.endswith(f"{tmp_path / 'compare.html'}\n")
    assert "speechssl compare weak new=strong" in (tmp_path / "compare.txt").read_text(encoding="utf-8")
    assert main(["compare", "weak"]) == 1
    assert "a comparison needs two systems" in capsys.readouterr().err
    assert main(["compare"]) == 1
    assert "usage: speechssl compare RUN RUN..." in capsys.readouterr().err
    assert main(["compare", "weak", "nowhere"]) == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err
