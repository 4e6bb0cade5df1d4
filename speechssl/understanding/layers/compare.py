"""Layers of models compared: with each other, and with log-mel, phones, words and speakers.

In: models, a manifest or shards. Out: ``layers.json``, ``ledger.jsonl``, and the same figures for a page.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from speechssl.config import LayersConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import read_json, write_json
from speechssl.core.ledger import Ledger
from speechssl.core.progress import progress
from speechssl.core.randomness import generator, key
from speechssl.core.spectrum import effective_rank
from speechssl.understanding.alignment import alignment_of
from speechssl.understanding.extractors import BASELINES, Extractor, open_extractor
from speechssl.understanding.layers.measures import anisotropy, cka, held_out_cca, linear_probe, one_hot
from speechssl.understanding.layers.sample import Sample, draw_frames
from speechssl.understanding.recordings import open_recordings, read_ids
from speechssl.understanding.unit_quality import against_phones, contingency

__all__ = ["MOST_MODELS", "Layers", "LayersResult", "compare_layers", "named_models", "read_layers"]

MOST_MODELS = 4
"""Curves that a chart can tell apart."""
LETTERS = "ABCD"
LEAST = 5
"""Frames, or spoken words, that each half must have of a label; others are left out."""


@dataclass(frozen=True)
class Layers:
    """One model."""

    name: str
    model: str
    hop: int
    dim: int
    layers: tuple[int, ...]
    values: dict[str, list[float]]
    """A value a layer. ``cca_logmel``, ``cca_phones``, ``cca_words``, ``cca_speakers``: mean held-out canonical
    correlation; with ``_spread``, half the difference of its two halves. ``probe_phones``, ``probe_speakers``: share of
    frames that a linear classifier names; with ``_chance``, the share of the most frequent label. ``mi_phones``,
    ``mi_speakers``: mutual information of k-means clusters with labels, over the entropy of the labels; with
    ``_chance``, that of permuted labels. ``effective_rank``, ``anisotropy``."""


@dataclass(frozen=True)
class LayersResult:
    """All models."""

    models: list[Layers]
    cka: dict[tuple[int, int], np.ndarray]
    """(first model, second model) -> [layers, layers]; of each model with itself, and each pair once."""
    facts: dict[str, float | int]
    """Number of frames, utterances, seconds, phones, speakers, words, and spoken words."""
    notes: list[str]
    """What was not measured, and what limits the figures."""


def compare_layers(models: Sequence[str], place: str, cfg: LayersConfig) -> LayersResult:
    """Measure the layers of one to four models on the same frames, and write ``layers.json``.

    Parameters
    ----------
    models
        What ``features`` takes, each as ``MODEL`` or ``NAME=MODEL``.
    place
        A manifest or shards.

    Raises
    ------
    ConfigError
        Too many models, or two of one name.
    DataError
        Too few utterances, too many unreadable ones, an alignment of others, or frames that are not finite.
    """
    named = named_models(models)
    recordings, utterances = open_recordings(place, splits=cfg.splits, ids=read_ids(cfg.ids) if cfg.ids else None)
    phones = alignment_of(recordings.ids, cfg.alignment, place) if cfg.alignment else {}
    words = alignment_of(recordings.ids, cfg.words, place, "words") if cfg.words else {}
    extractors = [open_extractor(model, stack=cfg.stack, seed=cfg.seed, device=cfg.device) for _, model in named]
    speakers = {item: utterance.speaker for item, utterance in utterances.items()}
    output = Path(cfg.output)
    ledger = Ledger(output / "ledger.jsonl", fresh=True)
    sample = draw_frames(recordings, extractors, ledger, cfg, speakers=speakers, phones=phones, words=words)
    for (_, model), layers in zip(named, sample.models, strict=True):
        if not all(np.isfinite(x).all() for x in layers):
            raise DataError(f"{model}: frames that are not finite; the model has diverged")
    labels = {"phones": _known(sample.phones, sample.half), "speakers": _known(sample.speakers, sample.half)}
    known = _known(sample.words, sample.words_half)
    found = _measured(named, extractors, sample, labels, cfg)
    if any(known):
        _add_words(found, sample, known)
    pairs = [(a, b) for a in range(len(found)) for b in range(a, len(found))]
    similar = {(a, b): cka(sample.models[a], None if a == b else sample.models[b]) for a, b in pairs}
    facts = {
        "frames": len(sample.phones), "utterances": sample.utterances, "seconds": round(sample.seconds, 2),
        **{name: len(set(own) - {None}) for name, own in labels.items()},
        "words": len(set(known) - {None}), "spoken_words": sum(word is not None for word in known),
    }  # fmt: skip
    result = LayersResult(found, similar, facts, _notes(found, facts, cfg))
    document = {
        "data": place, "settings": asdict(cfg), "facts": facts, "notes": result.notes,
        "models": [asdict(item) for item in found],
        "cka": [
            {"first": found[a].name, "second": found[b].name, "values": x.tolist()} for (a, b), x in similar.items()
        ],
    }  # fmt: skip
    write_json(output / "layers.json", document, allow_nan=False)
    return result


def read_layers(path: Path) -> LayersResult:
    """Return what `compare_layers` has written; DataError when the file is missing or damaged."""
    found = read_json(path, "delete it to measure the layers again")
    models = [Layers(**{**item, "layers": tuple(item["layers"])}) for item in found["models"]]
    places = {item.name: place for place, item in enumerate(models)}
    similar = {(places[pair["first"]], places[pair["second"]]): np.array(pair["values"]) for pair in found["cka"]}
    return LayersResult(models, similar, found["facts"], found["notes"])


def named_models(models: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, model) of each ``MODEL`` or ``NAME=MODEL``; without a name it is that of a baseline, or a letter.

    Raises ConfigError for too many models, or two of one name.
    """
    named = []
    for letter, text in zip(LETTERS, models, strict=False):
        name, equals, model = text.partition("=")
        given = bool(equals) and "/" not in name
        named.append((name, model) if given else (text if text in BASELINES else letter, text))
    names = [name for name, _ in named]
    if len(models) > MOST_MODELS or not models:
        raise ConfigError(f"one to {MOST_MODELS} models are compared, not {len(models)}")
    if len(set(names)) < len(names) or not all(names):
        raise ConfigError(f"each model needs a name of its own, not {', '.join(names)}; give NAME=MODEL")
    return named


def _known(labels: Sequence[str | None], half: np.ndarray) -> list[str | None]:
    """Return the labels without those that are rare in a half; none at all where fewer than two are left."""
    counts = Counter(zip(labels, half.tolist(), strict=True))
    both = {label for label in set(labels) if min(counts[label, False], counts[label, True]) >= LEAST} - {None}
    return [label if label in both and len(both) > 1 else None for label in labels]


def _measured(
    named: Sequence[tuple[str, str]],
    extractors: Sequence[Extractor],
    sample: Sample,
    labels: dict[str, list[str | None]],
    cfg: LayersConfig,
) -> list[Layers]:
    found: list[Layers] = []
    total = sum(len(extractor.layers) for extractor in extractors)
    with progress("measures", unit="layers") as advance:
        for (name, model), extractor, layers in zip(named, extractors, sample.models, strict=True):
            values: dict[str, list[float]] = {}
            for x in layers:
                for measure, value in _of_layer(x, sample, labels, cfg).items():
                    values.setdefault(measure, []).append(value)
                advance(sum(len(item.layers) for item in found) + len(values["anisotropy"]), total)
            found.append(Layers(name, model, extractor.hop, extractor.dim, extractor.layers, values))
    return found


def _add_words(models: Sequence[Layers], sample: Sample, known: Sequence[str | None]) -> None:
    """Add the correlations of mean-pooled words with their identity."""
    there = np.array([word is not None for word in known])
    target, half = one_hot([word for word in known if word is not None]), sample.words_half[there]
    for item, layers in zip(models, sample.pooled, strict=True):
        for x in layers:
            for measure, value in _correlation("words", held_out_cca(x[there], target, half)).items():
                item.values.setdefault(measure, []).append(value)


def _of_layer(
    x: np.ndarray, sample: Sample, labels: dict[str, list[str | None]], cfg: LayersConfig
) -> dict[str, float]:
    values = {"effective_rank": effective_rank(x), "anisotropy": anisotropy(x)}
    values |= _correlation("logmel", held_out_cca(x, sample.log_mel, sample.half))
    clusters: np.ndarray | None = None
    for name, known in labels.items():
        there = np.array([label is not None for label in known])
        if not there.any():
            continue
        if clusters is None:
            clusters = _clusters(x, cfg)
        given, half = [label for label in known if label is not None], sample.half[there]
        values |= _correlation(name, held_out_cca(x[there], one_hot(given), half))
        values[f"probe_{name}"] = sum(linear_probe(x[there], given, half)) / 2
        values[f"probe_{name}_chance"] = max(Counter(given).values()) / len(given)
        permuted = generator("layers-chance", cfg.seed, name).permutation(np.flatnonzero(there))
        shuffled = list(known)
        for place, other in zip(np.flatnonzero(there).tolist(), permuted.tolist(), strict=True):
            shuffled[place] = known[other]
        for measure, own in ((f"mi_{name}", known), (f"mi_{name}_chance", shuffled)):
            values[measure] = against_phones(contingency({"": clusters}, {"": own}, cfg.clusters)[0])["pnmi"]
    return values


def _correlation(name: str, halves: tuple[float, float]) -> dict[str, float]:
    first, second = halves
    return {f"cca_{name}": (first + second) / 2, f"cca_{name}_spread": abs(first - second) / 2}


def _clusters(x: np.ndarray, cfg: LayersConfig) -> np.ndarray:
    """Return the cluster of each frame: Lloyd's k-means from one start of k-means++."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct frames than clusters: then some are empty
        seed = key("layers-clusters", cfg.seed) % (1 << 32)
        return np.asarray(KMeans(cfg.clusters, n_init=1, max_iter=50, random_state=seed).fit_predict(x))


def _notes(models: Sequence[Layers], facts: dict[str, float | int], cfg: LayersConfig) -> list[str]:
    notes = []
    if not facts["phones"]:
        what = f"two of them need {LEAST} frames in each half" if cfg.alignment else "--alignment gives their times"
        notes.append(f"Phones were not measured: {what}.")
    if not facts["words"]:
        what = f"two of them must be spoken {LEAST} times in each half" if cfg.words else "--words gives their times"
        notes.append(f"Words were not measured: {what}.")
    if not facts["speakers"]:
        notes.append("Speakers were not measured: two of them need two utterances each that the manifest names.")
    if len({item.hop for item in models}) > 1:
        notes.append("The models differ in frame rate: each frame of the slowest is paired with the nearest of others.")
    widest = max(item.dim for item in models)
    if facts["frames"] < 10 * widest:
        notes.append(
            f"{facts['frames']:,} frames are few for layers of {widest} dimensions, and correlations are too low; "
            "raise --frames and --minutes."
        )
    if 0 < facts["spoken_words"] < 10 * widest:
        notes.append(
            f"{facts['spoken_words']:,} spoken words are few for layers of {widest} dimensions, and their correlations "
            "are too low; raise --minutes."
        )
    return notes
