"""Self-training: what is transcribed and kept, against the truth; resuming; the best model; a stage of ``run``."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.labelled import open_labelled
from speechssl.asr.pseudo_labels import read_pseudo_labels, read_rows
from speechssl.cli.main import main
from speechssl.config import DataConfig, FinetuneConfig, LabellingConfig, SelftrainConfig
from speechssl.config.load import read_toml, write_toml
from speechssl.core.errors import ConfigError, DataError, RunError
from speechssl.core.ledger import Ledger, read_ledger
from speechssl.data.ingest.utterance import Utterance
from speechssl.evaluation.wer.edit_distance import score_utterance
from speechssl.workflows import selftrain as module
from speechssl.workflows.pipeline import run
from speechssl.workflows.selftrain import selftrain
from speechssl.workflows.untranscribed import candidates
from tests.data.audit.test_duplicates import babble
from tests.support.tones import make_sentence, recipe, trained, write_shards
from tests.support.whole import settings, write_folder

TRUE, NEW = range(12), range(12, 24)
"""Utterances of ``train`` with a transcript, and those that are to be transcribed."""


def listed(path: Path, numbers) -> tuple[str]:
    path.write_text("".join(f"train-{i:03d}\n" for i in numbers), encoding="utf-8")
    return (str(path),)


def request(place: Path, **changes) -> SelftrainConfig:
    """Return self-training by a teacher that knows the language, whose students learn for four updates only."""
    shards, teacher = trained()
    base = recipe(shards, Path("none"), steps=4)
    loop = replace(base.training, validate_every=2, save_every=2)
    lists = (listed(place / "true.txt", TRUE), listed(place / "new.txt", NEW))
    cfg = SelftrainConfig(
        output=str(place / "out"),
        model=str(teacher / "model"),
        labelling=LabellingConfig(rounds=2, max_error=0.05),
        unlabelled=DataConfig(ids=lists[1], min_seconds=0.1, max_seconds=5.0, batch_seconds=20.0, workers=0),
        finetune=replace(base, output="", data=replace(base.data, ids=lists[0]), training=loop),
    )
    return replace(cfg, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished self-training, and the folder around it."""
    place = tmp_path_factory.mktemp("selftrain")
    selftrain(request(place))
    return place


def test_what_is_kept_is_what_is_confident_and_it_is_right(finished):
    """Truth: the manifest has transcripts of all utterances, which the teacher did not see."""
    rounds = finished / "out" / "rounds"
    truth = {f"train-{i:03d}": make_sentence(f"train-{i:03d}") for i in NEW}
    heard = {one.id: one for one in read_rows(rounds / "label-1" / "transcripts.jsonl")}
    assert heard.keys() == truth.keys()
    chosen = json.loads((rounds / "select-1" / "selection.json").read_text(encoding="utf-8"))
    kept = read_pseudo_labels(rounds / "select-1" / "pseudo.jsonl")
    sure = {one.id: one.text for one in heard.values() if one.text and one.confidence >= chosen["lowest_confidence"]}
    assert kept == sure
    assert chosen["dev_error_of_kept"] <= 0.05
    assert chosen["kept"] == len(kept) > 0
    errors = {name: score_utterance(truth[name], one.text).errors for name, one in heard.items()}
    words = sum(len(truth[name].split()) for name in kept)
    assert sum(errors[name] for name in kept) <= 0.2 * words
    ledger = read_ledger(rounds / "select-1" / "ledger.jsonl")
    assert {entry.item for entry in ledger if entry.action == "kept"} == kept.keys()
    assert {entry.item for entry in ledger} == truth.keys()


def test_the_student_learns_from_both_and_keeps_the_words_of_the_true_transcripts(finished):
    out = finished / "out"
    info = json.loads((out / "rounds" / "student-1" / "model" / "config.json").read_text(encoding="utf-8"))["info"]
    kept = read_pseudo_labels(out / "rounds" / "select-1" / "pseudo.jsonl")
    assert (info["train_utterances"], info["pseudo_labelled"]) == (len(TRUE) + len(kept), len(kept))
    assert set(info["words"]) == {word for i in TRUE for word in make_sentence(f"train-{i:03d}").split()}


def test_a_student_that_is_worse_ends_it_and_the_teacher_is_kept(finished):
    out = finished / "out"
    summary = json.loads((out / "selftrain.json").read_text(encoding="utf-8"))
    assert [row["round"] for row in summary["rounds"]] == [0, 1]  # four updates from random weights: worse
    assert summary["rounds"][1]["dev_error"] > summary["rounds"][0]["dev_error"]
    assert summary["best_round"] == 0
    assert not (out / "rounds" / "label-2").exists()
    teacher = trained()[1] / "model" / "model.safetensors"
    assert (out / "model" / "model.safetensors").read_bytes() == teacher.read_bytes()
    load_recogniser(out / "model")


def test_it_goes_on_while_dev_improves_and_keeps_the_best(finished, tmp_path, monkeypatch):
    rates = {0: 0.5, 1: 0.4, 2: 0.4, 3: 0.1}
    monkeypatch.setattr(module._Round, "dev_error", lambda now: rates[now.number])
    cfg = request(tmp_path)
    out = Path(cfg.output)
    selftrain(replace(cfg, labelling=replace(cfg.labelling, rounds=3, share=0.5)))
    summary = json.loads((out / "selftrain.json").read_text(encoding="utf-8"))
    assert (summary["best_round"], len(summary["rounds"])) == (1, 3)  # round 2 is no better, so there is no round 3
    best, second = (out / place / "model.safetensors" for place in ("model", "rounds/student-1/model"))
    assert best.read_bytes() == second.read_bytes()


def test_where_no_confidence_is_high_enough_nothing_is_kept_and_it_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "judged", lambda rows: [])
    selftrain(request(tmp_path))
    assert "nothing is kept; raise labelling.max_error" in capsys.readouterr().out
    assert (tmp_path / "out" / "model" / "config.json").exists()


def test_stopped_in_every_stage_it_goes_on_to_the_same_result(finished, tmp_path, monkeypatch):
    """Each stage raises once, after its work and without its output: the most that a kill can leave."""
    cfg = request(tmp_path, labelling=LabellingConfig(rounds=1, max_error=0.05))
    right, stopped = module.Stage, []

    def wrapped(name, key, output, make, **how):
        def stop():
            make()
            if name not in stopped:
                stopped.append(name)
                output.unlink()
                raise KeyboardInterrupt

        return right(name, key, output, stop, **how)

    monkeypatch.setattr(module, "Stage", wrapped)
    names = ["candidates", "dev-0", "label-1", "select-1", "student-1", "dev-1", "best"]
    for _ in names:
        with pytest.raises(KeyboardInterrupt):
            selftrain(cfg)
    selftrain(cfg)
    assert stopped == names
    same_results(finished / "out", tmp_path / "out")


def same_results(one: Path, other: Path) -> None:
    places = ("rounds/candidates/ledger.jsonl", "rounds/select-1/ledger.jsonl", "rounds/select-1/pseudo.jsonl")
    for name in (*places, "rounds/student-1/model/model.safetensors", "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_before_the_student_is_trained_it_goes_on_to_the_same_bits(finished, tmp_path):
    cfg = request(tmp_path)
    write_toml(cfg, tmp_path / "selftrain.toml")
    command = [sys.executable, "-m", "speechssl", "selftrain", str(tmp_path / "selftrain.toml")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while "[5/6] student-1" not in (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert not (tmp_path / "out" / "stages" / "student-1.json").exists()
    selftrain(cfg)
    same_results(finished / "out", tmp_path / "out")


def test_dev_test_and_their_copies_are_never_transcribed(tmp_path):
    waves = {"dev": babble(2, 1), "test": babble(2, 2), "train": babble(2, 3)}

    def spoken(name, split, wave, text=None):
        made = Utterance(
            id=name, path="", duration=len(wave) / 16_000, sample_rate=16_000, channels=1, text=text, split=split
        )
        return made, wave

    extra = [spoken(f"{split}-x", split, wave) for split, wave in waves.items()]
    extra += [spoken("copy-dev", "train", waves["dev"]), spoken("louder-test", "train", 2 * waves["test"])]
    extra += [spoken("short", "train", babble(0.3, 4)), spoken("said", "train", babble(2, 5), text="abc")]
    shards = str(write_shards(tmp_path, {"dev": 1}, extra))
    cfg = SelftrainConfig(
        unlabelled=DataConfig(shards=shards, splits=(), min_seconds=0.5),
        test=DataConfig(shards=shards, splits=("test",)),
        finetune=FinetuneConfig(data=DataConfig(shards=shards), dev=DataConfig(shards=shards, splits=("dev",))),
    )
    ledger = Ledger()
    assert candidates(cfg, ledger) == ["train-x"]
    assert {entry.item: entry.reason for entry in ledger.entries} == {
        "dev-x": "held_out",
        "dev-000": "held_out",
        "test-x": "held_out",
        "copy-dev": "copy_of_held_out",
        "louder-test": "copy_of_held_out",
        "short": "too_short",
        "said": "true_transcript",
    }


def test_pseudo_labels_that_cannot_be_used_are_refused(tmp_path):
    shards, _ = trained()
    cfg = recipe(shards, tmp_path / "run", steps=2)
    data = replace(cfg.data, ids=listed(tmp_path / "true.txt", TRUE))
    pseudo = tmp_path / "pseudo.jsonl"

    def opened(name):
        pseudo.write_text(json.dumps({"id": name, "text": "cab"}) + "\n", encoding="utf-8")
        return open_labelled(data, stage="finetune", pseudo=str(pseudo))

    labelled = opened("train-100")
    assert len(labelled.utterances) == len(TRUE) + 1
    assert labelled.corpus().utterances()["train-100"].text == labelled.texts["train-100"] == "cab"
    with pytest.raises(DataError, match="'train-003' has a transcript"):
        opened("train-003")
    with pytest.raises(DataError, match="'elsewhere' is not in"):
        opened("elsewhere")
    opened("dev-003")
    with pytest.raises((DataError, RunError), match="'dev-003', are in dev"):
        module.finetune(replace(cfg, data=data, pseudo=replace(cfg.pseudo, labels=str(pseudo))))


def test_settings_that_cannot_be_used_are_refused(tmp_path, capsys):
    cfg = request(tmp_path)
    with pytest.raises(ConfigError, match="no shards"):
        selftrain(replace(cfg, finetune=replace(cfg.finetune, data=DataConfig())))
    with pytest.raises(ConfigError, match=r"test.shards must be those of finetune.data"):
        selftrain(replace(cfg, test=DataConfig(shards="elsewhere")))
    with pytest.raises(ConfigError, match="at least one round"):
        selftrain(replace(cfg, labelling=LabellingConfig(rounds=0)))
    with pytest.raises(ConfigError, match=r"give labelling.decoder.lm"):
        lm = replace(cfg.labelling, decoder=replace(cfg.labelling.decoder, kind="lm"))
        selftrain(replace(cfg, model="", labelling=lm))
    with pytest.raises(ConfigError, match="max_error and share"):
        LabellingConfig(share=1.5)
    with pytest.raises(DataError, match=r"no utterance .* is left to transcribe"):
        selftrain(replace(cfg, unlabelled=replace(cfg.unlabelled, ids=cfg.finetune.data.ids)))
    assert main(["selftrain", "selftrain-tiny"]) == 1
    assert "give finetune.data.shards" in capsys.readouterr().err


def test_a_stage_of_run(tmp_path, capsys):
    """``write_folder`` leaves every fourth training utterance without a transcript."""
    folder = write_folder(tmp_path / "tones", {"train": 16, "dev": 4, "test": 4})
    cfg = settings(tmp_path / "run")
    cfg = replace(cfg, selftrain=LabellingConfig(rounds=1, share=1.0), learning_rates=(3e-3, 1e-2))
    cfg = replace(cfg, finetune=replace(cfg.finetune, training=replace(cfg.finetune.training, steps=2)))
    run(folder, cfg)
    output = tmp_path / "run"
    ids = (output / "selftrain" / "rounds" / "candidates" / "ids.txt").read_text(encoding="utf-8").split()
    assert sorted(ids) == ["train-000", "train-004", "train-008", "train-012"]
    stored = read_toml(SelftrainConfig, output / "selftrain" / "config.toml")
    chosen = read_toml(FinetuneConfig, output / "finetune" / "config.toml").optim.lr
    assert stored.finetune.optim.lr == chosen
    facts = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert facts["headline"] == "evaluate"
    assert "evaluate-selftrain" in [score["name"] for score in facts["evaluations"]]
    capsys.readouterr()
    run(folder, cfg)
    assert "selftrain: done before" in capsys.readouterr().out
