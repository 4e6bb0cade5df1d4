"""Noise and rooms from folders: keyed, at the asked level, the same in loader processes; bad files are named."""

import logging
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import AugmentConfig, DataConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.data.batches import recordings
from speechssl.data.batches.augment import Sounds, augmenter, with_reverb
from speechssl.data.batches.recordings import Recordings
from tests.support.chirps import chirp

WAVE = chirp(3, 2.0)
NOISY = AugmentConfig(noise_snr_db=(10.0, 10.0), noise_prob=1.0)


def write(path, wave, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A folder of three recordings: a long one, a short one, and one at another rate in a folder of its own."""
    random = np.random.default_rng(1)
    write(tmp_path / "noise/long.wav", 0.1 * random.normal(size=64_000))
    write(tmp_path / "noise/short.flac", 0.1 * random.normal(size=5_000))
    write(tmp_path / "noise/more/stereo.wav", 0.1 * random.normal(size=(22_050, 2)), 44_100)
    (tmp_path / "noise/readme.txt").write_text("not audio")
    (tmp_path / "noise/.hidden.wav").write_text("not audio")
    return str(tmp_path / "noise")


def sounds(noise="", reverb=""):
    return Sounds.of(DataConfig(noise=noise, reverb=reverb))


def test_noise_of_a_folder_has_the_asked_level_and_is_keyed(folder):
    augment = augmenter(NOISY, 1, sounds(folder))
    added = [augment(WAVE, epoch, "a") - WAVE for epoch in range(20)]
    for noise in added:
        assert 10 * np.log10(np.mean(WAVE**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.01)
    np.testing.assert_array_equal(added[3], augment(WAVE, 3, "a") - WAVE)
    assert not np.array_equal(added[3], augment(WAVE, 3, "b") - WAVE)
    assert not np.array_equal(added[3], augmenter(NOISY, 2, sounds(folder))(WAVE, 3, "a") - WAVE)
    assert len({noise.tobytes() for noise in added}) > 10  # of the long one another stretch each time


def test_noise_is_a_stretch_of_a_recording_or_all_of_it_again_and_again(folder):
    long, _ = soundfile.read(Path(folder) / "long.wav", dtype="int16")
    short, _ = soundfile.read(Path(folder) / "short.flac", dtype="int16")
    found = set()
    for seed in range(30):
        noise = sounds(folder).noise(12_000, 0.0, np.random.default_rng(seed)).astype(float)
        assert np.mean(noise**2) == pytest.approx(1)
        if np.allclose(noise[:7_000], noise[5_000:], rtol=1e-5):
            found.add("short" if np.corrcoef(noise[:5_000], short)[0, 1] > 0.999 else "resampled")
        else:
            stretches = np.lib.stride_tricks.sliding_window_view(long, 12_000)
            place = int(np.argmax(stretches[:, :50] @ noise[:50]))
            found.add("long" if np.corrcoef(noise, stretches[place])[0, 1] > 0.999 else "resampled")
    assert found == {"short", "long", "resampled"}


def test_paths_are_pickled_and_not_samples(folder):
    own = sounds(folder)
    own.noise(100, 0.0, np.random.default_rng(0))
    assert len(pickle.dumps(own)) < 2_000
    assert [Path(path).name for path in own.noises.paths] == ["long.wav", "stereo.wav", "short.flac"]


def test_a_loader_process_draws_the_same(folder):
    augment = augmenter(NOISY, 1, sounds(folder))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(augment, WAVE, 3, "a").result(timeout=300)
    np.testing.assert_array_equal(there, augment(WAVE, 3, "a"))


def test_a_recording_is_decoded_once(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(recordings, "decode", lambda path, **rest: decoded.append(path) or np.ones(100, np.float32))
    own = sounds(folder)
    recordings._read.cache_clear()
    for seed in range(20):
        own.noise(100, 0.0, np.random.default_rng(seed))
    recordings._read.cache_clear()
    assert len(decoded) == len(set(decoded)) == 3


def test_of_a_long_recording_the_beginning_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "LONGEST", 0.5)
    write(tmp_path / "noise/long.wav", np.full(44_100, 0.25), 44_100)
    assert len(Recordings.of(str(tmp_path / "noise"), "data.noise").draw(np.random.default_rng(0))) == 8_000


def test_what_cannot_be_read_is_named_once_and_left_out(folder, caplog):
    damaged = Path(folder) / "damaged.wav"
    damaged.write_bytes(b"RIFF\0\0\0\0WAVE nothing")
    own = sounds(folder)
    assert str(damaged) in own.noises.paths
    with caplog.at_level(logging.WARNING):
        waves = [own.noises.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert {len(wave) for wave in waves} == {64_000, 5_000, 8_000}
    (line,) = caplog.messages
    assert line.startswith(f"data.noise: {damaged} is left out: ")


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path):
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/a.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"data\.noise: none of its 1 recordings can be read"):
        sounds(str(tmp_path / "noise")).noise(10, 0.0, np.random.default_rng(0))


@pytest.mark.parametrize("setting", ["noise", "reverb"])
def test_a_folder_without_recordings_is_an_error_that_says_what_to_do(tmp_path, setting):
    for folder in (tmp_path, tmp_path / "not there"):
        with pytest.raises(ConfigError, match=rf"data\.{setting} = .* holds no recording: give a folder of audio"):
            sounds(**{setting: str(folder)})


def test_silent_noise_adds_nothing(tmp_path):
    write(tmp_path / "noise/silent.wav", np.zeros(1_000))
    np.testing.assert_array_equal(augmenter(NOISY, 1, sounds(str(tmp_path / "noise")))(WAVE, 0, "a"), WAVE)


def test_a_room_of_a_folder_is_convolved_with_the_wave(tmp_path):
    response = np.zeros(2_000, np.float32)
    response[[300, 900, 1500]] = 0.5, 0.25, -0.125
    write(tmp_path / "rooms/room.wav", response)
    own = sounds(reverb=str(tmp_path / "rooms"))
    heard = augmenter(AugmentConfig(reverb_prob=1.0), 1, own)(WAVE, 0, "a")
    np.testing.assert_allclose(heard, with_reverb(WAVE, response), atol=1e-5)
    assert len(own.room(np.random.default_rng(0))) == 2_000


def test_recorded_noises_and_a_measured_room(shared_data, tmp_path):
    folder = shared_data / "noise/audio"
    for name in folder.glob("rir_*"):
        (tmp_path / name.name).symlink_to(name)
    own = sounds(str(folder), str(tmp_path))
    assert len(own.noises.paths) == 114 and len(own.responses.paths) == 2
    augment = augmenter(AugmentConfig(noise_snr_db=(0.0, 20.0), noise_prob=1.0, reverb_prob=0.5), 1, own)
    heard = [augment(WAVE, epoch, "a") for epoch in range(40)]
    assert all(np.isfinite(wave).all() and len(wave) == len(WAVE) for wave in heard)
    assert len({wave.tobytes() for wave in heard}) == 40
