"""The Python interface: a trained model as an object, and training as two functions.

In: paths of models, waveforms, configurations. Out: features and transcripts; run folders as the command line writes
them. ``speechssl.load``, ``speechssl.pretrain`` and ``speechssl.finetune`` are these functions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.asr.ctc import CtcModel, recogniser_of
from speechssl.asr.decoding.decoders import Decoder, build_decoder
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.transcribe import Recogniser, transcribe_blocks, transcribe_file
from speechssl.asr.transcription.transcript import Transcript
from speechssl.config import DecoderConfig, FinetuneConfig, ModelConfig, PretrainConfig, TranscribeConfig
from speechssl.config.load import from_dict, read_toml
from speechssl.core.errors import AudioError, ConfigError
from speechssl.core.precision import Setting, choose, device_kind
from speechssl.core.presets import find_config
from speechssl.data.audio.decode import SAMPLE_RATE, mono, resampled
from speechssl.data.audio.limits import AudioLimits, check_claims, check_samples
from speechssl.data.batches.batch import full_scale
from speechssl.interop.any_model import encoder_of, load_any
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import exact_float32

__all__ = ["SpeechModel", "Waveform", "finetune", "load", "pretrain"]

Waveform = npt.NDArray[Any] | Tensor
"""[T], or [channels, T] as torchaudio returns it, at any rate: floats with full scale 1, or int16."""

C = TypeVar("C", PretrainConfig, FinetuneConfig)


@dataclass(frozen=True)
class SpeechModel:
    """A trained model in evaluation mode; made by :func:`load`."""

    path: Path
    """Where it was read from."""
    encoder: SpeechEncoder = field(repr=False)
    """The encoder itself, a ``torch.nn.Module`` on the chosen device."""
    recogniser: CtcModel | None = field(default=None, repr=False)
    """The encoder with its CTC head; None for a model that was pretrained only."""
    tokens: Tokens | None = field(default=None, repr=False)
    """What the head's outputs stand for."""
    precision: Setting = "auto"
    """Precision of transcription; see :func:`load`."""
    _decoders: dict[DecoderConfig, Decoder] = field(default_factory=dict, init=False, repr=False)

    @property
    def config(self) -> ModelConfig:
        """The sizes of the encoder and of its stem."""
        return self.encoder.cfg

    @property
    def hop(self) -> int:
        """Samples at 16 kHz from one frame to the next: 320 for wav2vec 2.0 BASE, which is 20 ms."""
        return int(self.encoder.hop)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.encoder.mask_embedding.device

    def features(self, waveform: Waveform, sample_rate: int, layer: int | Literal["all"] | None = None) -> Tensor:
        """Return the encoder's frames for one recording.

        The whole waveform is encoded in one pass: cut recordings of more than a minute or so, because attention takes
        time proportional to the square of their length.

        Parameters
        ----------
        waveform
            numpy array or torch tensor, [T] or [channels, T]; channels are averaged. Floats with full scale 1,
            or int16.
        sample_rate
            Samples a second, 4,000 to 192,000; anything but 16,000 is resampled as by every other part of the package.
        layer
            None: the output of the last block, after the final norm of a pre-norm encoder. 0: the input of the first
            block, which is the projected features with the positional convolution added, after layer norm in a
            post-norm encoder (BASE). i: the output of block i, before any final norm. ``"all"``: layers 0, 1, 2 ... of
            these. This is ``hidden_states`` of transformers 5.

        Returns
        -------
        Tensor
            [frames, dim] float32 on the CPU, or [layers + 1, frames, dim] for ``"all"``. Frame f sees the samples from
            ``f * hop`` on.

        Raises
        ------
        AudioError
            The waveform is empty, holds NaN or infinity, is far beyond full scale, or has an impossible rate.
        ValueError
            The waveform has another shape or type or is shorter than one frame, or the layer does not exist.
        """
        last = len(self.encoder.blocks)
        if layer is not None and layer != "all" and not (isinstance(layer, int) and 0 <= layer <= last):
            raise ValueError(f"layer = {layer!r}: give None for the last output, 0 to {last}, or 'all'")
        wave = torch.from_numpy(_at_16_khz(waveform, sample_rate))
        receptive = int(self.encoder.frontend.receptive)
        if len(wave) < receptive:
            raise ValueError(
                f"the waveform lasts {len(wave) / SAMPLE_RATE * 1000:.1f} ms; "
                f"one frame needs {receptive / SAMPLE_RATE * 1000:.1f} ms"
            )
        batch = wave[None].to(self.device)
        with torch.no_grad(), exact_float32(), _evaluating(self.encoder):
            if layer is None:
                return self.encoder(batch).x[0].float().cpu()
            if layer == "all":
                return torch.cat(self.encoder(batch, layers=True).layers).float().cpu()
            return self.encoder(batch, stop_at=layer).x[0].float().cpu()

    def transcribe(
        self,
        audio: str | Path | Waveform,
        sample_rate: int | None = None,
        *,
        decoder: DecoderConfig | None = None,
    ) -> Transcript:
        """Return what is said in one recording of any length: ``text``, and ``words`` with start and end in seconds.

        The words are those of ``speechssl transcribe`` with the same decoder and precision.

        Parameters
        ----------
        audio
            A file of any format that the package reads, or a waveform as for :meth:`features`.
        sample_rate
            Samples a second of a waveform. Leave it out for a file.
        decoder
            How words are searched; None: greedily.

        Raises
        ------
        ConfigError
            The model has no CTC head, or the decoder cannot be built.
        AudioError
            The file or the waveform cannot be used; ``reason`` is a code, ``detail`` a sentence.
        ValueError
            A waveform without a sample rate, a file with one, or a waveform of another shape or type.
        """
        if self.recogniser is None or self.tokens is None:
            raise ConfigError(
                f"{self.path} holds a pretrained encoder without a CTC head, so it cannot transcribe; fine-tune it on "
                f'transcribed speech first: speechssl.finetune("finetune-1h", {{"init": "{self.path}", '
                f'"data.shards": "SHARDS", "output": "FOLDER"}}), or: '
                f"speechssl finetune finetune-1h --init {self.path} --data.shards SHARDS --output FOLDER"
            )
        decoder = decoder or DecoderConfig()
        cfg = TranscribeConfig(decoder=decoder)
        if decoder not in self._decoders:
            self._decoders[decoder] = build_decoder(decoder, self.tokens, model=self.path)
        bf16 = choose(self.precision, self.device.type).bf16
        recogniser = Recogniser(self.recogniser, self.tokens, self._decoders[decoder], bf16=bf16)
        if isinstance(audio, str | Path):
            if sample_rate is not None:
                raise ValueError(f"{audio} is a file, which says its own rate: leave sample_rate out")
            found = transcribe_file(recogniser, Path(audio), cfg)
        elif sample_rate is None:
            raise ValueError("a waveform needs sample_rate, its samples a second")
        else:
            found = transcribe_blocks(recogniser, [_at_16_khz(audio, sample_rate)], cfg, "waveform")
        if found.error is not None:
            raise found.error
        return found


def load(
    path: str | Path, *, device: Literal["auto", "cpu", "cuda"] = "auto", precision: Setting = "auto"
) -> SpeechModel:
    """Load a trained model.

    Parameters
    ----------
    path
        A model folder of this project (``runs/NAME/model``, ``runs/NAME/finetune/model``), a folder of transformers,
        ``hf:org/name``, or a file of fairseq, fairseq2 or torchaudio. A CTC head with a vocabulary transcribes.
    device
        ``auto`` takes a GPU where there is one.
    precision
        Of the matrix products in ``transcribe``, as on the command line: ``auto`` is bfloat16 where the device computes
        in it, else float32. ``features`` always computes in float32.

    Raises
    ------
    CheckpointError
        The path is missing, damaged, or holds no model.
    ConfigError
        The model has something that the encoder cannot express, or the device is not there.
    """
    path = Path(path)
    kind = device_kind(device)
    if device == "cuda" and kind != "cuda":
        raise ConfigError("device = 'cuda', but torch sees no CUDA device; use 'cpu' or 'auto'")
    found = load_any(path)
    if found.tokens is None:
        return SpeechModel(path, encoder_of(found, path).to(kind), precision=precision)
    recogniser, tokens = recogniser_of(found, path)
    recogniser.to(kind)
    return SpeechModel(path, recogniser.encoder, recogniser, tokens, precision)


def pretrain(
    config: PretrainConfig | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    allow_changes: bool = False,
) -> Path:
    """Pretrain an encoder; return its model folder, for :func:`load`. Called again, it resumes.

    Parameters
    ----------
    config
        A ``PretrainConfig``, the path of a TOML file, the name of a preset, or None for the defaults.
    overrides
        Settings by their dotted names, such as ``{"data.shards": "shards", "training.steps": 1000}``.
    allow_changes
        Resume although settings changed since the run began.

    Raises
    ------
    ConfigError
        The configuration, a key or a value cannot be used.
    DataError
        The shards cannot be used, or hold nothing to train on.
    CheckpointError, RunError, InterruptedRun
        From model folders, the run folder and the loop.
    """
    from speechssl.training.pretrain import pretrain as train

    return train(_settings(PretrainConfig, config, overrides), allow_changes=allow_changes)


def finetune(
    config: FinetuneConfig | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    allow_changes: bool = False,
) -> Path:
    """Fine-tune a recogniser with CTC; return its model folder, for :func:`load`. Called again, it resumes.

    ``init`` names the pretrained model; empty, the recogniser starts from random weights. Parameters and errors are
    those of :func:`pretrain`, with ``FinetuneConfig``.
    """
    from speechssl.asr.finetune import finetune as train

    return train(_settings(FinetuneConfig, config, overrides), allow_changes=allow_changes)


def _settings(cls: type[C], config: C | str | Path | None, overrides: Mapping[str, Any] | None) -> C:
    """Return a configuration with overrides in place; an unknown key or a wrong type is a ConfigError."""
    if config is None:
        base = cls()
    elif isinstance(config, cls):
        base = config
    elif isinstance(config, str | Path):
        base = read_toml(cls, find_config(str(config)))
    else:
        raise ConfigError(f"a {cls.__name__}, a path or a preset is needed, not a {type(config).__name__}")
    values: dict[str, Any] = {}
    for name, value in (overrides or {}).items():
        *tables, key = name.split(".")
        table = values
        there: Any = base
        for part in tables:
            table, there = table.setdefault(part, {}), getattr(there, part, None)
            if not isinstance(table, dict) or not (there is None or is_dataclass(there)):
                raise ConfigError(f"unknown key {name!r}: {part} is a value, not a table")
        table[key] = str(value) if isinstance(value, Path) else value
    _keep_kinds(values, base)
    return from_dict(cls, values, base=base)


def _keep_kinds(values: dict[str, Any], base: Any) -> None:
    """Name the kind of each changed table (an objective, a stem) that is not given another one."""
    for name, value in values.items():
        table = getattr(base, name, None)
        if isinstance(value, dict) and is_dataclass(table):
            if hasattr(table, "kind"):
                value.setdefault("kind", table.kind)
            _keep_kinds(value, table)


def _at_16_khz(waveform: Waveform, sample_rate: int) -> npt.NDArray[np.float32]:
    """Return a waveform as float32 [T] at 16 kHz with one channel, checked like decoded audio."""
    tensor = waveform.detach().cpu() if isinstance(waveform, Tensor) else torch.from_numpy(np.array(waveform))
    if not tensor.is_floating_point() and tensor.dtype != torch.int16:
        raise ValueError(f"a waveform of {tensor.dtype}: give floats with full scale 1, or int16")
    samples = full_scale(tensor).float().numpy()
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise ValueError(f"a waveform of shape {list(samples.shape)}: channels come first, so transpose it")
    if samples.ndim not in (1, 2):
        raise ValueError(f"a waveform of shape {list(samples.shape)}: give [samples] or [channels, samples]")
    if not samples.shape[-1]:
        raise AudioError("waveform", "no_samples", "it has no sample")
    limits = AudioLimits()
    check_claims("waveform", sample_rate, 1 if samples.ndim == 1 else len(samples), -1, limits)
    check_samples("waveform", samples, limits)
    wave = samples if samples.ndim == 1 else mono(samples.T)
    return wave if sample_rate == SAMPLE_RATE else np.concatenate(list(resampled([wave], sample_rate, SAMPLE_RATE)))


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode, and leave it in the mode that it had."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
