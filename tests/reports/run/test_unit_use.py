import json

import numpy as np
import pytest

from speechssl.config import HubertConfig, PretrainConfig, TargetsConfig
from speechssl.config.load import write_toml
from speechssl.reports.run import unit_use
from speechssl.reports.run.build import build_report
from speechssl.reports.run.unit_use import read_units, use_chart
from speechssl.targets.table import UnitTable
from tests.support.fake_run import write_lines


def write_units(folder, units, n):
    table = UnitTable({"a": np.array(units)}, n_units=n, hop=320)
    table.save(folder / "units.npz")
    (folder / "units.json").write_text(json.dumps({"features": "mfcc", "hop": 320, **table.quality()}))
    return table


def test_units_are_counted(tmp_path):
    write_units(tmp_path, [0, 0, 0, 2, 2, 3], 5)
    notes = []
    use = read_units(tmp_path, notes, tmp_path)
    assert (use.units, use.dead, use.features) == (5, 2, "mfcc") and not notes
    assert use.shares == (3 / 6, 2 / 6, 1 / 6, 0, 0) and use.largest_share == 0.5
    shares = np.array([3, 2, 1]) / 6
    assert use.perplexity == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())), abs=0.01)


def test_no_units(tmp_path):
    assert read_units(tmp_path, [], tmp_path) is None and use_chart([]) is None


def test_quality_without_a_table_of_units(tmp_path):
    (tmp_path / "units.json").write_text('{"units": 9, "dead": "many", "perplexity": true}')
    use = read_units(tmp_path, [], tmp_path)
    assert use.units == 9 and use.dead is None and use.perplexity is None and use.shares == ()
    assert use_chart([("one", use)]) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"units": null}', '{"units": "x"}'])
def test_a_damaged_description_is_said_to_be(tmp_path, text):
    (tmp_path / "units.json").write_text(text)
    notes = []
    assert read_units(tmp_path, notes, tmp_path) is None
    assert notes == ["units.json: does not describe units; left out"]


def test_a_damaged_table_is_said_to_be(tmp_path):
    write_units(tmp_path, [0, 1], 2)
    whole = (tmp_path / "units.npz").read_bytes()
    (tmp_path / "units.npz").write_bytes(whole[: len(whole) // 2])
    notes = []
    use = read_units(tmp_path, notes, tmp_path)
    assert use.shares == () and use.units == 2 and "units.npz" in notes[0] and "damaged" in notes[0]


def test_a_huge_table_is_not_read(tmp_path, monkeypatch):
    write_units(tmp_path, [0, 1], 2)
    monkeypatch.setattr(unit_use, "_LARGEST", 10)
    assert read_units(tmp_path, [], tmp_path).shares == ()


def test_the_report_shows_the_units_and_chance_is_their_frequency(tmp_path):
    config = PretrainConfig(objective=HubertConfig(targets=TargetsConfig(clusters=(4, 4))))
    write_toml(config, tmp_path / "config.toml")
    tables = []
    for iteration, units in ((1, [0] * 7 + [1, 2, 3]), (2, [0, 1, 2, 3] * 3)):
        place = tmp_path / f"iteration-{iteration}"
        lines = [{"step": s, "phase": "train", "masked_loss": 1.0, "accuracy": 0.5} for s in (1, 2)]
        write_lines(place / "metrics.jsonl", lines)
        (place / "units").mkdir()
        tables.append(write_units(place / "units", units, 4))
    page = build_report(tmp_path).read_text(encoding="utf-8")
    first, second = (table.entropy() for table in tables)
    assert f"chance, iteration 1: {first:.2f}" in page and f"chance, iteration 2: {second:.2f}" in page
    assert "chance, iteration 1: 70 %" in page and "chance, iteration 2: 25 %" in page
    assert "a model that knows only how frequent each unit is" in page
    assert "Frames of each unit (%)" in page and ">70.0</td>" in page and ">mfcc</td>" in page
