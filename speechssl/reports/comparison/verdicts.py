"""A comparison in sentences: which system is better, by how much, with which certainty; and its caveats.

In: a `Comparison`. Out: plain sentences, shared by compare.html and compare.txt.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from speechssl.core.text_table import percent
from speechssl.evaluation.compare.comparison import Comparison
from speechssl.evaluation.compare.pairs import LEVEL, Pair
from speechssl.reports.run.sentences import probability_text

__all__ = ["caveats", "p_text", "pair_sentence", "points", "verdict"]


def p_text(p: float) -> str:
    """Return a p-value with two significant digits, or a bound where it is tiny."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def points(difference: float, digits: int = 2) -> str:
    """Return a difference of rates in percentage points, with its sign."""
    text = f"{100 * difference:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def verdict(comparison: Comparison) -> str:
    """Return the answer in one or two sentences: the system with the lowest rate, and those it differs from."""
    if comparison.N == 0:
        return "There is no reference word in these utterances, so there is no word error rate to compare."
    if len(comparison.pairs) == 1:
        return pair_sentence(comparison.pairs[0], 1)
    best = [item for item in comparison.systems if item.rank == 1]
    if len(best) > 1:
        return f"{_list([item.name for item in best])} share the lowest word error rate, {_rate(best[0].score.wer)} %."
    first = best[0].name
    mine = [pair for pair in comparison.pairs if first in {pair.a, pair.b}]
    apart = [_other(pair, first) for pair in mine if pair.better == first]
    equal = [_other(pair, first) for pair in mine if pair.better != first]
    parts = [f"{first} has the lowest word error rate, {_rate(best[0].score.wer)} %."]
    if apart:
        parts.append(f"It differs from {_list(apart)} (MAPSSWE, corrected over {len(comparison.pairs)} pairs).")
    if equal:
        parts.append(f"The test cannot tell it from {_list(equal)}.")
    return " ".join(parts)


def pair_sentence(pair: Pair, pairs: int) -> str:
    """Return the comparison of two systems; ``pairs`` is the number of pairs that p is corrected over."""
    paired = pair.bootstrap
    if paired is None:
        return f"{pair.a} and {pair.b}: too few utterances or words for a comparison."
    flip = paired.difference > 0 if pair.better is None else pair.better == pair.a
    winner, other = (pair.a, pair.b) if flip else (pair.b, pair.a)
    rates = (paired.wer_a, paired.wer_b) if flip else (paired.wer_b, paired.wer_a)
    difference, low, high, probability = (
        (-paired.difference, -paired.high, -paired.low, 1 - paired.probability)
        if flip
        else (paired.difference, paired.low, paired.high, paired.probability)
    )
    head = f"{winner} makes fewer errors than {other}" if pair.better else f"The test cannot tell {winner} from {other}"
    fewer = f", {percent(-difference / rates[1], 1)} % fewer errors" if pair.better and rates[1] else ""
    corrected = f" corrected over {pairs} pairs" if pairs > 1 else ""
    text = (
        f"{head}: WER {_rate(rates[0])} % against {_rate(rates[1])} %{fewer}, a difference of {points(difference)} "
        f"points (95 % interval {points(low)} to {points(high)}). Probability of improvement "
        f"{probability_text(probability, paired.resamples)} (paired bootstrap, {paired.utterances} utterances); "
        f"MAPSSWE p {_equals(p_text(pair.p_holm))}{corrected} ({pair.segments} segments)."
    )
    if pair.better is None and (low > 0 or high < 0):
        text += (
            " The bootstrap interval excludes 0 but the matched-pairs test does not reach "
            f"p < {LEVEL}: more utterances would settle it."
        )
    return text


def caveats(comparison: Comparison, infos: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> list[str]:
    """Return the caveats: utterances that were left out, and settings that differ."""
    found = []
    if not comparison.whole:
        counts = "; ".join(f"{name}: {count}" for name, count in comparison.left_out.items())
        found.append(
            f"NOT ALL UTTERANCES ARE COMPARED. Only the {comparison.utterances} that all systems share take part; left "
            f"out of each system's own test set: {counts}. The rates here are not the systems' own."
        )
    if comparison.other_references:
        some = ", ".join(comparison.other_references[:5])
        more = " …" if len(comparison.other_references) > 5 else ""
        found.append(
            f"{len(comparison.other_references)} utterances were left out because their references differ between the "
            f"systems: {some}{more}."
        )
    for key, title in (("text", "text normalisation"), ("split", "split"), ("alignment", "alignment")):
        said = {name: str(info[key]) for name, info in infos.items() if info.get(key)}
        if len(set(said.values())) > 1:
            listed = "; ".join(f"{name}: {value}" for name, value in said.items())
            found.append(f"The systems differ in {title}: {listed}.")
    return [*found, *notes]


def _rate(rate: float | None) -> str:
    return percent(rate, 2)


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _other(pair: Pair, name: str) -> str:
    return pair.b if pair.a == name else pair.a


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
