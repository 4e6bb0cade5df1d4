"""Activity, upper edge and hum from powers written down by hand."""

import numpy as np
import pytest

from speechssl.data.audio.snr import FFT, frame_power
from speechssl.data.audit.spectrum import activity, edge_hz, edge_weights, hum_db, hum_power

HUM_FFT = 4_096


def frames(*parts):
    """Mean squares of frames from (decibels, count)."""
    return np.concatenate([np.full(count, 10 ** (level / 10)) for level, count in parts]).astype(np.float32)


def test_silence_at_both_ends():
    found = activity(frames((-80, 50), (-20, 100), (-80, 25)))
    assert (found.leading, found.trailing, found.speech_seconds) == pytest.approx((1.0, 0.5, 2.0))
    assert found.speech_share == pytest.approx(100 / 175)
    assert (found.loud_db, found.quiet_db) == pytest.approx((-20, -80), abs=0.01)
    assert found.gaps == 0


def test_a_click_is_not_the_first_sound():
    assert activity(frames((-80, 5), (-20, 1), (-80, 44), (-20, 100))).leading == pytest.approx(1.0)
    assert activity(frames((-80, 5), (-20, 2), (-80, 43), (-20, 100))).leading == pytest.approx(0.1)


@pytest.mark.parametrize(("pause", "seconds"), [(10, 2.2), (11, 2.0)])
def test_pauses_up_to_a_fifth_of_a_second_are_speech(pause, seconds):
    found = activity(frames((-80, 20), (-20, 50), (-80, pause), (-20, 50), (-80, 20)))
    assert found.speech_seconds == pytest.approx(seconds)


def test_steady_sound_is_never_all_silence():
    found = activity(frames((-40, 50)))
    assert 0 < found.speech_seconds <= 1.0
    assert found.loud_db == pytest.approx(found.quiet_db)


@pytest.mark.parametrize(
    ("hole", "gaps"), [((-120, 3), 1), ((-120, 1), 0), ((-70, 3), 0), ((-120, 2), 1)], ids=["3", "1", "noisy", "2"]
)
def test_holes_in_the_sound(hole, gaps):
    noise, sound = (-60, 20), (-20, 50)
    assert activity(frames(noise, sound, hole, sound, noise)).gaps == gaps


def test_holes_at_the_ends_and_behind_silence_are_none():
    assert activity(frames((-120, 3), (-20, 50), (-60, 20), (-120, 3), (-60, 20), (-20, 50))).gaps == 0


def test_gated_speech_has_no_holes():
    assert activity(frames((-20, 30), (-120, 20), (-20, 30), (-120, 20), (-20, 30))).gaps == 0


def test_bands_for_the_edge_are_250_hertz_wide():
    weights = edge_weights()
    assert weights.shape == (FFT // 2 + 1, 32)
    assert weights[:, 0].sum() == 6  # the offset is left out
    assert (weights[:, 1:].sum(axis=0) == 8).all()
    tone = np.sin(2 * np.pi * 3_100 * np.arange(16_000) / 16_000).astype(np.float32)
    assert np.argmax((frame_power(tone) @ edge_weights()).sum(axis=0)) == 3_100 // 250


def voices(levels, floor=30.0):
    """Frames of 32 bands that go up to ``levels`` and, every second one, lie ``floor`` decibels below."""
    loud = np.asarray(levels, float)
    both = np.stack([loud, np.maximum(loud - floor, -130)])
    return (10 ** (np.tile(both, (50, 1)) / 10)).astype(np.float32)


@pytest.mark.parametrize("edge", [12, 16, 22])
def test_a_cliff_is_an_edge(edge):
    assert edge_hz(voices([-40] * edge + [-128] * (32 - edge))) == edge * 250


def test_no_edge():
    assert edge_hz(voices([-40] * 32)) is None
    assert edge_hz(voices(np.linspace(-30, -110, 32))) is None  # falls off gradually
    assert edge_hz(voices([-40] * 16 + [-60] * 16)) is None  # 20 dB are no cliff
    assert edge_hz(voices([-40] * 8 + [-128] * 24)) is None  # no telephone ends at 2 kHz
    assert edge_hz(voices([-40] * 16 + [-128] * 16)[:9]) is None


def test_a_voice_that_ends_above_the_noise_of_a_room_is_no_edge():
    power = voices([-40] * 16 + [-128] * 16, floor=90) + np.float32(10**-8.5)
    assert edge_hz(power) is None


def test_power_of_a_tone():
    time = np.arange(2 * HUM_FFT) / 16_000
    power = hum_power(np.sin(2 * np.pi * 125 * time).reshape(2, HUM_FFT).astype(np.float32))
    assert power.shape == (2, 128)
    assert power[0, 32] == pytest.approx(0.25, rel=1e-3)
    assert power[0, 40] < 1e-6


@pytest.mark.parametrize("mains", [50, 60])
def test_hum_is_found(mains):
    rng, time = np.random.default_rng(mains), np.arange(20 * HUM_FFT) / 16_000
    wave = 0.01 * rng.standard_normal(len(time)) + sum(0.02 * np.sin(2 * np.pi * mains * k * time) for k in (1, 2, 3))
    found = hum_db(hum_power(wave.reshape(-1, HUM_FFT)), HUM_FFT)
    assert found[0] == mains
    assert found[1] > 14


def test_one_harmonic_noise_and_short_recordings_are_no_hum():
    rng, time = np.random.default_rng(1), np.arange(20 * HUM_FFT) / 16_000
    noise = 0.01 * rng.standard_normal(len(time))
    assert hum_db(hum_power(noise.reshape(-1, HUM_FFT)), HUM_FFT)[1] < 8
    tone = noise + 0.1 * np.sin(2 * np.pi * 100 * time)
    assert hum_db(hum_power(tone.reshape(-1, HUM_FFT)), HUM_FFT)[1] < 8
    assert hum_db(hum_power(tone.reshape(-1, HUM_FFT)[:11]), HUM_FFT) is None
