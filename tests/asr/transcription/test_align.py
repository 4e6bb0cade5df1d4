"""Alignment of manifests and of single recordings: times are right, what cannot be aligned says why."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.transcription import forced_alignment
from speechssl.asr.transcription.align import Passage, align_all, align_passage, passages
from speechssl.asr.transcription.inputs import Input
from speechssl.cli.main import main
from speechssl.config import AlignConfig, ShardConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.manifest import read_manifest, write_manifest
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.writer import shard_manifest
from tests.oracles.wordfiles import read_ctm, read_textgrid
from tests.support.tones import speak, trained

SENTENCES = ("abc de", "e da bc", "cab", "bad ace dab")


@pytest.fixture(scope="module")
def model() -> str:
    return str(trained()[1] / "model")


def times(text: str, start: float = 0.1) -> list[tuple[str, float, float]]:
    """Return the words of ``speak(text)`` with their times."""
    found = []
    for word in text.split():
        end = start + 0.11 * len(word) - 0.03
        found.append((word, start, end))
        start = end + 0.18
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose utterances are parts of one file, and three that cannot be aligned."""
    folder = tmp_path_factory.mktemp("corpus")
    waves = [speak(text, text) for text in SENTENCES]
    soundfile.write(folder / "all.wav", np.concatenate(waves), 16_000)
    rows, now = [], 0.0
    for text, wave in zip(SENTENCES, waves, strict=True):
        seconds = len(wave) / 16_000
        rows.append(utterance(text.replace(" ", "-"), "all.wav", seconds, text, now))
        now += seconds
    rows.append(utterance("too-much", "all.wav", 0.3, "abcde " * 20, 0.0))
    rows.append(utterance("unknown", "all.wav", 0.5, None, 0.0))
    rows.append(utterance("unspellable", "all.wav", 0.5, "!? 42", 0.0))
    rows.append(utterance("gone", "gone.wav", 0.5, "abc", 0.0))
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def utterance(name: str, path: str, seconds: float, text: str | None, start: float) -> Utterance:
    split = "dev" if name == "cab" else "train"
    return Utterance(
        id=name, path=path, duration=seconds, sample_rate=16_000, channels=1, text=text, start=start, split=split
    )


def test_a_manifest(model: str, corpus: Path, tmp_path: Path) -> None:
    cfg = AlignConfig(model=model, output=str(tmp_path / "out"), format="textgrid,ctm", device="cpu")
    seen: list[tuple[int, int]] = []
    warned: list[str] = []
    found = passages([str(corpus)])
    summary = align_all(found, cfg, warn=warned.append, advance=lambda *at: seen.append(at))
    assert (summary.done, summary.failed, len(warned)) == (4, 4, 4)
    assert "4 recordings aligned" in str(summary)
    assert [entry.reason for entry in read_ledger(tmp_path / "out" / "ledger.jsonl")] == [
        "ctc_infeasible", "no_transcript", "empty_transcript", "missing_file",
    ]  # fmt: skip
    assert len(seen) == 8
    for text in SENTENCES:
        name = text.replace(" ", "-")
        ((_, _, end, intervals),) = read_textgrid((tmp_path / "out" / f"{name}.TextGrid").read_text())
        assert end == pytest.approx(len(speak(text, text)) / 16_000, abs=0.002)
        spoken = [interval for interval in intervals if interval[2]]
        expected = times(text)
        assert [word for _, _, word in spoken] == [word for word, _, _ in expected]
        for (start, stop, _), (_, left, right) in zip(spoken, expected, strict=True):
            assert start == pytest.approx(left, abs=0.12)
            assert stop == pytest.approx(right, abs=0.12)
        assert {row[0] for row in read_ctm((tmp_path / "out" / f"{name}.ctm").read_text())} == {name}
    again = align_all(found, cfg, warn=warned.append)
    assert (again.done, again.known, again.failed) == (0, 4, 4)
    other = [replace(p, text="dab") if p.text == "cab" else p for p in found]
    assert (align_all(other, cfg, warn=warned.append).done) == 1


def test_a_long_recording_and_its_text(model: str, corpus: Path, tmp_path: Path) -> None:
    """Blocks far shorter than the recording, one transcript for all of it."""
    (tmp_path / "all.txt").write_text("\ufeff" + "\n".join(SENTENCES) + "\n", encoding="utf-8")
    recogniser, tokens = load_recogniser(Path(model))
    (passage,) = passages([str(corpus / "all.wav"), str(tmp_path / "all.txt")])
    found = align_passage(recogniser, tokens, passage, block=50)
    expected, now = [], 0.0
    for text in SENTENCES:
        expected += times(text, now + 0.1)
        now += len(speak(text, text)) / 16_000
    assert found.error is None
    assert [word.word for word in found.words] == [word for word, _, _ in expected]
    near = [abs(word.start - start) < 0.12 for word, (_, start, _) in zip(found.words, expected, strict=True)]
    assert np.mean(near) > 0.8
    words = [str(corpus / "all.wav"), *" ".join(SENTENCES).split()]
    assert align_passage(recogniser, tokens, passages(words)[0], block=50) == found


def test_more_than_torchaudio_can_align(model: str, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser, tokens = load_recogniser(Path(model))
    passage = Passage(Input(corpus / "all.wav", "all"), " ".join(SENTENCES))
    theirs = align_passage(recogniser, tokens, passage, block=50)
    monkeypatch.setattr(forced_alignment, "MAX_CELLS", 1000)
    ours = align_passage(recogniser, tokens, passage, block=50)
    assert [(word.word, word.start, word.end) for word in ours.words] == [
        (word.word, word.start, word.end) for word in theirs.words
    ]
    assert [word.score for word in ours.words] == pytest.approx([word.score for word in theirs.words])


def test_a_manifest_of_segments(model: str, tmp_path: Path) -> None:
    """Two recordings of several sentences, one of another text, one that is short, and one without a text."""
    texts = ["\n ".join(SENTENCES), " ".join(reversed(SENTENCES)), "cab", None, "dcdcdc ebebeb " * 8]
    names = ["one", "two", "short", "unlabelled", "other"]
    rows = []
    for name, text in zip(names, texts, strict=True):
        parts = {"two": SENTENCES[::-1], "short": ["cab"], "unlabelled": ["e"]}.get(name, SENTENCES)
        wave = np.concatenate([speak(part, f"{name} {part}") for part in parts])
        wave = np.concatenate([np.zeros(8_000, np.float32), wave])
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000)
        row = utterance(name, f"{name}.wav", len(wave) / 16_000 - 0.25, text, 0.25)
        rows.append(replace(row, speaker=f"of {name}", meta={"k": 1}))
    write_manifest(tmp_path / "manifest.jsonl", rows)
    cfg = AlignConfig(model=model, output=str(tmp_path / "out"), format="manifest", max_seconds=3.0, device="cpu")
    warned: list[str] = []
    summary = align_all(passages([str(tmp_path)]), cfg, warn=warned.append, note=warned.append)
    assert (summary.done, summary.failed) == (2, 1)
    found = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert f"cut into {len(found) - 2} utterances" in str(summary)
    assert [replace(row, path="", meta={}) for row in found[:2]] == [replace(r, path="", meta={}) for r in rows[2:4]]
    for row, text in zip(rows[:2], texts[:2], strict=True):
        mine = [each for each in found if each.id.startswith(f"{row.id}-")]
        assert " ".join(each.text or "" for each in mine) == " ".join(text.split()) and len(mine) > 1
        for each in mine:
            assert each.path == str(tmp_path / row.path) and each.duration <= 3.0 and each.meta["score"] >= 0.2
            assert (each.speaker, each.split, each.meta["k"]) == (row.speaker, row.split, 1)
            alone = align_passage(
                *load_recogniser(Path(model)),
                Passage(Input(Path(each.path), ""), each.text, each.start, each.duration),
                block=50,
            )
            assert alone.error is None and min(word.score for word in alone.words) > 0.2
    reasons = [entry.reason for entry in read_ledger(tmp_path / "out" / "ledger.jsonl")]
    assert reasons.count("text_mismatch") == 1
    shard_manifest(tmp_path / "out" / "manifest.jsonl", tmp_path / "shards", ShardConfig(workers=1))
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    align_all(passages([str(tmp_path)]), cfg, warn=warned.append)
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before
    again = align_all(passages([str(tmp_path)]), replace(cfg, max_seconds=2.0), warn=warned.append, note=warned.append)
    assert (again.done, again.known, again.failed) == (0, 2, 1)
    shorter = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert len(shorter) > len(found) and max(row.duration for row in shorter) <= 2.0


def test_settings_of_segments(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="stands alone"):
        AlignConfig(format="ctm,manifest")
    with pytest.raises(ConfigError, match="min_score"):
        AlignConfig(min_score=2.0)
    with pytest.raises(ConfigError, match="needs --output"):
        align_all(passages(["a.wav", "abc"]), AlignConfig(format="manifest"))
    before = (corpus / "manifest.jsonl").read_bytes()
    assert main(["align", str(corpus), "--output", str(corpus), "--format", "manifest"]) == 1
    assert "give another folder" in capsys.readouterr().err
    assert (corpus / "manifest.jsonl").read_bytes() == before


def test_standard_output_and_splits(model: str, corpus: Path) -> None:
    said: list[str] = []
    cfg = AlignConfig(model=model, format="ctm", splits=("dev",), device="cpu")
    assert align_all(passages([str(corpus / "manifest.jsonl")], cfg.splits), cfg, say=said.append).done == 1
    ((name, _, _, _, word, _),) = read_ctm("\n".join(said))
    assert (name, word) == ("cab", "cab")
    said.clear()
    align_all(passages([str(corpus)], ("dev",)), replace(cfg, format="text"), say=said.append)
    assert said == [f"{corpus / 'all.wav'}\tcab"]


def test_clear_errors(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="usage: speechssl align"):
        passages([])
    with pytest.raises(ConfigError, match="no text to align"):
        passages([str(corpus / "all.wav")])
    with pytest.raises(DataError, match="no utterance of split test"):
        passages([str(corpus)], ("test",))
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        passages(["a.wav", str(tmp_path / "latin.txt")])
    with pytest.raises(ConfigError, match="--model"):
        align_all(passages(["a.wav", "abc"]), AlignConfig())
    with pytest.raises(ConfigError, match="give --output"):
        align_all(passages([str(corpus)]), AlignConfig())


def test_words_that_cannot_be_spelled_are_in_every_file_and_in_the_ledger(
    model: str, corpus: Path, tmp_path: Path
) -> None:
    text = tmp_path / "said.txt"
    text.write_text("abc 42 de e da 市場 bc cab bad acé [noise] dab", encoding="utf-8")
    found = passages([str(corpus / "all.wav"), str(text)])
    cfg = AlignConfig(model=model, output=str(tmp_path), format="text,ctm,json", device="cpu")
    warned: list[str] = []
    assert align_all(found, cfg, note=warned.append).done == 1
    words = ["abc", "42", "de", "e", "da", "市場", "bc", "cab", "bad", "acé", "dab"]
    assert (tmp_path / "all.txt").read_text(encoding="utf-8").split() == words
    assert [row[4] for row in read_ctm((tmp_path / "all.ctm").read_text(encoding="utf-8"))] == words
    rows = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["words"]
    assert [row["word"] for row in rows if row.get("spelled") is False] == ["42", "市場"]
    assert all(left["end"] <= right["start"] + 1e-6 for left, right in itertools.pairwise(rows))
    entries = read_ledger(tmp_path / "ledger.jsonl")
    assert [entry.reason for entry in entries] == ["unspelled_words", "unspelled_characters", "corpus_tag"]
    assert "2 of its words cannot be spelled" in entries[0].detail and "'42', '市場'" in warned[0]
    again = align_all(found, cfg, note=warned.append)
    assert (again.known, len(read_ledger(tmp_path / "ledger.jsonl"))) == (1, 3)
