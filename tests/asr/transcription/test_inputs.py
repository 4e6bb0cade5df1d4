"""Inputs: every recording once, each with a name of its own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.asr.transcription.inputs import find_inputs, seconds_of
from speechssl.core.errors import DataError


def tone(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(16_000 * seconds)), 16_000, format="WAV")
    return path


def names(*paths: Path, output: Path | None = None) -> list[str]:
    return [item.name for item in find_inputs(paths, output=output)[0]]


def test_a_folder_is_found_by_content_or_extension_and_mirrored(tmp_path: Path) -> None:
    tone(tmp_path / "b" / "deep" / "x.wav")
    tone(tmp_path / "b" / "no extension")
    tone(tmp_path / "a.WAV")
    tone(tmp_path / "out" / "old.wav")
    (tmp_path / "broken.mp3").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("words")
    assert names(tmp_path, output=tmp_path / "out") == ["a", "b/deep/x", "b/no extension", "broken"]


def test_no_two_inputs_share_a_name(tmp_path: Path) -> None:
    for name in ("talk.wav", "talk.flac", "Talk.mp3", "a.wav", "a.wav.wav", "a.flac"):
        tone(tmp_path / "one" / name)
    found = names(tmp_path / "one")
    assert sorted(found) == ["Talk.mp3", "a.flac", "a.wav", "a.wav.wav", "talk.flac", "talk.wav"]
    assert len({name.casefold() for name in found}) == 6


def test_several_arguments(tmp_path: Path) -> None:
    tone(tmp_path / "x" / "data" / "a.wav")
    tone(tmp_path / "y" / "data" / "a.wav")
    lone = tone(tmp_path / "z" / "a.wav")
    other = tone(tmp_path / "w" / "a.wav")
    folders = [tmp_path / "x" / "data", tmp_path / "y" / "data"]
    assert names(*folders, lone, other) == ["data/a", "data-2/a", "a", "a-2"]
    assert names(lone, lone, lone.parent / ".." / "z" / "a.wav") == ["a"]
    assert names(tmp_path / "missing.wav") == ["missing"]  # said when it is read


def test_links_are_passed_over_and_said(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    found, entries = find_inputs([tmp_path])
    assert [item.name for item in found] == ["a"]
    assert [(entry.stage, entry.reason) for entry in entries] == [("transcribe", "link_not_followed")]


def test_links_out_of_the_folder_are_transcribed(tmp_path: Path) -> None:
    blob = tone(tmp_path / "blobs" / "a.wav")
    blob = blob.rename(blob.with_name("00ff"))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "clip.wav").symlink_to(blob)
    (folder / "self").symlink_to("self")
    found, entries = find_inputs([folder])
    assert [item.name for item in found] == ["clip"]
    assert [entry.reason for entry in entries] == ["broken_link"]
    blob.unlink()
    with pytest.raises(DataError, match=r"no audio below this folder \(0 other files, 2 symbolic links"):
        find_inputs([folder])


def test_a_folder_without_audio_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(DataError, match=r"no audio below this folder \(1 other files\)"):
        find_inputs([tmp_path])


def test_lengths_for_the_bar(tmp_path: Path) -> None:
    assert seconds_of(tone(tmp_path / "a.wav", 1.5)) == 1.5
    assert seconds_of(tmp_path / "none.wav") == 0.0
