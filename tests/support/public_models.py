"""Random models in the layouts of public libraries, whose norms are not trivial: small ones, unless sizes are given."""

import json
from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 96,
    "conv_dim": (16, 16, 16, 16, 16, 16, 24),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 6,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "conv_depthwise_kernel_size": 7,
    "tdnn_dim": (8, 8),
}
"""Sizes for any configuration of transformers; one head, as a width of 64 has by the rule of published models."""
LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


def shake(model: nn.Module, seed: int = 3) -> nn.Module:
    """Give norms, biases and gates values of their own; return the model in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            own = any(part in name for part in ("norm", "bias", "original0", "weight_g", "rel_", "running_"))
            if own and value.is_floating_point():
                noise = 0.1 * torch.randn(value.shape, generator=generator)
                value.add_(noise.abs() if name.endswith("running_var") else noise)
    return model.eval()


def of_transformers(task: str, **changes):
    """Return a model of transformers, such as ``HubertForCTC``."""
    import transformers

    torch.manual_seed(5)
    model_class = getattr(transformers, task)
    sizes = {} if changes.pop("base", False) else SMALL
    if "Data2Vec" in task:
        sizes = {name: value for name, value in sizes.items() if name != "num_conv_pos_embeddings"}
    if "Conformer" in task:
        sizes = {"hidden_act": "swish"} | sizes
    return shake(model_class(model_class.config_class(**sizes | {"vocab_size": len(LETTERS) + 4} | changes)))


def save_with_vocabulary(model, folder: Path, *, normalize: bool = False, order: str = "pad first", **tokenizer):
    """Write a folder of transformers with vocabulary and feature extractor; return the processor."""
    import transformers

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    symbols = [*special, *LETTERS] if order == "pad first" else [*LETTERS, *special[1:], special[0]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({symbol: row for row, symbol in enumerate(symbols)}))
    model.config.pad_token_id = symbols.index("<pad>")
    model.save_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json", **tokenizer)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize)
    processor = transformers.Wav2Vec2Processor(extractor, tokenizer)
    processor.save_pretrained(folder)
    return processor


class FairseqAttention(nn.Module):
    """The modules of fairseq's attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.dropout_module = nn.Dropout(0.0)
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))


class FairseqLayer(nn.Module):
    """The modules of fairseq's ``TransformerSentenceEncoderLayer``."""

    def __init__(self, dim: int, inner: int, heads: int) -> None:
        super().__init__()
        self.self_attn = FairseqAttention(dim, heads)
        self.dropout2 = self.dropout3 = nn.Dropout(0.0)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)


class FairseqModel(nn.Module):
    """The modules of fairseq's wav2vec 2.0 and HuBERT by their published names; torchaudio imports it."""

    def __init__(self, *, dim=64, inner=96, heads=1, layers=2, channels=16, pos=(16, 4), large=False, hubert=False):
        super().__init__()
        kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
        self.feature_extractor = nn.Module()
        self.feature_extractor.conv_layers = nn.ModuleList()
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            conv = nn.Conv1d(channels if i else 1, channels, kernel, stride, bias=large)
            norm = [nn.GroupNorm(channels, channels)] if i == 0 else []
            if large:
                norm = [nn.Sequential(nn.Identity(), nn.LayerNorm(channels), nn.Identity())]
            self.feature_extractor.conv_layers.append(nn.Sequential(conv, nn.Dropout(0.0), *norm, nn.GELU()))
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, dim)
        self.dropout_input = nn.Dropout(0.0)
        self.mask_emb = nn.Parameter(torch.rand(dim))
        self.encoder = nn.Module()
        conv = nn.Conv1d(dim, dim, pos[0], padding=pos[0] // 2, groups=pos[1])
        self.encoder.pos_conv = nn.Sequential(_weight_norm(conv), nn.Identity(), nn.GELU())
        self.encoder.layers = nn.ModuleList(FairseqLayer(dim, inner, heads) for _ in range(layers))
        self.encoder.layer_norm = nn.LayerNorm(dim)
        self.encoder.layer_norm_first, self.encoder.layerdrop = large, 0.0
        self.final_proj = nn.Linear(dim, 16)
        if hubert:
            self.label_embs_concat = nn.Parameter(torch.rand(9, 16))
        else:
            self.quantizer = nn.Module()
            self.quantizer.vars = nn.Parameter(torch.rand(1, 12, 8))
            self.quantizer.weight_proj = nn.Linear(channels, 12)
            self.project_q = nn.Linear(16, 16)


class FairseqTuned(nn.Module):
    """The encoder of fairseq's ``Wav2VecCtc``."""

    def __init__(self, model: nn.Module, outputs: int) -> None:
        super().__init__()
        self.w2v_model = model
        self.proj = nn.Linear(model.mask_emb.numel(), outputs)


def _weight_norm(conv: nn.Conv1d) -> nn.Conv1d:
    """Rename the kernel as weight normalisation did in torch before 2.1, which fairseq uses."""
    direction = conv.weight.detach() * 0.5
    del conv.weight
    conv.weight_v = nn.Parameter(direction)
    conv.weight_g = nn.Parameter(direction.norm(dim=(0, 1), keepdim=True))
    return conv


def of_fairseq(*, large=False, hubert=False, tuned=0, **sizes) -> nn.Module:
    """Return a model of fairseq under the class name that torchaudio's importer looks at."""
    torch.manual_seed(7)
    model = FairseqModel(large=large, hubert=hubert, **sizes)
    model.__class__ = type("HubertModel" if hubert else "Wav2Vec2Model", (FairseqModel,), {})
    if tuned:
        del model.final_proj
        for head in ("quantizer", "project_q", "label_embs_concat"):
            if hasattr(model, head):
                delattr(model, head)
        model = FairseqTuned(model, tuned)
        model.__class__ = type("HubertEncoder" if hubert else "Wav2VecEncoder", (FairseqTuned,), {})
    return shake(model)


def fairseq_settings(model: nn.Module, *, hubert=False) -> dict:
    """Return what fairseq writes of the settings of a model."""
    core = getattr(model, "w2v_model", model)
    large, layer = core.encoder.layer_norm_first, core.encoder.layers[0]
    settings = {
        "_name": "hubert" if hubert else "wav2vec2",
        "encoder_layers": len(core.encoder.layers),
        "encoder_attention_heads": layer.self_attn.num_heads,
        "layer_norm_first": large,
        "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2",
        "dropout": 0.25,
        "encoder_layerdrop": 0.125,
    }
    return settings | ({"label_rate": 50} if hubert else {"latent_groups": 2})


def fairseq_checkpoint(model: nn.Module, *, hubert=False, form="cfg") -> dict:
    """Return the content of a checkpoint: of today (``cfg``), or of fairseq 0.9 (``args``)."""
    core = getattr(model, "w2v_model", model)
    settings, task = fairseq_settings(model, hubert=hubert), {"normalize": core.encoder.layer_norm_first}
    state = model.state_dict()
    if core is not model:
        state = {f"w2v_encoder.{name}": value for name, value in state.items()}
        pretrained = Namespace(**settings, **task) if form == "args" else {"model": settings, "task": task}
        settings = {"_name": "wav2vec_ctc", "w2v_args": pretrained, "dropout": 0.0}
    if form == "args":
        return {"args": Namespace(**settings, **task), "model": state, "extra_state": {"epoch": 3}}
    return {"args": None, "cfg": {"model": settings, "task": task}, "model": state, "task_state": {}}
