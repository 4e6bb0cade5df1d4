"""A second corpus with known faults, never used to choose a threshold: every strength is drawn from the seed.

In: clean speech and a seed. Out: `Planted`. At least three of each kind, from just above what the check promises to
find to plain. When a bug is mended after a look at the results, the seed is changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from tests.support.planted import RATE, Builder, Planted, level_of, lossy, narrow

__all__ = ["SEED", "plant_heldout"]

SEED = 20_260_101
TIMES = 3
PACE = ("fast_text", "slow_text", "mixed_up")


def plant_heldout(
    folder: Path, speech: Sequence[tuple[np.ndarray, str, str]], *, seed: int = SEED, clean: int = 40
) -> Planted:
    """Write the corpus. ``speech``: distinct clean (wave, text, speaker), about 190 + ``clean`` of them."""
    b, rng = Builder(folder, speech), np.random.default_rng(seed)
    for _ in range(clean):
        b.add(*b.take())
    for _ in range(TIMES):
        _sound(b, rng)
        _channels(b, rng)
        _copies(b, rng)
        _texts(b, rng)
    _files(b, rng)
    lines = [json.dumps(row, ensure_ascii=False) for row in b.rows]
    for number, line in enumerate(('{"id": "cut', '{"id": "no audio", "text": "x"}', "[]")):
        at = int(rng.integers(0, len(lines)))
        lines = [*lines[:at], line, *lines[at:]]
        b.planted.faults["bad_row"].add(f"bad {number}")
    bad = {line: number for number, line in enumerate(lines, 1) if '"path"' not in line}
    b.planted.faults["bad_row"] = {f"line {number}" for number in bad.values()}
    for row in b.rows[3:6]:
        lines.append(json.dumps(row, ensure_ascii=False))
        b.planted.faults["duplicate_id"].add(row["id"])
        b.planted.allowed.add(("duplicate_audio", f"{row['id']}-line{len(lines)}"))
    b.planted.utterances = len(lines)
    b.planted.manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return b.planted


def noise(rng: np.random.Generator, samples: int, slope: float) -> np.ndarray:
    """Return noise of power 1 that falls by ``slope`` x 3 dB an octave (0 white, 1 pink)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.maximum(np.arange(len(spectrum)), samples / 320) ** (slope / 2)
    wave = np.fft.irfft(spectrum, samples)
    return wave / np.sqrt(np.mean(wave**2))


def db(value: float) -> float:
    return float(10 ** (value / 20))


def _changed(b: Builder, check: str, change: Callable[[np.ndarray], np.ndarray], *also: str, text: bool = True) -> dict:
    wave, words, who = b.take()
    row = b.add(change(wave).astype(np.float32), words if text else None, who, checks=[check])
    b.planted.allowed |= {(other, row["id"]) for other in also}
    return row


def _sound(b: Builder, rng: np.random.Generator) -> None:
    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def room(seconds: float) -> np.ndarray:
        return db(between(-90, -75)) * noise(rng, round(seconds * RATE), 1)

    def clipped(wave: np.ndarray) -> np.ndarray:
        limit = float(np.quantile(np.abs(wave), 1 - between(0.008, 0.06)))
        return np.clip(wave, -limit, limit) * between(0.5, 1) / limit

    def humming(wave: np.ndarray) -> np.ndarray:
        wave = np.concatenate([room(1.0), wave, room(1.0)])
        time, mains = np.arange(len(wave)) / RATE, float(rng.choice([50.0, 60.0]))
        steady = sum(np.sin(2 * np.pi * mains * k * time + k) * between(0.5, 1) / k for k in range(1, 6))
        return 0.6 * wave + db(between(-30, -16)) * level_of(wave) * steady

    def holed(wave: np.ndarray) -> np.ndarray:
        wave = wave + db(between(-65, -55)) * rng.standard_normal(len(wave))
        power = np.convolve(wave**2, np.ones(1_600) / 1_600, "same")
        for _ in range(int(rng.integers(2, 6))):
            at, half = int(np.argmax(power[5_000:-5_000])) + 5_000, int(rng.integers(600, 1_600))
            wave[at - half : at + half] = 0
            power[max(0, at - 6_000) : at + 6_000] = 0
        return wave

    _changed(b, "clipping", clipped)
    for kind, sides in (("leading_silence", (1, 0)), ("trailing_silence", (0, 1))):
        seconds = between(2.3, 7)
        ends = [room(side * seconds + 0.01) for side in sides]
        _changed(b, kind, lambda w, ends=ends: np.concatenate([ends[0], w, ends[1]]), "mostly_silence")
    _changed(b, "mostly_silence", lambda w: np.concatenate([room(1), w[:RATE], room(between(9, 20)), w[RATE:24_000]]),
             "trailing_silence", "leading_silence", "too_long", text=False)  # fmt: skip
    b.add(db(between(-100, -68)) * noise(rng, 2 * RATE, 0), None, "nobody", checks=["silent"])
    b.add(db(between(-42, -18)) * noise(rng, 4 * RATE, between(0, 1)), None, "nobody", checks=["no_speech"])
    _changed(b, "low_snr", lambda w: w + level_of(w) / db(between(-3, 6)) * noise(rng, len(w), between(0, 1)))
    _changed(b, "dc_offset", lambda w: 0.7 * w + between(0.012, 0.15) * float(rng.choice([-1, 1])))
    coded = str(rng.choice(["none", "opus", "mp3"]))
    rate = int(rng.choice([6_000, 7_000, 8_000, 9_000]))
    _changed(b, "narrowband", lambda w: narrow(w, rate) if coded == "none" else lossy(narrow(w, rate), coded))
    _changed(b, "hum", humming, "low_snr")
    _changed(b, "dropouts", holed, "low_snr")
    _changed(b, "too_short", lambda w: w[8_000 : 8_000 + round(between(0.02, 0.09) * RATE)], text=False)
    wave, _, who = b.take()
    while len(wave) < 32 * RATE:
        wave = np.concatenate([wave, b.take()[0]])
    b.add(wave, None, who, checks=["too_long"])
    _changed(b, "quiet", lambda w: db(between(-58, -51)) * w / float(np.quantile(np.abs(w), 0.99)) / 0.5, "low_snr")
    wave, text, who = b.take()
    rate = int(rng.choice([8_000, 11_025, 12_000]))
    b.add(soxr.resample(wave, RATE, rate), text, who, rate=rate, checks=["low_rate"])


def _channels(b: Builder, rng: np.random.Generator) -> None:
    first = bool(rng.integers(0, 2))
    for check, other in (("dead_channel", db(float(rng.uniform(-100, -50)))), ("inverted_channel",
                         -float(rng.uniform(0.85, 1.0)))):  # fmt: skip

        def two(wave: np.ndarray, other: float = other) -> np.ndarray:
            second = other * wave + db(-75) * rng.standard_normal(len(wave)) * (other < 0)
            return np.stack([wave, second] if first else [second, wave], axis=1)

        _changed(b, check, two)


def _copies(b: Builder, rng: np.random.Generator) -> None:
    wave, text, who = b.take()
    wave = np.rint(wave * 32_768).astype(np.float32) / 32_768
    b.add(wave, text, who)
    b.add(wave, text, who, checks=["duplicate_audio"], how={"format": "WAV"})

    def cut(wave: np.ndarray) -> np.ndarray:
        share = float(rng.uniform(0.05, 0.4))
        begin = int(rng.uniform(0, share) * len(wave))
        return wave[begin : begin + round((1 - share) * len(wave))]

    def changed(wave: np.ndarray) -> np.ndarray:
        steps = [
            lambda w: lossy(w, "opus"), lambda w: lossy(w, "mp3"), lambda w: float(rng.uniform(0.05, 0.9)) * w, cut,
            lambda w: w + level_of(w) / db(float(rng.uniform(15, 30))) * noise(rng, len(w), 1),
            lambda w: narrow(w, int(rng.choice([8_000, 11_025]))),
        ]  # fmt: skip
        for index in rng.choice(len(steps), size=2, replace=False):
            wave = np.asarray(steps[index](wave), np.float32)
        return wave

    for _ in range(2):
        wave, text, who = b.take()
        b.add(wave, text, who)
        row = b.add(changed(wave), text, who, checks=["near_duplicate"])
        b.planted.allowed |= {(c, row["id"]) for c in ("narrowband", "low_snr", "quiet", *PACE)}
    wave, text, who = b.take()
    first = b.add(wave, text, who)
    row = b.add(changed(wave), text, f"n{len(b.rows)}", split="test", checks=["leaked_audio"])
    b.planted.allowed |= {(c, row["id"]) for c in ("near_duplicate", "narrowband", "low_snr", "quiet", *PACE)}
    b.planted.allowed.add(("shared_transcript", first["id"]))
    wave, text, who = b.take()
    b.add(wave, text, who)
    row = b.add(float(rng.uniform(0.2, 0.8)) * wave, b.take()[1], who, checks=["conflicting_transcripts"])
    b.planted.allowed |= {(c, row["id"]) for c in ("near_duplicate", "unalignable", *PACE)}
    who = f"leak{len(b.rows)}"
    for split in ("train", "dev"):
        wave, text, _ = b.take()
        b.add(wave, text, who, split=split)
    b.planted.faults["leaked_speaker"].add(f"speaker {who}")


def _texts(b: Builder, rng: np.random.Generator) -> None:
    def written(check: str, change: Callable[[str], str], *also: str) -> None:
        wave, text, who = b.take()
        row = b.add(wave, change(text), who, checks=[check])
        b.planted.allowed |= {(other, row["id"]) for other in ("rare_character", *also)}

    def one(*of: str) -> str:
        return str(rng.choice(of))

    many = int(rng.integers(4, 7))
    loose = ("unalignable", "mixed_up", "looped_text", "repeated_transcript")
    written("fast_text", lambda t: " ".join([t, *(text for _, text, _ in b.speech[:many])]), *loose)
    written("unalignable", lambda t: " ".join([t, *(text for _, text, _ in b.speech[: 5 * many])]), "fast_text", *loose)
    written("slow_text", lambda t: t.split()[int(rng.integers(0, 2))], "mixed_up")
    written("empty_transcript", lambda t: one("", ".", " - "), "punctuation")
    written("digits", lambda t: f"{t} {int(rng.integers(0, 5_000))}")
    written("markup", lambda t: f"{t} " + one("<noise>", "[inaudible]", "&quot;", "{cough}", "((uh))"), "punctuation")
    wrong = one("naïve", "über", "señor", "it’s").encode().decode("cp1252")
    written("mojibake", lambda t: f"{wrong} {t}", "punctuation", "odd_case")
    old, new = [("c", "с"), ("p", "р"), ("i", "і"), ("a", "α"), ("o", "ο")][int(rng.integers(0, 5))]
    written("mixed_script", lambda t: t.replace(old, new, 1) if old in t else f"{t} m{new}n")
    foreign = one("αυτή είναι μια άλλη γλώσσα", "зовсім інша мова тут", "这是另一种语言", "это не английский")
    written("foreign_script", lambda t: foreign, "slow_text", "mixed_up", "mixed_script")
    written("odd_case", lambda t: one(t.upper(), t.capitalize(), t.title()))
    written("punctuation", lambda t: t + one(".", "?", ";", " ..."))
    word = str(rng.choice(b.speech[0][1].split()))
    written(
        "looped_text",
        lambda t: f"{t.split()[0]} " + " ".join([word] * int(rng.integers(4, 8))),
        "slow_text",
        "mixed_up",
    )
    same, first = b.take()[1], len(b.rows)
    for _ in range(int(rng.integers(5, 7))):
        row = b.add(*b.take()[:1], same, "s9")
        b.planted.allowed |= {(c, row["id"]) for c in (*PACE, "repeated_transcript")}
    b.planted.faults["repeated_transcript"].add(b.rows[first]["id"])
    rare = chr(0x111 + 2 * len(b.rows))
    written("rare_character", lambda t: f"{t}{rare}", "mixed_script")


def _files(b: Builder, rng: np.random.Generator) -> None:
    def damaged(check: str, change: Callable[[Path], object], kind: str = "WAV") -> None:
        wave, text, who = b.take()
        change(b.folder / b.add(wave, text, who, checks=[check], how={"format": kind})["path"])

    def torn(path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = int(len(data) * rng.uniform(0.3, 0.7))
        data[at : at + 600] = rng.bytes(600)
        path.write_bytes(data)

    def shorter(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * rng.uniform(0.2, 0.95))])

    for _ in range(TIMES):
        damaged("missing_file", Path.unlink)
        damaged("empty_file", lambda path: path.write_bytes(b""))
        damaged("not_audio", lambda path: path.write_bytes(b'{"error": "not found"}\n' * int(rng.integers(1, 99))))
        damaged("truncated", shorter)
        damaged("no_samples", lambda path: soundfile.write(path, np.zeros(0, np.float32), RATE))
        damaged("corrupt", torn, "FLAC")
        wave, text, who = b.take()
        factor = float(rng.choice([rng.uniform(0.5, 0.93), rng.uniform(1.07, 3)]))
        b.add(wave, text, who, checks=["duration_mismatch"], duration=round(len(wave) / RATE * factor, 3))
        wave, text, who = b.take()
        rate, channels = ((48_000, 1), (16_000, 2), (8_000, 1))[int(rng.integers(0, 3))]
        b.add(wave, text, who, checks=["header_mismatch"], sample_rate=rate, channels=channels)
