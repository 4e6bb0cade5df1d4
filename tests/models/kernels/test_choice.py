"""Fast paths against the plain ones: outputs, gradients, and the loss over two hundred updates."""

from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, MaskConfig, ModelConfig, OptimConfig, Wav2Vec2Config
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import is_plain, plain_paths
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.training.optim import build_optimizer

LAYERS = ((32, 10, 5), (32, 3, 2), (32, 3, 2), (32, 2, 2))
MODEL = ModelConfig(
    frontend=FrontendConfig(conv_layers=LAYERS),
    encoder=EncoderConfig(
        dim=48, layers=2, heads=4, ffn_dim=96, pos_kernel=16, pos_groups=4,
        dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0,
    ),
)  # fmt: skip
SAMPLES = 8000


def speech(rows, seed, lengths=None):
    """Make noise whose loudness and colour change over time, so that there is something to predict."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(SAMPLES) / 16_000
    pitch = 100 + 200 * torch.rand(rows, 1, generator=generator)
    wave = 0.3 * torch.sin(2 * torch.pi * pitch * time * (1 + time)) + 0.05 * torch.randn(
        rows, SAMPLES, generator=generator
    )
    lengths = torch.full((rows,), SAMPLES) if lengths is None else torch.tensor(lengths)
    wave = wave.masked_fill(torch.arange(SAMPLES) >= lengths[:, None], 0.0)
    return Batch(
        wave=wave,
        lengths=lengths,
        starts=torch.zeros(rows, dtype=torch.long),
        weights=torch.ones(rows),
        ids=tuple(f"{seed}-{row}" for row in range(rows)),
        epoch=0,
    )


def objective(model=MODEL, **changes):
    torch.manual_seed(0)
    cfg = Wav2Vec2Config(final_dim=16, entries=20, negatives=10, feature_dropout=0.0, mask=MaskConfig(length=3))
    return Wav2Vec2(SpeechEncoder(model), replace(cfg, **changes), seed=1)


def loss_and_gradients(task, batch, precision=None):
    torch.manual_seed(5)  # Gumbel noise
    task.zero_grad()
    prepared = task.prepare(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = task(prepared).sum / prepared.n_targets
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def worst(a, b):
    assert a.keys() == b.keys()
    return max(((a[name] - b[name]).norm() / b[name].norm().clamp(min=1e-6)).item() for name in a)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("block", ["post", "pre"])
@pytest.mark.parametrize("lengths", [None, [8000, 5000, 6001]])
def test_outputs_and_gradients_are_the_same(norm, block, lengths):
    model = replace(
        MODEL,
        frontend=replace(MODEL.frontend, norm=norm, bias=norm == "layer"),
        encoder=replace(MODEL.encoder, norm=block),
    )
    task, batch = objective(model), speech(3, 1, lengths)
    fast, fast_gradients = loss_and_gradients(task, batch)
    encoded = task.encoder(batch.wave, batch.lengths if lengths else None)
    with plain_paths():
        assert is_plain()
        plain, plain_gradients = loss_and_gradients(task, batch)
        reference = task.encoder(batch.wave, batch.lengths if lengths else None)
    assert not is_plain()
    assert fast == pytest.approx(plain, rel=1e-5)
    assert torch.allclose(encoded.features, reference.features, atol=1e-5)
    frames = [task.encoder.frames(n) for n in batch.lengths.tolist()]
    for row, count in enumerate(frames):
        assert torch.allclose(encoded.x[row, :count], reference.x[row, :count], atol=1e-5)
    assert worst(fast_gradients, plain_gradients) < 1e-4


def test_bfloat16_is_no_further_from_float32_than_the_plain_path():
    task, batch = objective(), speech(4, 2)
    with plain_paths():
        _, exact = loss_and_gradients(task, batch)
        _, plain = loss_and_gradients(task, batch, "bf16")
    _, fast = loss_and_gradients(task, batch, "bf16")
    errors = {
        kind: sorted(((g[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact)
        for kind, g in (("fast", fast), ("plain", plain))
    }
    middle = len(exact) // 2
    assert errors["fast"][middle] < 1.25 * errors["plain"][middle]


def curve(task, steps, precision):
    optimizer = build_optimizer(list(task.parameters()), OptimConfig(lr=1e-3))
    task.train()
    losses = []
    for step in range(steps):
        task.begin_step(step)
        torch.manual_seed(step)
        prepared = task.prepare(speech(1, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = task(prepared)
        (loss.sum / prepared.n_targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.metrics["contrastive"].item())
    return torch.tensor(losses)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_loss_curves_agree_over_200_updates(precision):
    fast = curve(objective(), 200, precision)
    with plain_paths():
        plain = curve(objective(), 200, precision)
    assert plain[-40:].mean() < plain[:20].mean() - 0.02  # it learns
    assert (fast[:10] - plain[:10]).abs().max() < (1e-3 if precision == "float32" else 2e-2)
    assert abs(fast[-40:].mean() - plain[-40:].mean()) < 0.03


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_recomputed_blocks_give_the_same_bits(precision):
    model = replace(MODEL, encoder=replace(MODEL.encoder, dropout=0.2, attention_dropout=0.1, layer_drop=0.3))
    task, batch = objective(model), speech(3, 7)
    kept, gradients = loss_and_gradients(task, batch, precision)
    task.encoder.recompute = True
    again, recomputed = loss_and_gradients(task, batch, precision)
    assert again == kept
    assert all(torch.equal(recomputed[name], gradients[name]) for name in gradients)
