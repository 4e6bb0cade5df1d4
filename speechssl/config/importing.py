"""Settings of ``import``: models of other libraries."""

from dataclasses import dataclass

__all__ = ["ImportConfig"]


@dataclass(frozen=True)
class ImportConfig:
    """Write a model of another library as a model folder, after a comparison of both on audio."""

    audio: tuple[str, ...] = ()
    """Recordings on which both are compared. Empty: noise with silence in it."""
    seconds: float = 10.0
    """Audio of each recording that is used, from its start; half a second of silence follows."""
    tolerance: float = 1e-4
    """Largest difference of a layer's output, relative to its largest value where that is above 1."""
