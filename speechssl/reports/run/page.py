"""report.html: one file that needs no script, no network and no other file.

In: a `RunRecord` and its `Facts`. Out: the page as text. A content security policy forbids scripts and requests, so
that even a fault in escaping could not do harm.
"""

import math
from collections.abc import Sequence
from datetime import datetime

from speechssl.reports.page.charts import bar_chart
from speechssl.reports.page.figure import Figure, figure
from speechssl.reports.page.head import Section, document_head, page
from speechssl.reports.page.html import Html, el, join
from speechssl.reports.run.breakdowns import calibration_part, group_tables, rare_words
from speechssl.reports.run.clips import Clips, clips_of
from speechssl.reports.run.collect import RunRecord, Training
from speechssl.reports.run.curves import finetuning_figures, pretraining_figures, training_label
from speechssl.reports.run.facts import Facts
from speechssl.reports.run.reproduction import reproduction
from speechssl.reports.run.results import results
from speechssl.reports.run.sentences import model_sentence
from speechssl.reports.run.tables import (
    confusion_tables,
    corpus_table,
    count,
    ledger_table,
    table,
    training_table,
    unit_table,
)
from speechssl.reports.run.utterances import alignment_key, utterance_list

__all__ = ["render_page"]

_FINDINGS = 20
"""Health findings of a training that are shown."""
_LEGEND = (
    "Spectrograms: power in 80 mel bands in decibels, 25 ms windows; axes in kHz (mel scale) and seconds; white is "
    "70 dB below the loudest point. On a dark page, dark and light are exchanged."
)


def render_page(record: RunRecord, facts: Facts, made: datetime) -> str:
    """Return the page; ``made`` is the time it shows."""
    sections = [
        ("result", "Result", results(record, facts)),
        _learning(record, facts),
        _errors(facts),
        _utterances(record, facts),
        _data(record, facts),
        ("reproduction", "Reproduction", reproduction(record, facts)),
    ]
    header = [
        el("p", "speechssl report", class_="kicker"),
        el("h1", record.title),
        el("p", model_sentence(record), class_="subtitle"),
        el("p", f"{made:%d %B %Y, %H:%M}", class_="faint date"),
    ]
    notes = el("aside", el("h2", "Notes"), el("ul", [el("li", note) for note in facts.notes])) if facts.notes else None
    head = document_head(f"{record.title} – speechssl report")
    return page(head, header, sections, f"Made by speechssl {record.environment.get('speechssl', '')}.", notes=notes)


def _learning(record: RunRecord, facts: Facts) -> Section:
    pretrainings = [t for t in record.trainings if t.phase == "pretrain"]
    phases = (
        ("Pretraining", pretraining_figures(pretrainings), _units(pretrainings)),
        ("Fine-tuning", finetuning_figures([t for t in record.trainings if t.phase == "finetune"]), None),
    )
    parts: list[Html | None] = []
    if record.lengths:
        parts += [el("h3", "How long it trained"), el("ul", [el("li", sentence) for sentence in record.lengths])]
    for title, figures, more in phases:
        if figures or more:
            parts += [el("h3", title), el("div", [figure(item) for item in figures], class_="figures"), more]
    if facts.trainings:
        parts += [el("h3", "Cost and health"), training_table(facts.trainings, record.name), _health(record)]
    if record.sweep:
        rows = [
            (str(c.get("arm", "")), _number(c.get("lr"), "{:g}"), _number(c.get("dev_wer"), "{:.2%}"),
             "kept" if c.get("kept") else _ended(c.get("ended_at")))
            for c in record.sweep
        ]  # fmt: skip
        caption = (
            "Learning rates tried, with the lowest dev WER of each (for one that ended early, that at its end). "
            "The test split took no part in the choice."
        )
        parts.append(table(caption, ("Arm", "Learning rate", "Dev WER %", ""), rows))
    return "learning", "Learning", parts


def _ended(step: object) -> str:
    return f"ended after {count(step)} updates" if isinstance(step, int) else ""


def _units(trainings: Sequence[Training]) -> Html | None:
    named = [(training_label(t, trainings), t.units) for t in trainings if t.units is not None]
    return unit_table(named) if named else None


def _health(record: RunRecord) -> Html:
    findings = [(training, row) for training in record.trainings for row in training.health]
    if not findings:
        return el("p", "No health check raised a finding.")
    items = []
    for training, row in findings[:_FINDINGS]:
        severity = str(row.get("severity", "warning"))
        where = f"{training.name or record.name}, update {count(row['step'])}"
        items.append(
            el(
                "li",
                el("strong", f"{severity}: {row.get('name', '')}"),
                el("span", f" ({where}) ", class_="faint"),
                str(row.get("message", "")),
                class_=severity if severity.isalpha() else None,
            )
        )
    hidden = len(findings) - len(items)
    more = el("p", f"The {count(hidden)} others are in report.json.", class_="faint") if hidden else None
    return join([el("p", "Findings of the health checks:"), el("ul", items, class_="findings"), more])


def _errors(facts: Facts) -> Section:
    if facts.main is None:
        return "errors", "Errors", []
    wer = facts.main.wer
    confusions = confusion_tables(wer)
    return "errors", "Errors", [
        *([el("h3", "Confusions"), el("div", confusions, class_="row")] if confusions else []),
        el("h3", "By group"),
        *group_tables(wer),
        *rare_words(wer),
        *calibration_part(wer.calibration),
    ]  # fmt: skip


def _utterances(record: RunRecord, facts: Facts) -> Section:
    if facts.main is None or not (facts.worst or facts.samples):
        return "utterances", "Utterances", []
    clips = clips_of(facts.main, record.folder, [*facts.samples, *facts.worst])
    parts: list[Html | None] = [alignment_key()]
    if clips.media:
        parts.append(el("p", _LEGEND, class_="faint small"))
    if clips.note:
        parts.append(el("p", clips.note, class_="faint small"))
    if facts.samples:
        parts += [el("h3", "Drawn at random"), utterance_list(facts.samples, clips)]
    if facts.worst:
        shown = {row["id"] for row in facts.samples}  # its audio player is above
        left = Clips({item: html for item, html in clips.media.items() if item not in shown}, clips.problems)
        parts += [el("h3", "Most errors"), utterance_list(facts.worst, left)]
    return "utterances", "Utterances", parts


def _data(record: RunRecord, facts: Facts) -> Section:
    parts: list[Html | None] = []
    if record.corpus is not None:
        parts.append(corpus_table(record.corpus))
        chart = bar_chart(record.corpus.durations, x_label="Duration (s)", y_label="Utterances")
        if chart is not None:
            parts.append(figure(Figure(chart, "Durations of all utterances.")))
    if facts.ledger:
        parts.append(ledger_table(facts.ledger))
    else:
        parts.append(el("p", "The ledger is empty: nothing was rejected, repaired or dropped."))
    return "data", "Data", parts


def _number(value: object, form: str) -> str:
    known = isinstance(value, int | float) and math.isfinite(value)
    return form.format(value).removesuffix("%") if known else "–"
