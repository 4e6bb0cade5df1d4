"""Word alignments for people: reference above hypothesis, each error marked by a letter, a line and a colour.

In: rows of ``hypotheses.jsonl``. Out: `Html`. Colour is never the only sign, so a print loses nothing.
"""

from collections.abc import Sequence

from speechssl.evaluation.hypotheses import Row
from speechssl.evaluation.table import percent
from speechssl.reports.html import Html, el

__all__ = ["alignment_key", "utterance_list"]

_LONGEST = 250
_NAMES = {"S": "substituted", "D": "deleted", "I": "inserted"}


def utterance_list(rows: Sequence[Row]) -> Html:
    """Return utterances with their alignments."""
    return el("ol", [_utterance(row) for row in rows], class_="utterances")


def alignment_key() -> Html:
    """Return the explanation of the marks."""
    pairs = (["S", "four", "for"], ["D", "the", None], ["I", None, "a"])
    parts = [el("span", _pair(*pair), f" {_NAMES[str(pair[0])]}", class_="key") for pair in pairs]
    return el("p", "Above: what was said. Below: what was recognised. ", parts, class_="keys")


def _utterance(row: Row) -> Html:
    errors = row["S"] + row["D"] + row["I"]
    facts = [
        f"{errors} error{'s' * (errors != 1)} in {row['N']} word{'s' * (row['N'] != 1)}",
        f"WER {percent(row['wer'], 0)} %" if row["wer"] is not None else "empty reference",
    ]
    if row["speaker"] is not None:
        facts.append(f"speaker {row['speaker']}")
    if row["duration"] is not None:
        facts.append(f"{row['duration']:.1f} s")
    pairs = row["alignment"]
    words = [_pair(*pair) for pair in pairs[:_LONGEST]]
    more = el("p", f"and {len(pairs) - _LONGEST} more words", class_="faint") if len(pairs) > _LONGEST else None
    empty = el("p", "Nothing was said and nothing was recognised.", class_="faint") if not pairs else None
    head = el("div", el("code", row["id"]), el("span", " · ".join(facts), class_="faint"), class_="utterance-head")
    return el("li", head, el("div", words, class_="alignment", dir="auto"), more, empty)


def _pair(op: str, ref: str | None, hyp: str | None) -> Html:
    if op == "C":
        return el("span", el("span", ref or "", class_="ref"), class_="pair")
    gap = el("span", "···", class_="gap", aria_hidden="true")
    mark = el("span", op, class_="op", title=_NAMES[op])
    above = el("span", gap if ref is None else ref, class_="ref")
    below = el("span", gap if hyp is None else hyp, class_="hyp")
    return el("span", above, below, mark, class_=f"pair {op}")
