"""Recordings of any length through a recogniser: read once, front to end, in memory that does not grow.

In: an audio file, or blocks of samples. Out: frame-wise log-probabilities, block by block (models/chunked.py says what
a frame sees). Any sample rate; the blocks of the decoder do not matter.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.asr.ctc import CtcModel
from speechssl.core.errors import ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE, AudioFile, AudioLimits, mono, resampled
from speechssl.models.chunked import encode_locally, least_block
from speechssl.models.norm import at_least_float32

__all__ = ["block_frames", "local_log_probs", "read_blocks", "regroup"]

Samples = npt.NDArray[np.float32]
_LIMITS = AudioLimits()


def block_frames(model: CtcModel, seconds: float) -> int:
    """Return a block's length in frames; ConfigError when it is shorter than the model's own short context."""
    encoder = model.encoder
    frames = round(seconds * SAMPLE_RATE / encoder.hop)
    least = least_block(encoder)
    if frames < least:
        enough = least * encoder.hop / SAMPLE_RATE
        raise ConfigError(f"block_seconds = {seconds:g} is too short: this model needs {enough:.2g} or more")
    return frames


def read_blocks(path: Path, *, start: float = 0.0, duration: float | None = None) -> Iterator[Samples]:
    """Yield a file, or ``duration`` seconds of it from ``start`` on, as mono float32 blocks at 16 kHz.

    Raises AudioError when the file is missing, is no audio, is damaged, or breaks a limit; the error names the path.
    """
    with AudioFile(path, str(path), _LIMITS) as audio:
        rate = audio.info.sample_rate
        first, frames = round(start * rate), None if duration is None else round(duration * rate)
        if frames is not None and audio.info.frames >= 0:  # durations are rounded to milliseconds in manifests
            frames -= min(max(first + frames - audio.info.frames, 0), rate // 100)
        blocks = (mono(block) for block in audio.blocks(first, frames))
        if rate == SAMPLE_RATE:
            yield from blocks
            return
        yield from resampled(blocks, rate, SAMPLE_RATE)


def regroup(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """Yield the same samples in blocks of ``size``, the last one shorter; nothing for no samples."""
    held: list[Samples] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count < size:
            continue
        joined = np.concatenate(held)
        whole = count // size * size
        yield from (joined[start : start + size] for start in range(0, whole, size))
        held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)


@torch.inference_mode()
def local_log_probs(model: CtcModel, blocks: Iterable[Samples], block: int, *, bf16: bool = False) -> Iterator[Tensor]:
    """Yield log-probabilities ``[F, V]`` (CPU, float32) of one recording, at most ``block`` frames at a time.

    For a recording of up to two blocks they are those of ``frame_log_probs``, with the same meaning of ``bf16``.
    """
    device = next(model.parameters()).device
    waves = (torch.from_numpy(wave).to(device) for wave in regroup(blocks, block * model.encoder.hop))
    training = model.training
    model.eval()
    try:
        found = encode_locally(model.encoder, waves, block)
        while True:
            with torch.autocast(
                device.type, torch.bfloat16, enabled=bf16
            ):  # autocast ends before control returns to the caller
                x = next(found, None)
            if x is None:
                return
            yield torch.log_softmax(model.head(at_least_float32(x)).float(), dim=-1).cpu()
    finally:
        model.train(training)
