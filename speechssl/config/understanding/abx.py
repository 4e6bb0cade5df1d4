"""Settings of ABX: how well frames tell phones apart, without training."""

from dataclasses import dataclass
from typing import Literal

from speechssl.config.understanding.hearing import HearingConfig
from speechssl.core.errors import ConfigError

__all__ = ["AbxConfig", "Distance"]

Distance = Literal["angular", "euclidean"]


@dataclass(frozen=True)
class AbxConfig(HearingConfig):
    """Measure how well the layers of a model tell phones apart (ABX)."""

    alignment: str = ""
    """Times of phones: a CTM or ABX item file, or a folder of TextGrid files."""
    speakers: tuple[Literal["within", "across"], ...] = ("within", "across")
    """``within``: A, B and X are of one speaker. ``across``: X is of another speaker than A and B."""
    span: Literal["triphone", "phone"] = "triphone"
    """What an item covers: a phone with its two neighbours, or the phone alone. An ABX item file has its own times."""
    context: Literal["within", "any"] = "within"
    """``within``: A, B and X have the same neighbours. ``any``: whatever they have; for ``span`` phone."""
    distance: Distance = "angular"
    """Of two frames: their angle over pi, or ``euclidean``."""
    layers: tuple[int, ...] = ()
    """Layers to measure. Empty: all."""
    max_items: int = 10
    """Items of a phone, context and speaker; more are drawn at random."""
    max_speakers: int = 5
    """Speakers of X for each A, with ``across``; more are drawn at random."""
    silences: tuple[str, ...] = ("sil", "sp", "spn", "pau", "h#", "<eps>", "<sil>", "_", "_:")
    """Labels that are neither phones nor neighbours, in any case of letters. An ABX item file is taken as it is."""
    features: str = ""
    """Folder of the kept frames. Empty: ``features`` in the output folder."""
    bootstrap: int = 2_000
    """Resamples of speakers for the 95 % intervals."""
    seed: int = 1
    """Of what is drawn, and of the random weights of ``random:MODEL``."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        super().__post_init__()
        if not self.speakers or min(self.max_items, self.max_speakers, self.bootstrap) < 1:
            raise ConfigError("abx: speakers is empty, or max_items, max_speakers or bootstrap is below 1")
        if self.max_items == 1 and "within" in self.speakers:
            raise ConfigError("abx.max_items = 1: within speakers A and X are two items of one phone; give 2 or more")
        if self.context == "any" and self.span == "triphone" and not self.alignment.endswith(".item"):
            raise ConfigError(
                "abx: triphones differ in their neighbours by themselves; --context any needs --span phone"
            )
