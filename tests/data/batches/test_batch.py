"""The batch: samples stay integers until they are on the device, and become the same floats there."""

from dataclasses import replace

import numpy as np
import torch

from speechssl.data.batches.batch import full_scale
from tests.support.tiny import batch_of


def test_every_16_bit_sample_becomes_the_float32_that_it_stands_for():
    every = np.arange(-32768, 32768).astype(np.int16)
    scaled = full_scale(torch.from_numpy(every))
    assert scaled.dtype == torch.float32
    assert np.array_equal(scaled.numpy(), every.astype(np.float64) / 32768)
    assert np.array_equal(scaled.numpy(), np.multiply(every, np.float32(1 / 32768), dtype=np.float32))


def test_moving_converts_and_leaves_the_original_and_other_types_alone():
    batch = batch_of(0, 0)
    assert batch.to("cpu").wave is batch.wave
    exact = replace(batch, wave=batch.wave.double())
    assert exact.to("cpu").wave.dtype == torch.float64
    stored = replace(batch, wave=torch.tensor([[0, 16384], [-32768, 0]], dtype=torch.int16))
    moved = stored.to("cpu")
    assert moved.wave.tolist() == [[0.0, 0.5], [-1.0, 0.0]]
    assert stored.wave.tolist() == [[0, 16384], [-32768, 0]]
    assert stored.to("meta").wave.dtype == torch.float32
    assert moved.ids == stored.ids


def test_seconds_and_padding_do_not_depend_on_the_type():
    batch = replace(batch_of(0, 0), lengths=torch.tensor([32, 16]), weights=torch.tensor([1.0, 0.0]))
    stored = replace(batch, wave=batch.wave.to(torch.int16))
    assert (stored.seconds, stored.padded) == (batch.seconds, batch.padded) == (32 / 16_000, True)
