"""Settings of the data side: manifests, shards, augmentation, batches."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.core.errors import ConfigError

__all__ = ["AugmentConfig", "DataConfig", "ManifestConfig", "MixConfig", "PseudoLabelsConfig", "ShardConfig"]


@dataclass(frozen=True)
class ManifestConfig:
    """How a folder of audio becomes ``manifest.jsonl``."""

    min_seconds: float = 0.1
    """Shorter recordings are rejected."""
    max_seconds: float = 30.0
    """Longer recordings are segmented at pauses; their transcripts are left out."""
    long_transcripts: bool = False
    """Keep a longer recording with a transcript as one utterance, for `speechssl align --format manifest` to cut."""
    max_file_seconds: float = 6 * 3600.0
    """Longer files are rejected before they are decoded."""
    segmenter: Literal["auto", "energy", "silero"] = "auto"
    """``auto`` takes silero-vad when it is installed."""
    dev_fraction: float = 0.05
    """Share of labelled audio kept for choosing between models."""
    test_fraction: float = 0.05
    """Share of labelled audio kept for the final score. Both are whole speakers, where speakers are known."""
    max_bad_fraction: float = 0.5
    """Stop when more than this share of the audio files is unusable (needs at least 20 files)."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder."""
    workers: int = 0
    """Processes that probe files; 0 takes one per core."""


@dataclass(frozen=True)
class ShardConfig:
    """How a manifest becomes webdataset shards at 16 kHz mono."""

    name: str = "shard"
    """Start of the shards' file names."""
    shard_seconds: float = 3600.0
    """Audio in one shard."""
    encoding: Literal["flac", "pcm16"] = "flac"
    """pcm16: WAV, twice the bytes of FLAC, and several times faster to read. The samples are the same."""
    channels: Literal["mean", "first"] = "mean"
    """How several channels become one."""
    seed: int = 0
    """Order of utterances over shards: keyed by (seed, id), so that each shard is a fair sample of the corpus."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of a window of 1,000 utterances, or 100 in a row, cannot be decoded."""
    workers: int = 0
    """Processes; 0 takes one per core. The bytes written do not depend on it."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of audio; each keyed by (seed, epoch, id)."""

    speeds: tuple[float, ...] = ()
    """Speed factors drawn uniformly, such as (0.9, 1.0, 1.1); empty for none."""
    gain_db: float = 0.0
    """The gain is drawn uniformly between minus and plus this, in decibels."""
    noise_snr_db: tuple[float, float] | None = None
    """Range of signal-to-noise ratios for added noise, white to pink or of ``data.noise``; None for none."""
    noise_prob: float = 0.5
    """Share of the utterances that noise is added to."""
    reverb_prob: float = 0.0
    """Share of the utterances that are heard in a room."""


@dataclass(frozen=True)
class MixConfig:
    """A mixture of corpora or languages: each batch is of one of them."""

    corpora: tuple[str, ...] = ()
    """Further folders or addresses of shards, beside ``shards``; their ids must differ."""
    by: Literal["none", "corpus", "language"] = "none"
    """What has a share of the batches: each folder of shards, or each language of the manifest. none: utterances of all
    corpora are mixed as they come."""
    temperature: float = 1.0
    """A share is proportional to hours to this power: 1 keeps the proportions, 0 gives equal shares."""
    weights: tuple[str, ...] = ()
    """Factors of shares, such as ``de=2`` or ``shards/de=2``; 1 for those that are not named."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"mix.temperature = {self.temperature:g}: give 0 (equal shares) or more")
        self.weight_of()
        if self.by == "none" and (self.weights or self.temperature != 1):
            raise ConfigError("mix.weights and mix.temperature need mix.by = 'corpus' or 'language'")

    def weight_of(self) -> dict[str, float]:
        """Return the weights by name; ConfigError when one is no positive number."""
        found = {}
        for text in self.weights:
            name, _, number = text.rpartition("=")
            try:
                found[name] = float(number)
            except ValueError:
                found[name] = 0.0
            if not name or not 0 < found[name] < float("inf"):
                raise ConfigError(f"mix.weights: {text!r}: give NAME=WEIGHT with a weight above 0")
        return found


@dataclass(frozen=True)
class DataConfig:
    """Which utterances make a batch, and how they are read."""

    shards: str = ""
    """Folder or address (http, s3, gs, az, hf) of shards; or tars of others: folder, tar or pattern
    (``x-{00..42}.tar``)."""
    cache: str = ""
    """Where remote shards are kept; empty for ``~/.cache/speechssl``."""
    cache_gb: float = 0.0
    """Gigabytes of remote shards that are kept; 0 for all. Those opened least recently make room."""
    mix: MixConfig = field(default_factory=MixConfig)
    splits: tuple[str, ...] = ("train",)
    """Splits of the shards to use."""
    ids: tuple[str, ...] = ()
    """Files with one utterance id a line; when given, only these utterances (of any split) are used."""
    noise: str = ""
    """Folder of recordings that augmentation takes noise from; empty: coloured noise is made."""
    reverb: str = ""
    """Folder of impulse responses that augmentation takes rooms from; empty: rooms are simulated."""
    min_seconds: float = 2.0
    """Shorter utterances are left out."""
    max_seconds: float = 15.6
    """Pretraining crops longer utterances to this; fine-tuning leaves longer ones out and lists them."""
    batch_seconds: float = 87.5
    """Audio in one micro-batch, padding included."""
    batches_per_step: int = 1
    """Micro-batches in one optimiser step, over all ranks. Each rank accumulates its part of them."""
    buckets: int = 16
    """Length buckets; utterances of one batch come from one bucket."""
    window_shards: int = 16
    """Utterances are mixed within windows of this many consecutive shards, so that reading stays nearly sequential."""
    workers: int = 2
    """Loader threads or processes; 0 builds batches when they are asked for. Batches do not depend on it."""
    loader: Literal["threads", "processes"] = "threads"
    """processes: each has an interpreter lock of its own, at the cost of memory and of copying every batch; for
    preparation in Python that holds the lock. Batches do not depend on it."""
    timeout: float = 300.0
    """Seconds without a batch after which the loader is taken to hang; an error."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of a window of 1,000 utterances, or 100 in a row, cannot be read."""


@dataclass(frozen=True)
class PseudoLabelsConfig:
    """Transcripts that a recogniser made, to fine-tune on beside the true ones."""

    labels: str = ""
    """``pseudo.jsonl`` of ``speechssl selftrain``: lines with the id of an utterance of the shards and its text."""
    true_share: float = 0.0
    """Share of the micro-batches that hold true transcripts, the others hold pseudo-labels (slimIPL, arXiv 2010.11524).
    0: all are mixed, in the proportions of the audio."""

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 <= self.true_share < 1:
            raise ConfigError(f"pseudo.true_share = {self.true_share}: at least 0 and below 1")
