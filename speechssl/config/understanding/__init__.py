"""Settings of features, probes and units: what a model has learned."""

from dataclasses import dataclass
from typing import Literal

from speechssl.config.understanding.hearing import Device, HearingConfig
from speechssl.core.errors import ConfigError

__all__ = ["TASKS", "BuiltInTask", "FeaturesConfig", "Pool", "ProbeConfig", "UnitsConfig"]

Pool = Literal["none", "mean", "mean_std"]


@dataclass(frozen=True)
class FeaturesConfig(HearingConfig):
    """Write the frames of a model's layers, or of a baseline, for each utterance."""

    layers: tuple[int, ...] = ()
    """Layers to write: 0 is the input of the first block, i the output of block i. Empty: all."""
    pool: Pool = "none"
    """``none``: every frame. ``mean``, ``mean_std``: one vector an utterance, mean or mean and deviation of frames."""
    format: Literal["safetensors", "npz"] = "safetensors"
    """Of the parts; each holds an array [layers, frames, dim] under the id of each utterance."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the arrays."""
    seed: int = 1
    """Of the random weights of ``random:MODEL``."""
    part_seconds: float = 600.0
    """Audio in one part: the most that an interrupted run computes again."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        super().__post_init__()
        if self.part_seconds <= 0 or min(self.layers, default=0) < 0:
            raise ConfigError("layers must be at least 0, part_seconds above 0")


@dataclass(frozen=True)
class BuiltInTask:
    """A task on one of the public sets."""

    field: str
    """Field of the manifest that is predicted."""
    kind: Literal["text", "class", "speaker", "frames"]
    prefix: str
    """Ids begin with it."""
    lists: tuple[str, str, str] | None = None
    """Files with the ids of train, dev and test, in the folder ``lists``."""


TASKS = {
    "libri-1h": BuiltInTask("text", "text", "libri_", ("libri-1h.txt", "libri-dev.txt", "libri-test.txt")),
    "an4": BuiltInTask("text", "text", "an4_", ("an4-train.txt", "an4-dev.txt", "an4-test.txt")),
    "libri-speakers": BuiltInTask("speaker", "speaker", "libri_mini_"),
    "an4-speakers": BuiltInTask("speaker", "speaker", "an4_"),
    "digits": BuiltInTask("text", "class", "fsdd_"),
    "keywords": BuiltInTask("text", "class", "wakewords_"),
    "drinks": BuiltInTask("meta.intent.slots.coffeeDrink", "class", "coffee_commands_"),
    "sound-events": BuiltInTask("meta.noise_class", "class", "noise_"),
}
"""Name -> task: characters, speakers, digits, key words, slots of intents, sound events (ESC-10)."""


@dataclass(frozen=True)
class ProbeConfig:
    """Train small heads on the frozen layers of a model."""

    data: str = ""
    """Manifest or shards."""
    output: str = "runs/probe"
    """Folder for the results, the probes and the features, which later probes use again."""
    features: str = ""
    """Folder of the kept features. Empty: ``features`` in ``output``."""
    kind: Literal["auto", "text", "class", "speaker", "frames"] = "auto"
    """``text``: CTC. ``class``: one label an utterance. ``speaker``: identification and verification. ``frames``: a
    label or a number a frame. ``auto``: by the task's name: text, speaker, pitch, energy, phones."""
    tokens: Literal["characters", "words"] = "characters"
    """Labels of ``text``: characters, or what stands between spaces, such as phones."""
    alignment: str = ""
    """Times of phones, for the task ``phones``: a CTM or ABX item file, or a folder of TextGrid files."""
    lists: str = ""
    """Folder with the lists of ids that some built-in tasks name."""
    train_ids: str = ""
    """File with one utterance id a line. Empty: the utterances of split train, or without a split."""
    dev_ids: str = ""
    """As ``train_ids``; empty: split dev. Without any, a tenth of the training utterances is used."""
    test_ids: str = ""
    """As ``train_ids``; empty: split test. Without any, another tenth."""
    heads: tuple[Literal["linear", "mlp", "lstm", "knn"], ...] = ("linear", "mlp")
    """Heads to train; ``knn`` needs no training, and is not for text."""
    rates: tuple[float, ...] = (1e-2, 3e-3, 1e-3)
    """Learning rates that are tried with the first seed; dev chooses."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Each trains a head with the chosen rate."""
    steps: int = 1000
    """Updates of a head; the best on dev of ten looks is kept."""
    batch: int = 16
    """Utterances an update; of pooled features four times as many."""
    hidden: int = 256
    """Width of ``mlp``, and of both directions of ``lstm`` together."""
    pool: Literal["mean", "mean_std"] = "mean_std"
    """How frames become one vector, for ``class`` and ``speaker`` with ``linear``, ``mlp`` and ``knn``."""
    layers: tuple[int, ...] = ()
    """Layers to use. Empty: all."""
    shuffle_labels: bool = False
    """Permute the training and dev labels over the utterances: what remains is chance."""
    stack: int = 2
    """As in ``features``."""
    bootstrap: int = 2_000
    """Resamples for the 95 % intervals."""
    device: Device = "auto"
    """``auto`` takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        if not self.heads or not self.rates or not self.seeds:
            raise ConfigError("heads, rates and seeds need at least one value each")
        if min(self.steps, self.batch, self.bootstrap) < 1 or self.hidden < 2 or self.hidden % 2:
            raise ConfigError("steps, batch and bootstrap must be at least 1, hidden an even number of at least 2")


@dataclass(frozen=True)
class UnitsConfig(HearingConfig):
    """Cluster the frames of a layer, label utterances, and say how good the units are."""

    layer: int = -1
    """As in ``features``; -1: the last one. ``logmel`` and ``mfcc`` have layer 0."""
    clusters: int = 100
    """Number of units."""
    hours: float = 2.0
    """Audio that the k-means is fitted on."""
    seeds: tuple[int, ...] = (1,)
    """A k-means each; the units are those of the first, the qualities of all are written."""
    starts: int = 5
    """Random starts of a k-means, of which the best goes on."""
    kmeans: str = ""
    """File ``kmeans.npz`` of an earlier run, used instead of a new fit."""
    alignment: str = ""
    """Times of phones: a CTM or ABX item file, or a folder of TextGrid files. Empty: no comparison with phones."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        super().__post_init__()
        if not self.seeds or self.clusters < 2 or self.starts < 1 or self.hours <= 0 or self.layer < -1:
            raise ConfigError("units: seeds is empty, or clusters, starts, hours or layer is too small")
