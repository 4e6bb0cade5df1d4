"""Pseudo-labels: the transcripts of a recogniser, of which those it is sure of become training data.

In: hypotheses of dev, with references, and of untranscribed audio, each with a confidence. Out: the lowest confidence
to accept, ``pseudo.jsonl`` (lines with ``id``, ``text``, ``confidence``, ``seconds``), and a ledger entry for each
utterance that says whether it was kept, and why not.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic
from speechssl.core.ledger import Entry
from speechssl.evaluation.wer.edit_distance import align_characters
from speechssl.evaluation.wer.hypotheses import Row
from speechssl.evaluation.wer.unspaced import is_unspaced

__all__ = [
    "STAGE",
    "Judged",
    "PseudoLabel",
    "Threshold",
    "error_rate",
    "judged",
    "lowest_confidence",
    "read_pseudo_labels",
    "read_rows",
    "select",
    "utterance_confidence",
    "write_rows",
]

STAGE = "selftrain"
"""Of ledger entries."""


@dataclass(frozen=True)
class PseudoLabel:
    """What a recogniser heard in one utterance."""

    id: str
    text: str
    confidence: float
    """Of the utterance, 0 to 1 (`utterance_confidence`)."""
    seconds: float


@dataclass(frozen=True)
class Judged:
    """A dev utterance: how sure the recogniser was, and how many errors it made."""

    confidence: float
    errors: int
    labels: int
    """Reference words; characters in a script without spaces between words."""
    recognised: bool
    """Whether the hypothesis has any word."""


@dataclass(frozen=True)
class Threshold:
    """The lowest confidence that is accepted, and what it means on dev."""

    confidence: float | None
    """None: no confidence is high enough."""
    dev_error: float | None
    """Error rate of the dev utterances that pass; None where none passes."""
    dev_share: float
    """Share of the dev utterances that pass."""


def utterance_confidence(words: Sequence[float]) -> float:
    """Return the mean confidence of the words: the expected share of right words, where confidences are calibrated.

    Without words it is 0: that nothing was heard has no confidence.
    """
    return fmean(words) if words else 0.0


def judged(rows: Sequence[Row]) -> list[Judged]:
    """Return the confidence and the errors of each row of ``hypotheses.jsonl``.

    Raises DataError when a row has no confidences.
    """
    unspaced = is_unspaced(row["ref"] for row in rows)
    found = []
    for row in rows:
        if not isinstance(row.get("confidences"), list):
            raise DataError(f"utterance {row['id']!r} has no confidences; run `speechssl evaluate` again")
        if unspaced:
            pairs = align_characters(row["ref"], row["hyp"])
            errors, labels = sum(op != "C" for op, _, _ in pairs), sum(op != "I" for op, _, _ in pairs)
        else:
            errors, labels = row["S"] + row["D"] + row["I"], row["N"]
        found.append(Judged(utterance_confidence(row["confidences"]), errors, labels, bool(row["hyp"])))
    return found


def error_rate(dev: Iterable[Judged]) -> float | None:
    """Return all errors over all reference labels; None without any."""
    rows = list(dev)
    labels = sum(one.labels for one in rows)
    return sum(one.errors for one in rows) / labels if labels else None


def lowest_confidence(
    dev: Sequence[Judged], *, max_error: float, share: float = 0.0, labels: Sequence[PseudoLabel] = ()
) -> Threshold:
    """Return the lowest confidence to accept.

    It is the lowest at which the dev utterances that pass have an error rate of at most ``max_error``. With a ``share``
    above 0 it is instead the one that this share of ``labels`` passes (a bit more where confidences are equal).
    """
    heard = [one for one in dev if one.recognised]
    if share > 0:
        ranked = sorted((one.confidence for one in labels if one.text), reverse=True)
        count = min(len(ranked), round(share * len(labels)))
        return _threshold(dev, ranked[count - 1] if count else None)
    for confidence in sorted({one.confidence for one in heard}):
        found = _threshold(dev, confidence)
        if found.dev_error is not None and found.dev_error <= max_error:
            return found
    return _threshold(dev, None)


def _threshold(dev: Sequence[Judged], confidence: float | None) -> Threshold:
    passed = [] if confidence is None else [one for one in dev if one.recognised and one.confidence >= confidence]
    return Threshold(confidence, error_rate(passed), len(passed) / len(dev) if dev else 0.0)


def select(labels: Sequence[PseudoLabel], threshold: Threshold) -> tuple[list[PseudoLabel], list[Entry]]:
    """Return what is kept, and an entry for each utterance, kept or not."""
    kept, entries = [], []
    lowest = threshold.confidence
    for one in labels:
        said = f"confidence {one.confidence:.4f}"
        if not one.text:
            entries.append(Entry(STAGE, one.id, "nothing_recognised", action="dropped"))
        elif lowest is None:
            entries.append(Entry(STAGE, one.id, "low_confidence", f"{said}, and none is high enough", "dropped"))
        elif one.confidence < lowest:
            entries.append(Entry(STAGE, one.id, "low_confidence", f"{said}, {lowest:.4f} is needed", "dropped"))
        else:
            kept.append(one)
            entries.append(Entry(STAGE, one.id, "pseudo_label", f"{said}, {lowest:.4f} is needed", "kept"))
    return kept, entries


def write_rows(path: Path, labels: Iterable[PseudoLabel]) -> None:
    """Write one JSON line for each utterance, atomically."""
    write_atomic(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in labels))


def read_rows(path: Path) -> list[PseudoLabel]:
    """Return the lines of a file of `write_rows`; DataError names the line that cannot be used."""
    return [
        PseudoLabel(name, text, float(row.get("confidence", 0.0)), float(row.get("seconds", 0.0)))
        for name, text, row in _lines(path)
    ]


def read_pseudo_labels(path: str | Path) -> dict[str, str]:
    """Return the texts by id of a file of lines with ``id`` and ``text``; other fields are allowed.

    Raises DataError when the file cannot be read or is empty, a line is of another form, or an id comes twice.
    """
    texts: dict[str, str] = {}
    for name, text, _ in _lines(Path(path)):
        if name in texts:
            raise DataError(f"pseudo-labels {path}: id {name!r} is there twice; each utterance has one text")
        texts[name] = text
    if not texts:
        raise DataError(f"pseudo-labels {path}: no line in it; give the pseudo.jsonl of `speechssl selftrain`")
    return texts


def _lines(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"pseudo-labels {path}: {error}; `speechssl selftrain` writes them") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"pseudo-labels {path}, line {number}: not JSON ({error.msg}); make them again") from error
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise DataError(f"pseudo-labels {path}, line {number}: expected an object with the strings id and text")
        found.append((row["id"], row["text"], row))
    return found
