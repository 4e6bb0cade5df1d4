"""Small models of random weights that say something, and recordings with silence."""

import torch

from speechssl.asr.ctc import CtcModel
from speechssl.asr.tokens import Tokens
from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig, TokensConfig
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder

CONVS = ((16, 10, 5), (16, 8, 8), (24, 4, 4), (24, 2, 2))
STEMS = {
    "base": FrontendConfig(conv_layers=CONVS),
    "large": FrontendConfig(conv_layers=CONVS, norm="layer", bias=True),
    "logmel": FrontendConfig(kind="logmel", stack=2),
    "conv2d": FrontendConfig(kind="logmel", stack=2, conv2d=4),
}
SIZES = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48, "pos_kernel": 8, "pos_groups": 2}


def encoder(stem="base", *, normalize=False, **changes) -> SpeechEncoder:
    torch.manual_seed(3)
    made = SpeechEncoder(ModelConfig(normalize, STEMS[stem], EncoderConfig(**SIZES | changes)))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "norm" in name or name.endswith("bias") or "gate" in name or "relative" in name:
                value.add_(0.1 * torch.randn_like(value))
    return made.eval()


def recogniser(stem="base", kind="characters", **changes) -> tuple[ModelFolder, CtcModel, Tokens]:
    texts = ["the quick brown fox", "jumps over a lazy dog", "it's the dog"] * 3
    tokens, _ = Tokens.build(texts, TokensConfig(kind=kind, vocab_size=30))
    model = CtcModel(encoder(stem, **changes), tokens.size).eval()
    torch.nn.init.normal_(model.head.weight, std=2.0)
    state = {**model.state_dict()}
    return ModelFolder(model.encoder.cfg, state, tokens.to_dict(), {"objective": "ctc"}), model, tokens


def folder(made: SpeechEncoder, **heads) -> ModelFolder:
    state = {f"encoder.{name}": value for name, value in made.state_dict().items()}
    return ModelFolder(made.cfg, state | heads, None, {"objective": "wav2vec2"})


def waves() -> list[torch.Tensor]:
    torch.manual_seed(5)
    noisy = [0.1 * torch.randn(length) for length in (16_000, 9_001, 5_000)]
    noisy[0][3_000:9_000] = 0.0
    return [*noisy, torch.zeros(8_000)]
