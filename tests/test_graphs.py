"""M8: ``torch.compile`` sees each objective as one graph, with dropout on, whatever the stem."""

import warnings

import pytest
import torch

from speechssl import probe
from speechssl.config import FinetuneConfig, FrontendConfig, ModelConfig, PretrainConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.settings import load_config


def graphs(module, *arguments):
    """Return how many graphs dynamo makes of a call; code generation is left out."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about gradients of what lies between two graphs
        found = torch._dynamo.explain(module)(*arguments)
    torch._dynamo.reset()
    return found.graph_count


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("stem", ["waveform", "logmel"])
def test_M8_an_objective_is_one_graph(kind, stem):
    cfg = load_config(
        PretrainConfig,
        "tiny",
        ["--objective", kind, "--model.encoder.layers", "1", "--model.frontend.kind", stem]
        + ["--model.encoder.dropout", "0.1", "--model.encoder.attention-dropout", "0.1"]
        + (["--wav2vec2.feature-dropout", "0.1"] if kind == "wav2vec2" else []),
    )
    objective = probe._objective(cfg, memory=False).train()
    assert graphs(objective, objective.prepare(probe._batch(2, 8_000, 0, labelled=False)).to("cpu")) == 1


def test_M8_fine_tuning_is_one_graph_up_to_its_loss():
    """The CTC kernel's shapes depend on lengths, so it runs beside the graph of encoder and head."""
    objective = probe._objective(load_config(FinetuneConfig, "finetune-tiny"), memory=False).train()
    assert graphs(objective, objective.prepare(probe._batch(2, 8_000, 0, labelled=True)).to("cpu")) == 2


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_M8_stem_and_block_compile_as_full_graphs(norm):
    frontend = FrontendConfig(conv_layers=((8, 10, 5), (8, 3, 2)), norm=norm)
    blocks = load_config(PretrainConfig, "tiny").model.encoder
    encoder = SpeechEncoder(ModelConfig(frontend=frontend, encoder=blocks)).train()
    torch._dynamo.reset()
    wave = torch.randn(2, 800)
    stem = torch.compile(encoder.frontend, fullgraph=True, backend="eager")
    torch.testing.assert_close(stem(wave), encoder.frontend(wave))
    block = torch.compile(encoder.blocks[0], fullgraph=True, backend="eager")
    assert block(torch.randn(2, 5, encoder.dim), None, None).shape == (2, 5, encoder.dim)
    torch._dynamo.reset()
