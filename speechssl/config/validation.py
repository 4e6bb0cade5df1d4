"""Settings of the held-out part of pretraining: which audio is never trained on, so that learning can be judged."""

from dataclasses import dataclass

from speechssl.core.errors import ConfigError

__all__ = ["ValidationConfig"]


@dataclass(frozen=True)
class ValidationConfig:
    """Utterances that pretraining holds out. They are chosen by their ids alone, not by the seed."""

    share: float = 0.01
    """Share of the audio that is held out; 0 for none. Of a small corpus it is a minute, but at most 5 %."""
    seconds: float = 600.0
    """Most audio that is held out. More costs time and makes the curve no smoother."""
    ids: tuple[str, ...] = ()
    """Files with one utterance id a line, held out instead of a share (whole speakers, a published list)."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ConfigError(f"validation.share = {self.share:g}: use 0 (none) to 0.5")
        if self.seconds <= 0:
            raise ConfigError(f"validation.seconds = {self.seconds:g}: use more than 0; share = 0 turns validation off")
