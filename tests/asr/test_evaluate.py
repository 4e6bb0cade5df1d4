"""Scoring a split: the files say what was decoded, what was not, and why; nothing depends on batches."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechssl.asr.ctc import CtcModel, load_recogniser
from speechssl.asr.decoding.decode import greedy, prefix_beam
from speechssl.asr.evaluate import evaluate, fields_of
from speechssl.asr.recognise import frame_log_probs
from speechssl.asr.tokens import Tokens
from speechssl.config import DataConfig, DecoderConfig, EvaluateConfig, TokensConfig
from speechssl.core.errors import CheckpointError, ConfigError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.index import IndexRow
from speechssl.data.store.reader import open_corpus
from speechssl.evaluation.wer.edit_distance import score_utterance
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.rarity import read_train_words
from speechssl.evaluation.wer.wer import raw_text
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from tests.oracles.wer import distance
from tests.support.tones import MODEL, speak, write_shards

ODD = {
    "odd-silence": ("", "", 0.0),
    "odd-unlabelled": ("ab", None, 0.0),
    "odd-long": ("abcde " * 12, "a", 0.0),
    "odd-case": ("ab", "A, b! Z’s", 0.0),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for name, (spoken, text, _) in ODD.items():
        wave = speak(spoken, name)
        rows.append((Utterance(name, "", len(wave) / 16_000, 16_000, 1, text=text, split="test"), wave))
    return write_shards(tmp_path_factory.mktemp("score"), {"test": 14, "dev": 2}, rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that babbles: every kind of error, without training."""
    torch.manual_seed(3)
    tokens, _ = Tokens.build(["abcde"], TokensConfig())
    made = CtcModel(SpeechEncoder(MODEL), tokens.size)
    torch.nn.init.normal_(made.head.weight, std=1.0)
    folder = tmp_path_factory.mktemp("babble") / "model"
    head = {f"head.{name}": value for name, value in made.head.state_dict().items()}
    save_model(folder, encoder=made.encoder, extra=head, tokens=tokens)
    return folder


def settings(model: Path, shards: Path, output: Path, **changes: object) -> EvaluateConfig:
    data = DataConfig(shards=str(shards), splits=("test",), min_seconds=0.0, max_seconds=5.0, batch_seconds=6.0)
    cfg = EvaluateConfig(model=str(model), output=str(output), data=data, bootstrap=100, precision="fp32", device="cpu")
    return replace(cfg, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_hypotheses_are_those_of_the_model_utterance_by_utterance(
    model: Path, shards: Path, tmp_path: Path, kind: str
) -> None:
    report = evaluate(settings(model, shards, tmp_path, decoder=DecoderConfig(kind=kind, beam=4)))
    rows = read_hypotheses(tmp_path)
    recogniser, tokens = load_recogniser(model)
    corpus = open_corpus(shards, splits=["test"])
    known = corpus.utterances()
    assert [row["id"] for row in rows] == sorted(set(corpus.ids) - {"odd-long", "odd-unlabelled"})
    total = [0, 0]
    for row in rows:
        wave = torch.from_numpy(corpus.read(corpus.ids.index(row["id"])))[None]
        (log_probs,) = frame_log_probs(recogniser, wave, torch.tensor([wave.shape[1]]))
        expected = greedy(log_probs, tokens) if kind == "greedy" else prefix_beam(log_probs, tokens, 4)[0].text
        assert row["hyp"] == expected
        assert row["duration"] == pytest.approx(wave.shape[1] / 16_000, abs=1e-3)
        assert row["speaker"] == known[row["id"]].speaker
        errors = distance(tuple(row["ref"].split()), tuple(row["hyp"].split()))
        assert row["S"] + row["D"] + row["I"] == errors
        total = [total[0] + errors, total[1] + len(row["ref"].split())]
    assert report.wer == pytest.approx(total[0] / total[1])
    assert total[1] == report.N
    assert any(row["hyp"] for row in rows)


def test_references_are_in_the_models_normalisation_and_empty_ones_count_insertions(
    model: Path, shards: Path, tmp_path: Path
) -> None:
    report = evaluate(settings(model, shards, tmp_path))
    rows = {row["id"]: row for row in read_hypotheses(tmp_path)}
    assert rows["odd-case"]["ref"] == "a b z's"
    silence = rows["odd-silence"]
    assert (silence["ref"], silence["N"], silence["wer"]) == ("", 0, None)
    assert silence["I"] == len(silence["hyp"].split())
    assert report.empty_references == 1


def test_words_are_told_by_their_frequency_in_training(model: Path, shards: Path, tmp_path: Path) -> None:
    assert evaluate(settings(model, shards, tmp_path / "old")).by_frequency == ()
    shutil.copytree(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    config["info"] = {"word_counts": {"a": 3}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    report = evaluate(settings(tmp_path / "model", shards, tmp_path / "new"))
    words = [word for row in read_hypotheses(tmp_path / "new") for word in row["ref"].split()]
    counted = {band.name: band.words for band in report.by_frequency}
    assert counted == {"unseen": len(words) - words.count("a"), "2–5": words.count("a")}
    assert read_train_words(tmp_path / "new") == {word: 3 * (word == "a") for word in words}


def damage(shards: Path, row: IndexRow) -> None:
    """Flip one byte in the middle of an utterance's audio."""
    (tar,) = shards.glob("*.tar")
    content = bytearray(tar.read_bytes())
    content[row.offset + row.size // 2] ^= 0xFF
    tar.write_bytes(content)


def test_what_was_not_scored_is_listed_and_counted(model: Path, shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "shards"
    damaged.mkdir()
    for path in shards.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    corpus = open_corpus(damaged, splits=["test"])
    rows = {row.id: row for row in map(corpus.row, range(len(corpus)))}
    damage(damaged, rows["test-005"])
    cfg = settings(model, damaged, tmp_path / "out")
    cfg = replace(cfg, data=replace(cfg.data, max_bad_fraction=0.2))
    evaluate(cfg)
    entries = {(entry.stage, entry.item, entry.reason) for entry in read_ledger(tmp_path / "out" / "ledger.jsonl")}
    assert entries == {
        ("evaluate", "odd-unlabelled", "no_transcript"),
        ("evaluate", "odd-long", "too_long"),
        ("evaluate", "test-005", "damaged_payload"),
        ("evaluate", "'", "unseen_character"),
        ("evaluate", "s", "unseen_character"),
        ("evaluate", "z", "unseen_character"),
    }
    assert "test-005" not in {row["id"] for row in read_hypotheses(tmp_path / "out")}
    info = json.loads((tmp_path / "out" / "wer.json").read_text())["info"]
    assert sorted(info["not_scored"].split(", ")) == ["1 damaged_payload", "1 no_transcript", "1 too_long"]
    assert "1 damaged_payload" in (tmp_path / "out" / "wer.txt").read_text()
    for name, row in rows.items():
        if name != "test-005":
            damage(damaged, row)
    cfg = replace(cfg, output=str(tmp_path / "strict"))
    with pytest.raises(DataError, match="16 of 16 utterances could not be read"):
        evaluate(cfg)
    lost = read_ledger(tmp_path / "strict" / "ledger.jsonl")
    assert sum(entry.reason == "damaged_payload" for entry in lost) == 16
    assert not (tmp_path / "strict" / "wer.json").exists()


def test_rows_say_when_how_sure_and_of_what(model: Path, shards: Path, tmp_path: Path) -> None:
    cfg = settings(model, shards, tmp_path, decoder=DecoderConfig(kind="beam", beam=6, n_best=3))
    evaluate(cfg)
    rows = {row["id"]: row for row in read_hypotheses(tmp_path)}
    assert rows["odd-case"]["ref_raw"] == "A, b! Z’s"
    for row in rows.values():
        words = row["hyp"].split()
        assert row["hyp_raw"] == row["n_best"][0]["hyp"] == row["hyp"]
        assert 1 <= len(row["n_best"]) <= 3
        assert len(row["confidences"]) == len(row["times"]) == len(words)
        assert all(0 <= value <= 1 for value in row["confidences"])
        edges = [edge for pair in row["times"] for edge in pair]
        assert edges == sorted(edges)
        assert not edges or edges[-1] <= row["duration"]
        assert row["fields"]["split"] == "test"
        assert row["fields"]["snr_db"] is None or row["fields"]["snr_db"] > 0
    assert any(row["fields"]["snr_db"] for row in rows.values())
    text = (tmp_path / "config.toml").read_text()
    assert '[decoder]\nkind = "beam"' in text


def test_the_rate_of_the_raw_texts_stands_beside(model: Path, shards: Path, tmp_path: Path) -> None:
    evaluate(settings(model, shards, tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()]
    raw = [score_utterance(row["ref_raw"], row["hyp_raw"]) for row in rows]
    errors, words = sum(item.errors for item in raw), sum(item.N for item in raw)
    said = json.loads((tmp_path / "wer.json").read_text(encoding="utf-8"))["info"]["raw text"]
    assert said.startswith(f"WER {100 * errors / words:.2f} % as it was (NFC only)")
    assert said.endswith(f"N {words}")
    assert raw_text([{"id": "a", "ref": "x", "hyp": "x"}]) is None


def test_fields_are_single_values() -> None:
    meta = {"source": "LibriVox", "take": 2, "clean": True, "level": float("nan"), "intent": {"a": 1}, "tags": ["x"]}
    utterance = Utterance("u", "u.wav", 1.0, 16_000, 1, text="a", language="fr", meta=meta)
    assert fields_of(utterance) == {"language": "fr", "source": "LibriVox", "take": 2, "clean": "true"}


def test_batches_do_not_change_a_hypothesis(model: Path, shards: Path, tmp_path: Path) -> None:
    files = []
    for number, seconds in enumerate((1.0, 6.0, 100.0)):
        cfg = settings(model, shards, tmp_path / str(number))
        evaluate(replace(cfg, data=replace(cfg.data, batch_seconds=seconds)))
        files.append((tmp_path / str(number) / "hypotheses.jsonl").read_bytes())
    assert files[0] == files[1] == files[2]


def test_output_lies_beside_the_model_by_default(model: Path, shards: Path) -> None:
    cfg = settings(model, shards, Path())
    evaluate(replace(cfg, output="", data=replace(cfg.data, splits=("dev", "test"))))
    folder = model.parent / "evaluate-dev-test"
    written = {"config.toml", "hypotheses.jsonl", "ledger.jsonl", "wer.json", "wer.txt"}
    assert {path.name for path in folder.iterdir()} == written


def test_clear_errors(model: Path, shards: Path, tmp_path: Path) -> None:
    cfg = settings(model, shards, tmp_path)
    with pytest.raises(ConfigError, match="--model"):
        evaluate(replace(cfg, model=""))
    with pytest.raises(CheckpointError, match="not a model folder"):
        evaluate(replace(cfg, model=str(tmp_path)))
    with pytest.raises(DataError, match=r"no transcribed utterance of nowhere"):
        evaluate(replace(cfg, data=replace(cfg.data, splits=("nowhere",))))
    ids = tmp_path / "ids.txt"
    ids.write_text("odd-unlabelled\n")
    with pytest.raises(DataError, match=r"1 without a transcript"):
        evaluate(replace(cfg, data=replace(cfg.data, ids=(str(ids),))))
    ids.write_text("test-005x\ntest-006x\n")
    with pytest.raises(DataError, match=r"none of the 2 ids of .*ids.txt \(such as 'test-005x'\) is in .*ids are like"):
        evaluate(replace(cfg, data=replace(cfg.data, ids=(str(ids),))))


def test_listed_ids_that_are_not_in_the_shards_are_counted_beside_the_rate(
    model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("test-001\ntest-002\ntest-001x\ntest-002x\n")
    cfg = settings(model, shards, tmp_path / "out")
    report = evaluate(replace(cfg, data=replace(cfg.data, ids=(str(ids),))))
    assert report.utterances == 2
    assert "2 listed ids are not in the corpus: test-001x, test-002x" in capsys.readouterr().err
    info = json.loads((tmp_path / "out" / "wer.json").read_text())["info"]
    assert info["not_scored"] == "2 id_not_in_corpus"
    listed = [entry for entry in read_ledger(tmp_path / "out" / "ledger.jsonl") if entry.reason == "id_not_in_corpus"]
    assert [entry.item for entry in listed] == ["test-001x", "test-002x"] and str(ids) in listed[0].detail
