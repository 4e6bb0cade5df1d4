"""Plan at scale: the first batch of a hundred million utterances in a hundred thousand shards, and a batch far later.

usage: python -m benchmarks.plan [--shards 100000] [--utterances 1000]

The folder is simulated: ``summary.json`` and ``lengths.bin`` are real files of the full size, an index is generated the
moment it is asked for (from a key, so always the same), and there is no audio. Each start is a process of its own: it
opens the corpus, plans pretraining, asks for one batch with the index rows of its utterances, and says when it had
them, how much processor time that took and how much memory. Writes benchmarks/results/plan.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.machine import RESULTS, ROOT, write

STARTED = time.perf_counter(), time.process_time()
RATE = 16_000


def shard_lengths(number: int, utterances: int) -> np.ndarray:
    """Lengths of a shard in samples: gamma-distributed around 10 s, as in read speech, 0.5 to 30 s."""
    draws = np.random.Generator(np.random.PCG64(number)).standard_gamma(6.0, utterances, dtype=np.float32)
    return (draws * np.float32(1.6 * RATE)).clip(RATE // 2, 30 * RATE).astype(np.uint32)


def index_bytes(number: int, utterances: int) -> bytes:
    from speechssl.data.store.index import IndexRow, ShardIndex

    rows, offset = [], 512
    for i, samples in enumerate(shard_lengths(number, utterances).tolist()):
        rows.append(IndexRow(f"simulated-{number:06d}-{i:04d}", number, offset, samples, samples, i, "train"))
        offset += samples + 1024
    return ShardIndex(rows, [], offset, number, "simulated").to_bytes()


class SimulatedFolder:
    """A source of shards (``data.store.sources.Source``) whose indexes are made as they are asked for."""

    def __init__(self, folder: Path, utterances: int) -> None:
        self.folder, self.utterances = folder, utterances
        self.made = 0

    @property
    def name(self) -> str:
        return str(self.folder)

    def listing(self) -> bytes:
        return (self.folder / "summary.json").read_bytes()

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        path = self.folder / name
        if path.suffix == ".idx" and not path.exists():
            self.made += 1
            partial = path.with_name(f"{name}.{os.getpid()}.tmp")
            partial.write_bytes(index_bytes(int(path.stem.rsplit("-", 1)[1]), self.utterances))
            partial.replace(path)
        return path

    def require(self, name: str, *, size: int, crc32: int) -> None:
        """There is always one."""


def simulate(folder: Path, shards: int, utterances: int) -> None:
    """Write ``lengths.bin`` and ``summary.json`` of a folder of shards."""
    from speechssl.data.store.index import Listing, ShardRecord

    checksum = 0
    with (folder / "lengths.bin").open("wb") as file:
        for number in range(shards):
            data = shard_lengths(number, utterances).astype("<u4").tobytes()
            checksum = zlib.crc32(data, checksum)
            file.write(data)
        for _ in range(shards):
            checksum = zlib.crc32(bytes(utterances), checksum)
            file.write(bytes(utterances))
    records = tuple(
        ShardRecord(f"shard-{number:06d}", utterances, 100_000_000 + number, number, 70_000, number * 37 % (1 << 32))
        for number in range(shards)
    )
    listing = Listing(records, shards * utterances, shards * utterances / 360, {}, 1, 1)
    listing = replace(listing, splits=("train",), lengths_crc32=checksum)
    (folder / "summary.json").write_bytes(listing.to_bytes())


def start(folder: str, utterances: int, place: float, *, torch: bool) -> dict:
    """Open, plan and give one batch; ``place`` is where, in epochs."""
    if torch:
        import speechssl.data.batches.stream  # noqa: F401
    from speechssl.config import DataConfig
    from speechssl.data.batches.plan import Plan
    from speechssl.data.store.index import Listing
    from speechssl.data.store.reader import open_lazily

    imported, base = clock(), memory()
    source = SimulatedFolder(Path(folder), utterances)
    listing = Listing.from_bytes(source.listing(), where="summary.json")
    corpus = open_lazily(source, listing, ("train",))
    opened = clock()
    plan = Plan.pretrain(corpus, DataConfig(), 0, align=320)
    planned = clock()
    k = int(place * plan.batches_per_epoch)
    batch = plan.micro(k)
    rows = [corpus.row(row) for row in batch.rows]
    assert all(row.samples >= start + batch.samples for row, start in zip(rows, batch.starts, strict=True))
    done = clock()
    following = []
    for i in range(1, 1001):
        began = time.process_time()
        plan.micro(k + i)
        following.append(time.process_time() - began)
    return {
        "batch": k,
        "batches_per_epoch": plan.batches_per_epoch,
        "seconds": {"wall": done[0], "cpu": done[1]},
        "cpu_seconds_of_parts": {
            "imports": imported[1],
            "open": round(opened[1] - imported[1], 3),
            "plan": round(planned[1] - opened[1], 3),
            "batch": round(done[1] - planned[1], 3),
        },
        "next_1000_batches_cpu_ms": {
            "median": round(float(np.median(following)) * 1e3, 3),
            "worst": round(max(following) * 1e3, 1),
        },
        "indexes_read": source.made,
        "megabytes": {"after_imports": base, "now": memory(), "peak": peak(), "private": private()},
    }


def clock() -> tuple[float, float]:
    return round(time.perf_counter() - STARTED[0], 3), round(time.process_time() - STARTED[1], 3)


def memory() -> float:
    """Resident memory of this process in MB."""
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6, 1)


def peak() -> float:
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 1)


def private() -> float:
    """Memory in MB that this process has written itself, so that no other can share it: what each further rank adds."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Private_Dirty")), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--utterances", type=int, default=1_000, help="of each shard")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--start", nargs=3, metavar=("FOLDER", "EPOCHS", "TORCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        folder, place, torch = arguments.start
        print(json.dumps(start(folder, arguments.utterances, float(place), torch=torch == "1")))
        return
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), arguments.shards, arguments.utterances)
        load = [os.getloadavg()[0]]
        for turn in range(arguments.rounds):
            for name, place, torch in [
                ("first batch", "0", "0"),
                ("a batch in epoch 3", "3.62", "0"),
                ("first batch, torch imported", "0", "1"),
            ]:
                command = [sys.executable, "-m", "benchmarks.plan", "--start", folder, place, torch]
                command += ["--utterances", str(arguments.utterances)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
                runs.setdefault(name, []).append(json.loads(done.stdout))
                print(turn, name, runs[name][-1], flush=True)
            load.append(os.getloadavg()[0])
        sizes = {name: (Path(folder) / name).stat().st_size for name in ("summary.json", "lengths.bin")}
    result = {"what": f"{arguments.shards:,} shards of {arguments.utterances:,} utterances, simulated", "bytes": sizes}
    result |= {"load": [round(value, 1) for value in load], "starts": runs}
    write(arguments.results.resolve() / "plan.json", result, "numpy")


if __name__ == "__main__":
    main()
