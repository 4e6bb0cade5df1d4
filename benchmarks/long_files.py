"""Long files: seams, accuracy of local context, and memory over three hours.

usage: python -m benchmarks.long_files DATA MODEL OUT     (about 15 minutes on one CPU core)

DATA holds the speech pack (raw_mixed/, protocols/, an4/). MODEL is a fine-tuned model folder that suits AN4; OUT keeps
the long files and each measurement. Three measurements, written to benchmarks/results/long_files.json:

seams      words of `transcribe` against one pass over the whole file with the same context and everything in memory
           (tests/oracles/local.py), on every recording of raw_mixed longer than 25 s; beside it, unrestricted attention
           over the file, and the block grid moved by silence in front
accuracy   word and character error rate of one long recording made of all AN4 test utterances, by length of a block,
           against unrestricted attention and against each utterance alone
memory     resident memory of `speechssl transcribe` in a process of its own on 10 minutes and on 3 hours of real speech
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.machine import write
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.recognise import frame_log_probs
from speechssl.asr.transcription.longform import block_frames
from speechssl.asr.transcription.transcribe import Recogniser, open_recogniser, transcribe_file
from speechssl.config import TranscribeConfig
from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import decode
from speechssl.evaluation.wer.edit_distance import score_utterance
from tests.oracles.local import encode_whole

LONG_SECONDS = 25.0
RATE = 16_000


def recordings(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """Return the readable recordings of at least ``LONG_SECONDS`` below a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in {".mp3", ".wav", ".flac", ".ogg", ".webm", ".sph"}:
            try:
                wave = decode(path, item=str(path))
            except AudioError:
                continue
            if len(wave) >= LONG_SECONDS * RATE:
                found.append((path, wave))
    return found


@torch.inference_mode()
def whole_pass(recogniser: Recogniser, wave: np.ndarray, seconds: float) -> str:
    """Return the greedy text of one pass over everything, each frame seeing its block and the two beside it."""
    frames = encode_whole(recogniser.model.encoder, torch.from_numpy(wave), block_frames(recogniser.model, seconds))
    return greedy(recogniser.model.head(frames).log_softmax(-1), recogniser.tokens)


def unrestricted(recogniser: Recogniser, wave: np.ndarray) -> str:
    """Return the greedy text of one ordinary pass: every frame sees the whole recording."""
    (rows,) = frame_log_probs(recogniser.model, torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    return greedy(rows, recogniser.tokens)


def chunked(recogniser: Recogniser, wave: np.ndarray, cfg: TranscribeConfig, place: Path) -> str:
    """Return the text of `transcribe` for samples."""
    soundfile.write(place, wave, RATE, subtype="FLOAT")
    return transcribe_file(recogniser, place, cfg).text


def seams(recogniser: Recogniser, cfg: TranscribeConfig, data: Path, out: Path) -> dict[str, Any]:
    """Compare `transcribe` with whole-file passes."""
    counts = {"words": 0, "seams": 0, "unrestricted": 0, "moved": 0, "moved_words": 0}
    files = []
    for path, wave in recordings(data / "raw_mixed"):
        found = transcribe_file(recogniser, path, cfg).text
        whole = score_utterance(whole_pass(recogniser, wave, cfg.block_seconds), found)
        counts["words"] += whole.N
        counts["seams"] += whole.errors
        counts["unrestricted"] += score_utterance(unrestricted(recogniser, wave), found).errors
        for shift in (1.3, 2.6, 3.9):
            moved = chunked(recogniser, np.r_[np.zeros(int(shift * RATE), np.float32), wave], cfg, out / "moved.wav")
            score = score_utterance(found, moved)
            counts["moved"] += score.errors
            counts["moved_words"] += score.N
        files.append(
            {"file": path.name, "seconds": round(len(wave) / RATE, 1), "words": whole.N, "differ": whole.errors}
        )
    return {
        "files": files,
        "words": counts["words"],
        "differ_from_whole_pass_percent": round(100 * counts["seams"] / counts["words"], 3),
        "differ_from_unrestricted_attention_percent": round(100 * counts["unrestricted"] / counts["words"], 2),
        "differ_when_the_grid_moves_percent": round(100 * counts["moved"] / counts["moved_words"], 2),
    }


def accuracy(recogniser: Recogniser, cfg: TranscribeConfig, data: Path, out: Path) -> dict[str, Any]:
    """Score one long recording of all AN4 test utterances by length of a block."""
    rows = [json.loads(line) for line in (data / "an4" / "manifest.jsonl").read_text().splitlines()]
    wanted = (data / "protocols" / "an4-test.txt").read_text().split()
    by_id = {row["id"]: row for row in rows}
    chosen = [by_id[name] for name in wanted]
    waves = [decode(data / "an4" / row["audio"], item=row["id"]) for row in chosen]
    ref = recogniser.tokens.spell(" ".join(row["text"] for row in chosen))
    joined = np.concatenate(waves)

    def rates(text: str) -> dict[str, float]:
        words = score_utterance(ref, text)
        letters = score_utterance(" ".join(ref.replace(" ", "|")), " ".join(text.replace(" ", "|")))
        return {"wer": round(100 * words.errors / words.N, 2), "cer": round(100 * letters.errors / letters.N, 2)}

    found = {"each utterance alone": rates(" ".join(unrestricted(recogniser, wave) for wave in waves))}
    found["unrestricted attention"] = rates(unrestricted(recogniser, joined))
    for seconds in (2.0, 3.0, 5.0, 7.0, 10.0):
        text = chunked(recogniser, joined, replace(cfg, block_seconds=seconds), out / "joined.wav")
        found[f"blocks of {seconds:g} s"] = rates(text)
    for shift in (1.3, 2.6):  # the recording's own beginning, so that statistics stay as they are
        moved = np.r_[joined[: int(shift * RATE)], joined]
        text = chunked(recogniser, moved, cfg, out / "joined.wav")
        found[f"blocks of {cfg.block_seconds:g} s, the grid moved by {shift:g} s"] = rates(text)
    return {"seconds": round(len(joined) / RATE, 1), "words": len(ref.split()), "rates": found}


def make_file(data: Path, place: Path, seconds: float) -> None:
    """Write a FLAC of real speech of this length, from the pack's recordings in turn; nothing is held in memory."""
    if place.exists() and abs(soundfile.info(place).duration - seconds) < 1:
        return
    sources = [p for name in ("libri_mini", "libri_dev", "an4") for p in sorted((data / name / "audio").rglob("*.*"))]
    left = int(seconds * RATE)
    with soundfile.SoundFile(place, "w", RATE, 1, format="FLAC") as file:
        while left > 0:
            for source in sources:
                wave = decode(source, item=str(source))[:left]
                file.write(wave)
                left -= len(wave)
                if left <= 0:
                    break


def memory(model: Path, place: Path, out: Path, decoder: str) -> dict[str, Any]:
    """Transcribe a file in a process of its own and watch its resident memory (MiB)."""
    target = out / f"result-{place.stem}-{decoder}"
    subprocess.run(["rm", "-rf", str(target)], check=True)
    command = [sys.executable, "-m", "speechssl", "transcribe", str(place), "--model", str(model), "--output"]
    command += [str(target), "--format", "ctm,vtt", "--decoder.kind", decoder, "--device", "cpu"]
    before = os.times()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    resident: list[float] = []
    while running.poll() is None:
        try:
            status = Path(f"/proc/{running.pid}/status").read_text(encoding="utf-8")
        except OSError:
            break
        resident += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")]
        time.sleep(0.25)
    assert running.wait() == 0, f"{' '.join(command)} failed"
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    row = json.loads((target / "transcripts.jsonl").read_text(encoding="utf-8"))
    marks = [max(resident[: max(1, len(resident) * tenth // 10)]) for tenth in range(1, 11)]
    return {
        "decoder": decoder,
        "seconds": row["duration"],
        "words": len(row["words"]),
        "peak_mib": round(max(resident), 1),
        "peak_mib_by_tenth_of_the_run": [round(mark, 1) for mark in marks],
        "cpu_seconds": round(cpu, 1),
        "times_real_time_on_one_core": round(row["duration"] / cpu, 1),
    }


def main(data: Path, model: Path, out: Path) -> None:
    """Measure, write and print."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    cfg = TranscribeConfig(model=str(model), device="cpu")
    recogniser = open_recogniser(cfg)

    def part(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        place = out / f"{name}.json"  # a run that is stopped goes on here
        if not place.exists():
            place.write_text(json.dumps(measure()), encoding="utf-8")
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        print(name, json.dumps(found), flush=True)
        return found

    result: dict[str, Any] = {
        "what": "one thread",
        "block_seconds": cfg.block_seconds,
        "seams": part("seams", lambda: seams(recogniser, cfg, data, out)),
        "accuracy": part("accuracy", lambda: accuracy(recogniser, cfg, data, out)),
    }
    runs = []
    for name, seconds in (("ten-minutes", 600.0), ("three-hours", 3 * 3600.0)):
        place = out / f"{name}.flac"
        make_file(data, place, seconds)
        for decoder in ("greedy", "lexicon"):
            measured = part(f"{name}-{decoder}", lambda p=place, d=decoder: memory(model, p, out, d))  # type: ignore[misc]
            runs.append(measured)
    result["memory"] = runs
    for decoder in ("greedy", "lexicon"):  # the last tenth holds the end of the process, which touches library pages
        short, long = (run["peak_mib_by_tenth_of_the_run"][8] for run in runs if run["decoder"] == decoder)
        result[f"growth_mib_{decoder}"] = round(long - short, 1)
    write("long_files.json", result, "numpy", "soundfile")
    print(json.dumps(result, indent=1))
    assert result["seams"]["differ_from_whole_pass_percent"] < 0.5
    assert all(result[f"growth_mib_{decoder}"] < 30 for decoder in ("greedy", "lexicon")), "memory grows with length"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
