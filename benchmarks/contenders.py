"""Models and peers of the training benchmarks, on the same noise: each a module and a function that gives its loss.

A peer is the class its library ships, with the library's masks and negatives and the dropouts of the paper (0.1, 0.1
on attention weights, layer drop 0.05). Ours is the objective that ``pretrain`` trains.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from speechssl.config import PretrainConfig
from speechssl.config.load import load_config
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.build import build_objective

__all__ = ["SMALL", "UNITS", "RandomUnits", "batch_of", "hugging_face", "ours", "torchaudio_hubert"]

SMALL = {"dim": 256, "ffn_dim": 1024, "heads": 4}
"""The small model: BASE's stem and depth, a third of its width."""
UNITS = 100
"""K-means units; the default of torchaudio's hubert_pretrain_base."""


class RandomUnits:
    """A table of units for any utterance."""

    hop, n_units = 320, UNITS

    def get(self, item: str, start: int = 0, frames: int | None = None) -> Any:
        return np.random.default_rng(0).integers(0, UNITS, frames)

    def entropy(self) -> float:
        return float(np.log(UNITS))

    def largest_share(self) -> float:
        return 1 / UNITS


def batch_of(rows: int, samples: int) -> Batch:
    """Return rows of equal length, the same noise every time."""
    return Batch(
        wave=0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(1)),
        lengths=torch.full((rows,), samples),
        starts=torch.zeros(rows, dtype=torch.long),
        weights=torch.ones(rows),
        ids=tuple(str(i) for i in range(rows)),
        epoch=0,
    )


def ours(
    rows: int, samples: int, *, small: bool, attention_dropout: float, hubert: bool, layers: int = 12
) -> tuple[Any, Batch, Callable[[], Any]]:
    """Return (objective, batch, loss of the batch)."""
    cfg = load_config(PretrainConfig, "hubert-base" if hubert else "wav2vec2-base")
    encoder = replace(cfg.model.encoder, attention_dropout=attention_dropout, layers=layers, **(SMALL if small else {}))
    model = SpeechEncoder(replace(cfg.model, encoder=encoder))
    task: Any = build_objective(cfg.objective, model, RandomUnits() if hubert else None, 1)
    task.train()
    batch = batch_of(rows, samples)

    def loss() -> Any:
        prepared = task.prepare(batch)
        return task(prepared).sum / prepared.n_targets

    return task, batch, loss


def hugging_face(rows: int, samples: int, *, small: bool) -> tuple[nn.Module, Callable[[], Any]]:
    """Return transformers' wav2vec 2.0 and its loss; it draws masks and negatives as its example script does."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4} if small else {}
    cfg = Wav2Vec2Config(
        mask_time_prob=0.65, mask_time_length=10, hidden_dropout=0.1, attention_dropout=0.1, feat_proj_dropout=0.1,
        activation_dropout=0.0, layerdrop=0.05, **sizes,
    )  # fmt: skip
    model = Wav2Vec2ForPreTraining(cfg).train()
    wave = batch_of(rows, samples).wave
    frames = int(model._get_feat_extract_output_lengths(samples))

    def loss() -> Any:
        mask = _compute_mask_indices((rows, frames), 0.65, 10)
        negatives = _sample_negative_indices((rows, frames), 100, mask)
        return model(
            wave, mask_time_indices=torch.from_numpy(mask), sampled_negative_indices=torch.from_numpy(negatives)
        ).loss

    return model, loss


def torchaudio_hubert(rows: int, samples: int) -> tuple[nn.Module, Callable[[], Any]]:
    """Return torchaudio's HuBERT BASE and its loss over masked frames."""
    import torchaudio

    model = torchaudio.models.hubert_pretrain_base(num_classes=UNITS).train()
    wave = batch_of(rows, samples).wave
    lengths = torch.full((rows,), samples)
    labels = torch.randint(0, UNITS, (rows, (samples - 400) // 320 + 1))

    def loss() -> Any:
        masked, _, penalty = model(wave, labels, lengths)
        target = torch.zeros(len(masked), dtype=torch.long)  # the true unit's logit comes first
        return nn.functional.cross_entropy(masked, target) + 10 * penalty

    return model, loss
