import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from speechssl.config import ManifestConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.data.audio.decode import decode
from speechssl.data.ingest.manifest import Utterance, build_manifest, read_manifest, safe_id, write_manifest
from tests.support.voices import voice, write

ONE = ManifestConfig(workers=1, segmenter="energy")


def build(folder, output, **change):
    summary = build_manifest(folder, output, ManifestConfig(**{"workers": 1, "segmenter": "energy"} | change))
    return summary, read_manifest(output / "manifest.jsonl"), read_ledger(output / "ledger.jsonl")


def test_manifests_come_back_and_are_written_whole(tmp_path):
    utterances = [Utterance(f"u{n}", "a.wav", 1.5, 16_000, 1, text="é", meta={"k": [1]}) for n in range(3)]
    write_manifest(tmp_path / "new" / "m.jsonl", utterances)
    assert read_manifest(tmp_path / "new" / "m.jsonl") == utterances
    assert os.listdir(tmp_path / "new") == ["m.jsonl"]  # noqa: PTH208
    before = (tmp_path / "new" / "m.jsonl").read_bytes()
    with pytest.raises(AttributeError):
        write_manifest(tmp_path / "new" / "m.jsonl", [*utterances, None])
    assert (tmp_path / "new" / "m.jsonl").read_bytes() == before
    assert os.listdir(tmp_path / "new") == ["m.jsonl"]  # noqa: PTH208


GOOD = '{"id": "a", "path": "a.wav", "duration": 1, "sample_rate": 16000, "channels": 1}'


@pytest.mark.parametrize(("lines", "why"), [
    ([GOOD, "{"], "line 2: "), ([GOOD, "", GOOD], "line 3: id 'a' is also in line 1"),
    (["[]"], "line 1: expected a JSON object"),
    ([GOOD.replace('"a"', '"a.b"')], "line 1: id 'a.b'"), ([GOOD.replace("1,", "-1,")], "line 1: duration"),
])  # fmt: skip
def test_wrong_lines_are_named(tmp_path, lines, why):
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=re.escape(f"{path}, {why}")):
        read_manifest(path)


def test_a_missing_or_foreign_manifest_says_so(tmp_path):
    with pytest.raises(DataError, match="speechssl manifest"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "x").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="manifest"):
        read_manifest(tmp_path / "x")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return a folder with a bit of everything."""
    root = tmp_path_factory.mktemp("a corpus") / "my data"
    for speaker in range(12):
        for number in range(3):
            stem = root / "Libri" / f"{speaker}" / "7" / f"{speaker}-7-{number:04d}"
            write(stem.with_suffix(".flac"), voice(1.0 + number / 4, seed=speaker * 9 + number), format="FLAC")
        rows = "\n".join(f"{speaker}-7-{n:04d} WORDS OF {speaker} NUMBER {n}" for n in range(4))
        (stem.parent / f"{speaker}-7.trans.txt").write_text(rows)
        write(stem.parent / f"{speaker}-7-0099.flac", voice(1.1, seed=500 + speaker), format="FLAC")
    write(root / "odd" / "mp3 named.wav", voice(1.0, 22_050, 77), 22_050, format="MP3", subtype="MPEG_LAYER_III")
    write(root / "odd" / "opus named.webm", voice(1.0, 48_000, 78), 48_000, format="OGG", subtype="OPUS")
    write(root / "odd" / "no extension", voice(1.0, 8_000, 79), 8_000)
    write(
        root / "odd" / "stereo.wav", np.stack([voice(1.0, 44_100), voice(1.0, 44_100, 3)], 1), 44_100, subtype="DOUBLE"
    )
    # Written once and copied: libsndfile stamps files of this kind with the second of their writing.
    shutil.copyfile(root / "odd" / "stereo.wav", root / "odd" / "stereo copy.wav")
    write(root / "odd" / "short.wav", voice(0.05))
    write(root / "long" / "unlabelled.mp3", voice(75.0, 16_000, 80), format="MP3", subtype="MPEG_LAYER_III")
    write(root / "long" / "labelled.wav", voice(40.0, 16_000, 81))
    (root / "long" / "labelled.txt").write_text("a long story")
    (root / "odd" / "page.wav").write_text("<html>not found</html>")
    (root / "odd" / "empty.flac").write_bytes(b"")
    (root / "readme.md").write_text("# hello")
    (root / "code.py").write_text("print()")
    return root


def test_any_folder_becomes_a_manifest(corpus, tmp_path):
    summary, utterances, ledger = build(corpus, tmp_path / "out")
    ours = {Path(u.path).relative_to(corpus).as_posix() for u in utterances}
    assert {
        "odd/mp3 named.wav",
        "odd/opus named.webm",
        "odd/no extension",
        "odd/stereo copy.wav",
        "long/labelled.wav",
    } <= ours
    assert Counter(entry.reason for entry in ledger) == summary.rejected == {
        "missing_audio": 12, "duplicate_audio": 1, "too_short": 1,
        "not_audio": 1, "empty_file": 1, "labelled_too_long": 1,
    }  # fmt: skip
    assert len(utterances) == summary.utterances == 48 + 4 + len([u for u in utterances if "/long/" in u.path])
    libri = [u for u in utterances if "/Libri/" in u.path]
    assert Counter(u.text is None for u in libri) == {False: 36, True: 12}
    assert all(u.speaker == Path(u.path).parts[-3] for u in libri)
    assert len({u.id for u in utterances}) == len(utterances)
    assert [u.path for u in utterances] == sorted(u.path for u in utterances)
    stereo = next(u for u in utterances if "stereo" in u.path)
    assert (stereo.channels, stereo.sample_rate) == (2, 44_100)
    assert summary.hours == pytest.approx(sum(u.duration for u in utterances) / 3600, abs=1e-6)
    assert summary.labelled_hours == pytest.approx(sum(u.duration for u in utterances if u.text) / 3600, abs=1e-6)
    assert summary.files == 48 + 10
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["splits"] == summary.splits
    for name, counts in summary.splits.items():
        assert counts["utterances"] == sum(u.split == name for u in utterances)
        assert counts["labelled_utterances"] == sum(u.split == name and u.text is not None for u in utterances)
    for utterance in utterances:
        wave = decode(Path(utterance.path), item="x", start=utterance.start, duration=utterance.duration)
        assert len(wave) == pytest.approx(utterance.duration * 16_000, abs=170)


def test_long_recordings_are_segmented_and_nothing_spoken_is_lost(corpus, tmp_path):
    summary, utterances, _ = build(corpus, tmp_path / "out", max_seconds=10.0)
    for name, seconds in (("unlabelled.mp3", 75.0), ("labelled.wav", 40.0)):
        pieces = [u for u in utterances if u.path.endswith(name)]
        assert all(u.text is None and 5.0 <= u.duration <= 10.0 for u in pieces[:-1])
        assert sum(u.duration for u in pieces) == pytest.approx(seconds, abs=0.01)
        assert [u.id for u in pieces] == [f"long_{name.split('.')[0]}-{n:04d}" for n in range(len(pieces))]
    assert summary.dropped_pause_hours == pytest.approx(0, abs=1e-5)


def test_speakers_are_in_one_split_only(corpus, tmp_path):
    summary, utterances, _ = build(corpus, tmp_path / "out", dev_fraction=0.15, test_fraction=0.15)
    by_speaker = defaultdict(set)
    for utterance in utterances:
        if utterance.speaker:
            by_speaker[utterance.speaker].add(utterance.split)
    assert len(by_speaker) == 12
    assert all(len(splits) == 1 for splits in by_speaker.values())
    assert {"train", "dev", "test"} == set(summary.splits)
    assert "by hash of the speaker (12 speakers" in summary.split_rule


def test_the_bytes_depend_on_the_folder_only(corpus, tmp_path):
    build(corpus, tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; from speechssl.config import ManifestConfig;"
        "from speechssl.data.ingest.manifest import build_manifest\n"
        "cfg = ManifestConfig(workers=2, segmenter='energy')\n"
        "if __name__ == '__main__': build_manifest(Path(sys.argv[1]), Path(sys.argv[2]), cfg)"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, script, corpus, "../b"], check=True, cwd=tmp_path / "elsewhere", env=environment)
    for name in ("manifest.jsonl", "ledger.jsonl", "summary.json"):
        digests = {hashlib.sha256((tmp_path / folder / name).read_bytes()).hexdigest() for folder in "ab"}
        assert len(digests) == 1, name


def test_paths_are_relative_where_the_audio_lies_under_the_manifest(corpus, tmp_path):
    shutil.copytree(corpus / "odd", tmp_path / "m" / "audio")
    _, utterances, _ = build(tmp_path / "m" / "audio", tmp_path / "m")
    assert all(u.path.startswith("audio/") for u in utterances)
    assert all((tmp_path / "m" / u.path).is_file() for u in utterances)


def test_output_inside_the_corpus_is_not_scanned_and_the_corpus_itself_is_refused(corpus, tmp_path):
    root = tmp_path / "c"
    shutil.copytree(corpus / "odd", root)
    first, *_ = build(root, root / "out")
    again, *_ = build(root, root / "out")
    assert first == again
    with pytest.raises(DataError, match="folder of its own"):
        build_manifest(root, root, ONE)


def test_a_failed_run_leaves_no_manifest_of_an_earlier_one(corpus, tmp_path):
    root = tmp_path / "c"
    shutil.copytree(corpus / "odd", root)
    build(root, tmp_path / "out")
    with pytest.raises(DataError, match="no usable audio"):
        build_manifest(root, tmp_path / "out", ManifestConfig(workers=1, min_seconds=100.0, max_seconds=200.0))
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    assert not (tmp_path / "out" / "summary.json").exists()


def test_json_lines_keep_their_splits_speakers_and_fields(tmp_path):
    root = tmp_path / "c"
    rows = []
    for number in range(6):
        write(root / "audio" / f"{number}.wav", voice(1.0, seed=number))
        split = ("train", "valid", "test-clean")[number % 3]
        rows.append({"id": f"set/{number}", "audio": f"audio/{number}.wav", "text": [None, "", "two"][number // 2],
                     "speaker": f"s{number}", "split": split, "lang": "en", "gender": "f"})  # fmt: skip
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary, utterances, ledger = build(root, tmp_path / "out")
    assert not ledger
    assert [u.id for u in utterances] == [safe_id(row["id"]) for row in rows]
    assert [u.text for u in utterances] == [None, None, "", "", "two", "two"]
    assert [u.split for u in utterances] == ["train", "dev", "test"] * 2
    assert utterances[1].meta == {"gender": "f", "source_id": "set/1", "source_split": "valid"}
    assert {u.language for u in utterances} == {"en"}
    assert summary.splits["train"]["labelled_utterances"] == 1


def test_progress_reaches_the_end(corpus, tmp_path):
    seen = []
    build_manifest(corpus / "odd", tmp_path / "out", ONE, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)


def test_a_segmenter_that_is_not_there_is_a_configuration_error(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="silero-vad"):
        build_manifest(corpus, tmp_path / "out", ManifestConfig(segmenter="silero"))


@pytest.mark.shared_data
def test_the_raw_folder(shared_data, tmp_path):
    summary, utterances, _ = build(shared_data / "raw_mixed", tmp_path / "out", workers=2)
    by_path = {u.path.split("raw_mixed/")[1]: u for u in utterances if not u.start}
    assert summary.files == 366
    assert by_path["LibriSpeech/train-clean-5/32/21631/32-21631-0000.flac"].split == "train"
    assert by_path["dev-clean_converted/1272/128104/1272-128104-0000.wav"].split == "dev"
    assert by_path["an4/wav/an4_clstk/ffmm/cen2-ffmm-b.sph"].speaker == "ffmm"
    assert by_path["kerstin/audio/de_rhasspy-0371.webm"].text is None
    for name in ("0371", "1084", "1271", "1337"):
        copies = [u for path, u in by_path.items() if f"de_rhasspy-{name}" in path]
        assert len(copies) == 2
        assert len({u.split for u in copies}) == 1
    assert summary.splits["test"]["labelled_utterances"] >= 5
    poems = [u for u in utterances if "fleursdumal" in u.path]
    assert max(u.duration for u in poems) <= 30.0
    assert sum(u.duration for u in poems) / (6100992 + 2365728) * 22_050 > 0.98


@pytest.mark.shared_data
def test_a_prepared_set_keeps_everything(shared_data, tmp_path):
    rows = [json.loads(line) for line in (shared_data / "an4" / "manifest.jsonl").read_text().splitlines()]
    _, utterances, ledger = build(shared_data / "an4", tmp_path / "out", workers=2)
    assert not ledger
    ours = {u.id: (u.text, u.speaker, u.split) for u in utterances}
    assert ours == {safe_id(row["id"]): (row["text"], row["speaker"], row["split"]) for row in rows}
    assert {u.id: round(u.duration, 2) for u in utterances} == {safe_id(r["id"]): round(r["duration"], 2) for r in rows}


def test_a_manifest_of_another_tool_is_told_how_to_become_ours(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"id": "a", "audio": "a.wav", "text": "yes"}\n')
    with pytest.raises(DataError, match=r"line 1: unknown field 'audio'.*`speechssl manifest FOLDER"):
        read_manifest(path)
