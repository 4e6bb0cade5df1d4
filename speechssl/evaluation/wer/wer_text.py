"""``wer.txt``: an evaluation as text for a terminal.

In: a `WerReport`. Out: text with aligned columns, at most about 100 characters wide.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from speechssl.core.text_table import interval_text, one_line, percent, text_table
from speechssl.evaluation.wer.breakdown import Group
from speechssl.evaluation.wer.report import WerReport

__all__ = ["UNSPACED", "wer_text"]

UNSPACED = "Written without spaces between words: the rate is that of characters (CER); WER counts phrases."
_SPEAKERS_SHOWN = 40


def wer_text(report: WerReport, info: Mapping[str, Any]) -> str:
    """Return ``wer.txt``."""
    seconds = "" if report.seconds is None else f", {report.seconds / 60:.1f} min of audio"
    first = f"WER {percent(report.wer)} %   95 % interval {interval_text(report.ci_low, report.ci_high)} %\n"
    if report.unspaced:
        first = (
            f"CER {percent(report.cer)} %   95 % interval {interval_text(report.cer_ci_low, report.cer_ci_high)} %\n"
            f"{UNSPACED}\n"
        )
    parts = [
        f"{first}"
        f"{report.utterances} utterances, {report.N} reference words{seconds}, {report.speakers} known speakers\n"
    ]
    if report.wer is None:
        parts.append("There is no reference word in this set, so there is no word error rate.\n")
    if info:
        width = max(len(str(name)) for name in info)
        parts.append("".join(f"  {name!s:<{width}}  {one_line(str(value))}\n" for name, value in info.items()))
    c = report.characters
    characters = Group(
        "characters",
        report.utterances,
        c["N"],
        c["S"],
        c["D"],
        c["I"],
        report.cer,
        report.cer_ci_low,
        report.cer_ci_high,
    )
    words = Group(
        "words", report.utterances, report.N, report.S, report.D, report.I, report.wer, report.ci_low, report.ci_high
    )
    rows = [_rate_row(words), _rate_row(characters)]
    parts.append(text_table(("unit", "error %", "95 % interval", "S", "D", "I", "N"), rows))
    other = [
        ("match error rate (MER)", percent(report.mer)),
        ("word information lost (WIL)", percent(report.wil)),
        ("sentence error rate (SER)", percent(report.ser)),
        ("WER interval with whole speakers drawn", interval_text(report.speaker_ci_low, report.speaker_ci_high)),
    ]
    parts.append(text_table(("measure", "%"), other))
    if report.empty_references or report.empty_hypotheses:
        parts.append(
            f"Utterances with an empty reference (words recognised there are insertions): {report.empty_references}\n"
            f"Utterances with a reference in which nothing was recognised: {report.empty_hypotheses}\n"
        )
    parts += _groups("speaker", report.by_speaker)
    parts += _groups("reference words", report.by_length)
    parts += _groups("seconds", report.by_duration)
    parts += _groups("words per second", report.by_rate)
    parts += _groups("SNR (dB)", report.by_snr)
    for name, groups in report.by_field.items():
        parts += _groups(name, groups)
    if report.fields_left_out:
        reasons = "".join(f"  {one_line(name)}: {reason}\n" for name, reason in report.fields_left_out.items())
        parts.append(f"Manifest fields that do not divide the utterances:\n{reasons}")
    parts += _frequency(report)
    parts += _confusions("words", report.substitutions, report.deletions, report.insertions)
    parts += _confusions(
        "characters", report.character_substitutions, report.character_deletions, report.character_insertions
    )
    parts += _calibration(report)
    parts.append(
        f"Rates are (S + D + I) / N over all utterances; intervals are from {report.resamples} bootstrap\n"
        f"resamples of utterances (seed {report.seed}).\n"
    )
    return "\n".join(parts)


def _rate_row(group: Group) -> tuple[str, ...]:
    counted = (str(number) for number in (group.S, group.D, group.I, group.N))
    return group.name, percent(group.wer), interval_text(group.ci_low, group.ci_high), *counted


def _groups(name: str, groups: Sequence[Group]) -> list[str]:
    if not groups:
        return []
    rows = [(*_rate_row(g), str(g.utterances)) for g in groups[:_SPEAKERS_SHOWN]]
    table = text_table((name, "WER %", "95 % interval", "S", "D", "I", "N", "utterances"), rows)
    hidden = len(groups) - _SPEAKERS_SHOWN
    return [table + (f"  and {hidden} more (see wer.json)\n" if hidden > 0 else "")]


def _frequency(report: WerReport) -> list[str]:
    """Errors of reference words by their frequency in the training text."""
    if not report.by_frequency:
        return []
    rows = [
        (
            b.name,
            percent(b.error_rate),
            interval_text(b.ci_low, b.ci_high),
            str(b.S),
            str(b.D),
            str(b.words),
            str(b.types),
        )
        for b in report.by_frequency
    ]
    table = text_table(("times in training", "error %", "95 % interval", "S", "D", "words", "different"), rows)
    parts = [table + f"  {percent(report.oov_rate)} % of the reference words are not in the training text.\n"]
    if report.unseen_words:
        unseen = [(word, str(count), str(wrong)) for word, count, wrong in report.unseen_words]
        parts.append(text_table(("not in the training text", "n", "wrong"), unseen))
    return parts


def _calibration(report: WerReport) -> list[str]:
    found = report.calibration
    if found is None:
        return []
    rows = [
        (f"{b.low:.1f}–{b.high:.1f}", percent(b.confidence), percent(b.accuracy), interval_text(b.ci_low, b.ci_high),
         str(b.words))
        for b in found.bins
    ]  # fmt: skip
    table = text_table(("confidence", "mean %", "right %", "95 % interval", "words"), rows)
    nce, auc = ("–" if value is None else f"{value:.3f}" for value in (found.nce, found.auc))
    return [
        f"{table}  Confidences of {found.words} hypothesis words in {found.utterances} utterances: mean "
        f"{percent(found.confidence)} %, right {percent(found.accuracy)} %.\n"
        f"  Expected calibration error {percent(found.ece)} %; normalised cross entropy {nce};\n"
        f"  area under the ROC curve of confidence as a detector of errors {auc}.\n"
    ]


def _confusions(
    unit: str,
    substitutions: Sequence[tuple[str, str, int]],
    deletions: Sequence[tuple[str, int]],
    insertions: Sequence[tuple[str, int]],
) -> list[str]:
    height = max(len(substitutions), len(deletions), len(insertions))
    if not height:
        return []
    blank = ("", "")
    rows = []
    for index in range(height):
        swapped = substitutions[index] if index < len(substitutions) else None
        middle = (f"{_seen(swapped[0])} → {_seen(swapped[1])}", str(swapped[2])) if swapped else blank
        cells = [
            (_seen(items[index][0]), str(items[index][1])) if index < len(items) else blank
            for items in (deletions, insertions)
        ]
        rows.append((*middle, *cells[0], *cells[1]))
    return [text_table((f"{unit} substituted", "n", "deleted", "n", "inserted", "n"), rows, left=6)]


def _seen(unit: str) -> str:
    """Make the space character visible."""
    return "␣" if unit == " " else unit
