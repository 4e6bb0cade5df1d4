"""Settings that every verb on representations shares: which utterances a model hears, and how."""

from dataclasses import dataclass
from typing import Literal

from speechssl.core.errors import ConfigError

__all__ = ["Device", "HearingConfig"]

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class HearingConfig:
    """What a model hears."""

    splits: tuple[str, ...] = ()
    """Splits to use. Empty: all utterances."""
    ids: str = ""
    """File with one utterance id a line; these utterances are used, of any split."""
    stack: int = 2
    """Frames of 10 ms that are joined into one, for ``logmel`` and ``mfcc``."""
    batch_seconds: float = 60.0
    """Audio in one forward pass, padding included."""
    max_bad_fraction: float = 0.01
    """Share of utterances that may be unreadable or too short."""
    device: Device = "auto"
    """``auto`` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        if self.stack < 1 or self.batch_seconds <= 0:
            raise ConfigError("stack must be at least 1, batch_seconds above 0")
