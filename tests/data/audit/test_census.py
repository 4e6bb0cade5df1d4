"""The summary of a corpus of three recordings, counted by hand."""

from pathlib import Path

import pytest

from speechssl.data.audit.audit import Audit
from speechssl.data.audit.census import census
from speechssl.data.audit.checks import Finding
from speechssl.data.audit.inventory import Inventory
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.spectrum import Activity
from speechssl.data.ingest.utterance import Utterance


def measured(seconds, rate=16_000, **changes):
    sound = Activity(-20.0, -70.0, 0.0, 0.0, seconds / 2, 0.5, 0)
    return Measurement(format="wav", sample_rate=rate, channels=1, duration=seconds, activity=sound, **changes)


def summary(*pairs, findings=()):
    return census(Audit(Inventory("m.jsonl", Path()), list(pairs), list(findings)))


def test_three_recordings():
    def u(name, path, **fields):
        return Utterance(name, path, 1.0, 16_000, 1, **fields)

    found = summary(
        (u("a", "x/a.wav", text="ab ab", speaker="s", split="train"), measured(36.0, snr_db=20.0)),
        (u("b", "x/b.wav", text="b cd", speaker="s", split="test"), measured(72.0, 8_000, bandwidth=3_500.0)),
        (u("c", "c.wav", meta={"source": "radio"}), measured(36.0, snr_db=40.0)),
        (u("d", "d.wav", text="zz"), Measurement("corrupt")),
        findings=[Finding("corrupt", "d"), Finding("hum", "a"), Finding("hum", "b")],
    )
    assert (found["utterances"], found["usable"], found["hours"], found["speakers"]) == (4, 3, 0.04, 1)
    assert found["splits"]["train"] == {"utterances": 1, "hours": 0.01, "transcribed": 1, "speakers": 1}
    assert list(found["splits"]) == ["test", "(none)", "train"]  # by hours, then by name
    assert {name: group["utterances"] for name, group in found["by_source"].items()} == {"x": 2, "radio": 1}
    assert found["by_speaker"]["(unknown)"]["transcribed"] == 0
    assert found["sample_rates"] == {"16000": 2, "8000": 1}
    assert (found["seconds"]["p0"], found["seconds"]["p50"], found["seconds"]["p100"]) == (36.0, 36.0, 72.0)
    assert sum(n for *_, n in found["seconds"]["histogram"]) == 3
    assert found["snr_db"]["mean"] == 30.0
    assert (found["bandwidth_hz"]["p0"], found["bandwidth_hz"]["p100"]) == (3_500.0, 8_000.0)
    assert found["characters_per_second"]["p100"] == pytest.approx(5 / 18, abs=1e-4)
    assert found["words"] == {"running": 5, "distinct": 4, "once": 3}
    assert found["alphabet"] == {"b": 3, "a": 2, " ": 2, "z": 2, "c": 1, "d": 1}
    assert found["scripts"] == {"LATIN": 9}
    assert found["severities"] == {"error": 1, "warning": 0, "note": 2}
    assert found["checks"] == {"corrupt": 1, "hum": 2}


def test_many_speakers_end_in_one_line():
    pairs = [(Utterance(f"u{i}", "a.wav", 1.0, 16_000, 1, speaker=f"s{i:02}"), measured(36.0 + i)) for i in range(60)]
    groups = summary(*pairs)["by_speaker"]
    assert len(groups) == 51
    assert next(iter(groups)) == "s59"
    assert groups["(10 others)"]["speakers"] == 10
    assert sum(g["hours"] for g in groups.values()) == pytest.approx(summary(*pairs)["hours"], abs=1e-4)


def test_nothing_usable():
    found = summary((Utterance("a", "a.wav", 1.0, 16_000, 1), Measurement("corrupt")))
    assert (found["hours"], found["seconds"], found["alphabet"]) == (0, {}, {})
