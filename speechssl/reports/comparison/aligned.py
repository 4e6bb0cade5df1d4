"""Utterances on which systems differ: the reference and every system's words in columns, with what differs marked.

In: `Change` records. Out: `Html`. A wrong word is underlined, a missing one is three dots, and a place where the
systems differ is framed: colour is never the only sign.
"""

from collections.abc import Sequence

from speechssl.evaluation.compare.changes import Change
from speechssl.evaluation.compare.multialign import Column
from speechssl.reports.page.html import Html, el

__all__ = ["change_key", "change_list"]

_LONGEST = 200


def change_list(changes: Sequence[Change], names: Sequence[str], baseline: str, name: str) -> Html:
    """Return utterances, one below the other; ``names`` are the systems in the order of the columns' words."""
    items = [_item(change, names, baseline, name) for change in changes]
    return el("ol", items, class_="utterances changes")


def change_key(names: Sequence[str]) -> Html:
    """Return the explanation of rows and marks."""
    rows = "; ".join(["reference", *names])
    return el(
        "p",
        f"Rows from above: {rows}. ",
        el("span", _word("four", "for"), " substituted", class_="key"),
        el("span", _word("the", None), " deleted", class_="key"),
        el("span", _word(None, "a"), " inserted", class_="key"),
        el("span", el("span", el("span", "word", class_="w"), class_="col apart"), " the systems differ", class_="key"),
        class_="keys",
    )


def _item(change: Change, names: Sequence[str], baseline: str, name: str) -> Html:
    fewer = f"{abs(change.change)} {'fewer' if change.change < 0 else 'more'} in {name} than in {baseline}"
    facts = [
        "errors: " + "; ".join(f"{system} {count}" for system, count in change.errors.items()),
        f"{fewer}, of {change.N} words",
        f"hypotheses {change.words_apart} word{'s' * (change.words_apart != 1)} apart",
    ]
    if change.speaker is not None:
        facts.append(f"speaker {change.speaker}")
    if change.duration is not None:
        facts.append(f"{change.duration:.1f} s")
    head = el("div", el("code", change.id), el("span", " · ".join(facts), class_="faint"), class_="utterance-head")
    labels = el("span", [el("span", label, class_="w") for label in ("reference", *names)], class_="col labels")
    columns = [_column(column) for column in change.columns[:_LONGEST]]
    hidden = len(change.columns) - _LONGEST
    more = el("p", f"and {hidden} more words", class_="faint") if hidden > 0 else None
    return el("li", head, el("div", labels, columns, class_="alignment columns"), more)


def _column(column: Column) -> Html:
    ref = el("span", _gap() if column.ref is None else column.ref, class_="w ref")
    words = [_word(column.ref, word, bare=column.ref is None and word is None) for word in column.words]
    return el("span", ref, words, class_="col" if column.agreed else "col apart")


def _word(ref: str | None, word: str | None, *, bare: bool = False) -> Html:
    """Return one system's word; ``bare``: where another system inserted one, it rightly has none."""
    if bare:
        return el("span", "\N{NO-BREAK SPACE}", class_="w")
    if word is None:
        return el("span", _gap(), class_="w D", title="deleted")
    if ref is None:
        return el("span", word, class_="w I", title="inserted")
    return el("span", word, class_="w") if word == ref else el("span", word, class_="w S", title="substituted")


def _gap() -> Html:
    return el("span", "···", class_="gap", aria_hidden="true")
