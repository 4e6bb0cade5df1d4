"""State dicts for torchaudio's wav2vec2_model: the same numbers and texts, and what it has not."""

import pytest
import torch

from speechssl.asr.ctc import CtcModel, load_recogniser
from speechssl.asr.export import Recording, compare, ours
from speechssl.asr.tokens import Tokens
from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig, TokensConfig
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.interop.any_model import encoder_of, load_any
from speechssl.interop.export.torchaudio import open_torchaudio, write_torchaudio
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder
from tests.interop.export.models import encoder, folder, recogniser, waves


@pytest.mark.parametrize(("stem", "changes"), [("base", {}), ("large", {"normalize": True, "norm": "pre"})], ids=str)
def test_torchaudio_gives_the_same_numbers_and_text(tmp_path, stem, changes):
    items = [Recording(str(i), wave, None) for i, wave in enumerate(waves())]
    model, module, tokens = recogniser(stem, **changes)
    write_torchaudio(tmp_path, model, module.encoder)
    found = compare(ours(module, tokens), open_torchaudio(tmp_path), items)
    assert found.largest < 1e-4 and found.texts == 4, found
    made = encoder(stem, **changes)
    write_torchaudio(tmp_path, folder(made), made)
    (tmp_path / "labels.txt").unlink()
    assert compare(ours(made, None), open_torchaudio(tmp_path), items).largest < 1e-4


LAYERS = tuple((16, kernel, stride) for kernel, stride in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2])
"""Kernels and strides that a file without settings is taken to have."""
SIZES = EncoderConfig(dim=128, layers=2, heads=2, ffn_dim=48, pos_kernel=8, pos_groups=16)
ITEMS = [Recording(str(i), wave, None) for i, wave in enumerate(waves())]


@pytest.mark.parametrize("normalize", [False, True])
def test_what_was_exported_is_read_back_with_its_normalisation(tmp_path, normalize):
    made = SpeechEncoder(ModelConfig(normalize, FrontendConfig(conv_layers=LAYERS), SIZES)).eval()
    write_torchaudio(tmp_path, folder(made), made)
    again = encoder_of(load_any(tmp_path / "model.pt"), tmp_path)
    assert again.cfg.normalize == normalize
    assert compare(ours(made, None), ours(again, None), ITEMS).largest < 1e-4


def test_a_recogniser_that_was_exported_is_read_back_with_its_labels(tmp_path):
    made = SpeechEncoder(ModelConfig(False, FrontendConfig(conv_layers=LAYERS), SIZES)).eval()
    tokens, _ = Tokens.build(["the quick brown fox", "it's the dog"] * 3, TokensConfig())
    model = CtcModel(made, tokens.size).eval()
    torch.nn.init.normal_(model.head.weight, std=2.0)
    exported = ModelFolder(made.cfg, {**model.state_dict()}, tokens.to_dict(), {"objective": "ctc"})
    write_torchaudio(tmp_path, exported, made)
    again, labels = load_recogniser(tmp_path / "model.pt")
    assert labels.to_dict()["symbols"] == tokens.to_dict()["symbols"]
    found = compare(ours(model, tokens), ours(again, labels), ITEMS)
    assert found.largest < 1e-4 and found.texts == 4, found
    (tmp_path / "labels.txt").write_text("-\n|\na\n")
    with pytest.raises(CheckpointError, match=r"labels\.txt: 3 symbols, but the head of model\.pt scores"):
        load_any(tmp_path / "model.pt")


def test_what_torchaudio_has_not_is_refused_by_name(tmp_path):
    for stem, changes, message in (
        ("logmel", {}, "log-mel"),
        ("base", {"relative_position": "gated"}, "gated"),
        ("large", {"pos_depth": 3}, "data2vec-audio"),
    ):
        made = encoder(stem, **changes)
        with pytest.raises(ConfigError, match=message):
            write_torchaudio(tmp_path, folder(made), made)
