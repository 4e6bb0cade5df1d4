"""Files of an evaluation folder with its word error rate, and the comparison of two systems.

In: rows with references and hypotheses. Out: a `WerReport` and, through `write_wer`, ``hypotheses.jsonl``, ``wer.json``
and ``wer.txt`` (and ``train_words.json`` where the training text is known); everything can be recomputed from the first
and the last.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic, write_json
from speechssl.evaluation.bootstrap import PairedBootstrap, paired_bootstrap
from speechssl.evaluation.wer.breakdown import counts
from speechssl.evaluation.wer.hypotheses import HYPOTHESES, score_row, write_hypotheses
from speechssl.evaluation.wer.rarity import TRAIN_WORDS, write_train_words
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.summary import report_of, summarise
from speechssl.evaluation.wer.wer_text import wer_text

__all__ = ["compare_systems", "greedy_score", "raw_text", "write_wer"]


def raw_text(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the word error rate of the texts before normalisation (``ref_raw``, ``hyp_raw``), in words.

    None when no row has them. Missing case and punctuation count as errors here.
    """
    kept = [row for row in rows if "ref_raw" in row and "hyp_raw" in row]
    raw = [score_row(row["id"], row["ref_raw"], row["hyp_raw"]) for row in kept]
    if not raw:
        return None
    total = {name: sum(row[name] for row in raw) for name in ("S", "D", "I", "N")}
    rate = f"{100 * (total['S'] + total['D'] + total['I']) / total['N']:.2f} %" if total["N"] else "none"
    return f"WER {rate} as it was (NFC only): " + ", ".join(f"{name} {value}" for name, value in total.items())


def greedy_score(rows: Iterable[Mapping[str, Any]], *, n: int = 2_000, seed: int = 1) -> WerReport | None:
    """Score the greedy hypotheses (field ``greedy``) that a search decoder leaves beside its own; None without any."""
    plain = [
        score_row(row["id"], row["ref"], row["greedy"], speaker=row.get("speaker"), duration=row.get("duration"))
        for row in rows
        if "greedy" in row
    ]
    return summarise(plain, n=n, seed=seed) if plain else None


def write_wer(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    info: Mapping[str, Any] | None = None,
    *,
    n: int = 2_000,
    seed: int = 1,
    train_words: Mapping[str, int] | None = None,
) -> WerReport:
    """Write ``hypotheses.jsonl``, ``wer.json`` and ``wer.txt`` into ``folder`` and return the report.

    With ``train_words``, occurrences of each word in the training text, errors by word frequency are reported too, and
    ``train_words.json`` keeps their counts.

    ``info`` says what was scored (model, split, decoder ...); ``wer.json`` keeps it under ``"info"``. That file is
    written last, so a folder that has it is complete.
    """
    folder = Path(folder)
    complete = write_hypotheses(folder / HYPOTHESES, rows)
    report = report_of(complete, n=n, seed=seed, train_words=train_words)
    (folder / TRAIN_WORDS).unlink(missing_ok=True)
    if train_words is not None:
        write_train_words(folder, complete, train_words)
    write_atomic(folder / "wer.txt", wer_text(report, info or {}))
    document = {**report.to_dict(), "info": dict(info or {})}
    write_json(folder / "wer.json", document, default=str)
    return report


def compare_systems(
    rows_a: Iterable[Mapping[str, Any]], rows_b: Iterable[Mapping[str, Any]], *, n: int = 2_000, seed: int = 1
) -> PairedBootstrap | None:
    """Paired bootstrap of system b against system a, matching utterances by id (scored rows of `read_hypotheses`).

    Raises DataError when the systems were not scored on the same utterances and references.
    """
    a, b = ({str(row["id"]): dict(row) for row in rows} for rows in (rows_a, rows_b))
    missing = sorted(a.keys() ^ b.keys())
    if missing:
        raise DataError(
            f"the two systems were scored on different utterances: {len(missing)} of them are in one only "
            f"(first: {missing[0]!r}); evaluate both on the same split"
        )
    ids = sorted(a)
    other = next((id_ for id_ in ids if a[id_]["ref"] != b[id_]["ref"]), None)
    if other is not None:
        raise DataError(
            f"utterance {other!r} has two references; evaluate both systems with the same text normalisation"
        )
    return paired_bootstrap(counts([a[id_] for id_ in ids]), counts([b[id_] for id_ in ids]), n=n, seed=seed)
