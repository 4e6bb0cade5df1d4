"""Loader: hours of audio delivered as batches to the training process, ours against webdataset, FLAC and PCM shards.

usage: python -m benchmarks.loader [--encoding flac] [--data FOLDER] [--seconds 3] [--rounds 3] [--audio HOURS]
       python -m benchmarks.loader --batches 10000
       python -m benchmarks.loader --decoders [--rounds 7]

Contenders, each in a process of its own, in turns:
  readme        webdataset's README: `.shuffle(1000).decode(wds.torch_audio)`, batches of 16, 0 and 2 workers;
                torchaudio.load needs torchcodec and FFmpeg's libraries; without them it is left out
  soundfile     webdataset with `soundfile.read(..., dtype="float32")`, shuffle, batches of 16 (0, 1 and 2 workers)
  processes, threads   ours, pretraining batches of 87.5 s, 1 and 2 workers; `plain`: ours with 0 workers. int16, as the
                loop gets them; `-float`: turned into float32 by the main process before they count, as the peers' are
What counts is seconds of useful audio that reached the main process as tensors [B, T] (without padding; of ours,
without what is cropped away), in wall time and in processor time of all its processes. Before the clock starts every
contender has delivered batches for a second and filled its shuffle buffer. A measurement during which other programs
used the processor is repeated; `others` in the result says how many cores they used in each that counts.
Audio: real speech of the speech pack (libri_mini) when there, else synthetic, as the result says.
With --batches: memory of all processes of ours while so many batches (20 s each) are delivered, nothing else.
With --decoders: whole FLAC payloads to int16 in one thread, by each decoder in turns, in processor time, nothing else.
Writes benchmarks/results/loader-ENCODING.json, loader-memory.json or loader-decoders.json.
"""

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import machine

RATE = 16_000
PEERS = ("readme-0", "readme-2", "soundfile-0", "soundfile-1", "soundfile-2")
OURS = ("plain-0", "processes-1", "processes-2", "threads-1", "threads-2", "processes-2-float", "threads-2-float")
ENCODINGS = ("flac", "pcm16")
PACKAGES = ("webdataset", "soundfile", "torchcodec", "miniaudio", "isal")
WARM_UP = 1.0
"""Seconds."""
TRIES = 6
"""Of a measurement during which others used the processor, the last one counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("SPEECHSSL_DATA") or machine.ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--encoding", choices=ENCODINGS, default="flac")
    parser.add_argument("--audio", type=float, default=0.4, help="hours in the shards")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=0, help="measure memory over so many batches instead")
    parser.add_argument("--decoders", action="store_true", help="measure FLAC decoders alone instead")
    parser.add_argument("--quiet", type=float, default=0.15, help="repeat while others use so many cores or more")
    parser.add_argument("--only", default="", help="comma-separated contenders; all by default")
    parser.add_argument("--results", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--measure", nargs=3, metavar=("CONTENDER", "ENCODING", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, seconds=arguments.seconds)))
    elif arguments.memory:
        print(json.dumps(memory(*arguments.memory, batches=arguments.batches)))
    else:
        with tempfile.TemporaryDirectory() as place:
            encoding = "pcm16" if arguments.batches else arguments.encoding
            audio = make_shards(Path(place), arguments.data, arguments.audio, encoding)
            folder = str(Path(place) / encoding)
            (over_many if arguments.batches else decoders if arguments.decoders else compare)(arguments, audio, folder)


def compare(arguments: argparse.Namespace, audio: dict, folder: str) -> None:
    chosen = [name for name in arguments.only.split(",") if name] or [*PEERS, *OURS]
    left_out = {}
    if not torchcodec():
        chosen = [name for name in chosen if not name.startswith("readme")]
        left_out = {"left_out": "readme: torchaudio.load needs torchcodec, which cannot be imported here"}
    figures: dict[str, list[dict]] = {}
    for turn in range(arguments.rounds):
        for name in chosen:
            for _ in range(TRIES):
                done = call(["--measure", name, arguments.encoding, folder, "--seconds", str(arguments.seconds)])
                if done["others"] < arguments.quiet:
                    break
                print(f"not quiet: others used {done['others']} cores during {name}", flush=True)
            figures.setdefault(name, []).append(done)
            print(turn, name, arguments.encoding, done, flush=True)
        result = {
            "what": f"hours of 16 kHz audio delivered as batches to the training process, {arguments.encoding} shards",
            "audio": audio,
            "rounds": turn + 1,
            "seconds": arguments.seconds,
            "contenders": {name: summary(runs) for name, runs in figures.items()},
            "ratios": ratios(figures),
        }
        machine.write(arguments.results / f"loader-{arguments.encoding}.json", result | left_out, *PACKAGES)
    for name, row in result["contenders"].items():
        print(f"{name:20} {row['hours_per_second']:8.3f} h/s {row['hours_per_cpu_second']:8.3f} h/cpu s")
    print(json.dumps(result["ratios"], indent=1))


def over_many(arguments: argparse.Namespace, audio: dict, folder: str) -> None:
    chosen = [name for name in arguments.only.split(",") if name] or ["processes-2", "threads-2"]
    found = {name: call(["--memory", name, folder, "--batches", str(arguments.batches)]) for name in chosen}
    result = {"what": "MB of all processes (private, and shared once) while batches are delivered", "audio": audio}
    machine.write(arguments.results / "loader-memory.json", result | {"contenders": found}, *PACKAGES)
    print(json.dumps(found))


def decoders(arguments: argparse.Namespace, audio: dict, folder: str) -> None:
    from speechssl.data.store import flac
    from speechssl.data.store.reader import open_corpus

    corpus = open_corpus(folder)
    payloads = [(corpus.read_bytes(i), int(corpus.samples[i])) for i in range(len(corpus))]
    out, hours = np.empty(max(n for _, n in payloads), np.int16), sum(n for _, n in payloads) / RATE / 3600
    ways = {
        "dr_flac": lambda data, n: flac._decode_miniaudio(data, "", 0, out[:n]),
        "libsndfile": lambda data, n: flac._decode_soundfile(data, "", 0, out[:n]),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, decode in ways.items():
            began = time.process_time()
            for data, n in payloads:
                decode(data, n)
            speeds[name].append(round(hours / (time.process_time() - began), 3))
    found = {name: {"median": statistics.median(runs), "rounds": runs} for name, runs in speeds.items()}
    result = {"what": "hours of FLAC decoded a second of processor time, one thread", "audio": audio}
    machine.write(arguments.results / "loader-decoders.json", result | {"contenders": found}, *PACKAGES)
    print(json.dumps(found))


def call(options: list[str]) -> dict:
    command = [sys.executable, "-m", "benchmarks.loader", *options]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict]) -> dict:
    """Medians over the rounds, and the rounds."""
    wall = [run["hours"] / run["wall"] for run in runs]
    cpu = [run["hours"] / run["cpu"] for run in runs]
    return {
        "hours_per_second": round(statistics.median(wall), 4),
        "hours_per_cpu_second": round(statistics.median(cpu), 4),
        "rounds": [round(value, 4) for value in wall],
        "others": [run["others"] for run in runs],
    }


def ratios(figures: dict[str, list[dict]]) -> dict:
    """Medians over rounds of ratios within a round, of wall time and of processor time."""

    def best(names: tuple[str, ...], kind: str) -> list[float]:
        speeds = [[run["hours"] / run[kind] for run in figures[name]] for name in names if name in figures]
        return max(speeds, key=statistics.median) if speeds else []

    def ratio(ours: tuple[str, ...], theirs: tuple[str, ...], kind: str) -> float | None:
        pairs = list(zip(best(ours, kind), best(theirs, kind), strict=False))
        return round(statistics.median(a / b for a, b in pairs), 2) if pairs else None

    two, scaled = ("processes-2", "threads-2"), ("processes-2-float", "threads-2-float")
    readme = tuple(name for name in PEERS if name.startswith("readme"))
    soundfile = tuple(name for name in PEERS if name.startswith("soundfile"))
    return {
        f"{name}, {kind} time": ratio(ours, theirs, kind)
        for kind in ("wall", "cpu")
        for name, ours, theirs in [
            ("best of ours with 2 against the best webdataset README", two, readme),
            ("best of ours with 2 against the best webdataset + soundfile", two, soundfile),
            ("the same as float32 against the best webdataset README", scaled, readme),
            ("the same as float32 against the best webdataset + soundfile", scaled, soundfile),
            ("2 threads against 1", ("threads-2",), ("threads-1",)),
            ("2 processes against 1", ("processes-2",), ("processes-1",)),
        ]
    }


def torchcodec() -> bool:
    return not subprocess.run([sys.executable, "-c", "import torchcodec"], check=False, capture_output=True).returncode


def make_shards(place: Path, data: Path, hours: float, encoding: str) -> dict:
    """Make shards of speech in ``place``; return what it is."""
    import soundfile

    from speechssl.config import ShardConfig
    from speechssl.data.audio.decode import decode
    from speechssl.data.ingest.manifest import Utterance, write_manifest
    from speechssl.data.store.writer import shard_manifest

    source = data / "libri_mini"
    utterances, total = [], 0.0
    (place / "audio").mkdir()
    for name, wave in speech(source, decode) if source.exists() else synthetic():
        soundfile.write(place / "audio" / f"{name}.flac", wave, RATE, subtype="PCM_16")
        utterances.append(Utterance(name, f"audio/{name}.flac", len(wave) / RATE, RATE, 1, split="train"))
        total += len(wave) / RATE / 3600
        if total > hours:
            break
    write_manifest(place / "manifest.jsonl", utterances)
    cfg = ShardConfig(shard_seconds=min(360.0, 900 * hours), encoding=encoding, workers=1)
    shard_manifest(place / "manifest.jsonl", place / encoding, cfg)
    size = sum(path.stat().st_size for path in (place / encoding).glob("*.tar"))
    kind = "libri_mini of the speech pack (real read speech, decoded from Opus)" if source.exists() else "synthetic"
    return {"kind": kind, "hours": round(total, 3), "utterances": len(utterances), "bytes": size}


def speech(source: Path, decode) -> Iterator[tuple[str, np.ndarray]]:
    lines = (source / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines[::4]):
        row = json.loads(line)
        yield f"utt{i:05d}", decode(source / row["audio"], item=row["id"])


def synthetic() -> Iterator[tuple[str, np.ndarray]]:
    """Noise in a slowly changing envelope: FLAC makes about half of it, as of speech."""
    for i in itertools.count():
        random = np.random.Generator(np.random.PCG64(i))
        n = int(random.uniform(2, 16) * RATE)
        envelope = np.interp(np.arange(n), np.arange(0, n + 3200, 3200), random.exponential(0.05, n // 3200 + 2))
        white = random.standard_normal(n + 8)
        wave = sum(white[k : n + k] for k in range(8)) * envelope / 8
        yield f"utt{i:05d}", wave.clip(-1, 1).astype(np.float32)


def measure(name: str, encoding: str, folder: str, *, seconds: float) -> dict:
    """Return the hours that a contender delivers in about ``seconds``, wall time, processor time of all processes."""
    batches = contender(name, encoding, folder, seconds_per_batch=87.5)
    next(batches)  # with a full shuffle buffer
    began = time.perf_counter()
    while time.perf_counter() - began < WARM_UP:
        next(batches)
    hours, cpu, busy, began = 0.0, cpu_of_tree(), cpu_of_all(), time.perf_counter()
    while (wall := time.perf_counter() - began) < seconds:
        hours += next(batches) / 3600
    cpu, busy = cpu_of_tree() - cpu, cpu_of_all() - busy
    return {"hours": hours, "wall": wall, "cpu": cpu, "others": round((busy - cpu) / wall, 2)}


def contender(name: str, encoding: str, folder: str, *, seconds_per_batch: float) -> Iterator[float]:
    """Yield the seconds of audio in each batch."""
    import torch

    torch.set_num_threads(1)
    kind, workers, *scaled = name.split("-")
    if kind in {"readme", "soundfile"}:
        yield from webdataset_batches(kind, int(workers), "flac" if encoding == "flac" else "wav", folder)
        return
    from speechssl.config import DataConfig
    from speechssl.data.batches.plan import Plan
    from speechssl.data.batches.stream import Stream
    from speechssl.data.store.reader import open_corpus

    chosen = {} if kind == "plain" else {"loader": kind}
    cfg = DataConfig(shards=folder, workers=int(workers), batch_seconds=seconds_per_batch, **chosen)
    corpus = open_corpus(folder)
    plan = Plan.pretrain(corpus, cfg, 0, align=320)
    with Stream(corpus, plan, cfg, batches_per_step=1) as stream:
        for step in itertools.count():
            (batch,) = stream.step(step)
            if scaled:
                batch = batch.to("cpu")
            yield batch.wave.numel() / RATE


def webdataset_batches(kind: str, workers: int, extension: str, folder: str) -> Iterator[float]:
    import soundfile
    import torch
    import webdataset as wds

    def collate(rows: list) -> tuple:
        waves = [torch.as_tensor(wave).reshape(-1) for wave, *_ in rows]
        batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return batch, torch.tensor([len(wave) for wave in waves])

    def decode(sample: dict) -> tuple:
        return soundfile.read(io.BytesIO(sample[extension]), dtype="float32")

    def first(sample: tuple) -> tuple:
        return sample[0]

    urls = sorted(map(str, Path(folder).glob("*.tar")))
    data = wds.WebDataset(urls, shardshuffle=len(urls)).repeat().shuffle(1000, initial=1000)
    if kind == "readme":
        data = data.decode(wds.torch_audio).to_tuple(extension).map(first)
    else:
        data = data.map(decode)
    data = data.batched(16, collation_fn=collate)
    for _, lengths in wds.WebLoader(data, num_workers=workers, batch_size=None):
        yield float(lengths.sum()) / RATE


def memory(name: str, folder: str, *, batches: int) -> dict:
    """Return the memory of this process and its children (MB, private and shared once) over many batches."""
    source, marks = contender(name, "pcm16", folder, seconds_per_batch=20.0), []
    for i in range(batches + 1):
        next(source)
        if i % max(1, batches // 10) == 0:
            marks.append(round(proportional_size() / 1e6, 1))
    return {"batches": batches, "megabytes": marks}


def tree() -> list[int]:
    """Return this process and all that descend from it (a fork server's children included)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it ended just now
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def cpu_of_tree() -> float:
    total = 0
    for process in tree():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return total / os.sysconf("SC_CLK_TCK")


def cpu_of_all() -> float:
    """Return the processor time of everything on this machine, that which a hypervisor took included."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


def proportional_size() -> int:
    total = 0
    for process in tree():
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    main()
