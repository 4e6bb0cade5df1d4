"""Recordings of a folder that are mixed into utterances: noise, impulse responses of rooms.

In: a folder, and the setting that names it. Out: one of its recordings, drawn by a generator. A recording is decoded
when it is first drawn, and then kept. What is pickled to loader processes are the paths.
"""

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np

from speechssl.core.errors import AudioError, ConfigError, DataError
from speechssl.data.audio.decode import decode, fit_scale, probe, to_int16
from speechssl.data.audio.formats import AUDIO_EXTENSIONS
from speechssl.data.batches.batch import FULL_SCALE

__all__ = ["Recordings"]

KEPT = 256
"""Recordings that a process keeps decoded."""
LONGEST = 60.0
"""Seconds that are read of a recording: at most 2 MB."""

logger = logging.getLogger("speechssl.data")


@dataclass(frozen=True)
class Recordings:
    """The recordings of a folder and of the folders in it, in the order of their paths; none without a folder."""

    paths: tuple[str, ...] = ()
    setting: str = ""
    """What names the folder, for messages."""

    @classmethod
    def of(cls, folder: str, setting: str) -> Self:
        """List a folder by the extensions of its files; nothing is read.

        Raises
        ------
        ConfigError
            There is no such folder, or no recording in it.
        """
        if not folder:
            return cls((), setting)
        found = [Path(root, name) for root, _, names in os.walk(folder) for name in names if not name.startswith(".")]
        paths = sorted(str(path.absolute()) for path in found if path.suffix.lower() in AUDIO_EXTENSIONS)
        if not paths:
            raise ConfigError(
                f"{setting} = {folder!r} holds no recording: give a folder of audio files (WAV, FLAC, Ogg ...), or "
                "leave the setting empty for simulated sound"
            )
        return cls(tuple(paths), setting)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return a recording, float32 [T]; one that cannot be read is passed over for the next.

        Raises
        ------
        DataError
            None of them can be read.
        """
        first = int(random.integers(len(self.paths)))
        for path in (*self.paths[first:], *self.paths[:first]):
            if (wave := _read(path, self.setting)) is not None:
                return wave.astype(np.float32) / FULL_SCALE
        raise DataError(f"{self.setting}: none of its {len(self.paths)} recordings can be read; the log names each")


@lru_cache(KEPT)
def _read(path: str, setting: str) -> np.ndarray | None:
    """Return the beginning of a recording as int16 [T], or None after a warning."""
    try:
        seconds = min(probe(Path(path)).duration, LONGEST)
        return to_int16(fit_scale(decode(Path(path), item=path, duration=seconds))[0])
    except AudioError as error:
        logger.warning("%s: %s is left out: %s", setting, path, error)
        return None
