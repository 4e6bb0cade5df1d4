"""What is read from manifests of any make and from folders."""

import json

import numpy as np
import pytest

from speechssl.config import AuditConfig
from speechssl.core.errors import DataError
from speechssl.data.audio.decode import AudioLimits
from speechssl.data.audit.inventory import read_inventory, unusable, whole_files
from speechssl.data.ingest.utterance import Utterance
from tests.support.voices import voice, write

OWN = {"id": "a", "path": "a.wav", "duration": 1.0, "sample_rate": 16_000, "channels": 1}


def read(path, content=None):
    if content is not None:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in content]
        path.write_text("\n".join(lines), encoding="utf-8")
    return read_inventory(path, AuditConfig(), AudioLimits())


def test_own_rows_and_rows_with_other_names(tmp_path):
    nemo = {"audio_filepath": "x/b c.wav", "duration": 2.5, "text": "two  words", "speaker": 7, "extra": 1}
    found = read(tmp_path / "m.jsonl", ["\ufeff" + json.dumps(OWN | {"split": "dev"}), "", nemo])
    first, second = found.utterances
    assert (first.id, first.split, first.sample_rate) == ("a", "dev", 16_000)
    assert (second.id, second.path, second.duration) == ("x_b_c", "x/b c.wav", 2.5)
    assert (second.text, second.speaker, second.sample_rate, second.meta) == ("two words", "7", 0, {"extra": 1})
    assert found.findings == []
    assert found.path(second) == tmp_path / "x" / "b c.wav"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('{"id": ', "Expecting value"),
        ([1], "expected a JSON object"),
        ({"text": "no file"}, "no field names the audio file"),
        (OWN | {"duration": -1}, "duration must be a number"),
        ({"audio": "a.wav", "duration": -1}, "positive number of seconds"),
        (OWN | {"id": "a b"}, "is not"),
    ],
)
def test_a_bad_row_is_named_and_the_next_is_read(tmp_path, row, told):
    found = read(tmp_path / "m.jsonl", [OWN, row, OWN | {"id": "c"}])
    assert [u.id for u in found.utterances] == ["a", "c"]
    (finding,) = found.findings
    assert (finding.check, finding.item) == ("bad_row", "line 2")
    assert told in finding.detail


def test_an_id_used_twice_gets_its_line(tmp_path):
    found = read(tmp_path / "m.jsonl", [OWN, OWN, OWN])
    assert [u.id for u in found.utterances] == ["a", "a-line2", "a-line3"]
    assert [(f.check, f.item, f.value) for f in found.findings] == [("duplicate_id", "a", n) for n in (2, 3)]


def test_a_part_of_a_recording(tmp_path):
    (u,) = read(tmp_path / "m.jsonl", [{"audio": "a.wav", "start": 1.5, "end": 2.0}]).utterances
    assert (u.start, u.duration) == (1.5, 0.5)


def test_what_is_no_manifest(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(json.dumps(OWN).encode("utf-16"))
    with pytest.raises(DataError, match="give JSON lines in UTF-8"):
        read(tmp_path / "m.jsonl")
    with pytest.raises(DataError, match=r"no line is an utterance; line 1: expected a JSON object"):
        read(tmp_path / "n.jsonl", [[1]])


def test_a_folder_is_listed_by_headers(tmp_path):
    write(tmp_path / "a.wav", voice(1.5))
    write(tmp_path / "b.mp3", voice(2.0), format="MP3", subtype="MPEG_LAYER_III")
    (tmp_path / "a.txt").write_text("some words", encoding="utf-8")
    (tmp_path / "c.flac").write_bytes(b"")
    (tmp_path / "d.wav").write_bytes(write(tmp_path / "x", np.zeros(0, np.float32)).read_bytes())
    (tmp_path / "x").unlink()
    found = read(tmp_path)
    assert [(u.path, u.text) for u in found.utterances] == [("a.wav", "some words"), ("b.mp3", None)]
    assert found.utterances[1].duration == pytest.approx(2.0, abs=0.1)
    assert [(f.check, f.item) for f in found.findings] == [("empty_file", "c.flac"), ("no_samples", "d.wav")]
    assert not found.claimed


def test_a_folder_that_speechssl_wrote_is_its_manifest(tmp_path):
    (tmp_path / "manifest.jsonl").write_text(json.dumps(OWN), encoding="utf-8")
    (tmp_path / "summary.json").write_text("{}", encoding="utf-8")
    assert [u.id for u in read(tmp_path).utterances] == ["a"]


def test_reasons_without_a_check_of_their_own():
    assert unusable("i", "p", "truncated", "d").check == "truncated"
    finding = unusable("i", "p", "unreadable", "d")
    assert (finding.check, finding.value, finding.detail) == ("unusable", "unreadable", "d")


def test_whole_files():
    rows = [("a", "a.wav", 0.0), ("b", "b.wav", 0.0), ("c", "b.wav", 2.0), ("d", "d.wav", 1.0), ("e", "a.wav", 0.0)]
    utterances = [Utterance(name, path, 1.0, 16_000, 1, start=start) for name, path, start in rows]
    assert list(whole_files(utterances)) == [True, False, False, False, True]


def test_a_link_to_itself_in_a_folder_is_a_finding_and_the_rest_is_audited(tmp_path):
    write(tmp_path / "a.wav", voice(1.0))
    (tmp_path / "self").symlink_to("self")
    found = read_inventory(tmp_path, AuditConfig(), AudioLimits())
    assert [u.path for u in found.utterances] == ["a.wav"]
    assert [(f.check, f.item, f.value) for f in found.findings] == [("unusable", "self", "broken_link")]
