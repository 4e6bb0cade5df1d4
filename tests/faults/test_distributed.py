"""Two ranks over gloo: the same run as one rank, no hang, nothing lost when a rank dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.config.load import write_toml
from speechssl.core.ledger import read_ledger
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.store.reader import open_corpus
from speechssl.training.monitoring.log import read_metrics
from tests.faults.runs import config, digest, start
from tests.training.test_parallel import free_port

ROOT = Path(__file__).parent.parent.parent


def start_ranks(cfg, world=2, setup=None):
    """Start the ranks of one run as torchrun would; ``setup`` runs in each before it."""
    port = str(free_port())
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{**common, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world)]
    return [start(cfg, environment=each, setup=setup) for each in ranks]


def train_lines(output):
    return [line for line in read_metrics(output / "metrics.jsonl") if line["phase"] == "train"]


@pytest.fixture(scope="module")
def two_ranks(tone_corpus, tmp_path_factory):
    """An uninterrupted run on two ranks."""
    output = tmp_path_factory.mktemp("two") / "run"
    runs = start_ranks(config("wav2vec2", tone_corpus.shards, output))
    assert [run.end() for run in runs] == [0, 0], runs[1].text()
    return output


def test_ranks_share_the_utterances_of_each_step(tone_corpus):
    """One rank that accumulates and two ranks that share see the same utterances in the same steps."""
    corpus = open_corpus(tone_corpus.shards, splits=("train",))
    cfg = config("wav2vec2", tone_corpus.shards, Path("unused")).data
    cfg = replace(cfg, batches_per_step=4)

    def ids(rank, world, step):
        plan = Plan.pretrain(corpus, cfg, 1, align=320)
        stream = Stream(corpus, plan, cfg, batches_per_step=4, rank=rank, world=world)
        return [batch.ids for batch in stream.step(step)]

    for step in (0, 5, 17):
        alone = ids(0, 1, step)
        assert [alone[0], alone[2]] == ids(0, 2, step)
        assert [alone[1], alone[3]] == ids(1, 2, step)
        assert [[batch] for batch in alone] == [ids(rank, 4, step) for rank in range(4)]


def test_two_ranks_train_as_one_that_accumulates(two_ranks, uninterrupted):
    alone, both = train_lines(uninterrupted("wav2vec2")), train_lines(two_ranks)
    assert len(alone) == len(both) == 24
    for name in ("loss", "accuracy", "grad_norm", "n_targets", "audio_seconds", "masked_fraction"):
        expected = [line[name] for line in alone]
        assert [line[name] for line in both] == pytest.approx(expected, rel=2e-3), name


def torchrun(cfg, log):
    """Start two ranks under the real launcher; return it and wait for nothing."""
    settings = Path(cfg.output).with_suffix(".toml")
    write_toml(cfg, settings)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, "-m", "speechssl", "pretrain", str(settings)], stdout=file, stderr=file, cwd=ROOT
        )


def children(pid):
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_step(output, step, launcher, log):
    end = time.monotonic() + 300
    while len(train_lines(output)) < step:
        assert launcher.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.005)


def test_a_rank_that_dies_and_a_launcher_that_is_stopped_cost_nothing(tone_corpus, two_ranks, tmp_path):
    """Under torchrun: kill -9 of rank 1, then SIGTERM to the launcher, then to the end: the same bits."""
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run")
    log = tmp_path / "log"
    launcher = torchrun(cfg, log)
    wait_for_step(tmp_path / "run", 6, launcher, log)
    os.kill(children(launcher.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    assert launcher.wait(300) != 0
    assert time.monotonic() - began < 250  # not the half hour of a collective
    assert not (tmp_path / "run" / "model").exists()

    launcher = torchrun(cfg, log)
    wait_for_step(tmp_path / "run", 11, launcher, log)
    launcher.terminate()
    assert launcher.wait(300) != 0
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    step = int(newest.name.removeprefix("step-"))
    assert log.read_text().count(f"stopped and saved after step {step};") == 2  # both ranks left after the same step
    assert train_lines(tmp_path / "run")[-1]["step"] == step

    runs = start_ranks(cfg)
    assert [run.end() for run in runs] == [0, 0], runs[1].text()
    assert digest(tmp_path / "run") == digest(two_ranks)
    assert [line["step"] for line in train_lines(tmp_path / "run")] == list(range(1, 25))


def test_uneven_data_cannot_hang(tone_corpus, tmp_path):
    """Seven utterances, two ranks, many epochs: every rank has a batch in every step."""
    names = open_corpus(tone_corpus.shards, splits=("train",)).ids[:7]
    (tmp_path / "ids").write_text("\n".join(names))
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=12)
    cfg = replace(cfg, data=replace(cfg.data, ids=(str(tmp_path / "ids"),), min_seconds=0.1))
    runs = start_ranks(cfg)
    assert [run.end() for run in runs] == [0, 0], runs[1].text()
    assert len(train_lines(tmp_path / "run")) == 12


def test_unreadable_rows_of_one_rank_stop_nobody(tone_corpus, tmp_path):
    """Every payload of one shard is damaged: ranks with silent rows stay in step, and every row is in the ledger."""
    shards = tmp_path / "shards"
    shutil.copytree(tone_corpus.shards, shards)
    corpus = open_corpus(shards, splits=("train",))
    damaged = [i for i in range(len(corpus.ids)) if corpus.shard_of[i] == 0]
    assert 0 < len(damaged) < len(corpus.ids)
    tar = min(shards.glob("*.tar"))
    data = bytearray(tar.read_bytes())
    for i in damaged:
        row = corpus.row(i)
        data[row.offset + row.size // 2] ^= 0xFF
    tar.write_bytes(bytes(data))
    cfg = config("wav2vec2", shards, tmp_path / "run", steps=12)
    cfg = replace(cfg, data=replace(cfg.data, max_bad_fraction=1.0, batch_seconds=1.0))
    runs = start_ranks(cfg)
    assert [run.end() for run in runs] == [0, 0], runs[1].text()
    alone = start(replace(cfg, output=str(tmp_path / "alone")))
    assert alone.end() == 0, alone.text()
    both, one = train_lines(tmp_path / "run"), train_lines(tmp_path / "alone")
    assert [line["n_targets"] for line in both] == [line["n_targets"] for line in one]
    assert [line.get("loss", -1) for line in both] == pytest.approx([line.get("loss", -1) for line in one], rel=2e-3)
    planned = {"no_targets", "too_short"}
    unreadable = {x.item for x in read_ledger(tmp_path / "run" / "ledger.jsonl") if x.reason not in planned}
    assert unreadable
    assert unreadable <= {corpus.ids[i] for i in damaged}


AGAIN = """
import os, time
from speechssl.training.parallel import start_parallel

for number in range(3):
    time.sleep(0.5 * (number % 2 == int(os.environ["RANK"])))  # each rank is early once: it must not take old addresses
    parallel = start_parallel("cpu", timeout=200)
    assert parallel.gather([parallel.rank, number]) == [[0, number], [1, number]]
    parallel.close()
"""


def test_ranks_can_meet_again(tmp_path):
    """Under torchrun one process may fine-tune and then evaluate: each joins the ranks, and leaves them again."""
    (tmp_path / "again.py").write_text(AGAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command.append(str(tmp_path / "again.py"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LEAVE = """
import os, sys, time
from pathlib import Path

import torch
import torch.distributed as dist

from speechssl.training import parallel as module
from speechssl.training.parallel import start_parallel


class Slow:
    def __del__(self):  # in the thread of gloo that lets go of the tensor
        for _ in range(200):
            time.sleep(0.01)


class Last:
    def __del__(self):  # while the interpreter ends
        time.sleep(4)


def threads():
    return [(path / "comm").read_text().strip() for path in Path("/proc/self/task").iterdir()]


def work():
    import torch._dynamo  # as the optimiser of a run does

    model = parallel.wrap(torch.nn.Linear(2, 1))
    model(torch.ones(1, 2)).sum().backward()
    tensor = torch.zeros(1)
    tensor.slow = Slow()
    if not parallel.first:
        module._stores[0].wait(["given away"])
    dist.all_reduce(tensor, async_op=True)
    del tensor
    module._stores[0].set("given away", "")
    assert "pt_gloo_runloop" in threads()
    if sys.argv[1] == "error":
        raise ValueError("on its way")


parallel, last = start_parallel("cpu", timeout=300), Last()
try:
    work()
finally:
    parallel.close()
    print(threads().count("pt_gloo_runloop"), "threads are left", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 1)])
def test_a_thread_that_is_late_cannot_abort_the_end(tmp_path, how, code):
    """A thread of gloo lets go of its tensor late, the interpreter ends late: exit codes are those of the program."""
    (tmp_path / "leave.py").write_text(LEAVE)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "leave.py"), how],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=500)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [code, code], said
    assert all("0 threads are left" in text for text in said), said
    assert all(("ValueError: on its way" in text) == bool(code) for text in said), said
