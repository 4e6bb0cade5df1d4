import html.parser
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from speechssl.config import FinetuneConfig, HubertConfig, PretrainConfig, TargetsConfig
from speechssl.config.load import write_toml
from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry, Ledger
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.wer import compare_systems, write_wer
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.reports.run.build import build_report
from tests.support.fake_run import finetuning_metrics, hypotheses, pretraining_metrics, write_lines, write_run

MADE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
VOID = {"meta", "br", "hr", "col", "link", "img"}


class Page(html.parser.HTMLParser):
    """Checks nesting, and collects tags, attributes and visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src", "xlink:href", "action", "data"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).replace("\u00a0", " ").replace("\u202f", " ").split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("whole") / "libri-mini")


def read(folder):
    path = build_report(folder, made=MADE)
    assert path == folder / "report.html"
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return Page(path.read_text(encoding="utf-8")), document, (folder / "report.txt").read_text(encoding="utf-8")


def test_the_report_of_a_whole_run(whole):
    page, document, text = read(whole)
    scores = {score["name"]: score for score in document["evaluations"]}
    assert list(scores) == ["evaluate", "evaluate-scratch"] and document["headline"] == "evaluate"
    stored = json.loads((whole / "evaluate" / "wer.json").read_text(encoding="utf-8"))
    assert scores["evaluate"]["wer"] == stored["wer"] and scores["evaluate"]["ci_low"] == stored["ci_low"]
    rows = [read_hypotheses(whole / name) for name in ("evaluate-scratch", "evaluate")]
    paired = compare_systems(*rows)
    assert document["comparison"]["difference"] == paired.difference < 0
    headline = f"{100 * stored['wer']:.1f}"
    for said in (page.text, text):
        assert headline in said.replace("\u00a0", " ")
        assert f"Pretraining removes {100 * paired.relative:.1f} % of the errors" in said
        assert "skipped_step" in said and "ctc_infeasible" in said and "speechssl run FOLDER config.toml" in said
    for part in (
        "Result",
        "Learning",
        "Pretraining",
        "Fine-tuning",
        "Errors",
        "Utterances",
        "Data",
        "Reproduction",
        "chance: 4.62",
        "Codebook perplexity",
        "Word error rate on dev",
        "pretrained",
        "from scratch",
        "audio/broken0.wav",
        "4 errors" if "4 errors" in page.text else "errors in",
        "torchaudio",
        "1 March 2026",
    ):
        assert part.lower() in page.text.replace("01 March", "1 March").lower(), part
    assert page.tags.count("figure") == 15  # two of them with published curves
    assert document["ledger"][0] == {
        "stage": "manifest", "reason": "empty_file", "action": "rejected", "count": 4,
        "examples": [[f"audio/broken{i}.wav", "0 bytes"] for i in range(3)],
    }  # fmt: skip
    sizes = {part["name"]: part["utterances"] for part in document["data"]["parts"]}
    assert sizes == {"train": 885, "dev": 15, "test": 160}
    assert document["stage_seconds"] == {"manifest": 12.0, "shard": 40.0, "pretrain": 8300.0, "finetune": 2500.0}
    assert [t["name"] for t in document["trainings"]] == ["pretrain", "finetune", "finetune-scratch"]
    first = document["trainings"][0]
    assert first["skipped"] == 1 and first["audio_rate"] == pytest.approx(848.8, abs=0.1)
    assert not document["notes"]


def test_the_page_is_one_file_that_asks_for_nothing(whole):
    path = build_report(whole, made=MADE)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links) and page.links
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert len(text) < 300_000


def test_a_report_is_a_function_of_the_folder(whole, tmp_path):
    first = build_report(whole, tmp_path / "one.html", made=MADE).read_bytes()
    assert build_report(whole, tmp_path / "two.html", made=MADE).read_bytes() == first
    names = [f"{name}.{kind}" for name in ("one", "two") for kind in ("html", "json", "txt")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


ATTACK = "<script>alert(1)</script> <img src=x onerror=alert(2)> \"'&amp; \u202e</style></pre>"


def test_nothing_in_a_file_becomes_markup(tmp_path):
    folder = tmp_path / "run<script>"
    rows = [{"id": f"u{i}<b>", "ref": f"{ATTACK} said", "hyp": f"{ATTACK}\x00 \ud800 heard", "speaker": "<i>s</i>",
             "duration": 1.0} for i in range(3)]  # fmt: skip
    write_wer(folder / "evaluate", rows, {"split": ATTACK, "decoder": ATTACK, "not_scored": ATTACK})
    write_toml(PretrainConfig(name=ATTACK), folder / "pretrain" / "config.toml")
    health = {"step": 3, "phase": "health", "name": ATTACK, "message": ATTACK, "severity": ATTACK}
    write_lines(folder / "pretrain" / "metrics.jsonl", [health, {"step": 3, "phase": "train", "loss": 1.0, ATTACK: 2}])
    Ledger(folder / "ledger.jsonl").add(Entry(ATTACK, ATTACK, ATTACK, ATTACK, ATTACK))
    line = {"duration": 1, "split": ATTACK, "text": ATTACK, "speaker": "s"}
    write_lines(folder / "manifest" / "manifest.jsonl", [line])
    write_lines(folder / "sweep" / "sweep.json", [])
    (folder / "sweep" / "sweep.json").write_text(json.dumps([{"arm": ATTACK, "lr": 1, "dev_wer": 0.5, "kept": True}]))
    (folder / "environment.json").write_text(json.dumps({ATTACK: ATTACK}))
    page, document, _ = read(folder)
    assert not {"script", "img", "i", "b"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert "<script>alert(1)</script>" in page.text
    assert document["evaluations"][0]["split"] == ATTACK


def test_an_utterance_left_out_in_each_iteration_is_one_item(tmp_path):
    for name in ("iteration-1", "iteration-2"):
        ledger = Ledger(tmp_path / name / "ledger.jsonl")
        ledger.extend(Entry("pretrain", f"u{i}", "too_short", "0.2 s", "dropped") for i in range(3))
        ledger.add(Entry("pretrain", "u9", "non_finite_gradient", f"step of {name}", "dropped"))
    _, document, _ = read(tmp_path)
    counts = {line["reason"]: line["count"] for line in document["ledger"]}
    assert counts == {"too_short": 3, "non_finite_gradient": 2}


def test_only_pretraining(tmp_path):
    folder = tmp_path / "pretrain"
    write_toml(PretrainConfig(), folder / "config.toml")
    write_lines(folder / "metrics.jsonl", pretraining_metrics(2000), torn=True)
    page, document, text = read(folder)
    assert "Nothing has been scored" in page.text and "No health check raised a finding" in page.text
    assert "The ledger is empty" in page.text and "speechssl pretrain config.toml" in page.text
    assert document["headline"] is None and document["comparison"] is None
    assert (
        document["trainings"][0] | {"steps": 2000, "planned": 400_000, "phase": "pretrain"} == document["trainings"][0]
    )
    assert "its last line is incomplete" in page.text and "its last line is incomplete" in text


def test_a_curve_may_state_its_own_level_of_chance(tmp_path, monkeypatch):
    loss, *others = Wav2Vec2.curves
    monkeypatch.setattr(Wav2Vec2, "curves", (replace(loss, level=1.25), *others))
    folder = tmp_path / "pretrain"
    write_toml(PretrainConfig(), folder / "config.toml")
    write_lines(folder / "metrics.jsonl", pretraining_metrics(2000))
    page, _, _ = read(folder)
    assert "chance: 1.25" in page.text and "chance: 4.62" not in page.text


def test_hubert_iterations_share_the_figures(tmp_path):
    folder = tmp_path / "pretrain"
    write_toml(PretrainConfig(objective=HubertConfig(targets=TargetsConfig(clusters=(64, 64)))), folder / "config.toml")
    for iteration in (1, 2):
        lines = [{"step": s, "phase": "train", "loss": 4.2, "masked_loss": 4.0 / iteration, "accuracy": 0.1 * iteration,
                  "prediction_perplexity": 30.0, "lr": 1e-3, "grad_norm": 1.0} for s in range(10, 500, 10)]  # fmt: skip
        write_lines(folder / f"iteration-{iteration}" / "metrics.jsonl", lines)
    page, document, _ = read(folder)
    for part in ("iteration 1", "iteration 2", "chance: 4.16", "Masked prediction loss", "Prediction perplexity",
                 "Learning rate, the same in all", "HuBERT pretraining"):  # fmt: skip
        assert part in page.text
    assert [t["name"] for t in document["trainings"]] == ["iteration-1", "iteration-2"]
    assert document["commands"] == ["speechssl pretrain config.toml", "speechssl report ."]
    write_toml(
        PretrainConfig(objective=HubertConfig(targets=TargetsConfig(clusters=(64, 100)))), folder / "config.toml"
    )
    text = read(folder)[0].text  # two iterations with two levels of chance: no single line is right
    assert "chance: " not in text and "chance, iteration 1: 4.16" in text and "chance, iteration 2: 4.61" in text
    assert "chance, iteration 1: 1.6 % · chance, iteration 2: 1 %" in text  # too close for a label each


def test_only_an_evaluation(tmp_path):
    folder = tmp_path / "evaluate-test"
    write_wer(folder, hypotheses(0.1, utterances=20), {"split": ["dev", "test"], "decoder": "beam 8"})
    page, document, text = read(folder)
    assert "Word error rate on dev, test" in page.text and "Decoder: beam 8." in page.text
    assert document["trainings"] == [] and "Learning" not in page.text
    assert "paired" not in text


def test_a_perfect_system(tmp_path):
    rows = [{"id": str(i), "ref": "a b c", "hyp": "a b c"} for i in range(10)] + [{"id": "e", "ref": "", "hyp": ""}]
    write_wer(tmp_path, rows)
    page, _, _ = read(tmp_path)
    assert "No error was made" in page.text and "below 10 %" in page.text
    assert "Most errors" not in page.text and "empty reference: 1" in page.text


def test_no_reference_word(tmp_path):
    write_wer(tmp_path, [{"id": "e", "ref": "", "hyp": "a"}])
    page, document, text = read(tmp_path)
    assert "there is no word error rate" in page.text and "there is no word error rate" in text
    assert document["evaluations"][0]["wer"] is None


def test_arms_that_cannot_be_told_apart_and_arms_that_are_worse(tmp_path):
    rows = hypotheses(0.2, utterances=30)
    silent = [{"id": row["id"], "ref": row["ref"], "hyp": ""} for row in rows]
    for arm, scored in (("evaluate", rows), ("evaluate-scratch", rows)):
        write_wer(tmp_path / arm, scored, {"split": "test"})
    assert "cannot tell the pretrained model from" in read(tmp_path)[0].text
    write_wer(tmp_path / "evaluate", silent, {"split": "test"})
    page = read(tmp_path)[0]
    assert "% more errors" in page.text and "Probability of improvement < 0.05 %" in page.text
    perfect = [{**row, "hyp": row["ref"]} for row in silent]
    for arm in ("evaluate", "evaluate-scratch"):
        write_wer(tmp_path / arm, perfect, {"split": "test"})
    assert "makes no error, so there is nothing to improve" in read(tmp_path)[0].text


def test_arms_scored_on_other_utterances(tmp_path):
    rows = hypotheses(0.2, utterances=30)
    write_wer(tmp_path / "evaluate", rows)
    write_wer(tmp_path / "evaluate-scratch", rows[1:])
    page, document, _ = read(tmp_path)
    assert document["comparison"] is None and "The two arms could not be compared" in page.text


def test_several_splits(tmp_path):
    for split, rate in (("dev", 0.1), ("test", 0.2)):
        for arm in ("finetune", "finetune-scratch"):
            write_wer(tmp_path / arm / f"evaluate-{split}", hypotheses(rate, utterances=20), {"split": split})
    page, document, _ = read(tmp_path)
    assert document["headline"] == "finetune/evaluate-test" and len(document["evaluations"]) == 4
    assert "Pretrained, dev" in page.text and "From scratch, test" in page.text


def test_rounds_are_named_side_by_side_and_the_last_is_the_headline(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("pretrain", "finetune"):
        shutil.copytree(folder / name, folder / f"{name}-2")
    write_wer(folder / "evaluate-2", hypotheses(0.1), {"split": "test"})
    page, document, _ = read(folder)
    assert document["headline"] == "evaluate-2"
    assert [score["name"] for score in document["evaluations"]] == ["evaluate", "evaluate-2", "evaluate-scratch"]
    names = ["pretrain", "finetune", "finetune-scratch", "pretrain-2", "finetune-2"]
    assert [training["name"] for training in document["trainings"]] == names
    for label in ("Round 1", "Round 2", "From scratch", "round 2, pretrain-2"):
        assert label in page.text
    assert "Pretrained" not in page.text


def test_damage_is_said_and_does_no_harm(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    with (folder / "finetune" / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"phase": "train"}\n{"step": 7, "phase": "tra')
    (folder / "evaluate-scratch" / "hypotheses.jsonl").write_text('{"id": "u"}\n')
    (folder / "evaluate" / "wer.json").write_text("{")
    (folder / "stages" / "shard.json").write_text("")
    (folder / "pretrain" / "config.toml").write_text("= 3")
    with (folder / "shards" / "manifest.jsonl").open("a") as file:
        file.write('{"id": "x"}\n{"duration": NaN}\n[]\n')
    page, document, text = read(folder)
    assert len(document["notes"]) == 7
    for note in ("finetune/metrics.jsonl: its last line", "finetune/metrics.jsonl: 2 damaged lines",
                 "line 1: 'ref' must be",
                 "evaluate/wer.json: not JSON", "stages/shard.json: not JSON", "pretrain/config.toml: not TOML",
                 "shards/manifest.jsonl: 3 damaged lines"):  # fmt: skip
        assert note in page.text and note in text, note
    assert document["headline"] == "evaluate" and "shard" not in document["stage_seconds"]


def test_damaged_counts_of_training_words_are_said_to_be(tmp_path):
    write_wer(tmp_path, [{"id": "a", "ref": "a b", "hyp": "a"}], train_words={"a": 3})
    assert "Rare and unseen words" in read(tmp_path)[0].text
    (tmp_path / "train_words.json").write_text('{"a": -1}')
    page, document, _ = read(tmp_path)
    assert "Rare and unseen words" not in page.text and document["headline"] == ""
    assert "the count of 'a' must be a whole number from 0 up" in page.text


def test_values_that_are_not_finite(tmp_path):
    lines = [{"step": s, "phase": "train", "loss": float("nan") if s % 3 else 2.0, "lr": None,
              "grad_norm": float("inf"),
              "step_seconds": 1.0} for s in range(10)]  # fmt: skip
    write_lines(tmp_path / "metrics.jsonl", [*lines, {"step": 9, "phase": "valid", "wer": None}])
    page, document, _ = read(tmp_path)
    assert document["trainings"][0]["loss"] == 2.0 and document["trainings"][0]["dev_wer"] is None
    assert "Gradient norm" not in page.text


def test_the_last_of_two_logs_of_a_step_counts(tmp_path):
    losses = ((1, 9.0), (2, 9.0), (3, 9.0), (3, 1.0))
    lines = [{"step": step, "phase": "train", "loss": loss} for step, loss in losses]
    write_lines(tmp_path / "metrics.jsonl", lines)
    assert read(tmp_path)[1]["trainings"][0]["loss"] == 1.0


def test_data_is_found_through_the_configuration(tmp_path):
    cfg = FinetuneConfig()
    cfg = type(cfg)(**{**vars(cfg), "data": type(cfg.data)(shards=str(tmp_path / "shards"))})
    write_toml(cfg, tmp_path / "run" / "config.toml")
    write_lines(tmp_path / "run" / "metrics.jsonl", finetuning_metrics(0.1, steps=400))
    write_lines(tmp_path / "shards" / "manifest.jsonl", [{"id": "a", "duration": 3600.0, "text": "a"}])
    page, document, _ = read(tmp_path / "run")
    assert document["data"]["total"]["hours"] == 1.0 and "(no split)" in page.text
    assert "speechssl finetune config.toml" in page.text


def test_a_sweep_is_shown(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    rows = [
        {"arm": "finetune", "lr": 1e-4, "dev_wer": 0.25, "kept": True},
        {"arm": "finetune", "lr": "x", "dev_wer": None},
    ]
    (folder / "sweep").mkdir()
    (folder / "sweep" / "sweep.json").write_text(json.dumps(rows))
    page, document, _ = read(folder)
    assert "Learning rates tried" in page.text and "finetune0.000125.00kept" in page.text and "finetune––" in page.text
    assert document["sweep"] == rows


def test_saved_versions_come_first(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "phase": "train", "loss": 1.0}])
    (tmp_path / "environment.json").write_text('{"torch": "9.9", "speechssl": "0.0.7"}')
    page, document, _ = read(tmp_path)
    assert document["environment"] == {"torch": "9.9", "speechssl": "0.0.7"} and "speechssl 0.0.7" in page.text


def test_folders_without_a_run(tmp_path):
    with pytest.raises(DataError, match="is not a folder; give a run folder"):
        build_report(tmp_path / "nothing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"nothing to report. A run folder holds metrics.jsonl"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
