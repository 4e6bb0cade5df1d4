"""Levels that a mean of channels or 16 bits would lose: wrong polarity, very quiet and very loud float recordings."""

import numpy as np
import pytest

from speechssl.config import ManifestConfig, ShardConfig
from speechssl.core.ledger import read_ledger
from speechssl.data.audio.decode import decode, fit_scale, mono
from speechssl.data.ingest.manifest import build_manifest
from speechssl.data.store.writer import shard_manifest
from tests.support.voices import voice, write

RATE = 16_000


def shape(one, other):
    """Return how alike two waveforms are, whatever their level."""
    return float(np.corrcoef(one, other)[0, 1])


def test_channels_that_cancel_keep_their_speech(tmp_path):
    wave = voice(2.0)
    for other in (-wave, -0.99 * wave):
        path = write(tmp_path / "x.wav", np.stack([wave, other], axis=1), subtype="FLOAT")
        assert np.array_equal(decode(path, item="x"), wave)
    one, two = voice(2.0, seed=1), voice(2.0, seed=2)
    assert np.allclose(mono(np.stack([one, two], axis=1)), (one + two) / 2)
    assert not mono(np.zeros((9, 2), np.float32)).any()
    assert np.array_equal(mono(np.stack([np.zeros_like(one), one], axis=1)), one / 2)


@pytest.mark.parametrize(("gain", "scaled"), [
    (10 ** (-110 / 20), True), (10 ** (-70 / 20), True), (1e-2, False), (1.0, False), (10 ** (15 / 20), True),
])  # fmt: skip
def test_float_recordings_are_scaled_into_16_bits_only_where_they_must_be(gain, scaled):
    wave = voice(1.0)
    wave = (wave / np.abs(wave).max() * np.float32(gain)).astype(np.float32)
    fitted, decibels = fit_scale(wave)
    assert (decibels != 0.0) == scaled
    assert np.abs(fitted).max() <= 1.0
    assert shape(np.rint(fitted * 32768), wave) > 0.9999
    assert np.array_equal(fitted, wave) != scaled


def test_quiet_16_bit_recordings_silence_and_small_overshoot_stay_as_they_are():
    quiet = np.rint(voice(1.0) * 3).astype(np.float32) / 32768
    loud = voice(1.0)
    loud = loud / np.abs(loud).max()
    loud[100] = 1.4
    for wave in (quiet, np.zeros(9, np.float32), loud):
        fitted, decibels = fit_scale(wave)
        assert decibels == 0.0
        assert fitted is wave


def test_a_shard_keeps_the_speech_of_every_level_and_its_ledger_says_how(tmp_path):
    wave = voice(1.0)
    wave /= np.abs(wave).max()
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "antiphase.wav", np.stack([wave, -wave], axis=1), subtype="FLOAT")
    write(folder / "hot.wav", 5.6 * wave, subtype="FLOAT")
    write(folder / "quiet.wav", 3e-6 * wave, subtype="FLOAT")
    build_manifest(folder, tmp_path / "out", ManifestConfig(workers=1, min_seconds=0.1))
    shard_manifest(tmp_path / "out" / "manifest.jsonl", tmp_path / "shards", ShardConfig(workers=1))
    ledger = read_ledger(tmp_path / "shards" / "ledger.jsonl")
    assert sorted((e.item, e.reason, e.action) for e in ledger) == [
        ("hot", "rescaled", "repaired"), ("quiet", "rescaled", "repaired"),
    ]  # fmt: skip
    assert {e.item: e.detail.split()[0] for e in ledger} == {"hot": "-15.0", "quiet": "+86.4"}
    import tarfile

    with tarfile.open(next((tmp_path / "shards").glob("*.tar"))) as tar:
        flacs = {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".flac")}
    assert len(flacs) == 3
    for name, data in flacs.items():
        assert shape(decode(data, item=name), wave) > 0.999, name
