"""Tables of the word error rate by group, of rare words, and of the quality of the confidences.

In: the `WerReport` of one evaluation. Out: `Html`; a breakdown that the evaluation does not have is None.
"""

from collections.abc import Sequence

from speechssl.core.text_table import interval_text, percent
from speechssl.evaluation.wer.breakdown import Group
from speechssl.evaluation.wer.calibration import Calibration
from speechssl.evaluation.wer.rarity import WordBand
from speechssl.evaluation.wer.report import WerReport
from speechssl.reports.page.charts import interval_mark, reliability_chart
from speechssl.reports.page.html import Child, Html, el
from speechssl.reports.run.tables import count, table

__all__ = ["calibration_part", "group_table", "group_tables", "rare_words"]

_GROUPS = 30
_FIELDS = 8
_UNSEEN = 12


def group_tables(wer: WerReport) -> list[Html | None]:
    """Return the tables of all breakdowns of an evaluation."""
    whole = wer.wer
    told = (
        "Drawn: the rate of each group and its 95 % interval; the dotted line is the rate of all utterances. A group "
        "of one utterance, or without any error, has no interval."
    )
    parts = [
        el("p", told, class_="faint small"),
        group_table(wer.by_speaker, "Speaker", "Word error rate by speaker, highest first.", whole),
        group_table(wer.by_length, "Words", "Word error rate by length of the reference, in words.", whole),
        group_table(wer.by_duration, "Seconds", "Word error rate by duration of the audio, in seconds.", whole),
        group_table(wer.by_rate, "Words/s", "Word error rate by speaking rate, in reference words per second.", whole),
        group_table(wer.by_snr, "SNR (dB)", "Word error rate by signal-to-noise ratio of the audio.", whole),
    ]
    for name, groups in list(wer.by_field.items())[:_FIELDS]:
        parts.append(group_table(groups, name, f"Word error rate by {name}.", whole))
    hidden = list(wer.by_field)[_FIELDS:]
    if hidden:
        parts.append(el("p", f"Breakdowns by further fields are in wer.json: {', '.join(hidden)}.", class_="faint"))
    if wer.fields_left_out:
        told = "; ".join(f"{name}: {reason}" for name, reason in wer.fields_left_out.items())
        parts.append(el("p", f"Fields of the manifest that do not divide the utterances: {told}.", class_="faint"))
    return parts


def group_table(groups: Sequence[Group], name: str, caption: str, whole: float | None = None) -> Html | None:
    """Return the WER of each group with its interval drawn on one shared axis; ``whole`` is that of all utterances."""
    if not groups:
        return None
    shown = groups[:_GROUPS]
    top = max((g.ci_high if g.ci_high is not None else g.wer or 0.0) for g in shown)
    top = max(top, whole or 0.0)
    rows = [
        (
            g.name,
            percent(g.wer, 1),
            interval_text(*_bounds(g), 1),
            el("span", interval_mark(g.wer, *_bounds(g), top, whole)),
            count(g.S),
            count(g.D),
            count(g.I),
            count(g.N),
            count(g.utterances),
        )
        for g in shown
    ]
    hidden = len(groups) - len(shown)
    more = f" The {hidden} others, with fewer errors, are in wer.json." if hidden else ""
    header = (name, "WER %", "95 % interval", "", "S", "D", "I", "Words", "Utt.")
    return table(caption + _axis(top) + more, header, rows)


def rare_words(wer: WerReport) -> list[Html | None]:
    """Return errors by frequency of the word in the training text, and the unseen words that were missed most."""
    if not wer.by_frequency:
        return []
    top = max(band.ci_high if band.ci_high is not None else band.error_rate for band in wer.by_frequency)
    rows: list[tuple[Child, ...]] = [_band(band, top) for band in wer.by_frequency]
    caption = (
        "Reference words by the number of times they occur in the training text; error: substituted or deleted."
        + _axis(top)
    )
    header = ("Occurrences", "Error %", "95 % interval", "", "S", "D", "Words", "Different")
    told = None
    if wer.oov_rate is not None:
        told = el("p", f"{percent(wer.oov_rate, 1)}\N{NO-BREAK SPACE}% of the reference words are not in the training "
                       "text.")  # fmt: skip
    tables = [table(caption, header, rows)]
    if wer.unseen_words:
        words = [(el("bdi", word), count(there), count(wrong)) for word, there, wrong in wer.unseen_words[:_UNSEEN]]
        tables.append(table("Unseen words, most errors first.", ("Word", "Said", "Missed"), words))
    return [el("h3", "Rare and unseen words"), told, el("div", tables, class_="row")]


def calibration_part(calibration: Calibration | None) -> list[Html | None]:
    """Return the reliability of the confidences: a drawing, its table, and summary figures."""
    if calibration is None:
        return []
    c = calibration
    sure = "overconfident" if c.confidence > c.accuracy else "underconfident"
    worth = [f"expected calibration error {percent(c.ece, 1)}\N{NO-BREAK SPACE}%"]
    if c.nce is not None:
        worth.append(f"normalised cross entropy {c.nce:.3f} (1 is perfect, 0 is worthless)".replace("-", "−"))
    if c.auc is not None:
        worth.append(
            f"a right word is ranked above a wrong one with a probability of {percent(c.auc, 1)}\N{NO-BREAK SPACE}%"
        )
    told = (
        f"Mean confidence {percent(c.confidence, 1)}\N{NO-BREAK SPACE}%, and {percent(c.accuracy, 1)}\N{NO-BREAK SPACE}"
        f"% of {count(c.words)} recognised words are right: the system is {sure}. {'; '.join(worth).capitalize()}."
    )
    rows: list[tuple[Child, ...]] = [
        (f"{b.low:.1f}–{b.high:.1f}", f"{b.confidence:.3f}", percent(b.accuracy, 1),
         interval_text(b.ci_low, b.ci_high, 1) if 0 < b.accuracy < 1 else "–", count(b.words))
        for b in c.bins
    ]  # fmt: skip
    chart = reliability_chart([(b.confidence, b.accuracy, b.ci_low, b.ci_high) for b in c.bins])
    caption = (
        "Share of recognised words that are right, by confidence, with 95 % intervals. On the dotted line, confidence "
        "equals the share of right words."
    )
    header = ("Confidence", "Mean", "Right %", "95 % interval", "Words")
    return [
        el("h3", "Confidence"),
        el("p", told),
        el("div", el("figure", chart, el("figcaption", caption)),
           table("The same in numbers.", header, rows), class_="row"),
    ]  # fmt: skip


def _bounds(group: Group) -> tuple[float | None, float | None]:
    """Return the interval, unless there is no error: resampling zeros would give a point."""
    return (group.ci_low, group.ci_high) if group.S + group.D + group.I else (None, None)


def _band(band: WordBand, top: float) -> tuple[Child, ...]:
    return (
        band.name,
        percent(band.error_rate, 1),
        interval_text(band.ci_low, band.ci_high, 1),
        el("span", interval_mark(band.error_rate, band.ci_low, band.ci_high, top)),
        count(band.S),
        count(band.D),
        count(band.words),
        count(band.types),
    )


def _axis(top: float) -> str:
    return f" Axis: 0 to {100 * top:.0f} %." if top > 0 else ""
