"""The block-local encoder: frame by frame that of a whole pass, for every stem and norm, at every length."""

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.models.chunked import encode_locally, least_block, neighbours
from speechssl.models.encoder import SpeechEncoder
from tests.oracles.local import encode_whole

CONV = ((16, 10, 5), (16, 8, 8), (16, 8, 8))
BLOCK = 12
STEMS = {
    "group": FrontendConfig(conv_layers=CONV, norm="group"),
    "layer": FrontendConfig(conv_layers=CONV, norm="layer"),
    "logmel": FrontendConfig(kind="logmel", n_mels=20, stack=2),
    "conv2d": FrontendConfig(kind="logmel", n_mels=20, stack=2, conv2d=4),
}


def encoder(stem: str, *, norm: str = "pre", normalize: bool = False, kernel: int = 9) -> SpeechEncoder:
    torch.manual_seed(0)
    cfg = EncoderConfig(dim=24, layers=3, heads=2, ffn_dim=48, norm=norm, pos_kernel=kernel, pos_groups=4)  # type: ignore[arg-type]
    return SpeechEncoder(ModelConfig(frontend=STEMS[stem], encoder=cfg, normalize=normalize)).eval()


def causal() -> SpeechEncoder:
    torch.manual_seed(0)
    cfg = EncoderConfig(dim=24, layers=3, heads=2, ffn_dim=48, norm="pre", pos_kernel=9, pos_groups=4, causal=True)
    return SpeechEncoder(ModelConfig(frontend=STEMS["layer"], encoder=cfg)).eval()


def noise(samples: int) -> torch.Tensor:
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    return wave * torch.linspace(0.01, 0.3, samples)  # louder and louder: local statistics differ


@torch.inference_mode()
def streamed(model: SpeechEncoder, wave: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    size = block * model.hop
    parts = list(encode_locally(model, (wave[i : i + size] for i in range(0, len(wave), size)), block))
    return torch.cat(parts) if parts else torch.zeros(0, model.dim)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("norm", "normalize", "kernel"), [("pre", False, 9), ("post", True, 8)])
def test_equal_to_a_whole_pass_at_every_length(stem: str, norm: str, normalize: bool, kernel: int) -> None:
    model = encoder(stem, norm=norm, normalize=normalize, kernel=kernel)
    size = BLOCK * model.hop
    overhang = model.frontend.receptive - model.hop
    for samples in (5 * size, 5 * size + 1, 5 * size + overhang, 5 * size + model.frontend.receptive, 8 * size - 7):
        wave = noise(samples)
        found, expected = streamed(model, wave), encode_whole(model, wave, BLOCK)
        assert found.shape == expected.shape == (model.frames(samples), 24)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("stem", STEMS)
def test_up_to_two_blocks_it_is_the_ordinary_pass(stem: str) -> None:
    model = encoder(stem)
    for samples in (model.frontend.receptive, BLOCK * model.hop - 3, 2 * BLOCK * model.hop):
        wave = noise(samples)
        with torch.inference_mode():
            torch.testing.assert_close(streamed(model, wave), model(wave[None]).x[0], atol=2e-5, rtol=1e-4)


def test_a_causal_encoder_is_equal_to_a_whole_pass_and_sees_nothing_that_follows() -> None:
    model = causal()
    size = BLOCK * model.hop
    for samples in (2 * size, 5 * size, 5 * size + model.frontend.receptive, 8 * size - 7):
        wave = noise(samples)
        found, expected = streamed(model, wave), encode_whole(model, wave, BLOCK)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        changed = wave.clone()
        changed[size:] += 0.1
        kept = (size - model.frontend.receptive) // model.hop + 1
        torch.testing.assert_close(streamed(model, changed)[:kept], found[:kept], atol=2e-5, rtol=1e-4)
    with torch.inference_mode():
        wave = noise(2 * size)
        torch.testing.assert_close(streamed(model, wave), model(wave[None]).x[0], atol=2e-5, rtol=1e-4)


def options(**changes: object) -> SpeechEncoder:
    """Return an encoder with other blocks or positions than wav2vec 2.0, in which they matter."""
    torch.manual_seed(0)
    cfg = EncoderConfig(
        **{"dim": 24, "layers": 3, "heads": 2, "ffn_dim": 48, "pos_kernel": 9, "pos_groups": 4} | changes
    )  # type: ignore[arg-type]
    model = SpeechEncoder(ModelConfig(frontend=STEMS["layer"], encoder=cfg)).eval()
    for name, parameter in model.named_parameters():
        parameter.data.add_((1.0 if "relative" in name or "gate" in name else 0.1) * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"relative_position": "gated"},
        {"relative_position": "alibi"},
        {"relative_position": "rotary"},
        {"relative_position": "rotary_input"},
        {"relative_position": "sinusoid"},
        {"pos_depth": 3, "pos_kernel": 5},
        {"pos_depth": 2, "pos_kernel": 6, "relative_position": "gated"},
        {"pos_depth": 0, "relative_position": "alibi"},
        {"block": "conformer", "conv_kernel": 5},
        {"block": "conformer", "conv_kernel": 7, "pos_depth": 0, "relative_position": "rotary"},
    ],
)
def test_other_blocks_and_positions_are_equal_to_a_whole_pass(changes: dict, causal: bool, norm: str) -> None:
    model = options(causal=causal, norm=norm, **changes)
    size = BLOCK * model.hop
    for samples in (2 * size, 5 * size + model.frontend.receptive, 8 * size - 7):
        wave = noise(samples)
        found = streamed(model, wave)
        torch.testing.assert_close(found, encode_whole(model, wave, BLOCK), atol=2e-5, rtol=1e-4)
        if samples == 2 * size:
            with torch.inference_mode():
                torch.testing.assert_close(found, model(wave[None]).x[0], atol=2e-5, rtol=1e-4)


def test_a_frame_sees_no_further_than_blocks_and_layers_allow() -> None:
    model = encoder("layer")
    wave = noise(14 * BLOCK * model.hop)
    changed = wave.clone()
    changed[: BLOCK * model.hop] = 0
    found, other = streamed(model, wave), streamed(model, changed)
    reach = 3 + 1 + 1 + 1  # layers, positional convolution, stem's statistics, the block itself
    assert not torch.equal(found[: 3 * BLOCK], other[: 3 * BLOCK])
    assert torch.equal(found[reach * BLOCK :], other[reach * BLOCK :])


def test_shorter_than_one_frame_is_nothing() -> None:
    model = encoder("layer")
    assert streamed(model, noise(model.frontend.receptive - 1)).shape == (0, 24)
    assert streamed(model, noise(0)).shape == (0, 24)


def test_wrong_blocks_are_refused() -> None:
    model = encoder("layer", kernel=64)
    with pytest.raises(ValueError, match="a block of 12 frames is too short for this model: it needs 32"):
        streamed(model, noise(100_000))
    for changes, least in (
        ({"conv_kernel": 31}, 15),
        ({"conv_kernel": 31, "causal": True}, 30),
        ({"pos_kernel": 50}, 25),
    ):
        assert least_block(options(block="conformer", **changes)) == least
    model = encoder("layer")
    with pytest.raises(ValueError, match="expected blocks of 3840 samples, got 100"):
        list(encode_locally(model, [noise(100), noise(3840)], BLOCK))
    with pytest.raises(ValueError, match="got 4000"):
        list(encode_locally(model, [noise(4000)], BLOCK))


def test_it_holds_a_few_blocks_only() -> None:
    model = encoder("layer")
    asked = 0

    def waves():
        nonlocal asked
        for _ in range(40):
            asked += 1
            yield noise(BLOCK * model.hop)

    with torch.inference_mode():
        for given, _ in enumerate(encode_locally(model, waves(), BLOCK)):
            assert asked <= given + 1 + 3 + 2 or given > 30  # one block ahead for each of stem, position and layer


def test_neighbours() -> None:
    assert list(neighbours("abc")) == [(None, "a", "b"), ("a", "b", "c"), ("b", "c", None)]
    assert list(neighbours("a")) == [(None, "a", None)]
    assert list(neighbours("")) == []
