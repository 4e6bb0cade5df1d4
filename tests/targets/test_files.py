"""Units made elsewhere: every form gives the same table; what does not fit is an error or a ledger entry."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import ConfigError, DataError
from speechssl.targets.files import fit_units, read_unit_file
from speechssl.targets.table import UnitTable

HOP = 320
FRAMES = {"a": 50, "b": 7, "c": 20}


class Sounds:
    """A corpus of three utterances."""

    ids = tuple(FRAMES)
    samples = np.array([HOP * frames + 80 for frames in FRAMES.values()])


LABELS = {name: np.arange(frames) % 5 for name, frames in FRAMES.items()}


def as_lines(path: Path, labels=None, *, header: dict | None = None, **each) -> Path:
    rows = [header] if header else []
    rows += [{"id": name, "units": np.asarray(units).tolist(), **each} for name, units in (labels or LABELS).items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_npz(path: Path, **more) -> Path:
    np.savez(path, **LABELS, **more)
    return path


def fitted(path: Path, *, given_hop=0, clusters=5, bad=0.01, rows=(0, 1, 2)):
    return fit_units(
        read_unit_file(path),
        Sounds(),
        list(rows),
        hop=HOP,
        given_hop=given_hop,
        frames=lambda samples: samples // HOP,
        clusters=clusters,
        max_bad_fraction=bad,
    )


def test_H2_every_form_of_file_gives_the_same_units(tmp_path):
    UnitTable(LABELS, n_units=5, hop=HOP).save(tmp_path / "own.npz")
    for path, options in (
        (as_lines(tmp_path / "each.jsonl", hop=HOP), {}),
        (as_lines(tmp_path / "header.jsonl", header={"hop": HOP}), {}),
        (as_lines(tmp_path / "bare.jsonl"), {"given_hop": HOP}),
        (as_npz(tmp_path / "hop.npz", hop=np.array(HOP)), {}),
        (as_npz(tmp_path / "bare.npz"), {"given_hop": HOP}),
        (tmp_path / "own.npz", {}),
    ):
        table, entries = fitted(path, **options)
        assert (table.hop, table.n_units, entries) == (HOP, 5, [])
        assert {name: units.tolist() for name, units in table.labels().items()} == {
            name: units.tolist() for name, units in LABELS.items()
        }


def test_H2_a_frame_more_or_less_is_cut_or_left_without_a_target(tmp_path):
    labels = {"a": np.arange(52) % 5, "b": np.arange(5), "c": LABELS["c"]}
    table, entries = fitted(as_lines(tmp_path / "units.jsonl", labels, hop=HOP))
    assert entries == []
    assert {name: len(units) for name, units in table.labels().items()} == {"a": 50, "b": 5, "c": 20}


def test_H2_utterances_that_do_not_fit_and_ids_that_are_nowhere_are_listed(tmp_path):
    labels = {"a": LABELS["a"], "b": np.zeros(14, dtype=int), "stranger": LABELS["c"]}
    table, entries = fitted(as_lines(tmp_path / "units.jsonl", labels, hop=HOP), bad=0.7)
    assert table.ids == ("a",)
    assert [(entry.item, entry.reason) for entry in entries[:2]] == [("b", "wrong_number_of_units"), ("c", "no_units")]
    assert "1 ids of the file are not in this run's data, such as stranger" in entries[2].detail
    assert fitted(as_lines(tmp_path / "units.jsonl", labels, hop=HOP), rows=(0,), bad=0.0)[0].ids == ("a",)


def test_H2_too_many_that_do_not_fit_are_an_error_that_guesses_why(tmp_path):
    twice = {name: np.repeat(units, 2) for name, units in LABELS.items()}
    with pytest.raises(DataError, match=r"3 a wrong number of them: a \(100 units, 50.*about 16\d samples apart"):
        fitted(as_lines(tmp_path / "twice.jsonl", twice, hop=HOP), bad=0.1)
    others = {f"corpus/{name}": units for name, units in LABELS.items()}
    with pytest.raises(DataError, match=r"3 have no units.*Its ids are like .corpus.*those of the corpus like 'a'"):
        fitted(as_lines(tmp_path / "others.jsonl", others, hop=HOP), bad=0.1)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"hop": 640}, 0, "its units lie 640 samples apart, the encoder's frames 320"),
        ({}, 640, "its units lie 640 samples apart, the encoder's frames 320"),
        ({"hop": 640}, 320, "says hop = 640, the configuration units_hop = 320"),
        ({}, 0, r'does not say how far apart.*units_hop.*\{"hop": 320\}'),
    ],
)
def test_H2_another_or_an_unknown_hop_is_refused(tmp_path, options, given, message):
    with pytest.raises(ConfigError, match=message):
        fitted(as_lines(tmp_path / "units.jsonl", **options), given_hop=given)


def test_H2_units_beyond_the_clusters_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"unit 4 occurs, but .*targets\.clusters\[0\] = 4: set it to 5 or more"):
        fitted(as_lines(tmp_path / "units.jsonl", hop=HOP), clusters=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hop": 320}\n{"id": "a", "units": [1,\n', "line 2: not JSON"),
        ("[1, 2]\n", "line 1: expected an object"),
        ('{"id": "a", "labels": [1]}\n', "line 1: expected .* got the fields id, labels"),
        ('{"id": "a", "units": [1]}\n{"id": "a", "units": [2]}\n', "line 2: the units of 'a' are given twice"),
        ('{"id": "a", "units": [1.5]}\n', "line 1: units are one list of whole numbers"),
        ('{"id": "a", "units": [[1], [2]]}\n', "line 1: units are one list of whole numbers"),
        ('{"id": "a", "units": [[1], [2, 3]]}\n', "line 1: units are one list of whole numbers"),
        ('{"id": "a", "units": [-1]}\n', "line 1: units are one list of whole numbers from 0 on"),
        ('{"id": "a", "units": [70000]}\n', "line 1: unit 70000: use units below 65,536"),
        ('{"id": "a", "units": [1], "hop": "20 ms"}\n', "line 1: hop = '20 ms'"),
        ('{"id": "a", "units": [1], "hop": 320}\n{"id": "b", "units": [1], "hop": 160}\n', "several hops"),
    ],
)
def test_H2_a_bad_line_is_named(tmp_path, text, message):
    path = tmp_path / "units.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_unit_file(path)


def test_H2_files_that_are_none_are_named(tmp_path):
    (tmp_path / "units.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"units\.npz: missing, damaged"):
        read_unit_file(tmp_path / "units.npz")
    (tmp_path / "units.pt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataError, match=r"units\.pt: the units cannot be read"):
        read_unit_file(tmp_path / "units.pt")
    np.savez(tmp_path / "floats.npz", a=np.array([0.5, 1.0]))
    with pytest.raises(DataError, match=r"floats\.npz, 'a': units are one list of whole numbers"):
        read_unit_file(tmp_path / "floats.npz")
