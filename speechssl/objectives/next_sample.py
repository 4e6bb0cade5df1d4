"""Next-sample prediction: the classes of coming samples, with the softmax of WaveNet (van den Oord et al. 2016, arXiv
1609.03499, sections 2.1 and 2.2).

In: batches of waveforms. Out: the cross-entropy of quantised samples, ``-sum_t sum_j log p(q[s + j e] | x[< s])`` with
``s = t hop + receptive - 1 + n``. Frame t ends at sample ``t hop + receptive - 1``, n is ``ahead``, e is ``every``, j
runs over ``samples``. ``q = round((f(x) + 1) / 2 * mu)`` and ``f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu)``; mu is one
less than the classes.

WaveNet has an output for every sample. An encoder has one for a hop of samples, so a frame predicts S of those that
follow what it sees, with a softmax each. Given the frame they are taken as independent; later ones are harder. The cost
is a linear layer of D * S * classes weights, for BASE and S = 8 a fifth of a block, and S * classes logits a frame.

Fair chance is the entropy of the classes: what a model that knows only how frequent each is would lose. Most samples
of speech are near 0, so it is well below ln(classes). ``relative_loss`` is 1 there, whatever the corpus.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.config.objectives import NextSampleConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.linear import Linear
from speechssl.models.norm import at_least_float32
from speechssl.objectives.apc import ApcPrepared, ApcPreparer
from speechssl.objectives.base import Curve, Loss, Objective, Rule
from speechssl.objectives.shared.masked import empty_loss

__all__ = ["NextSample", "mu_law"]

LEAST_ENTROPY = 0.1
"""Least entropy of the classes, in nats, that a loss is divided by. Only digital silence has less."""


def mu_law(wave: Tensor, classes: int) -> Tensor:
    """Return the int64 class of each sample, 0 to ``classes - 1``; samples beyond full scale are cut."""
    mu = classes - 1
    x = wave.clamp(-1, 1)
    curved = x.sign() * torch.log1p(mu * x.abs()) / math.log1p(mu)
    return ((curved + 1) / 2 * mu + 0.5).long()


class NextSample(Objective[ApcPrepared]):
    """The objective around a causal encoder; nothing depends on ``seed``.

    Raises
    ------
    ConfigError
        Fewer than 2 classes; or no sample is to be predicted, or one that the frame sees.
    """

    title = "Next sample"
    causal = True
    curves = (
        Curve(
            "relative_loss",
            "Cross-entropy, relative to the entropy of the classes",
            "Cross-entropy of the classes of coming samples, divided by their entropy: 1 for a model that knows only "
            "how frequent each class is; lower is better.",
            chance="loss",
            level=1.0,
            held_out=True,
        ),
        Curve("sample_loss", "Cross-entropy (nats per sample)", "The same, not divided.", held_out=True),
        Curve("class_entropy", "Entropy of the classes (nats)", "Entropy of the classes of a micro-batch.", zero=True),
        Curve(
            "accuracy",
            "Accuracy on coming samples (%)",
            "How often the right class is ranked first.",
            scale=100.0,
            zero=True,
            held_out=True,
        ),
        Curve(
            "frequent_share",
            "Most frequent class (%)",
            "The accuracy of always naming the most frequent class.",
            scale=100.0,
            zero=True,
            held_out=True,
        ),
    )
    rules = (
        Rule(
            metric="most_predicted",
            finding="prediction_collapse",
            message="{name} is {value:.3f}: practically the same class is predicted everywhere. Try a lower optim.lr "
            "or a longer warmup, and check that the audio is not silent; a waveform stem with layer norm keeps the "
            "level of speech only with model.frontend.bias = true",
            high=0.98,
        ),
        Rule(
            metric="relative_loss",
            finding="target_leak",
            message="{name} is {value:.3f}: coming samples are known almost exactly, so the encoder sees them. Check "
            "that the audio is neither constant nor repeated",
            low=0.2,
            after=None,
        ),
        Rule(
            metric="class_entropy",
            finding="silent_targets",
            message="{name} is {value:.2f}: practically all samples have one class. Check that the audio is not silent "
            "or extremely quiet",
            low=0.5,
            after=0.0,
        ),
    )

    def __init__(self, encoder: SpeechEncoder, cfg: NextSampleConfig, *, seed: int) -> None:
        super().__init__()
        if cfg.classes < 2 or min(cfg.samples, cfg.every, cfg.ahead) < 1:
            raise ConfigError(
                f"objective.classes = {cfg.classes}, samples = {cfg.samples}, every = {cfg.every}, ahead = "
                f"{cfg.ahead}: use 2 or more classes, and 1 or more of the others"
            )
        self.encoder = encoder
        encoder.mask_embedding.requires_grad = False  # nothing is masked, and weight decay would move it
        self.cfg = cfg
        self.seed = seed
        self.predict = Linear(encoder.dim, cfg.samples * cfg.classes)
        self.chance = {"relative_loss": 1.0}

    @property
    def span(self) -> int:
        """Samples from the first that is predicted to the last, both included."""
        return (self.cfg.samples - 1) * self.cfg.every + 1

    def preparer(self, seed: int | None = None) -> ApcPreparer:
        """Return what finds the frames after which enough samples follow."""
        del seed
        return ApcPreparer(self.encoder.frontend.grid, self.cfg.ahead - 1 + self.span, self.cfg.samples)

    def targets(self, wave: Tensor, frames: int) -> Tensor:
        """Return the classes [B, F, S] of what each frame predicts; of samples after the wave that of 0."""
        grid = self.encoder.frontend.grid
        first = grid.receptive - 1 + self.cfg.ahead
        missing = first + (frames - 1) * grid.hop + self.span - wave.shape[1]
        coming = functional.pad(wave, (0, missing))[:, first:].unfold(1, self.span, grid.hop)
        return mu_law(coming[:, :, :: self.cfg.every], self.cfg.classes)

    def forward(self, prepared: ApcPrepared) -> Loss:
        """Return the cross-entropy of the classes of coming samples."""
        n = prepared.n_targets
        if n == 0:
            return empty_loss(self.parameters())
        wave, context = prepared.batch.wave, prepared.context
        x = self.encoder(wave, prepared.lengths).x
        logits = at_least_float32(self.predict(context.pick(x))).view(-1, self.cfg.samples, self.cfg.classes)
        with torch.autocast(wave.device.type, enabled=False), torch.no_grad():
            classes = context.pick(self.targets(wave, x.shape[1]))
            guessed = logits.argmax(dim=2)
            frequent = self._shares(classes).mean(dim=0)
            entropy = torch.special.entr(frequent).sum()
        total = functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="sum")
        metrics = {
            "relative_loss": total.detach() / n / entropy.clamp(min=LEAST_ENTROPY),
            "sample_loss": total.detach() / n,
            "class_entropy": entropy,
            "accuracy": (guessed == classes).float().mean(),
            "frequent_share": frequent.amax(),
            "most_predicted": self._shares(guessed).amax(dim=1).mean(),
        }
        return Loss(sum=total, n_targets=n, metrics=metrics)

    def _shares(self, classes: Tensor) -> Tensor:
        """Return [S, classes] float32: how often each class is among those of [N, S], as shares of N."""
        counts = torch.zeros(self.cfg.samples, self.cfg.classes, device=classes.device)
        return counts.scatter_add_(1, classes.t(), torch.ones_like(classes.t(), dtype=counts.dtype)) / len(classes)
