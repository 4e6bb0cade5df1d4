"""Reading and recognising recordings of any length: every sample once, bounded memory, the ordinary pass when short."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.ctc import CtcModel
from speechssl.asr.recognise import frame_log_probs
from speechssl.asr.transcription.longform import block_frames, local_log_probs, read_blocks, regroup
from speechssl.core.errors import AudioError, ConfigError
from speechssl.models.encoder import SpeechEncoder
from tests.support.tones import MODEL


def recogniser() -> CtcModel:
    torch.manual_seed(1)
    return CtcModel(SpeechEncoder(MODEL), 8).eval()


@given(st.lists(st.integers(0, 200), max_size=12), st.integers(1, 90))
def test_regrouping_keeps_every_sample_in_its_place(sizes: list[int], size: int) -> None:
    wave = np.arange(sum(sizes), dtype=np.float32)
    cuts = np.cumsum(sizes)[:-1] if sizes else []
    found = list(regroup(np.split(wave, cuts), size))
    assert all(len(block) == size for block in found[:-1])
    assert all(0 < len(block) <= size for block in found)
    np.testing.assert_array_equal(np.concatenate([*found, np.zeros(0)]), wave)


def test_memory_does_not_grow_with_the_recording() -> None:
    tracemalloc.start()
    count = sum(1 for _ in regroup((np.zeros(16_000, np.float32) for _ in range(1800)), 80_000))  # half an hour: 115 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 360
    assert peak < 4e6


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_files_of_any_rate_and_parts_of_them(tmp_path, rate: int) -> None:
    time = np.arange(int(5.3 * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), rate)
    whole = np.concatenate(list(read_blocks(tmp_path / "a.wav")))
    assert whole.dtype == np.float32
    assert len(whole) == pytest.approx(5.3 * 16_000, abs=2)
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(whole)) / 16_000)
    np.testing.assert_allclose(whole[400:-400], expected[400:-400], atol=0.01)
    part = np.concatenate(list(read_blocks(tmp_path / "a.wav", start=1.5, duration=2.0)))
    assert len(part) == pytest.approx(32_000, abs=2)
    np.testing.assert_allclose(part[400:-400], expected[24_400 : 24_000 + len(part) - 400], atol=0.01)
    end = np.concatenate(list(read_blocks(tmp_path / "a.wav", start=5.0, duration=0.301)))  # a rounded duration
    assert len(end) == pytest.approx(4800, abs=4)


def test_bad_files_are_audio_errors(tmp_path) -> None:
    (tmp_path / "page.wav").write_text("<html>not found</html>")
    with pytest.raises(AudioError, match=r"page.wav: not_audio"):
        list(read_blocks(tmp_path / "page.wav"))
    with pytest.raises(AudioError, match=r"none.wav: missing_file"):
        list(read_blocks(tmp_path / "none.wav"))


def test_a_short_recording_has_the_log_probabilities_of_the_ordinary_pass() -> None:
    model = recogniser().train()
    wave = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) * 0.1
    found = torch.cat(list(local_log_probs(model, np.split(wave, [100, 9000]), 50)))  # blocks of a second
    (expected,) = frame_log_probs(model, torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert model.training  # as it was
    assert list(local_log_probs(model, [], 50)) == []


def test_blocks_that_cannot_work_are_refused() -> None:
    model = recogniser()
    assert block_frames(model, 5.0) == 250
    with pytest.raises(ConfigError, match=r"block_seconds = 0.1 is too short: this model needs 0.14 or more"):
        block_frames(model, 0.1)
