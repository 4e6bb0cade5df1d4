"""compare.html: a comparison of systems as one file that needs no script, no network and no other file.

In: a `Comparison`, what is known of its systems, and notes. Out: the page as text. Everything that comes from a file is
escaped. A content security policy also forbids scripts and requests.
"""

from collections.abc import Sequence
from datetime import datetime

from speechssl.core.text_table import percent
from speechssl.core.version import __version__
from speechssl.evaluation.bootstrap import PairedBootstrap
from speechssl.evaluation.compare.changes import WordChange
from speechssl.evaluation.compare.comparison import Comparison, GroupDifference, GroupTable
from speechssl.evaluation.compare.pairs import Pair
from speechssl.reports.comparison.aligned import change_key, change_list
from speechssl.reports.comparison.differences import difference_chart, difference_mark, reach
from speechssl.reports.comparison.systems import System
from speechssl.reports.comparison.verdicts import p_text, pair_sentence, points, verdict
from speechssl.reports.page.figure import Figure, figure, prose
from speechssl.reports.page.head import Section, document_head, page
from speechssl.reports.page.html import Child, Html, el
from speechssl.reports.run.sentences import probability_text
from speechssl.reports.run.tables import count, score_chart, score_table, table

__all__ = ["render_comparison"]

_GROUPS = 24
_SENTENCES = 6
"""Number of pairs above which only the table shows their comparison."""


def render_comparison(
    comparison: Comparison, systems: Sequence[System], caveats: Sequence[str], command: str, made: datetime
) -> str:
    """Return the page; ``made`` is the time it shows, ``command`` the command line that makes it again."""
    names = [item.name for item in comparison.systems]
    title = " against ".join(reversed(names)) if len(names) == 2 else f"{len(names)} systems compared"
    sections = [
        _result(comparison),
        _where(comparison),
        _words(comparison),
        _utterances(comparison),
        _systems(comparison, systems, command),
    ]
    size = f"{count(comparison.utterances)} utterances · {count(comparison.N)} reference words"
    header = [
        el("p", "speechssl compare", class_="kicker"),
        el("h1", title),
        el("p", size, class_="subtitle"),
        el("p", f"{made:%d %B %Y, %H:%M}", class_="faint date"),
    ]
    loud = "loud" if not comparison.whole else None
    notes = el("aside", el("h2", "Notes"), el("ul", [el("li", c) for c in caveats]), class_=loud) if caveats else None
    head = document_head(f"{title} – speechssl compare", "compare.css", sound=False)
    return page(head, header, sections, f"Made by speechssl {__version__}.", notes=notes)


def _result(comparison: Comparison) -> Section:
    scores = [(item.name, item.score) for item in comparison.systems]
    parts: list[Html | None] = [
        prose(verdict(comparison), "lead"),
        _figure(score_chart(scores), "Word error rate of each system with its 95 % "
                "interval. The interval of their difference shows whether two systems differ, not the overlap of "
                "these."),
        score_table(scores),
        el("h3", "Differences"),
    ]  # fmt: skip
    paired = [
        (f"{pair.b} − {pair.a}", numbers)
        for pair in comparison.pairs
        if (numbers := _percent(pair.bootstrap)) is not None
    ]
    chart = difference_chart(paired, x_label="Difference in word error rate (points)")
    parts += [
        _figure(chart, "Difference of every two systems on the same utterances, with its 95 % interval (paired "
                "bootstrap). Left of zero, the first named makes fewer errors."),
        _pair_table(comparison),
        _agreement_table(comparison),
    ]  # fmt: skip
    if len(comparison.pairs) > 1:
        for pair in comparison.pairs[:_SENTENCES]:
            parts.append(prose(pair_sentence(pair, len(comparison.pairs))))
    if comparison.oracle is not None:
        parts.append(prose(
            f"If the best hypothesis of each utterance were known and taken, the word error rate would be "
            f"{percent(comparison.oracle)} %: no choice between these systems can do better."
        ))  # fmt: skip
    return "result", "Result", parts


def _pair_table(comparison: Comparison) -> Html:
    rows: list[tuple[Child, ...]] = []
    for pair in comparison.pairs:
        found = pair.bootstrap
        cells = ("–",) * 4 if found is None else (
            points(found.difference), f"{points(found.low)} to {points(found.high)}",
            "–" if found.relative is None else points(-found.relative, 1),
            probability_text(found.probability, found.resamples),
        )  # fmt: skip
        tests = (_speakers(pair), p_text(pair.p), p_text(pair.p_holm))
        rows.append((pair.b, pair.a, *cells, *tests, pair.better or "undecided"))
    caption = (
        "Every two systems. Difference: WER of the first minus WER of the second, in points, with its interval over "
        "utterances, and with whole speakers drawn. P: probability that the first is better (paired bootstrap). p: "
        "matched pairs sentence-segment word error test (MAPSSWE), two-tailed; p corrected for all pairs by Holm's "
        "method decides which is better."
    )
    header = ("System", "against", "Diff.", "95 % interval", "Relative %", "P", "By speaker", "p", "p corrected",
              "Better")  # fmt: skip
    return table(caption, header, rows, text=(0, 1, 9))


def _agreement_table(comparison: Comparison) -> Html:
    rows = [(pair.b, pair.a, *map(count, (pair.utterances_better, pair.utterances_equal, pair.utterances_worse,
             pair.both_right, pair.only_b, pair.only_a, pair.neither))) for pair in comparison.pairs]  # fmt: skip
    caption = (
        "Do they err in the same places? Utterances in which the first has fewer errors than the second, as many, or "
        "more; reference words that both have right, only the first, only the second, and neither."
    )
    header = ("System", "against", "Utt. with fewer", "as many", "more", "Words: both", "only first", "only second",
              "neither")  # fmt: skip
    return table(caption, header, rows, text=range(2))


def _where(comparison: Comparison) -> Section:
    parts = [_group_table(group, comparison) for group in comparison.groups]
    if parts:
        parts.append(prose(
            "These intervals are not corrected for the number of groups: of twenty groups without any difference, one "
            "is expected to exclude zero."
        ))  # fmt: skip
    return "where", "Where", [*parts]


def _group_table(part: GroupTable, comparison: Comparison) -> Html:
    others = [item.name for item in comparison.systems if item.name != comparison.baseline]
    groups = sorted(part.groups, key=lambda g: -g.N)[:_GROUPS] if len(part.groups) > _GROUPS else list(part.groups)
    marks = {(g.name, name): _percent(g.against_baseline[name]) for g in groups for name in others}
    far = reach(list(marks.values()))
    rows = [(g.name, count(g.utterances), count(g.N), *_group_cells(g, comparison, others, marks, far)) for g in groups]
    header = [part.title, "Utt.", "Words", *(f"{item.name} %" for item in comparison.systems)]
    for name in others:
        header += [f"{name} − {comparison.baseline}", *(["95 % interval", "", "P"] if len(others) == 1 else [""])]
    hidden = len(part.groups) - len(groups)
    more = f" The {hidden} groups with fewer words are in compare.json." if hidden else ""
    caption = (
        f"Word error rate by {part.title}; differences in points, negative where the system is better than "
        f"{comparison.baseline}. The bars, 95 % intervals, reach from −{far:.0f} to {far:.0f} points.{more}"
    )
    return table(caption, header, rows)


def _group_cells(
    group: GroupDifference,
    comparison: Comparison,
    others: Sequence[str],
    marks: dict[tuple[str, str], tuple[float, float, float] | None],
    far: float,
) -> list[Child]:
    cells: list[Child] = [percent(group.wer[item.name], 1) for item in comparison.systems]
    for name in others:
        found, mark = group.against_baseline[name], el("span", difference_mark(marks[group.name, name], far))
        if len(others) > 1:  # intervals in numbers would make the table too wide; compare.json has them
            cells += ["–" if found is None else points(found.difference, 1), mark]
        elif found is None:
            cells += ["–", "–", mark, "–"]
        else:
            cells += [points(found.difference, 1), f"{points(found.low, 1)} to {points(found.high, 1)}", mark,
                      probability_text(found.probability, found.resamples)]  # fmt: skip
    return cells


def _words(comparison: Comparison) -> Section:
    parts = []
    for name, changes in comparison.changed_words.items():
        fell = [item for item in changes if item.errors < item.errors_baseline]
        rose = [item for item in changes if item.errors > item.errors_baseline]
        tables = [
            _word_table(f"Said words that {name} has right more often than {comparison.baseline}.", fell),
            _word_table(f"Said words that {name} has right less often than {comparison.baseline}.", rose),
        ]
        if fell or rose:
            parts.append(el("div", tables, class_="row"))
    return "words", "Words", [*parts]


def _word_table(caption: str, changes: Sequence[WordChange]) -> Html | None:
    if not changes:
        return None
    rows = [(el("bdi", item.word), count(item.occurrences), count(item.errors_baseline), count(item.errors),
             f"{item.errors - item.errors_baseline:+d}".replace("-", "−")) for item in changes]  # fmt: skip
    return table(caption, ("Word", "Said", "Wrong before", "Wrong now", "Change"), rows)


def _utterances(comparison: Comparison) -> Section:
    names = [item.name for item in comparison.systems]
    parts: list[Html | None] = []
    for name, changes in comparison.changed.items():
        for sign, verb in ((-1, "gained"), (1, "lost")):
            chosen = [change for change in changes if change.change * sign > 0]
            if chosen:
                title = f"{name} {verb} most against {comparison.baseline}"
                parts += [el("h3", title), change_list(chosen, names, comparison.baseline, name)]
    return "utterances", "Utterances", [change_key(names), *parts] if parts else []


def _systems(comparison: Comparison, systems: Sequence[System], command: str) -> Section:
    known = ("split", "decoder", "text", "not_scored")
    rows = [(s.name, *(str(s.info.get(key, "–")) for key in known), count(len(s.rows))) for s in systems]
    header = ("System", "Split", "Decoder", "Text", "Not scored", "Utt.")
    how = (
        f"Intervals come from {comparison.resamples} bootstrap resamples of utterances, the same draws for all "
        f"systems (seed {comparison.seed}). Every number here can be computed again from the hypotheses.jsonl of each "
        "system; compare.json has them all."
    )
    return "systems", "Systems", [
        table("What was compared.", header, rows, text=range(5)), el("p", how), el("pre", el("code", command)),
    ]  # fmt: skip


def _percent(found: PairedBootstrap | None) -> tuple[float, float, float] | None:
    return None if found is None else (100 * found.difference, 100 * found.low, 100 * found.high)


def _speakers(pair: Pair) -> str:
    if pair.speaker_low is None or pair.speaker_high is None:
        return "–"
    return f"{points(pair.speaker_low)} to {points(pair.speaker_high)}"


def _figure(drawing: Html | None, caption: str) -> Html | None:
    return figure(Figure(drawing, caption), wide=True) if drawing is not None else None
