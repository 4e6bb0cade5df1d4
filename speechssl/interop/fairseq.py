"""Checkpoints of fairseq (wav2vec 2.0, HuBERT, both fine-tuned with CTC) and fairseq2 (wav2vec 2.0, omniASR W2V).

In: the content of a checkpoint, as ``read_checkpoint`` gives it. Out: a ``Foreign``. Neither library is needed. fairseq
stores its settings beside the weights; fairseq2 stores none, and sizes follow from shapes.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.interop.checkpoint_file import plain
from speechssl.interop.foreign import Foreign, described
from speechssl.interop.huggingface import WEIGHT_NORM
from speechssl.interop.vocabulary import ctc_head, fairseq_symbols

__all__ = ["is_fairseq", "is_fairseq2", "read_fairseq", "read_fairseq2"]

Renames = tuple[tuple[str, str], ...]
"""Beginnings of names, as regular expressions, and what takes their place."""

FAIRSEQ: Renames = (
    (r"mask_emb$", "masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
    (r"encoder\.(?=layers\.\d+\.final_layer_norm\.|layer_norm\.)", "encoder."),
)
FAIRSEQ2: Renames = (
    (r"masker\.temporal_mask_embed$", "masked_spec_embed"),
    (r"encoder_frontend\.feature_extractor\.layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"encoder_frontend\.feature_extractor\.layers\.(\d+)\.(layer|group)_norm\.",
     r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"encoder_frontend\.post_extract_layer_norm\.", "feature_projection.layer_norm."),
    (r"encoder_frontend\.model_dim_proj\.", "feature_projection.projection."),
    (r"encoder_frontend\.pos_encoder\.conv\.", "encoder.pos_conv_embed.conv."),
    (r"(?:encoder_frontend|encoder)\.layer_norm\.", "encoder.layer_norm."),
    (r"encoder\.layers\.(\d+)\.self_attn\.output_proj\.", r"encoder.layers.\1.attention.out_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.ffn\.inner_proj\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.ffn\.output_proj\.", r"encoder.layers.\1.feed_forward.output_dense."),
    (r"encoder\.layers\.(\d+)\.ffn_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
)  # fmt: skip
"""Names of each library -> those of transformers, as in fairseq2's own ``convert_wav2vec2_state_dict``."""

CONTRASTIVE = {
    "quantizer.weight_proj.": "quantizer.weight_proj.",
    "quantizer.entry_proj.": "quantizer.weight_proj.",
    "project_q.": "project_targets.",
    "final_target_proj.": "project_targets.",
    "final_proj.": "project_context.",
}
"""Beginnings of the names of wav2vec 2.0's heads in either library -> ours."""
ENTRIES = {"quantizer.vars", "quantizer.entries"}
GROUPS = 2
"""Codebooks of published models: shapes show their entries all together."""
IGNORED = ("quantizer.num_updates", "label_embs_concat", "target_glu.", "_ema.")
WRAPPED = "w2v_encoder.w2v_model."
"""Before the encoder's names in a fine-tuned model of fairseq."""


def is_fairseq(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has the parts that fairseq writes."""
    return isinstance(content.get("model"), dict) and bool({"cfg", "args"} & content.keys())


def is_fairseq2(content: Mapping[str, Any]) -> bool:
    """Whether a state dict, bare or under ``model``, has the names of fairseq2."""
    return any(".encoder_frontend." in f".{name}" for name in _state(content))


def read_fairseq(content: Mapping[str, Any], path: Path) -> Foreign:
    """Return the model of a checkpoint of fairseq.

    The labels of a fine-tuned model are those in the checkpoint, else those of ``dict.ltr.txt`` in its folder; without
    them the head is left out.

    Raises
    ------
    ConfigError
        Conformer layers, or positions other than one convolution.
    CheckpointError
        Tensors or settings of such a model are missing.
    """
    state = dict(content["model"])
    settings, waves = _settings(content)
    head = {leaf: state.pop(f"w2v_encoder.proj.{leaf}", None) for leaf in ("weight", "bias")}
    tuned = any(name.startswith(WRAPPED) for name in state)
    state = {name.removeprefix(WRAPPED): value for name, value in state.items()}
    for name, allowed in (("layer_type", "transformer"), ("pos_conv_depth", 1), ("activation_fn", "gelu"),
                          ("conv_pos_batch_norm", False)):  # fmt: skip
        if settings.get(name, allowed) != allowed:
            raise ConfigError(f"{path}: {name} = {settings[name]!r} of fairseq is not read, only {allowed!r} is")
    encoder, rest = _renamed(state, FAIRSEQ, path)
    unit_labels = state.get("label_embs_concat")
    hubert = unit_labels is not None or "label_rate" in settings
    config = described(
        encoder,
        kind="hubert" if hubert else "wav2vec2",
        pre=bool(settings.get("layer_norm_first", False)),
        heads=int(settings["encoder_attention_heads"]) if "encoder_attention_heads" in settings else None,
        strides=_strides(settings.get("conv_feature_layers"), path),
    )
    for theirs, ours in (("dropout", "hidden_dropout"), ("attention_dropout", "attention_dropout"),
                         ("activation_dropout", "activation_dropout"), ("dropout_input", "feat_proj_dropout"),
                         ("encoder_layerdrop", "layerdrop")):  # fmt: skip
        if theirs in settings:
            config[ours] = float(settings[theirs])
    normalize = waves.get("normalize")
    made = Foreign("fairseq", encoder, config, None if normalize is None else bool(normalize))
    if tuned:
        return _with_labels(made, content, head, path)
    if hubert:
        labels = {} if unit_labels is None else {"embeddings": unit_labels}
        labels |= {name.replace("final_proj", "projection"): value for name, value in rest.items()}
        return _with(made, labels, "hubert")
    return _with(made, _contrastive(state, rest, int(settings.get("latent_groups", GROUPS))), "wav2vec2")


def read_fairseq2(content: Mapping[str, Any], path: Path) -> Foreign:
    """Return the model of a checkpoint of fairseq2; raises as :func:`read_fairseq`.

    The checkpoint has no settings: `described` says what is taken for granted. It has no labels either, so a CTC head
    is left out.
    """
    state = {name.removeprefix("module."): value for name, value in _state(content).items()}
    encoder, rest = _renamed(state, FAIRSEQ2, path)
    pre = not any(name.startswith("encoder_frontend.layer_norm.") for name in state)
    made = Foreign("fairseq2", encoder, described(encoder, pre=pre), None)
    if ENTRIES & state.keys():
        return _with(made, _contrastive(state, rest), "wav2vec2")
    return Foreign("fairseq2", encoder, made.config, None, left_out="the CTC head (the file has no labels)")


def _with(made: Foreign, heads: Mapping[str, Tensor], objective: str) -> Foreign:
    return Foreign(made.origin, made.state, made.config, made.normalize, heads, None, objective if heads else "")


def _state(content: Mapping[str, Any]) -> dict[str, Any]:
    inner = content.get("model")
    return dict(inner if isinstance(inner, dict) else content)


def _renamed(state: Mapping[str, Any], renames: Renames, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the encoder's tensors by the names of transformers, and those of known heads."""
    encoder, heads = {}, {}
    for name, value in state.items():
        pattern, new = next(((p, n) for p, n in renames if re.match(p, name)), ("", ""))
        if pattern:
            renamed = re.sub(f"^{pattern}", new, name)
            encoder[WEIGHT_NORM.get(renamed, renamed)] = value
        elif name.startswith(tuple(CONTRASTIVE)):
            heads[name] = value
        elif name not in ENTRIES and not name.startswith(IGNORED):
            raise CheckpointError(f"{path}: {name!r} is no part of wav2vec 2.0 or HuBERT; other models are not read")
    return encoder, heads


def _contrastive(state: Mapping[str, Tensor], rest: Mapping[str, Tensor], groups: int = GROUPS) -> dict[str, Tensor]:
    """Return the heads of wav2vec 2.0 by our names; nothing without a quantiser, or with a GLU behind the targets."""
    entries = next((state[name] for name in ENTRIES if name in state), None)
    if entries is None or any(name.startswith("target_glu.") for name in state):
        return {}
    heads = {"quantizer.codebooks": entries.flatten(0, 1).unflatten(0, (groups, -1))}
    for name, value in rest.items():
        start = next(start for start in CONTRASTIVE if name.startswith(start))
        heads[CONTRASTIVE[start] + name.removeprefix(start)] = value
    return heads


def _settings(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the (pretrained) model, and those of its task.

    Old checkpoints have one flat namespace; a fine-tuned model has those of its pretrained one in ``w2v_args``.
    """
    args = plain(content.get("cfg") or content.get("args") or {})
    for _ in range(2):
        model = args.get("model") if isinstance(args.get("model"), dict) else args
        task = args.get("task") if isinstance(args.get("task"), dict) else args
        if not isinstance(model.get("w2v_args"), dict):
            return model, task
        outer, args = task, model["w2v_args"]
        if "normalize" in outer:
            inner = args["task"] if isinstance(args.get("task"), dict) else args
            inner["normalize"] = outer["normalize"]
    raise CheckpointError("the settings of fairseq hold those of another model within another model")


def _strides(text: Any, path: Path) -> tuple[int, ...] | None:
    """Return the strides in fairseq's ``conv_feature_layers``, such as ``[(512, 10, 5)] + [(512, 3, 2)] * 4``."""
    if text is None:
        return None
    try:
        layers = _list(ast.parse(str(text), mode="eval").body)
        return tuple(int(layer[2]) for layer in layers)
    except (SyntaxError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path}: conv_feature_layers = {text!r} cannot be read") from error


def _list(node: ast.expr) -> list[Any]:
    """Return the value of sums and multiples of lists."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _list(left) + _list(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if times < 100:
            return _list(left) * times
    return list(ast.literal_eval(node))


def _with_labels(made: Foreign, content: Mapping[str, Any], head: Mapping[str, Tensor | None], path: Path) -> Foreign:
    """Return a fine-tuned model with its CTC head, where its labels are known."""
    weight, bias = head["weight"], head["bias"]
    if weight is None or bias is None:
        return made
    dictionary = plain((content.get("task_state") or {}).get("target_dictionary")) or {}
    symbols = _numbered(dictionary.get("symbols")) or fairseq_symbols(path, len(weight))
    if symbols is None:
        why = f"the CTC head (no labels in the file; put its dict.ltr.txt into {path.parent})"
        return Foreign(made.origin, made.state, made.config, made.normalize, left_out=why)
    heads, tokens = ctc_head(weight, bias, symbols, blank=0)
    return Foreign(made.origin, made.state, made.config, made.normalize, heads, tokens, "ctc")


def _numbered(symbols: Iterable[str] | None) -> dict[int, str] | None:
    return None if symbols is None else dict(enumerate(symbols))
