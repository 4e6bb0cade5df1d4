"""Utterances of a report: reference above hypothesis, errors marked by letter, line and colour; player and spectrogram.

In: rows of ``hypotheses.jsonl`` and the `Clips` of those whose audio is at hand. Out: `Html`. Colour is never the only
sign, so a print shows everything.
"""

from collections.abc import Sequence

from speechssl.core.text_table import percent
from speechssl.evaluation.wer.hypotheses import Row
from speechssl.reports.page.html import Html, el
from speechssl.reports.run.clips import Clips

__all__ = ["alignment_key", "utterance_list"]

_LONGEST = 250
"""Words of an utterance that are shown."""
_RAW = 1_500
"""Characters of a text before normalisation that are shown."""
_NAMES = {"S": "substituted", "D": "deleted", "I": "inserted"}


def utterance_list(rows: Sequence[Row], clips: Clips | None = None) -> Html:
    """Return utterances with their alignments, and with player and spectrogram where there are any."""
    return el("ol", [_utterance(row, clips or Clips()) for row in rows], class_="utterances")


def alignment_key() -> Html:
    """Return the explanation of the marks."""
    pairs = (("S", "four", "for"), ("D", "the", None), ("I", None, "a"))
    parts = [el("span", _pair(op, ref, hyp), f" {_NAMES[op]}", class_="key") for op, ref, hyp in pairs]
    return el("p", "Above: what was said. Below: what was recognised. ", parts, class_="keys")


def _utterance(row: Row, clips: Clips) -> Html:
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
    sure = iter(row.get("confidences") or ())
    words = [_pair(op, ref, hyp, next(sure, None) if hyp is not None else None) for op, ref, hyp in pairs[:_LONGEST]]
    more = el("p", f"and {len(pairs) - _LONGEST} more words", class_="faint") if len(pairs) > _LONGEST else None
    empty = el("p", "Nothing was said and nothing was recognised.", class_="faint") if not pairs else None
    problem = clips.problems.get(row["id"])
    text = el(
        "div",
        el("div", el("code", row["id"]), el("span", " · ".join(facts), class_="faint"), class_="utterance-head"),
        el("div", words, class_="alignment", dir="auto"),
        more,
        empty,
        _raw(row),
        el("p", problem, class_="faint small") if problem else None,
        class_="words",
    )
    return el("li", text, clips.media.get(row["id"]))


def _raw(row: Row) -> Html | None:
    """Return the texts before normalisation, where they say more than the aligned ones."""
    parts = []
    for name, title in (("ref", "Transcript"), ("hyp", "Recognised")):
        raw = row.get(f"{name}_raw")
        if isinstance(raw, str) and raw != row[name]:
            cut = raw if len(raw) <= _RAW else f"{raw[:_RAW]} …"
            parts += [el("dt", title), el("dd", el("bdi", cut))]
    return el("dl", parts, class_="raw") if parts else None


def _pair(op: str, ref: str | None, hyp: str | None, confidence: object = None) -> Html:
    known = isinstance(confidence, int | float)
    title = f"confidence {confidence:.2f}" if known else None
    if op == "C":
        return el("span", el("span", ref or "", class_="ref"), class_="pair", title=title)
    gap = el("span", "···", class_="gap", aria_hidden="true")
    mark = el("abbr", op, class_="op", title=_NAMES[op])
    above = el("span", gap if ref is None else ref, class_="ref")
    below = el("span", gap if hyp is None else hyp, class_="hyp")
    return el("span", above, below, mark, class_=f"pair {op}", title=title)
