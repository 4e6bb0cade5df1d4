"""The audit finds every planted fault, and nothing in clean speech; its verb, files and exit codes."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from speechssl.cli.main import main
from speechssl.config import AuditConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.data.audit.audit import audit
from speechssl.data.audit.checks import CHECKS
from speechssl.reports.audit import write_audit
from tests.support.planted import plant
from tests.support.voices import voice, write

VOICES = ("f1", "m1", "f2", "m2", "f3", "m4", "Annie", "steph")


def synthetic(count, *, seed=11, variants=VOICES, rate=130):
    """Distinct sentences by synthetic voices, at about 18 to 20 characters a second or fewer, with a room's noise."""
    pytest.importorskip("espeakng_loader", reason="the synthesiser is not installed: pip install 'speechssl[demo]'")
    from speechssl.data.synth.espeak import Espeak
    from speechssl.data.synth.sentences import sentences

    espeak, stream = Espeak(), sentences(seed)
    made = []
    for number in range(count):
        who = number % len(variants)
        if number % 5 == 0:
            espeak.set_voice(
                f"en-us+{variants[number // 5 % len(variants)]}", rate=rate + number % 17, pitch=40 + number % 20
            )
        text = next(stream)
        wave = espeak.say(text).astype(np.float32) / 32_768
        noise = np.random.default_rng((seed, number)).standard_normal(len(wave) + 4_000).astype(np.float32)
        wave = np.concatenate([np.zeros(2_000, np.float32), wave, np.zeros(2_000, np.float32)])
        made.append((0.5 * wave + 1e-4 * noise, text, f"s{who}"))
    return made


def judge(planted, found):
    """Return {check: (planted, found of them, false)} and the false findings."""
    got = defaultdict(set)
    for finding in found.findings:
        got[finding.check].add(finding.item)
    rows, false = {}, []
    for check in CHECKS:
        wanted = planted.faults.get(check, set())
        extra = {item for item in got[check] - wanted if (check, item) not in planted.allowed}
        rows[check] = (len(wanted), len(wanted & got[check]), len(extra))
        if check == "rare_character":  # true of other characters too: counted here again
            letters = Counter("".join(u.text or "" for u, _ in found.pairs))
            extra = {f.item for f in found.findings if f.check == check and letters[f.value] > 2}
            rows[check] = (*rows[check][:2], len(extra))
        false += [(check, item) for item in sorted(extra)]
    return rows, false


def show(rows):
    print(f"\n{'check':26}{'planted':>8}{'found':>8}{'false':>8}")
    for check, (wanted, hit, extra) in rows.items():
        if wanted or extra:
            print(f"{check:26}{wanted:8}{hit:8}{extra:8}")
    wanted, hit, extra = (sum(row[i] for row in rows.values()) for i in range(3))
    print(f"{'all':26}{wanted:8}{hit:8}{extra:8}   recall {hit / wanted:.3f} precision {hit / (hit + extra):.3f}")
    return hit / wanted, hit / (hit + extra)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"), synthetic(210))


@pytest.fixture(scope="module")
def found(planted):
    return audit(planted.manifest, AuditConfig(workers=1))


def test_everything_that_was_found_can_be_written(found, tmp_path):
    cfg = AuditConfig(suspects=0)
    page = write_audit(found, cfg, tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["summary"]["checks"]
    for check in {finding.check for finding in found.findings}:
        assert f'id="{check}"' in page.read_text(encoding="utf-8")


def test_every_planted_fault_is_found(planted, found):
    rows, false = judge(planted, found)
    recall, precision = show(rows)
    for check, item in false:
        print([f"{f.check} {f.item} {f.detail}" for f in found.findings if (f.check, f.item) == (check, item)][:1])
    missed = {check: row for check, row in rows.items() if row[1] < row[0]}
    assert len(planted.faults) >= 20
    assert not missed, missed
    assert recall == 1.0
    assert precision >= 0.95, false
    assert not [item for item in false if CHECKS[item[0]].severity == "error"], false


def small(folder, count=4, **changes):
    """Write a manifest of clean syllables; return its path."""
    lines = []
    for number in range(count):
        wave = voice(2.0 + 0.3 * number, seed=number, pause=0.1 + 0.02 * number)
        write(folder / f"{number}.wav", wave)
        row = {"id": f"u{number}", "path": f"{number}.wav", "duration": len(wave) / 16_000, "sample_rate": 16_000,
               "channels": 1, "text": f"some words {'abcd'[number]}", "speaker": f"s{number}"}  # fmt: skip
        lines.append(json.dumps(row | changes.get(f"u{number}", {})))
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "list.jsonl"


def test_findings_do_not_depend_on_the_number_of_processes(planted):
    lines = planted.manifest.read_text(encoding="utf-8").splitlines()[-90::2]
    part = planted.manifest.with_name("part.jsonl")
    part.write_text("\n".join(lines), encoding="utf-8")
    one, two = (audit(part, AuditConfig(workers=workers)) for workers in (1, 2))
    assert one.findings
    assert one.findings == two.findings


def test_exit_codes(tmp_path, capsys):
    manifest = small(tmp_path)
    command = ["audit", str(manifest), "--workers", "1", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "0 errors" in capsys.readouterr().out
    (tmp_path / "1.wav").write_bytes(b"")
    assert main(command) == 1
    assert "empty_file\tu1" in capsys.readouterr().out
    assert main([*command, "--fail-on", "never"]) == 0
    assert main([*command, "--ignore", "empty_file"]) == 0
    assert main([*command, "--ignore", "emty_file"]) == 1
    assert "no check 'emty_file'" in capsys.readouterr().err


def test_files(tmp_path):
    hostile = '<script>alert(1)</script> "&amp; <img src=x onerror=alert(2)>'
    manifest = small(tmp_path, u0={"text": hostile, "duration": 9.0}, u1={"duration": 1.0})
    assert main(["audit", str(manifest), "--workers", "1", "--output", str(tmp_path / "out")]) == 1
    document = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert document["summary"]["utterances"] == 4
    assert document["summary"]["checks"]["duration_mismatch"] == 2
    assert document["config"]["fail_on"] == "error"
    rows = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text("utf-8").splitlines()]
    assert rows == document["findings"]
    first = next(row for row in rows if row["check"] == "duration_mismatch")
    assert (first["id"], first["severity"], first["threshold"]) == ("u0", "error", 0.1)
    assert first["value"] == pytest.approx(7.0)
    assert first["advice"]
    text = (tmp_path / "out" / "audit.txt").read_text(encoding="utf-8")
    assert "duration_mismatch" in text
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert "data:image/png" in page
    assert page.count("<audio") >= 2
    assert "http:" not in page and "https:" not in page


def test_a_clean_corpus_has_no_errors_or_warnings(tmp_path):
    # A steady tone touches its extremes in every period, as clipped speech does.
    counts = audit(small(tmp_path), AuditConfig(workers=1, ignore=("clipping",))).counts()
    assert counts["error"] == counts["warning"] == 0


def test_a_folder_needs_no_manifest(tmp_path):
    small(tmp_path / "corpus" / "train")
    (tmp_path / "corpus" / "train" / "list.jsonl").unlink()
    (tmp_path / "corpus" / "train" / "2.txt").write_text("words of the third", encoding="utf-8")
    (tmp_path / "corpus" / "train" / "bad.wav").write_bytes(b"RIFF1234WAVE")
    found = audit(tmp_path / "corpus", AuditConfig(workers=1, output=str(tmp_path / "out")))
    assert [u.text for u, _ in found.pairs] == [None, None, "words of the third", None]
    assert {u.split for u, _ in found.pairs} == {"train"}
    assert [f.check for f in found.findings if f.severity == "error"] == ["corrupt"]


def test_parts_of_one_file_are_measured_apart(tmp_path):
    wave = np.concatenate([voice(2, seed=1), np.zeros(32_000, np.float32), voice(2, seed=2)])
    write(tmp_path / "long.wav", wave)
    rows = [{"id": f"p{i}", "path": "long.wav", "start": 2.0 * i, "duration": 2.0, "sample_rate": 16_000, "channels": 1}
            for i in range(4)]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = audit(tmp_path / "m.jsonl", AuditConfig(workers=1))
    assert [m.duration for _, m in found.pairs] == [2.0, 2.0, 2.0, 0.0]
    assert {(f.check, f.item) for f in found.findings if f.severity == "error"} == {
        ("silent", "p1"),
        ("out_of_range", "p3"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("", "no line is an utterance"), ("[1]\n", "expected a JSON object")],
)
def test_nothing_to_audit(tmp_path, content, message):
    path = tmp_path / "m.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        audit(path, AuditConfig(workers=1))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no audio files"):
        audit(tmp_path, AuditConfig(workers=1))


@pytest.mark.parametrize("changes", [{"workers": -1}, {"duplicate_errors": 0.5}, {"rate_ratio": 1.0}])
def test_impossible_settings(changes):
    with pytest.raises(ConfigError, match="audit"):
        AuditConfig(**changes)


@pytest.mark.shared_data
def test_real_speech(shared_data):
    """Clean read speech gives next to no alarm; telephone audio at 16 kHz is found; broken files are."""
    lines = (shared_data / "libri_mini" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[::45]
    rows = [json.loads(line) for line in lines]
    digits = (shared_data / "fsdd" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[::100]
    from speechssl.data.audio.decode import AudioLimits
    from speechssl.data.audit.measure import Job, measure
    from speechssl.data.audit.sound import check_sound
    from speechssl.data.ingest.utterance import Utterance

    def warned(folder, row):
        measured = measure(Job(shared_data / folder / row["audio"], 0.0, None, AudioLimits(), 1))
        u = Utterance(row["id"], row["audio"], row["duration"], 16_000, 1, text=row["text"])
        found = check_sound(u, measured, AuditConfig(), whole=True, claimed=True)
        return [f.check for f in found if f.severity != "note"]

    assert [warned("libri_mini", row) for row in rows] == [[] for _ in rows]
    told = ["narrowband" in warned("fsdd", json.loads(line)) for line in digits]
    assert np.mean(told) > 0.9
