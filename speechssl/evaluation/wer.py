"""Word error rate of a set of utterances: pooled counts with an interval, breakdowns, confusions.

In: rows of ``hypotheses.jsonl``. Out: a `WerReport`, and through `write_wer` the three files of an evaluation folder:
``hypotheses.jsonl``, ``wer.json`` and ``wer.txt``. Rates are always (S + D + I) / N with the sums taken here over all
utterances; N is the number of reference words. Where N is 0 there is no rate and the value is None.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechssl.errors import DataError
from speechssl.evaluation.alignment import (
    AlignedPair,
    UtteranceScore,
    align_characters,
    align_words,
    normal_text,
    score_utterance,
)
from speechssl.evaluation.breakdown import (
    Group,
    by_duration,
    by_length,
    by_speaker,
    counts,
    group_of,
    operations,
    speaker_interval,
    top_substitutions,
    top_units,
)
from speechssl.evaluation.hypotheses import (
    HYPOTHESES,
    Row,
    read_hypotheses,
    replace_text,
    score_row,
    scored,
    write_hypotheses,
)
from speechssl.evaluation.significance import PairedBootstrap, bootstrap_wer, paired_bootstrap

__all__ = [
    "AlignedPair",
    "Group",
    "UtteranceScore",
    "WerReport",
    "align_characters",
    "align_words",
    "compare_systems",
    "greedy_score",
    "normal_text",
    "read_hypotheses",
    "score_row",
    "score_utterance",
    "summarise",
    "write_wer",
]


@dataclass(frozen=True)
class WerReport:
    """Everything that can be said about one system on one set of utterances. Rates are fractions, not percent."""

    wer: float | None
    ci_low: float | None
    ci_high: float | None
    """95 % bootstrap interval of ``wer`` over utterances."""
    speaker_ci_low: float | None
    speaker_ci_high: float | None
    """The same with whole speakers drawn (wider: it covers new speakers); None with fewer than five known speakers."""
    cer: float | None
    cer_ci_low: float | None
    cer_ci_high: float | None
    mer: float | None
    """Match error rate (S + D + I) / (C + S + D + I) (Morris, Maier & Green 2004)."""
    wil: float | None
    """Word information lost 1 - C^2 / (reference words x hypothesis words) (Morris, Maier & Green 2004)."""
    ser: float | None
    """Sentence error rate: share of utterances with at least one error."""
    S: int
    D: int
    I: int
    N: int
    C: int
    """Correct words."""
    characters: dict[str, int]
    """S, D, I and N by characters; the space between words is a character."""
    utterances: int
    seconds: float | None
    """Audio; None when no duration is known."""
    speakers: int
    empty_references: int
    """Utterances without reference words; every word recognised in them is an insertion."""
    empty_hypotheses: int
    """Utterances with reference words in which nothing was recognised; all their words are deletions."""
    by_speaker: tuple[Group, ...]
    """Highest WER first; empty when no speaker is known."""
    by_length: tuple[Group, ...]
    """By number of reference words."""
    by_duration: tuple[Group, ...]
    substitutions: tuple[tuple[str, str, int], ...]
    """(reference word, hypothesis word, count), most frequent first; at most 20, as in the next four."""
    deletions: tuple[tuple[str, int], ...]
    insertions: tuple[tuple[str, int], ...]
    character_substitutions: tuple[tuple[str, str, int], ...]
    character_deletions: tuple[tuple[str, int], ...]
    character_insertions: tuple[tuple[str, int], ...]
    resamples: int
    seed: int

    @property
    def confusions(self) -> tuple[tuple[str, str, int], ...]:
        """Another name of ``substitutions``."""
        return self.substitutions

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the headline in one line; ``wer.txt`` has the rest."""
        from speechssl.evaluation.table import interval_text, percent

        return (
            f"WER {percent(self.wer)} %, 95 % interval {interval_text(self.ci_low, self.ci_high)} %; "
            f"S {self.S}, D {self.D}, I {self.I}, N {self.N} in {self.utterances} utterances"
        )


def summarise(rows: Iterable[Mapping[str, Any]], *, n: int = 2_000, seed: int = 1) -> WerReport:
    """Score a set of utterances.

    Parameters
    ----------
    rows
        Mappings with ``id``, ``ref``, ``hyp`` and optionally ``speaker`` and ``duration`` (seconds).
    n, seed
        Resamples and seed of the bootstrap intervals.

    Raises
    ------
    DataError
        A row that is not complete, or whose counts do not follow from its texts.
    """
    table = [scored(row, f"row {number}") for number, row in enumerate(rows, 1)]
    return _report(table, n=n, seed=seed)


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
) -> WerReport:
    """Write ``hypotheses.jsonl``, ``wer.json`` and ``wer.txt`` into ``folder`` and return the report.

    ``info`` says what was scored (model, split, decoder ...); ``wer.json`` keeps it under ``"info"``. That file is
    written last, so a folder that has it is complete.
    """
    from speechssl.evaluation.table import wer_text

    folder = Path(folder)
    complete = write_hypotheses(folder / HYPOTHESES, rows)
    report = _report(complete, n=n, seed=seed)
    replace_text(folder / "wer.txt", wer_text(report, info or {}))
    document = {**report.to_dict(), "info": dict(info or {})}
    replace_text(folder / "wer.json", json.dumps(document, ensure_ascii=False, indent=1, default=str) + "\n")
    return report


def compare_systems(
    rows_a: Iterable[Mapping[str, Any]], rows_b: Iterable[Mapping[str, Any]], *, n: int = 2_000, seed: int = 1
) -> PairedBootstrap | None:
    """Paired bootstrap of system b against system a, matching utterances by id (scored rows of `read_hypotheses`).

    Raises
    ------
    DataError
        The systems were not scored on the same utterances and references.
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


def _report(rows: list[Row], *, n: int, seed: int) -> WerReport:
    total = group_of("all", rows, n=n, seed=seed)
    correct = total.N - total.S - total.D
    errors, spoken = total.S + total.D + total.I, correct + total.S + total.I
    words, characters = Counter[AlignedPair](), Counter[AlignedPair]()
    by_utterance = []
    for row in rows:
        words.update(tuple(pair) for pair in row["alignment"])
        pairs = align_characters(row["ref"], row["hyp"])
        characters.update(pairs)
        by_utterance.append((sum(op != "C" for op, _, _ in pairs), sum(op != "I" for op, _, _ in pairs)))
    n_characters = sum(length for _, length in by_utterance)
    character_ops = operations(characters)
    cer_interval = bootstrap_wer(by_utterance, n=n, seed=seed)
    speakers = {row["speaker"] for row in rows} - {None}
    over_speakers = speaker_interval(rows, len(speakers), n=n, seed=seed)
    durations = [row["duration"] for row in rows if row["duration"] is not None]
    return WerReport(
        wer=total.wer,
        ci_low=total.ci_low,
        ci_high=total.ci_high,
        speaker_ci_low=over_speakers[0] if over_speakers else None,
        speaker_ci_high=over_speakers[1] if over_speakers else None,
        cer=sum(wrong for wrong, _ in by_utterance) / n_characters if n_characters else None,
        cer_ci_low=cer_interval[0] if cer_interval else None,
        cer_ci_high=cer_interval[1] if cer_interval else None,
        mer=errors / (correct + errors) if correct + errors else None,
        wil=(1 - correct**2 / (total.N * spoken) if total.N and spoken else 1.0) if total.N or spoken else None,
        ser=sum(row["S"] + row["D"] + row["I"] > 0 for row in rows) / len(rows) if rows else None,
        S=total.S,
        D=total.D,
        I=total.I,
        N=total.N,
        C=correct,
        characters={"S": character_ops["S"], "D": character_ops["D"], "I": character_ops["I"], "N": n_characters},
        utterances=len(rows),
        seconds=float(sum(durations)) if durations else None,
        speakers=len(speakers),
        empty_references=sum(row["N"] == 0 for row in rows),
        empty_hypotheses=sum(row["N"] > 0 and not row["hyp"] for row in rows),
        by_speaker=by_speaker(rows, n=n, seed=seed) if speakers else (),
        by_length=by_length(rows, n=n, seed=seed),
        by_duration=by_duration(rows, n=n, seed=seed),
        substitutions=top_substitutions(words),
        deletions=top_units(words, "D"),
        insertions=top_units(words, "I"),
        character_substitutions=top_substitutions(characters),
        character_deletions=top_units(characters, "D"),
        character_insertions=top_units(characters, "I"),
        resamples=n,
        seed=seed,
    )
