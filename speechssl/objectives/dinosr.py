"""DinoSR (Liu et al. 2023, arXiv 2305.10005): predict the clusters that a teacher's layers form while it learns.

In: batches of waveforms. Out: the cross-entropy of the codes of the masked frames, summed. The teacher, a moving
average of the student, reads the utterance unmasked. Each of its last K blocks has a codebook, which follows the
normalised feed-forward branch of that block at the masked frames (`models/codebooks.py`). The student reads the masked
utterance, and linear heads predict the code of each layer:

``loss = - sum over masked frames t of mean over layers k of log p_k(code of teacher layer k at t | student at t)``

The paper sums over layers; the mean has the same optimum, and one level of chance for any K. SpidR (2025) predicts the
codes of layer k from layer k of the student (``student_layer = "same"``), and lets the teacher's decay approach 1 by an
exponential (``ema_schedule``). Codebooks move once in an update, after it, where the published code moves them in each
micro-batch.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config.masked_objectives import DinoSrConfig
from speechssl.core.errors import ConfigError
from speechssl.models.codebooks import OnlineCodebooks
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.kernels.linear import Linear
from speechssl.models.norm import at_least_float32
from speechssl.models.teacher import INPUT_PARTS, Teacher, annealed
from speechssl.objectives.base import Curve, Loss, Ranks, Rule
from speechssl.objectives.shared.distillation import (
    FROZEN_TEACHER,
    STEM_COLLAPSE,
    TARGET_COLLAPSE,
    deviation,
    normalised_branches,
)
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import (
    ACCURACY,
    MASKED_LOSS,
    MASKED_SHARE,
    MaskedObjective,
    MaskedPrepared,
    MaskPreparer,
)

__all__ = ["DinoSr", "LayerCodes"]


class LayerCodes(OnlineCodebooks):
    """A codebook for each of K layers of the teacher, and the linear head that predicts its codes.

    One module, so that continued pretraining takes all of it or nothing: a code means something to its codebook alone.
    """

    def __init__(self, layers: int, dim: int, cfg: DinoSrConfig) -> None:
        super().__init__(layers, cfg.entries, dim, decay=cfg.codebook_decay, deviation=cfg.codebook_deviation)
        self.heads = nn.ModuleList(Linear(dim, cfg.entries) for _ in range(layers))

    def logits(self, student: list[Tensor]) -> Tensor:
        """Return [N, K, V] scores of the codes of each layer from K student outputs [N, D], in at least float32."""
        scores = [head(x) for head, x in zip(self.heads, student, strict=True)]
        return at_least_float32(torch.stack(scores, dim=1))

    def shares(self, codes: Tensor) -> Tensor:
        """Return [K, V]: how often each entry is among codes [N, K], as shares of N."""
        return functional.one_hot(codes, self.counts.shape[1]).to(self.counts.dtype).mean(dim=0)


class DinoSr(MaskedObjective[MaskedPrepared]):
    """The DinoSR objective around an encoder; ``seed`` is the key of the masks.

    Raises
    ------
    ConfigError
        No layer to learn from, or codebooks that cannot work.
    """

    title = "DinoSR"
    curves = (
        MASKED_LOSS,
        ACCURACY,
        Curve(
            "code_perplexity",
            "Perplexity of the codes",
            "Exponential of the entropy of the codes to be predicted, for each of the teacher's last layers from the "
            "lowest. At most {most}, and the masked frames of a micro-batch. Near 1 practically one code is left.",
            zero=True,
            groups=True,
            most="entries",
        ),
        Curve(
            "active_codes",
            "Codes in use",
            "Different codes among the masked frames of a micro-batch, for each of the teacher's last layers.",
            zero=True,
            groups=True,
        ),
        Curve(
            "target_deviation",
            "Deviation of the targets",
            "Standard deviation of each of the teacher's last layers over masked frames, after instance normalisation, "
            "a mean over channels. Near 0 the teacher makes the same of every frame.",
            zero=True,
            groups=True,
        ),
    )
    rules = (
        Rule(
            metric="code_perplexity",
            finding="code_collapse",
            message="{name} is {value:.2f}: practically one code of this layer is to be predicted. Go back to an "
            "earlier checkpoint with a lower optim.lr, or a slower teacher (objective.ema_start nearer to 1); from the "
            "start: set objective.codebook_deviation to 0.1",
            low=2.0,
            after=0.0,
        ),
        Rule(
            metric="active_codes",
            finding="codes_lost",
            message="{name} is {value:.1f}, less than half of its highest value ({peak:.1f}): clusters of this layer "
            "die. Try a slower teacher (objective.ema_start nearer to 1), a lower optim.lr, or more audio in a step",
            fell=0.5,
            severity="warning",
        ),
        TARGET_COLLAPSE,
        STEM_COLLAPSE,
        FROZEN_TEACHER,
        MASKED_SHARE,
    )

    def __init__(self, encoder: SpeechEncoder, cfg: DinoSrConfig, *, seed: int) -> None:
        super().__init__()
        if cfg.top_layers < 1:
            raise ConfigError("objective.top_layers must be at least 1")
        self.encoder = encoder
        self.cfg = cfg
        self.seed = seed
        self.refused_in_sum = "student_layer" if cfg.student_layer == "same" else ""
        self.layers = min(cfg.top_layers, len(encoder.blocks))
        """K."""
        self.teacher = Teacher(encoder, without=INPUT_PARTS)
        self.codes = LayerCodes(self.layers, encoder.dim, cfg)
        self.chance = {"masked_loss": math.log(cfg.entries), "accuracy": 1 / cfg.entries}

    @staticmethod
    def candidates(cfg: DinoSrConfig, iteration: int) -> int:
        """Return the number of codes of a layer."""
        del iteration
        return cfg.entries

    def preparer(self, seed: int | None = None) -> MaskPreparer[MaskedPrepared]:
        """Return what draws masks."""
        return MaskPreparer(self.encoder.frontend.grid, self.cfg.mask, self.seed if seed is None else seed)

    def exported(self) -> dict[str, Tensor]:
        """Return codebooks and heads: a continued pretraining makes its teacher from the encoder."""
        return {name: value for name, value in super().exported().items() if not name.startswith("teacher.")}

    def begin_step(self, step: int) -> bool:
        """Freeze what teacher and student share once the teacher is frozen; return whether that was now."""
        self.codes.forget()  # what the last step collected, whether it was followed or the update was skipped
        encoder = self.encoder
        shared = nn.ModuleList([encoder.frontend, encoder.feature_norm, encoder.projection])
        if not self.frozen(step) or not any(value.requires_grad for value in shared.parameters()):
            return False
        shared.requires_grad_(requires_grad=False)
        return True

    def after_update(self, step: int, parallel: Ranks) -> None:
        """Move the codebooks by sums over ranks, and the teacher; its positional convolution is copied, as there."""
        self.codes.follow(parallel.sum)
        if self.frozen(step - 1):  # ``step`` counts the update that has just been made
            return
        cfg = self.cfg
        exponential = cfg.ema_schedule == "exponential"
        decay = annealed(cfg.ema_start, cfg.ema_end, step, cfg.ema_steps, exponential=exponential)
        self.teacher.follow(self.encoder, decay, copied=("position",))

    def frozen(self, step: int) -> bool:
        """Return whether the teacher rests once ``step`` updates are made."""
        return 0 < self.cfg.freeze_after <= step

    def encode(self, prepared: MaskedPrepared, **changes: Any) -> EncoderOutput:
        """Return the student's output at the masked frames, or all of its layers where they predict."""
        options = {"layers": True, "positions": None} if self.cfg.student_layer == "same" else {}
        return super().encode(prepared, **options, **changes)

    def student(self, output: EncoderOutput, masked: FrameSelection) -> list[Tensor]:
        """Return what each of the K heads reads at the masked frames, [N, D]."""
        if self.cfg.student_layer == "last":
            return [masked.gather(output.x)] * self.layers
        return [masked.pick(y) for y in (*output.layers[-self.layers : -1], output.x)]

    @torch.no_grad()
    def targets(self, x: Tensor, prepared: MaskedPrepared) -> Tensor:
        """Return the teacher's last K branches at the masked frames, [N, K, D], from projected features x [B, F, D]."""
        branches = normalised_branches(self.teacher, x, prepared.frame_lengths, self.layers)
        return torch.stack([prepared.masked.pick(y) for y in branches], dim=1)

    def loss(self, output: EncoderOutput, prepared: MaskedPrepared) -> Loss:
        """Return the cross-entropy of the codes of the masked frames, a mean over the teacher's last layers."""
        masked, n = prepared.masked, prepared.n_targets
        assert output.features is not None
        with torch.no_grad():
            x = self.encoder.project(output.features)
            targets = self.targets(x, prepared)
            with torch.autocast(x.device.type, enabled=False):
                codes = self.codes.codes(targets)
                if self.training:
                    self.codes.collect(targets, codes)
        logits = self.codes.logits(self.student(output, masked))
        total = functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum") / self.layers
        shares = self.codes.shares(codes)
        metrics = {
            "masked_loss": total.detach() / n,
            "accuracy": (logits.argmax(dim=2) == codes).float().mean(),
            "masked_fraction": prepared.masked_fraction(),
            "feature_deviation": deviation(masked.pick(x)),
            "teacher_moved": self.teacher.moved(),
        }
        perplexity, active = torch.special.entr(shares).sum(dim=1).exp(), (shares > 0).sum(dim=1).float()
        for k in range(self.layers):
            metrics |= {f"code_perplexity_{k}": perplexity[k], f"active_codes_{k}": active[k]}
            metrics[f"target_deviation_{k}"] = deviation(targets[:, k])
        return Loss(sum=total, n_targets=n, metrics=metrics)
