"""espeak-ng, a real speech synthesiser, through ctypes: text and a voice in, samples at 16 kHz and phones out.

espeak-ng is GPL: it is loaded at run time from the optional `espeakng-loader` wheel and never linked into the package.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from speechssl.core.errors import DataError
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["Espeak", "library_paths"]


# espeak_ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS, _INITIALIZE_DONT_EXIT = 0x0001, 0x8000
_EVENT_LIST_TERMINATED, _EVENT_PHONEME = 0, 7
_RATE, _VOLUME, _PITCH = 1, 2, 3
_POSITION_IN_CHARACTERS = 1
_TEXT_IS_UTF8 = 1
_NOISE_SEED = 1
_HEADROOM = 70  # per cent of the full volume: some variants clip above it


class _Event(ctypes.Structure):
    """``espeak_EVENT``; of its last member, a union, the name of a phone is used."""

    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("name", ctypes.c_char * 8),
    )  # fmt: skip


def library_paths() -> tuple[str, str]:
    """Return the paths of the espeak-ng library and of the folder that holds its data."""
    try:
        import espeakng_loader
    except ImportError:
        raise DataError(
            "the synthetic corpus needs the espeak-ng speech synthesiser: pip install 'speechssl[demo]'"
        ) from None
    return str(espeakng_loader.get_library_path()), str(Path(espeakng_loader.get_data_path()).parent)


class Espeak:
    """espeak-ng through ctypes. The library is one global state: one a process.

    It also carries noise and flutter from one utterance to the next: equal samples need an equal history.
    """

    def __init__(self) -> None:
        library, data = library_paths()
        self._espeak = ctypes.CDLL(library)
        self._espeak.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._chunks: list[bytes] = []
        self._starts: list[tuple[int, str]] = []
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = signature(self._collect)  # kept alive: the library holds a raw pointer to it
        options = _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_DONT_EXIT
        self.rate = int(self._espeak.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), options))
        if self.rate <= 0:
            raise DataError(f"espeak-ng could not start with its data in {data}")
        self._espeak.espeak_SetSynthCallback(self._callback)
        self._espeak.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))  # by default it seeds itself from the clock
        self._variants = Path(data) / "espeak-ng-data" / "voices" / "!v"

    def _collect(self, samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        for event in events or ():
            if event.type == _EVENT_LIST_TERMINATED:
                break
            if event.type == _EVENT_PHONEME:
                self._starts.append((event.sample, event.name.decode()))
        return 0

    @property
    def phones(self) -> list[tuple[float, str]]:
        """Start in seconds and name of each phone that was last said, without stress; ``sil`` for a pause."""
        return [
            (sample / self.rate, "sil" if name.startswith("_") else name.lstrip("',")) for sample, name in self._starts
        ]

    def set_voice(self, name: str, *, rate: int, pitch: int) -> None:
        """Choose a voice (`accent+variant`), its rate in words a minute and its pitch from 0 to 100."""
        variant = name.partition("+")[2]
        # The library silently ignores an unknown variant.
        known = not variant or (self._variants / variant).is_file()
        if not known or self._espeak.espeak_SetVoiceByName(name.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {name!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_VOLUME, _HEADROOM)):
            self._espeak.espeak_SetParameter(parameter, value, 0)

    def say(self, text: str) -> np.ndarray:
        """Return int16 samples at 16 kHz, shape `[T]`."""
        self._chunks.clear()
        self._starts.clear()
        raw = text.encode() + b"\0"
        status = self._espeak.espeak_Synth(raw, len(raw), 0, _POSITION_IN_CHARACTERS, 0, _TEXT_IS_UTF8, None, None)
        spoken = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        if status != 0 or spoken.size == 0:
            raise DataError(f"espeak-ng said nothing for {text!r} (status {status})")
        resampled = soxr.resample(spoken.astype(np.float32), self.rate, SAMPLE_RATE, quality="HQ")
        return np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
