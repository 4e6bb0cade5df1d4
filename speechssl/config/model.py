"""Settings of the encoder that every objective shares."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["EncoderConfig", "FrontendConfig", "ModelConfig"]


@dataclass(frozen=True)
class FrontendConfig:
    """Waveform convolution stem (wav2vec 2.0, section 2) or log-mel stem."""

    kind: Literal["waveform", "logmel"] = "waveform"
    """waveform: convolutions on samples. logmel: log-mel features, at about a thirtieth of the cost."""
    conv_layers: tuple[tuple[int, int, int], ...] = (
        (512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2),
    )  # fmt: skip
    """Channels, kernel and stride of each layer of the waveform stem."""
    norm: Literal["group", "layer"] = "group"
    """group: one group norm after the first layer (BASE). layer: layer norm after every layer (LARGE)."""
    bias: bool = False
    """Biases in the convolutions of the waveform stem."""
    n_mels: int = 80
    """log-mel stem: mel channels of a 25 ms window every 10 ms."""
    stack: int = 4
    """log-mel stem: 10 ms frames joined into one encoder frame (4: 25 frames a second)."""
    conv2d: int = 0
    """log-mel stem: channels of two 3 x 3 convolutions over time and mel channels, which take the place of joining: the
    product of their strides in time is ``stack`` (2, 3, 4 or 6). 0: none."""
    statistics: Literal["utterance", "past"] = "utterance"
    """log-mel stem: frames over which the mean and variance of a channel are taken. past: those up to the frame itself,
    as a causal encoder needs."""
    grad_scale: float = 0.1
    """Factor of the gradient that enters the waveform stem (fairseq's ``feature_grad_mult``)."""


@dataclass(frozen=True)
class EncoderConfig:
    """Feature projection, positional embedding, transformer or Conformer blocks."""

    block: Literal["transformer", "conformer"] = "transformer"
    """conformer: two half feed-forward layers around attention and a depthwise convolution (Gulati et al. 2020). Its
    blocks have norms of their own; ``norm`` says where one more is: before the first block (post), after the last
    (pre)."""
    dim: int = 768
    """Width of the transformer."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads of each block; a divisor of ``dim``."""
    ffn_dim: int = 3072
    """Width inside the feed-forward layers."""
    norm: Literal["post", "pre"] = "post"
    """Layer norm after each sublayer (post: BASE) or before it (pre: LARGE; fairseq's ``layer_norm_first``)."""
    conv_kernel: int = 31
    """Kernel of the depthwise convolution of Conformer blocks, in frames; odd."""
    conv_norm: Literal["layer", "none"] = "layer"
    """After that convolution. none: it is followed by no norm, as where the fixed batch norm of a pretrained model is
    part of its weights."""
    pos_kernel: int = 128
    """Kernel of the positional convolution, in frames."""
    pos_groups: int = 16
    """Groups of the positional convolution."""
    pos_depth: int = 1
    """Positional convolutions, one upon the other. 1: wav2vec 2.0. 5 of kernel 19: data2vec. 0: none."""
    relative_position: Literal["none", "gated", "alibi", "rotary", "rotary_input", "sinusoid"] = "none"
    """Distances between frames in attention. gated: WavLM's gated bias, one value a head and bucket of distances.
    alibi: a bias that falls with the distance, with a learned scale of each head (data2vec 2.0). rotary: rotation of
    queries and keys (RoPE). rotary_input: rotation of what they are projected from (wav2vec2-conformer of fairseq).
    sinusoid: a product with projected sinusoids of the distance (Transformer-XL)."""
    dropout: float = 0.1
    """On the outputs of attention and feed-forward layers."""
    attention_dropout: float = 0.1
    """On attention weights; above 0 attention on a CPU is slower."""
    activation_dropout: float = 0.0
    """Inside the feed-forward layers."""
    input_dropout: float = 0.1
    """On the projected features."""
    layer_drop: float = 0.05
    """Probability that a block is skipped in a step."""
    causal: bool = False
    """No frame sees a later one: causal attention, and a positional convolution that is padded on the left."""

    @property
    def is_standard(self) -> bool:
        """Whether the blocks and positions are those of wav2vec 2.0, which other programs know."""
        return self.block == "transformer" and self.pos_depth == 1 and self.relative_position == "none"


@dataclass(frozen=True)
class ModelConfig:
    """The encoder that every objective shares."""

    normalize: bool = False
    """Give each utterance's waveform zero mean and unit variance (LARGE)."""
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
