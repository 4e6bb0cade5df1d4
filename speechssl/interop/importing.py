"""``speechssl import``: a model of another library as one of our model folders.

In: a path or ``hf:org/name``, recordings. Out: a folder, written only when the model gives the other library's numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.config import ImportConfig
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE, decode, probe
from speechssl.interop.any_model import encoder_of, local_path, read_foreign
from speechssl.interop.comparison import compared, difference_table, peer_of
from speechssl.interop.model_folder import save_model

__all__ = ["import_model"]

SILENCE = SAMPLE_RATE // 2


@dataclass(frozen=True)
class _Labels:
    """A label set that is plain values already."""

    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.values


def import_model(source: str, output: Path, cfg: ImportConfig, say: Callable[[str], object] = print) -> None:
    """Write a model as a folder of ours, with its heads and labels; ``say`` gets the comparison.

    Raises
    ------
    ConfigError
        The output exists, or the model has something that our encoder cannot express.
    CheckpointError
        The model cannot be read, is ours already, or differs by more than the tolerance; nothing is written then.
    AudioError
        A recording cannot be used.
    """
    if output.exists():
        raise ConfigError(f"{output} exists; name a folder that is not there yet")
    path = local_path(source)
    foreign = read_foreign(path)
    if foreign is None:
        raise CheckpointError(f"{source}: no model of another library; a model folder of ours is used as it is")
    model = foreign.model()
    encoder = encoder_of(model, source)
    waves = list(_waves(cfg))
    if foreign.left_out:
        say(f"left out: {foreign.left_out}")
    info = {**model.info, "source": source}
    peer = peer_of(foreign, path)
    if peer is None:
        say("not compared: transformers is not installed (pip install 'speechssl[hf]')")
    else:
        differences = compared(model, encoder, peer, waves)
        seconds = sum(len(wave) for wave in waves) / SAMPLE_RATE
        sound = f"{len(waves)} recordings" if cfg.audio else "noise (--audio names recordings)"
        say(f"compared with {peer.origin} on {seconds:.1f} s of {sound}, silence included:")
        say(difference_table(differences))
        worst = max(differences, key=lambda each: each.relative)
        if not worst.relative <= cfg.tolerance:
            raise CheckpointError(
                f"{source}: {worst.output} differs by {worst.relative:.2e} of its largest value, more than "
                f"--tolerance {cfg.tolerance:g}; {output} is not written"
            )
        info["largest_difference"] = worst.relative
    extra = {name: value for name, value in model.state.items() if not name.startswith("encoder.")}
    labels = None if model.tokens is None else _Labels(model.tokens)
    save_model(output, encoder=encoder, extra=extra, tokens=labels, info=info)
    heads = sorted({name.split(".")[0] for name in extra})
    say(f"{output}: encoder{''.join(f', {head}' for head in heads)}")


def _waves(cfg: ImportConfig) -> Iterable[Tensor]:
    """Yield the audio to compare on, each with silence after it."""
    for name in cfg.audio:
        path = Path(name)
        seconds = min(cfg.seconds, probe(path).duration)
        yield _with_silence(torch.from_numpy(decode(path, item=name, duration=seconds)))
    if not cfg.audio:
        noise = torch.randn(int(cfg.seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(1))
        yield _with_silence(0.05 * noise)


def _with_silence(wave: Tensor) -> Tensor:
    return torch.nn.functional.pad(wave.float(), (0, SILENCE))
