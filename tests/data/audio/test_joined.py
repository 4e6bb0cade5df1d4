"""Lengths that a header does not give, or gives wrong: MP3 without a table, joined files, sizes never filled in."""

import io
import struct

import numpy as np
import pytest
import soundfile

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import AudioLimits, decode, probe
from speechssl.data.audio.mpeg import find_parts, frame_size
from speechssl.data.audio.recording import AudioFile
from tests.support.voices import voice

RATE = 16_000


def encoded(container, subtype, seconds=2.0, rate=RATE, channels=1, **options):
    buffer = io.BytesIO()
    wave = voice(seconds, rate)
    wave = wave if channels == 1 else np.stack([wave] * channels, axis=1)
    soundfile.write(buffer, wave, rate, format=container, subtype=subtype, **options)
    return buffer.getvalue()


def mp3(seconds=2.0, mode="CONSTANT", **options):
    return encoded("MP3", "MPEG_LAYER_III", seconds, bitrate_mode=mode, **options)


def untabled(data):
    """Return an MP3 as written to a pipe: without the frame that holds its table."""
    return data[frame_size(data[:4]) :]


def seconds_of(tmp_path, data, name="x.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    info = probe(path)
    assert len(decode(path, item="x")) == pytest.approx(info.duration * RATE, abs=1)
    assert np.array_equal(decode(data, item="x"), decode(path, item="x"))
    return info.duration


@pytest.mark.parametrize("seed", [0, 3.0])
def test_an_mp3_of_variable_bitrate_without_a_table_is_decoded_whole(tmp_path, seed):
    buffer = io.BytesIO()
    wave = np.concatenate([np.zeros(int(seed * RATE), np.float32), voice(12.0)])
    soundfile.write(buffer, wave, RATE, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")
    data = untabled(buffer.getvalue())
    with soundfile.SoundFile(io.BytesIO(data)) as sound:  # what libsndfile believes, so that the case stays one
        assert abs(sound.frames / RATE - len(wave) / RATE) > 1
    assert seconds_of(tmp_path, data) == pytest.approx(len(wave) / RATE, abs=0.15)


def test_an_mp3_without_a_table_has_the_samples_of_another_decoder(tmp_path):
    miniaudio = pytest.importorskip("miniaudio")
    data = untabled(mp3(8.0, "VARIABLE"))
    ours = decode(data, item="x")
    theirs = np.asarray(miniaudio.mp3_read_f32(data).samples)
    lag = len(theirs) - len(ours)  # the delay of the decoder, which only libsndfile takes off
    assert 0 <= lag <= 1200
    assert np.abs(theirs[lag:] - ours).max() < 1e-3


def test_parts_of_an_mp3_without_a_table_are_exact(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(untabled(mp3(12.0, "VARIABLE")))
    whole = decode(path, item="x")
    for start, duration in ((0.0, 1.0), (3.3, 2.0), (10.5, 1.0)):
        part = decode(path, item="x", start=start, duration=duration)
        assert np.abs(part - whole[round(start * RATE) :][: len(part)]).max() < 1e-5


JOINED = [
    ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", "PCM_16"),
    ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype"), JOINED)
def test_joined_files_have_the_length_of_all_their_parts(tmp_path, container, subtype):
    parts = [encoded(container, subtype, seconds) for seconds in (1.0, 2.5, 0.7)]
    alone = [decode(part, item="x") for part in parts]
    data = b"".join(parts)
    assert seconds_of(tmp_path, data) == pytest.approx(sum(map(len, alone)) / RATE, abs=1e-4)
    together = decode(data, item="x")
    assert np.abs(together - np.concatenate(alone)).max() < 1e-4
    path = tmp_path / "y"
    path.write_bytes(data)
    for start, duration in ((0.2, 0.5), (0.8, 2.0), (3.2, 0.9), (0.5, 3.5)):
        part = decode(path, item="x", start=start, duration=duration)
        assert np.abs(part - together[round(start * RATE) :][: len(part)]).max() < 1e-4


@pytest.mark.parametrize(("container", "subtype"), JOINED)
def test_joined_parts_of_different_rates_are_refused(container, subtype):
    data = encoded(container, subtype, 1.0) + encoded(container, subtype, 1.0, rate=24_000)
    with pytest.raises(AudioError) as caught:
        decode(data, item="x")
    assert caught.value.reason == "joined"
    assert "convert its parts" in caught.value.detail


@pytest.mark.parametrize("zeros", [300, 2_000, 20_000, 300_000])
def test_zeros_before_an_mp3_are_stepped_over(tmp_path, zeros):
    for data in (mp3(2.0), untabled(mp3(2.0))):
        assert seconds_of(tmp_path, bytes(zeros) + data) == pytest.approx(2.0, abs=0.15)


def test_an_mp3_whose_table_promises_more_is_still_truncated():
    data = mp3(6.0)
    with pytest.raises(AudioError) as caught:
        decode(data[: len(data) // 2], item="x")
    assert caught.value.reason == "truncated"


def test_tags_rubbish_and_covers_in_an_mp3_change_nothing(tmp_path):
    data = mp3(3.0)
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 8, 0]) + b"\xff\xfb\x90\x00" * 256
    plain = decode(data, item="x")
    for more in (tag + data, tag + tag + data, data + b"TAG" + bytes(125), tag + data + b"APETAGEX" + bytes(99)):
        assert np.array_equal(decode(more, item="x"), plain)
    assert seconds_of(tmp_path, tag + data + tag + data) == pytest.approx(2 * len(plain) / RATE, abs=1e-3)


def test_a_large_tag_behind_an_mp3_without_a_table_is_no_sound(tmp_path):
    data = untabled(mp3(4.0))
    alone = seconds_of(tmp_path, data)
    assert alone == pytest.approx(4.0, abs=0.15)
    assert seconds_of(tmp_path, data + b"APETAGEX" + b"\x89PNG" * 3000) == pytest.approx(alone, abs=0.08)


def test_an_mp3_in_a_wav_is_read(tmp_path):
    data = mp3(2.0)
    form = struct.pack("<HHIIHHH", 0x55, 1, RATE, 4000, 1, 0, 0)
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    assert seconds_of(tmp_path, b"RIFF" + struct.pack("<I", len(body)) + body) == pytest.approx(2.0, abs=0.15)


def test_frames_are_counted_as_the_table_says():
    data = mp3(3.0)
    (part,) = find_parts(data)
    assert part.count == part.table
    assert part.counted(len(data))
    (bare,) = find_parts(untabled(data))
    assert bare.count == part.count


def sized(data, name, number, value, plus=0):
    """Return a container whose chunk of samples claims ``value`` bytes."""
    place = data.index(name) + (16 if number == "<q" and name == b"data" and data[:4] == b"riff" else 4) + plus
    return data[:place] + struct.pack(number, value) + data[place + struct.calcsize(number) :]


WAV, AIFF, AU = (encoded(container, "PCM_16") for container in ("WAV", "AIFF", "AU"))
W64, CAF = encoded("W64", "PCM_16"), encoded("CAF", "PCM_16")
RF64 = encoded("RF64", "PCM_16")


NEVER_FILLED_IN = [
    sized(WAV, b"data", "<I", 0), b"RIFF\0\0\0\0" + sized(WAV, b"data", "<I", 0)[8:],
    *(sized(WAV, b"data", "<I", n) for n in (0x7FFFFFDB, 0xFFFFFFDC, 0xFFFFFFB9, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(sized(AIFF, b"SSND", ">I", n) for n in (0, 8, 0x7FFFFFFF, 0xFFFFFFFF)),
    *(sized(AU, b".snd", ">I", n, 4) for n in (0, 0xFFFFFFFF, 0x7FFFFFFF)),
    *(sized(W64, b"data", "<q", n) for n in (0, -1, 24, 2**63 - 1, 2**63 - 25)),
    *(sized(CAF, b"data", ">q", n) for n in (0, -1, 2**63 - 1)),
    *(RF64[:28] + struct.pack("<q", n) + RF64[36:] for n in (0, -1, 2**63 - 1)),
]  # fmt: skip


@pytest.mark.parametrize("data", NEVER_FILLED_IN, ids=range(len(NEVER_FILLED_IN)))
def test_a_size_that_was_never_filled_in_means_to_the_end_of_the_file(tmp_path, data):
    assert seconds_of(tmp_path, data) == pytest.approx(2.0, abs=0.001)


def test_a_chunk_after_no_samples_is_no_sound():
    empty = WAV[:40] + struct.pack("<I", 0) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(AudioError) as caught:
        decode(empty, item="x")
    assert caught.value.reason == "no_samples"
    with pytest.raises(AudioError) as caught:
        decode(WAV[:40] + struct.pack("<I", 0), item="x")
    assert caught.value.reason == "no_samples"


def test_a_size_from_the_beginning_of_a_recording_means_to_the_end(tmp_path):
    for data in (sized(WAV, b"data", "<I", 3200), sized(AIFF, b"SSND", ">I", 3208), sized(AU, b".snd", ">I", 3200, 4)):
        assert seconds_of(tmp_path, data) == pytest.approx(2.0, abs=0.001)
    assert seconds_of(tmp_path, WAV + b"garbage" * 500) == 2.0
    chunk = b"LIST" + struct.pack("<I", 100_000) + bytes(100_000)
    assert seconds_of(tmp_path, WAV + chunk) == 2.0


@pytest.mark.parametrize(("content", "what"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 99\n", "git lfs pull"),
    (b"<!DOCTYPE html><html>404</html>", "download the file again"), (b"\x1f\x8b\x08" + bytes(99), "unpack it"),
])  # fmt: skip
def test_what_stands_in_for_a_recording_is_named(content, what):
    with pytest.raises(AudioError) as caught:
        decode(content, item="x")
    assert caught.value.reason == "not_audio"
    assert what in caught.value.detail


def test_a_wav_that_is_really_cut_is_still_truncated():
    with pytest.raises(AudioError) as caught:
        decode(WAV[: len(WAV) // 2], item="x")
    assert caught.value.reason == "truncated"


def test_the_same_file_is_looked_through_once(tmp_path, monkeypatch):
    path = tmp_path / "x.mp3"
    path.write_bytes(untabled(mp3(4.0, "VARIABLE")))
    from speechssl.data.audio import joined

    calls = []
    find = joined._FIND["mp3"]
    monkeypatch.setitem(joined._FIND, "mp3", lambda data, start: calls.append(start) or find(data, start))
    for start in (0.0, 1.0, 2.0):
        decode(path, item="x", start=start, duration=0.5)
    assert len(calls) == 1
    with AudioFile(path, "x", AudioLimits()) as audio:
        assert audio.info.frames > 0
