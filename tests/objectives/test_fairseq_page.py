"""docs/fairseq.md: what it says of our side is what the code does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.config import EncoderConfig, MaskConfig, ModelConfig
from speechssl.core.randomness import generator
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.masking import mask_batch
from speechssl.models.norm import normalise_waveform
from tests.data.batches.test_preparer import objective_of

PAGE = (Path(__file__).parents[2] / "docs" / "fairseq.md").read_text(encoding="utf-8")


def test_L2_the_initial_weights_of_the_projection_are_the_ones_on_the_page():
    torch.manual_seed(0)
    projection = SpeechEncoder(ModelConfig(encoder=EncoderConfig(layers=1))).projection
    assert float(projection.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not projection.bias.any()
    assert float(torch.nn.Linear(512, 768).weight.detach().std()) == pytest.approx(0.026, rel=0.03)
    assert "normal, deviation 0.02, bias 0" in PAGE
    assert "0.026" in PAGE


def test_L4_the_last_frame_can_be_masked_and_rows_keep_their_own_number():
    cfg = MaskConfig(prob=0.3, length=10)
    masks = mask_batch([60] * 400, 60, cfg, (generator("page", i) for i in range(400)))
    assert masks[:, 59].any()
    assert len(set(masks.sum(axis=1).tolist())) > 1
    short = mask_batch([10], 10, cfg, [generator("page", 0)])
    assert not short.any()


def test_L4_normalisation_is_that_of_the_crop():
    wave = torch.from_numpy(np.linspace(0.0, 9.0, 4000, dtype=np.float32))[None, 1000:2000]
    crop = normalise_waveform(wave, None)
    assert float(crop.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(crop.std(correction=0)) == pytest.approx(1.0, rel=1e-3)


def test_L4_there_is_a_class_for_each_cluster_and_no_other():
    objective = objective_of("hubert")
    assert len(objective.embeddings) == objective.units.n_units
