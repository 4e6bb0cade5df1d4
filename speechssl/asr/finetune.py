"""CTC fine-tuning: a pretrained encoder and transcribed speech in, a recogniser selected on dev WER out.

In: ``FinetuneConfig``. Out: a run folder whose ``model/`` holds weights, tokens and the text normalisation. Everything
that was left out (no transcript, too long, labels that do not fit) is in the ledger before the first update.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.asr.adapters import add_adapters, merge_adapters
from speechssl.asr.ctc import CtcModel, CtcObjective
from speechssl.asr.decoding.lexicon import words_of
from speechssl.asr.labelled import Labelled, open_labelled, refuse_held_out
from speechssl.asr.recipe import recipe_for
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.forced_alignment import frames_needed
from speechssl.asr.validation import Validation
from speechssl.config import AdaptConfig, CtcConfig, FinetuneConfig, ModelConfig
from speechssl.core.errors import CheckpointError, DataError
from speechssl.core.ledger import Entry
from speechssl.core.precision import uses_bf16
from speechssl.core.randomness import key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.augment import Sounds, augmenter
from speechssl.data.batches.mixture import mixed, with_true_share
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.ingest.ids import say_absent
from speechssl.data.ingest.text.casing import dotless_i
from speechssl.data.store.reader import Corpus
from speechssl.evaluation.wer.rarity import count_words
from speechssl.interop.any_model import load_any
from speechssl.interop.model_folder import ModelFolder, save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import frame_grid
from speechssl.training.checkpoints.same_corpus import check_corpus
from speechssl.training.loop import TrainResult, train
from speechssl.training.parallel import Parallel, start_parallel
from speechssl.training.precision import settled
from speechssl.training.run_folder import RunFolder

__all__ = [
    "TrainingSet",
    "adapt_settings",
    "build_recogniser",
    "ctc_settings",
    "finetune",
    "model_settings",
    "training_set",
    "with_steps",
]


@dataclass(frozen=True)
class TrainingSet:
    """The training data of a recogniser."""

    corpus: Corpus
    texts: tuple[str, ...]
    """Transcripts of the corpus, as in the manifest."""
    tokens: Tokens
    entries: tuple[Entry, ...]
    """What was left out and why, utterances and characters alike."""
    pseudo: frozenset[str] = frozenset()
    """Ids of the utterances whose text a recogniser made."""

    @property
    def hours(self) -> float:
        """Audio that is used."""
        return float(self.corpus.samples.sum()) / SAMPLE_RATE / 3600


def ctc_settings(cfg: FinetuneConfig) -> CtcConfig:
    """Return the CTC settings of a run.

    From random weights (``init`` empty) nothing is ever frozen: a frozen random stem would stay random. All layers then
    have one rate.
    """
    if cfg.init:
        return cfg.ctc
    return replace(cfg.ctc, freeze_steps=0, freeze_frontend=False, unfreeze_every=0, layer_lr_decay=1.0)


def adapt_settings(cfg: FinetuneConfig) -> AdaptConfig:
    """Return which weights a run trains: all of them from random weights."""
    return cfg.adapt if cfg.init else AdaptConfig()


def model_settings(cfg: FinetuneConfig, pretrained: ModelConfig | None) -> ModelConfig:
    """Return the encoder's configuration: sizes of the pretrained model, dropouts of this run.

    From random weights the gradient of the stem is not scaled down: that is for pretraining, where the targets change
    with the stem.
    """
    model = pretrained or replace(cfg.model, frontend=replace(cfg.model.frontend, grad_scale=1.0))
    here = cfg.model.encoder
    encoder = replace(
        model.encoder,
        dropout=here.dropout,
        attention_dropout=here.attention_dropout,
        input_dropout=here.input_dropout,
        activation_dropout=cfg.ctc.activation_dropout,
        layer_drop=cfg.ctc.layer_drop,
    )
    return replace(model, encoder=encoder)


def build_recogniser(cfg: FinetuneConfig, pretrained: ModelFolder | None, n_tokens: int) -> CtcModel:
    """Return the recogniser to train; random weights are a function of ``cfg.seed``.

    Raises CheckpointError when the pretrained weights do not fit their configuration.
    """
    torch.manual_seed(key("finetune-init", cfg.seed))
    encoder = SpeechEncoder(model_settings(cfg, pretrained.cfg if pretrained else None))
    model = CtcModel(
        encoder,
        n_tokens,
        final_dropout=cfg.ctc.final_dropout,
        intermediate=cfg.ctc.intermediate_layers,
        self_conditioned=cfg.ctc.self_conditioned,
    )
    if pretrained is not None:
        try:
            encoder.load_state_dict(pretrained.part("encoder"))
        except RuntimeError as error:
            raise CheckpointError(f"{cfg.init}: the weights do not fit their configuration: {error}") from error
    add_adapters(encoder, adapt_settings(cfg))
    return model


def training_set(cfg: FinetuneConfig, labelled: Labelled, frames: Callable[[int], int]) -> TrainingSet:
    """Choose the utterances to train on: transcribed, of an allowed length, with labels that fit into their frames.

    An empty transcript means that nothing was spoken, and is kept. A transcript whose characters are all outside the
    vocabulary is left out. ``frames`` maps a number of samples to a number of encoder frames.

    Raises DataError when nothing is left; the message counts the reasons.
    """
    entries = list(labelled.dropped)
    if not labelled.utterances:
        raise DataError(_nothing_left(labelled, entries))
    entries += Plan.finetune(labelled.corpus(), cfg.data, cfg.seed).dropped
    out = {entry.item for entry in entries}
    texts = {name: text for name, text in labelled.texts.items() if name not in out}
    language, mixed = _language(cfg, labelled)
    true = [text for name, text in texts.items() if name not in labelled.pseudo]
    tokens, rare = Tokens.build(true, replace(cfg.tokens, language=language))
    entries += [*mixed, *tokens.tags(texts)]
    corpus = labelled.corpus(texts)
    kept = []
    for name, samples in zip(corpus.ids, corpus.samples.tolist(), strict=True):
        ids = tokens.encode(texts[name])
        if texts[name] and not ids:
            entries.append(Entry("finetune", name, "no_known_character", repr(texts[name]), "dropped"))
        elif (needed := max(1, frames_needed(ids))) > (there := frames(_shortest(samples, cfg))):
            detail = f"{there} frames, {needed} needed for {len(ids)} labels ({samples / SAMPLE_RATE:.2f} s)"
            entries.append(Entry("finetune", name, "ctc_infeasible", detail, "dropped"))
        else:
            kept.append(name)
    if not kept:
        raise DataError(_nothing_left(labelled, entries))
    return TrainingSet(
        labelled.corpus(kept),
        tuple(texts[name] for name in kept),
        tokens,
        (*entries, *rare),
        frozenset(labelled.pseudo),
    )


def _language(cfg: FinetuneConfig, labelled: Labelled) -> tuple[str, list[Entry]]:
    """Return the language that decides letter case: the one set, else that of all utterances that have one."""
    languages = labelled.languages
    if cfg.tokens.language or len(languages) < 2:
        return cfg.tokens.language or "".join(languages), []
    special = [code for code in languages if dotless_i(code)]
    detail = f"{', '.join(languages)}: I becomes i in all of them; set tokens.language for the dotless i"
    return "", [Entry("finetune", code, "mixed_languages", detail, "kept") for code in special]


def _shortest(samples: int, cfg: FinetuneConfig) -> int:
    """Return the length of an utterance at the fastest speed of augmentation."""
    return int(samples / max((1.0, *cfg.augment.speeds))) - (1 if cfg.augment.speeds else 0)


def _nothing_left(labelled: Labelled, entries: list[Entry]) -> str:
    reasons = Counter(entry.reason for entry in entries)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "no such split"
    return (
        f"no utterance of {labelled.name} in {labelled.cfg.shards} can be trained on ({why}); fine-tuning needs "
        "transcribed utterances whose labels fit into the encoder's frames"
    )


def finetune(cfg: FinetuneConfig, *, parallel: Parallel | None = None, allow_changes: bool = False) -> Path:
    """Fine-tune with CTC; return the model folder. Started again, it continues where it was stopped.

    ``allow_changes`` is that of ``RunFolder.open``.

    The weights with the lowest dev WER are exported; without a dev set the last ones, which is reported and recorded.

    Raises
    ------
    DataError
        No usable training data.
    CheckpointError, RunError, InterruptedRun
        From the training loop and the run folder.
    """
    ranks = parallel or start_parallel(cfg.training.device)
    try:
        folder = cfg.output or f"runs/{cfg.name}"
        cfg = settled(cfg, folder, ranks)
        with RunFolder(folder).open(cfg, ranks, allow_changes=allow_changes) as run:
            return _finetune(cfg, run, ranks)
    finally:
        if parallel is None:
            ranks.close()


def with_steps(cfg: FinetuneConfig) -> FinetuneConfig:
    """Return ``cfg`` with the updates that ``training.epochs`` takes on its corpus; without epochs, as it is.

    Raises as :func:`finetune` does for data and ``init`` that cannot be used.
    """
    if not cfg.training.epochs:
        return cfg
    data = _data(cfg, load_any(Path(cfg.init)) if cfg.init else None)
    steps = _plan(cfg, data).updates(cfg.training.epochs, cfg.data.batches_per_step)
    return replace(cfg, training=replace(cfg.training, steps=steps))


def _data(cfg: FinetuneConfig, pretrained: ModelFolder | None) -> TrainingSet:
    labelled = open_labelled(cfg.data, stage="finetune", pseudo=cfg.pseudo.labels)
    grid = frame_grid(model_settings(cfg, pretrained.cfg if pretrained else None).frontend)
    return training_set(cfg, labelled, grid.frames)


def _plan(cfg: FinetuneConfig, data: TrainingSet) -> Plan:
    def plan(without: np.ndarray | None) -> Plan:
        return Plan.finetune(data.corpus, cfg.data, cfg.seed, without=without)

    if cfg.data.mix.by != "none":
        return mixed(plan, data.corpus, cfg.data.mix, cfg.seed)
    return with_true_share(plan, data.corpus, data.pseudo, cfg.pseudo.true_share, cfg.seed)


def _finetune(cfg: FinetuneConfig, run: RunFolder, parallel: Parallel) -> Path:
    pretrained = load_any(Path(cfg.init)) if cfg.init else None
    data = _data(cfg, pretrained)
    check_corpus(run, data.corpus, parallel, texts=dict(zip(data.corpus.ids, data.texts, strict=True)))
    plan = _plan(cfg, data)
    cfg = run.settle_steps(cfg, plan)
    tokens = data.tokens
    model = build_recogniser(cfg, pretrained, tokens.size)
    shards, cache = cfg.dev.shards or cfg.data.shards, cfg.dev.cache or cfg.data.cache
    mix = cfg.dev.mix if cfg.dev.shards else replace(cfg.dev.mix, corpora=cfg.data.mix.corpora)
    dev = open_labelled(replace(cfg.dev, shards=shards, cache=cache, mix=mix), stage="finetune")
    refuse_held_out(data.pseudo, dev)
    if dev.utterances:
        check_corpus(run, dev.corpus(), parallel, name="corpus-dev", texts=dev.texts)
    run.record([*data.entries, *dev.dropped, *tokens.tags(dev.texts), *tokens.unseen(dev.texts, split=dev.name)])
    objective = CtcObjective(model, ctc_settings(cfg), seed=cfg.seed, adapt=adapt_settings(cfg))
    validation = None
    if Validation.possible(tokens, dev):
        bf16 = uses_bf16(cfg.training.precision, parallel.device.type)
        validation = Validation(model, tokens, dev, parallel, record=run.record, bf16=bf16)
    _say(parallel, _summary(cfg, data, plan, validation))
    if said := say_absent(dev.dropped):
        _say(parallel, f"{said} (dev)")
    stream = Stream(
        data.corpus,
        plan,
        cfg.data,
        batches_per_step=cfg.data.batches_per_step,
        rank=parallel.rank,
        world=parallel.world,
        encode=tokens.encode,
        augment=augmenter(cfg.augment, cfg.seed, Sounds.of(cfg.data)),
        prepare=objective.train().preparer(),
    )
    try:
        result = train(
            objective,
            stream,
            run=run,
            parallel=parallel,
            training=cfg.training,
            optim=cfg.optim,
            seed=cfg.seed,
            param_groups=objective.param_groups(),
            validate=validation,
            select=validation.select if validation else None,
            settled=objective.cfg.freeze_steps + objective.cfg.unfreeze_every * len(model.encoder.blocks),
        )
    finally:
        stream.close()
    if said := _outcome(result, validation):
        _say(parallel, said)
    value, steps = result.best_value, [result.step if result.best_step is None else result.best_step]
    if result.mean is not None and result.took_mean:
        value, steps = result.mean.value, list(result.mean.steps)
    true = [text for name, text in zip(data.corpus.ids, data.texts, strict=True) if name not in data.pseudo]
    texts = [tokens.normal(text) for text in true]
    info: dict[str, Any] = {
        "objective": "ctc",
        "step": steps[-1],
        "steps": cfg.training.steps,
        "epochs": round(cfg.training.steps * cfg.data.batches_per_step / plan.batches_per_epoch, 2),
        "dev_wer": None,
        **({validation.select: value} if validation else {}),
        "selected": _selected(validation, len(steps)),
        "mean_of_steps": steps if len(steps) > 1 else [],
        "stopped": result.stopped,
        "averaged": cfg.training.ema_decay > 0,
        "init": cfg.init,
        "seed": cfg.seed,
        "train_utterances": len(data.corpus),
        "train_hours": round(data.hours, 4),
        **({"pseudo_labelled": len(data.corpus) - len(true)} if data.pseudo else {}),
        "words": words_of(texts),
        "word_counts": count_words(texts),
    }
    target = run.path / "model"
    merge_adapters(model.encoder)
    if parallel.first:
        save_model(target, encoder=model.encoder, extra=model.heads(), tokens=tokens, info=info)
    parallel.barrier()
    return target


def _selected(validation: Validation | None, averaged: int) -> str:
    if validation is None:
        return "last step (no transcribed dev utterance)"
    mean = f"mean of the {averaged} weights with the " if averaged > 1 else ""
    return f"{mean}lowest dev {_rate(validation)}"


def _rate(validation: Validation) -> str:
    return validation.select.removeprefix("dev_").upper()


def _outcome(result: TrainResult, validation: Validation | None) -> str:
    """Say why the run ended early, and how the mean of the best weights compares with the best single ones."""
    lines = [result.stopped] if result.stopped else []
    if result.mean is not None and result.best_value is not None and validation is not None:
        steps = ", ".join(f"{step:,}" for step in result.mean.steps)
        lines.append(
            f"mean of the weights of updates {steps}: dev {_rate(validation)} {result.mean.value:.2%}; best single "
            f"weights (update {result.best_step:,}): {result.best_value:.2%}; exported: "
            + ("the mean" if result.took_mean else "the single ones")
        )
    return "\n".join(lines)


def _summary(cfg: FinetuneConfig, data: TrainingSet, plan: Plan, validation: Validation | None) -> str:
    training, per_step = cfg.training, cfg.data.batches_per_step
    left_out = Counter(entry.reason for entry in data.entries if entry.action != "kept")
    lengths = data.corpus.samples / SAMPLE_RATE
    lines = [
        f"training on {len(data.corpus)} utterances, {data.hours:.2f} h (median {np.median(lengths):.1f} s), "
        f"{data.tokens.size} {data.tokens.kind} tokens",
        f"{training.steps:,} updates of up to {per_step * cfg.data.batch_seconds:g} s, "
        f"{training.steps * per_step / plan.batches_per_epoch:.1f} epochs of {plan.batches_per_epoch:,} batches"
        + (f" (training.epochs = {training.epochs:g})" if training.epochs else ""),
    ]
    usual = recipe_for(data.hours).epochs
    if training.steps * per_step < usual / 2 * plan.batches_per_epoch:
        lines.append(f"public recipes for this much speech take about {usual:g} epochs (training.epochs)")
    if left_out:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()))
    if said := say_absent(data.entries):
        lines.append(said)
    if validation is None:
        lines.append(
            "no transcribed dev utterance: the last weights will be kept, unselected"
            + ("; training.patience and training.average do nothing" if training.patience or training.average else "")
        )
    else:
        lines.append(f"selecting on {len(validation.corpus)} dev utterances")
    return "\n".join(lines)


def _say(parallel: Parallel, text: str) -> None:
    if parallel.first:
        print(text, file=sys.stderr, flush=True)
