"""report.txt: the report for a terminal, a mail or a commit message.

In: a `RunRecord` and its `Facts`. Out: plain text.
"""

from datetime import datetime

from speechssl.core.text_table import interval_text, percent, text_table
from speechssl.reports.run.collect import RunRecord
from speechssl.reports.run.facts import Facts
from speechssl.reports.run.sentences import comparison_sentence, model_sentence, score_sentences
from speechssl.reports.run.tables import duration_text, hours_text

__all__ = ["render_text"]


def render_text(record: RunRecord, facts: Facts, made: datetime) -> str:
    """Return the text report; ``made`` is the time it shows."""
    parts = [f"{record.name}   {made:%Y-%m-%d %H:%M}\n{model_sentence(record)}\n"]
    if record.evaluations:
        header: tuple[str, ...]
        header = ("system", "split", "WER %", "95 % interval", "CER %", "S", "D", "I", "N", "utterances")
        rows: list[tuple[str, ...]] = [
            (
                e.name or record.name, e.split or "–", percent(e.wer.wer), interval_text(e.wer.ci_low, e.wer.ci_high),
                percent(e.wer.cer), str(e.wer.S), str(e.wer.D), str(e.wer.I), str(e.wer.N), str(e.wer.utterances),
            )
            for e in record.evaluations
        ]  # fmt: skip
        parts.append(text_table(header, rows, left=2))
    if facts.comparison is not None:
        parts.append(comparison_sentence(facts.comparison) + "\n")
    if facts.main is not None:
        parts += [sentence + "\n" for sentence in score_sentences(facts.main)]
    if facts.trainings:
        header = ("training", "phase", "updates", "time", "skipped", "last loss", "held out", "dev WER %", "findings")
        rows = [
            (
                t.name or record.name, t.phase, str(t.steps), duration_text(t.seconds), str(t.skipped),
                "–" if t.loss is None else f"{t.loss:.3f}",
                "–" if t.valid_loss is None else f"{t.valid_loss:.3f}", percent(t.dev_wer), str(t.findings),
            )
            for t in facts.trainings
        ]  # fmt: skip
        parts.append(text_table(header, rows, left=2))
    findings = [
        f"  {training.name or record.name}, update {row['step']}: {row.get('name', '')}: {row.get('message', '')}\n"
        for training in record.trainings
        for row in training.health
    ]
    if findings:
        parts.append("Findings of the health checks:\n" + "".join(findings))
    if record.corpus is not None:
        header = ("split", "utterances", "hours", "transcribed", "hours transcribed", "speakers")
        rows = [
            (
                p.name, str(p.utterances), hours_text(p.hours, record.corpus.total.hours), str(p.labelled),
                hours_text(p.labelled_hours, record.corpus.total.hours), str(p.speakers) if p.speakers else "unknown",
            )
            for p in (*record.corpus.parts, record.corpus.total)
        ]  # fmt: skip
        parts.append(text_table(header, rows))
    if facts.ledger:
        lines = [
            (e.stage, e.reason, e.action, str(e.count), e.examples[0][0] if e.examples else "") for e in facts.ledger
        ]
        parts.append(text_table(("stage", "reason", "action", "count", "first item"), lines, left=3))
    if facts.notes:
        parts.append("Notes:\n" + "".join(f"  {note}\n" for note in facts.notes))
    parts.append("In the folder of this run:\n" + "".join(f"  {command}\n" for command in facts.commands))
    return "\n".join(parts)
