"""Preparers: what they draw, wherever they run; and steps of many micro-batches under few file descriptors."""

import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from speechssl.asr.ctc import CtcModel, CtcObjective
from speechssl.asr.prepared import CtcPreparer
from speechssl.config import CtcConfig, HubertConfig
from speechssl.data.batches.batch import Batch, Prepared
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.store.reader import open_corpus
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.wav2vec2 import Wav2Vec2
from tests.data.batches.test_stream import CFG as SHORT
from tests.data.batches.test_stream import SECONDS, code_points
from tests.objectives.test_wav2vec2 import CFG as WAV2VEC2
from tests.support.chirps import chirp_shards
from tests.support.objectives import MASK, MODEL, table


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("preparer"), SECONDS, shard_seconds=20.0)


def objective_of(kind: str, ids=("u0",)):
    torch.manual_seed(0)
    encoder = SpeechEncoder(MODEL)
    if kind == "wav2vec2":
        return Wav2Vec2(encoder, WAV2VEC2, seed=3)
    if kind == "hubert":
        cfg = HubertConfig(final_dim=8, unmasked_weight=0.5, mask=MASK)
        return Hubert(encoder, cfg, table(ids, frames=200), seed=3)
    return CtcObjective(CtcModel(encoder, 128), CtcConfig(time_mask_prob=0.5, time_mask_length=3), seed=3)


CFG = replace(SHORT, timeout=120.0)
KINDS = ["wav2vec2", "hubert", "ctc"]


def tensors(record) -> dict[str, Tensor]:
    found = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            found[item.name] = value
        elif isinstance(value, Batch):
            found |= {f"batch.{name}": tensor for name, tensor in tensors(value).items()}
    return found


def reachable(value, seen=None):
    """Yield everything that a preparer's fields lead to."""
    yield value
    if is_dataclass(value):
        for item in fields(value):
            yield from reachable(getattr(value, item.name))


@pytest.mark.parametrize("kind", KINDS)
def test_H4_a_preparer_holds_no_weights(kind):
    preparer = objective_of(kind).preparer()
    held = list(reachable(preparer))
    assert len(held) > 5
    assert not any(isinstance(value, nn.Module | Tensor) for value in held)
    assert len(pickle.dumps(preparer)) < 4000


@pytest.mark.parametrize(("workers", "loader"), [(0, "processes"), (2, "processes"), (2, "threads")])
@pytest.mark.parametrize("kind", KINDS)
def test_H4_what_is_prepared_does_not_depend_on_where(shards, kind, workers, loader):
    """In this process, in loader processes and in loader threads: what the objective itself makes of each batch."""
    corpus = open_corpus(shards)
    objective = objective_of(kind, corpus.ids)
    cfg = replace(CFG, max_seconds=30.0 if kind == "ctc" else 1.5)
    plan = Plan.finetune(corpus, cfg, 1) if kind == "ctc" else Plan.pretrain(corpus, cfg, 1, align=320)
    encode = code_points if kind == "ctc" else None
    options = {"batches_per_step": 2, "encode": encode}
    plain: Stream[Batch] = Stream(corpus, plan, replace(cfg, workers=0), **options)
    there = replace(cfg, workers=workers, loader=loader)
    with Stream(corpus, plan, there, **options, prepare=objective.preparer()) as stream:
        for step in range(3):
            for batch, item in zip(plain.step(step), stream.step(step), strict=True):
                expected = objective.prepare(batch)
                assert type(item) is type(expected)
                assert item.n_targets == expected.n_targets > 0
                found = tensors(item)
                assert found.keys() == tensors(expected).keys()
                for name, value in tensors(expected).items():
                    assert found[name].dtype == value.dtype
                    assert torch.equal(found[name], value), name


@dataclass(frozen=True)
class Placed(Prepared):
    """Says where it was prepared."""

    process: int
    thread: str


def place(batch: Batch) -> Placed:
    return Placed(batch, len(batch.ids), os.getpid(), threading.current_thread().name)


@pytest.mark.parametrize("loader", ["processes", "threads"])
def test_H4_the_launching_thread_prepares_nothing(shards, loader):
    corpus = open_corpus(shards)
    plan = Plan.pretrain(corpus, CFG, 1, align=320)
    with Stream(corpus, plan, replace(CFG, workers=2, loader=loader), batches_per_step=4, prepare=place) as stream:
        where = [(item.process, item.thread) for step in range(3) for item in stream.step(step)]
    if loader == "processes":
        assert os.getpid() not in {process for process, _ in where}
    else:
        assert all(thread.startswith("loader-") for _, thread in where)


MANY = """
import resource, sys
from dataclasses import replace
from speechssl.data.store.reader import open_corpus
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from tests.data.batches.test_stream import CFG
from tests.support.tiny import TinyObjective, prepare, run_tiny, training


class First(TinyObjective):
    def forward(self, prepared):
        batch = prepared.batch
        return super().forward(replace(prepared, batch=replace(batch, wave=batch.wave[:, :32])))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
    corpus = open_corpus(sys.argv[1])
    cfg = replace(CFG, workers=2, timeout=120.0, loader="processes")
    plan = Plan.pretrain(corpus, cfg, 1, align=320)
    stream = Stream(corpus, plan, cfg, batches_per_step=150, prepare=prepare)
    with stream:
        _, result = run_tiny(sys.argv[2], First(), stream, training(steps=1))
    print("steps done:", result.step)
"""


def test_H5_150_micro_batches_a_step_need_few_file_descriptors(shards, tmp_path):
    (tmp_path / "many.py").write_text(MANY)
    run = [sys.executable, str(tmp_path / "many.py"), str(shards), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "steps done: 1" in done.stdout


def test_H4_a_loader_process_of_fine_tuning_does_not_load_the_compiler():
    """It is sent a preparer; what that imports is loaded once for each process."""
    code = "import speechssl.data.batches.stream, speechssl.asr.prepared, sys; print('torch._dynamo' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert CtcPreparer.__module__ == "speechssl.asr.prepared"
    assert done.stdout == "False\n"
