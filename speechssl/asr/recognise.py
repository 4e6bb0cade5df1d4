"""Runs a recogniser over evaluation batches, for validation and scoring.

In: a ``CtcModel`` and padded batches. Out: for each utterance its log-probabilities, padding cut off, on the CPU.
On a CPU the padding is cut off before the model, too (asr/engine/packed.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.asr.ctc import CtcModel
from speechssl.asr.engine.packed import PackedRecogniser, can_pack
from speechssl.core.ledger import Entry
from speechssl.data.batches.batch import Batch, full_scale
from speechssl.models.kernels.choice import exact_float32

__all__ = ["Listener", "Recognised", "frame_log_probs", "listener", "recognise"]

Listener = Callable[[Sequence[Tensor]], list[Tensor]]
"""Maps waves [T], int16 or float32, to the log-probabilities [F, V] (CPU, float32) of each."""


@dataclass(frozen=True)
class Recognised:
    """The model's output for one utterance."""

    id: str
    text: str | None
    """The transcript, as in the manifest."""
    wave: Tensor
    """[T] float32 samples at 16 kHz."""
    log_probs: Tensor
    """[F, V] float32 on the CPU; no frame at all for audio shorter than the stem's receptive field."""

    @property
    def samples(self) -> int:
        """Length of the audio."""
        return len(self.wave)


@torch.inference_mode()
def frame_log_probs(model: CtcModel, wave: Tensor, lengths: Tensor, *, bf16: bool = False) -> list[Tensor]:
    """Return ``[F, V]`` log-probabilities (CPU, float32) of each row of a padded batch ``wave [B, T]``.

    Samples are int16, or float32 with full scale 1. The result is the same as for each row alone: the model is run in
    evaluation mode, and padding does not reach valid frames. With ``bf16`` its matrix products are in bfloat16: much
    faster where the processor has them, and nearly the same.
    """
    device = next(model.parameters()).device
    shortfall = model.encoder.frontend.receptive - wave.shape[1]
    if shortfall > 0:
        wave = nn.functional.pad(wave, (0, int(shortfall)))
    padded = bool((lengths < wave.shape[1]).any())
    training = model.training
    model.eval()
    try:
        with exact_float32(not bf16), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            log_probs, frame_lengths = model(full_scale(wave.to(device)), lengths.to(device) if padded else None)
    finally:
        model.train(training)
    counts = [log_probs.shape[1]] * len(wave) if frame_lengths is None else frame_lengths.clamp(min=0).tolist()
    values = log_probs.cpu()
    return [row[:count] for row, count in zip(values, counts, strict=True)]


def listener(model: CtcModel, *, bf16: bool = False) -> Listener:
    """Return a function that recognises utterances of any lengths; on a CPU with the model's weights at this moment.

    Results are those of ``frame_log_probs`` of each wave alone, by the fastest method on the model's device.
    """
    if can_pack(model):
        return PackedRecogniser(model, bf16=bf16)

    def padded(waves: Sequence[Tensor]) -> list[Tensor]:
        if not waves:
            return []
        lengths = torch.tensor([len(wave) for wave in waves])
        return frame_log_probs(model, nn.utils.rnn.pad_sequence(list(waves), batch_first=True), lengths, bf16=bf16)

    return padded


def recognise(
    model: CtcModel, batches: Iterable[Batch], *, rejected: Callable[[list[Entry]], None], bf16: bool = False
) -> Iterator[Recognised]:
    """Yield every utterance of the batches; stand-ins for unreadable audio are reported to ``rejected`` instead.

    On a CPU the weights are those at the time of the first utterance.
    """
    hear = listener(model, bf16=bf16)
    for batch in batches:
        if batch.rejected:
            rejected(list(batch.rejected))
        texts = batch.texts or (None,) * len(batch.ids)
        heard = [row for row, weight in enumerate(batch.weights.tolist()) if weight > 0]
        waves = [batch.wave[row, : int(batch.lengths[row])] for row in heard]
        for row, wave, log_probs in zip(heard, waves, hear(waves), strict=True):
            yield Recognised(batch.ids[row], texts[row], full_scale(wave), log_probs)
