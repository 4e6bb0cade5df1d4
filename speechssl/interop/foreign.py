"""A model of another library, on its way into ours.

In: tensors by the names of transformers and a configuration in its terms; the readers of the formats give both. Out: a
``ModelFolder``. Files without a configuration of sizes get one from the shapes of their tensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.interop.huggingface import POSITION, encoder_from_huggingface
from speechssl.interop.model_folder import ModelFolder

__all__ = ["KERNELS", "STRIDES", "Foreign", "Listened", "described"]

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""The stem of every published wav2vec 2.0 and HuBERT model."""
HEAD_CHANNELS, MOST_HEADS = 64, 16
"""Heads of 64 channels (BASE 12, LARGE 16), and 16 wider ones in models that are wider still (XLS-R, omniASR)."""

Listened = Callable[[Tensor], list[Tensor]]
"""Maps a wave [1, T] at 16 kHz, as it was recorded, to the outputs of the layers, the first one's input at first."""


@dataclass(frozen=True)
class Foreign:
    """An encoder in the terms of transformers, and heads in ours."""

    origin: str
    """The library that wrote it."""
    state: Mapping[str, Tensor]
    """The encoder's tensors by their names in transformers."""
    config: Mapping[str, Any]
    """The content of ``config.json`` of transformers."""
    normalize: bool | None
    """Whether waveforms are normalised; None: exactly where the stem has layer norm."""
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """Other weights by the names that they have in our model folders."""
    tokens: dict[str, Any] | None = None
    """The labels of a CTC head (``Tokens.to_dict``)."""
    objective: str = ""
    """What the heads were trained for, where it is one of our objectives."""
    left_out: str = ""
    """What of the file has no place here, and why; empty for nothing."""

    def model(self) -> ModelFolder:
        """Return it as a model folder's content.

        Raises
        ------
        ConfigError, CheckpointError
            As ``encoder_from_huggingface``; or a head is not finite.
        """
        encoder = encoder_from_huggingface(self.state, self.config, normalize=self.normalize)
        state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
        state |= {name: value.detach().float().contiguous() for name, value in self.heads.items()}
        info = {"library": self.origin} | ({"objective": self.objective} if self.objective else {})
        return ModelFolder(encoder.cfg, state, self.tokens, info)


def described(
    state: Mapping[str, Tensor],
    *,
    kind: str = "wav2vec2",
    pre: bool | None = None,
    heads: int | None = None,
    strides: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Return a configuration of transformers for the tensors of an encoder, named as there.

    Sizes follow from shapes. What shapes do not show is given, or taken from published models: ``strides`` 5, 2, 2, 2,
    2, 2, 2, ``heads`` of 64 channels, at most 16 of them, and layer norm before each branch (``pre``) exactly where the
    stem has layer norm.

    Raises
    ------
    CheckpointError
        A tensor that such a model must have is missing.
    ConfigError
        The strides are not given, and the kernels are not those of published models.
    """
    stem, layers = "feature_extractor.conv_layers.", "encoder.layers."
    try:
        count = len({name.removeprefix(stem).split(".")[0] for name in state if name.startswith(stem)})
        convs = [state[f"{stem}{i}.conv.weight"].shape for i in range(count)]
        direction = state[POSITION + "parametrizations.weight.original1"].shape
        depth = 1 + max(int(name.removeprefix(layers).split(".")[0]) for name in state if name.startswith(layers))
        inner = state[f"{layers}0.feed_forward.intermediate_dense.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"no wav2vec 2.0 or HuBERT model: {error} is missing") from error
    kernels = tuple(shape[2] for shape in convs)
    if strides is None and kernels != KERNELS:
        raise ConfigError(
            f"the file does not hold the strides of the stem, and its kernels {list(kernels)} are not those of "
            f"published models {list(KERNELS)}; save the model in the format of Hugging Face, which holds them"
        )
    normed = f"{stem}1.layer_norm.weight" in state
    dim, group, kernel = direction
    return {
        "model_type": kind,
        "conv_dim": [shape[0] for shape in convs],
        "conv_kernel": list(kernels),
        "conv_stride": list(strides or STRIDES),
        "conv_bias": f"{stem}0.conv.bias" in state,
        "feat_extract_norm": "layer" if normed else "group",
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads or max(1, min(dim // HEAD_CHANNELS, MOST_HEADS)),
        "intermediate_size": inner,
        "do_stable_layer_norm": normed if pre is None else pre,
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": dim // group,
    }
