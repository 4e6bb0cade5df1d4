"""Chunks: every frame exactly once, in bounded memory, whatever the blocks and the sample rate."""

import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.chunks import Chunk, Chunking, read_chunks
from speechssl.errors import AudioError, ConfigError

HOP, RECEPTIVE = 4, 10
SMALL = Chunking(chunk=64, overlap=24, hop=HOP)


def frames(samples: int) -> int:
    return max(0, (samples - RECEPTIVE) // HOP + 1)


def blocks_of(wave: np.ndarray, sizes: list[int]):
    start = 0
    for size in [*sizes, len(wave)]:
        if start < len(wave):
            yield wave[start : start + size]
        start += size


@given(st.integers(1, 700), st.lists(st.integers(1, 200), max_size=6))
def test_chunks_give_every_frame_of_the_whole_exactly_once(samples: int, sizes: list[int]) -> None:
    wave = np.arange(samples, dtype=np.float32)
    chunks = list(SMALL.cut(blocks_of(wave, sizes)))
    first_samples = []
    for number, chunk in enumerate(chunks):
        start = number * (SMALL.chunk - SMALL.overlap)
        np.testing.assert_array_equal(chunk.wave, wave[start : start + len(chunk.wave)])
        end = frames(len(chunk.wave)) if chunk.end is None else chunk.end
        assert end <= frames(len(chunk.wave))
        first_samples += [start + HOP * frame for frame in range(chunk.first, end)]
    assert first_samples == [HOP * frame for frame in range(frames(samples))]
    assert [chunk.end is None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(len(chunk.wave) == SMALL.chunk for chunk in chunks[:-1])


def test_seams_lie_in_the_middle_of_overlaps() -> None:
    first, second, *_ = SMALL.cut(iter([np.zeros(200, np.float32)]))
    assert first.first == 0
    assert first.end is not None
    assert (SMALL.chunk - HOP * first.end, HOP * second.first) == (SMALL.overlap // 2, SMALL.overlap // 2)


def test_no_samples_is_one_empty_chunk() -> None:
    (chunk,) = SMALL.cut(iter([]))
    assert isinstance(chunk, Chunk)
    assert (len(chunk.wave), chunk.first, chunk.end) == (0, 0, None)


def test_sizes_are_rounded_to_the_frame_grid() -> None:
    assert Chunking.plan(20.0, 4.0, hop=320, receptive=400) == Chunking(320_000, 64_000, 320)
    odd = Chunking.plan(1.01, 0.33, hop=320, receptive=400)
    assert odd.chunk % 640 == odd.overlap % 640 == 0
    assert abs(odd.chunk - 1.01 * 16_000) <= 320


@pytest.mark.parametrize("overlap", [0.0, 0.02, 10.5, -1.0])
def test_overlaps_that_cannot_work_are_refused(overlap: float) -> None:
    with pytest.raises(ConfigError, match=r"overlap_seconds = .* must lie between 0\.08 .* half of chunk_seconds = 20"):
        Chunking.plan(20.0, overlap, hop=320, receptive=400)


def test_memory_does_not_grow_with_the_recording() -> None:
    def long() -> "object":
        for _ in range(1800):  # half an hour: 115 MB as float32
            yield np.zeros(16_000, np.float32)

    chunking = Chunking.plan(20.0, 4.0, hop=320, receptive=400)
    tracemalloc.start()
    count = sum(1 for _ in chunking.cut(long()))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == -(-(1800 - 4) // 16)
    assert peak < 8e6


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_files_of_any_rate_give_16_khz_chunks(tmp_path, rate: int) -> None:
    time = np.arange(int(5.3 * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), rate)
    chunking = Chunking.plan(2.0, 0.5, hop=320, receptive=400)
    chunks = list(read_chunks(tmp_path / "a.wav", chunking))
    step = chunking.chunk - chunking.overlap
    total = (len(chunks) - 1) * step + len(chunks[-1].wave)
    assert total == pytest.approx(5.3 * 16_000, abs=2)
    for number, chunk in enumerate(chunks):
        assert chunk.wave.dtype == np.float32
        expected = 0.3 * np.sin(2 * np.pi * 440 * (np.arange(len(chunk.wave)) + number * step) / 16_000)
        middle = slice(400, -400)
        np.testing.assert_allclose(chunk.wave[middle], expected[middle], atol=0.01)


def test_bad_files_are_audio_errors(tmp_path) -> None:
    (tmp_path / "page.wav").write_text("<html>not found</html>")
    with pytest.raises(AudioError, match=r"page.wav: not_audio"):
        list(read_chunks(tmp_path / "page.wav", SMALL))
