"""wav2vec2-conformer of transformers: its blocks in the terms of ours.

In: tensors by the names of transformers. Out: which of them are which of ours. The batch norm after the depthwise
convolution has fixed statistics here: it becomes part of the convolution's weight and bias.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speechssl.config import EncoderConfig

__all__ = ["block_names", "block_settings", "with_fixed_norms"]

POSITIONS = {"relative": "sinusoid", "rotary": "rotary_input", None: "none"}
"""``position_embeddings_type`` -> ``relative_position``."""
UNUSED = ("encoder.pos_conv_embed.", "encoder.embed_positions.")
"""A positional convolution that the model has and does not use; constants."""
EPSILON = 1e-5
"""Of the batch norm."""


def block_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `EncoderConfig` that make blocks those of a model's ``config.json``.

    Raises
    ------
    ValueError
        The model rotates by other angles.
    KeyError
        Its kind of positions is not known.
    """
    if config.get("rotary_embedding_base", 10_000) != 10_000:
        raise ValueError("only a rotary_embedding_base of 10000 is supported")
    return {
        "block": "conformer",
        "conv_kernel": config["conv_depthwise_kernel_size"],
        "conv_norm": "none",
        "relative_position": POSITIONS[config["position_embeddings_type"]],
        "norm": "pre",
        "pos_depth": 0,
    }


def block_names(cfg: EncoderConfig) -> tuple[dict[str, str], dict[str, str]]:
    """Return our name -> their name of modules with weight and bias, and of single tensors, for all blocks."""
    parts = {"attention_norm": "self_attn_layer_norm", "attention.out": "self_attn.linear_out",
             "norm": "final_layer_norm", "convolution.norm": "conv_module.layer_norm"}  # fmt: skip
    for ours, theirs in (("first", "ffn1"), ("last", "ffn2")):
        parts |= {f"{ours}.norm": f"{theirs}_layer_norm", f"{ours}.up": f"{theirs}.intermediate_dense",
                  f"{ours}.down": f"{theirs}.output_dense"}  # fmt: skip
    for ours, theirs in (("gated", "pointwise_conv1"), ("depthwise", "depthwise_conv"), ("out", "pointwise_conv2")):
        parts[f"convolution.{ours}"] = f"conv_module.{theirs}"
    single = {"project.weight": "linear_pos.weight", "content": "pos_bias_u", "place": "pos_bias_v"}
    modules: dict[str, str] = {}
    names: dict[str, str] = {}
    for i in range(cfg.layers):
        modules |= {f"blocks.{i}.{ours}": f"encoder.layers.{i}.{theirs}" for ours, theirs in parts.items()}
        if cfg.relative_position == "sinusoid":
            ours, theirs = f"blocks.{i}.attention.distance.", f"encoder.layers.{i}.self_attn."
            names |= {ours + mine: theirs + name for mine, name in single.items()}
    return modules, names


def with_fixed_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without batch norms, with biases for all convolutions, and without what is not used.

    Pointwise convolutions become matrices, and the learned vectors of each head [H, C] get our shape [H, 1, C].
    """
    new = {name: value for name, value in state.items() if not name.startswith(UNUSED) and ".batch_norm." not in name}
    for name in [name for name in new if name.endswith("conv_module.depthwise_conv.weight")]:
        module = name.removesuffix("depthwise_conv.weight")
        weight, shift, mean, variance = (
            state[f"{module}batch_norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = weight / torch.sqrt(variance + EPSILON)
        new[name] = new[name] * factor[:, None, None]
        new[f"{module}depthwise_conv.bias"] = shift - mean * factor
        for convolution in ("pointwise_conv1", "pointwise_conv2"):
            matrix = new[f"{module}{convolution}.weight"][..., 0]
            new |= {
                f"{module}{convolution}.weight": matrix,
                f"{module}{convolution}.bias": matrix.new_zeros(len(matrix)),
            }
    for name in [name for name in new if name.endswith(("pos_bias_u", "pos_bias_v"))]:
        new[name] = new[name][:, None]
    return new
