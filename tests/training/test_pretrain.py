"""Pretraining end to end on tones: folders, resuming anywhere, damage, ranks, continued training."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
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
    TeacherConfig,
    TrainingConfig,
    Wav2Vec2Config,
)
from speechssl.config.load import write_toml
from speechssl.config.objectives import DenoiseConfig
from speechssl.core.errors import ConfigError, DataError, RunError
from speechssl.core.ledger import read_ledger
from speechssl.data.batches.stream import Stream
from speechssl.data.store.reader import open_corpus
from speechssl.interop.model_folder import load_encoder, load_folder
from speechssl.models.encoder import SpeechEncoder
from speechssl.targets.table import UnitTable
from speechssl.training import iteration_units, iterations, phases
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.parallel import start_parallel
from speechssl.training.pretrain import pretrain, resolved
from tests.support.objectives import with_objective, with_targets

MASK = MaskConfig(length=4)
CONTRASTIVE = Wav2Vec2Config(final_dim=8, entries=8, negatives=10, mask=MASK)


@pytest.fixture
def cfg(tone_corpus, tmp_path) -> PretrainConfig:
    """Two HuBERT iterations of a very small model."""
    return PretrainConfig(
        output=str(tmp_path / "run"),
        data=DataConfig(
            shards=str(tone_corpus.shards), min_seconds=0.3, batch_seconds=6.0, buckets=3, workers=0, batches_per_step=2
        ),
        model=ModelConfig(
            frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2),
            encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2),
        ),
        objective=HubertConfig(
            final_dim=8,
            mask=MASK,
            targets=TargetsConfig(steps=(4, 5), clusters=(6, 8), layers=(0, 1), kmeans_starts=2),
        ),
        optim=OptimConfig(lr=1e-3, warmup=0.2),
        training=TrainingConfig(device="cpu", precision="fp32", log_every=1, save_every=2, keep=2),
    )


def test_noise_and_rooms_of_the_configuration_reach_the_preparer(cfg, tone_corpus):
    (audio,) = {str(path.parent) for path in tone_corpus.folder.glob("audio/*.wav")}
    cfg = replace(
        cfg, objective=DenoiseConfig(), data=replace(cfg.data, noise=audio), training=replace(cfg.training, steps=1)
    )
    seen = []

    class Seen(Exception):
        pass

    def train_phase(phase, objective, info):
        seen.append(objective.preparer().sounds)
        raise Seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("speechssl.training.pretrain.train_phase", train_phase)
        with pytest.raises(Seen):
            pretrain(cfg)
    assert len(seen[0].noises.paths) == 40 and not seen[0].responses.paths
    with pytest.raises(ConfigError, match=r"data\.reverb = .* holds no recording"):
        pretrain(replace(cfg, data=replace(cfg.data, reverb=str(tone_corpus.shards)), output=cfg.output + "2"))


def weights(model) -> dict[str, torch.Tensor]:
    return load_folder(Path(model)).state


def same(a, b) -> bool:
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def at(cfg, folder) -> PretrainConfig:
    return replace(cfg, output=str(folder))


def test_wav2vec2_makes_a_model_folder_once(cfg, tmp_path, capsys):
    cfg = replace(cfg, objective=CONTRASTIVE, training=replace(cfg.training, steps=5))
    cfg = replace(cfg, data=replace(cfg.data, min_seconds=1.0))
    model = pretrain(cfg)
    assert model == tmp_path / "run" / "model"
    corpus = open_corpus(cfg.data.shards, splits=("train",))
    short = sum(corpus.samples < 16_000)
    folder = load_folder(model)
    assert folder.cfg == cfg.model
    assert (folder.info["objective"], folder.info["step"]) == ("wav2vec2", 5)
    assert folder.info["utterances"] == len(corpus.ids) - short
    assert {"quantizer.codebooks", "project_context.weight", "encoder.mask_embedding"} <= folder.state.keys()
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("wav2vec2: 0.0") and f"(left out: {short} too_short); 5 steps of up to 12 s" in said
    assert [entry.reason for entry in read_ledger(tmp_path / "run" / "ledger.jsonl")] == ["too_short"] * short > []
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["phase"] == "train"] == [1, 2, 3, 4, 5]
    chance, first = lines[:2]
    assert {"contrastive", "accuracy", "perplexity_0", "perplexity_1", "codes_used"} <= first.keys()
    assert chance["phase"] == "chance" and chance["accuracy"] == pytest.approx(1 / (1 + cfg.objective.negatives))
    assert said.endswith(f"; chance: contrastive {chance['contrastive']:.3g}, accuracy {chance['accuracy']:.3g}")
    written = (model / "model.safetensors").stat().st_mtime_ns
    assert pretrain(cfg) == model
    assert "nothing is left to do" in capsys.readouterr().err
    assert (model / "model.safetensors").stat().st_mtime_ns == written


def test_hubert_runs_all_its_iterations(cfg, tmp_path):
    model = pretrain(cfg)
    run = tmp_path / "run"
    assert same(model, run / "iteration-2" / "model")
    features = [json.loads((run / f"iteration-{n}" / "units" / "units.json").read_text()) for n in (1, 2)]
    assert [(item["features"], item["units"], item["dead"]) for item in features] == [("mfcc", 6, 0), ("layer 1", 8, 0)]
    assert [line["step"] for line in read_metrics(run / "iteration-2" / "metrics.jsonl")][-1] == 5
    info = load_folder(model).info
    assert (info["iteration"], info["step"], info["units"]["units"]) == (2, 5, 8)
    assert weights(model)["embeddings"].shape == (8, 8)
    # Iteration 2 labels what iteration 1 learnt: the units of a layer of that very model.
    table = UnitTable.load(run / "iteration-2" / "units" / "units.npz")
    encoder = load_encoder(run / "iteration-1" / "model")
    corpus = open_corpus(cfg.data.shards, splits=("train",))
    assert table.hop == encoder.hop
    assert set(table.ids) == set(corpus.ids)
    assert all(
        len(table.get(item)) == int(encoder.frames(int(n))) for item, n in zip(corpus.ids, corpus.samples, strict=True)
    )
    assert pretrain(cfg) == model


class Stopped(Exception):
    """A kill, as seen from within."""


@pytest.mark.parametrize("where", ["units 1", "step 1 of 1", "export of 1", "units 2", "step 3 of 2", "publishing"])
def test_resumed_anywhere_gives_the_same_bits(cfg, tmp_path, monkeypatch, where, uninterrupted):
    def stop_at_call(target, name, number):
        original, calls = getattr(target, name), []

        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) == number:
                raise Stopped
            return original(*args, **kwargs)

        monkeypatch.setattr(target, name, wrapped)

    match where:
        case "units 1":
            stop_at_call(UnitTable, "save", 1)
        case "units 2":
            # The k-means of iteration 2 is there, its labels are not.
            stop_at_call(iteration_units, "make_units", 2)
        case "step 1 of 1":
            stop_at_call(Stream, "step", 2)
        case "step 3 of 2":
            stop_at_call(Stream, "step", 4 + 4)
        case "export of 1":
            stop_at_call(phases, "save_model", 1)
        case "publishing":
            stop_at_call(iterations, "_publish", 1)
    with pytest.raises(Stopped):
        pretrain(cfg)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    model = pretrain(cfg)
    assert same(model, uninterrupted(cfg))
    steps = [
        line["step"]
        for line in read_metrics(tmp_path / "run" / "iteration-2" / "metrics.jsonl")
        if line["phase"] == "train"
    ]
    assert steps == [1, 2, 3, 4, 5]
    first = read_metrics(tmp_path / "run" / "iteration-1" / "metrics.jsonl")
    cost = [line["seconds"] for line in first if line["phase"] == "targets"]
    assert len(cost) == (2 if where == "units 1" else 1) and min(cost) > 0
    assert not [path for path in (tmp_path / "run").rglob("*") if "tmp" in path.name or "parts" in path.name]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function that runs a configuration once, elsewhere."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return lambda cfg: pretrain(at(cfg, folder))


def test_carry_over_starts_from_the_iteration_before(cfg, tmp_path):
    still = replace(cfg, optim=replace(cfg.optim, lr=1e-12))
    for carry_over in (True, False):
        run = tmp_path / f"carry-{carry_over}"
        pretrain(at(with_targets(still, carry_over=carry_over), run))
        first, second = (weights(run / f"iteration-{n}" / "model") for n in (1, 2))
        names = [name for name in first if name.startswith("encoder.blocks") and name.endswith("weight")]
        assert len(names) > 4
        equal = [torch.allclose(first[name], second[name], atol=1e-7) for name in names if "norm" not in name]
        assert all(equal) if carry_over else not any(equal)


def test_continued_pretraining_keeps_sizes_and_weights(cfg, tmp_path):
    first = pretrain(at(with_targets(cfg, steps=(3,), clusters=(6,), layers=(0,)), tmp_path / "a"))
    other = ModelConfig(encoder=EncoderConfig(dropout=0.0, layer_drop=0.0))
    again = with_targets(cfg, steps=(2,), clusters=(7,), layers=(0,), teacher=TeacherConfig(str(first), 2))
    again = replace(again, init=str(first), model_from_init=True, model=other, optim=replace(cfg.optim, lr=1e-12))
    model = pretrain(at(again, tmp_path / "b"))
    before, after = load_folder(first), load_folder(model)
    assert (after.cfg.encoder.dim, after.cfg.encoder.dropout, after.cfg.frontend.kind) == (16, 0.0, "logmel")
    for name, value in after.part("encoder").items():
        torch.testing.assert_close(value, before.part("encoder")[name], rtol=0, atol=1e-7)
    assert after.state["embeddings"].shape[0] == 7
    torch.testing.assert_close(after.state["projection.weight"], before.state["projection.weight"], rtol=0, atol=1e-7)
    quality = json.loads((tmp_path / "b" / "iteration-1" / "units" / "units.json").read_text())
    assert quality["features"] == "layer 2"
    assert after.info["init"] == str(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (1,)}, "one item for each iteration; they have 1, 2 and 2"),
        ({"steps": (), "clusters": (), "layers": ()}, "have 0, 0 and 0"),
        ({"layers": (1, 1)}, "there is no model before iteration 1"),
        ({"layers": (0, 3)}, "the encoder has layers 1 to 2"),
        ({"layers": (0, -1)}, "the encoder has layers 1 to 2"),
        ({"clusters": (1, 8)}, "use 2 to 65,536"),
    ],
)
def test_contradictions_are_found_before_anything_is_made(cfg, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        pretrain(with_targets(cfg, **changes))
    assert not (tmp_path / "run").exists()


def test_steps_are_the_sum_over_iterations(cfg):
    assert resolved(cfg).training.steps == 9


def test_epochs_become_updates_of_the_corpus_but_not_those_of_iterations(cfg, tmp_path, capsys):
    epochs = replace(cfg.training, epochs=1.5)
    with pytest.raises(ConfigError, match=r"hubert is trained in iterations, whose updates are objective\.targets"):
        pretrain(replace(cfg, training=epochs))
    model = pretrain(replace(cfg, objective=CONTRASTIVE, training=epochs))
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["training"]
    steps = load_folder(model).info["step"]
    assert (stored["epochs"], stored["steps"]) == (1.5, steps)
    assert f"; {steps} steps of up to 12 s, 1.6 epochs;" in capsys.readouterr().err
    pretrain(replace(cfg, objective=CONTRASTIVE, training=epochs))  # complete: what is stored stays
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["training"]["steps"] == steps


def test_missing_shards_and_changed_settings_are_refused(cfg, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.shards is empty"):
        pretrain(at(replace(cfg, data=replace(cfg.data, shards="")), tmp_path / "other"))
    one = with_targets(cfg, steps=(2,), clusters=(6,), layers=(0,))
    pretrain(one)
    with pytest.raises(RunError, match=r"mask\.prob"):
        pretrain(with_objective(one, mask=MaskConfig(prob=0.5)))


def test_a_model_with_another_frame_grid_gives_no_units(cfg, tmp_path):
    one = with_targets(cfg, steps=(2,), clusters=(6,), layers=(0,))
    first = pretrain(at(one, tmp_path / "a"))
    encoder = SpeechEncoder(replace(cfg.model, frontend=replace(cfg.model.frontend, stack=3)))
    with pytest.raises(ConfigError, match="320 samples apart, those of the new model 480"):
        iteration_units._features(one, encoder, first, 1, start_parallel("cpu"))


def test_damaged_audio_is_listed_and_left_out(cfg, tone_corpus, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(tone_corpus.shards, shards)
    row = open_corpus(shards, splits=("train",)).row(3)
    tar = sorted(shards.glob("*.tar"))[row.shard]
    data = bytearray(tar.read_bytes())
    data[row.offset + row.size // 2] ^= 0xFF
    tar.write_bytes(data)
    cfg = replace(cfg, data=replace(cfg.data, shards=str(shards), max_bad_fraction=0.2))
    cfg = with_targets(cfg, steps=(12,), clusters=(6,), layers=(0,))
    pretrain(cfg)
    run = tmp_path / "run" / "iteration-1"
    assert row.id not in UnitTable.load(run / "units" / "units.npz")
    assert {entry.item for entry in read_ledger(run / "ledger.jsonl")} == {row.id}
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["phase"] == "train"]
    assert len(losses) == 12
    assert np.isfinite(losses).all()


def torchrun(cfg, path, ranks=2):
    """Start ``pretrain`` on several ranks; return the finished process."""
    write_toml(cfg, path)
    code = (
        "import sys; from speechssl.config.load import read_toml; from speechssl.config import PretrainConfig; "
        "from speechssl.training.pretrain import pretrain; from pathlib import Path; "
        "pretrain(read_toml(PretrainConfig, Path(sys.argv[1])))"
    )
    script = path.with_suffix(".py")
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*command, str(path)], env=env, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_two_ranks_make_the_same_units_and_the_same_model_as_one(cfg, tmp_path):
    cfg = with_targets(cfg, steps=(4,), clusters=(6,), layers=(0,))
    done = torchrun(at(cfg, tmp_path / "two"), tmp_path / "two.toml")
    assert done.returncode == 0, done.stderr
    one = pretrain(at(cfg, tmp_path / "one"))
    tables = [UnitTable.load(tmp_path / name / "iteration-1" / "units" / "units.npz") for name in ("one", "two")]
    assert np.array_equal(tables[0].units, tables[1].units)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(tmp_path / "two" / "model")[name], value, rtol=1e-3, atol=1e-5)
    valid = []
    for name in ("one", "two"):
        lines = read_metrics(tmp_path / name / "iteration-1" / "metrics.jsonl")
        valid.append([line["valid_loss"] for line in lines if line["phase"] == "valid"])
    assert len(valid[0]) == 4
    assert valid[0] == pytest.approx(valid[1], rel=1e-4)


def test_ranks_wait_for_what_another_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(iteration_units, "POLL_SECONDS", 0.01)
    wanted = tmp_path / "units.npz"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(iteration_units._wait, wanted, tmp_path, lambda: None)
        time.sleep(0.1)
        assert not waiting.done()
        wanted.touch()
        waiting.result(10)
    wanted.unlink()
    (tmp_path / "failed-0").write_text("the disk is full")
    with pytest.raises(RunError, match="rank 0 could not make the units: the disk is full"):
        iteration_units._wait(wanted, tmp_path, lambda: None)


def test_a_failure_of_rank_0_is_left_for_the_others_to_read(cfg, tmp_path):
    bad = with_targets(cfg, clusters=(60_000, 8))
    with pytest.raises(DataError):
        pretrain(bad)
    failed = tmp_path / "run" / "iteration-1" / "units" / "failed-0"
    assert "cannot make 60000 clusters" in failed.read_text()
    failed.write_text("from an earlier attempt")
    with pytest.raises(DataError):
        pretrain(bad)
    assert "cannot make 60000 clusters" in failed.read_text()


def test_listed_ids_that_are_not_in_the_shards_are_in_the_ledger_and_said(cfg, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join([*open_corpus(cfg.data.shards, splits=("train",)).ids[:8], "absent-1"]))
    cfg = replace(cfg, objective=CONTRASTIVE, training=replace(cfg.training, steps=1))
    pretrain(replace(cfg, data=replace(cfg.data, ids=(str(ids),))))
    assert "1 listed ids are not in the corpus: absent-1" in capsys.readouterr().err
    entries = [e for e in read_ledger(tmp_path / "run" / "ledger.jsonl") if e.reason == "id_not_in_corpus"]
    assert [(entry.stage, entry.item) for entry in entries] == [("pretrain", "absent-1")]
