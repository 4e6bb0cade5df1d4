"""ONNX graphs of encoders and recognisers, in the layouts of onnxruntime, onnx-asr and sherpa-onnx.

In: a model folder's content and its module. Out: ``model.onnx`` and the files that its reader wants. Batch and length
are dynamic. Waveforms are normalised inside the graph where the model asks for it. The graph is traced through
the plain paths, whose operators ONNX has.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.core.errors import ConfigError
from speechssl.core.files import write_atomic, write_json
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.interop.export.peer import Answer, Peer, collapsed, missing, symbols_of
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths
from speechssl.models.norm import WAVEFORM_EPS, frame_mask

__all__ = [
    "FLOAT_MODEL",
    "INT8_MODEL",
    "open_onnx",
    "open_sherpa",
    "quantise",
    "write_onnx",
    "write_onnx_asr",
    "write_sherpa",
]

FLOAT_MODEL, INT8_MODEL = "model.onnx", "model.int8.onnx"
PRODUCTS = ["MatMul", "Gemm"]
"""Operators whose weights `quantise` stores in 8 bits."""
IMPOSSIBLE = -1e9
"""Log-probability of every symbol but the blank on padding."""
LARGEST_FILE = 1_800_000_000
"""Bytes of weights that fit into a graph of ONNX (2 GiB); more of them lie in a file beside it."""
SHERPA_EPS = 1e-5
"""Added by sherpa-onnx to the variance of each waveform."""


class _Graph(nn.Module):
    """What is traced: (waves [B, T], lengths [B]) -> log-probabilities [B, F, V], or features [B, F, D] without a head.

    On padding the blank is certain, so that a reader need not know how many frames are valid. Features are 0 there.
    """

    def __init__(self, encoder: SpeechEncoder, head: nn.Linear | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, wave: Tensor, lengths: Tensor) -> Tensor:
        output = self.encoder(wave, lengths)
        assert output.frame_lengths is not None
        padding = ~frame_mask(output.frame_lengths, output.x.shape[1])[..., None]
        if self.head is None:
            return output.x.masked_fill(padding, 0.0)
        values = self.head(output.x).log_softmax(-1)
        blank = torch.full((values.shape[-1],), IMPOSSIBLE)
        blank[0] = 0.0
        return torch.where(padding, blank, values)


class _Alone(nn.Module):
    """What sherpa-onnx wants: waves [B, T] that it has normalised, without lengths -> log-probabilities [B, F, V].

    It divides by ``sqrt(v + SHERPA_EPS)`` for a variance v, and we by ``sqrt(v + WAVEFORM_EPS)``. Its waves have the
    variance r = v / (v + SHERPA_EPS), so that ours are them divided by ``sqrt(r + (1 - r) WAVEFORM_EPS / SHERPA_EPS)``.
    """

    def __init__(self, encoder: SpeechEncoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = SpeechEncoder(replace(encoder.cfg, normalize=False))
        self.encoder.load_state_dict(encoder.state_dict())
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        share = WAVEFORM_EPS / SHERPA_EPS
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) * (1 - share) + share)
        return self.head(self.encoder(x).x).log_softmax(-1)


def _head(model: ModelFolder) -> nn.Linear | None:
    if model.tokens is None:
        return None
    weights = model.part("head")
    outputs, inputs = weights["weight"].shape
    head = nn.Linear(inputs, outputs)
    head.load_state_dict(weights)
    return head


def _write_graph(path: Path, graph: nn.Module, inputs: dict[str, Tensor], output: str, shortest: int) -> None:
    """Trace a graph and write it; the inputs are examples, whose first dimension is the batch."""
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise missing("onnx and onnxscript", "onnx", "the export to ONNX") from error
    del onnx, onnxscript  # torch.onnx imports them itself
    batch, samples = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("samples", min=shortest)
    shapes = tuple({0: batch, 1: samples} if value.ndim == 2 else {0: batch} for value in inputs.values())
    size = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    with plain_paths(), _quiet(), torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            path,
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=shapes,
            external_data=size > LARGEST_FILE,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notes of the exporter, which are for its developers."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_onnx(folder: Path, model: ModelFolder, encoder: SpeechEncoder) -> str:
    """Write ``model.onnx`` (``input_values``, ``input_lengths`` -> ``logprobs`` or ``features``) and ``vocab.txt``.

    Every encoder of ours can be written.
    """
    head = _head(model)
    length = encoder.frontend.receptive + 5 * encoder.hop
    inputs = {
        "input_values": torch.randn(2, int(length)) * 0.1,
        "input_lengths": torch.tensor([length, length - encoder.hop]),
    }
    name = "features" if head is None else "logprobs"
    _write_graph(folder / FLOAT_MODEL, _Graph(encoder, head), inputs, name, int(encoder.frontend.receptive))
    if head is not None:
        _write_vocabulary(folder / "vocab.txt", model)
    facts = {"sampling_rate": SAMPLE_RATE, "hop": encoder.hop, "receptive_field": int(encoder.frontend.receptive)}
    write_json(folder / "config.json", facts, indent=2)
    return f"onnxruntime graph, output {name}"


def write_onnx_asr(folder: Path, model: ModelFolder, encoder: SpeechEncoder) -> str:
    """Write the folder that ``onnx_asr.load_model("wav2vec2-ctc", folder)`` reads.

    Raises ConfigError for a model without a CTC head.
    """
    _require_head(model, "onnx-asr")
    write_onnx(folder, model, encoder)
    write_json(folder / "config.json", {"model_type": "wav2vec2-ctc", "subsampling_factor": encoder.hop}, indent=2)
    return "onnx-asr model wav2vec2-ctc"


def write_sherpa(folder: Path, model: ModelFolder, encoder: SpeechEncoder) -> str:
    """Write ``model.onnx`` and ``tokens.txt`` for ``OfflineRecognizer.from_omnilingual_asr_ctc``.

    That reader always normalises the waveform, with more added to its variance than we add. The graph makes up for the
    difference exactly.

    Raises ConfigError for a model without a CTC head, and for one whose waveforms are not normalised.
    """
    _require_head(model, "sherpa-onnx")
    if not encoder.cfg.normalize:
        raise ConfigError(
            "sherpa-onnx gives every waveform mean 0 and variance 1, and this model was trained on waveforms as they "
            "are (model.normalize = false): its text would differ. Export with --to onnx or onnx-asr, or train with "
            "model.normalize = true"
        )
    head = _head(model)
    assert head is not None
    example = {"x": torch.randn(2, int(encoder.frontend.receptive + 5 * encoder.hop))}
    _write_graph(folder / FLOAT_MODEL, _Alone(encoder, head), example, "logits", int(encoder.frontend.receptive))
    _write_vocabulary(folder / "tokens.txt", model)
    return "sherpa-onnx omnilingual CTC"


def _require_head(model: ModelFolder, reader: str) -> None:
    if model.tokens is None:
        raise ConfigError(f"{reader} transcribes, and this model has no CTC head: fine-tune it, or export --to onnx")


def _write_vocabulary(path: Path, model: ModelFolder) -> None:
    symbols = symbols_of(model, "<blk>", "▁")
    write_atomic(path, "".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)))


def quantise(folder: Path) -> Path:
    """Write ``model.int8.onnx`` beside ``model.onnx``: weights of matrix products in 8 bits; return its path."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise missing("onnxruntime", "onnx", "int8") from error
    with _quiet():
        quantize_dynamic(
            folder / FLOAT_MODEL,
            folder / INT8_MODEL,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=PRODUCTS,
        )
    return folder / INT8_MODEL


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "onnx", "the comparison with ONNX") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _vocabulary(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.rsplit(" ", 1)[0] for line in lines]


def open_onnx(folder: Path, *, int8: bool = False) -> Peer:
    """Return what onnxruntime makes of a folder of `write_onnx` or `write_onnx_asr`.

    Raises ConfigError when onnxruntime is not installed.
    """
    session = _session(folder / (INT8_MODEL if int8 else FLOAT_MODEL))
    symbols = _vocabulary(folder / "vocab.txt")

    def answer(wave: Tensor) -> Answer:
        inputs = {"input_values": wave[None].numpy(), "input_lengths": torch.tensor([len(wave)]).numpy()}
        values = torch.from_numpy(session.run(None, inputs)[0][0])
        return Answer(values, collapsed(values, symbols) if symbols else None)

    return answer


def open_sherpa(folder: Path, *, int8: bool = False) -> Peer:
    """Return what sherpa-onnx reads with a folder of `write_sherpa`; the values are those of onnxruntime on its input.

    Raises ConfigError when onnxruntime or sherpa-onnx is not installed.
    """
    try:
        import sherpa_onnx
    except ImportError as error:
        raise missing("sherpa-onnx", "sherpa", "the comparison with sherpa-onnx") from error
    path = folder / (INT8_MODEL if int8 else FLOAT_MODEL)
    session = _session(path)
    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(path), tokens=str(folder / "tokens.txt"), num_threads=1
    )

    def answer(wave: Tensor) -> Answer:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, wave.numpy())
        recogniser.decode_stream(stream)
        x = functional.layer_norm(wave, wave.shape, eps=SHERPA_EPS)
        values = torch.from_numpy(session.run(None, {"x": x[None].numpy()})[0][0])
        return Answer(values, " ".join(stream.result.text.split()))

    return answer
