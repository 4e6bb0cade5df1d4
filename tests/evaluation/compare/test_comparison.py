import json

import pytest

from speechssl.core.errors import DataError
from speechssl.evaluation.bootstrap import paired_bootstrap
from speechssl.evaluation.compare.comparison import compare
from speechssl.evaluation.compare.mapsswe import holm, mapsswe
from speechssl.evaluation.compare.pairs import LEVEL
from speechssl.evaluation.wer.breakdown import counts
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import compare_systems
from tests.oracles import comparison as oracle
from tests.support.fake_run import hypotheses


@pytest.fixture(scope="module")
def systems():
    return {"weak": hypotheses(0.3), "strong": hypotheses(0.1), "same": hypotheses(0.29)}


@pytest.fixture(scope="module")
def compared(systems):
    return compare(systems, n=400, seed=3)


def test_scores_are_those_of_each_system_alone(systems, compared):
    assert [item.name for item in compared.systems] == ["weak", "strong", "same"] and compared.baseline == "weak"
    for item in compared.systems:
        alone = summarise(sorted(systems[item.name], key=lambda row: row["id"]), n=400, seed=3)
        assert item.score == alone
    assert [item.rank for item in compared.systems] == [3, 1, 2]
    assert compared.whole and compared.utterances == 160 and compared.N == compared.systems[0].score.N


def test_pairs_rest_on_the_tests_of_the_field(systems, compared):
    assert [(pair.a, pair.b) for pair in compared.pairs] == [("weak", "strong"), ("weak", "same"), ("strong", "same")]
    ordered = {name: sorted(rows, key=lambda row: row["id"]) for name, rows in systems.items()}
    ps = []
    for pair in compared.pairs:
        a, b = ordered[pair.a], ordered[pair.b]
        assert pair.bootstrap == compare_systems(a, b, n=400, seed=3)
        low, high, probability = oracle.bootstrap_difference(counts(a), counts(b), 3000, seed=8)
        width = high - low
        assert abs(pair.bootstrap.low - low) < 0.15 * width and abs(pair.bootstrap.high - high) < 0.15 * width
        assert abs(pair.bootstrap.probability - probability) < 0.06
        test = mapsswe(*([[tuple(p) for p in row["alignment"]] for row in rows] for rows in (a, b)))
        assert (pair.z, pair.p, pair.segments) == (test.z, test.p, test.segments)
        assert (pair.both_right, pair.only_a, pair.only_b, pair.neither) == oracle.who_is_right(a, b)
        changes = [sum(y[k] - x[k] for k in "SDI") for x, y in zip(a, b, strict=True)]
        assert pair.utterances_better == sum(c < 0 for c in changes)
        assert pair.utterances_worse == sum(c > 0 for c in changes)
        assert pair.utterances_better + pair.utterances_worse + pair.utterances_equal == 160
        ps.append(test.p)
    assert [pair.p_holm for pair in compared.pairs] == holm(ps)
    assert [pair.better for pair in compared.pairs] == ["strong", None, "strong"]
    assert compared.pairs[1].p_holm > LEVEL


def test_whole_speakers_are_drawn_for_the_wider_interval(systems, compared):
    pair = compared.pairs[0]
    pooled = {}
    for a, b in zip(*(sorted(systems[name], key=lambda row: row["id"]) for name in ("weak", "strong")), strict=True):
        sums = pooled.setdefault(a["speaker"], [0, 0, 0])
        sums[0] += a["S"] + a["D"] + a["I"]
        sums[1] += b["S"] + b["D"] + b["I"]
        sums[2] += a["N"]
    left, right = ([(s[k], s[2]) for s in pooled.values()] for k in (0, 1))
    again = paired_bootstrap(left, right, n=400, seed=3)
    assert (pair.speaker_low, pair.speaker_high) == (again.low, again.high)
    few = {name: [{**row, "speaker": "s" + row["speaker"][0]} for row in rows] for name, rows in systems.items()}
    assert compare(few, n=20).pairs[0].speaker_low is None  # two speakers are too few


def test_the_correction_grows_with_the_number_of_systems(systems):
    two = compare({name: systems[name] for name in ("weak", "same")}, n=20)
    more = compare({**systems, "fourth": hypotheses(0.28)}, n=20)
    alone = two.pairs[0]
    among = next(pair for pair in more.pairs if (pair.a, pair.b) == ("weak", "same"))
    assert alone.p_holm == alone.p == among.p <= among.p_holm


def test_groups_are_parts_of_the_whole(compared, systems):
    tables = {table.name: table for table in compared.groups}
    assert list(tables) == ["speaker", "length", "duration", "rate"]
    for name in ("speaker", "length"):
        groups = tables[name].groups
        assert sum(group.N for group in groups) == compared.N
        for system in systems:
            errors = sum(group.wer[system] * group.N for group in groups)
            whole = next(item.score for item in compared.systems if item.name == system)
            assert errors == pytest.approx(whole.wer * compared.N)
    first = tables["speaker"].groups[0]
    mine = {n: [r for r in sorted(rows, key=lambda r: r["id"]) if r["speaker"] == first.name]
            for n, rows in systems.items()}  # fmt: skip
    assert first.against_baseline["strong"] == paired_bootstrap(
        counts(mine["weak"]), counts(mine["strong"]), n=400, seed=3
    )
    assert set(first.against_baseline) == {"strong", "same"}


def small():
    refs = {"u1": "the cat sat on", "u2": "a dog ran", "u3": "the end", "u4": "red hen"}
    a = {"u1": "cat sad on", "u2": "a dog ran", "u3": "the end", "u4": "red"}
    b = {"u1": "the cat sat on", "u2": "a log ran so", "u3": "the end", "u4": "red hen"}
    return {name: [score_row(id_, ref, hyps[id_], speaker="s") for id_, ref in refs.items()]
            for name, hyps in (("a", a), ("b", b))}  # fmt: skip


def test_utterances_that_changed_most_by_hand():
    found = compare(small(), n=20)
    changes = found.changed["b"]
    assert [(c.id, c.change, c.errors, c.words_apart) for c in changes] == [
        ("u1", -2, {"a": 2, "b": 0}, 2), ("u4", -1, {"a": 1, "b": 0}, 1), ("u2", 2, {"a": 0, "b": 2}, 2),
    ]  # fmt: skip
    assert [(c.ref, *c.words) for c in changes[0].columns] == [
        ("the", None, "the"), ("cat", "cat", "cat"), ("sat", "sad", "sat"), ("on", "on", "on"),
    ]  # fmt: skip
    assert [(w.word, w.occurrences, w.errors_baseline, w.errors) for w in found.changed_words["b"]] == [
        ("hen", 1, 1, 0), ("sat", 1, 1, 0), ("the", 2, 1, 0), ("dog", 1, 0, 1),
    ]  # fmt: skip
    assert found.oracle == 0 and (found.pairs[0].utterances_better, found.pairs[0].utterances_worse) == (2, 1)
    one = compare(small(), n=20, shown=1)
    assert [c.id for c in one.changed["b"]] == ["u1", "u2"]
    assert compare(small(), n=20, shown=0).changed["b"] == ()


def test_the_oracle_takes_the_best_of_each_utterance():
    systems = small()
    systems["b"][0] = score_row("u1", "the cat sat on", "x", speaker="s")  # 4 errors; a has 2
    assert compare(systems, n=20).oracle == pytest.approx((2 + 0 + 0 + 0) / 11)


def test_another_baseline():
    found = compare(small(), baseline="b", n=20)
    assert [item.name for item in found.systems] == ["b", "a"] and list(found.changed) == ["a"]
    assert (found.pairs[0].a, found.pairs[0].b) == ("b", "a")
    assert found.pairs[0].bootstrap.difference == -compare(small(), n=20).pairs[0].bootstrap.difference
    with pytest.raises(ValueError, match="no system is called 'c'; the systems are a, b"):
        compare(small(), baseline="c")
    with pytest.raises(ValueError, match="needs two systems, not 1"):
        compare({"a": small()["a"]})


def test_a_system_against_itself(systems):
    found = compare({"a": systems["weak"], "b": systems["weak"]}, n=50)
    pair = found.pairs[0]
    assert pair.better is None and pair.p == 1 and pair.bootstrap.probability == 0.5
    assert (pair.utterances_equal, pair.only_a, pair.only_b) == (160, 0, 0)
    assert found.changed["b"] == () and found.changed_words["b"] == ()
    assert [item.rank for item in found.systems] == [1, 1]


def test_common_utterances_are_counted(systems):
    cut = {"weak": systems["weak"][:100], "strong": systems["strong"][20:]}
    with pytest.raises(DataError, match=r"different utterances .weak: 100, strong: 140."):
        compare(cut, n=20)
    found = compare(cut, common=True, n=20)
    assert found.utterances == 80 and found.left_out == {"weak": 20, "strong": 60} and not found.whole


def test_without_reference_words_there_is_no_rate():
    rows = [score_row("a", "", "x"), score_row("b", "", "")]
    found = compare({"one": rows, "two": rows}, n=10)
    assert found.oracle is None and found.pairs[0].bootstrap is None and found.groups == ()
    assert [item.rank for item in found.systems] == [1, 1]


def test_everything_is_plain_json(compared):
    text = json.dumps(compared.to_dict(), allow_nan=False)
    assert json.loads(text)["pairs"][0]["better"] == "strong"
