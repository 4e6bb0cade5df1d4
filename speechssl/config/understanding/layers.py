"""Settings of the comparison of layers."""

from dataclasses import dataclass

from speechssl.config.understanding.hearing import HearingConfig
from speechssl.core.errors import ConfigError

__all__ = ["LayersConfig"]


@dataclass(frozen=True)
class LayersConfig(HearingConfig):
    """Compare the layers of models with each other, and with log-mel, phones, words and speakers."""

    output: str = "runs/layers"
    """Folder for ``layers.json``, ``layers.txt`` and ``layers.html``."""
    alignment: str = ""
    """Times of phones: a CTM or ABX item file, or a folder of TextGrid files. Empty: no comparison with phones."""
    words: str = ""
    """Times of words, in files of the same forms; in TextGrid files, the tier ``words``. Empty: as without phones."""
    minutes: float = 10.0
    """Audio of the utterances that are drawn."""
    frames: int = 10_000
    """Frames that are drawn from them, about. Use at least ten times the width of a layer."""
    clusters: int = 100
    """Of the k-means whose clusters are compared with phones and speakers."""
    seed: int = 1
    """Of the draws, the k-means, and the random weights of ``random:MODEL``."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        super().__post_init__()
        if self.minutes <= 0 or self.frames < 10 or self.clusters < 2:
            raise ConfigError("layers: minutes must be above 0, frames at least 10, clusters at least 2")
