"""Folders for transformers: recognisers through its pipeline, pretrained models with their heads, WavLM."""

import pytest
import torch

from speechssl.asr.export import Recording, compare, ours
from speechssl.core.errors import ConfigError
from speechssl.interop.any_model import load_any_encoder
from speechssl.interop.export.huggingface import open_huggingface, write_huggingface
from speechssl.interop.huggingface import encoder_to_huggingface
from speechssl.models.quantizer import GumbelQuantizer
from tests.interop.export.models import encoder, folder, recogniser, waves

transformers = pytest.importorskip("transformers")


def items():
    return [Recording(str(i), wave, None) for i, wave in enumerate(waves())]


@pytest.mark.parametrize(("stem", "kind", "changes"), [
    ("base", "characters", {}),
    ("large", "characters", {"normalize": True, "norm": "pre"}),
    ("base", "characters", {"relative_position": "gated"}),
    ("large", "characters", {"pos_depth": 3, "pos_kernel": 9, "normalize": True}),
    ("large", "sentencepiece", {}),
], ids=str)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM of transformers
def test_the_pipeline_reads_the_same_text(tmp_path, stem, kind, changes):
    if kind == "sentencepiece":
        pytest.importorskip("sentencepiece")
    folder_, model, tokens = recogniser(stem, kind, **changes)
    name = write_huggingface(tmp_path, folder_, model.encoder)
    names = {"relative_position": "WavLMForCTC", "pos_depth": "Data2VecAudioForCTC"}
    assert name == next((names[key] for key in changes if key in names), "Wav2Vec2ForCTC")
    found = compare(ours(model, tokens), open_huggingface(tmp_path), items())
    assert found.largest < 1e-4 and found.texts == found.recordings == 4, found
    text = ours(model, tokens)(items()[0].wave).text
    assert len(set(text)) > 3
    # The files are those that a tokenizer and a processor are made of, and labels are spelled as ours are.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    said = "the lazy dog"
    assert tokenizer(said).input_ids == tokens.encode(said)
    if kind == "characters":
        assert transformers.AutoProcessor.from_pretrained(tmp_path).feature_extractor.sampling_rate == 16_000


def test_a_pretrained_model_keeps_its_heads(tmp_path):
    made = encoder("large", norm="pre")
    torch.manual_seed(1)
    quantizer = GumbelQuantizer(24, 2, 5, 12).eval()
    targets, context = torch.nn.Linear(12, 12), torch.nn.Linear(32, 12)
    heads = {f"quantizer.{name}": value for name, value in quantizer.state_dict().items()}
    heads |= {f"project_targets.{name}": value for name, value in targets.state_dict().items()}
    heads |= {f"project_context.{name}": value for name, value in context.state_dict().items()}
    assert write_huggingface(tmp_path, folder(made, **heads), made) == "Wav2Vec2ForPreTraining"
    peer = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path).eval()
    wave = waves()[1][None]
    with torch.no_grad():
        theirs, mine = peer(wave), made(wave)
        chosen = quantizer(made.normalise_features(mine.features)[0]).codes_vectors
        torch.testing.assert_close(context(mine.x), theirs.projected_states, atol=1e-5, rtol=0)
        torch.testing.assert_close(targets(chosen)[None], theirs.projected_quantized_states, atol=1e-5, rtol=0)
    assert compare(ours(made, None), open_huggingface(tmp_path), items()).largest < 1e-4


@pytest.mark.parametrize(("name", "changes"), [
    ("WavLMModel", {"relative_position": "gated", "norm": "pre"}),
    ("Data2VecAudioModel", {"pos_depth": 5, "pos_kernel": 9, "normalize": True}),
])  # fmt: skip
def test_an_encoder_goes_there_and_back_exactly(tmp_path, name, changes):
    made = encoder("large", **changes)
    assert write_huggingface(tmp_path, folder(made), made) == name
    assert compare(ours(made, None), open_huggingface(tmp_path), items()).largest < 1e-4
    back = load_any_encoder(tmp_path)
    assert back.cfg == made.cfg
    state = back.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize(("stem", "changes", "message"), [
    ("logmel", {}, "log-mel"),
    ("large", {"causal": True}, "causal"),
    ("base", {"block": "conformer"}, "block = 'conformer'"),
    ("base", {"relative_position": "rotary"}, "'rotary'"),
    ("base", {"pos_depth": 2}, "pos_depth = 2"),
    ("large", {"pos_depth": 2, "norm": "pre"}, "norm = 'post'"),
    ("large", {"pos_depth": 2, "relative_position": "gated"}, "pos_depth = 2"),
])  # fmt: skip
def test_what_transformers_has_not_is_refused_by_name(stem, changes, message):
    with pytest.raises(ConfigError, match=message):
        encoder_to_huggingface(encoder(stem, **changes))
