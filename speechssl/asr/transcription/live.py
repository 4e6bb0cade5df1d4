"""Transcription of a pipe: words are printed while the recording is still running.

In: 16-bit mono PCM at 16 kHz from a file descriptor, raw or behind a WAV header. Out: words, each at most
``step_seconds + lookahead_seconds`` and the time of one computation after the frame that ends it.
"""

import os
import struct
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from speechssl.asr.ctc import CtcModel
from speechssl.asr.recognise import listener
from speechssl.asr.transcription.forced_alignment import Word
from speechssl.asr.transcription.longform import Samples, regroup
from speechssl.asr.transcription.stretches import CutRule, decode_stream
from speechssl.asr.transcription.transcribe import Recogniser
from speechssl.config import LiveConfig, TranscribeConfig
from speechssl.core.errors import AudioError, ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.audio.formats import sniff
from speechssl.data.audio.mpeg import frame_size

__all__ = ["live_words", "pcm_blocks", "sliding_log_probs"]

_READ_BYTES = 65_536
_HEAD_BYTES = 4096
_FRAMES = 3
_MAYBE = (b"\xff", b"\x47")  # AAC and transport streams are recognised by consecutive frames
_MPEG_BYTES = 8192  # holds that many frames of any MP3
_HOW = "send 16-bit mono PCM at 16 kHz: ffmpeg -i INPUT -f s16le -ac 1 -ar 16000 - | speechssl transcribe -"


def pcm_blocks(descriptor: int) -> Iterator[Samples]:
    """Yield float32 samples as they arrive; an odd last byte is dropped.

    Raises
    ------
    AudioError
        ``not_pcm``: a WAV header promises something else, or the bytes are another audio format. ``empty``: no sample.
    """
    pending = b""
    head = True
    given = 0
    while data := os.read(descriptor, _READ_BYTES):
        pending += data
        if head:
            if len(pending) < 12:
                continue
            start = _after_header(pending)
            if start is None:
                continue  # a header that is not complete yet
            pending, head = pending[start:], False
        whole = len(pending) // 2 * 2
        if whole:
            yield np.frombuffer(pending[:whole], "<i2").astype(np.float32) / 32768.0
            given += whole
        pending = pending[whole:]
    if head and len(pending) >= 2 and not pending.startswith(b"RIFF"):  # shorter than any header: raw samples
        yield np.frombuffer(pending[: len(pending) // 2 * 2], "<i2").astype(np.float32) / 32768.0
        given += len(pending)
    if not given:
        raise AudioError("-", "empty", f"no sample came through the pipe; {_HOW}")


def _after_header(data: bytes) -> int | None:
    """Return where the samples begin; None when more bytes are needed to decide."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        position, form = 12, b""
        while position + 8 <= len(data):
            name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
            if name == b"data":
                _check_form(form)
                return position + 8
            if name == b"fmt ":
                form = data[position + 8 : position + 24]
            position += 8 + size + size % 2
        if len(data) > _HEAD_BYTES:
            raise AudioError("-", "not_pcm", f"a WAV header without samples; {_HOW}")
        return None
    kind = sniff(data)
    if kind in (None, "mp3") and data[:3] != b"ID3":  # a few samples may look like MPEG frames
        frames = _leading_frames(data)
        if frames is None and len(data) < _MPEG_BYTES:
            return None
        kind = "mp3" if frames else None
    if kind is None and data[:1] in _MAYBE and len(data) < _MPEG_BYTES:
        return None
    if kind is not None:
        raise AudioError("-", "not_pcm", f"this is {kind}; {_HOW}")
    return 0


def _leading_frames(data: bytes) -> bool | None:
    """Whether MPEG frames follow each other from the first byte on; None when there are too few bytes to decide."""
    position = 0
    for _ in range(_FRAMES):
        if position + 4 > len(data):
            return None
        size = frame_size(data[position : position + 4])
        if not size:
            return False
        position += size
    return True


def _check_form(form: bytes) -> None:
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form) if len(form) == 16 else (0,) * 6
    if tag not in (1, 0xFFFE) or (channels, rate, bits) != (1, SAMPLE_RATE, 16):
        said = f"the WAV header says {channels} channels, {rate} Hz, {bits} bits, format {tag}"
        raise AudioError("-", "not_pcm", f"{said}; {_HOW}")


def sliding_log_probs(
    model: CtcModel, blocks: Iterable[Samples], cfg: LiveConfig, *, bf16: bool = False
) -> Iterator[Tensor]:
    """Yield log-probabilities ``[F, V]`` of a running recording, each frame once.

    After each ``step_seconds`` the last ``window_seconds`` are recognised; frames of the last ``lookahead_seconds``
    wait for the next step, because what follows them is not known yet.

    Raises ConfigError when the sizes do not fit into each other.
    """
    hop, receptive = model.encoder.hop, int(model.encoder.frontend.receptive)
    step, window, ahead = (
        round(s * SAMPLE_RATE / hop) for s in (cfg.step_seconds, cfg.window_seconds, cfg.lookahead_seconds)
    )
    if step < 1 or ahead < 0 or step + ahead >= window:
        raise ConfigError(
            f"live.step_seconds = {cfg.step_seconds:g} and lookahead_seconds = {cfg.lookahead_seconds:g} must be "
            f"positive and together shorter than window_seconds = {cfg.window_seconds:g}"
        )
    wave = np.zeros(0, np.float32)
    start = done = 0  # frame at which ``wave`` begins; frames that were given
    hear = listener(model, bf16=bf16)

    def run() -> Tensor:
        return hear([torch.from_numpy(wave)])[0]

    for block in regroup(blocks, step * hop):
        wave = np.concatenate([wave, block])
        surplus = max(0, len(wave) // hop - window)
        wave, start = wave[surplus * hop :], start + surplus
        final = start + (len(wave) - receptive) // hop + 1 - ahead
        if len(block) == step * hop and final > done:
            yield run()[done - start : final - start]
            done = final
    if start + (len(wave) - receptive) // hop + 1 > done and len(wave) >= receptive:
        yield run()[done - start :]


def live_words(recogniser: Recogniser, blocks: Iterable[Samples], cfg: TranscribeConfig) -> Iterator[Word]:
    """Yield the words of a running recording.

    A search decoder (``cfg.decoder.kind`` other than greedy) gives its words at the next pause, or after
    ``max_stretch_seconds``.
    """
    model = recogniser.model
    silence = cfg.live.pause_seconds
    if cfg.decoder.kind == "greedy":
        rule = CutRule(0.0, 0.0, cfg.max_stretch_seconds, silence)
    else:
        rule = CutRule(0.0, 0.3, cfg.max_stretch_seconds, silence)
    log_probs = sliding_log_probs(model, blocks, cfg.live, bf16=recogniser.bf16)
    hop = model.encoder.hop / SAMPLE_RATE
    return decode_stream(log_probs, recogniser.decoder, recogniser.tokens, frame_seconds=hop, rule=rule)
