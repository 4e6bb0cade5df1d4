"""The page, the text and the JSON of a comparison of objectives.

In: finished arms. Out: objectives.html, one file that needs no script and no network, objectives.txt with the same
tables, and objectives.json with every number.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from speechssl.config import CompareObjectivesConfig
from speechssl.core.environment import environment
from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic
from speechssl.core.text_table import interval_text, percent, text_table
from speechssl.core.version import __version__
from speechssl.evaluation.compare.ranks import RankCorrelation
from speechssl.reports.comparison.differences import difference_chart
from speechssl.reports.comparison.objective_results import ArmRun, Cost, ObjectiveResult, results_of
from speechssl.reports.comparison.probe_results import (
    PROBES_NOTE,
    RANKS,
    RANKS_NOTE,
    correlations,
    probe_table,
    rank_rows,
)
from speechssl.reports.comparison.verdicts import points
from speechssl.reports.page.figure import Figure, figure, prose
from speechssl.reports.page.head import document_head
from speechssl.reports.page.html import Html, el
from speechssl.reports.run.sentences import probability_text
from speechssl.reports.run.tables import duration_text, table

__all__ = ["build_objectives", "objectives_page", "objectives_text"]

LEARNT = ("objective", "encoder", "held-out metric", "value", "chance", "hours seen", "step", "x", "memory", "x",
          "targets", "findings")  # fmt: skip
SCORES = ("objective", "seeds", "dev WER %", "95 % interval", "dev CER %", "95 % interval", "test WER %",
          "95 % interval", "test CER %", "95 % interval", "from scratch", "95 % interval", "P better")  # fmt: skip
LEARNT_NOTE = (
    "Held-out metric: at the last update, with what a model that has learnt nothing would show. Step and memory: of an "
    "update of pretraining, measured side by side as they run, and relative to {reference} (x). Targets: time to make "
    "them before training, all iterations together."
)
SCORES_NOTE = (
    "The candidate with the lowest dev WER was scored on test, once. From scratch: difference in test WER, in points, "
    "from random weights in the same encoder, causal or not, with the same labels, updates, number of learning rates "
    "and seeds, on the same utterances; negative is better (paired bootstrap)."
)
CAUSAL_NOTE = (
    "An objective that predicts what follows needs a causal encoder. Its recogniser is then causal, too, and is "
    "compared with random weights in a causal encoder."
)


def build_objectives(
    cfg: CompareObjectivesConfig,
    runs: Sequence[ArmRun],
    labels: Sequence[str],
    costs: Mapping[str, Cost],
    *,
    made: datetime | None = None,
) -> Path:
    """Write the three files and return the path of the page; ``made`` is the time they show, now when absent.

    Raises
    ------
    DataError
        No arm is finished, or a run folder is damaged.
    """
    if not runs:
        raise DataError(f"{cfg.output}: no arm was finished, so there is nothing to compare")
    results = results_of(cfg, runs, labels, costs)
    made = made or datetime.now().astimezone()
    folder, about = Path(cfg.output), environment()
    document = {
        "made": made.isoformat(timespec="seconds"),
        "environment": about,
        "updates": {"pretrain": cfg.pretrain.training.steps, "finetune": cfg.finetune.training.steps},
        "reference": cfg.reference,
        "arms": [asdict(result) for result in results],
        "probe_correlations": {name: asdict(each) for name, each in _correlations(cfg, results).items()},
    }
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False, default=str)
    write_atomic(folder / "objectives.json", text + "\n")
    write_atomic(folder / "objectives.txt", objectives_text(cfg, results, about, made))
    write_atomic(folder / "objectives.html", objectives_page(cfg, results, about, made))
    return folder / "objectives.html"


def _facts(cfg: CompareObjectivesConfig, results: Sequence[ObjectiveResult]) -> list[str]:
    """Return what was the same for all arms, and which objectives do not beat random weights."""
    hours = sorted((f"{each.hours:.2f}" for result in results for each in result.learnt), key=float)
    seen = " to ".join(dict.fromkeys([*hours[:1], *hours[-1:]])) or "0"
    budget = len(cfg.learning_rates) * max(1, len(cfg.pretrain_rates))
    chosen = f" with {budget} candidates, of which dev chose one" if budget > 1 else ""
    told = [
        f"Each objective saw {seen} hours of audio in {cfg.pretrain.training.steps:,} updates of pretraining. Each arm "
        f"then made {cfg.finetune.training.steps:,} updates of fine-tuning{chosen}."
    ]
    for name in _label_names(results):
        worse = [
            result.title
            for result in results
            for score in result.scores
            if score.labels == name and score.against_scratch is not None and score.against_scratch.high >= 0
        ]
        if worse:
            told.append(f"On {name}, not better than random weights at this budget: {', '.join(worse)}.")
    return told


def _learnt_rows(results: Sequence[ObjectiveResult]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for result in results:
        for seed, each in zip(result.seeds, result.learnt, strict=False):
            name = result.title if len(result.learnt) == 1 else f"{result.title}, seed {seed}"
            rows.append(
                (
                    name,
                    "causal" if result.causal else "bidirectional",
                    each.metric or "–",
                    _number(each.value),
                    _number(each.chance),
                    f"{each.hours:.2f}",
                    "–" if result.step_seconds is None else f"{1000 * result.step_seconds:.0f} ms",
                    "–" if result.step_relative is None else f"{result.step_relative:.2f}",
                    "–" if result.peak_bytes is None else f"{result.peak_bytes / 1e9:.2f} GB",
                    "–" if result.memory_relative is None else f"{result.memory_relative:.2f}",
                    duration_text(each.target_seconds) if each.target_seconds else "none",
                    ", ".join(each.findings) or "none",
                )
            )
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _score_rows(results: Sequence[ObjectiveResult], labels: str) -> list[tuple[str, ...]]:
    rows = []
    for result in results:
        (score,) = (each for each in result.scores if each.labels == labels)
        cells = []
        for rate in (score.dev_wer, score.dev_cer, score.test_wer, score.test_cer):
            cells += [percent(rate.value, 1), interval_text(rate.low, rate.high, 1)]
        found = score.against_scratch
        against = ("–",) * 3 if found is None else (
            points(found.difference, 1), f"{points(found.low, 1)} to {points(found.high, 1)}",
            probability_text(found.probability, found.resamples),
        )  # fmt: skip
        rows.append((result.title, " ".join(map(str, result.seeds)), *cells, *against))
    return rows


def _correlations(cfg: CompareObjectivesConfig, results: Sequence[ObjectiveResult]) -> dict[str, RankCorrelation]:
    arms = [(result.probes, result.test_wer) for result in results]
    return correlations(arms, n=cfg.evaluate.bootstrap, seed=cfg.evaluate.seed)


def _label_names(results: Sequence[ObjectiveResult]) -> list[str]:
    return list(dict.fromkeys(score.labels for result in results for score in result.scores))


def _notes(cfg: CompareObjectivesConfig, results: Sequence[ObjectiveResult]) -> tuple[str, str]:
    causal = f" {CAUSAL_NOTE}" if any(result.causal for result in results) else ""
    return LEARNT_NOTE.format(reference=cfg.reference) + causal, SCORES_NOTE


def _about(about: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())


def objectives_text(
    cfg: CompareObjectivesConfig, results: Sequence[ObjectiveResult], about: Mapping[str, str], made: datetime
) -> str:
    """Return the text."""
    learnt, scores = _notes(cfg, results)
    parts = [f"speechssl compare-objectives   {made:%Y-%m-%d %H:%M}\n"]
    parts += [textwrap.fill(line, 100) + "\n" for line in _facts(cfg, results)]
    parts += [text_table(LEARNT, _learnt_rows(results), left=3), textwrap.fill(learnt, 100) + "\n"]
    for name in _label_names(results):
        parts += [f"{name}:\n{text_table(SCORES, _score_rows(results, name))}"]
    parts.append(textwrap.fill(scores, 100) + "\n")
    header, rows = probe_table([(result.title, result.probes) for result in results])
    if rows:
        parts += [text_table(header, rows), textwrap.fill(PROBES_NOTE, 100) + "\n"]
        parts += [text_table(RANKS, rank_rows(_correlations(cfg, results))), textwrap.fill(RANKS_NOTE, 100) + "\n"]
    parts.append(textwrap.fill(_about(about), 100) + "\n")
    return "\n".join(parts)


def objectives_page(
    cfg: CompareObjectivesConfig, results: Sequence[ObjectiveResult], about: Mapping[str, str], made: datetime
) -> str:
    """Return the page; everything that comes from a file is escaped."""
    learnt, scores = _notes(cfg, results)
    title = f"{sum(not result.scratch for result in results)} objectives compared"
    names = _label_names(results)
    sections: list[tuple[str, str, list[Html | None]]] = [
        ("pretraining", "Pretraining", [table(learnt, LEARNT, _learnt_rows(results), text=(0, 1, 2, 11))])
    ]
    for number, name in enumerate(names):
        parts = [_chart(results, name), table(scores, SCORES, _score_rows(results, name), text=(0, 1))]
        sections.append((f"labels-{number}", name, parts))
    columns, rows = probe_table([(result.title, result.probes) for result in results])
    if rows:
        ranks = table(RANKS_NOTE, RANKS, rank_rows(_correlations(cfg, results)), text=(0,))
        sections.append(("frozen", "Frozen models", [table(PROBES_NOTE, columns, rows, text=(0,)), ranks]))
    header = el(
        "header",
        el("p", "speechssl compare-objectives", class_="kicker"),
        el("h1", title),
        el("p", f"{made:%d %B %Y, %H:%M}", class_="faint date"),
        el("nav", [el("a", name, href=f"#{anchor}") for anchor, name, _ in sections], aria_label="Contents"),
    )
    lead = [prose(line, "lead" if not number else None) for number, line in enumerate(_facts(cfg, results))]
    body = [el("section", el("h2", name), parts, id=anchor) for anchor, name, parts in sections]
    footer = el("footer", f"Made by speechssl {__version__}. {_about(about)}. objectives.json has every number.")
    main = el("main", header, lead, body, footer)
    head = document_head(f"{title} – speechssl", "compare.css", sound=False)
    return f"<!DOCTYPE html>\n{el('html', head, el('body', main), lang='en')}\n"


def _chart(results: Sequence[ObjectiveResult], labels: str) -> Html | None:
    """Draw the differences from scratch."""
    rows = [
        (result.title, (100 * found.difference, 100 * found.low, 100 * found.high))
        for result in results
        for score in result.scores
        if score.labels == labels and (found := score.against_scratch) is not None
    ]
    drawing = difference_chart(rows, x_label="Test WER against random weights (points)")
    caption = "Difference from random weights with its 95 % interval. Left of zero, pretraining has gained."
    return None if drawing is None else figure(Figure(drawing, caption), wide=True)
