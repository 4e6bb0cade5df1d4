import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.audio.pauses import LevelMeter, SpeechMeter, cut, quiet_frames, resolve_segmenter
from tests.support.voices import voice

STEP = 0.01


def levels_of(wave, rate=16_000, block=1000):
    meter = LevelMeter(rate)
    for start in range(0, len(wave), block):
        meter.add(wave[start : start + block])
    return meter.levels(), meter.frame_seconds


def pieces_of(wave, rate=16_000, least=0.1, most=10.0):
    levels, step = levels_of(wave, rate)
    return cut(levels, quiet_frames(levels), step, total=len(wave) / rate, min_seconds=least, max_seconds=most)


@pytest.mark.parametrize("block", [1, 77, 160, 1000, 10**6])
def test_levels_do_not_depend_on_the_blocks(block):
    wave = voice(0.7, 11_025)
    levels, step = levels_of(wave, 11_025, block)
    size = round(11_025 * 0.01)
    assert step == size / 11_025
    want = [10 * np.log10(np.mean(wave[i : i + size].astype(float) ** 2) + 1e-10) for i in range(0, len(wave), size)]
    assert np.allclose(levels, want, atol=1e-3)


def test_cuts_fall_into_pauses():
    """Words of 3.2 s with pauses of 0.6 s between them: every inner border lies in a pause."""
    rate, words = 16_000, []
    for seed in range(20):
        words += [voice(3.2, rate, seed, pause=0.02), 0.0005 * voice(0.6, rate, seed)]
    wave = np.concatenate(words)
    pieces = pieces_of(wave, most=10.0)
    assert len(pieces) >= 7
    assert max(d for _, d in pieces) <= 10.0
    assert min(d for _, d in pieces[:-1]) >= 5.0
    for (a, d), (b, _) in pairwise(pieces):
        assert a + d == pytest.approx(b)
        assert 3.2 <= b % 3.8 <= 3.8
    assert pieces[0][0] == 0
    assert sum(d for _, d in pieces) == pytest.approx(len(wave) / rate)


def test_long_pauses_are_dropped_and_speech_is_not():
    speech, silence = voice(4.0), np.zeros(16_000 * 30, np.float32)
    wave = (
        np.concatenate([silence, speech, silence, speech, silence]) + 1e-4 * voice(98.0, seed=3, pause=9)[: 98 * 16_000]
    )
    pieces = pieces_of(wave, most=20.0)
    assert len(pieces) == 2
    for (start, duration), spoken in zip(pieces, (30.0, 64.0), strict=True):
        assert spoken - 1.0 < start < spoken
        assert spoken + 4.0 < start + duration < spoken + 5.5


def test_a_lone_word_keeps_two_seconds_also_at_the_ends():
    word, silence = voice(0.3), np.zeros(16_000 * 20, np.float32)
    for wave in (
        np.concatenate([silence, word, silence]),
        np.concatenate([word, silence]),
        np.concatenate([silence, word]),
    ):
        pieces = pieces_of(wave, most=15.0)
        assert len(pieces) == 1
        assert pieces[0][1] == pytest.approx(2.0, abs=0.05)
        first = np.argmax(np.abs(wave) > 0.01) / 16_000
        assert pieces[0][0] <= first
        assert pieces[0][0] + pieces[0][1] >= first + 0.29


def test_without_pauses_neighbours_join_without_a_gap():
    pieces = pieces_of(voice(33.0, pause=0.0), most=10.0)
    assert sum(d for _, d in pieces) == pytest.approx(33.0)
    assert all(a + d == pytest.approx(b) for (a, d), (b, _) in pairwise(pieces))
    assert max(d for _, d in pieces) <= 10.0


def test_pure_silence_is_cut_too():
    assert sum(d for _, d in pieces_of(np.zeros(16_000 * 25, np.float32), most=10.0)) == pytest.approx(25.0)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.booleans()), min_size=1, max_size=12),
    st.floats(1.0, 8.0), st.floats(0.05, 0.5), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_frame_with_speech_lies_in_exactly_one_piece(runs, most, least, seed):
    quiet = np.concatenate([np.full(length, is_quiet) for length, is_quiet in runs])
    levels = np.where(quiet, -60, -20) + np.random.default_rng(seed).normal(0, 3, len(quiet)).astype(np.float32)
    total = (len(quiet) - 0.3) * STEP
    pieces = cut(levels, quiet, STEP, total=total, min_seconds=least, max_seconds=most)
    covered = np.zeros(len(quiet), int)
    for start, duration in pieces:
        assert duration <= most + 1e-9
        assert duration >= min(least, total) - STEP
        covered[round(start / STEP) : int(np.ceil((start + duration) / STEP - 1e-6))] += 1
    assert covered.max(initial=0) <= 1
    assert (covered[~quiet] == 1).all()
    starts = [start for start, _ in pieces]
    assert starts == sorted(starts)


def test_quiet_frames_need_a_real_contrast():
    rng = np.random.default_rng(0)
    assert not quiet_frames(rng.normal(-20, 2, 1000).astype(np.float32)).any()
    mixed = np.concatenate([np.full(500, -70.0), np.full(500, -20.0)]).astype(np.float32)
    assert quiet_frames(mixed).tolist() == [True] * 500 + [False] * 500
    assert len(quiet_frames(np.zeros(0, np.float32))) == 0


def silero(monkeypatch, judge):
    """Install a voice activity model that answers with ``judge(chunk)``."""

    class Model:
        resets = 0

        def reset_states(self):
            Model.resets += 1

        def __call__(self, chunk, rate):
            assert tuple(chunk.shape) == (512,)
            assert rate == 16_000
            return judge(chunk.numpy())

    from speechssl.data.audio import pauses

    module = ModuleType("silero_vad")
    module.load_silero_vad = Model
    module.__spec__ = type("Spec", (), {})()
    monkeypatch.setitem(sys.modules, "silero_vad", module)
    pauses._silero.cache_clear()
    return Model


def test_the_speech_meter_sees_all_audio_at_16_khz_in_chunks(monkeypatch):
    from speechssl.data.audio import pauses

    model = silero(monkeypatch, lambda chunk: float(np.abs(chunk).mean() > 0.02))
    meter = SpeechMeter(48_000)
    wave = np.concatenate([np.zeros(48_000, np.float32), voice(1.0, 48_000, pause=0.0), np.zeros(48_000, np.float32)])
    for start in range(0, len(wave), 10_000):
        meter.add(wave[start : start + 10_000])
    probabilities = meter.probabilities()
    assert len(probabilities) == -(-48_000 // 512)
    assert probabilities[:30].sum() == 0
    assert probabilities[33:60].all()
    assert model.resets == 1
    quiet = SpeechMeter.quiet(probabilities, 300, 0.01)
    assert quiet[:97].all()
    assert not quiet[104:196].any()
    assert quiet[206:].all()
    pauses._silero.cache_clear()


def test_the_segmenter_is_what_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_segmenter("auto") == "energy"
    assert resolve_segmenter("energy") == "energy"
    with pytest.raises(ValueError, match="silero-vad"):
        resolve_segmenter("silero")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert resolve_segmenter("auto") == "silero"
    assert resolve_segmenter("energy") == "energy"
