"""The first section of the report: the word error rate, its interval, and the comparison of the arms.

In: a `RunRecord` and its `Facts`. Out: `Html`.
"""

from pathlib import Path

from speechssl.core.text_table import interval_text, percent
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.wer import greedy_score
from speechssl.objectives.published import PublishedWer
from speechssl.reports.page.axes import Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.figure import Figure, figure, prose
from speechssl.reports.page.html import Html, el
from speechssl.reports.run.collect import Evaluation, RunRecord
from speechssl.reports.run.facts import Facts
from speechssl.reports.run.sentences import comparison_sentence, score_sentences
from speechssl.reports.run.tables import count, score_chart, score_table

__all__ = ["results"]


def results(record: RunRecord, facts: Facts) -> list[Html | None]:
    """Return the headline with its interval, the comparison, and the table of all systems."""
    main = facts.main
    parts: list[Html | None] = []
    if main is None:
        if facts.trainings:
            parts.append(
                el("p", "Nothing has been scored in this folder, so there is no word error rate.", class_="lead")
            )
        return parts
    wer = main.wer
    rate, low, high = (wer.cer, wer.cer_ci_low, wer.cer_ci_high) if wer.unspaced else (wer.wer, wer.ci_low, wer.ci_high)
    what = "Character error rate" if wer.unspaced else "Word error rate"
    parts.append(
        el(
            "div",
            el("div", el("span", percent(rate, 1), class_="number"), el("span", " %", class_="unit"), class_="big"),
            el(
                "div",
                el("p", what, f" on {_split(main)}" if main.split else "", class_="what"),
                el(
                    "p",
                    f"95 % interval {interval_text(low, high, 1)}\N{NO-BREAK SPACE}%",
                    class_="interval-text",
                ),
                el("p", _size(wer), class_="interval-text"),
            ),
            class_="headline",
        )
    )
    if facts.comparison is not None:
        parts.append(prose(comparison_sentence(facts.comparison), "lead"))
    names = _names(record)
    named = [(name, e.wer) for name, e in zip(names, record.evaluations, strict=True)]
    chart = score_chart(named) if sum(w.wer is not None for _, w in named) > 1 else None
    if chart is not None:
        parts.append(figure(Figure(chart, "Word error rate of each system with its 95 % interval."), wide=True))
    greedy = [
        (f"{name}, greedy decoding", score)
        for name, e in zip(names, record.evaluations, strict=True)
        if (score := greedy_score(e.rows)) is not None
    ]
    parts.append(score_table(named + greedy))
    published = published_wer(record)
    if published is not None:
        parts.append(figure(published))
    parts += [prose(sentence) for sentence in score_sentences(main)]
    return parts


def published_wer(record: RunRecord) -> Figure | None:
    """Return the greedy word error rate over hours of audio in pretraining, beside published runs.

    None for a run without a pretrained arm that was scored, of an objective without published rates, or of fewer hours
    than the first of them.
    """
    pretrainings = [training for training in record.trainings if training.phase == "pretrain"]
    heard = sum(training.total("audio_seconds") for training in pretrainings) / 3600
    known = [p for t in pretrainings[-1:] for p in t.objective.published if isinstance(p, PublishedWer)]
    if not known or heard < known[0].hours[0]:
        return None
    scores = (greedy_score(e.rows) or e.wer for e in record.evaluations if not e.scratch)
    wers = [score.wer for score in scores if score.wer is not None]
    if not wers:
        return None
    reached = [hours for hours in known[0].hours if hours <= heard]
    series = [Series("this run", [heard] * len(wers), [100 * wer for wer in wers])]
    for labels, values in known[0].wers:
        shown = [100 * value for value in values[: len(reached)]]
        series.append(Series(f"{labels:g} h of labels", reached, shown, style=len(series)))
    drawing = line_chart(
        series, x_label="hours of audio in pretraining", y_label="Word error rate (%)", zero=True, marks=True
    )
    if drawing is None:
        return None
    return Figure(drawing, f"Word error rate over audio in pretraining. {known[0].source}")


def _size(wer: WerReport) -> str:
    speakers = f" of {count(wer.speakers)} speaker{'s' * (wer.speakers != 1)}" if wer.speakers else ""
    utterances = f"{count(wer.utterances)} utterance{'s' * (wer.utterances != 1)}"
    return f"{count(wer.N)} word{'s' * (wer.N != 1)} in {utterances}{speakers}"


def _names(record: RunRecord) -> list[str]:
    """Return a distinct name for each evaluation: arm and split, and the folder where these are not enough."""
    names = [_arm(evaluation, record) for evaluation in record.evaluations]
    return [
        name if names.count(name) == 1 else f"{name}, {Path(evaluation.name).name or record.title}"
        for name, evaluation in zip(names, record.evaluations, strict=True)
    ]


def _arm(evaluation: Evaluation, record: RunRecord) -> str:
    rounds = any(other.round > 1 for other in record.evaluations)
    if rounds or any(other.scratch for other in record.evaluations):
        pretrained = f"Round {evaluation.round}" if rounds else "Pretrained"
        arm = "From scratch" if evaluation.scratch else pretrained
        splits = {other.split for other in record.evaluations}
        return f"{arm}, {_split(evaluation)}" if len(splits) > 1 else arm
    return _split(evaluation) or evaluation.name or record.title


def _split(evaluation: Evaluation) -> str:
    """Return the name of what was scored; a list of ids goes by the name of its file."""
    return ", ".join(Path(part).stem if part.endswith(".txt") else part for part in evaluation.split.split(", "))
