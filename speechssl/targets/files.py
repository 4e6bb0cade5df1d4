"""Units that were made elsewhere: read, checked against a corpus, and cut to the encoder's frames.

In: an ``.npz`` file with one integer array for each utterance id, one of our own tables, or JSON lines with ``id`` and
``units``. Out: a ``UnitTable`` of this corpus, and a ledger entry for everything that does not fit.
"""

import json
import statistics
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.ingest.ids import ABSENT
from speechssl.data.ingest.manifest import safe_id
from speechssl.data.store.reader import Corpus
from speechssl.targets.table import UnitTable

__all__ = ["FRAMES_TOLERATED", "UnitFile", "fit_units", "read_unit_file"]

FRAMES_TOLERATED = 2
"""Units more or less than the encoder has frames: libraries round the ends of an utterance in different ways."""
TABLE = {"ids", "offsets", "units", "header"}
SHOWN = 3


@dataclass(frozen=True)
class UnitFile:
    """What a file says."""

    path: Path
    labels: Mapping[str, np.ndarray]
    """[frames] integers for each utterance id, in the form that manifests use."""
    hop: int | None
    """Samples at 16 kHz from one unit to the next; None when the file does not say."""


@dataclass
class _Fit:
    """Utterances sorted by how their units fit."""

    kept: dict[str, np.ndarray] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    hops: list[float] = field(default_factory=list)
    """Samples for each unit where the lengths do not fit."""


def read_unit_file(path: Path) -> UnitFile:
    """Read a file of units.

    Raises
    ------
    DataError
        The file is missing or damaged, an utterance comes twice, or its units are not whole numbers from 0 on; the
        message names the line or the id.
    """
    if path.suffix == ".npz":
        return _npz(path)
    hops: set[int] = set()
    labels: dict[str, np.ndarray] = {}
    for where, row in _lines(path):
        if "hop" in row:
            if not isinstance(row["hop"], int) or row["hop"] < 1:
                raise DataError(f"{where}: hop = {row['hop']!r}: expected a number of samples at 16 kHz, such as 320")
            hops.add(row["hop"])
        if "id" not in row and "units" not in row and "hop" in row:
            continue  # one ledger line for the whole file
        if not isinstance(row.get("id"), str) or not isinstance(row.get("units"), list):
            raise DataError(
                f'{where}: expected {{"id": ..., "units": [...]}}, got the fields {", ".join(row) or "none"}'
            )
        name = safe_id(row["id"])
        if name in labels:
            raise DataError(f"{where}: the units of {row['id']!r} are given twice")
        labels[name] = _integers(row["units"], where)
    if len(hops) > 1:
        raise DataError(f"{path}: several hops ({', '.join(map(str, sorted(hops)))}); one file has one frame grid")
    return UnitFile(path, labels, hops.pop() if hops else None)


def fit_units(
    found: UnitFile,
    corpus: Corpus,
    rows: list[int],
    *,
    hop: int,
    given_hop: int,
    frames: Callable[[int], int],
    clusters: int,
    max_bad_fraction: float,
) -> tuple[UnitTable, list[Entry]]:
    """Return the units of a corpus on the encoder's frames, and an entry for everything left out.

    Parameters
    ----------
    rows
        Utterances that need units.
    hop, frames
        Samples from one frame of the encoder to the next; number of samples to number of frames.
    given_hop
        Hop of the file as the configuration says, 0 when it does not.
    clusters
        Units that the objective can predict.
    max_bad_fraction
        Share of the utterances that may be without fitting units.

    Raises
    ------
    ConfigError
        The hop of the units is unknown, contradicts the configuration, or is not that of the encoder.
    DataError
        Units beyond ``clusters``, or too many utterances without fitting units.
    """
    _check_hop(found, hop, given_hop)
    fit = _Fit()
    for row in rows:
        _place(found, corpus.ids[row], int(corpus.samples[row]), frames, fit)
    largest = max((int(units.max()) for units in fit.kept.values() if len(units)), default=0)
    if largest >= clusters:
        raise DataError(
            f"{found.path}: unit {largest} occurs, but objective.targets.clusters[0] = {clusters}: set it to "
            f"{largest + 1} or more"
        )
    if not fit.kept or len(fit.entries) > max_bad_fraction * len(rows):
        raise DataError(_too_few(found, fit, len(rows), corpus))
    known = set(corpus.ids)
    unknown = [name for name in found.labels if name not in known]
    if unknown:
        detail = f"{len(unknown):,} ids of the file are not in this run's data, such as {', '.join(unknown[:SHOWN])}"
        fit.entries.append(Entry("pretrain", str(found.path), ABSENT, detail, "dropped"))
    return UnitTable(fit.kept, n_units=clusters, hop=hop), fit.entries


def _place(found: UnitFile, name: str, samples: int, frames: Callable[[int], int], fit: _Fit) -> None:
    """Keep the units of one utterance, or say why not."""
    units, wanted = found.labels.get(name), frames(samples)
    if units is None:
        fit.entries.append(Entry("pretrain", name, "no_units", f"not in {found.path}", "dropped"))
    elif abs(len(units) - wanted) > FRAMES_TOLERATED:
        detail = f"{len(units)} units, {wanted} frames ({samples / SAMPLE_RATE:.2f} s)"
        fit.entries.append(Entry("pretrain", name, "wrong_number_of_units", detail, "dropped"))
        fit.hops.append(samples / max(1, len(units)))
    else:
        fit.kept[name] = units[:wanted]


def _check_hop(found: UnitFile, hop: int, given: int) -> None:
    if found.hop and given and found.hop != given:
        raise ConfigError(f"{found.path} says hop = {found.hop}, the configuration units_hop = {given}: leave one out")
    own = found.hop or given
    if not own:
        raise ConfigError(
            f"{found.path} does not say how far apart its units lie. Set units_hop (samples at 16 kHz: 320 for 50 a "
            f'second), or write {{"hop": {hop}}} as its first line (JSON lines) or an array "hop" (npz)'
        )
    if own != hop:
        raise ConfigError(
            f"{found.path}: its units lie {own} samples apart, the encoder's frames {hop}: make units for every {hop} "
            "samples, or use a stem with their hop (log-mel: model.frontend.stack x 160)"
        )


def _too_few(found: UnitFile, fit: _Fit, rows: int, corpus: Corpus) -> str:
    counts = {
        reason: sum(entry.reason == reason for entry in fit.entries) for reason in ("no_units", "wrong_number_of_units")
    }
    examples = ", ".join(f"{entry.item} ({entry.detail})" for entry in fit.entries[:SHOWN])
    text = (
        f"{found.path}: of {rows:,} utterances {counts['no_units']:,} have no units and "
        f"{counts['wrong_number_of_units']:,} a wrong number of them: {examples}. "
    )
    if fit.hops and counts["wrong_number_of_units"] > rows / 2:
        text += (
            f"By their lengths the units lie about {statistics.median(fit.hops):.0f} samples apart: is the hop right? "
        )
    if counts["no_units"] > rows / 2 and found.labels:
        text += f"Its ids are like {min(found.labels)!r}, those of the corpus like {min(corpus.ids)!r}. "
    return text + "Make the units that are missing, choose utterances with data.ids, or raise data.max_bad_fraction"


def _npz(path: Path) -> UnitFile:
    try:
        with np.load(path) as archive:
            names = set(archive.files)
            arrays = {} if names >= TABLE else {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: missing, damaged, or not an .npz file of integer arrays: {error}") from error
    if names >= TABLE:
        table = UnitTable.load(path)
        return UnitFile(path, table.labels(), table.hop)
    hop = arrays.pop("hop") if "hop" in arrays and arrays["hop"].ndim == 0 else None
    labels: dict[str, np.ndarray] = {}
    for item, values in arrays.items():
        name = safe_id(item)
        if name in labels:
            raise DataError(f"{path}: two arrays are the units of {name!r}")
        labels[name] = _integers(values, f"{path}, {item!r}")
    return UnitFile(path, labels, None if hop is None else int(hop))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, object) for each line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{where}: not JSON ({error.msg}); expected an object with id and units") from error
                if not isinstance(row, dict):
                    raise DataError(f"{where}: expected an object with id and units")
                yield where, row
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the units cannot be read: {error}. Use an .npz file or JSON lines") from error


def _integers(values: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(values) if len(values) else np.zeros(0, dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: units are one list of whole numbers: {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) and int(array.min()) < 0):
        raise DataError(
            f"{where}: units are one list of whole numbers from 0 on, got {array.dtype} {list(array.shape)}"
        )
    if len(array) and int(array.max()) >= 1 << 16:
        raise DataError(f"{where}: unit {int(array.max())}: use units below 65,536")
    return array.astype(np.uint16)
