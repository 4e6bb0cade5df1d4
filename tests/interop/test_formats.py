"""Every public format: the numbers of the library it comes from, layer by layer, its heads and its labels."""

import json
import sys
from argparse import Namespace
from types import ModuleType

import pytest
import torch
import torchaudio
from torch import nn
from torchaudio.models.wav2vec2.utils import import_fairseq_model

from speechssl import load
from speechssl.asr.ctc import load_recogniser
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.interop.any_model import encoder_of, load_any, load_any_encoder
from tests.support.public_models import (
    LETTERS,
    SMALL,
    fairseq_checkpoint,
    of_fairseq,
    of_transformers,
    save_with_vocabulary,
    shake,
)

transformers = pytest.importorskip("transformers")

KINDS = ("Wav2Vec2", "Hubert", "WavLM", "Data2VecAudio", "Wav2Vec2Conformer")
POSITIONS = {"safetensors": "relative", "bin": "rotary", "old norm": None}
"""Of a Conformer, one kind in each form."""


def sound(seconds: float = 0.5) -> torch.Tensor:
    """Return noise with a second half that is silent, [1, T]."""
    wave = 0.1 * torch.randn(1, int(16_000 * seconds), generator=torch.Generator().manual_seed(1)) + 0.02
    wave[:, wave.shape[1] // 2 :] = 0.0
    return wave


def normalised(wave: torch.Tensor, *, wanted: bool) -> torch.Tensor:
    return nn.functional.layer_norm(wave, wave.shape[1:], eps=1e-7) if wanted else wave


def largest(encoder, theirs, last) -> float:
    """Return the largest difference over all layers; ``theirs`` are the outputs of the blocks before the last norm."""
    with torch.no_grad():
        ours = encoder(sound(), layers=True)
    pairs = [*zip(ours.layers[: len(theirs)], theirs, strict=True), (ours.x, last)]
    return max(float((mine - other).abs().max()) for mine, other in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["Model", "ForPreTraining", "ForCTC"])
@pytest.mark.parametrize("form", ["safetensors", "bin", "old norm"])
def test_hugging_face(tmp_path, kind, task, form):
    if not hasattr(transformers, kind + task):
        pytest.skip("transformers has no such class")
    large = {} if kind == "Data2VecAudio" else {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    positions = {"position_embeddings_type": POSITIONS[form]} if kind == "Wav2Vec2Conformer" else {}
    model = of_transformers(kind + task, **positions, **large if form == "safetensors" else {})
    model.save_pretrained(tmp_path)
    if form != "safetensors":
        state = model.state_dict()
        if form == "old norm":
            new = "parametrizations.weight.original"
            state = {name.replace(new + "0", "weight_g").replace(new + "1", "weight_v"): v for name, v in state.items()}
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    normalize = form == "bin"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": normalize}))
    loaded = load_any(tmp_path)
    assert loaded.cfg.normalize is normalize
    base = getattr(model, model.base_model_prefix, model)
    with torch.no_grad():
        theirs = base(normalised(sound(), wanted=normalize), output_hidden_states=True)
    stable = loaded.cfg.encoder.norm == "pre"
    states = theirs.hidden_states[:-1] if stable else theirs.hidden_states
    assert largest(encoder_of(loaded, tmp_path), states, theirs.last_hidden_state) < 1e-4


def test_the_heads_of_pretraining_quantise_as_theirs(tmp_path):
    model = of_transformers("Wav2Vec2ForPreTraining")
    model.save_pretrained(tmp_path)
    loaded = load_any(tmp_path)
    assert loaded.info == {"library": "Hugging Face", "objective": "wav2vec2"}
    from speechssl.models.quantizer import GumbelQuantizer

    quantizer = GumbelQuantizer(24, 2, 6, 16).eval()
    quantizer.load_state_dict(loaded.part("quantizer"))
    encoder = encoder_of(loaded, tmp_path)
    with torch.no_grad():
        theirs = model(sound())
        latents = encoder.normalise_features(encoder.features(sound()))[0]
        ours = nn.functional.linear(quantizer(latents).codes_vectors, *loaded.part("project_targets").values())
        torch.testing.assert_close(ours, theirs.projected_quantized_states[0], atol=1e-5, rtol=0)
        ours = nn.functional.linear(encoder(sound()).x[0], *loaded.part("project_context").values())
        torch.testing.assert_close(ours, theirs.projected_states[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["pad first", "pad last"])
def test_a_folder_with_a_ctc_head_transcribes_with_its_own_vocabulary(tmp_path, kind, order):
    model = of_transformers(kind + "ForCTC")
    processor = save_with_vocabulary(model, tmp_path, normalize=True, order=order)
    recogniser, tokens = load_recogniser(tmp_path)
    assert tokens.symbols[:2] == ("<blank>", "|")
    assert tokens.normalise == "basic"
    assert tokens.encode("Don't") == [tokens.symbols.index(letter) for letter in "don't"]
    wave = sound(2.0)
    inputs = processor(wave[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = model(inputs.input_values).logits.log_softmax(-1)
        ours, _ = recogniser(wave)
    blank = model.config.pad_token_id
    boundary = processor.tokenizer.get_vocab()["|"]
    rest = [row for row in range(theirs.shape[-1]) if row not in (blank, boundary)]
    torch.testing.assert_close(ours, theirs[..., [blank, boundary, *rest]], atol=1e-4, rtol=0)
    said = processor.batch_decode(theirs.argmax(-1))[0]
    assert len(said) > 5
    assert load(tmp_path).transcribe(wave[0].numpy(), 16_000).text == " ".join(said.lower().split())


def test_vocabularies_of_other_kinds(tmp_path):
    model = of_transformers("HubertForCTC", vocab_size=8)
    model.save_pretrained(tmp_path)
    assert load_any(tmp_path).tokens is None  # no vocabulary: the encoder alone
    head = model.lm_head.weight.detach()

    def tokens(symbols: list[str], **tokenizer):
        (tmp_path / "vocab.json").write_text(json.dumps({symbol: row for row, symbol in enumerate(symbols)}))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        return load_any(tmp_path)

    mixed = tokens(["a", "B", ".", " ", "é", "[PAD]"], word_delimiter_token=" ", pad_token={"content": "[PAD]"})
    assert mixed.tokens["symbols"] == ["<blank>", "|", "a", "B", ".", "é", "<output 6>", "<output 7>"]
    assert mixed.tokens["normalise"] == "none"
    assert torch.equal(mixed.state["head.weight"], head[[5, 3, 0, 1, 2, 4, 6, 7]])
    bare = tokens(["<pad>", "水", "火", "木", "金", "土", "日", "月"])
    assert bare.tokens["symbols"] == ["<blank>", "|", *"水火木金土日月"]
    assert bare.tokens["normalise"] == "basic"
    assert bare.state["head.bias"][1] == -1e4
    added = tokens(["<pad>", "|", *"abcd"], added_tokens_decoder={"6": {"content": "<s>"}})
    assert added.tokens["symbols"][6:] == ["<s>", "<output 7>"]
    assert tokens(["<pad>", "|", *"abcdef"], tokenizer_class="Wav2Vec2PhonemeCTCTokenizer").tokens is None
    with pytest.raises(CheckpointError, match="'a' twice"):
        (tmp_path / "added_tokens.json").write_text(json.dumps({"x": 7}))
        tokens(["<pad>", "|", *"abcdef"], added_tokens_decoder={"7": {"content": "y"}})
        (tmp_path / "added_tokens.json").unlink()
        tokens(["<pad>", "|", "a"], added_tokens_decoder={"6": {"content": "a"}})
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": {"a": 1}}))
    with pytest.raises(ConfigError, match="a vocabulary of each language"):
        load_any(tmp_path)


@pytest.mark.parametrize("hubert", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("tuned", [0, 32])
def test_fairseq(tmp_path, hubert, large, tuned):
    """The reference is torchaudio's own importer of fairseq models."""
    model = of_fairseq(hubert=hubert, large=large, tuned=tuned)
    torch.save(fairseq_checkpoint(model, hubert=hubert), tmp_path / "model.pt")
    torch.save(fairseq_checkpoint(model, hubert=hubert, form="args"), tmp_path / "old.pt")
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 9\n" for letter in LETTERS))
    reference = import_fairseq_model(model).eval()
    wave = normalised(sound(), wanted=large)
    with torch.no_grad():
        theirs, _ = reference.extract_features(wave)
        last, _ = reference(wave)
    for name in ("model.pt", "old.pt"):
        loaded = load_any(tmp_path / name)
        encoder = encoder_of(loaded, tmp_path / name)
        assert loaded.cfg.normalize is large
        assert (loaded.cfg.encoder.dropout, loaded.cfg.encoder.layer_drop) == (0.25, 0.125)
        with torch.no_grad():
            ours = encoder(sound(), layers=True)
        for mine, other in zip(ours.layers[1:], theirs, strict=True):
            assert (mine - other).abs().max() < 1e-4
        assert torch.equal(encoder.mask_embedding, getattr(model, "w2v_model", model).mask_emb)
        if tuned:
            assert loaded.tokens["symbols"] == ["<blank>", "|", "<pad>", "</s>", "<unk>", *LETTERS[1:].lower()]
            recogniser, _ = load_recogniser(tmp_path / name)
            with torch.no_grad():
                scores, _ = recogniser(sound())
            torch.testing.assert_close(
                scores, last.log_softmax(-1)[..., [0, 4, 1, 2, 3, *range(5, 32)]], atol=1e-4, rtol=0
            )
        else:
            assert (ours.x - last).abs().max() < 1e-4
            assert loaded.info["objective"] == ("hubert" if hubert else "wav2vec2")
            if hubert:
                assert torch.equal(loaded.state["embeddings"], model.label_embs_concat)
                assert torch.equal(loaded.state["projection.weight"], model.final_proj.weight)
            else:
                assert torch.equal(loaded.state["quantizer.codebooks"], model.quantizer.vars[0].view(2, 6, 8))
                assert torch.equal(loaded.state["project_targets.bias"], model.project_q.bias)
                assert torch.equal(loaded.state["project_context.bias"], model.final_proj.bias)
    if tuned:
        (tmp_path / "dict.ltr.txt").unlink()
        assert load_any(tmp_path / "model.pt").tokens is None
        (tmp_path / "dict.ltr.txt").write_text("a 1\nb 1\n")
        with pytest.raises(CheckpointError, match=r"2 symbols, but the head of model.pt scores 32 tokens"):
            load_any(tmp_path / "model.pt")


def classes(monkeypatch, *names: str) -> list[type]:
    """Make classes of modules that are not installed, so that pickle can name them."""
    made = []
    for name in names:
        path, _, short = name.rpartition(".")
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            above = ".".join(parts[:length])
            monkeypatch.setitem(sys.modules, above, sys.modules.get(above) or ModuleType(above))
        made.append(type(short, (), {"__module__": path, "__qualname__": short}))
        setattr(sys.modules[path], short, made[-1])
    return made


def test_fairseq_stores_objects_of_its_own_of_which_none_is_run(tmp_path, monkeypatch):
    dictionary, container, value = classes(
        monkeypatch, "fairseq.data.dictionary.Dictionary", "omegaconf.dictconfig.DictConfig", "omegaconf.nodes.AnyNode"
    )
    labels = dictionary()
    labels.__dict__ |= {"symbols": ["<s>", "<pad>", "</s>", "<unk>", *LETTERS], "nspecial": 4}
    model = of_fairseq(hubert=True, tuned=32)
    content = fairseq_checkpoint(model, hubert=True)

    def boxed(plain):
        if isinstance(plain, dict):
            box = container()
            box.__dict__ |= {"_metadata": None, "_content": {name: boxed(each) for name, each in plain.items()}}
        else:
            box = value()
            box.__dict__ |= {"_val": plain}
        return box

    content["cfg"]["model"]["w2v_args"] = boxed(content["cfg"]["model"]["w2v_args"])
    content["task_state"] = {"target_dictionary": labels}
    torch.save(content, tmp_path / "model.pt")
    monkeypatch.undo()
    loaded = load_any(tmp_path / "model.pt")
    assert loaded.tokens["symbols"][5:] == list(LETTERS[1:].lower())
    assert loaded.cfg.encoder.dropout == 0.25


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_would_run_code_are_refused(tmp_path, capsys):
    for content in ({"cfg": Harmful(), "model": {}}, {"model": {"w": Namespace(x=Harmful())}, "args": None}):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=r"model.pt: not a checkpoint that torch reads safely"):
            load_any(tmp_path / "model.pt")
    torch.save([1], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_any(tmp_path / "model.pt")
    assert capsys.readouterr().out == ""


def test_what_fairseq_has_beyond_these_models_is_named(tmp_path):
    model = of_fairseq()

    def refused(error, message, change=lambda content: None):
        content = fairseq_checkpoint(model)
        change(content)
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(error, match=message):
            load_any(tmp_path / "model.pt")

    refused(ConfigError, "layer_type = 'conformer'", lambda c: c["cfg"]["model"].update(layer_type="conformer"))
    refused(CheckpointError, "'decoder.x' is no part", lambda c: c["model"].update({"decoder.x": torch.zeros(1)}))
    layers = "__import__('os').getcwd()"
    refused(CheckpointError, "conv_feature_layers", lambda c: c["cfg"]["model"].update(conv_feature_layers=layers))
    refused(CheckpointError, "is missing", lambda c: c["model"].pop("encoder.pos_conv.0.weight_v"))
    refused(CheckpointError, "1 missing", lambda c: c["model"].pop("encoder.layers.0.fc1.bias"))


FAIRSEQ2 = {
    "feature_extractor.conv_layers.": "encoder_frontend.feature_extractor.layers.",
    "feature_projection.layer_norm.": "encoder_frontend.post_extract_layer_norm.",
    "feature_projection.projection.": "encoder_frontend.model_dim_proj.",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder_frontend.pos_encoder.conv.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder_frontend.pos_encoder.conv.weight_v",
    "encoder.pos_conv_embed.conv.": "encoder_frontend.pos_encoder.conv.",
    ".attention.out_proj.": ".self_attn.output_proj.",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense.": ".ffn.inner_proj.",
    ".feed_forward.output_dense.": ".ffn.output_proj.",
    ".final_layer_norm.": ".ffn_layer_norm.",
    "masked_spec_embed": "masker.temporal_mask_embed",
    "quantizer.codevectors": "quantizer.entries",
    "quantizer.weight_proj.": "quantizer.entry_proj.",
    "project_q.": "final_target_proj.",
    "project_hid.": "final_proj.",
}
"""Names in transformers -> in fairseq2 0.8 (the modules of its ``Wav2Vec2Model``)."""


def as_fairseq2(model, *, pre: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of a model of transformers by the names of fairseq2."""
    state = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("wav2vec2.")
        if name.startswith("encoder.layers.") and ".layer_norm." in name:
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        elif name.startswith("encoder.layer_norm.") and not pre:
            name = f"encoder_frontend.{name.removeprefix('encoder.')}"
        elif name.startswith("feature_extractor.conv_layers.0.layer_norm.") and not pre:
            name = name.replace("layer_norm", "group_norm")
        for theirs, new in FAIRSEQ2.items():
            if theirs in name:
                name = name.replace(theirs, new)
                break
        if name.startswith("feature_extractor"):
            name = name.replace("feature_extractor.conv_layers.", FAIRSEQ2["feature_extractor.conv_layers."])
        state[name] = value
    return state


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_fairseq2(tmp_path, pre, wrapped):
    changes = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if pre else {}
    model = of_transformers("Wav2Vec2ForPreTraining", **changes)
    state = as_fairseq2(model, pre=pre) | {"quantizer.num_updates": torch.zeros(())}
    assert any("encoder_frontend.layer_norm" in name for name in state) is not pre
    torch.save({"model": state, "fs2": True} if wrapped else state, tmp_path / "omni.pt")
    loaded = load_any(tmp_path / "omni.pt")
    assert loaded.cfg.normalize is pre
    with torch.no_grad():
        theirs = model.wav2vec2(normalised(sound(), wanted=pre), output_hidden_states=True)
    states = theirs.hidden_states[:-1] if pre else theirs.hidden_states
    assert largest(encoder_of(loaded, tmp_path), states, theirs.last_hidden_state) < 1e-4
    model.save_pretrained(tmp_path / "hf")
    for name, value in load_any(tmp_path / "hf").state.items():
        assert torch.equal(loaded.state[name], value), name
    assert loaded.info == {"library": "fairseq2", "objective": "wav2vec2"}
    tuned = {name: v for name, v in state.items() if not name.startswith(("quantizer", "final_target"))}
    torch.save(tuned, tmp_path / "ctc.pt")
    assert load_any(tmp_path / "ctc.pt").tokens is None


def test_wavlm_of_torchaudio(tmp_path):
    torch.manual_seed(2)
    convs = [(16, kernel, stride) for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)]
    model = shake(torchaudio.models.wavlm_model(
        "group_norm", convs, False, 48, 0.0, 16, 4, 2, 4, 320, 800, 0.0, 96, 0.0, 0.0, False, 0.0, None
    ))  # fmt: skip
    torch.save(model.state_dict(), tmp_path / "wavlm.pth")
    encoder = load_any_encoder(tmp_path / "wavlm.pth")
    with torch.no_grad():
        theirs, _ = model.extract_features(sound())
        ours = encoder(sound(), layers=True).layers[1:]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-4


def test_heads_of_torchaudio(tmp_path):
    reference = import_fairseq_model(of_fairseq(tuned=32)).eval()
    bundle = ("-", *torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H.get_labels()[1:])
    assert "".join(bundle[1:]) == LETTERS
    rows = [0, *range(4, 32)]  # a pipeline leaves out the special symbols
    state = reference.state_dict()
    state |= {f"aux.{leaf}": state[f"aux.{leaf}"][rows] for leaf in ("weight", "bias")}
    torch.save(state, tmp_path / "model.pt")
    assert load_any(tmp_path / "model.pt").tokens is None
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS))
    recogniser, tokens = load_recogniser(tmp_path / "model.pt")
    assert tokens.symbols == ("<blank>", *LETTERS.lower())
    with torch.no_grad():
        theirs, _ = reference(sound())
        ours, _ = recogniser(sound())
    torch.testing.assert_close(ours, theirs[..., rows].log_softmax(-1), atol=1e-4, rtol=0)


def test_a_name_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    of_transformers("HubertModel").save_pretrained(tmp_path / "hub")
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_any("hf:org/name@v1").cfg.encoder.dim == SMALL["hidden_size"]
    assert asked == [("org/name", "v1")]
    (tmp_path / "hub" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither safetensors nor"):
        load_any("hf:org/name")

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"hf:org/name: the hub cannot be reached"):
        load_any("hf:org/name")
    with pytest.raises(ConfigError, match="is named hf:org/name"):
        load_any("hf:a/b/c")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'speechssl\[hf\]'"):
        load_any("hf:org/name")
