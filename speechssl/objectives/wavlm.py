"""WavLM (Chen et al. 2022, arXiv 2110.13900): HuBERT that hears mixed speech, and predicts the units of clean speech.

In: batches of waveforms and a table of units of clean utterances. Out: HuBERT's loss (``hubert.py``) of a mixed batch.

Algorithm 1 of section III-B: an utterance x is mixed with probability p. Of the mixed, a share p_n gets noise and the
others get speech u of another utterance of the micro-batch. Over a random stretch of at most half of x,

    x[s + i] += sqrt(E(x) / (10^(r / 10) E(u))) * u[s' + i],    i = 0 ... l - 1

where E is the mean square of a whole signal and r is uniform in decibels. The targets stay those of x. Noise is a
recording of ``data.noise``; without that folder its power falls as 1 / frequency^a, a uniform in 0 to 2.

All is drawn by (seed, epoch, utterance id), but which neighbour is heard depends on the micro-batch, as for negatives
across utterances (``cpc.py``). A micro-batch lies on one rank, so ranks change nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.config.masked_objectives import WavLmConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.augment import Sounds, with_noise
from speechssl.data.batches.batch import Batch, full_scale
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.objectives.base import Curve, Loss, OfflineTargets, Rule
from speechssl.objectives.hubert import Hubert, HubertPrepared, HubertPreparer
from speechssl.objectives.shared.masked import frame_counts

__all__ = ["Mixture", "WavLm", "WavLmPrepared", "WavLmPreparer"]


@dataclass(frozen=True)
class Mixture:
    """What is mixed into one utterance, and where."""

    row: int
    start: int
    """s: its first sample that is mixed."""
    signal: np.ndarray
    """[l] what is mixed in, scaled so that E(u) = 1."""
    ratio_db: float
    """r: energy of the utterance relative to that of the signal."""
    other: int | None = None
    """Row of the speech that is mixed in; None for noise."""
    begin: int = 0
    """s': its first sample that is mixed in."""


@dataclass(frozen=True)
class WavLmPrepared(HubertPrepared):
    """Masks, units and the mixed samples of one batch."""

    mixed: Tensor
    """[B, T] floating point with full scale 1: what the encoder hears."""
    other_speech: Tensor
    """[N] int64: the unit, at each masked frame, of the speech mixed in; -1 where there is none in all of the frame."""
    hears_others: bool
    """Any masked frame has such a unit."""

    @property
    def heard(self) -> Tensor:
        """The mixed samples."""
        return self.mixed

    def metrics(self) -> dict[str, Tensor]:
        """Return how much is mixed, and how many targets are units of the wrong speech."""
        added = self.mixed - self.batch.wave
        rows = (added != 0).any(dim=1) * self.batch.weights
        metrics = {
            "mixed_fraction": rows.sum() / self.batch.weights.sum(),
            "added_energy": added.square().sum() / self.batch.wave.square().sum().clamp(min=1e-9),
        }
        if self.hears_others:
            same = self.units == self.other_speech
            metrics["other_speech_targets"] = same.sum() / (self.other_speech >= 0).sum()
        return metrics


@dataclass(frozen=True)
class WavLmPreparer(HubertPreparer):
    """Draws masks and mixtures of a CPU batch, and looks up the units of its clean utterances."""

    cfg: WavLmConfig
    sounds: Sounds

    def prepared(self, batch: Batch, rows: list[int], mask: np.ndarray) -> WavLmPrepared:
        """Return the batch with its masks and units, and a mixed copy; ValueError as in `HubertPreparer`."""
        prepared = super().prepared(batch, rows, mask)
        clean = full_scale(batch.wave)
        mixed = clean.clone()
        others = np.full(mask.shape, -1, dtype=np.int64)
        for mixture in self.mixtures(batch):
            row = mixture.row
            wave = clean[row, : batch.lengths[row]].numpy()
            signal = np.zeros_like(wave)
            signal[mixture.start : mixture.start + len(mixture.signal)] = mixture.signal
            mixed[row, : len(wave)] = torch.from_numpy(with_noise(wave, signal, mixture.ratio_db))
            if mixture.other is not None:
                self._fill(others[row], mixture, batch)
        heard = prepared.masked.pick(torch.from_numpy(others))
        return WavLmPrepared(**vars(prepared), mixed=mixed, other_speech=heard, hears_others=bool((heard >= 0).any()))

    def mixtures(self, batch: Batch) -> Iterator[Mixture]:
        """Draw what is mixed. A row of weight 0, or without a frame, is not mixed and not mixed in; nor is silence."""
        cfg = self.cfg
        clean, lengths = full_scale(batch.wave).numpy(), batch.lengths.tolist()
        rows, _ = frame_counts(self.grid, batch)
        present = [row for row, weight in enumerate(batch.weights.tolist()) if weight > 0 and rows[row]]
        for row in present:
            random = generator("mix", self.seed, batch.epoch, batch.ids[row])
            if random.random() >= cfg.mix_prob:
                continue
            choices = [other for other in present if other != row]
            noisy = random.random() < cfg.noise_share or not choices
            ratio_db = random.uniform(*(cfg.noise_db if noisy else cfg.speech_db))
            length = int(random.integers(1, lengths[row] // 2 + 1))
            start = int(random.integers(0, lengths[row] - length + 1))
            if noisy:
                yield Mixture(row, start, self.sounds.noise(length, 2 * random.random(), random), ratio_db)
                continue
            other = choices[random.integers(len(choices))]
            length = min(length, lengths[other])
            begin = int(random.integers(0, lengths[other] - length + 1))
            speech = clean[other, : lengths[other]]
            level = np.sqrt(np.mean(speech.astype(np.float64) ** 2))
            if level > 0:
                signal = (speech[begin : begin + length] / level).astype(speech.dtype)
                yield Mixture(row, start, signal, ratio_db, other, begin)

    def _fill(self, frames: np.ndarray, mixture: Mixture, batch: Batch) -> None:
        """Set ``frames`` [F] to the units of the speech mixed in, where a frame lies in it whole (to half a hop)."""
        hop, other = self.grid.hop, mixture.other
        units = None if other is None else self.units.get(batch.ids[other], int(batch.starts[other]) // hop)
        if units is None:
            return
        end = mixture.start + len(mixture.signal) - self.grid.receptive
        inside = np.arange(-(-mixture.start // hop), end // hop + 1)
        theirs = (inside * hop - mixture.start + mixture.begin + hop // 2) // hop
        inside, theirs = inside[theirs < len(units)], theirs[theirs < len(units)]
        frames[inside] = units[theirs]


class WavLm(Hubert):
    """The WavLM objective around an encoder; parameters and errors as `Hubert`.

    Raises
    ------
    ConfigError
        A probability outside 0 to 1, or a reversed range.
    """

    title = "WavLM"
    curves = (
        *Hubert.curves,
        Curve(
            "mixed_fraction",
            "Mixed utterances (share)",
            "Share of the utterances in which the encoder hears other speech or noise.",
            zero=True,
        ),
    )
    rules = (
        *Hubert.rules,
        Rule(
            metric="added_energy",
            finding="nothing_mixed",
            message="{name} is {value:.2g}: practically nothing is mixed into the speech, so this is HuBERT. Raise "
            "objective.mix_prob, or lower objective.speech_db and objective.noise_db",
            low=1e-4,
            severity="warning",
        ),
        Rule(
            metric="added_energy",
            finding="mixed_too_loud",
            message="{name} is {value:.2g}: what is mixed in has more energy than the speech. Raise "
            "objective.speech_db and objective.noise_db, or lower objective.mix_prob",
            high=1.0,
            severity="warning",
        ),
        Rule(
            metric="mixed_fraction",
            finding="everything_mixed",
            message="{value:.0%} of the utterances are mixed (published: 20 %), so the model hardly hears clean "
            "speech. Lower objective.mix_prob",
            high=0.8,
            severity="warning",
        ),
        Rule(
            metric="other_speech_targets",
            finding="targets_of_the_mixture",
            message="{value:.0%} of the targets under other speech are units of that speech, not of the utterance. "
            "Make the units from the clean audio that is trained on, by the ids that it has there. Where there are few "
            "units, some agree by chance",
            high=0.3,
            severity="warning",
        ),
    )

    def __init__(self, encoder: SpeechEncoder, cfg: WavLmConfig, units: OfflineTargets, *, seed: int) -> None:
        super().__init__(encoder, cfg, units, seed=seed)
        shares, ranges = (cfg.mix_prob, cfg.noise_share), (cfg.speech_db, cfg.noise_db)
        if not all(0 <= share <= 1 for share in shares) or any(low > high for low, high in ranges):
            raise ConfigError(
                f"objective.mix_prob, noise_share = {shares} lie between 0 and 1; objective.speech_db, noise_db = "
                f"{ranges}: give the lower bound first"
            )
        self.mixing = cfg
        self.refused_in_sum = self.refused_in_sum or ("mix_prob" if cfg.mix_prob > 0 else "")

    def preparer(self, seed: int | None = None) -> WavLmPreparer:
        """Return what draws masks and mixtures, and looks units up."""
        return WavLmPreparer(**vars(super().preparer(seed)), cfg=self.mixing, sounds=self.sounds)

    def loss(self, output: EncoderOutput, prepared: HubertPrepared) -> Loss:
        """Return HuBERT's loss; with it is logged what was mixed."""
        loss = super().loss(output, prepared)
        assert isinstance(prepared, WavLmPrepared)
        loss.metrics.update(prepared.metrics())
        return loss
