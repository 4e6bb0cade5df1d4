import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.audio.containers import cut_short
from speechssl.data.audio.formats import AUDIO_EXTENSIONS, FALLBACK_DEMUXERS, FFMPEG_FORMATS, HEAD_BYTES, sniff
from tests.support.voices import voice


def make(container, subtype, seconds=2.0):
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(seconds), 16_000, format=container, subtype=subtype)
    return buffer.getvalue()


MP3 = make("MP3", "MPEG_LAYER_III")


@pytest.mark.parametrize(("head", "kind"), [
    (MP3, "mp3"), (MP3[417:], "mp3"), (bytes(700) + MP3, "mp3"), (b"junk before the first frame" + MP3, "mp3"),
    (b"ID3\x03\x00" + bytes(3000), "mp3"), (MP3[:3], None), (b"\xff\xfb", None),
    (b"\xff\xfb\x90\x00" + bytes(5000), None),
    ("\ufeffthis is text".encode("utf-16"), None), (b"", None), (b"RIFF\x00\x00\x00\x00AVI ", "avi"),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 ", None), (b"FORM\x00\x00\x00\x00ILBM", None), (b"\x00\x00\x00\x18ftypheic", None),
    (b"\x00\x00\x00\x18ftypM4A ", "mp4"), (b"\x1a\x45\xdf\xa3\x01", "matroska"), (b"#!AMR\n", "amr"),
    (b"wvpk", "wavpack"),
    (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9) + b"\xff\xf1\x50\x80", "aac"),
    (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(99), None),
    (b"FLV\x01\x05", "flv"), (b"TTA1", "tta"), (b"\x00\x00\x01\xba", "mpegps"), (b"\x00\x00\x00\x08wide", "mp4"),
    ((b"\x47\x40\x00\x10" + bytes(184)) * 4, "mpegts"),
    ((bytes(4) + b"\x47\x40\x00\x10" + bytes(184)) * 4, "mpegts"),
    (b"export const free = 1; // TypeScript", None), (b"the free text", None), (b"GGGG" * 200, None),
    (b"%PDF-1.7", None), (b"PK\x03\x04", None), (b"\x7fELF", None), (b"\xff\xd8\xff\xe0\x00\x10JFIF", None),
])  # fmt: skip
def test_sniffing(head, kind):
    assert sniff(head[:HEAD_BYTES]) == kind


@given(st.binary(max_size=3000))
def test_sniffing_takes_any_bytes(head):
    assert sniff(head) in {
        None,
        "wav",
        "aiff",
        "flac",
        "ogg",
        "mp3",
        "nist",
        "au",
        "caf",
        "w64",
        "voc",
        "svx",
        "pvf",
        "paf",
        "avr",
        "ircam",
        *FFMPEG_FORMATS,
    }


def test_random_bytes_are_no_audio():
    rng = np.random.default_rng(0)
    assert [sniff(rng.bytes(HEAD_BYTES)) for _ in range(200)] == [None] * 200


CONTAINERS = [
    ("WAV", "PCM_16", "wav"), ("RF64", "PCM_16", "wav"), ("AIFF", "PCM_16", "aiff"), ("NIST", "PCM_16", "nist"),
    ("AU", "PCM_16", "au"), ("W64", "PCM_16", "w64"), ("CAF", "PCM_16", "caf"), ("OGG", "VORBIS", "ogg"),
    ("OGG", "OPUS", "ogg"),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "kind"), CONTAINERS)
def test_a_missing_end_is_seen_and_a_whole_file_passes(container, subtype, kind):
    data = make(container, subtype)
    assert cut_short(io.BytesIO(data), kind) is None
    for share in (0.95, 0.6, 0.3):
        assert cut_short(io.BytesIO(data[: int(len(data) * share)]), kind), share


@given(st.sampled_from(["wav", "aiff", "nist", "au", "w64", "caf", "ogg", "flac", "mp3"]), st.binary(max_size=200))
def test_damaged_headers_are_left_to_the_decoder(kind, tail):
    for head in (b"RIFF....WAVE", b"RIFX....WAVE", b"NIST_1A\n   1024\n", b".snd", b"OggS", b"caff\x00\x01\x00\x00"):
        said = cut_short(io.BytesIO(head + tail), kind)
        assert said is None or said.startswith("its ")


@pytest.mark.parametrize("claim", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_files_written_to_a_pipe_have_no_size_and_pass(claim):
    data = bytearray(make("WAV", "PCM_16"))
    data[40:44] = claim.to_bytes(4, "little")
    assert data[36:40] == b"data"
    assert cut_short(io.BytesIO(bytes(data)), "wav") is None


def test_tables_agree():
    assert all(name.startswith(".") and name == name.lower() for name in AUDIO_EXTENSIONS)
    assert not set(FFMPEG_FORMATS) & set(FALLBACK_DEMUXERS)
