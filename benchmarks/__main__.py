"""Every claim about speed that a CPU can check, one script after the other, one table at the end.

usage: python -m benchmarks [--quick] [--only NAME ...] [--fairseq2-python INTERPRETER]       (`make bench`)

About half an hour on two cores with nothing else on them. Each script writes its result under benchmarks/results/,
and the table says what each reaches beside what it is meant to reach. ``--quick`` takes toy sizes and a few minutes, to
see that everything runs: it keeps no result, and its ratios say nothing about the real sizes. Peers are the extra
`bench` of this package. What needs speech looks for it in $SPEECHSSL_DATA or ../shared/data, and is left out without.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from benchmarks.machine import RESULTS, ROOT

DATA = Path(os.environ.get("SPEECHSSL_DATA") or ROOT.parent / "shared" / "data")


@dataclass(frozen=True)
class Run:
    """A script with its options, at full size and at toy size (None: not in a quick run)."""

    words: tuple[str, ...]
    quick: tuple[str, ...] | None
    file: str
    needs: Literal["", "data", "fairseq2"] = ""


@dataclass(frozen=True)
class Claim:
    """A figure of a result, and what it is meant to reach (at least, unless ``most``)."""

    run: str
    what: str
    keys: tuple[str, ...]
    bar: float
    most: bool = False


STEP = ("step", "--rounds", "3", "--set")
TOY = ("--rounds", "1", "--rows", "1", "--seconds", "2")
RUNS = {
    "step": Run((*STEP, "wav2vec2"), None, "step-wav2vec2.json"),
    "step-small": Run((*STEP, "wav2vec2", "--small"), ("step", "--small", *TOY), "step-wav2vec2-small.json"),
    "step-fairseq2": Run((*STEP, "fairseq2"), None, "step-fairseq2.json", "fairseq2"),
    "step-hubert": Run((*STEP, "hubert"), ("step", "--set", "hubert", *TOY), "step-hubert.json"),
    "parts": Run(("parts", "--rounds", "3"), ("parts", *TOY, "--pace", "0.05", "--precision", "bf16"), "parts.json"),
    "loader-flac": Run(
        ("loader", "--rounds", "2", "--seconds", "2"),
        ("loader", "--rounds", "1", "--seconds", "0.5", "--audio", "0.1"), "loader-flac.json",
    ),
    "loader-pcm16": Run(
        ("loader", "--encoding", "pcm16", "--rounds", "2", "--seconds", "2"), None, "loader-pcm16.json",
    ),
    "transcription": Run(
        ("transcription", str(DATA), "--count", "16", "--rounds", "2"),
        ("transcription", str(DATA), "--count", "2", "--rounds", "1", "--toy"), "transcription.json", "data",
    ),
    "plan": Run(("plan", "--rounds", "1"), ("plan", "--rounds", "1", "--shards", "1000"), "plan.json"),
    "estimate": Run(
        ("estimate", "--only", "tiny", "small, 8", "log-mel"), ("estimate", "--only", "tiny", "--steps", "4"),
        "estimate.json",
    ),
}  # fmt: skip
CLAIMS = (
    Claim("step", "BASE step, HF float32 / ours bf16, the same dropouts", ("ratios", "hf-fp32 / ours-bf16"), 4.0),
    Claim("step", "BASE step, HF bf16 / ours bf16, the same dropouts", ("ratios", "hf-bf16 / ours-bf16"), 2.5),
    Claim("step", "BASE step, HF float32 / ours bf16, no attention dropout",
          ("ratios", "hf-fp32 / undropped-bf16"), 5.0),
    Claim("step", "BASE step, HF bf16 / ours bf16, no attention dropout", ("ratios", "hf-bf16 / undropped-bf16"), 3.0),
    Claim("step", "BASE step, HF float32 / ours float32", ("ratios", "hf-fp32 / ours-fp32"), 1.4),
    Claim("step-small", "256 x 12 step, HF float32 / ours bf16, no attention dropout",
          ("ratios", "hf-fp32 / undropped-bf16"), 5.0),
    Claim("step-small", "256 x 12 step, HF bf16 / ours bf16, no attention dropout",
          ("ratios", "hf-bf16 / undropped-bf16"), 4.0),
    Claim("step-fairseq2", "BASE step, fairseq2 bf16 / ours bf16", ("ratios", "fairseq2-bf16 / ours-bf16"), 2.0),
    Claim("step-fairseq2", "BASE step, fairseq2 bf16 / ours bf16, no attention dropout",
          ("ratios", "fairseq2-bf16 / undropped-bf16"), 2.5),
    Claim("step-hubert", "HuBERT BASE step, torchaudio bf16 / ours bf16",
          ("ratios", "torchaudio-hubert-bf16 / hubert-bf16"), 3.4),
    Claim("parts", "HuBERT's head, torchaudio bf16 / ours bf16",
          ("parts", "head", "ratios", "torchaudio-bf16-defaults / ours-bf16-defaults"), 80.0),
    Claim("parts", "the same, allocator tuned",
          ("parts", "head", "ratios", "torchaudio-bf16-tuned / ours-bf16-tuned"), 80.0),
    Claim("parts", "stem, HF bf16 / ours bf16",
          ("parts", "stem", "ratios", "hf-bf16-defaults / ours-bf16-defaults"), 3.5),
    Claim("parts", "the same, allocator tuned", ("parts", "stem", "ratios", "hf-bf16-tuned / ours-bf16-tuned"), 3.5),
    Claim("loader-flac", "FLAC, ours / webdataset + soundfile",
          ("ratios", "best of ours with 2 against the best webdataset + soundfile, wall time"), 3.0),
    Claim("loader-flac", "FLAC, 2 threads / 1", ("ratios", "2 threads against 1, wall time"), 1.7),
    Claim("loader-pcm16", "PCM, ours / webdataset README",
          ("ratios", "best of ours with 2 against the best webdataset README, wall time"), 20.0),
    Claim("transcription", "best pipeline, float32 / ours, float32", ("ratios", "pipeline fp32* / ours fp32"), 1.2),
    Claim("transcription", "best pipeline, float32 / ours, bf16", ("ratios", "pipeline fp32* / ours bf16"), 3.5),
    Claim("transcription", "share of frames changed by bf16",
          ("share of frames whose best symbol bf16 changes",), 0.02, most=True),
    Claim("plan", "100 million utterances, first batch, CPU s", ("starts", "first batch", "0", "seconds", "cpu"), 10.0,
          most=True),
    Claim("plan", "the same, peak MB without torch", ("starts", "first batch", "0", "megabytes", "peak"), 500.0,
          most=True),
    Claim("plan", "the same with torch, private MB",
          ("starts", "first batch, torch imported", "0", "megabytes", "private"), 500.0, most=True),
    Claim("estimate", "configurations whose memory is within 10 %", ("within", "memory"), 6.0),
    Claim("estimate", "configurations whose time is within 20 %", ("within", "time"), 6.0),
)  # fmt: skip


def dig(result: Any, keys: tuple[str, ...]) -> float | None:
    """Return the number under ``keys``: a digit is a place in a list, of a pattern the least match counts; None where
    there is none.
    """
    if not keys or result is None:
        return None if result is None else float(result)
    first, *others = keys
    if isinstance(result, list):
        return dig(result[int(first)], tuple(others)) if int(first) < len(result) else None
    found = [dig(value, tuple(others)) for name, value in result.items() if fnmatchcase(name, first)]
    return min((value for value in found if value is not None), default=None)


def perform(run: Run, words: tuple[str, ...], results: Path) -> dict[str, Any] | str:
    """Run a script; return its result, or why there is none."""
    began, path = time.time(), results / run.file
    command = [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:], "--results", str(results)]
    done = subprocess.run(command, check=False, cwd=ROOT)
    if done.returncode:
        return f"failed with code {done.returncode}"
    if not path.exists() or path.stat().st_mtime < began - 1:
        return "wrote no result"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def table(results: dict[str, dict[str, Any] | str], *, judge: bool) -> str:
    lines = [f"{'':<56}{'reached':>10}{'meant':>12}"]
    for claim in CLAIMS:
        result = results.get(claim.run)
        if result is None:
            continue
        if isinstance(result, str):
            lines.append(f"{claim.what:<56}  {result}")
            continue
        value = dig(result, claim.keys)
        sign = "at most" if claim.most else "at least"
        if value is None:
            verdict, shown = "", "none"
        else:
            good = value <= claim.bar if claim.most else value >= claim.bar
            verdict, shown = ("" if not judge else "   met" if good else "   MISSED"), f"{value:.3g}"
        lines.append(f"{claim.what:<56}{shown:>10}   {sign} {claim.bar:g}{verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes; no result is kept")
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--fairseq2-python", help="interpreter of an environment that has fairseq2 0.8.1")
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any] | str] = {}
    for name in arguments.only:
        run = RUNS[name]
        words = run.quick if arguments.quick else run.words
        if words is None:
            continue
        if run.needs == "data" and not DATA.is_dir():
            results[name] = "left out: no speech (SPEECHSSL_DATA)"
            continue
        if run.needs == "fairseq2":
            if not arguments.fairseq2_python:
                results[name] = "left out: no --fairseq2-python"
                continue
            words = (*words, "--fairseq2-python", arguments.fairseq2_python)
        print(f"== {name}", flush=True)
        with TemporaryDirectory() as elsewhere:
            results[name] = perform(run, words, Path(elsewhere) if arguments.quick else RESULTS)
    print(table(results, judge=not arguments.quick))
    if arguments.quick:
        print("Toy sizes: that it runs is what this shows; the ratios say nothing about the real ones.")
    if any(isinstance(result, str) and not result.startswith("left out") for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
