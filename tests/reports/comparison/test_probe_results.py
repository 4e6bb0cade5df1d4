"""What probes found in a comparison: read from the arms, and their order beside that of the word error rates."""

import json

import pytest

from speechssl.core.errors import DataError
from speechssl.reports.comparison.probe_results import PROBES, correlations, probe_errors, probe_table, rank_rows


def probed(folder, task, heads):
    place = folder / PROBES / task
    place.mkdir(parents=True)
    rows = [{"head": head, "error": error, "eer": eer} for head, error, eer in heads]
    (place / "probe.json").write_text(json.dumps({"task": task, "heads": rows}))
    return folder


def test_errors_are_a_mean_over_seeds_by_task_and_head(tmp_path):
    one = probed(tmp_path / "one", "speaker", [("linear", 0.2, 0.1), ("knn", 0.4, None)])
    two = probed(tmp_path / "two", "speaker", [("linear", 0.4, 0.3), ("knn", 0.6, None)])
    probed(two, "digits", [("linear", 0.5, None)])
    assert probe_errors([one, two]) == pytest.approx(
        {"speaker, linear": 0.3, "speaker, linear, EER": 0.2, "speaker, knn": 0.5, "digits, linear": 0.5}
    )
    assert probe_errors([tmp_path / "none"]) == {}
    (two / PROBES / "digits" / "probe.json").write_text("{")
    with pytest.raises(DataError, match=r"digits.*delete"):
        probe_errors([two])


def test_a_probe_that_orders_the_arms_as_their_error_rates_do_is_found():
    wers = [0.9, 0.5, 0.7, 0.6, 0.8]
    arms = [({"good": wer**2, "bad": -wer, "constant": 0.1}, wer) for wer in wers]
    arms += [({}, 0.1), ({"good": 0.0}, None)]  # an arm that was not probed, and one that was not scored
    found = correlations(arms, n=200, seed=1)
    assert {name: (round(each.value, 9), each.systems) for name, each in found.items()} == {
        "good": (1, 5),
        "bad": (-1, 5),
    }
    assert rank_rows(found)[0] == ("good", "+1.00", "+1.00 to +1.00", "5")


def test_the_table_has_a_column_for_each_probe_and_no_row_without_any():
    header, rows = probe_table([("A", {"x": 0.25}), ("B", {"y": 0.5}), ("C", {})])
    assert header == ("objective", "x %", "y %")
    assert rows == [("A", "25.0", "–"), ("B", "–", "50.0")]
    assert probe_table([("A", {})])[1] == []
