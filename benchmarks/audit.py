"""The audit: does it find what was planted, and how many hours of audio does one core check in an hour?

    python benchmarks/audit.py [--data FOLDER] [--hours 0.5]

Writes benchmarks/results/audit.json. Time is processor time of this process (one worker), everything included:
decoding, measuring, fingerprints, the search for duplicates, the checks of texts. Files: real speech (libri_mini of the
speech pack) as Opus, as it is there, and as 16-bit FLAC.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from speechssl.config import AuditConfig  # noqa: E402
from speechssl.data.audio import decode  # noqa: E402
from speechssl.data.audit import audit  # noqa: E402
from tests.planted import plant  # noqa: E402
from tests.test_audit import judge, show, synthetic  # noqa: E402


def speed(manifest: Path) -> dict:
    began = time.process_time()
    found = audit(manifest, AuditConfig(workers=1))
    seconds = time.process_time() - began
    hours = sum(m.duration for _, m in found.pairs) / 3600
    return {"hours": round(hours, 3), "cpu_seconds": round(seconds, 2), "utterances": len(found.pairs),
            "hours_per_core_hour": round(hours / seconds * 3600), "findings": found.counts()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--hours", type=float, default=0.5)
    arguments = parser.parse_args()
    result: dict = {
        "date": date.today().isoformat(), "python": platform.python_version(), "numpy": np.__version__,
        "libsndfile": soundfile.__libsndfile_version__, "processor": processor(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        planted = plant(Path(place) / "planted", synthetic(210))
        rows, _ = judge(planted, audit(planted.manifest, AuditConfig(workers=1)))
        recall, precision = show(rows)
        result["planted"] = {
            "kinds": len(planted.faults), "utterances": planted.utterances, "recall": recall, "precision": precision,
            "by_check": {c: dict(zip(("planted", "found", "false"), row, strict=True))
                         for c, row in rows.items() if any(row)},
        }  # fmt: skip
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
    target = ROOT / "benchmarks" / "results" / "audit.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
