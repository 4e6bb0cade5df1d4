"""Held-out audio in pretraining: chosen by id, never trained on, and measured the same way by every run and rank."""

import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.config import (
    DataConfig,
    EncoderConfig,
    FrontendConfig,
    HubertConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    TargetsConfig,
    TrainingConfig,
    ValidationConfig,
    Wav2Vec2Config,
)
from speechssl.core.errors import ConfigError, DataError, RunError
from speechssl.core.ledger import read_ledger
from speechssl.data.batches.batch import Batch
from speechssl.data.batches.holdout import held_out
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.store.reader import open_corpus, open_lazily
from speechssl.interop.model_folder import load_folder
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.reports.run.collect import collect
from speechssl.reports.run.curves import pretraining_figures
from speechssl.targets import fit
from speechssl.targets.table import UnitTable
from speechssl.training.monitoring.health import Health
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.monitoring.validation import HeldOut, validation_interval
from speechssl.training.parallel import Parallel, start_parallel
from speechssl.training.pretrain import pretrain

HOP = 320
MASK = MaskConfig(length=4)
OBJECTIVES = {
    "wav2vec2": Wav2Vec2Config(final_dim=8, entries=8, negatives=10, mask=MASK),
    "hubert": HubertConfig(
        final_dim=8, mask=MASK, targets=TargetsConfig(steps=(4,), clusters=(6,), layers=(0,), kmeans_starts=2)
    ),
}


@pytest.fixture
def cfg(tone_corpus, tmp_path) -> PretrainConfig:
    return PretrainConfig(
        output=str(tmp_path / "run"),
        data=DataConfig(
            shards=str(tone_corpus.shards), min_seconds=0.3, batch_seconds=6.0, buckets=3, workers=0, batches_per_step=2
        ),
        model=ModelConfig(
            frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2),
            encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2),
        ),
        objective=OBJECTIVES["wav2vec2"],
        validation=ValidationConfig(share=0.15),
        optim=OptimConfig(lr=1e-3, warmup=0.2),
        training=TrainingConfig(
            steps=6, device="cpu", precision="fp32", log_every=1, save_every=2, keep=2, validate_every=2
        ),
    )


def lines(folder, phase="valid") -> list[dict]:
    """Return the lines of metrics without the clock."""
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_metrics(Path(folder) / "metrics.jsonl")
        if line["phase"] == phase
    ]


def names_of(corpus, rows) -> set[str]:
    return {corpus.ids[row] for row in rows}


def test_M1_what_is_held_out_depends_on_ids_alone_and_is_never_trained_on(cfg, tmp_path, monkeypatch):
    trained: list[set[str]] = []
    original = Stream.step

    def step(self, number):
        for item in original(self, number):
            trained[-1].update(item.batch.ids)
            yield item

    monkeypatch.setattr(Stream, "step", step)
    held = []
    for seed in (1, 2):
        run = tmp_path / f"seed{seed}"
        trained.append(set())
        pretrain(replace(cfg, seed=seed, output=str(run)))
        held.append((run / "validation.txt").read_text().split())
        assert trained[-1] and not trained[-1] & set(held[-1])
        assert len(trained[-1]) + len(held[-1]) == len(open_corpus(cfg.data.shards, splits=("train",)))
    assert held[0] == held[1]
    assert 1 < len(held[0]) <= 5


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_M1_every_metric_of_the_objective_is_written_for_the_held_out_part(cfg, tmp_path, kind):
    pretrain(replace(cfg, objective=OBJECTIVES[kind]))
    folder = tmp_path / "run" / ("iteration-1" if kind == "hubert" else "")
    trained, valid = lines(folder, "train")[-1], lines(folder)
    assert [line["step"] for line in valid] == ([2, 4] if kind == "hubert" else [2, 4, 6])
    own = {"contrastive", "diversity", "perplexity_0", "perplexity_1"} if kind == "wav2vec2" else {"masked_loss"}
    assert valid[-1]["valid_effective_rank"] > 1
    captions = [figure.caption for figure in pretraining_figures(collect(tmp_path / "run").trainings)]
    assert sum("whatever the objective is" in caption for caption in captions) == 1
    for name in own | {"loss", "accuracy", "masked_fraction"}:
        assert name in trained
        assert math.isfinite(valid[-1][f"valid_{name}"])


def objective_of(kind: str, corpus, seed: int):
    torch.manual_seed(5)
    encoder = SpeechEncoder(
        ModelConfig(
            frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2),
            encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2),
        )
    )
    if kind == "wav2vec2":
        return Wav2Vec2(encoder, OBJECTIVES["wav2vec2"], seed=seed)
    labels = {name: np.arange(400) % 7 for name in corpus.ids}
    table = UnitTable(labels, n_units=7, hop=encoder.hop)
    return Hubert(encoder, replace(OBJECTIVES["hubert"], unmasked_weight=0.5), table, seed=seed)


def validation(objective, corpus, rows, parallel=None, *, seconds=5.0, max_seconds=15.6, record=lambda entries: None):
    return HeldOut(
        objective,
        corpus,
        rows,
        parallel or start_parallel("cpu"),
        hop=HOP,
        max_seconds=max_seconds,
        batch_seconds=seconds,
        threads=2,
        autocast=nullcontext,
        record=record,
    )


@torch.no_grad()
def measured(objective, *args, **options) -> dict[str, float]:
    return validation(objective.eval(), *args, **options)(1)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_M1_the_loss_is_that_of_each_utterance_alone(tone_corpus, kind):
    corpus = open_corpus(tone_corpus.shards, splits=("train",))
    rows = list(range(9))
    objective = objective_of(kind, corpus, seed=0)
    found = measured(objective, corpus, rows)
    name = "contrastive" if kind == "wav2vec2" else "masked_loss"
    total = correct = count = 0.0
    for row in rows:
        wave = torch.from_numpy(corpus.read(row))[None]
        one = Batch(
            wave, torch.tensor([wave.shape[1]]), torch.zeros(1, dtype=torch.int64), torch.ones(1), (corpus.ids[row],), 0
        )
        prepared = objective.prepare(one)
        with torch.no_grad():
            loss = objective(prepared)
        weight = loss.metrics_weight or loss.n_targets
        total += float(loss.metrics[name]) * weight
        correct += float(loss.metrics["accuracy"]) * weight
        count += weight
    assert found[f"valid_{name}"] == pytest.approx(total / count, rel=1e-4)
    assert found["valid_accuracy"] == pytest.approx(correct / count, abs=1.5 / count)


def test_M1_crops_masks_and_negatives_do_not_depend_on_the_seed_of_the_run(tone_corpus):
    corpus = open_corpus(tone_corpus.shards, splits=("train",))
    results = []
    for seed in (1, 2):
        objective = objective_of("wav2vec2", corpus, seed)
        results.append(measured(objective, corpus, range(6), max_seconds=0.8))
        assert objective.seed == seed
    assert results[0] == results[1]
    assert results[0] != measured(objective, corpus, range(6))


def test_M1_several_ranks_report_the_same_bits_as_one(tone_corpus):
    corpus = open_corpus(tone_corpus.shards, splits=("train",))
    whole = measured(objective_of("wav2vec2", corpus, 1), corpus, range(12))

    class Rank(Parallel):
        """A rank whose collectives are answered from what the others brought along before."""

        def gather(self, value):
            brought.setdefault(self.rank, []).append(value)
            number = len(brought[self.rank]) - 1
            return [
                values[number] if number < len(values) else [] for values in (brought.get(0, []), brought.get(1, []))
            ]

        def sum(self, value):
            return value

    brought: dict[int, list] = {}
    for rank in (1, 0):
        found = measured(objective_of("wav2vec2", corpus, 1), corpus, range(12), Rank(2, rank, torch.device("cpu")))
    assert found == whole


def test_the_effective_rank_is_that_of_unmasked_frames_of_the_last_layer(tone_corpus):
    corpus = open_corpus(tone_corpus.shards, splits=("train",))
    objective = objective_of("wav2vec2", corpus, 1).eval()
    rows = sorted(range(6), key=lambda row: -corpus.samples[row])
    with torch.no_grad():
        frames = torch.cat([objective.encoder(torch.from_numpy(corpus.read(row))[None]).x[0] for row in rows])
    values = torch.linalg.svdvals((frames - frames.mean(0)).double())
    shares = values / values.sum()
    expected = float((-(shares * shares.log()).sum()).exp())

    def found():
        return measured(objective, corpus, range(6), seconds=30.0)["valid_effective_rank"]

    assert found() == pytest.approx(expected, rel=1e-4)
    assert expected > 3
    last = objective.encoder.blocks[-1]
    with torch.no_grad():
        last.ffn_norm.weight[1:] = 0  # all but one dimension are constant
    assert found() == pytest.approx(1)
    with torch.no_grad():
        last.ffn_norm.weight[:] = math.nan
    assert math.isnan(found())


class Stopped(Exception):
    """A kill, as seen from within."""


def test_M1_a_resumed_run_writes_the_same_validation_lines(cfg, tmp_path, monkeypatch):
    whole = pretrain(replace(cfg, output=str(tmp_path / "whole")))
    original = Stream.step

    def step(self, number):
        if number == 5:
            raise Stopped
        return original(self, number)

    monkeypatch.setattr(Stream, "step", step)
    with pytest.raises(Stopped):
        pretrain(cfg)
    monkeypatch.undo()
    resumed = pretrain(cfg)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert len(lines(tmp_path / "run")) == 3
    a, b = load_folder(whole).state, load_folder(resumed).state
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_M1_a_run_begun_before_there_was_validation_is_not_given_other_batches_in_silence(cfg, tmp_path):
    pretrain(replace(cfg, validation=ValidationConfig(share=0.0)))
    (tmp_path / "run" / "model" / "config.json").unlink()
    stored = tmp_path / "run" / "config.toml"
    text = stored.read_text()
    start = text.index("\n[validation]")
    stored.write_text(text[:start] + text[text.index("\n[", start + 1) :])
    with pytest.raises(RunError, match=r"validation\.share: 0\.0 -> 0\.15"):
        pretrain(cfg)
    pretrain(replace(cfg, validation=ValidationConfig(share=0.0)))
    assert lines(tmp_path / "run") == []


def test_M1_how_often_is_validated_changes_no_weight(cfg, tmp_path):
    often = pretrain(replace(cfg, output=str(tmp_path / "often"), training=replace(cfg.training, validate_every=1)))
    once = pretrain(replace(cfg, output=str(tmp_path / "once"), training=replace(cfg.training, validate_every=6)))
    assert (len(lines(tmp_path / "often")), len(lines(tmp_path / "once"))) == (6, 1)
    a, b = load_folder(often).state, load_folder(once).state
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_M1_held_out_utterances_get_units_but_k_means_never_sees_them(cfg, tmp_path, monkeypatch):
    fitted: list[set[str]] = []
    original = fit.sample_features

    def sample(source, **options):
        read: set[int] = set()
        real = source.corpus.read

        def spy(row, *args, **more):
            read.add(row)
            return real(row, *args, **more)

        monkeypatch.setattr(source.corpus, "read", spy)
        result = original(source, **options)
        monkeypatch.setattr(source.corpus, "read", real)
        fitted.append(names_of(source.corpus, read))
        return result

    monkeypatch.setattr(fit, "sample_features", sample)
    pretrain(replace(cfg, objective=OBJECTIVES["hubert"]))
    run = tmp_path / "run" / "iteration-1"
    held = set((run / "validation.txt").read_text().split())
    every = set(open_corpus(cfg.data.shards, splits=("train",)).ids)
    assert held
    assert fitted == [every - held]
    assert set(UnitTable.load(run / "units" / "units.npz").ids) == every


def test_M1_an_unreadable_held_out_utterance_is_listed_and_left_out(cfg, tone_corpus, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(tone_corpus.shards, shards)
    corpus = open_corpus(shards, splits=("train",))
    held = held_out(corpus, cfg.validation, min_samples=4800)
    row = corpus.row(int(held[0]))
    tar = sorted(shards.glob("*.tar"))[row.shard]
    data = bytearray(tar.read_bytes())
    data[row.offset + row.size // 2] ^= 0xFF
    tar.write_bytes(data)
    pretrain(replace(cfg, data=replace(cfg.data, shards=str(shards))))
    (entry,) = read_ledger(tmp_path / "run" / "ledger.jsonl")
    assert (entry.item, entry.action) == (row.id, "dropped")
    assert "held out" in entry.detail
    objective = objective_of("wav2vec2", corpus, 0)
    damaged = open_corpus(shards, splits=("train",))
    without, rest = measured(objective, damaged, held.tolist()), measured(objective, corpus, held[1:].tolist())
    assert without["valid_contrastive"] == pytest.approx(rest["valid_contrastive"])
    assert measured(objective, damaged, held[:1].tolist()) == {}


def test_M1_how_much_is_held_out(tone_corpus):
    corpus = open_corpus(tone_corpus.shards)
    total = int(corpus.samples.sum())

    def rows(**settings):
        return held_out(corpus, ValidationConfig(**settings), min_samples=1)

    assert len(rows(share=0)) == 0
    small = rows()  # a minute would be more than 5 % of this corpus
    assert 1 <= len(small) <= 0.05 * len(corpus)
    large = rows(share=0.5)
    assert total * 0.4 < corpus.samples[large].sum() < total * 0.6
    assert set(small.tolist()) < set(large.tolist())
    assert (np.diff(large) > 0).all()
    assert corpus.samples[rows(share=0.5, seconds=3.0)].sum() < 3.0 * 16_000 + corpus.samples.max()
    assert len(held_out(corpus, ValidationConfig(share=0.5), min_samples=10**9)) == 0


@pytest.mark.parametrize("settings", [{"share": 0.6}, {"share": -0.1}, {"seconds": 0.0}])
def test_M1_impossible_shares_are_refused(settings):
    with pytest.raises(ConfigError, match=r"validation\.(share|seconds)"):
        ValidationConfig(**settings)


def test_M1_a_list_of_ids_is_held_out_instead_of_a_share(cfg, tmp_path):
    corpus = open_corpus(cfg.data.shards, splits=("train",))
    listed = tmp_path / "held.txt"
    listed.write_text(f"{corpus.ids[3]}\n{corpus.ids[11]}\nnot-there\n")
    own = ValidationConfig(ids=(str(listed),))
    assert held_out(corpus, own, min_samples=1).tolist() == [3, 11]
    assert Plan.pretrain(corpus, cfg.data, 1, align=HOP, without=np.array([3, 11])).n_rows == len(corpus) - 2
    listed.write_text("not-there\n")
    with pytest.raises(DataError, match="0 of the 1 listed ids are among the utterances"):
        held_out(corpus, own, min_samples=1)


def test_M1_of_a_large_corpus_few_indexes_are_read(tone_corpus, monkeypatch):
    eager = open_corpus(tone_corpus.shards)
    lazy = open_lazily(eager.source, eager.listing, ())
    read: set[int] = set()
    original = type(lazy).row

    def row(self, i):
        found = original(self, i)
        read.add(found.shard)
        return found

    monkeypatch.setattr(type(lazy), "row", row)
    held = held_out(lazy, ValidationConfig(share=0.05, seconds=2.0), min_samples=1)
    assert len(held) >= 1
    assert len(read) == 1 < lazy.n_shards


def test_M1_validations_are_fifty_or_cost_two_per_cent():
    assert validation_interval(400_000, 2800.0, 600.0) == 8_000
    assert validation_interval(2_000, 40.0, 600.0) == 250  # 600 s forward is 2 % of 250 steps of 3 x 40 s
    assert validation_interval(10, 40.0, 0.1) == 1


def watched(valid, train=lambda part: 3 - part, total=1_000, every=20):
    """Return the steps at which a run with these curves (of the part done) is told to memorise."""
    health, found = Health({}, total), []
    for step in range(every, total + 1, every):
        health.watch(step, {"loss": train(step / total)})
        findings = health.watch(step, {"valid_loss": valid(step / total)})
        found += [(step, item.message) for item in findings if item.name == "memorises"]
    return found


def test_M1_memorising_is_found_once_and_says_what_to_do():
    ((step, message),) = watched(lambda part: 2.5 + abs(part - 0.4))
    assert 550 <= step <= 600
    assert "lowest at step 400 (2.500)" in message
    assert "more audio, a smaller model" in message


@pytest.mark.parametrize(
    ("valid", "train"),
    [
        (lambda part: 3.2 - part, lambda part: 3 - part),
        (lambda part: 2.6 + 0.004 * math.sin(60 * part), lambda part: 3 - part),
        (lambda part: 2.5 + part, lambda part: 2.4 + part),  # both rise: the task has become harder
    ],
)
def test_M1_falling_rippling_and_commonly_rising_losses_are_not_memorising(valid, train):
    assert watched(valid, train) == []


def test_M1_the_report_draws_training_against_held_out(cfg, tmp_path):
    pretrain(cfg)
    record = collect(tmp_path / "run")
    (training,) = record.trainings
    drawings = [str(figure.drawing) for figure in pretraining_figures([training])[:2]]
    assert all("held out" in text and "training" in text for text in drawings)
    bare = replace(training, valid=[])
    assert "held out" not in str(pretraining_figures([bare])[0].drawing)
