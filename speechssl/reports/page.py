"""report.html: one file that needs no script, no network and no other file.

In: a `RunRecord` and its `Facts`. Out: the page as text. A content security policy forbids scripts and requests, so
that even a fault in escaping could not do harm.
"""

import math
import re
from datetime import datetime
from importlib import resources

from speechssl.evaluation.table import interval_text, percent
from speechssl.evaluation.wer import greedy_score
from speechssl.reports.charts import bar_chart, interval_chart
from speechssl.reports.collect import Evaluation, RunRecord
from speechssl.reports.curves import Figure, finetuning_figures, pretraining_figures
from speechssl.reports.facts import Facts
from speechssl.reports.html import Child, Html, el, join
from speechssl.reports.sentences import comparison_sentence, model_sentence, score_sentences
from speechssl.reports.tables import (
    confusion_tables,
    corpus_table,
    count,
    duration_text,
    group_table,
    ledger_table,
    score_table,
    table,
    training_table,
)
from speechssl.reports.utterances import alignment_key, utterance_list

__all__ = ["render_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_Section = tuple[str, str, list[Html | None]]


def render_page(record: RunRecord, facts: Facts, made: datetime) -> str:
    """Return the page; ``made`` is the time it shows."""
    sections = [
        section
        for section in (
            _results(record, facts),
            _learning(record, facts),
            _errors(facts),
            _utterances(facts),
            _data(record, facts),
            _reproduction(record, facts),
        )
        if any(part is not None for part in section[2])
    ]
    style = resources.files("speechssl.reports").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{record.name} – speechssl report"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        Html(f"<style>{style}</style>"),
    )
    contents = el("nav", [el("a", title, href=f"#{anchor}") for anchor, title, _ in sections], aria_label="Contents")
    header = el(
        "header",
        el("p", "speechssl report", class_="kicker"),
        el("h1", record.name),
        el("p", model_sentence(record), class_="subtitle"),
        el("p", f"{made:%d %B %Y, %H:%M}", class_="faint date"),
        contents,
    )
    body = [el("section", el("h2", title), parts, id=anchor) for anchor, title, parts in sections]
    notes = el("aside", el("h2", "Notes"), el("ul", [el("li", note) for note in facts.notes])) if facts.notes else None
    main = el(
        "main", header, notes, body, el("footer", f"Made by speechssl {record.environment.get('speechssl', '')}.")
    )
    return f"<!DOCTYPE html>\n{el('html', head, el('body', main), lang='en')}\n"


def _results(record: RunRecord, facts: Facts) -> _Section:
    main = facts.main
    parts: list[Html | None] = []
    if main is None:
        if facts.trainings:
            parts.append(
                el("p", "Nothing has been scored in this folder, so there is no word error rate.", class_="lead")
            )
        return "result", "Result", parts
    wer = main.wer
    parts.append(
        el(
            "div",
            el("div", el("span", percent(wer.wer, 1), class_="number"), el("span", " %", class_="unit"), class_="big"),
            el(
                "div",
                el("p", "Word error rate", f" on {main.split}" if main.split else "", class_="what"),
                el("p", f"95 % interval {interval_text(wer.ci_low, wer.ci_high, 1)} %", class_="interval-text"),
            ),
            class_="headline",
        )
    )
    if facts.comparison is not None:
        parts.append(_prose(comparison_sentence(facts.comparison), "lead"))
    named = [(_arm(e, record), e.wer) for e in record.evaluations]
    drawn = [
        (
            name,
            100 * w.wer,
            None if w.ci_low is None else 100 * w.ci_low,
            None if w.ci_high is None else 100 * w.ci_high,
        )
        for name, w in named
        if w.wer is not None
    ]
    chart = interval_chart(drawn, x_label="Word error rate (%)") if len(drawn) > 1 else None
    if chart is not None:
        parts.append(_figure(Figure(chart, "Word error rate of each system with its 95 % interval."), wide=True))
    greedy = [
        (f"{_arm(e, record)}, greedy", score) for e in record.evaluations if (score := greedy_score(e.rows)) is not None
    ]
    parts.append(score_table(named + greedy))
    parts += [_prose(sentence) for sentence in score_sentences(main)]
    return "result", "Result", parts


def _arm(evaluation: Evaluation, record: RunRecord) -> str:
    if any(other.scratch for other in record.evaluations):
        arm = "From scratch" if evaluation.scratch else "Pretrained"
        splits = {other.split for other in record.evaluations}
        return f"{arm}, {evaluation.split}" if len(splits) > 1 else arm
    return evaluation.split or evaluation.name or record.name


def _learning(record: RunRecord, facts: Facts) -> _Section:
    phases = (
        ("Pretraining", pretraining_figures([t for t in record.trainings if t.phase == "pretrain"])),
        ("Fine-tuning", finetuning_figures([t for t in record.trainings if t.phase == "finetune"])),
    )
    parts: list[Html | None] = []
    for title, figures in phases:
        if figures:
            parts += [el("h3", title), el("div", [_figure(figure) for figure in figures], class_="figures")]
    if facts.trainings:
        parts += [el("h3", "Cost and health"), training_table(facts.trainings, record.name), _health(record)]
    if record.sweep:
        rows = [
            (str(c.get("arm", "")), _number(c.get("lr"), "{:g}"), _number(c.get("dev_wer"), "{:.2%}"),
             "kept" if c.get("kept") else "")
            for c in record.sweep
        ]  # fmt: skip
        caption = "Learning rates tried, with the lowest dev WER of each. The test split took no part in the choice."
        parts.append(table(caption, ("Arm", "Learning rate", "Dev WER %", ""), rows))
    return "learning", "Learning", parts


def _health(record: RunRecord) -> Html:
    findings = [(training, row) for training in record.trainings for row in training.health]
    if not findings:
        return el("p", "No health check raised a finding.")
    items = []
    for training, row in findings:
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
    return join([el("p", "Findings of the health checks:"), el("ul", items, class_="findings")])


def _errors(facts: Facts) -> _Section:
    if facts.main is None:
        return "errors", "Errors", []
    wer = facts.main.wer
    return "errors", "Errors", [
        group_table(wer.by_speaker, "Speaker", "Word error rate by speaker, highest first."),
        group_table(wer.by_length, "Words", "Word error rate by length of the reference, in words."),
        group_table(wer.by_duration, "Seconds", "Word error rate by duration of the audio, in seconds."),
        el("div", confusion_tables(wer), class_="row"),
    ]  # fmt: skip


def _utterances(facts: Facts) -> _Section:
    parts: list[Html | None] = []
    if facts.worst or facts.samples:
        parts.append(alignment_key())
    if facts.samples:
        parts += [el("h3", "Drawn at random"), utterance_list(facts.samples)]
    if facts.worst:
        parts += [el("h3", "Most errors"), utterance_list(facts.worst)]
    return "utterances", "Utterances", parts


def _data(record: RunRecord, facts: Facts) -> _Section:
    parts: list[Html | None] = []
    if record.corpus is not None:
        parts.append(corpus_table(record.corpus))
        chart = bar_chart(record.corpus.durations, x_label="Duration (s)", y_label="Utterances")
        if chart is not None:
            parts.append(_figure(Figure(chart, "Durations of all utterances.")))
    if facts.ledger:
        parts.append(ledger_table(facts.ledger))
    else:
        parts.append(el("p", "The ledger is empty: nothing was rejected, repaired or dropped."))
    return "data", "Data", parts


def _reproduction(record: RunRecord, facts: Facts) -> _Section:
    parts: list[Html | None] = [
        el("p", "In the folder of this run:"),
        el("pre", el("code", "\n".join(facts.commands))),
    ]
    if any("FOLDER" in command for command in facts.commands):
        parts.append(el("p", "FOLDER is the folder of audio. Finished stages are not made again.", class_="faint"))
    tables = [table("Versions.", ("Component", "Version"), list(record.environment.items()), text=range(2))]
    if record.seconds:
        rows: list[tuple[Child, ...]] = [(name, duration_text(seconds)) for name, seconds in record.seconds]
        rows.append(("all", duration_text(sum(seconds for _, seconds in record.seconds))))
        tables.append(table("Time of each stage.", ("Stage", "Time"), rows))
    parts.append(el("div", tables, class_="row"))
    for name, text in record.configs:
        parts.append(el("details", el("summary", el("code", name)), el("pre", el("code", text))))
    return "reproduction", "Reproduction", parts


def _figure(figure: Figure, *, wide: bool = False) -> Html:
    return el("figure", figure.drawing, el("figcaption", figure.caption), class_="wide" if wide else None)


def _prose(text: str, class_: str | None = None) -> Html:
    """Return a paragraph in which no line begins with a percent sign or a unit."""
    return el("p", re.sub(r"(?<=\d) (?=%|points|words)", "\N{NO-BREAK SPACE}", text), class_=class_)


def _number(value: object, form: str) -> str:
    known = isinstance(value, int | float) and math.isfinite(value)
    return form.format(value).removesuffix("%") if known else "–"
