"""compare.txt: a comparison of systems for a terminal, a mail or a commit message.

In: a `Comparison`. Out: plain text.
"""

import textwrap
from collections.abc import Sequence
from datetime import datetime

from speechssl.core.text_table import interval_text, percent, text_table, text_width
from speechssl.evaluation.compare.changes import Change
from speechssl.evaluation.compare.comparison import Comparison, GroupTable
from speechssl.evaluation.compare.pairs import Pair
from speechssl.reports.comparison.verdicts import p_text, points, verdict
from speechssl.reports.page.html import clean
from speechssl.reports.run.sentences import probability_text

__all__ = ["comparison_text"]

_SHOWN = 3
"""Utterances shown as better, and as worse, for each system."""
_WIDTH = 100


def comparison_text(comparison: Comparison, caveats: Sequence[str], command: str, made: datetime) -> str:
    """Return the text; ``made`` is the time it shows, ``command`` the command line that makes it again."""
    parts = [f"speechssl compare   {made:%Y-%m-%d %H:%M}\n{_wrapped(verdict(comparison))}\n"]
    parts += [_wrapped(f"! {caveat}") + "\n" for caveat in caveats]
    rows = [
        (item.name, percent(s.wer), interval_text(s.ci_low, s.ci_high), percent(s.cer), percent(s.ser), str(s.S),
         str(s.D), str(s.I), str(s.N), str(s.utterances), str(item.rank))
        for item in comparison.systems
        for s in (item.score,)
    ]  # fmt: skip
    header = ("system", "WER %", "95 % interval", "CER %", "SER %", "S", "D", "I", "N", "utterances", "rank")
    parts.append(text_table(header, rows))
    columns = ("system", "against", "diff.", "95 % interval", "P better", "p", "p corrected", "better", "utt. -/=/+")
    parts.append(text_table(columns, [_pair_row(pair) for pair in comparison.pairs], left=2))
    parts.append(
        "Differences of word error rates in points, first minus second; P: paired bootstrap; p: MAPSSWE, corrected\n"
        "for all pairs (Holm). Utterances: with fewer, as many and more errors in the first.\n"
    )
    if comparison.oracle is not None:
        parts.append(f"Best hypothesis of each utterance: WER {percent(comparison.oracle)} %.\n")
    parts += [_group_table(group, comparison) for group in comparison.groups]
    for name, changes in comparison.changed.items():
        for sign, verb in ((-1, "gained"), (1, "lost")):
            chosen = [change for change in changes if change.change * sign > 0][:_SHOWN]
            if chosen:
                names = [item.name for item in comparison.systems]
                listed = "\n".join(_change(change, names) for change in chosen)
                parts.append(f"{name} {verb} most against {comparison.baseline}:\n{listed}")
    parts.append(f"{command}\n")
    return clean("\n".join(parts))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _pair_row(pair: Pair) -> tuple[str, ...]:
    found = pair.bootstrap
    cells = ("–",) * 3 if found is None else (
        points(found.difference), f"{points(found.low)} to {points(found.high)}",
        probability_text(found.probability, found.resamples),
    )  # fmt: skip
    utterances = f"{pair.utterances_better}/{pair.utterances_equal}/{pair.utterances_worse}"
    return pair.b, pair.a, *cells, p_text(pair.p), p_text(pair.p_holm), pair.better or "undecided", utterances


def _group_table(part: GroupTable, comparison: Comparison) -> str:
    others = [item.name for item in comparison.systems if item.name != comparison.baseline]
    rows = []
    for group in part.groups:
        cells = []
        for name in others:
            found = group.against_baseline[name]
            cells += ["–", "–"] if found is None else [
                points(found.difference, 1), f"{points(found.low, 1)} to {points(found.high, 1)}",
            ]  # fmt: skip
        rates = [percent(group.wer[item.name], 1) for item in comparison.systems]
        rows.append((group.name, str(group.utterances), str(group.N), *rates, *cells))
    header = [part.title, "utterances", "N", *(f"{item.name} %" for item in comparison.systems)]
    for name in others:
        header += [f"{name} − {comparison.baseline}", "95 % interval"]
    return text_table(header, rows)


def _change(change: Change, names: Sequence[str]) -> str:
    """Return an utterance with its words in columns, wrapped; wrong words are in capitals (or brackets)."""
    labels = ["reference", *names]
    longest = max(text_width(label) for label in labels)
    counts = ", ".join(f"{system} {errors}" for system, errors in change.errors.items())
    lines = [f"  {' '.join(change.id.split())}  (errors: {counts}; {change.N} words)"]
    block: list[list[str]] = []
    used = 0
    for column in (*change.columns, None):
        cells = None if column is None else [column.ref or "", *(_cell(column.ref, word) for word in column.words)]
        width = _WIDTH if cells is None else 1 + max(map(text_width, cells))
        if block and longest + 5 + used + width > _WIDTH:
            for row, label in enumerate(labels):
                words = " ".join(_padded(one[row], max(map(text_width, one))) for one in block)
                lines.append(f"    {_padded(label, longest)}  {words}".rstrip())
            block, used = [], 0
        if cells is not None:
            block.append(cells)
            used += width
    return "\n".join(lines) + "\n"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - text_width(text))


def _cell(ref: str | None, word: str | None) -> str:
    if word is None:
        return "*" * len(ref) if ref is not None else ""
    if word == ref:
        return word
    return word.upper() if word.upper() != word else f"[{word}]"
