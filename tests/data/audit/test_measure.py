"""What one recording is, from samples with known answers."""

import numpy as np
import pytest
import soundfile

from speechssl.data.audio.decode import AudioLimits
from speechssl.data.audit.measure import Job, measure
from tests.support.voices import voice, write


def look(path, start=0.0, duration=None):
    return measure(Job(path, start, duration, AudioLimits(), 1))


def test_levels_offset_and_rails(tmp_path):
    time = np.arange(32_000) / 16_000
    wave = np.clip(0.6 * np.sin(2 * np.pi * 440 * time), -0.3, 0.3).astype(np.float32) + np.float32(0.05)
    found = look(write(tmp_path / "a.wav", wave))
    assert (found.format, found.sample_rate, found.channels, found.samples) == ("wav", 16_000, 1, 32_000)
    assert found.duration == 2.0
    assert found.peak == pytest.approx(0.35, abs=1e-3)
    assert found.dc == pytest.approx(0.05, abs=1e-3)
    assert found.clipped == pytest.approx(1 / 3, abs=0.02)  # the sine is above half its height in a third of the time
    assert found.channel_db[0] == pytest.approx(10 * np.log10(np.mean(wave**2)), abs=0.01)
    assert found.correlation is None


def test_few_values_are_not_clipped(tmp_path):
    assert look(write(tmp_path / "a.wav", np.tile(np.float32([0.005, -0.005]), 9_000))).clipped == 0.0
    assert look(write(tmp_path / "b.wav", np.zeros(9_000, np.float32))).clipped == 0.0


def test_two_channels(tmp_path):
    wave = voice(2)
    found = look(write(tmp_path / "a.wav", np.stack([wave, -0.5 * wave], axis=1)))
    assert found.correlation == pytest.approx(-1, abs=1e-3)
    assert found.channel_db[0] - found.channel_db[1] == pytest.approx(6.02, abs=0.02)
    assert look(write(tmp_path / "b.wav", np.stack([wave, 0 * wave], axis=1))).correlation is None


def test_the_digest_is_of_the_samples_not_of_the_file(tmp_path):
    wave = np.rint(voice(2) * 32_768).astype(np.float32) / 32_768
    files = [write(tmp_path / "a.wav", wave), write(tmp_path / "b.flac", wave, format="FLAC", subtype="PCM_16")]
    one, two = map(look, files)
    assert one.digest == two.digest != look(write(tmp_path / "c.wav", 0.9 * wave)).digest
    assert (one.snr_db, one.bandwidth, one.activity) == (two.snr_db, two.bandwidth, two.activity)


def test_a_part_is_measured_as_if_it_were_a_file(tmp_path):
    wave = np.concatenate([voice(2, seed=1), voice(2, seed=2)])
    whole, part = write(tmp_path / "whole.wav", wave), write(tmp_path / "part.wav", wave[32_000:])
    assert look(whole, 2.0, 2.0).digest == look(whole, 2.0, 9.0).digest == look(part).digest


def test_other_rates_are_measured_at_16_kilohertz(tmp_path):
    found = look(write(tmp_path / "a.wav", voice(3, rate=44_100), rate=44_100))
    assert (found.sample_rate, found.duration) == (44_100, 3.0)
    assert found.samples == pytest.approx(48_000, abs=1)


def test_a_long_file_is_measured_in_blocks(tmp_path):
    wave = np.tile(voice(10, seed=3), 9)
    found = look(write(tmp_path / "a.wav", wave))
    assert found.samples == len(wave)
    assert len(found.fingerprint.words) == (len(wave) - 512) // 320 + 1 - 8 - 4 + 1
    once = look(write(tmp_path / "b.wav", wave[:160_000]))
    assert found.activity.speech_share == pytest.approx(once.activity.speech_share, abs=0.05)


def test_what_is_too_short_to_judge(tmp_path):
    found = look(write(tmp_path / "a.wav", voice(0.03)))
    assert found.samples == 480
    assert (found.activity, found.snr_db, found.bandwidth, found.hum) == (None, None, None, None)
    assert len(found.fingerprint.words) == 0


def test_reasons(tmp_path):
    assert look(tmp_path / "none.wav").reason == "missing_file"
    (tmp_path / "text.wav").write_text("hello", encoding="utf-8")
    assert look(tmp_path / "text.wav").reason == "not_audio"
    soundfile.write(tmp_path / "a.wav", voice(1), 16_000)
    assert look(tmp_path / "a.wav", 5.0, 1.0).reason == "out_of_range"
