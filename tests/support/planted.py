"""A corpus with known faults: distinct clean speech, and beside it some of each kind of fault, weak and strong."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16_000


@dataclass
class Planted:
    """Where the corpus is, and what was planted."""

    manifest: Path
    faults: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids (or items) by check. An utterance may have several."""
    allowed: set[tuple[str, str]] = field(default_factory=set)
    """(check, item) that follow from a planted fault of another kind, or from a change that is no fault."""
    utterances: int = 0


class Builder:
    def __init__(self, folder: Path, speech: Sequence[tuple[np.ndarray, str, str]]) -> None:
        self.folder, self.speech, self.next = folder, speech, 0
        self.rows: list[dict] = []
        self.planted = Planted(folder / "manifest.jsonl")
        (folder / "audio").mkdir(parents=True)

    def take(self) -> tuple[np.ndarray, str, str]:
        self.next += 1
        return self.speech[self.next - 1]

    def add(self, wave, text, speaker, *, split="train", name="", rate=RATE, checks=(), how=None, **changes):
        name = name or f"u{len(self.rows):04d}"
        how = {"format": "FLAC", "subtype": "PCM_16"} | (how or {})
        path = f"audio/{name}.{how['format'].lower()}"
        with (self.folder / path).open("wb") as file:
            soundfile.write(file, np.clip(wave, -1, 1), rate, **how)
        row = {"id": name, "path": path, "duration": round(len(wave) / rate, 6), "sample_rate": rate,
               "channels": 1 if wave.ndim == 1 else wave.shape[1], "text": text, "speaker": speaker,
               "split": split} | changes  # fmt: skip
        self.rows.append(row)
        for check in checks:
            self.planted.faults[check].add(row["id"])
        return row


def lossy(wave: np.ndarray, kind: str) -> np.ndarray:
    buffer = io.BytesIO()
    how = {"opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"}}[kind]
    soundfile.write(buffer, wave, RATE, **how)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


def narrow(wave: np.ndarray, rate: int = 8_000) -> np.ndarray:
    return soxr.resample(soxr.resample(wave, RATE, rate), rate, RATE)


def plant(folder: Path, speech: Sequence[tuple[np.ndarray, str, str]], *, clean: int = 60) -> Planted:
    """Write the corpus. ``speech``: distinct clean (wave, text, speaker), about 140 + ``clean`` of them."""
    b = Builder(folder, speech)
    rng = np.random.default_rng(5)

    def level(wave):
        return float(np.sqrt(np.mean(wave**2)))

    for _ in range(clean):
        b.add(*b.take())
    for strength in (3.0, 6.0, 12.0):  # harder and harder against the rails
        wave, text, who = b.take()
        limit = float(np.quantile(np.abs(wave), 0.995)) / strength * 2
        b.add(np.clip(wave, -limit, limit), text, who, checks=["clipping"])
    for kind, front, back in (("leading_silence", 2.6, 0), ("leading_silence", 5, 0), ("trailing_silence", 0, 2.6),
                              ("trailing_silence", 0, 6)):  # fmt: skip
        wave, text, who = b.take()
        faint = [1e-4 * rng.standard_normal(round(s * RATE)) for s in (front, back)]
        row = b.add(np.concatenate([faint[0], wave, faint[1]]).astype(np.float32), text, who, checks=[kind])
        b.planted.allowed.add(("mostly_silence", row["id"]))
    for seconds in (15, 25):
        wave, text, who = b.take()
        faint = 1e-4 * rng.standard_normal(seconds * RATE)
        wave = wave[: round(1.8 * RATE)]
        row = b.add(np.concatenate([faint, wave, faint]).astype(np.float32), None, who, checks=["mostly_silence"])
        b.planted.allowed |= {(c, row["id"]) for c in ("leading_silence", "trailing_silence", "too_long")}
    for value in (0.0, 2e-5, 2e-4):
        b.add(value * rng.standard_normal(3 * RATE).astype(np.float32), None, "s1", checks=["silent"])
    for value in (0.01, 0.1):
        b.add(value * rng.standard_normal(3 * RATE).astype(np.float32), None, "s1", checks=["no_speech"])
    for snr in (-2.0, 1.0, 4.0):
        wave, text, who = b.take()
        noise = rng.standard_normal(len(wave)).astype(np.float32)
        b.add(wave + noise * level(wave) / 10 ** (snr / 20), text, who, checks=["low_snr"])
    for offset in (0.015, 0.05, -0.1):
        wave, text, who = b.take()
        b.add(0.8 * wave + offset, text, who, checks=["dc_offset"])
    for change in (lambda w: w, lambda w: 0.1 * w, lambda w: lossy(w, "opus")):
        wave, text, who = b.take()
        row = b.add(change(narrow(wave)), text, who, checks=["narrowband"])
        b.planted.allowed.add(("quiet", row["id"]))
    for amount in (0.03, 0.1):
        wave, text, who = b.take()
        pause = 1e-4 * rng.standard_normal(RATE // 2).astype(np.float32)
        wave = np.concatenate([pause, wave, pause])
        time = np.arange(len(wave)) / RATE
        hum = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in (1, 2, 3, 4))
        row = b.add(0.6 * wave + amount * level(wave) * hum, text, who, checks=["hum"])
        b.planted.allowed.add(("low_snr", row["id"]))
    for holes in (3, 6):
        wave, text, who = b.take()
        wave = wave + 1e-3 * rng.standard_normal(len(wave)).astype(np.float32)
        power = np.convolve(wave**2, np.ones(800) / 800, "same")
        for _ in range(holes):
            at = int(np.argmax(power[3_000:-3_000])) + 3_000
            wave[at - 800 : at + 800] = 0
            power[max(0, at - 4_000) : at + 4_000] = 0
        b.add(wave, text, who, checks=["dropouts"])
    for other in (0.0, 0.001):
        wave, text, who = b.take()
        b.add(np.stack([wave, other * wave], axis=1), text, who, checks=["dead_channel"])
    for other in (-1.0, -0.9):
        wave, text, who = b.take()
        b.add(np.stack([wave, other * wave], axis=1), text, who, checks=["inverted_channel"])
    _plant_files(b)
    _plant_copies(b, rng)
    _plant_texts(b)
    lines = [json.dumps(row, ensure_ascii=False) for row in b.rows]
    lines.insert(7, '{"id": "no audio", "text": "x"}')
    b.planted.faults["bad_row"].add("line 8")
    lines.append(json.dumps(b.rows[0]))
    b.planted.faults["duplicate_id"].add(b.rows[0]["id"])
    again = f"{b.rows[0]['id']}-line{len(lines)}"
    b.planted.allowed.add(("duplicate_audio", again))
    b.planted.utterances = len(lines)
    b.planted.manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return b.planted


def _plant_files(b: Builder) -> None:
    def damaged(check, change):
        wave, text, who = b.take()
        row = b.add(wave, text, who, checks=[check], how={"format": "WAV"})
        path = b.folder / row["path"]
        change(path)

    damaged("missing_file", lambda path: path.unlink())
    damaged("missing_file", lambda path: path.rename(path.with_suffix(".moved")))
    damaged("empty_file", lambda path: path.write_bytes(b""))
    damaged("not_audio", lambda path: path.write_bytes(b"<html>404 not found</html>" * 50))
    for share in (0.9, 0.4):
        damaged("truncated", lambda path, s=share: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * s)]))
    damaged("no_samples", lambda path: soundfile.write(path, np.zeros(0, np.float32), RATE))
    damaged("corrupt", lambda path: path.write_bytes(path.read_bytes()[:12] + b"\0" * 300))
    for factor in (0.9, 1.2, 2.0):
        wave, text, who = b.take()
        b.add(wave, text, who, checks=["duration_mismatch"], duration=round(len(wave) / RATE * factor, 3))
    for rate, channels in ((22_050, 1), (16_000, 2)):
        wave, text, who = b.take()
        b.add(wave, text, who, checks=["header_mismatch"], sample_rate=rate, channels=channels)


def _plant_copies(b: Builder, rng: np.random.Generator) -> None:
    for how in ({"format": "WAV"}, {"format": "FLAC"}, {"format": "WAV", "subtype": "FLOAT"}):
        wave, text, who = b.take()
        wave = np.rint(wave * 32_768).astype(np.float32) / 32_768
        b.add(wave, text, who)
        b.add(wave, text, who, checks=["duplicate_audio"], how=how)
    changes = (
        lambda w: lossy(w, "opus"), lambda w: lossy(w, "mp3"), lambda w: 0.2 * w, lambda w: w[3_211:],
        lambda w: w[: -len(w) // 4], lambda w: np.concatenate([np.zeros(5_003, np.float32), w]),
        lambda w: 0.4 * lossy(w, "opus")[4_321:], lambda w: lossy(narrow(w, 11_025), "opus"),
        lambda w: w + 0.03 * level_of(w) * rng.standard_normal(len(w)).astype(np.float32),
    )  # fmt: skip
    for change in changes:
        wave, text, who = b.take()
        first = b.add(wave, text, who)
        row = b.add(change(wave).astype(np.float32), text, who, checks=["near_duplicate"])
        b.planted.allowed |= {("near_duplicate", first["id"]), ("narrowband", row["id"])}
    for number, change in enumerate((lambda w: w, lambda w: lossy(w, "opus"), lambda w: 0.3 * w[2_000:])):
        wave, text, who = b.take()
        b.add(wave, text, who)
        row = b.add(change(wave), text, f"other{number}", split="test", checks=["leaked_audio"])
        b.planted.allowed |= {(check, row["id"]) for check in ("duplicate_audio", "near_duplicate")}
        b.planted.allowed.add(("shared_transcript", b.rows[-2]["id"]))
    wave, text, who = b.take()
    b.add(wave, text, who)
    row = b.add(0.5 * wave, b.take()[1], who, checks=["conflicting_transcripts"])
    b.planted.allowed |= {("near_duplicate", row["id"])}
    for who in ("leak1", "leak2"):
        for split in ("train", "test"):
            wave, text, _ = b.take()
            b.add(wave, text, who, split=split)
        b.planted.faults["leaked_speaker"].add(f"speaker {who}")


def level_of(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave**2)))


def _plant_texts(b: Builder) -> None:
    def written(check, change, *also):
        wave, text, who = b.take()
        row = b.add(wave, change(text), who, checks=[check])
        b.planted.allowed |= {(other, row["id"]) for other in also}

    for factor in (4, 6, 20):
        fast = ("fast_text", "unalignable", "mixed_up", "looped_text")
        texts = [b.take()[1] for _ in range(factor)]
        check = "unalignable" if factor == 20 else "fast_text"
        written(check, lambda t, texts=texts: " ".join(texts), *(c for c in fast if c != check))
    for words in (1, 1, 1):
        written("slow_text", lambda t, n=words: " ".join(t.split()[:n]), "mixed_up")
    written("empty_transcript", lambda t: "")
    written("empty_transcript", lambda t: "...", "punctuation")
    for digits in ("10", "1984", "7"):
        written("digits", lambda t, d=digits: f"{t} {d}", "rare_character")
    for tag in ("<unk>", "[laughter]", "&amp;"):
        written("markup", lambda t, tag=tag: f"{t} {tag}", "punctuation", "rare_character")
    written("mojibake", lambda t: f"{t} cafÃ©", "punctuation", "rare_character", "odd_case")
    written("mojibake", lambda t: f"{t} itâ€™s", "punctuation", "rare_character")
    for old, new in (("a", "а"), ("o", "о"), ("e", "ε")):  # Cyrillic a and o, Greek epsilon
        written(
            "mixed_script",
            lambda t, old=old, new=new: t.replace(old, new, 1) if old in t else f"{t} c{new}t",
            "rare_character",
        )
    written("foreign_script", lambda t: "это совсем другой язык и другие буквы", "rare_character")
    written("odd_case", lambda t: t.upper())
    written("odd_case", lambda t: t.title())
    for mark in ("!", "?"):
        written("punctuation", lambda t, m=mark: f"{t}{m}", "rare_character")
    written("looped_text", lambda t: " ".join(t.split()[:1] + ["the"] * 5))
    written("looped_text", lambda t: " ".join(["on the"] * 4))
    same = b.take()[1]
    for _ in range(6):
        b.add(*b.take()[:1], same, "s9")
    b.planted.faults["repeated_transcript"].add(b.rows[-6]["id"])
    written("rare_character", lambda t: f"{t} ñ")
