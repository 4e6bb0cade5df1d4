"""Connectionist temporal classification: the recogniser (encoder and a linear head) and its training objective.

In: waves, and for training label ids. Out: frame-wise log-probabilities in float32, and a loss that is a sum over
utterances (wav2vec 2.0, section 4.3; Graves et al. 2006).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from speechssl.asr.adapters import trained_parameters
from speechssl.asr.ctc_loss import alignment_entropies, consistency, ctc_losses
from speechssl.asr.layers import encoder_groups, release
from speechssl.asr.prepared import CtcPrepared, CtcPreparer
from speechssl.asr.spec_augment import spec_augment
from speechssl.asr.tokens import BLANK, Tokens
from speechssl.config import AdaptConfig, CtcConfig, MaskConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.interop.any_model import load_any
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.logmel import MelAugmentation
from speechssl.models.norm import at_least_float32
from speechssl.objectives.base import Loss, Objective, Plateau, Rule

__all__ = ["CtcModel", "CtcObjective", "CtcPrepared", "CtcPreparer", "load_recogniser", "recogniser_of"]

LASTING_BLANKS = (
    "All-blank output is normal for the first part of a run. If it lasts: check the transcripts and the vocabulary in "
    "the ledger, shorten ctc.freeze_steps, or raise optim.lr"
)


class Conditioning(nn.Module):
    """Adds a projection of intermediate posteriors to the stream of an encoder (Nozaki & Komatsu 2021)."""

    def __init__(self, n_tokens: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(n_tokens, dim)
        for value in self.projection.parameters():  # training begins with the encoder as it is
            nn.init.zeros_(value)

    def forward(self, x: Tensor, log_probs: Tensor) -> Tensor:
        """Return x [..., D] and the projection of the posteriors [..., V], added up."""
        with torch.autocast(x.device.type, enabled=False):
            return x + self.projection(log_probs.exp())


class CtcModel(nn.Module):
    """An encoder and a linear layer that scores ``n_tokens`` tokens (blank first) at every encoder frame.

    Parameters
    ----------
    intermediate
        Blocks, from 1, whose outputs the same head scores, too (intermediate CTC).
    self_conditioned
        Condition the blocks after them on these scores.

    Raises
    ------
    ConfigError
        The encoder has no such block before its last one.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        n_tokens: int,
        *,
        final_dropout: float = 0.0,
        intermediate: Sequence[int] = (),
        self_conditioned: bool = False,
    ) -> None:
        super().__init__()
        blocks = len(encoder.blocks)
        if list(intermediate) != sorted({number for number in intermediate if 1 <= number < blocks}):
            raise ConfigError(
                f"ctc.intermediate_layers = {list(intermediate)}: give blocks before the last of the {blocks}, in "
                f"order: 1 to {blocks - 1}"
            )
        self.encoder = encoder
        self.dropout = nn.Dropout(final_dropout)
        self.head = nn.Linear(encoder.dim, n_tokens)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.intermediate = tuple(intermediate)
        self.conditioning = Conditioning(n_tokens, encoder.dim) if self_conditioned else None
        if self_conditioned:
            encoder.after_block = self._conditioned

    def forward(
        self,
        wave: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        augmentation: MelAugmentation | None = None,
        inner: list[Tensor] | None = None,
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
        augmentation
            Changes the log-mel of the log-mel stem.
        inner
            Gets the log-probabilities ``[B, F, V]`` of each intermediate layer.
        """
        layers = bool(self.intermediate) and inner is not None
        output = self.encoder(
            wave, lengths, mask=mask, channel_mask=channel_mask, layers=layers, augmentation=augmentation
        )
        if layers and inner is not None:
            inner += [self.scored(output.layers[number]) for number in self.intermediate]
        return self._log_probs(self.dropout(at_least_float32(output.x))), output.frame_lengths

    def scored(self, x: Tensor) -> Tensor:
        """Return log-probabilities of the output of a block, [..., D] to [..., V]."""
        return self._log_probs(self.encoder.norm(x) if self.encoder.cfg.encoder.norm == "pre" else x)

    def _log_probs(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.log_softmax(self.head(at_least_float32(x)), dim=-1)

    def _conditioned(self, number: int, x: Tensor) -> Tensor:
        """Return the input of the block after ``number``, from the output of that (`SpeechEncoder.after_block`)."""
        if self.conditioning is None or number not in self.intermediate:
            return x
        return cast(Tensor, self.conditioning(x, self.scored(x)))

    def heads(self) -> dict[str, Tensor]:
        """Return what a model folder holds beside the encoder: the head, the conditioning and its layers."""
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}
        return state | ({"conditioning.layers": torch.tensor(self.intermediate)} if self.conditioning else {})


class CtcObjective(Objective[CtcPrepared]):
    """CTC loss, summed over utterances; normalised by their number (sentence average, as in fairseq's settings).

    Time and channel masks take the place of SpecAugment; each is keyed by (seed, epoch, utterance id). During the first
    ``cfg.freeze_steps`` updates only the head is trained; the masks and dropouts of the frozen encoder stay on, as in
    fairseq. With ``cfg.freeze_frontend`` the waveform stem is never trained.

    With ``cfg.cr_weight`` an utterance is recognised in two views, whose masks are drawn independently. Its loss is the
    mean of both CTC losses, plus the weighted `consistency` of the two (CR-CTC: Yao et al. 2024, section 3.2). Speed,
    noise and layer drop are the same in both views, dropout is not.

    With ``cfg.intermediate_layers`` the CTC loss is ``(1 - w)`` times that of the last layer, plus ``w`` times the mean
    of theirs (Lee & Watanabe 2021). With ``cfg.entropy_weight`` the entropy of the alignments is subtracted
    (`alignment_entropies`). A loss of several terms is also logged term by term, per utterance and without weights.
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
        release(encoder, step - self.cfg.freeze_steps, self.cfg.unfreeze_every)
        if self.adapt.partial:
            adapted = set(trained_parameters(encoder, self.adapt))
            for parameter in encoder.parameters():
                if parameter not in adapted:
                    parameter.requires_grad_(False)
        # A frozen stem has no graph: its activations, the largest of all, are not kept.
        if self.cfg.freeze_frontend or encoder.cfg.frontend.grad_scale == 0:
            encoder.frontend.requires_grad_(False)
        return before != [parameter.requires_grad for parameter in encoder.parameters()]

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups: the encoder (frozen parts included), and what is new, with its own rate."""
        new = [value for name, value in self.model.named_parameters() if not name.startswith("encoder.")]
        return [
            *encoder_groups(self.model.encoder, self.cfg.layer_lr_decay),
            {"params": new, "lr_scale": self.cfg.head_lr_scale},
        ]

    def preparer(self, seed: int | None = None) -> CtcPreparer:
        """Return the preparer, which finds rows whose labels do not fit and draws masks in training mode."""
        encoder, cfg = self.model.encoder, self.cfg
        seed = self.seed if seed is None else seed
        return CtcPreparer(
            encoder.frontend.grid,
            n_tokens=self.model.head.out_features,
            channels=encoder.dim,
            time=MaskConfig(prob=cfg.view_mask_prob, length=cfg.time_mask_length, min_spans=2),
            channel=MaskConfig(prob=cfg.channel_mask_prob, length=cfg.channel_mask_length, min_spans=0),
            masked=self.training,
            seed=seed,
            spec_augment=spec_augment(cfg.view_spec_augment, encoder.cfg.frontend, seed),
            views=2 if cfg.cr_weight else 1,
        )

    def forward(self, prepared: CtcPrepared) -> Loss:
        """Return the summed CTC loss of one prepared micro-batch."""
        batch, views = prepared.batch, prepared.views
        assert batch.targets is not None
        inner: list[Tensor] = []
        log_probs, _ = self.model(
            _repeated(batch.wave, views),
            _repeated(batch.lengths, views) if prepared.padded else None,
            mask=prepared.mask,
            channel_mask=prepared.channel_mask,
            augmentation=prepared.augmentation,
            inner=inner if self.cfg.intermediate_weight else None,
        )
        valid = _repeated(prepared.valid, views)
        frames, labels = prepared.frame_counts * views, prepared.label_counts * views
        targets, weights = _repeated(batch.targets, views), _repeated(prepared.weights, views) / views
        ctc = [(ctc_losses(each, targets, frames, labels) * weights).sum() for each in (log_probs, *inner)]
        terms = {"loss_ctc": ctc[0]}
        total = ctc[0]
        if inner:
            terms["loss_intermediate"] = torch.stack(ctc[1:]).mean()
            total = torch.lerp(ctc[0], terms["loss_intermediate"], self.cfg.intermediate_weight)
        if views > 1:
            terms["loss_cr"] = consistency(log_probs, valid)
            total = total + self.cfg.cr_weight * terms["loss_cr"]
        if self.cfg.entropy_weight:
            terms["alignment_entropy"] = (alignment_entropies(log_probs, targets, frames, labels) * weights).sum()
            total = total - self.cfg.entropy_weight * terms["alignment_entropy"]
        with torch.no_grad():
            best = log_probs.argmax(dim=-1)
            blanks = ((best == BLANK) & valid).sum() / valid.sum().clamp(min=1)
            count = max(1, prepared.n_targets)
            shown = {name: term.detach() / count for name, term in terms.items()} if len(terms) > 1 else {}
        rows = max(1, prepared.n_targets + prepared.infeasible)
        infeasible = torch.tensor(prepared.infeasible / rows, device=total.device)
        return Loss(total, prepared.n_targets, {"blank_fraction": blanks, "infeasible": infeasible, **shown})


def _repeated(rows: Tensor, times: int) -> Tensor:
    """Return all rows [B, ...] several times [times * B, ...], themselves for once."""
    return rows if times == 1 else torch.cat([rows] * times)


def load_recogniser(folder: Path, device: torch.device | str = "cpu") -> tuple[CtcModel, Tokens]:
    """Return the recogniser of a model, in evaluation mode on ``device``, and its tokens.

    ``folder`` is whatever ``load_any`` reads. Raises as that does, and DataError when the model has no CTC head with
    tokens (a pretrained model that was not fine-tuned yet).
    """
    model, tokens = recogniser_of(load_any(folder), folder)
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
    parts = ("encoder.", "head.", "conditioning.")
    state = {name: value for name, value in model.state.items() if name.startswith(parts)}
    rows = state["head.weight"].shape[0]
    if rows != tokens.size:
        raise DataError(f"{folder}: the head scores {rows} tokens, the vocabulary has {tokens.size}; export it again")
    layers = state.pop("conditioning.layers", torch.tensor([])).tolist()
    recogniser = CtcModel(SpeechEncoder(model.cfg), tokens.size, intermediate=layers, self_conditioned=bool(layers))
    recogniser.load_state_dict(state)
    return recogniser.eval(), tokens
