import pytest

from speechssl.evaluation.compare.comparison import compare
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.reports.comparison.verdicts import caveats, p_text, pair_sentence, points, verdict
from tests.support.fake_run import hypotheses


@pytest.fixture(scope="module")
def rows():
    return {rate: hypotheses(rate) for rate in (0.1, 0.28, 0.3)}


def test_numbers_as_text():
    assert [p_text(p) for p in (0.5, 0.1, 0.0456, 0.00123, 0.0001, 0.00001, 0.0)] == [
        "0.50", "0.10", "0.046", "0.0012", "0.0001", "< 0.0001", "< 0.0001",
    ]  # fmt: skip
    assert points(-0.0405) == "−4.05" and points(0.1, 1) == "+10.0" and points(-0.00001) == "0.00"


@pytest.mark.parametrize("flip", [False, True])
def test_the_better_one_is_named_first_whatever_the_order(rows, flip):
    named = {"weak": rows[0.3], "strong": rows[0.1]}
    found = compare(dict(reversed(named.items())) if flip else named, n=300, shown=0)
    (pair,) = found.pairs
    weak, strong = (next(s.score for s in found.systems if s.name == name) for name in ("weak", "strong"))
    said = verdict(found)
    assert said == pair_sentence(pair, 1)
    fewer = 100 * (1 - strong.wer / weak.wer)
    assert said.startswith(
        f"strong makes fewer errors than weak: WER {100 * strong.wer:.2f} % against {100 * weak.wer:.2f} %, "
        f"{fewer:.1f} % fewer errors, a difference of −{100 * (weak.wer - strong.wer):.2f} points (95 % interval −"
    )
    low, high = sorted((abs(pair.bootstrap.low), abs(pair.bootstrap.high)), reverse=True)
    assert f"interval −{100 * low:.2f} to −{100 * high:.2f})" in said
    assert "Probability of improvement > 99.67 %" in said and "MAPSSWE p < 0.0001 (" in said


def test_undecided(rows):
    found = compare({"a": rows[0.28], "b": rows[0.3]}, n=300, shown=0)
    assert found.pairs[0].better is None
    assert verdict(found).startswith("The test cannot tell a from b: WER ") and "fewer errors" not in verdict(found)


def test_an_interval_and_a_test_that_disagree_are_told():
    """Every segment differs by one error, so that MAPSSWE sees no variance and gives p = 1, as sc_stats does."""
    a = [score_row(f"u{k}", "x y z", "x y") for k in range(20)]
    b = [score_row(f"u{k}", "x y z", "x y z") for k in range(20)]
    found = compare({"a": a, "b": b}, n=100, shown=0)
    said = verdict(found)
    assert found.pairs[0].p == 1 and "The test cannot tell b from a" in said
    assert "The bootstrap interval excludes 0 but the matched-pairs test does not reach p < 0.05" in said


def test_many_systems(rows):
    named = {"a": rows[0.3], "b": rows[0.1], "c": rows[0.28]}
    said = verdict(compare(named, n=100, shown=0))
    assert said.startswith("b has the lowest word error rate, ")
    assert said.endswith("It differs from a and c (MAPSSWE, corrected over 3 pairs).")
    said = verdict(compare({"a": rows[0.28], "b": rows[0.3], "c": rows[0.28]}, n=50, shown=0))
    assert said.startswith("a and c share the lowest word error rate")
    close = verdict(compare({"a": rows[0.28], "b": rows[0.3], "c": hypotheses(0.29)}, n=50, shown=0))
    assert "The test cannot tell it from " in close and "It differs from" not in close
    two = compare(named, n=50, shown=0)
    assert "MAPSSWE p < 0.0001 corrected over 3 pairs (" in pair_sentence(two.pairs[0], 3)


def test_nothing_to_compare():
    rows = [score_row("a", "", "x"), score_row("b", "", "")]
    found = compare({"one": rows, "two": rows}, n=10)
    assert (
        verdict(found) == "There is no reference word in these utterances, so there is no word error rate to compare."
    )
    assert "too few utterances or words" in pair_sentence(found.pairs[0], 1)


def test_caveats(rows):
    whole = compare({"a": rows[0.28], "b": rows[0.3]}, n=10, shown=0)
    assert caveats(whole, {"a": {"text": "basic"}, "b": {"text": "basic", "split": "test"}}, ["a note"]) == ["a note"]
    told = caveats(whole, {"a": {"text": "basic", "split": "dev"}, "b": {"text": "none", "split": "test"}}, [])
    assert told == [
        "The systems differ in text normalisation: a: basic; b: none.",
        "The systems differ in split: a: dev; b: test.",
    ]
    other = [{**row, "ref": "x " + row["ref"]} if k < 7 else row for k, row in enumerate(rows[0.3])]
    part = compare({"a": rows[0.28], "b": other[:100]}, common=True, n=10, shown=0)
    first, second = caveats(part, {}, [])
    assert first.startswith("NOT ALL UTTERANCES ARE COMPARED. Only the 93 that all systems share take part")
    assert "a: 67; b: 7. The rates here are not the systems' own." in first
    assert second.startswith("7 utterances were left out because their references differ") and second.endswith(" ….")
