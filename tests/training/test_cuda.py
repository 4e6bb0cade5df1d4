"""What only a CUDA device can show: deterministic runs, float32 without TF32, kernels counted once, bf16 steps."""

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speechssl.asr.finetune import finetune
from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import load_config
from speechssl.core.errors import InterruptedRun
from speechssl.models.kernels.choice import exact_float32
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.pretrain import pretrain
from tests.faults.runs import config, digest
from tests.support.objectives import KINDS, build, make_batch, with_targets

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of kernels that have no deterministic form yet, by name
]


def run(kind: str, shards: Path, output: Path, **training) -> Path:
    """Train the tiny preset of one objective for eight updates on the GPU; return its run folder."""
    options = {"steps": 8, "device": "cuda", "log_every": 4, "save_every": 8, **training}
    if kind == "ctc":
        cfg = load_config(FinetuneConfig, "finetune-tiny")
        data, dev = (replace(each, shards=str(shards), workers=0) for each in (cfg.data, cfg.dev))
        ctc = replace(cfg.ctc, freeze_steps=2)
        finetune(
            replace(cfg, data=data, dev=dev, ctc=ctc, output=str(output), training=replace(cfg.training, **options))
        )
        return output
    cfg = load_config(PretrainConfig, {"wav2vec2": "tiny", "hubert": "hubert-tiny"}[kind])
    data = replace(cfg.data, shards=str(shards), min_seconds=0.3, batch_seconds=6.0, workers=0)
    cfg = with_targets(cfg, steps=(8,), clusters=(6,), layers=(0,)) if kind == "hubert" else cfg
    training = replace(cfg.training, **options)
    pretrain(replace(cfg, data=data, output=str(output), training=training))
    return output


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "ctc"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_M5_a_deterministic_run_repeats_itself_bit_for_bit(tone_corpus, tmp_path, kind, precision):
    folders = [
        run(kind, tone_corpus.shards, tmp_path / str(number), deterministic=True, precision=precision)
        for number in range(2)
    ]
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_M6_the_profile_counts_each_kernel_once(tone_corpus, tmp_path):
    folder = run("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=10, profile=3, precision="fp32")
    profile = next(folder.glob("**/profile"))
    parts = json.loads((profile / "profile.json").read_text())["milliseconds"]
    trace = json.loads((profile / "trace.json").read_text())["traceEvents"]
    kernels = sum(event["dur"] for event in trace if event.get("cat") in {"kernel", "gpu_memcpy", "gpu_memset"}) / 1000
    counted = sum(sum(times.values()) for times in parts.values())
    assert 0.5 * kernels < counted < 1.2 * kernels
    assert parts["blocks"]["forward"] > 0
    assert parts["blocks"]["backward"] > 0


def test_M6_the_profile_of_a_cpu_run_on_a_machine_with_a_gpu_is_not_empty(tone_corpus, tmp_path):
    folder = run("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=10, profile=3, device="cpu", precision="fp32")
    parts = json.loads(next(folder.glob("**/profile.json")).read_text())["milliseconds"]
    assert parts["blocks"]["forward"] > 0


def test_L6_float32_convolutions_are_not_rounded_to_tf32():
    torch.manual_seed(0)
    x, kernel = torch.randn(4, 256, 400), torch.randn(256, 256, 3)
    exact = torch.nn.functional.conv1d(x.double(), kernel.double())
    with exact_float32():
        result = torch.nn.functional.conv1d(x.cuda(), kernel.cuda()).cpu().double()
    assert float((result - exact).norm() / exact.norm()) < 1e-6


def loss_and_gradients(kind: str, device: str, *, bf16: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the mean loss of an objective on noise, and its gradients in float32 on the CPU."""
    objective = build(kind).eval().to(device)
    batch = make_batch([16_000, 12_345, 9_000])
    item = objective.prepare(replace(batch, wave=batch.wave.float())).to(device)
    with exact_float32(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        loss = objective(item)
    mean = loss.sum / loss.n_targets
    mean.backward()
    named = objective.named_parameters()
    return mean.item(), {name: value.grad.float().cpu() for name, value in named if value.grad is not None}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_objective_computes_on_the_gpu_what_the_cpu_computes(kind):
    (ours, own), (theirs, other) = (loss_and_gradients(kind, device) for device in ("cuda", "cpu"))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert own.keys() == other.keys()
    whole = torch.cat([value.flatten() for value in other.values()]).norm()
    assert all((own[name] - other[name]).norm() < 1e-3 * whole for name in own)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_objective_stays_close_in_bf16_on_the_gpu(kind):
    loss, found = loss_and_gradients(kind, "cuda", bf16=True)
    assert loss == pytest.approx(loss_and_gradients(kind, "cpu")[0], rel=0.05)
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("kind", [*sorted(KINDS), "ctc"])
def test_every_objective_trains_on_the_gpu_in_bf16_and_resumes_to_the_same_bits(tone_corpus, tmp_path, kind):
    train = finetune if kind == "ctc" else pretrain
    pause_at = 6 if kind == "ctc" else 4  # where fine-tuning looks at dev in any case
    digests = []
    for name, pauses in (("whole", (0,)), ("paused", (pause_at, 0))):
        for pause in pauses:
            options = {"device": "cuda", "precision": "bf16", "deterministic": True, "pause_at": pause}
            with suppress(InterruptedRun):
                train(config(kind, tone_corpus.shards, tmp_path / name, steps=8, **options))
        digests.append(digest(tmp_path / name))
    losses = [line["loss"] for path in (tmp_path / "whole").rglob("metrics.jsonl") for line in read_metrics(path)
              if line.get("phase") == "train"]  # fmt: skip
    assert len(losses) == 8
    assert all(math.isfinite(value) for value in losses)
    assert digests[0] == digests[1]
