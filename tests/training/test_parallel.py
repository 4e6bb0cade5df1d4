"""One rank is plain local arithmetic; two ranks agree (gloo, two processes)."""

import multiprocessing
import os
import socket
import traceback

import pytest
import torch
from torch import nn

from speechssl.core.errors import ConfigError
from speechssl.training.parallel import Parallel, start_parallel

ALONE = Parallel(1, 0, torch.device("cpu"))


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _rank(function, rank, world, port, queue, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        parallel = start_parallel("cpu", timeout=300)
        queue.put((rank, function(parallel, *arguments)))
        parallel.close()
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise


def on_ranks(function, *arguments, world=2):
    """Run ``function(parallel, *arguments)`` on ``world`` forked ranks; return their results in order."""
    context, port = multiprocessing.get_context("fork"), free_port()
    queue = context.Queue()
    processes = [
        context.Process(target=_rank, args=(function, rank, world, port, queue, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(300)
        assert process.exitcode == 0, results
    return [results[rank] for rank in range(world)]


def test_one_rank_is_local():
    assert ALONE.first
    assert ALONE.sum(3) == 3
    own = torch.ones(2)
    total = ALONE.sum(own)
    assert torch.equal(total, own) and total.data_ptr() != own.data_ptr()  # changing the sum changes no codebook
    assert ALONE.gather({"a": 1}) == [{"a": 1}]
    (rows,) = ALONE.rows(own.clone().requires_grad_())
    assert torch.equal(rows, own) and not rows.requires_grad
    assert ALONE.any(True) is True
    assert ALONE.any(False) is False
    assert ALONE.all_finite(torch.ones(2))
    assert not ALONE.all_finite(torch.tensor([1.0, float("nan")]))
    ALONE.barrier()
    layer = nn.Linear(1, 1)
    assert ALONE.wrap(layer) is layer
    with ALONE.accumulate(layer, last=False):
        pass
    ALONE.close()


def _collectives(parallel):
    mine = {"rank": parallel.rank, "text": "é" * (3 + 50 * parallel.rank), "nan": float("inf")}
    finite = torch.tensor(float("nan") if parallel.rank == 1 else 1.0)
    parallel.barrier()
    return {
        "sum": parallel.sum(2**53 + parallel.rank),
        "float": parallel.sum(0.25 + parallel.rank),
        "tensor": parallel.sum(torch.tensor([1.0, parallel.rank])).tolist(),
        "any": (parallel.any(parallel.rank == 1), parallel.any(False)),
        "finite": (parallel.all_finite(finite), parallel.all_finite(torch.ones(2))),
        "gather": parallel.gather(mine),
        "rows": [each.tolist() for each in parallel.rows(torch.full((2 * parallel.rank, 3), 5.0, requires_grad=True))],
        "no rows": [each.shape for each in parallel.rows(torch.zeros(0, 2, 3))],
        "first": parallel.first,
    }


def test_two_ranks_agree():
    zero, one = on_ranks(_collectives)
    assert zero.pop("first")
    assert not one.pop("first")
    assert zero == one
    assert zero["sum"] == 2**54 + 1  # exact, beyond the integers of a float64
    assert isinstance(zero["sum"], int)
    assert zero["float"] == 1.5
    assert zero["tensor"] == [2.0, 1.0]
    assert zero["any"] == (True, False)
    assert zero["finite"] == (False, True)
    assert [rank["rank"] for rank in zero["gather"]] == [0, 1]
    assert zero["gather"][1]["text"] == "é" * 53
    assert zero["rows"] == [[], [[5.0] * 3] * 2]
    assert zero["no rows"] == [(0, 2, 3)] * 2


def _gradients(parallel):
    torch.manual_seed(parallel.rank)  # different weights: wrapping makes them those of rank 0
    layer = nn.Linear(2, 1, bias=False)
    module = parallel.wrap(layer)
    for micro in range(2):
        with parallel.accumulate(module, last=micro == 1):
            module(torch.full((1, 2), float(1 + parallel.rank + 10 * micro))).sum().backward()
    return layer.weight.tolist(), layer.weight.grad.tolist()


def test_gradients_of_all_micro_batches_are_averaged_once():
    (weight_0, grad_0), (weight_1, grad_1) = on_ranks(_gradients)
    assert weight_0 == weight_1
    assert grad_0 == grad_1 == [[(1 + 11 + 2 + 12) / 2] * 2]


def test_no_gpu_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start_parallel("auto").device == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA device"):
        start_parallel("cuda")


def test_more_ranks_than_gpus_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="no GPU of its own"):
        start_parallel("auto")
