"""How many updates ``run`` makes: by the hours of audio and of labels, within the hours of training that it may take.

In: a configuration with ``budget_hours``, the hours of a corpus, and the time of an update here. Out: `Lengths`, with
the sentences that say why.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.asr.recipe import Recipe, recipe_for
from speechssl.config import DataConfig, FinetuneConfig, PretrainConfig, RunConfig
from speechssl.config.objectives import offline_targets, with_updates
from speechssl.core.progress import duration
from speechssl.data.ingest.ids import read_ids
from speechssl.data.ingest.manifest import read_manifest
from speechssl.workflows.outlook import FILLED, FINETUNE_FILLED, Hours, Speed, expected_seconds

__all__ = ["Lengths", "hours_of", "lengths_for", "with_lengths"]

PRETRAINING_EPOCHS = 100.0
"""Most passes over the audio in pretraining: a fifth of those of HuBERT BASE, 650,000 updates of 2,800 s on 960 h."""
PRETRAINING_SHARE = 1 / 3
"""Of the budget, where fine-tuning could use all the rest."""


@dataclass(frozen=True)
class Lengths:
    """How long a run trains."""

    pretrain: int
    """Updates."""
    epochs: float
    """Of fine-tuning; 0 without labels."""
    updates_per_epoch: float
    """In fine-tuning, as estimated from the hours of labels."""
    why: tuple[str, ...] = ()
    """Sentences for whoever started the run."""

    @property
    def finetune(self) -> float:
        """Updates of fine-tuning."""
        return self.epochs * self.updates_per_epoch


def hours_of(shards: Path, cfg: RunConfig) -> Hours:
    """Return the hours of audio in ``shards`` that each phase can use."""
    utterances = read_manifest(shards / "manifest.jsonl")

    def chosen(data: DataConfig, *, transcribed: bool = True) -> float:
        ids = read_ids(data.ids) if data.ids else None
        kept = (u for u in utterances if (u.id in ids if ids is not None else (u.split or "train") in data.splits))
        return sum(u.duration for u in kept if u.text or not transcribed) / 3600

    labelled, heard = chosen(cfg.finetune.data), chosen(cfg.pretrain.data, transcribed=False)
    return Hours(max(0.0, heard - labelled), labelled, chosen(cfg.finetune.dev), chosen(cfg.evaluate.data))


def with_lengths(cfg: RunConfig, lengths: Lengths) -> RunConfig:
    """Return the configuration of a run that trains for so long; without labels that of fine-tuning stays."""
    loop = cfg.finetune.training
    if lengths.epochs:
        loop = Recipe(lengths.epochs).applied(loop, lengths.updates_per_epoch)
    pretrain = replace(
        cfg.pretrain,
        training=replace(cfg.pretrain.training, steps=lengths.pretrain, epochs=0.0),
        objective=with_updates(cfg.pretrain.objective, lengths.pretrain),
    )
    return replace(cfg, pretrain=pretrain, finetune=replace(cfg.finetune, training=loop))


def lengths_for(cfg: RunConfig, hours: Hours, speed: Speed) -> Lengths:
    """Return the updates that ``cfg.budget_hours`` of training have room for.

    Fine-tuning wants the epochs of public recipes (`recipe_for`), and pretraining up to 100 passes over the audio.
    Where both do not fit, pretraining gets a third of the time, or what fine-tuning leaves.
    """
    budget, labels = 3600 * cfg.budget_hours, hours.labelled > 0
    pass_updates = 3600 * hours.train / _seconds_of_audio(cfg.pretrain, FILLED)
    epoch_updates = 3600 * hours.labelled / _seconds_of_audio(cfg.finetune, FINETUNE_FILLED)
    usual = recipe_for(hours.labelled).epochs if labels else 0.0
    wanted = Lengths(max(1, round(PRETRAINING_EPOCHS * pass_updates)), usual, epoch_updates)

    def spent(part: str, lengths: Lengths) -> float:
        stages = expected_seconds(with_lengths(cfg, lengths), hours, speed, corpus=False)
        return sum(seconds for name, seconds in stages.items() if name.startswith(part))

    def training(lengths: Lengths) -> float:
        return spent("pretrain", lengths) + (spent("finetune", lengths) if labels else 0.0)

    share = budget
    if labels:
        share = max(PRETRAINING_SHARE * budget, budget - spent("finetune", replace(wanted, pretrain=1)))
    updates = _largest(wanted.pretrain, lambda n: spent("pretrain", replace(wanted, pretrain=n)) <= share)
    found = replace(wanted, pretrain=updates)
    if labels and training(found) > budget:
        fits = _largest(
            max(1, round(wanted.finetune)), lambda n: training(replace(found, epochs=n / epoch_updates)) <= budget
        )
        found = replace(found, epochs=fits / epoch_updates)
    measured = (
        f"{hours.train:.2f} h of speech for pretraining, {hours.labelled:.2f} h of it with transcripts; an update "
        f"takes {speed.pretrain:.2f} s in pretraining"
        + (f" and {speed.finetune:.2f} s in fine-tuning" if labels else "")
        + " (measured now)"
    )
    took = (
        f"about {duration(training(found))} of training; --budget-hours changes it, and --budget-hours 0 takes the "
        f"lengths in the configuration ({_own_lengths(cfg)})"
    )
    room = f"as many as budget_hours = {cfg.budget_hours:g} has room for"
    passes = found.pretrain / pass_updates if pass_updates else 0.0  # without audio pretraining says what is missing
    return replace(found, why=(measured, *_reasons(found, wanted, passes, room), took))


def _seconds_of_audio(cfg: PretrainConfig | FinetuneConfig, filled: float) -> float:
    """Return the seconds of audio in an update."""
    return filled * cfg.data.batch_seconds * cfg.data.batches_per_step


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to ``most`` that fits, 1 if none does; what is below one that fits, fits."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _reasons(found: Lengths, wanted: Lengths, passes: float, room: str) -> list[str]:
    """Return a sentence about pretraining and, with labels, one about fine-tuning; ``room`` says what cut them."""
    lines = [
        f"pretraining: {found.pretrain:,} updates, {passes:.1f} passes over the speech, "
        + (room if found.pretrain < wanted.pretrain else "the most that `run` makes")
    ]
    if wanted.epochs:
        usual = f"{wanted.epochs:g} epochs are usual for this much transcribed speech"
        lines.append(
            f"fine-tuning: {found.finetune:,.0f} updates, {found.epochs:.1f} epochs"
            + (f", {room}; {usual}" if found.epochs < wanted.epochs else f": {usual}")
        )
    return lines


def _own_lengths(cfg: RunConfig) -> str:
    """Return the lengths that the configuration has without a budget."""
    targets = offline_targets(cfg.pretrain.objective)
    own = f"{sum(targets.steps) if targets else cfg.pretrain.training.steps:,} updates of pretraining"
    loop = cfg.finetune.training
    return own + (f", {loop.epochs:g} epochs of fine-tuning" if loop.epochs else f", {loop.steps:,} of fine-tuning")
