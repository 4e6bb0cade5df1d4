import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import SAMPLE_RATE, AudioLimits, decode, encode_flac, mono, probe
from tests.support.voices import voice, write

FORMATS = [
    ("WAV", "PCM_U8", "wav", 2e-2), ("WAV", "PCM_16", "wav", 1e-4), ("WAV", "PCM_24", "wav", 1e-6),
    ("WAV", "PCM_32", "wav", 1e-6), ("WAV", "FLOAT", "wav", 0), ("WAV", "DOUBLE", "wav", 1e-7),
    ("WAV", "ULAW", "wav", 3e-2), ("WAV", "MS_ADPCM", "wav", 1.0), ("RF64", "PCM_16", "wav", 1e-4),
    ("FLAC", "PCM_16", "flac", 1e-4), ("FLAC", "PCM_24", "flac", 1e-6), ("AIFF", "PCM_16", "aiff", 1e-4),
    ("AU", "PCM_16", "au", 1e-4), ("CAF", "PCM_16", "caf", 1e-4), ("W64", "PCM_16", "w64", 1e-4),
    ("WAVEX", "PCM_24", "wav", 1e-6), ("WAVEX", "FLOAT", "wav", 0), ("WAV", "ALAW", "wav", 3e-2),
    ("AU", "ULAW", "au", 3e-2), ("AIFF", "ALAW", "aiff", 3e-2), ("NIST", "ULAW", "nist", 3e-2),
    ("VOC", "PCM_16", "voc", 1e-4), ("NIST", "PCM_16", "nist", 1e-4), ("OGG", "VORBIS", "ogg", 1.0),
    ("OGG", "OPUS", "ogg", 1.0), ("MP3", "MPEG_LAYER_III", "mp3", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "kind", "tolerance"), FORMATS, ids=str)
def test_every_format_is_read_whatever_its_name(tmp_path, container, subtype, kind, tolerance):
    wave = voice(1.0)
    for name in ("a.wav", "b.mp3", "c.raw", "d"):
        path = write(tmp_path / name, wave, format=container, subtype=subtype)
        info = probe(path)
        assert (info.format, info.sample_rate, info.channels) == (kind, 16_000, 1)
        assert abs(info.duration - 1.0) < 0.07  # block codecs pad
        got = decode(path, item="x")
        assert got.dtype == np.float32
        assert len(got) == info.frames
        assert np.array_equal(decode(path.read_bytes(), item="x"), got)
        if tolerance < 1:
            assert np.abs(got[: len(wave)] - wave).max() <= tolerance
        else:
            n = min(len(got), len(wave))
            spectra = [np.abs(np.fft.rfft(x[:n])) for x in (got, wave)]
            assert np.corrcoef(*spectra)[0, 1] > 0.9


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resampling_equals_soxr_on_the_whole(tmp_path, rate):
    wave = voice(2.5, rate)
    path = write(tmp_path / "x.wav", wave, rate, subtype="FLOAT")
    want = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ")
    got = decode(path, item="x")
    assert len(got) == round(len(wave) * SAMPLE_RATE / rate) == len(want)
    assert np.abs(got - want).max() < 1e-6
    assert np.array_equal(decode(path, item="x", rate=rate), wave)


def test_channels_become_their_mean_or_the_first(tmp_path):
    waves = np.stack([voice(0.5, seed=seed) for seed in range(8)], axis=1)
    path = write(tmp_path / "x.wav", waves, subtype="FLOAT")
    assert probe(path).channels == 8
    assert np.abs(decode(path, item="x") - waves.mean(axis=1)).max() < 1e-6
    assert np.array_equal(decode(path, item="x", channels="first"), waves[:, 0])
    assert mono(waves).shape == (8000,)


@pytest.mark.parametrize(("container", "subtype", "kind", "tolerance"), FORMATS, ids=str)
def test_a_part_is_the_slice_of_the_whole(tmp_path, container, subtype, kind, tolerance):
    path = write(tmp_path / "x", voice(6.0), format=container, subtype=subtype)
    whole = decode(path, item="x")
    for start, duration in ((0.0, 1.0), (0.3, 0.5), (1.2345, 2.0), (4.01, 1.9), (5.5, 0.25)):
        first, count = round(start * 16_000), round(duration * 16_000)
        part = decode(path, item="x", start=start, duration=duration)
        assert len(part) == count
        assert np.abs(part - whole[first : first + count]).max() < 1e-5
    tail = decode(path, item="x", start=5.0)
    assert np.abs(tail - whole[80_000:]).max() < 1e-5


@pytest.mark.shared_data
@pytest.mark.parametrize("name", [
    "raw_mixed/dev-clean_converted/174/168635/174-168635-0000.wav", "raw_mixed/kerstin/audio/de_rhasspy-0371.webm",
    "raw_mixed/librosa_examples/198-209-0000.ogg", "raw_mixed/fleursdumal/fleursdumal_003_baudelaire_64kb.mp3",
    "raw_mixed/kerstin/verified/de_rhasspy-0371.flac", "raw_mixed/an4/wav/an4_clstk/mkem/cen7-mkem-b.sph",
])  # fmt: skip
def test_parts_of_real_files_are_exact(shared_data, name):
    path = shared_data / name
    own = probe(path).sample_rate
    whole = decode(path, item="x", rate=own)
    rng = np.random.default_rng(0)
    for start in rng.uniform(0, len(whole) / own - 0.6, 12):
        part = decode(path, item="x", start=start, duration=0.5, rate=own)
        first = round(start * own)
        assert np.abs(part - whole[first : first + len(part)]).max() < 1e-6


def test_rounded_durations_at_the_end_are_forgiven_and_wrong_ones_are_not(tmp_path):
    path = write(tmp_path / "x.wav", voice(1.0))
    assert len(decode(path, item="x", start=0.5, duration=0.503)) == 8000
    with pytest.raises(AudioError) as caught:
        decode(path, item="utt", start=0.5, duration=0.7)
    assert (caught.value.item, caught.value.reason) == ("utt", "truncated")
    for start, duration in ((1.0, None), (7.0, 1.0), (0.5, 0.0)):
        with pytest.raises(AudioError) as caught:
            decode(path, item="utt", start=start, duration=duration)
        assert caught.value.reason == "out_of_range"


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=3000))
def test_flac_gives_samples_back(samples):
    wave = np.array(samples, np.int16)
    back = decode(encode_flac(wave), item="x")
    assert np.array_equal(back * 32768, wave)
    assert encode_flac(back) == encode_flac(wave)


def test_flac_rounds_and_clips():
    back = decode(encode_flac(np.array([2.0, -2.0, 0.4 / 32768, 0.6 / 32768, 0.0], np.float32)), item="x")
    assert (back * 32768).tolist() == [32767, -32768, 0, 1, 0]


def test_flac_bytes_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys, hashlib; from tests.support.voices import voice; "
        "from speechssl.data.audio.decode import encode_flac;"
        "print(hashlib.sha256(encode_flac(voice(2.0))).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[3],
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.float64)])
def test_flac_refuses_what_is_no_waveform(wave):
    with pytest.raises(ValueError, match="non-empty float32 or int16"):
        encode_flac(wave)


def test_mp3_noise_of_the_decoder_stays_off_standard_error(tmp_path, capfd):
    path = write(tmp_path / "x.mp3", voice(3.0), format="MP3", subtype="MPEG_LAYER_III")
    damaged = bytearray(path.read_bytes())
    for i in range(2000, 6000, 7):
        damaged[i] ^= 0x55
    with pytest.raises(AudioError):
        decode(bytes(damaged[: len(damaged) // 3]), item="x")
    os.write(2, b"still heard\n")
    assert capfd.readouterr().err == "still heard\n"


def test_payload_limit_holds_for_bytes_only(tmp_path):
    path = write(tmp_path / "x.wav", voice(1.0))
    limits = AudioLimits(max_bytes=1000)
    assert len(decode(path, item="x", limits=limits)) == 16_000
    with pytest.raises(AudioError) as caught:
        decode(path.read_bytes(), item="x", limits=limits)
    assert caught.value.reason == "too_large"


def test_length_limit_holds_for_what_is_decoded(tmp_path):
    path = write(tmp_path / "x.wav", voice(2.0))
    with pytest.raises(AudioError) as caught:
        decode(path, item="x", limits=AudioLimits(max_seconds=1.5))
    assert caught.value.reason == "too_long"


def test_soundfile_is_not_imported_with_the_module():
    code = (
        "import sys, speechssl.data.ingest.manifest; "
        "print([m for m in ('soundfile', 'soxr', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert soundfile.__libsndfile_version__
