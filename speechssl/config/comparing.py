"""Settings of the comparison of evaluations."""

from dataclasses import dataclass

__all__ = ["CompareConfig"]


@dataclass(frozen=True)
class CompareConfig:
    """Compare systems that were scored on the same utterances."""

    output: str = "compare"
    """Folder for ``compare.html``, ``compare.json`` and ``compare.txt``."""
    baseline: str = ""
    """Name of the system that the others are compared with; empty for the first."""
    common: bool = False
    """Compare on the utterances that all systems share, instead of refusing systems scored on different ones."""
    shown: int = 10
    """Utterances listed as better, and as worse, for each system."""
    bootstrap: int = 2_000
    """Resamples for the 95 % intervals."""
    seed: int = 1
    """Seed of the resampling."""
