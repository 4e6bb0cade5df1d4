"""Chunks: a recording of any length as overlapping pieces whose frames join into those of the whole.

In: an audio file. Out: 16 kHz pieces in order, read once and in bounded memory, each with the frames it contributes.
Chunks start on the encoder's frame grid, and each seam lies in the middle of an overlap, so both sides have context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechssl.data.audio import SAMPLE_RATE, AudioFile, AudioLimits, mono
from speechssl.errors import ConfigError

__all__ = ["Chunk", "Chunking", "read_chunks"]

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """One piece of a recording."""

    wave: Samples
    """[T] at 16 kHz."""
    first: int
    """First of its frames that counts."""
    end: int | None
    """Its frames count up to here; None for the last chunk: to its end."""


@dataclass(frozen=True)
class Chunking:
    """Sizes in samples; ``chunk`` and ``overlap`` are multiples of twice the hop."""

    chunk: int
    overlap: int
    hop: int

    @classmethod
    def plan(cls, chunk_seconds: float, overlap_seconds: float, *, hop: int, receptive: int) -> "Chunking":
        """Round to the frame grid.

        Raises
        ------
        ConfigError
            The overlap is shorter than what one frame sees on both sides of a seam, or not shorter than half a chunk.
        """
        unit = 2 * hop
        chunk, overlap = (round(seconds * SAMPLE_RATE / unit) * unit for seconds in (chunk_seconds, overlap_seconds))
        least = -(-2 * receptive // unit) * unit
        if not least <= overlap <= chunk // 2:
            raise ConfigError(
                f"overlap_seconds = {overlap_seconds:g} must lie between {least / SAMPLE_RATE:g} (what frames beside a "
                f"seam see) and half of chunk_seconds = {chunk_seconds:g}"
            )
        return cls(chunk, overlap, hop)

    def cut(self, blocks: Iterator[Samples]) -> Iterator[Chunk]:
        """Cut a stream of 16 kHz blocks; holds one chunk and one block at a time."""
        half, step = self.overlap // 2 // self.hop, self.chunk - self.overlap
        held: list[Samples] = []
        size, first = 0, 0
        for block in blocks:
            held.append(block)
            size += len(block)
            while size > self.chunk:  # more follows, so this is not the last chunk
                wave = np.concatenate(held)
                yield Chunk(wave[: self.chunk], first, self.chunk // self.hop - half)
                held, size, first = [wave[step:]], size - step, half
        yield Chunk(np.concatenate(held) if held else np.zeros(0, np.float32), first, None)


def read_chunks(path: Path, chunking: Chunking, limits: AudioLimits | None = None) -> Iterator[Chunk]:
    """Read a file once, from front to end, as 16 kHz mono chunks.

    Raises
    ------
    AudioError
        The file is missing, is no audio, is damaged, or breaks a limit.
    """
    with AudioFile(path, str(path), limits or AudioLimits()) as audio:
        blocks = (mono(block) for block in audio.blocks())
        yield from chunking.cut(_at_16_khz(blocks, audio.info.sample_rate))


def _at_16_khz(blocks: Iterator[Samples], rate: int) -> Iterator[Samples]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
