"""Connectionist temporal classification: the recogniser (encoder and a linear head) and its training objective.

In: waves, and for training label ids. Out: frame-wise log-probabilities in float32, and a loss that is a sum over
utterances (wav2vec 2.0, section 4.3; Graves et al. 2006).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.asr.adapters import trained_parameters
from speechssl.asr.prepared import CtcPrepared, CtcPreparer
from speechssl.asr.tokens import BLANK, Tokens
from speechssl.config import AdaptConfig, CtcConfig, MaskConfig
from speechssl.core.errors import DataError
from speechssl.interop.model_folder import ModelFolder, load_folder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.norm import at_least_float32
from speechssl.objectives.base import Loss, Objective, Plateau, Rule

__all__ = ["CtcModel", "CtcObjective", "CtcPrepared", "CtcPreparer", "load_recogniser", "recogniser_of"]

LASTING_BLANKS = (
    "All-blank output is normal for the first part of a run. If it lasts: check the transcripts and the vocabulary in "
    "the ledger, shorten ctc.freeze_steps, or raise optim.lr"
)


class CtcModel(nn.Module):
    """An encoder and a linear layer that scores ``n_tokens`` tokens (blank first) at every encoder frame."""

    def __init__(self, encoder: SpeechEncoder, n_tokens: int, *, final_dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(final_dropout)
        self.head = nn.Linear(encoder.dim, n_tokens)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        wave: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities ``[B, F, V]`` (float32, also under autocast) and frame counts ``[B]``.

        Parameters
        ----------
        wave
            ``[B, T]`` float32 samples at 16 kHz.
        lengths
            ``[B]`` valid samples, or None when no row is padded; the frame counts are then None too.
        mask
            ``[B, F]`` bool, frames whose projected features become the mask embedding.
        channel_mask
            ``[B, D]`` bool, channels of the projected features set to zero.
        """
        output = self.encoder(wave, lengths, mask=mask, channel_mask=channel_mask)
        with torch.autocast(wave.device.type, enabled=False):
            logits = self.head(self.dropout(at_least_float32(output.x)))
            return nn.functional.log_softmax(logits, dim=-1), output.frame_lengths


class CtcObjective(Objective[CtcPrepared]):
    """CTC loss, summed over utterances; normalised by their number (sentence average, as in fairseq's settings).

    Time and channel masks take the place of SpecAugment; each is keyed by (seed, epoch, utterance id). During the first
    ``cfg.freeze_steps`` updates only the head is trained; the masks and dropouts of the frozen encoder stay on, as in
    fairseq. With ``cfg.freeze_frontend`` the waveform stem is never trained.
    """

    rules = (
        Rule(
            metric="blank_fraction",  # speech needs about 0.6 to 0.95
            finding="ctc_all_blank",
            message="{value:.0%} of the frames are blank after step {step}. " + LASTING_BLANKS,
            high=0.99,
            after=0.3,
            severity="warning",
        ),
        Plateau(
            metric="loss",
            share=0.2,
            while_above=("blank_fraction", 0.9),
            finding="ctc_plateau",
            message="the CTC loss has not fallen for a fifth of the run ({value:.0%} blank frames). " + LASTING_BLANKS,
        ),
        Rule(
            metric="dev_wer",
            finding="ctc_no_words",
            message="{name} is {value:.2f} at step {step}: nothing is recognised yet. Look at the samples in the log: "
            "no words at all is the blank plateau (train longer), wrong letters are a vocabulary that does not fit",
            high=0.98,
            after=0.5,
            severity="warning",
        ),
    )

    def __init__(self, model: CtcModel, cfg: CtcConfig, *, seed: int, adapt: AdaptConfig | None = None) -> None:
        super().__init__()
        self.model = model
        self.cfg = cfg
        self.adapt = adapt or AdaptConfig()
        self.seed = seed
        self._freeze(step=0)

    def begin_step(self, step: int) -> bool:
        """Freeze or release the encoder for update ``step``; return whether the trainable parameters changed."""
        return self._freeze(step)

    def _freeze(self, step: int) -> bool:
        encoder = self.model.encoder
        before = [parameter.requires_grad for parameter in encoder.parameters()]
        trained = step >= self.cfg.freeze_steps
        encoder.requires_grad_(False)
        for parameter in trained_parameters(encoder, self.adapt):
            parameter.requires_grad_(trained)
        # A frozen stem has no graph: its activations, the largest of all, are not kept.
        if self.cfg.freeze_frontend or encoder.cfg.frontend.grad_scale == 0:
            encoder.frontend.requires_grad_(False)
        return before != [parameter.requires_grad for parameter in encoder.parameters()]

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups: the encoder (frozen parts included), and the head with its own rate."""
        return [
            {"params": list(self.model.encoder.parameters()), "lr_scale": 1.0},
            {"params": list(self.model.head.parameters()), "lr_scale": self.cfg.head_lr_scale},
        ]

    def preparer(self, seed: int | None = None) -> CtcPreparer:
        """Return the preparer, which finds rows whose labels do not fit and draws masks in training mode."""
        encoder, cfg = self.model.encoder, self.cfg
        return CtcPreparer(
            encoder.frontend.grid,
            n_tokens=self.model.head.out_features,
            channels=encoder.dim,
            time=MaskConfig(prob=cfg.time_mask_prob, length=cfg.time_mask_length, min_spans=2),
            channel=MaskConfig(prob=cfg.channel_mask_prob, length=cfg.channel_mask_length, min_spans=0),
            masked=self.training,
            seed=self.seed if seed is None else seed,
        )

    def forward(self, prepared: CtcPrepared) -> Loss:
        """Return the summed CTC loss of one prepared micro-batch."""
        batch = prepared.batch
        assert batch.targets is not None
        log_probs, _ = self.model(
            batch.wave,
            batch.lengths if prepared.padded else None,
            mask=prepared.mask,
            channel_mask=prepared.channel_mask,
        )
        losses = _losses(log_probs, batch.targets, prepared.frame_counts, prepared.label_counts)
        total = (losses * prepared.weights).sum()
        with torch.no_grad():
            best = log_probs.argmax(dim=-1)
            blanks = ((best == BLANK) & prepared.valid).sum() / prepared.valid.sum().clamp(min=1)
        rows = max(1, prepared.n_targets + prepared.infeasible)
        infeasible = torch.tensor(prepared.infeasible / rows, device=total.device)
        return Loss(total, prepared.n_targets, {"blank_fraction": blanks, "infeasible": infeasible})


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its shapes depend on the values of the lengths
def _losses(log_probs: Tensor, targets: Tensor, frames: tuple[int, ...], labels: tuple[int, ...]) -> Tensor:
    """Return the CTC loss of each row [B], float32: negative log-likelihood of its labels, 0 where they do not fit.

    ``log_probs`` are [B, F, V] float32 and ``targets`` [B, L] int64: cuDNN takes int32 only, so PyTorch's own kernel
    always runs (cuDNN's has no ``zero_infinity``). Its backward pass on CUDA is not deterministic; with deterministic
    algorithms the loss is computed on the CPU.
    """
    device = log_probs.device
    if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        log_probs, targets = log_probs.cpu(), targets.cpu()
    with torch.autocast(log_probs.device.type, enabled=False):
        losses = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), targets.long(), torch.tensor(frames), torch.tensor(labels),
            blank=BLANK, reduction="none", zero_infinity=True,
        )  # fmt: skip
    return losses.to(device)


def load_recogniser(folder: Path, device: torch.device | str = "cpu") -> tuple[CtcModel, Tokens]:
    """Return the recogniser of a model folder, in evaluation mode on ``device``, and its tokens.

    Raises DataError when the folder holds no CTC head (a pretrained model that was not fine-tuned yet) or is damaged.
    """
    model, tokens = recogniser_of(load_folder(Path(folder)), folder)
    return model.to(device), tokens


def recogniser_of(model: ModelFolder, folder: Path) -> tuple[CtcModel, Tokens]:
    """Return the recogniser that a model folder holds, in evaluation mode, and its tokens; as :func:`load_recogniser`.

    ``folder`` is where the model was read from, for errors.
    """
    if model.tokens is None or "head.weight" not in model.state:
        raise DataError(
            f"{folder} holds a model without a CTC head and tokens; fine-tune it first: "
            f"speechssl finetune --init {folder}"
        )
    tokens = Tokens.from_dict(model.tokens)
    state = {name: value for name, value in model.state.items() if name.startswith(("encoder.", "head."))}
    rows = state["head.weight"].shape[0]
    if rows != tokens.size:
        raise DataError(f"{folder}: the head scores {rows} tokens, the vocabulary has {tokens.size}; export it again")
    recogniser = CtcModel(SpeechEncoder(model.cfg), tokens.size)
    recogniser.load_state_dict(state)
    return recogniser.eval(), tokens
