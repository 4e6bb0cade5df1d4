"""Our models as encoders of X-ARES and upstreams of s3prl: what these packages check and use, without them."""

import pytest
import torch

import speechssl
from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.interop.benchmarks import UpstreamExpert, XaresEncoder
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder

ENCODER = EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2, dropout=0.5)


@pytest.fixture(scope="module", params=["waveform", "logmel"])
def model(request, tmp_path_factory):
    frontend = FrontendConfig(kind="logmel", n_mels=20, stack=2)
    if request.param == "waveform":
        frontend = FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8)))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder, encoder=SpeechEncoder(ModelConfig(frontend=frontend, encoder=ENCODER)))
    return folder


def test_an_encoder_of_x_ares(model):
    """What its ``check_audio_encoder`` asks for: names, a class that ends with Encoder, and shapes."""
    encoder = XaresEncoder(str(model))
    assert type(encoder).__name__.endswith("Encoder")
    assert (encoder.sampling_rate, encoder.output_dim, encoder.hop_size_in_ms) == (16_000, 16, 20.0)
    audio = 0.1 * torch.randn(2, 50_000, generator=torch.Generator().manual_seed(1))
    found = encoder(audio)
    assert found.shape[::2] == (2, 16)
    assert abs(50_000 / 16_000 / found.shape[1] * 1000 - encoder.hop_size_in_ms) < 0.2
    alone = speechssl.load(model, device="cpu").features(audio[1].numpy(), 16_000, "all")
    assert torch.allclose(found[1], alone[2], atol=1e-5)
    assert torch.allclose(XaresEncoder(str(model), layer=1)(audio[1])[0], alone[1], atol=1e-5)
    with pytest.raises(ConfigError, match="layers 0 to 2, not 3"):
        XaresEncoder(str(model), layer=3)


def test_an_upstream_of_s3prl(model):
    upstream = UpstreamExpert(str(model), refresh=False)
    waves = [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (9_000, 16_000)]
    found = upstream(waves)
    rate = upstream.get_downsample_rates("hidden_states")
    assert rate == 320
    assert len(found["hidden_states"]) == 3
    assert torch.equal(found["last_hidden_state"], found["hidden_states"][2])
    speech = speechssl.load(model, device="cpu")
    for row, wave in enumerate(waves):
        alone = speech.features(wave.numpy(), 16_000, "all")
        for own, layer in zip(alone, found["hidden_states"], strict=True):
            assert torch.allclose(layer[row, : len(own)], own, atol=1e-5)
            assert all(torch.equal(frame, layer[row, len(own) - 1]) for frame in layer[row, len(own) :])
        assert abs(len(alone[0]) - round(len(wave) / rate)) <= 1  # s3prl allows five
    found["hidden_states"][1].sum().backward()  # s3prl may train the upstream
    assert any(parameter.grad is not None for parameter in upstream.parameters())
