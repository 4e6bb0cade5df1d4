"""Compares a model that was read from another library's file with that library, layer by layer.

In: a ``Foreign``, where it came from, waves. Out: the largest difference of each layer. torchaudio answers for its own
files, transformers for all others; where transformers is not installed there is no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechssl.core.errors import CheckpointError
from speechssl.core.text_table import text_table
from speechssl.interop.checkpoint_file import read_checkpoint
from speechssl.interop.foreign import Foreign
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import exact_float32
from speechssl.models.norm import normalise_waveform

__all__ = ["Difference", "Peer", "compared", "difference_table", "peer_of"]

NORM_SETTINGS = {"layer": "layer_norm", "group": "group_norm"}


class Difference(NamedTuple):
    """How far one output lies from that of the other library."""

    output: str
    largest: float
    """The largest absolute difference."""
    scale: float
    """The largest absolute value, at least 1."""

    @property
    def relative(self) -> float:
        """The difference relative to the scale: float32 has about seven digits, whatever the size of the values."""
        return self.largest / self.scale


class Peer(NamedTuple):
    """The other library's model."""

    origin: str
    outputs: Callable[[Tensor], dict[str, Tensor]]
    """Maps a normalised wave [1, T] to its outputs by name: ``layer 0`` to ``layer N``, ``last``, ``scores``."""


def peer_of(foreign: Foreign, path: Path) -> Peer | None:
    """Return the model as the other library runs it; None where transformers is needed and not installed."""
    if foreign.origin == "torchaudio":
        return Peer("torchaudio", _torchaudio(foreign, path))
    try:
        import transformers
    except ImportError:
        return None
    return Peer(f"transformers {transformers.__version__}", _transformers(foreign, path))


def _transformers(foreign: Foreign, path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Load a folder by transformers' own means; give it the renamed tensors of any other file."""
    import transformers

    ctc = foreign.objective == "ctc"
    if path.is_dir():
        kind = transformers.AutoModelForCTC if ctc else transformers.AutoModel
        model: Any = kind.from_pretrained(path)
    else:
        config = transformers.AutoConfig.for_model(**{str(name): value for name, value in foreign.config.items()})
        model = transformers.AutoModel.from_config(config)
        missing, unknown = model.load_state_dict(dict(foreign.state), strict=False)
        if unknown or set(missing) - {"masked_spec_embed"}:
            raise CheckpointError(f"{path}: transformers has other tensors: {[*missing, *unknown][:3]}")
    model = model.float().eval()
    base = getattr(model, model.base_model_prefix, model)
    stable = bool(foreign.config.get("do_stable_layer_norm"))

    def outputs(wave: Tensor) -> dict[str, Tensor]:
        found = base(wave, output_hidden_states=True)
        states = found.hidden_states[:-1] if stable else found.hidden_states  # the last one has the final norm
        named = {f"layer {number}": state for number, state in enumerate(states)} | {"last": found.last_hidden_state}
        return named | ({"scores": _scores(model.lm_head, found.last_hidden_state)} if model is not base else {})

    return outputs


def _torchaudio(foreign: Foreign, path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    import torchaudio

    cfg = foreign.config
    settings: dict[str, Any] = {
        "extractor_mode": NORM_SETTINGS[cfg["feat_extract_norm"]],
        "extractor_conv_layer_config": list(zip(cfg["conv_dim"], cfg["conv_kernel"], cfg["conv_stride"], strict=True)),
        "extractor_conv_bias": cfg["conv_bias"],
        "encoder_embed_dim": cfg["hidden_size"],
        "encoder_pos_conv_kernel": cfg["num_conv_pos_embeddings"],
        "encoder_pos_conv_groups": cfg["num_conv_pos_embedding_groups"],
        "encoder_num_layers": cfg["num_hidden_layers"],
        "encoder_num_heads": cfg["num_attention_heads"],
        "encoder_ff_interm_features": cfg["intermediate_size"],
        "encoder_layer_norm_first": cfg["do_stable_layer_norm"],
        "encoder_layer_drop": 0.0,
    }
    rates = ("encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout", "encoder_dropout")
    settings |= dict.fromkeys(rates, 0.0)
    state = {name.removeprefix("wav2vec2."): value for name, value in read_checkpoint(path).items()}
    own = {name: value for name, value in state.items() if name.startswith(("feature_extractor.", "encoder.", "aux."))}
    outputs = len(own["aux.weight"]) if "aux.weight" in own else None
    if cfg["model_type"] == "wavlm":
        settings |= {"encoder_num_buckets": cfg["num_buckets"], "encoder_max_distance": 800}
        model = torchaudio.models.wavlm_model(**settings, aux_num_out=outputs)
    else:
        model = torchaudio.models.wav2vec2_model(**settings, aux_num_out=outputs)
    model.load_state_dict(own)
    head, model.aux = model.aux, None
    model.eval()

    def run(wave: Tensor) -> dict[str, Tensor]:
        layers, _ = model.extract_features(wave)
        last, _ = model(wave)
        named = {f"layer {number}": layer for number, layer in enumerate(layers, 1)} | {"last": last}
        return named | ({} if head is None else {"scores": _scores(head, last)})

    return run


def _scores(head: nn.Module, x: Tensor) -> Tensor:
    """Return the log-probabilities in the order of their size, for each library has its own order of symbols."""
    values: Tensor = head(x)
    return values.log_softmax(-1).sort(dim=-1, descending=True).values


@torch.no_grad()
def compared(model: ModelFolder, encoder: SpeechEncoder, peer: Peer, waves: Sequence[Tensor]) -> list[Difference]:
    """Return the largest difference of each output over all waves [T] at 16 kHz, full scale 1.

    Ours are computed from the wave as it is, so that its normalisation is compared, too.
    """
    head = {name: value for name, value in model.state.items() if name.startswith("head.")}
    found: dict[str, Difference] = {}
    with exact_float32():
        for wave in waves:
            output = encoder(wave[None], layers=True)
            ours: dict[str, Tensor] = {f"layer {number}": layer for number, layer in enumerate(output.layers)}
            ours["last"] = output.x
            if head:
                ours["scores"] = _ours(head, output.x)
            theirs = peer.outputs(normalise_waveform(wave[None], None) if model.cfg.normalize else wave[None])
            for name in ours.keys() & theirs.keys():
                old = found.get(name, Difference(name, 0.0, 1.0))
                found[name] = _wider(old, ours[name], theirs[name])
    return [found[name] for name in ours if name in found]


def _ours(head: Mapping[str, Tensor], x: Tensor) -> Tensor:
    values = nn.functional.linear(x, head["head.weight"], head["head.bias"])
    return values.log_softmax(-1).sort(dim=-1, descending=True).values


def _wider(old: Difference, ours: Tensor, theirs: Tensor) -> Difference:
    width = min(ours.shape[-1], theirs.shape[-1])  # a word boundary may have been added, which scores least
    gap = (ours[..., :width] - theirs[..., :width]).abs().max().nan_to_num(torch.inf)
    scale = theirs.abs().max().nan_to_num(1.0)
    return Difference(old.output, max(old.largest, float(gap)), max(old.scale, float(scale)))


def difference_table(differences: Sequence[Difference]) -> str:
    """Return a table of the differences."""
    rows = [[each.output, f"{each.largest:.2e}", f"{each.scale:.3g}", f"{each.relative:.2e}"] for each in differences]
    return text_table(["output", "largest difference", "largest value", "relative"], rows)
