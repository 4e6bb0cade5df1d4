"""``hypotheses.jsonl``: one JSON line for each evaluated utterance; every number of a report can be recomputed from it.

In: references and hypotheses. Out: rows with ``id, ref, hyp, speaker, duration, S, D, I, N, wer, alignment`` (texts in
NFC, ``wer`` null where the reference is empty), written atomically. Reading scores every row again, so that a row that
was edited by hand, or cut, is found. Rows whose words were aligned with the weights of NIST sclite have ``cost``;
without that field the alignment has the fewest errors.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic
from speechssl.evaluation.wer.edit_distance import Cost, normal_text, score_utterance
from speechssl.evaluation.wer.sclite_weights import WEIGHTS

__all__ = ["HYPOTHESES", "Row", "read_hypotheses", "score_row", "scored", "write_hypotheses"]

HYPOTHESES = "hypotheses.jsonl"
Row = dict[str, Any]
"""One line of ``hypotheses.jsonl``."""

_COUNTS = ("S", "D", "I", "N")


def score_row(
    id: str,  # noqa: A002  (the name of the field in the file)
    ref: str,
    hyp: str,
    *,
    speaker: str | None = None,
    duration: float | None = None,
    cost: Cost = "levenshtein",
    **fields: Any,
) -> Row:
    """Return a complete row for one utterance; ``duration`` is in seconds, further ``fields`` are kept as they are."""
    score = score_utterance(ref, hyp, cost)
    return {
        "id": id,
        "ref": normal_text(ref),
        "hyp": normal_text(hyp),
        "speaker": speaker,
        "duration": duration,
        "S": score.S,
        "D": score.D,
        "I": score.I,
        "N": score.N,
        "wer": score.wer,
        "alignment": [list(pair) for pair in score.alignment],
        **({} if cost == "levenshtein" else {"cost": cost}),
        **fields,
    }


def scored(row: Mapping[str, Any], where: str = "row") -> Row:
    """Return the row with its scores; a row that already has scores is checked against its texts.

    Raises
    ------
    DataError
        A field is missing or of the wrong type, or the counts do not follow from the texts. ``where`` is named first.
    """
    for name in ("id", "ref", "hyp"):
        if not isinstance(row.get(name), str):
            raise DataError(f"{where}: {name!r} must be a string; run the evaluation again to write the file again")
    speaker, duration = row.get("speaker"), row.get("duration")
    if speaker is not None and not isinstance(speaker, str):
        raise DataError(f"{where}: 'speaker' must be a string or null, not {speaker!r}")
    if duration is not None and (isinstance(duration, bool) or not isinstance(duration, int | float)):
        raise DataError(f"{where}: 'duration' must be seconds or null, not {duration!r}")
    cost = row.get("cost", "levenshtein")
    if cost not in WEIGHTS:
        raise DataError(f"{where}: 'cost' must be one of {', '.join(WEIGHTS)}, not {cost!r}")
    known = {"id", "ref", "hyp", "speaker", "duration", "wer", "alignment", "cost", *_COUNTS}
    extra = {name: value for name, value in row.items() if name not in known}
    new = score_row(row["id"], row["ref"], row["hyp"], speaker=speaker, duration=duration, cost=cost, **extra)
    for group in (("N",), ("S", "D", "I")):  # an alignment of equal cost may split S, D and I in another way
        if all(name in row for name in group):
            old_sum, new_sum = sum(row[name] for name in group), sum(new[name] for name in group)
            if old_sum != new_sum:
                says = f"{' + '.join(group)} = {old_sum}"
                raise DataError(
                    f"{where}: utterance {row['id']!r} says {says}, but its texts give {new_sum}: "
                    "it was changed after it was scored; run the evaluation again, or delete its counts"
                )
    return new


def write_hypotheses(path: Path, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Write rows (scoring those without counts) atomically, in the order given, and return them complete."""
    complete = [scored(row, f"row {number}") for number, row in enumerate(rows, 1)]
    _refuse_repeats(complete, str(path))
    write_atomic(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in complete))
    return complete


def read_hypotheses(path: Path) -> list[Row]:
    """Return the rows of a file; ``path`` may also be the folder that holds ``hypotheses.jsonl``.

    Raises
    ------
    DataError
        No such file, or a line that is not JSON, not complete, not consistent or there twice (names the line).
    """
    path = Path(path)
    if path.is_dir():
        path = path / HYPOTHESES
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `speechssl evaluate` writes it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); run the evaluation again") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not JSON ({error.msg}); run the evaluation again to write the file again"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: must be a JSON object, not {type(row).__name__}")
        rows.append(scored(row, where))
    _refuse_repeats(rows, str(path))
    return rows


def _refuse_repeats(rows: list[Row], where: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise DataError(f"{where}: utterance {row['id']!r} is there twice; each may be scored once")
        seen.add(row["id"])
