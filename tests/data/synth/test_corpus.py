"""The synthetic corpus: deterministic, whole or absent, held-out voices really held out, no text where none is due."""

import json
import sys
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.core.errors import ConfigError, DataError
from speechssl.data.synth.corpus import SynthConfig, SynthSummary, make_corpus, voices
from speechssl.data.synth.sentences import VOCABULARY, sentences

SMOKE = SynthConfig(
    unlabelled_minutes=0.5, labelled_minutes=0.5, dev_minutes=0.2, test_minutes=0.3,
    train_speakers=4, labelled_speakers=2, dev_speakers=2, test_speakers=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SynthSummary:
    pytest.importorskip("espeakng_loader")
    return make_corpus(tmp_path_factory.mktemp("synth") / "corpus", SMOKE, workers=2)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_sentences_are_distinct_and_stay_in_the_vocabulary() -> None:
    said = list(islice(sentences(7), 3000))
    assert len(set(said)) == len(said)
    assert {word for sentence in said for word in sentence.split()} == VOCABULARY
    assert len(VOCABULARY) >= 100
    assert all(3 <= len(sentence.split()) <= 15 for sentence in said)
    assert said[:50] == list(islice(sentences(7), 50)) != list(islice(sentences(8), 50))


def test_default_voices_hold_out_variants_but_share_accents() -> None:
    drawn = voices(SynthConfig())
    parts = {split: [v.name.split("+") for v in drawn if v.split == split] for split in ("train", "dev", "test")}
    heard = {variant for _, variant in parts["train"]}
    for split in ("dev", "test"):
        assert not heard & {variant for _, variant in parts[split]}
        assert {accent for accent, _ in parts[split]} <= {accent for accent, _ in parts["train"]}
    assert len({v.name for v in drawn}) == len(drawn) == len({v.speaker for v in drawn})
    assert drawn == voices(SynthConfig()) != voices(SynthConfig(seed=1))


def test_metadata_describes_the_audio(corpus: SynthSummary) -> None:
    rows = rows_of(corpus.folder)
    assert len({row["id"] for row in rows}) == len(rows) == sum(corpus.utterances.values())
    assert len(list(corpus.folder.rglob("*.wav"))) == len(rows)
    for row in rows:
        info = soundfile.info(corpus.folder / row["audio"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.frames / 16_000 == row["duration"]
    spoken = [row["text"] for row in rows if row["text"] is not None]
    assert len(set(spoken)) == len(spoken)
    assert all(row["text"] for row in rows if row["split"] != "train")
    train = [row for row in rows if row["split"] == "train"]
    assert {row["speaker"] for row in train if row["text"]} == {"train000", "train001"}
    assert {row["speaker"] for row in train if not row["text"]} == {f"train00{i}" for i in range(4)}


def test_the_times_of_phones_cover_the_audio(corpus: SynthSummary) -> None:
    found: dict[str, list[tuple[float, float, str]]] = {}
    for line in (corpus.folder / "phones.ctm").read_text().splitlines():
        name, _, start, length, phone = line.split()
        found.setdefault(name, []).append((float(start), float(start) + float(length), phone))
    rows = rows_of(corpus.folder)
    assert set(found) == {row["id"] for row in rows}
    for row in rows:
        phones = found[row["id"]]
        assert all(abs(end - start) < 2e-4 for (_, end, _), (start, _, _) in pairwise(phones))
        assert phones[0][0] < 0.1
        assert phones[-1][1] == pytest.approx(row["duration"], abs=2e-4)
        wave, _ = soundfile.read(corpus.folder / row["audio"])
        loudness = {
            silent: max(
                np.sqrt(np.mean(wave[round(start * 16_000) : round(end * 16_000)] ** 2))
                for start, end, phone in phones if (phone == "sil") == silent and end - start > 0.02
            )
            for silent in (True, False)
            if any((phone == "sil") == silent and end - start > 0.02 for start, end, phone in phones)
        }  # fmt: skip
        assert loudness.get(True, 0) < 0.1 * loudness[False]
    assert not [label for phones in found.values() for _, _, label in phones if label[0] in "_',"]


def test_minutes_are_kept(corpus: SynthSummary) -> None:
    asked = {"train_labelled": 0.5, "train_unlabelled": 0.5, "dev": 0.2, "test": 0.3}
    for part, minutes in asked.items():
        assert 0.6 * minutes <= corpus.minutes[part] <= minutes


def test_bytes_do_not_depend_on_workers(corpus: SynthSummary, tmp_path: Path) -> None:
    again = make_corpus(tmp_path / "again", SMOKE, workers=1)
    assert replace(again, folder=corpus.folder) == corpus
    for path in corpus.folder.rglob("*.*"):
        assert path.read_bytes() == (again.folder / path.relative_to(corpus.folder)).read_bytes(), path.name


def test_a_finished_corpus_is_found_again(corpus: SynthSummary) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}
    found = make_corpus(corpus.folder, SMOKE)
    assert found == corpus
    assert found.seconds == 0
    assert before == {path: path.stat().st_mtime_ns for path in corpus.folder.rglob("*")}


def test_a_folder_of_something_else_is_left_alone(corpus: SynthSummary, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another configuration"):
        make_corpus(corpus.folder, replace(SMOKE, seed=1))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="choose another folder"):
        make_corpus(tmp_path, SMOKE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    with pytest.raises(DataError, match="no voice"):
        make_corpus(tmp_path / "corpus", replace(SMOKE, test_variants=("no_such_variant",)), workers=1)
    assert list(tmp_path.iterdir()) == []


def test_missing_synthesiser_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataError, match=r"pip install 'speechssl\[demo\]'"):
        make_corpus(tmp_path / "corpus", SMOKE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"accents": ()},
        {"test_variants": ("f1",)},
        {"labelled_speakers": 5},
        {"labelled_minutes": 0.0},
        {"slowest": 200},
        {"highest": 101},
    ],
)
def test_bad_configurations_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match="synth"):
        replace(SMOKE, **change)
