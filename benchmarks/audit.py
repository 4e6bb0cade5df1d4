"""The audit: does it find what was planted, and how many hours of audio does one core check in an hour?

usage: python -m benchmarks.audit [--data FOLDER] [--hours 0.5]

Writes benchmarks/results/audit.json. Time is processor time of this process (one worker), everything included:
decoding, measuring, fingerprints, the search for duplicates, the checks of texts. Files: real speech (libri_mini of the
speech pack) as Opus, as it is there, and as 16-bit FLAC; and 300 recordings of 0.4 s.

Faults are planted three times: `planted` is the corpus of the tests, which thresholds were chosen with; `heldout` has
other voices, sentences and strengths (tests/support/heldout.py) and is only looked at here, with synthetic speech and
with real speech (libri_dev of the speech pack, which no threshold was chosen with either).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.machine import ROOT, write
from speechssl.config import AuditConfig
from speechssl.data.audio.decode import decode
from speechssl.data.audit.audit import audit
from tests.data.audit.test_audit import judge, show, synthetic
from tests.support.heldout import SEED, plant_heldout
from tests.support.planted import plant

COUNT = 260
"""Recordings that the held-out corpora are made of."""


def speed(manifest: Path) -> dict:
    began = time.process_time()
    found = audit(manifest, AuditConfig(workers=1))
    seconds = time.process_time() - began
    hours = sum(m.duration for _, m in found.pairs) / 3600
    return {"hours": round(hours, 3), "cpu_seconds": round(seconds, 2), "utterances": len(found.pairs),
            "hours_per_core_hour": round(hours / seconds * 3600), "findings": found.counts()}  # fmt: skip


def real(source: Path, count: int) -> list:
    """Return (wave, text, speaker) of recordings of 2.5 to 9 s, the same ones each time."""
    rows = [json.loads(line) for line in (source / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if 2.5 <= row["duration"] <= 9]
    np.random.default_rng(SEED).shuffle(rows)
    return [(decode(source / r["audio"], item=r["id"]), r["text"], r["speaker"]) for r in rows[:count]]


def detection(planted) -> dict:
    rows, false = judge(planted, found := audit(planted.manifest, AuditConfig(workers=1)))
    recall, precision = show(rows)
    told = {(f.check, f.item): f.detail for f in found.findings}
    got = {check: {f.item for f in found.findings if f.check == check} for check in rows}
    missed = [(check, item) for check, items in planted.faults.items() for item in sorted(items - got[check])]
    also = {item: sorted(f.check for f in found.findings if f.item == item) for _, item in missed}
    for check, item in missed:
        print("missed", check, item, also[item])
    for entry in false:
        print("false", *entry, told[entry])
    return {
        "kinds": len(planted.faults), "utterances": planted.utterances, "recall": recall, "precision": precision,
        "missed": [[check, item, also[item]] for check, item in missed],
        "by_check": {c: dict(zip(("planted", "found", "false"), row, strict=True))
                     for c, row in rows.items() if any(row)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--hours", type=float, default=0.5)
    arguments = parser.parse_args()
    result: dict = {"libsndfile": soundfile.__libsndfile_version__}
    with tempfile.TemporaryDirectory() as place:
        result["planted"] = detection(plant(Path(place) / "planted", synthetic(210)))
        voices = ("m3", "f4", "m5", "f5", "m7", "m6", "Andy", "linda")
        speech = {"heldout_synthetic": synthetic(COUNT, seed=SEED, variants=voices, rate=145)}
        if (arguments.data / "libri_dev").is_dir():
            speech["heldout_real"] = real(arguments.data / "libri_dev", COUNT)
        for name, said in speech.items():
            print(name)
            result[name] = {"seed": SEED} | detection(plant_heldout(Path(place) / name, said))
        source = arguments.data / "libri_mini"
        chosen, seconds = [], 0.0
        for line in (source / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if seconds < 3600 * arguments.hours:
                chosen.append(row)
                seconds += row["duration"]
        for kind in ("opus", "flac"):
            folder = Path(place) / kind
            folder.mkdir()
            lines = []
            for number, row in enumerate(chosen):
                audio = (source / row["audio"]).resolve()
                if kind == "flac":
                    wave = decode(audio, item=row["id"])
                    audio = folder / f"{number}.flac"
                    soundfile.write(audio, wave, 16_000, subtype="PCM_16")
                lines.append(json.dumps({**row, "audio": str(audio)}))
            (folder / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
            result[kind] = speed(folder / "list.jsonl")
            print(kind, result[kind])
        folder = Path(place) / "short"
        folder.mkdir()
        lines = []
        for number, (row, begin) in enumerate((row, begin) for row in chosen[:60] for begin in range(1, 6)):
            wave = decode((source / row["audio"]).resolve(), item=row["id"], start=0.4 * begin, duration=0.4)
            soundfile.write(folder / f"{number}.wav", wave, 16_000, subtype="PCM_16")
            lines.append(json.dumps({"audio": f"{number}.wav", "duration": len(wave) / 16_000}))
        (folder / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
        result["short"] = speed(folder / "list.jsonl")
        print("short", result["short"])
    write("audit.json", result, "numpy")


if __name__ == "__main__":
    main()
