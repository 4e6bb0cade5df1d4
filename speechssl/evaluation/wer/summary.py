"""The summary of one evaluation: pooled error counts with intervals, breakdowns, confusions, rare words, calibration.

In: rows of ``hypotheses.jsonl``, and optionally the counts of the training words. Out: a `WerReport`, a pure function
of them. Rates are always (S + D + I) / N with the sums taken here over all utterances; N is the number of reference
words. Where N is 0 there is no rate and the value is None.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from speechssl.evaluation.bootstrap import bootstrap_wer
from speechssl.evaluation.wer.breakdown import by_partition, by_speaker, group_of, speaker_interval
from speechssl.evaluation.wer.calibration import calibration
from speechssl.evaluation.wer.confusions import operations, top_substitutions, top_units
from speechssl.evaluation.wer.edit_distance import AlignedPair, align_characters
from speechssl.evaluation.wer.hypotheses import Row, scored
from speechssl.evaluation.wer.partition import (
    duration_partition,
    field_partitions,
    length_partition,
    rate_partition,
    snr_partition,
)
from speechssl.evaluation.wer.rarity import by_frequency, oov_rate, unseen_words
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.unspaced import is_unspaced

__all__ = ["report_of", "summarise"]


def summarise(
    rows: Iterable[Mapping[str, Any]],
    *,
    n: int = 2_000,
    seed: int = 1,
    train_words: Mapping[str, int] | None = None,
) -> WerReport:
    """Score a set of utterances.

    Parameters
    ----------
    rows
        Mappings with ``id``, ``ref``, ``hyp`` and optionally ``speaker``, ``duration`` (seconds), ``fields`` (of the
        manifest) and ``confidences`` (0 to 1, one per hypothesis word).
    n, seed
        Resamples and seed of the bootstrap intervals.
    train_words
        Occurrences of each word in the training text, normalised as the references (see `rarity`).

    Raises
    ------
    DataError
        A row that is not complete, or whose counts do not follow from its texts.
    """
    table = [scored(row, f"row {number}") for number, row in enumerate(rows, 1)]
    return report_of(table, n=n, seed=seed, train_words=train_words)


def report_of(rows: list[Row], *, n: int, seed: int, train_words: Mapping[str, int] | None = None) -> WerReport:
    """As `summarise`, for rows that are complete (of `read_hypotheses` or `write_hypotheses`)."""
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
    fields, left_out = field_partitions(rows)
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
        by_length=by_partition(rows, length_partition(rows), n=n, seed=seed),
        by_duration=by_partition(rows, duration_partition(rows), n=n, seed=seed),
        by_rate=by_partition(rows, rate_partition(rows), n=n, seed=seed),
        by_snr=by_partition(rows, snr_partition(rows), n=n, seed=seed),
        by_field={part.name: by_partition(rows, part, n=n, seed=seed) for part in fields},
        fields_left_out=left_out,
        by_frequency=by_frequency(rows, train_words, n=n, seed=seed) if train_words is not None else (),
        oov_rate=oov_rate(rows, train_words) if train_words is not None else None,
        unseen_words=unseen_words(rows, train_words) if train_words is not None else (),
        calibration=calibration(rows, n=n, seed=seed),
        substitutions=top_substitutions(words),
        deletions=top_units(words, "D"),
        insertions=top_units(words, "I"),
        character_substitutions=top_substitutions(characters),
        character_deletions=top_units(characters, "D"),
        character_insertions=top_units(characters, "I"),
        resamples=n,
        seed=seed,
        unspaced=is_unspaced(row["ref"] for row in rows),
    )
