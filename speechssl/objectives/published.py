"""What published runs reached, for reports: numbers, without any audio or weights.

wav2vec 2.0 BASE on LibriSpeech 960 h, a run for each size of batch: Vaessen & van Leeuwen (2024, arXiv 2402.13723; code
and tables: nanow2v2, MIT licence).
"""

from dataclasses import dataclass

__all__ = ["WAV2VEC2", "Published", "PublishedWer"]


@dataclass(frozen=True)
class Published:
    """A metric of published runs over audio seen, drawn behind that of a run with the same settings."""

    metric: str
    """Name of the metric; of held-out audio where a run measured it there."""
    axis: str
    scale: float
    """Factor from the metric to the unit of the axis."""
    settings: tuple[tuple[str, float], ...]
    """Settings of the objective without which the metric says something else, and their values."""
    updates: tuple[int, ...]
    values: tuple[tuple[float, tuple[float, ...]], ...]
    """Seconds of audio in an update, and the metric after each of ``updates``."""
    source: str
    """Sentences for the caption."""


@dataclass(frozen=True)
class PublishedWer:
    """Word error rates after fine-tuning over hours of audio in pretraining, drawn beside that of a run."""

    hours: tuple[float, ...]
    """Hours of audio in all updates of pretraining, ascending."""
    wers: tuple[tuple[float, tuple[float, ...]], ...]
    """Hours of labels, and the word error rate (1: as many errors as words) after each of ``hours``."""
    source: str
    """Sentences for the caption."""


UPDATES = (5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
SOURCE = (
    "Published: wav2vec 2.0 BASE on LibriSpeech, Vaessen & van Leeuwen (2024), with the size of their batch. Their "
    "curves are drawn as far as this run has come. Other audio, or another size of model, has other curves."
)
WAV2VEC2 = (
    Published(
        metric="accuracy",
        axis="Accuracy (%)",
        scale=100.0,
        settings=(("negatives", 100),),
        updates=UPDATES,
        values=(
            (87.5, (0.150, 0.163, 0.231, 0.276, 0.306, 0.348, 0.390)),
            (150.0, (0.144, 0.161, 0.250, 0.307, 0.340, 0.381, 0.427)),
            (300.0, (0.140, 0.212, 0.276, 0.339, 0.380, 0.422, 0.463)),
            (600.0, (0.175, 0.234, 0.309, 0.379, 0.423, 0.467, 0.502)),
            (1200.0, (0.202, 0.263, 0.340, 0.421, 0.463, 0.500, 0.529)),
            (2400.0, (0.244, 0.308, 0.384, 0.480, 0.513, 0.538, 0.554)),
            (4800.0, (0.252, 0.322, 0.416, 0.506, 0.536, 0.555, 0.563)),
        ),
        source=SOURCE,
    ),
    Published(
        metric="perplexity_0",
        axis="Perplexity of the first codebook",
        scale=1.0,
        settings=(("negatives", 100), ("entries", 320), ("groups", 2)),
        updates=UPDATES,
        values=(
            (87.5, (20, 27, 59, 75, 94, 113, 127)),
            (600.0, (15, 37, 68, 83, 124, 152, 211)),
            (2400.0, (38, 70, 119, 132, 141, 134, 136)),
        ),
        source=SOURCE,
    ),
    PublishedWer(
        hours=(9_700, 16_700, 33_000, 67_000, 133_000, 267_000, 407_000),
        wers=(
            (1, (1.02, 0.533, 0.390, 0.288, 0.251, 0.233, 0.219)),
            (10, (0.922, 0.345, 0.232, 0.163, 0.133, 0.111, 0.104)),
            (100, (0.447, 0.167, 0.124, 0.091, 0.074, 0.062, 0.059)),
        ),
        source=(
            "Published: wav2vec 2.0 BASE, test-clean of LibriSpeech, greedy decoding, 1, 10 and 100 hours of labels, "
            "Vaessen & van Leeuwen (2024). Their curves are drawn as far as this run has come. Other test sets have "
            "other word error rates."
        ),
    ),
)
