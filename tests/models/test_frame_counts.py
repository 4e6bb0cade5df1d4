"""Frame counts: from the configuration alone, those of the stem that is built from it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechssl.config import FrontendConfig
from speechssl.core.errors import ConfigError
from speechssl.models.frame_counts import frame_grid, window_count
from speechssl.models.frontend import build_frontend
from speechssl.models.kernels.choice import plain_paths

LAYERS = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 11), st.integers(1, 6)), min_size=1, max_size=4)
STEMS = st.one_of(
    st.builds(FrontendConfig, conv_layers=LAYERS.map(tuple), norm=st.sampled_from(["group", "layer"])),
    st.builds(FrontendConfig, kind=st.just("logmel"), n_mels=st.sampled_from([13, 40]), stack=st.integers(1, 7)),
    st.builds(FrontendConfig, kind=st.just("logmel"), stack=st.sampled_from([2, 3, 4, 6]), conv2d=st.just(3)),
)


@given(cfg=STEMS, beyond=st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_stem(cfg, beyond):
    grid, stem = frame_grid(cfg), build_frontend(cfg)
    for samples in (grid.receptive, grid.receptive + beyond):
        wave = torch.randn(1, samples)
        assert stem(wave).shape[1] == grid.frames(samples) == (samples - grid.receptive) // grid.hop + 1
        with plain_paths():
            assert stem(wave).shape[1] == grid.frames(samples)
    assert grid.frames(grid.receptive - 1) == 0
    counts = torch.tensor([0, grid.receptive - 1, grid.receptive, grid.receptive + beyond])
    assert grid.frames(counts).tolist() == [grid.frames(count) for count in counts.tolist()]


@given(samples=st.integers(0, 60), kernel=st.integers(1, 12), stride=st.integers(1, 12))
def test_a_window_lies_wholly_within_the_samples(samples, kernel, stride):
    assert window_count(samples, kernel, stride) == len(range(0, samples - kernel + 1, stride))


def test_no_module_is_built_for_a_count(monkeypatch):
    def built(*_args, **_kwargs):
        raise AssertionError("a module was built")

    monkeypatch.setattr(nn.Module, "__init__", built)
    assert frame_grid(FrontendConfig()).frames(16_000) == 49
    assert frame_grid(FrontendConfig(kind="logmel", stack=4)).hop == 640


@pytest.mark.parametrize("layers", [(), ((8, 0, 2),), ((8, 3, 2), (0, 3, 2)), ((8, 3, -1),)])
def test_sizes_that_are_not_positive_are_refused(layers):
    with pytest.raises(ConfigError, match="conv_layers needs"):
        frame_grid(FrontendConfig(conv_layers=layers))
