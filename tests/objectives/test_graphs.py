"""M8: ``torch.compile`` sees each objective as one graph, with dropout on, whatever the stem.

Each case runs in a forked process: tracing starts threads of autograd, and the ranks of other tests, which are forked,
could compute no gradients after them.
"""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
import torch

from speechssl.config import FinetuneConfig, FrontendConfig, ModelConfig, PretrainConfig
from speechssl.config.load import load_config
from speechssl.models.encoder import SpeechEncoder
from speechssl.workflows import cost_probe
from tests.support.objectives import KINDS, MODEL, STEMS, build, make_batch


def elsewhere(function, *arguments):
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result(timeout=600)


def graphs(objective, batch):
    """Return how many graphs dynamo makes of a forward pass; code generation is left out."""
    item = objective.prepare(batch).to("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about gradients of what lies between two graphs
        return torch._dynamo.explain(objective)(item).graph_count


def pretraining_graphs(kind, stem):
    objective = build(kind, model=replace(MODEL, frontend=STEMS[stem]), feature_dropout=0.1).train()
    batch = make_batch([8_000, 8_000])
    return graphs(objective, replace(batch, wave=batch.wave.float()))


def finetuning_graphs():
    objective = cost_probe._objective(load_config(FinetuneConfig, "finetune-tiny"), memory=False).train()
    return graphs(objective, cost_probe._batch(2, 8_000, 0, labelled=True))


@pytest.mark.parametrize(
    ("stem", "kind"),
    [*(("group", kind) for kind in sorted(KINDS)), *(("logmel", kind) for kind in ("wav2vec2", "best_rq", "data2vec"))],
)
def test_M8_an_objective_is_one_graph(kind, stem):
    assert elsewhere(pretraining_graphs, kind, stem) == 1


def test_M8_fine_tuning_is_one_graph_up_to_its_loss():
    """The CTC kernel's shapes depend on lengths, so it runs beside the graph of encoder and head."""
    assert elsewhere(finetuning_graphs) == 2


def compiled_parts(norm):
    """Return the largest difference of a stem that is one full graph, and the shape that such a block gives."""
    frontend = FrontendConfig(conv_layers=((8, 10, 5), (8, 3, 2)), norm=norm)
    blocks = load_config(PretrainConfig, "tiny").model.encoder
    encoder = SpeechEncoder(ModelConfig(frontend=frontend, encoder=blocks)).train()
    wave = torch.randn(2, 800)
    stem = torch.compile(encoder.frontend, fullgraph=True, backend="eager")
    difference = float((stem(wave) - encoder.frontend(wave)).detach().abs().max())
    block = torch.compile(encoder.blocks[0], fullgraph=True, backend="eager")
    return difference, tuple(block(torch.randn(2, 5, encoder.dim), None, None).shape), encoder.dim


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_M8_stem_and_block_compile_as_full_graphs(norm):
    difference, shape, dim = elsewhere(compiled_parts, norm)
    assert difference < 1e-5
    assert shape == (2, 5, dim)
