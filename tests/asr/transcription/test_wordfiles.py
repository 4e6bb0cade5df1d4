"""Files of words in time, read back by independent readers: words and times survive, whatever the words hold."""

import json
import shutil
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.transcription.forced_alignment import Word
from speechssl.asr.transcription.transcript import Transcript, from_row
from speechssl.asr.transcription.wordfiles import SUFFIXES, parse_formats, render
from speechssl.config import CaptionConfig
from speechssl.core.errors import ConfigError
from tests.oracles.wordfiles import read_ctm, read_srt, read_textgrid, read_vtt

CFG = CaptionConfig()
SAID = ("she", "had", "your", "dark", "suit")
LETTERS = st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp", "Cf"), exclude_characters=" ")
WORDS = st.one_of(st.text(LETTERS, min_size=1, max_size=60), st.sampled_from(['say"so"', "a&b", "<i>", "-->", "don't"]))


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    now, words = 0, []
    for word in draw(st.lists(WORDS, max_size=25)):
        now += draw(st.sampled_from([0, 0, 20, 300, 2000]))
        end = now + draw(st.integers(20, 900))
        words.append(Word(word, now / 1000, end / 1000, draw(st.floats(0, 1))))
        now = end
    text = " ".join(word.word for word in words)
    return Transcript("a.wav", text, tuple(words), (now + draw(st.integers(1, 500))) / 1000)


def show(transcript: Transcript, kind: str, name: str = "talk") -> str:
    return render(transcript, kind, name=name, cfg=CFG)


@given(transcripts())
def test_textgrid(found: Transcript) -> None:
    ((name, low, high, intervals),) = read_textgrid(show(found, "textgrid"))
    assert (name, low, high) == ("words", 0.0, pytest.approx(found.duration))
    assert intervals[0][0] == 0.0
    assert intervals[-1][1] == high
    assert all(left[1] == right[0] for left, right in pairwise(intervals))
    assert all(left < right for left, right, _ in intervals)
    spoken = [(start, end, text) for start, end, text in intervals if text]
    assert [text for _, _, text in spoken] == [word.word for word in found.words]
    for (start, end, _), word in zip(spoken, found.words, strict=True):
        assert (start, end) == (pytest.approx(word.start), pytest.approx(word.end))


@given(transcripts())
def test_ctm(found: Transcript) -> None:
    rows = read_ctm(show(found, "ctm", name=";;my talk/1"))
    assert [row[4] for row in rows] == [word.word for word in found.words]
    for (name, channel, start, length, _, score), word in zip(rows, found.words, strict=True):
        assert (name, channel) == ("my_talk/1", "1")
        assert start == pytest.approx(word.start)
        assert start + length == pytest.approx(word.end, abs=0.001)
        assert score == pytest.approx(word.score, abs=0.0006)


@given(transcripts())
def test_json(found: Transcript) -> None:
    for kind in ("json", "jsonl"):
        text = show(found, kind)
        again = from_row(json.loads(text))
        assert (again.text, again.duration) == (found.text, found.duration)
        assert [word.word for word in again.words] == [word.word for word in found.words]
        assert all(one.start == pytest.approx(two.start) for one, two in zip(again.words, found.words, strict=True))
    assert show(found, "jsonl").count("\n") == 1
    assert show(found, "text") == found.text + "\n"


@given(transcripts())
def test_captions_hold_the_words_in_order_and_in_time(found: Transcript) -> None:
    srt, vtt = read_srt(show(found, "srt")), read_vtt(show(found, "vtt"))
    assert [(cue.start, cue.end) for cue in srt] == [(cue.start, cue.end) for cue in vtt]
    said = "".join(word.word for word in found.words)
    assert "".join("".join(cue.lines) for cue in vtt).replace(" ", "") == said
    assert "".join("".join(cue.lines) for cue in srt).replace(" ", "") == said.replace("-->", "->")
    assert all(left.end <= right.start for left, right in pairwise(vtt))
    assert all(cue.start < cue.end for cue in vtt)


def test_nothing_said_is_a_whole_file_too() -> None:
    empty = Transcript("a.wav", "", (), 2.0)
    assert read_textgrid(show(empty, "textgrid")) == [("words", 0.0, 2.0, [(0.0, 2.0, "")])]
    assert (read_srt(show(empty, "srt")), read_vtt(show(empty, "vtt")), show(empty, "ctm")) == ([], [], "")


def test_lists_of_formats() -> None:
    assert parse_formats("text, SRT,srt") == ("text", "srt")
    assert set(parse_formats(",".join(SUFFIXES))) == set(SUFFIXES)
    for wrong in ("text,docx", "", " ,"):
        with pytest.raises(ConfigError, match="choose one or more of text, json, jsonl, ctm, textgrid, srt, vtt"):
            parse_formats(wrong)


@pytest.mark.skipif(shutil.which("sclite") is None and shutil.which("sctk") is None, reason="NIST sctk is not here")
def test_nist_sclite_reads_the_ctm(tmp_path) -> None:
    words = tuple(Word(text, 0.5 * i, 0.5 * i + 0.3, 0.9) for i, text in enumerate(SAID))
    (tmp_path / "hyp.ctm").write_text(show(Transcript("a.wav", "", words, 3.0), "ctm"))
    (tmp_path / "ref.stm").write_text("talk 1 speaker 0.0 3.0 she had a dark suit\n")
    command = ["sclite"] if shutil.which("sclite") else ["sctk", "sclite"]
    command += ["-r", str(tmp_path / "ref.stm"), "stm", "-h", str(tmp_path / "hyp.ctm"), "ctm", "-o", "rsum", "stdout"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = [line.strip() for line in said.splitlines() if line.strip().startswith("| Sum")]
    assert numbers and numbers[0].split()[3:11] == ["1", "5", "|", "4", "1", "0", "0", "1"], said
