"""The encoder: padding invariance, masks, layer outputs, gradients, precision, initialisation, presets."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig, PretrainConfig
from speechssl.config.load import read_toml
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import ConfigError
from speechssl.core.presets import find_config
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.norm import normalise_waveform, weight_norm
from speechssl.models.transformer import Attention, product_attention

SMALL = ((8, 10, 5), (12, 3, 2), (12, 2, 2))
STEMS = {
    "group": FrontendConfig(conv_layers=SMALL, norm="group"),
    "layer": FrontendConfig(conv_layers=SMALL, norm="layer", bias=True),
    "logmel": FrontendConfig(kind="logmel", n_mels=10, stack=2),
}
TINY = EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2)


def config(stem: str = "layer", norm: str = "post", **changes) -> ModelConfig:
    return ModelConfig(frontend=STEMS[stem], encoder=replace(TINY, norm=norm), **changes)


def build(cfg: ModelConfig) -> SpeechEncoder:
    """Return an encoder whose norms and biases are not trivial, so that leaving one out shows."""
    torch.manual_seed(0)
    encoder = SpeechEncoder(cfg)
    for name, parameter in encoder.named_parameters():
        if "norm" in name or name.endswith("bias") or "magnitude" in name:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval()


# ------------------------------------------------------------------------------------------------ padding


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("normalize", [False, True])
@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=3), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_an_utterance_is_the_same_alone_and_padded(stem, norm, normalize, lengths, seed):
    encoder = build(config(stem, norm, normalize=normalize))
    generator = torch.Generator().manual_seed(seed)
    wave = torch.zeros(len(lengths), 3200)
    for row, length in enumerate(lengths):
        wave[row, :length] = 0.05 * torch.randn(length, generator=generator) + 0.01
    mask = torch.rand(len(lengths), encoder.frames(3200), generator=generator) < 0.3
    with torch.no_grad():
        together = encoder(wave, torch.tensor(lengths), mask=mask, layers=True)
        assert together.x.isfinite().all()
        for row, length in enumerate(lengths):
            count = encoder.frames(length)
            assert int(together.frame_lengths[row]) == count
            if count == 0:
                continue
            alone = encoder(wave[row : row + 1, :length], mask=mask[row : row + 1, :count], layers=True)
            assert alone.frame_lengths is None
            for batched, single in zip((*together.layers, together.x), (*alone.layers, alone.x), strict=True):
                torch.testing.assert_close(batched[row, :count], single[0], atol=1e-4, rtol=0)


def test_padded_samples_and_frames_get_no_gradient():
    encoder = build(config("group", normalize=True))
    wave = torch.randn(2, 2000, requires_grad=True)
    out = encoder(wave, torch.tensor([2000, 900]))
    (out.x[1, : encoder.frames(900)].square().sum() + out.x[0].sum()).backward()
    assert wave.grad[1, :900].abs().sum() > 0
    assert not wave.grad[1, 900:].any()


class Recorder(TorchDispatchMode):
    """Notes every boolean tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.bool:
            self.masks.append(str(function))
        return out


@pytest.mark.parametrize("stem", STEMS)
def test_nothing_padded_builds_no_mask(stem):
    encoder = build(config(stem, normalize=True))
    wave = torch.randn(2, 2000)
    with Recorder() as unpadded:
        encoder(wave)
    assert not unpadded.masks
    with Recorder() as padded:
        encoder(wave, torch.tensor([2000, 1500]))
    assert padded.masks  # the recorder does see masks


# ------------------------------------------------------------------------------------------------- masking


def test_masked_frames_are_replaced_and_channels_zeroed():
    encoder = build(config("layer"))
    wave = torch.randn(2, 2000)
    frames = encoder.frames(2000)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[0, 3:9] = True
    channels = torch.zeros(2, encoder.dim, dtype=torch.bool)
    channels[1, 4:7] = True
    x = encoder.project(encoder.features(wave))
    x[0, 3:9] = encoder.mask_embedding
    x[1, :, 4:7] = 0
    out = encoder(wave, mask=mask, channel_mask=channels)
    torch.testing.assert_close(out.x, encoder.context(x).x)
    torch.testing.assert_close(out.features, encoder.features(wave))  # the features stay unmasked
    assert not torch.allclose(out.x, encoder(wave).x)


def test_hidden_outputs_of_the_stem_are_zero_in_every_frame_of_their_row():
    encoder = build(config("logmel"))
    wave = torch.randn(2, 4000)
    hidden = torch.zeros(2, encoder.frontend.dim, dtype=torch.bool)
    hidden[1, 3:7] = True
    out = encoder(wave, feature_mask=hidden)
    features = encoder.features(wave)
    torch.testing.assert_close(out.features, features)  # they stay as they were
    features[1, :, 3:7] = 0
    torch.testing.assert_close(out.x, encoder.context(encoder.project(features)).x)
    assert torch.equal(out.x[0], encoder(wave).x[0])
    assert not torch.allclose(out.x[1], encoder(wave).x[1])


def test_a_fully_masked_utterance_tells_nothing_about_its_audio():
    encoder = build(config("layer"))
    mask = torch.ones(1, encoder.frames(2000), dtype=torch.bool)
    assert torch.equal(encoder(torch.randn(1, 2000), mask=mask).x, encoder(torch.randn(1, 2000), mask=mask).x)


# ------------------------------------------------------------------------------------------- layer outputs


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_layer_outputs_and_stopping_early(norm):
    encoder = build(config("layer", norm))
    wave = torch.randn(1, 1500)
    out = encoder(wave, layers=True)
    assert len(out.layers) == 3
    final = encoder.norm(out.layers[-1]) if norm == "pre" else out.layers[-1]
    assert torch.equal(out.x, final)
    for layer in range(3):
        stopped = encoder(wave, stop_at=layer, layers=True)
        assert torch.equal(stopped.x, out.layers[layer])
        assert len(stopped.layers) == layer + 1
    assert encoder(wave).layers == ()
    for layer in (-1, 3):
        with pytest.raises(ValueError, match="has layers 0 to 2"):
            encoder(wave, stop_at=layer)


# --------------------------------------------------------------------------------------------- gradients


def gradients(cfg: ModelConfig) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    encoder = build(cfg)
    torch.manual_seed(1)
    out = encoder(torch.randn(2, 1500))
    (out.x.square().sum() + out.features.square().sum()).backward()
    return {name: p.grad for name, p in encoder.named_parameters()}, out.x.detach()


def test_gradient_scale_touches_the_stem_only():
    full, x = gradients(ModelConfig(frontend=replace(STEMS["group"], grad_scale=1.0), encoder=TINY))
    tenth, y = gradients(ModelConfig(frontend=replace(STEMS["group"], grad_scale=0.1), encoder=TINY))
    assert torch.equal(x, y)
    for name, gradient in full.items():
        if name == "mask_embedding":
            assert gradient is None  # nothing was masked
            continue
        factor = 0.1 if name.startswith("frontend") else 1.0
        torch.testing.assert_close(tenth[name], factor * gradient, rtol=1e-4, atol=1e-6)


def test_gradient_scale_zero_freezes_the_stem():
    frozen, _ = gradients(ModelConfig(frontend=replace(STEMS["group"], grad_scale=0.0), encoder=TINY))
    assert all((gradient is None) == name.startswith(("frontend", "mask")) for name, gradient in frozen.items())


def test_layer_drop_keeps_the_graph_static():
    encoder = build(ModelConfig(frontend=STEMS["layer"], encoder=replace(TINY, layer_drop=1.0))).train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for block in encoder.blocks:
        block.attention.dropout = 0.0
    wave = torch.randn(1, 1500)
    out = encoder(wave, layers=True)
    assert torch.equal(out.layers[0], out.layers[2])  # every block was passed over
    out.x.sum().backward()
    for name, parameter in encoder.blocks.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    assert not torch.equal(encoder.eval()(wave, layers=True).layers[0], encoder(wave).x)


# --------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_bfloat16_autocast(stem, norm):
    encoder = build(config(stem, norm, normalize=True)).train()
    wave = torch.randn(2, 3000)
    lengths = torch.tensor([3000, 2000])
    torch.manual_seed(0)
    exact = encoder.eval()(wave, lengths, layers=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(wave, lengths, layers=True)
    assert all(layer.dtype == torch.float32 for layer in (*out.layers, out.x))  # the residual stream
    count = encoder.frames(2000)
    assert (out.x[1, :count] - exact.x[1, :count]).abs().mean() < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        loss = encoder.train()(1e3 * wave, lengths).x.square().mean()
    loss.backward()
    gradients = [p.grad for name, p in encoder.named_parameters() if name != "mask_embedding"]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_double_precision_stays_double():
    encoder = build(config("group", normalize=True)).double()
    assert encoder(torch.randn(1, 1000, dtype=torch.float64)).x.dtype == torch.float64


# ------------------------------------------------------------------------------- normalisation of waveforms


def test_the_encoder_normalises_when_told():
    encoder = build(config("layer", normalize=True))
    wave = torch.randn(1, 1500)
    torch.testing.assert_close(encoder(wave).x, encoder(7 * wave + 2).x, atol=1e-4, rtol=0)
    plain = build(config("layer"))
    torch.testing.assert_close(plain(normalise_waveform(wave, None)).x, encoder(wave).x)


# ---------------------------------------------------------------------------------------- initialisation


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    cfg = EncoderConfig(dim=256, layers=1, heads=4, ffn_dim=512, pos_kernel=32, pos_groups=4)
    encoder = SpeechEncoder(ModelConfig(encoder=cfg)).requires_grad_(requires_grad=False)
    block = encoder.blocks[0]
    for layer in (encoder.projection, block.attention.qkv, block.attention.out, block.up, block.down):
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.03)
        assert not layer.bias.any()
    assert float(encoder.position.direction.std()) == pytest.approx((4 / (32 * 256)) ** 0.5, rel=0.02)
    torch.testing.assert_close(encoder.position.weight(), encoder.position.direction)
    assert 0 <= float(encoder.mask_embedding.min()) < 0.1 < 0.9 < float(encoder.mask_embedding.max()) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 18, "pos_groups": 2, "heads": 4}, "multiple of heads = 4"),
        ({"pos_groups": 5}, "multiple of pos_groups = 5"),
        ({"heads": 0}, "heads = 0"),
        ({"pos_kernel": 0}, "pos_kernel = 0"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        SpeechEncoder(ModelConfig(frontend=STEMS["layer"], encoder=replace(TINY, **changes)))


# ------------------------------------------------------------------------------------------------ presets


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("wav2vec2-base", 94_371_712),
        ("hubert-base", 94_371_712),
        ("wav2vec2-large", 315_438_720),
        ("hubert-large", 315_435_136),
        ("wav2vec2-small", 11_120_512),
        ("hubert-small", 9_823_168),
        ("tiny", 118_944),
    ],
)
def test_presets_have_the_published_sizes(preset, parameters):
    cfg = read_toml(PretrainConfig, find_config(preset))
    with torch.device("meta"):
        encoder = SpeechEncoder(cfg.model)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    if targets := offline_targets(cfg.objective):
        assert len(encoder.blocks) >= max(targets.layers)
    spans = cfg.objective.mask.prob * encoder.frames(int(cfg.data.min_seconds * 16_000)) / cfg.objective.mask.length
    assert spans >= 2  # the shortest utterance still has a mask worth its name


@pytest.mark.parametrize(("preset", "peer"), [("wav2vec2-base", "Wav2Vec2"), ("hubert-base", "Hubert")])
def test_base_presets_have_the_tensors_of_the_released_model(preset, peer):
    transformers = pytest.importorskip("transformers")
    from speechssl.interop.huggingface import encoder_to_huggingface

    encoder = SpeechEncoder(read_toml(PretrainConfig, find_config(preset)).model)
    state, _ = encoder_to_huggingface(encoder)
    cfg, model = getattr(transformers, f"{peer}Config")(), getattr(transformers, f"{peer}Model")
    with torch.device("meta"):  # nothing may be imported for the first time in here: its constants would be hollow
        theirs = model(cfg).state_dict()
    assert {name: value.shape for name, value in state.items()} == {name: v.shape for name, v in theirs.items()}


@pytest.mark.parametrize("masked", [False, True])
def test_product_attention_equals_the_fused_kernel(masked):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 37, 16, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = (torch.arange(37) < torch.tensor([[37], [20]]))[:, None, None, :] if masked else None
    ours = product_attention(q, k, v, mask)
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(ours, fused, atol=1e-12)
    weights = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), (q, k, v)),
        torch.autograd.grad((fused * weights).sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-11)


def test_bfloat16_attention_on_a_cpu_stays_close_to_float32():
    torch.manual_seed(0)
    attention = Attention(EncoderConfig(dim=64, heads=4, attention_dropout=0.0)).eval()
    x = torch.randn(2, 50, 64)
    mask = (torch.arange(50) < torch.tensor([[50], [31]]))[:, None, None, :]
    with torch.no_grad():
        exact = attention(x, mask)
        with torch.autocast("cpu", torch.bfloat16):
            fast = attention(x, mask)
    assert (fast.float() - exact)[:, :31].abs().max() < 0.02 * exact.abs().max()


def test_every_trainable_parameter_gets_a_gradient_without_a_mask():
    """DDP waits for all of them."""
    encoder = build(config("logmel")).train()
    encoder(torch.randn(2, 4000)).x.sum().backward()
    trainable = [item for item in encoder.named_parameters() if item[1].requires_grad]
    missing = [name for name, parameter in trainable if parameter.grad is None]
    assert not missing
    assert not encoder.mask_embedding.grad.any()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stop_at", [None, 1, 0])
def test_frames_asked_for_alone_are_those_of_the_whole(norm, recompute, stop_at):
    quiet = replace(TINY, norm=norm, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0)
    encoder = build(ModelConfig(frontend=STEMS["layer"], encoder=quiet)).train()
    encoder.recompute = recompute
    x = torch.randn(3, 20, encoder.dim)
    lengths, positions = torch.tensor([20, 12, 7]), torch.tensor([[0, 5, 19], [3, 11, 0], [6, 0, 0]])
    towards = torch.randn(3, 3, encoder.dim)

    def result(**only):
        encoder.zero_grad()
        y = encoder.context(x, lengths, stop_at=stop_at, **only).x
        y = y if only else y.gather(1, positions[..., None].expand(-1, -1, encoder.dim))
        (y * towards).sum().backward()
        return y, {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    (some, gradients), (every, expected) = result(positions=positions), result()
    assert some.shape == (3, 3, encoder.dim)
    assert torch.allclose(some, every, atol=1e-6)
    assert gradients.keys() == expected.keys()
    assert all(torch.allclose(gradients[name], expected[name], atol=1e-5) for name in expected)
    with pytest.raises(ValueError, match="all frames"):
        encoder.context(x, layers=True, positions=positions)


def test_a_dropped_layer_is_not_run_and_has_a_gradient_of_zero():
    encoder = build(ModelConfig(frontend=STEMS["layer"], encoder=replace(TINY, layer_drop=0.5))).train()
    ran = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    x, numbers = torch.randn(1, 8, encoder.dim), []
    for seed in range(60):
        torch.manual_seed(seed)
        encoder.zero_grad()
        ran.clear()
        encoder.context(x).x.square().sum().backward()
        numbers.append(len(ran))
        zero = [all(p.grad.abs().max() == 0 for p in block.parameters()) for block in encoder.blocks]
        assert sum(zero) == len(encoder.blocks) - len(ran)
    assert 0.35 < 1 - sum(numbers) / (60 * len(encoder.blocks)) < 0.65
    encoder.eval()
    ran.clear()
    encoder.context(x)
    assert len(ran) == len(encoder.blocks)


def test_weight_norm_and_its_gradient():
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(6, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    magnitude = torch.rand(1, 1, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = weight_norm(direction, magnitude)
    assert torch.allclose(weight, torch._weight_norm(direction, magnitude, 2))
    assert torch.autograd.gradcheck(weight_norm, (direction, magnitude))
