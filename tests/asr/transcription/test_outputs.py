"""The output folder: resumable, one job at a time, nothing half written, nothing out of date."""

import json
from pathlib import Path

import pytest

from speechssl.asr.transcription.forced_alignment import Word
from speechssl.asr.transcription.inputs import Input
from speechssl.asr.transcription.outputs import open_outputs
from speechssl.asr.transcription.transcript import Transcript
from speechssl.config import CaptionConfig
from speechssl.core.errors import AudioError, DataError
from speechssl.core.ledger import read_ledger

KEY = {"model": 1}


def opened(folder: Path, formats: tuple[str, ...] = ("text", "srt"), key: dict = KEY, **limits: int):
    return open_outputs(folder, stage="transcribe", formats=formats, captions=CaptionConfig(**limits), key=key)


def item(folder: Path, name: str = "deep/a") -> Input:
    path = folder / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"audio")
    return Input(path, name)


def said(text: str, item: Input) -> Transcript:
    words = tuple(Word(word, float(i), i + 0.5, 0.5) for i, word in enumerate(text.split()))
    return Transcript(str(item.path), text, words, 9.0)


def test_what_is_done_is_known_until_file_or_settings_change(tmp_path: Path) -> None:
    a = item(tmp_path / "in")
    with opened(tmp_path / "out") as outputs:
        assert outputs.known(a) is None
        outputs.write(a, said("one two", a))
    assert (tmp_path / "out" / "deep" / "a.txt").read_text() == "one two\n"
    with opened(tmp_path / "out") as outputs:
        known = outputs.known(a)
        assert known == said("one two", a)
    with opened(tmp_path / "out", key={"model": 2}) as outputs:
        assert outputs.known(a) is None
    a.path.write_bytes(b"other audio")
    with opened(tmp_path / "out") as outputs:
        assert outputs.known(a) is None
        outputs.write(a, said("three", a))
    rows = (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()
    assert [json.loads(row)["text"] for row in rows] == ["three"]  # one line a recording
    assert (tmp_path / "out" / "deep" / "a.txt").read_text() == "three\n"


def test_known_recordings_get_formats_that_are_new_missing_or_changed(tmp_path: Path) -> None:
    a = item(tmp_path / "in")
    with opened(tmp_path / "out") as outputs:
        outputs.write(a, said("one two", a))
    before = (tmp_path / "out" / "deep" / "a.txt").stat().st_mtime_ns
    (tmp_path / "out" / "deep" / "a.srt").unlink()
    with opened(tmp_path / "out", ("text", "srt", "ctm"), line_chars=3) as outputs:
        known = outputs.known(a)
        assert known
        outputs.write(a, known, known=True)
    assert (tmp_path / "out" / "deep" / "a.ctm").read_text().startswith("deep/a 1 0.000 0.500 one")
    assert "one\ntwo" in (tmp_path / "out" / "deep" / "a.srt").read_text()
    assert (tmp_path / "out" / "deep" / "a.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize("tail", [b'{"path": "x", "te', b"\x00\x00\x00\n", b'{"path": "x"}\n', b"[]\n"])
def test_a_torn_end_of_the_journal_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    a, b = item(tmp_path / "in"), item(tmp_path / "in", "b")
    with opened(tmp_path / "out") as outputs:
        outputs.write(a, said("one", a))
    with (tmp_path / "out" / "transcripts.jsonl").open("ab") as file:
        file.write(tail)
    with opened(tmp_path / "out") as outputs:
        assert outputs.known(a) == said("one", a)
        outputs.write(b, said("two", b))
    with opened(tmp_path / "out") as outputs:
        assert (outputs.known(a), outputs.known(b)) == (said("one", a), said("two", b))


def test_a_file_that_fails_now_loses_what_its_earlier_self_gave(tmp_path: Path) -> None:
    a = item(tmp_path / "in")
    with opened(tmp_path / "out") as outputs:
        outputs.write(a, said("one", a))
    error = AudioError(str(a.path), "truncated", "half of it")
    with opened(tmp_path / "out") as outputs:
        outputs.write(a, Transcript(str(a.path), "", error=error))
    (entry,) = read_ledger(tmp_path / "out" / "ledger.jsonl")
    assert (entry.stage, entry.item, entry.reason, entry.detail) == (
        "transcribe", str(a.path), "truncated", "half of it",
    )  # fmt: skip
    assert not list((tmp_path / "out" / "deep").iterdir())
    assert (tmp_path / "out" / "transcripts.jsonl").read_text() == ""
    with opened(tmp_path / "out"):
        pass
    assert read_ledger(tmp_path / "out" / "ledger.jsonl") == []  # of this job


def test_one_job_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "out"), pytest.raises(DataError, match="is in use by"), opened(tmp_path / "out"):
        pass


def test_a_part_of_a_file_is_known_by_its_text(tmp_path: Path) -> None:
    a = item(tmp_path / "in")
    with opened(tmp_path / "out") as outputs:
        outputs.write(a, said("one", a), of="0 1 one")
        assert outputs.known(a, of="0 1 one")
        assert outputs.known(a, of="0 1 two") is None
