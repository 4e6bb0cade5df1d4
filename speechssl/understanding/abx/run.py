"""ABX of the layers of a model, from a corpus and an alignment.

In: a model, a manifest or shards, an alignment or an ABX item file. Out: ``abx.json``, ``abx.txt``, ``items.item`` (the
items, for other tools), and the features, which are computed once and kept.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from speechssl.config import AbxConfig, FeaturesConfig
from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic, write_json
from speechssl.core.progress import progress
from speechssl.core.text_table import interval_text, percent, text_table
from speechssl.understanding.abx.distances import pair_distances
from speechssl.understanding.abx.items import check_times, layer_frames, load_items, place_items
from speechssl.understanding.abx.triplets import Cells, Mode, Score, make_blocks
from speechssl.understanding.alignment import Item, item_lines
from speechssl.understanding.extractors import open_extractor
from speechssl.understanding.features import compute_features
from speechssl.understanding.recordings import open_recordings, read_ids

__all__ = ["AbxResult", "abx_text", "run_abx"]


@dataclass(frozen=True)
class AbxResult:
    """ABX errors of a model and what they were measured on."""

    model: str
    layers: dict[int, dict[Mode, Score]]
    counts: dict[Mode, dict[str, int]]
    """Mode -> cells, triplets, pairs of phones, speakers."""
    items: dict[str, int]
    """Items that were found, items in a triplet, those left out by reason; and other utterances of the alignment."""


def run_abx(model: str, place: str, output: Path, cfg: AbxConfig) -> AbxResult:
    """Measure the layers of a model, and write the results.

    Raises
    ------
    ConfigError
        No alignment was given, the layer is not there, or ``output`` holds features of something else.
    DataError
        The data cannot be used, or there is no triplet.
    """
    _, utterances = open_recordings(place, splits=cfg.splits, ids=read_ids(cfg.ids) if cfg.ids else None)
    items, others = load_items(cfg, utterances)
    _require_cells(items, cfg)
    recordings, _ = open_recordings(place, ids=sorted({item.file for item in items}))
    check_times(items, recordings, cfg.alignment)
    extractor = open_extractor(model, layers=cfg.layers, stack=cfg.stack, seed=cfg.seed, device=cfg.device)
    settings = FeaturesConfig(batch_seconds=cfg.batch_seconds, max_bad_fraction=cfg.max_bad_fraction)
    features = compute_features(recordings, extractor, Path(cfg.features or output / "features"), settings)
    placed = place_items(items, features)
    cells = _require_cells(placed.items, cfg)
    layers: dict[int, dict[Mode, Score]] = {layer: {} for layer in features.layers}
    with progress("abx", unit="layers") as advance:
        for number, layer in enumerate(features.layers):
            frames = layer_frames(placed, features, number)
            for mode, own in cells.items():
                distances = pair_distances(frames, placed.starts, placed.lengths, own.pairs, cfg.distance)
                layers[layer][mode] = own.score(distances, resamples=cfg.bootstrap, seed=cfg.seed)
            advance(number + 1, len(layers))
    used = np.unique(np.concatenate([own.pairs.ravel() for own in cells.values()]))
    numbers = {
        "found": len(items), "in triplets": len(used), **placed.left_out, "aligned utterances outside the data": others
    }  # fmt: skip
    result = AbxResult(model, layers, {mode: own.counts for mode, own in cells.items()}, numbers)
    write_atomic(output / "items.item", item_lines(items))
    about = {"model": model, "identity": extractor.identity, "settings": asdict(cfg)}
    rows = [
        {"layer": layer, **{mode: asdict(found) for mode, found in scores.items()}} for layer, scores in layers.items()
    ]
    write_json(output / "abx.json", about | {"items": result.items, "counts": result.counts, "layers": rows})
    write_atomic(output / "abx.txt", abx_text(result, cfg))
    return result


def _require_cells(items: list[Item], cfg: AbxConfig) -> dict[Mode, Cells]:
    """Return the cells of each mode; DataError that says what is missing where one has none."""
    found: dict[Mode, Cells] = {}
    any_context = cfg.context == "any"
    for mode in cfg.speakers:
        blocks = make_blocks(
            items, mode, any_context=any_context, max_items=cfg.max_items, max_speakers=cfg.max_speakers, seed=cfg.seed
        )
        if blocks:
            found[mode] = Cells(blocks, any_context=any_context)
            continue
        phones, speakers = ({getattr(item, name) for item in items} for name in ("label", "speaker"))
        have = f"{cfg.alignment}: {len(items):,} items, {len(phones)} phones, {len(speakers)} speakers"
        if mode == "across" and len(speakers) == 1:
            raise DataError(f"{have}: there is no triplet across speakers; use --speakers within")
        context = "" if any_context else " in one context"
        raise DataError(
            f"{have}: there is no triplet {mode} speakers. One needs two phones of one speaker{context}, and the first "
            f"once more from {'that' if mode == 'within' else 'another'} speaker. Use more audio"
            + ("" if any_context else ", or --span phone --context any")
        )
    return found


def abx_text(result: AbxResult, cfg: AbxConfig) -> str:
    """Return the results as text: what was measured, then one line a layer."""
    what = "items of an ABX file" if cfg.alignment.endswith(".item") else f"{cfg.span}s"
    lines = [
        f"{result.model}: ABX error in %, {what}, {cfg.context} context, {cfg.distance} distance; chance is 50",
        f"at most {cfg.max_items} items of a phone, context and speaker, and {cfg.max_speakers} speakers of X "
        f"(seed {cfg.seed}); 95 % intervals over speakers",
        "items: " + ", ".join(f"{count:,} {what}" for what, count in result.items.items() if count),
    ]
    lines += [
        f"{mode}: " + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items())
        for mode, counts in result.counts.items()
    ]
    rows = [
        [str(layer), *(text for own in scores.values() for text in _shown(own))]
        for layer, scores in result.layers.items()
    ]
    header = ["layer", *(text for mode in result.counts for text in (mode, "interval"))]
    return "\n".join([*lines, "", text_table(header, rows)])


def _shown(found: Score) -> tuple[str, str]:
    return percent(found.error), interval_text(*(found.interval or (None, None)))
