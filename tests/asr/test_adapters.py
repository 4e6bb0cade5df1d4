"""Low-rank adapters: nothing changes at first, merging changes nothing, and few tensors are trained."""

import copy

import pytest
import torch

from speechssl.asr.adapters import AdaptedLinear, add_adapters, merge_adapters, trained_parameters
from speechssl.asr.ctc import CtcModel, CtcObjective
from speechssl.asr.recognise import frame_log_probs, listener
from speechssl.config import AdaptConfig, CtcConfig, EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder

STEM = FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 4, 4), (16, 2, 2)), norm="layer")
RANK = AdaptConfig(rank=2, alpha=6.0)


def encoder(**changes) -> SpeechEncoder:
    torch.manual_seed(1)
    sizes = {"dim": 32, "layers": 3, "heads": 2, "ffn_dim": 48, "pos_kernel": 8, "pos_groups": 2}
    return SpeechEncoder(ModelConfig(frontend=STEM, encoder=EncoderConfig(**sizes | changes))).eval()


def stirred(adapted: SpeechEncoder) -> SpeechEncoder:
    with torch.no_grad():
        for module in adapted.modules():
            if isinstance(module, AdaptedLinear):
                module.up.normal_(std=0.3)
    return adapted


KINDS = pytest.mark.parametrize(
    "changes", [{}, {"norm": "pre"}, {"block": "conformer"}, {"relative_position": "gated"}, {"causal": True}], ids=str
)


@KINDS
def test_new_adapters_change_nothing_and_merged_ones_are_the_unmerged(changes):
    plain = encoder(**changes).double()
    adapted = copy.deepcopy(plain)
    add_adapters(adapted, RANK)
    wave, lengths = torch.randn(2, 9000, dtype=torch.float64), torch.tensor([9000, 7000])
    with torch.no_grad():
        before = plain(wave, lengths)
        frames = before.frame_lengths[1]
        torch.testing.assert_close(adapted(wave, lengths).x, before.x, atol=0, rtol=0)
        tuned = stirred(adapted)(wave, lengths).x
        assert (tuned - before.x)[1, :frames].abs().max() > 0.01
        merge_adapters(adapted)
        assert adapted.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(adapted(wave, lengths).x[1, :frames], tuned[1, :frames], atol=1e-6, rtol=0)


def test_an_adapter_is_the_formula_of_the_paper():
    """A loop over the outputs, in float64: W x + alpha / rank B A x, with factors of each part's own."""
    torch.manual_seed(2)
    base = torch.nn.Linear(5, 6).double()
    layer = AdaptedLinear(base, rank=2, alpha=3.0, parts=3).double()
    torch.nn.init.normal_(layer.up)
    x = torch.randn(4, 5, dtype=torch.float64)
    want = torch.zeros(4, 6, dtype=torch.float64)
    for row in range(4):
        for out in range(6):
            part, place = divmod(out, 2)
            value = base.bias[out] + sum(base.weight[out, i] * x[row, i] for i in range(5))
            for r in range(2):
                inner = sum(layer.down[part, r, i] * x[row, i] for i in range(5))
                value = value + 1.5 * layer.up[part, place, r] * inner
            want[row, out] = value
    torch.testing.assert_close(layer(x), want, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.nn.functional.linear(x, layer.weight, layer.bias), want, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.merged()(x), want, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("adapt", "trained"), [
    (AdaptConfig(), {"all"}),
    (RANK, {"up", "down"}),
    (AdaptConfig(layers=0), set()),
    (AdaptConfig(layers=1), {"blocks.2", "norm"}),
    (AdaptConfig(rank=2, layers=2), {"up", "down", "blocks.1", "blocks.2", "norm"}),
], ids=["all", "adapters", "head", "last block", "both"])  # fmt: skip
def test_only_what_is_asked_for_has_a_gradient(adapt, trained):
    model = CtcModel(encoder(norm="pre"), 5)
    add_adapters(model.encoder, adapt)
    objective = CtcObjective(model, CtcConfig(freeze_steps=1, freeze_frontend=False), seed=1, adapt=adapt)
    for step in (0, 1):
        objective.begin_step(step)
        model.zero_grad()
        model.train()(torch.randn(2, 8000))[0][..., 1].sum().backward()
        for name, parameter in model.named_parameters():
            ours = name.startswith("head.")
            if step == 1 and name.startswith("encoder."):
                short = name.removeprefix("encoder.")
                tops = {short.split(".")[-1], short.partition(".")[0], ".".join(short.split(".")[:2])}
                ours = trained == {"all"} or bool(tops & trained)
            assert parameter.requires_grad == ours, name
            assert (parameter.grad is not None) == ours, name


def test_adapters_need_little_memory():
    """AdamW keeps two numbers for each trained weight; what the backward pass keeps of frozen blocks is less, too."""
    needs = {}
    for adapt in (AdaptConfig(), RANK, AdaptConfig(layers=1)):
        model = CtcModel(encoder(layers=4), 5)
        add_adapters(model.encoder, adapt)
        objective = CtcObjective(model, CtcConfig(freeze_steps=0), seed=1, adapt=adapt).train()
        optimizer = torch.optim.AdamW([p for group in objective.param_groups() for p in group["params"]])
        kept = {}

        def keep(value, kept=kept):
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = model(torch.randn(2, 16_000))[0][..., 1].sum()
        loss.backward()
        optimizer.step()
        states = sum(v.nbytes for state in optimizer.state.values() for v in state.values())
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        needs[adapt] = states + gradients, sum(kept.values())
    full, low, last = needs.values()
    assert low[0] < 0.15 * full[0] and last[0] < 0.35 * full[0]
    assert last[1] < 0.5 * full[1]


def test_every_way_to_recognise_hears_the_adapters():
    model = CtcModel(encoder(), 5).eval()
    add_adapters(model.encoder, RANK)
    wave = 0.1 * torch.randn(12_000)
    before = listener(model)([wave])[0]
    stirred(model.encoder)
    padded = frame_log_probs(model, wave[None], torch.tensor([12_000]))[0]
    torch.testing.assert_close(listener(model)([wave])[0], padded, atol=1e-4, rtol=0)
    assert (padded - before).abs().max() > 0.01


def test_what_does_not_fit_is_refused():
    for wrong in ({"rank": -1}, {"alpha": 0.0}, {"layers": -2}):
        with pytest.raises(ConfigError, match="adapt: "):
            AdaptConfig(**wrong)
    with pytest.raises(ConfigError, match=r"adapt.layers = 4: the encoder has 3"):
        add_adapters(encoder(), AdaptConfig(layers=4))
    with pytest.raises(ConfigError, match=r"adapt.rank = 33"):
        add_adapters(encoder(), AdaptConfig(rank=33))
    assert trained_parameters(encoder(), AdaptConfig(layers=0)) == []
