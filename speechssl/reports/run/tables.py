"""The tables of the report: scores, parts of the test set, confusions, data, ledger, trainings.

In: `Facts` and records. Out: `Html` tables with a caption each; numbers are flush right, with equal decimals.
"""

from collections.abc import Collection, Sequence

from speechssl.core.text_table import interval_text, percent
from speechssl.evaluation.wer.report import WerReport
from speechssl.reports.page.charts import interval_chart
from speechssl.reports.page.html import Child, Html, el
from speechssl.reports.run.corpus import Corpus
from speechssl.reports.run.facts import LedgerLine, TrainingFacts
from speechssl.reports.run.unit_use import UnitUse

__all__ = [
    "confusion_tables",
    "corpus_table",
    "count",
    "duration_text",
    "hours_text",
    "ledger_table",
    "score_chart",
    "score_table",
    "table",
    "training_table",
    "unit_table",
]

_CONFUSIONS = 12


def count(number: int) -> str:
    """Return an integer with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration_text(seconds: float | None) -> str:
    """Return ``42 s``, ``12 min``, ``3 h 20 min`` or ``4 d 2 h``."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def hours_text(hours: float, total: float) -> str:
    """Return hours with as many decimals as a corpus of this size needs."""
    return f"{hours:.{1 if total >= 1000 else 2 if total >= 1 else 4}f}"


def table(
    caption: Child, header: Sequence[str], rows: Sequence[Sequence[Child]], *, text: Collection[int] = (0,)
) -> Html:
    """Return a table whose columns named in ``text`` are flush left and the others, numbers, flush right."""

    def cell(index: int, content: Child, name: str, scope: str | None) -> Html:
        return el(name, content, scope=scope, class_=None if index in text else "n")

    head = el("thead", el("tr", [cell(index, title, "th", "col") for index, title in enumerate(header)]))
    body = el("tbody", [
        el("tr", [cell(index, content, "td" if index else "th", None if index else "row")
                  for index, content in enumerate(row)])
        for row in rows
    ])  # fmt: skip
    name = header[0] or next(filter(None, header), "")
    inside = el("table", el("caption", caption), head, body)
    return el("div", inside, class_="scroll", role="region", tabindex="0", aria_label=f"Table: {name}")


def score_table(scores: Sequence[tuple[str, WerReport]]) -> Html:
    """Return the table of systems: rates with intervals and counts."""
    rows = []
    for name, wer in scores:
        counts = [percent(number / wer.N, 1) if wer.N else "–" for number in (wer.S, wer.D, wer.I)]
        rows.append(
            (
                name,
                el("strong", percent(wer.wer)),
                interval_text(wer.ci_low, wer.ci_high),
                *counts,
                percent(wer.cer),
                percent(wer.mer, 1),
                percent(wer.wil, 1),
                percent(wer.ser, 1),
                count(wer.N),
                count(wer.utterances),
            )
        )
    header = (
        "", "WER %", "95 % interval", "Sub. %", "Del. %", "Ins. %", "CER %", "MER %", "WIL %", "SER %", "Words", "Utt.",
    )  # fmt: skip
    caption = (
        "Error rates. WER: substituted, deleted and inserted words over reference words, pooled over all utterances; "
        "the interval is a bootstrap over utterances. CER: the same by characters. MER: match error rate. WIL: word "
        "information lost. SER: share of utterances with an error."
    )
    return table(caption, header, rows)


def score_chart(scores: Sequence[tuple[str, WerReport]]) -> Html | None:
    """Draw the word error rate of each system that has one, with its interval."""

    def points(rate: float | None) -> float | None:
        return None if rate is None else 100 * rate

    drawn = [(name, 100 * w.wer, points(w.ci_low), points(w.ci_high)) for name, w in scores if w.wer is not None]
    return interval_chart(drawn, x_label="Word error rate (%)")


def confusion_tables(wer: WerReport) -> list[Html]:
    """Return the most frequent word errors and character errors, a table each."""
    characters = (wer.character_substitutions, wer.character_deletions, wer.character_insertions)
    parts = []
    if wer.substitutions or wer.deletions or wer.insertions:
        parts.append(_confusion_table("words", wer.substitutions, wer.deletions, wer.insertions))
    if any(characters):
        parts.append(_confusion_table("characters", *characters))
    return parts


def _confusion_table(
    unit: str,
    substitutions: Sequence[tuple[str, str, int]],
    deletions: Sequence[tuple[str, int]],
    insertions: Sequence[tuple[str, int]],
) -> Html:
    columns: list[list[tuple[Child, Child]]] = [
        [([_unit(ref), el("span", " → ", class_="faint"), _unit(hyp)], count(n)) for ref, hyp, n in substitutions],
        [(_unit(text), count(n)) for text, n in deletions],
        [(_unit(text), count(n)) for text, n in insertions],
    ]
    height = min(_CONFUSIONS, max(len(column) for column in columns))
    rows = [
        [cell for column in columns for cell in (column[index] if index < len(column) else ("", ""))]
        for index in range(height)
    ]
    space = " ␣: the space between words." if unit == "characters" else ""
    caption = f"The most frequent errors in {unit}; said → recognised.{space}"
    return table(caption, ("Substituted", "n", "Deleted", "n", "Inserted", "n"), rows, text=(0, 2, 4))


def corpus_table(corpus: Corpus) -> Html:
    """Return hours and labels by split."""
    parts = corpus.parts if len(corpus.parts) == 1 else (*corpus.parts, corpus.total)
    rows = [
        (
            part.name,
            count(part.utterances),
            hours_text(part.hours, corpus.total.hours),
            count(part.labelled),
            hours_text(part.labelled_hours, corpus.total.hours),
            count(part.speakers) if part.speakers else "unknown",
        )
        for part in parts
    ]
    header = ("Split", "Utterances", "Hours", "Transcribed", "Hours transcribed", "Speakers")
    return table(f"The data by split ({corpus.source}).", header, rows)


def ledger_table(lines: Sequence[LedgerLine]) -> Html:
    """Return the ledger by stage and reason, with the first examples."""
    rows: list[tuple[Child, ...]] = []
    for line in lines:
        examples = [
            el("div", el("code", item), el("span", f" {detail}", class_="faint") if detail else None)
            for item, detail in line.examples
        ]
        rows.append((line.stage, el("code", line.reason), line.action, examples, count(line.count)))
    caption = (
        "The ledger: everything that was rejected, repaired or dropped, by stage and reason; the first few of each."
    )
    return table(caption, ("Stage", "Reason", "Action", "First items", "Count"), rows, text=range(4))


def unit_table(named: Sequence[tuple[str, UnitUse]]) -> Html:
    """Return the quality of the units of each iteration."""

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else form.format(value)

    rows = [
        (
            name,
            use.features,
            cell(use.kmeans_hours, "{:.3g}"),
            count(use.units),
            cell(use.dead, "{:d}"),
            cell(use.perplexity, "{:.1f}"),
            cell(None if use.largest_share is None else 100 * use.largest_share, "{:.1f}"),
            cell(use.frames_per_run, "{:.2f}"),
        )
        for name, use in named
    ]
    caption = (
        "The units that are predicted: k-means clusters. Fitted: hours of audio that the k-means saw. Perplexity: "
        "units in effective use. Largest: share of the frames that carry the most frequent unit. Run: mean length of a "
        "stretch of equal units, in frames."
    )
    header = ("Iteration", "Features", "Fitted h", "Units", "Dead", "Perplexity", "Largest %", "Run")
    return table(caption, header, rows, text=range(2))


def training_table(trainings: Sequence[TrainingFacts], run: str) -> Html:
    """Return the table of trainings: updates, time, speed, losses."""
    rows = []
    for t in trainings:
        best = "–" if t.dev_wer is None else f"{percent(t.dev_wer, 1)} at {count(t.dev_wer_step or 0)}"
        rows.append(
            (
                t.name or run,
                "fine-tuning" if t.phase == "finetune" else "pretraining",
                count(t.steps) + (f" of {count(t.planned)}" if t.planned and t.planned != t.steps else ""),
                duration_text(t.seconds),
                "–" if t.audio_rate is None else f"{t.audio_rate:,.0f}×",
                "–" if t.waiting is None else f"{100 * t.waiting:.1f}",
                count(t.skipped),
                "–" if t.loss is None else f"{t.loss:.3f}",
                "–" if t.valid_loss is None else f"{t.valid_loss:.3f}",
                best,
            )
        )
    caption = (
        "The trainings. Time: updates times the median time of one. Speed: seconds of audio in a second. Loader: share "
        "of the time that an update waited for data. Skipped: updates left out because a gradient was not finite. Held "
        "out: the loss, at the end, on audio that pretraining never trained on."
    )
    header = (
        "Folder",
        "Phase",
        "Updates",
        "Time",
        "Speed",
        "Loader %",
        "Skipped",
        "Last loss",
        "Held out",
        "Dev WER %",
    )
    return table(caption, header, rows, text=range(2))


def _unit(text: str) -> Html:
    return el("bdi", "␣" if text == " " else text)
