"""What a pretraining starts from and learns from: init gives weights, a teacher or a file gives targets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

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
    ValidationConfig,
    Wav2Vec2Config,
)
from speechssl.config.load import read_toml
from speechssl.core.errors import CheckpointError, ConfigError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.core.presets import find_config
from speechssl.data.store.reader import open_corpus
from speechssl.interop.any_model import load_any, load_any_encoder
from speechssl.interop.huggingface import save_huggingface
from speechssl.interop.model_folder import load_folder, save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.targets.kmeans import KMeans
from speechssl.targets.table import UnitTable
from speechssl.training.initialisation import size_differences
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.pretrain import pretrain, resolved
from speechssl.training.targets import check_targets
from tests.support.objectives import with_targets
from tests.support.public_models import of_transformers

SMALL = ModelConfig(
    frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2),
    encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2),
)
WIDE = replace(SMALL, encoder=replace(SMALL.encoder, dim=24, layers=3))
WAVEFORM = replace(SMALL, frontend=FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8))))
"""Frames as far apart as those of SMALL."""

MASK = MaskConfig(length=4)
CONTRASTIVE = Wav2Vec2Config(final_dim=8, entries=8, negatives=10, mask=MASK)


@pytest.fixture
def cfg(tone_corpus, tmp_path) -> PretrainConfig:
    return PretrainConfig(
        output=str(tmp_path / "run"),
        data=DataConfig(
            shards=str(tone_corpus.shards), min_seconds=0.3, batch_seconds=6.0, buckets=3, workers=0, batches_per_step=2
        ),
        model=SMALL,
        objective=HubertConfig(
            final_dim=8, mask=MASK, targets=TargetsConfig(steps=(2,), clusters=(6,), layers=(0,), kmeans_starts=2)
        ),
        validation=ValidationConfig(share=0.1),
        optim=OptimConfig(lr=1e-12, warmup=0.2),
        training=TrainingConfig(steps=2, device="cpu", precision="fp32", log_every=1, save_every=2, keep=2),
    )


def folder_of(model: ModelConfig, path: Path) -> str:
    torch.manual_seed(4)
    save_model(path, encoder=SpeechEncoder(model))
    return str(path)


def test_H2_a_preset_with_an_init_of_other_sizes_is_refused_and_says_what_to_write(tmp_path):
    init = folder_of(SMALL, tmp_path / "small")
    large = replace(read_toml(PretrainConfig, find_config("hubert-large")), init=init)
    with pytest.raises(ConfigError) as caught:
        resolved(large)
    text = str(caught.value)
    for line in (
        "model.normalize = false (here true)",
        'model.frontend.kind = "logmel" (here "waveform")',
        "model.encoder.dim = 16 (here 1024)",
        "model.encoder.layers = 2 (here 24)",
        "--model-from-init",
        "--objective.targets.teacher.model",
    ):
        assert line in text
    assert "dropout" not in text


def test_H2_sizes_of_the_same_kind_of_stem_are_compared_one_by_one():
    narrow = replace(WAVEFORM, frontend=replace(WAVEFORM.frontend, conv_layers=((8, 10, 5), (8, 64, 64))))
    assert size_differences(narrow, WAVEFORM) == [
        "model.frontend.conv_layers = [[16, 10, 5], [16, 8, 8], [16, 8, 8]] (here [[8, 10, 5], [8, 64, 64]])"
    ]
    other = replace(WAVEFORM, encoder=replace(WAVEFORM.encoder, dropout=0.5, layer_drop=0.3))
    assert size_differences(other, replace(WAVEFORM, frontend=replace(WAVEFORM.frontend, grad_scale=0.7))) == []


def test_H2_an_init_of_the_same_sizes_gives_its_weights(cfg, tmp_path):
    init = folder_of(SMALL, tmp_path / "init")
    model = load_folder(pretrain(replace(cfg, init=init)))
    before = load_folder(Path(init)).part("encoder")
    for name, value in model.part("encoder").items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-7)
    assert json.loads((tmp_path / "run" / "iteration-1" / "units" / "units.json").read_text())["features"] == "mfcc"


def test_H2_sizes_are_taken_from_init_when_that_is_asked_for(cfg, tmp_path):
    init = folder_of(WIDE, tmp_path / "wide")
    asked = replace(cfg, init=init, model_from_init=True, model=ModelConfig(encoder=EncoderConfig(dropout=0.3)))
    found = resolved(asked).model.encoder
    assert (found.dim, found.layers, found.dropout) == (24, 3, 0.3)
    with pytest.raises(ConfigError, match="init is empty"):
        resolved(replace(asked, init=""))


def test_H2_a_teacher_of_another_size_gives_the_units_and_not_the_weights(cfg, tmp_path):
    teacher = folder_of(WIDE, tmp_path / "teacher")
    model = pretrain(with_targets(cfg, teacher=TeacherConfig(teacher, 3)))
    units = tmp_path / "run" / "iteration-1" / "units"
    assert json.loads((units / "units.json").read_text())["features"] == "layer 3"
    kmeans = KMeans.load(units / "kmeans.npz")
    assert kmeans.centroids.shape == (6, 24)
    assert load_folder(model).cfg.encoder.dim == 16
    # The units are the nearest centroids of the teacher's layer, utterance by utterance.
    corpus = open_corpus(cfg.data.shards, splits=("train",))
    encoder, table = load_any_encoder(Path(teacher)), UnitTable.load(units / "units.npz")
    for row in range(5):
        with torch.no_grad():
            features = encoder(torch.from_numpy(corpus.read(row))[None], stop_at=3).x[0]
        nearest = torch.cdist(features, torch.as_tensor(kmeans.centroids)).argmin(dim=1)
        assert (nearest.numpy() == table.get(corpus.ids[row])).mean() > 0.97


def test_H2_the_second_iteration_learns_from_the_first_and_not_from_the_teacher(cfg, tmp_path):
    teacher = folder_of(WIDE, tmp_path / "teacher")
    two = {"steps": (1, 1), "clusters": (6, 7), "layers": (0, 1)}
    pretrain(with_targets(cfg, teacher=TeacherConfig(teacher, 3), **two))
    sizes = [KMeans.load(tmp_path / "run" / f"iteration-{n}" / "units" / "kmeans.npz").centroids.shape for n in (1, 2)]
    assert sizes == [(6, 24), (7, 16)]


def test_H2_the_old_form_is_refused_and_the_new_one_shown(cfg, tmp_path):
    init = folder_of(WIDE, tmp_path / "wide")
    old = with_targets(replace(cfg, init=init), steps=(1, 1), clusters=(6, 6), layers=(2, 1))
    with pytest.raises(
        ConfigError,
        match=r'\[objective\.targets\.teacher\] with model = ".*wide" and layer = 2, and .*layers = \[0, 1\]',
    ):
        pretrain(old)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": TeacherConfig("TEACHER", 4)}, "teacher.layer = 4: .* has layers 1 to 3"),
        ({"teacher": TeacherConfig("TEACHER", 0)}, "teacher.layer = 0: .* has layers 1 to 3"),
        ({"teacher": TeacherConfig("", 9)}, "teacher.layer = 9, but teacher.model is empty"),
        ({"teacher": TeacherConfig("COARSE", 1)}, "its frames lie 640 samples apart, those of the new model 320"),
        ({"teacher": TeacherConfig("TEACHER", 1), "units": "units.npz"}, "give one of them"),
    ],
)
def test_H2_contradictions_are_found_before_anything_is_made(cfg, tmp_path, changes, message):
    folder_of(WIDE, tmp_path / "TEACHER")
    folder_of(replace(WIDE, frontend=replace(WIDE.frontend, stack=4)), tmp_path / "COARSE")
    if "teacher" in changes and changes["teacher"].model:
        changes = {**changes, "teacher": replace(changes["teacher"], model=str(tmp_path / changes["teacher"].model))}
    with pytest.raises(ConfigError, match=message):
        pretrain(with_targets(cfg, **changes))
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file"):
        pretrain(with_targets(cfg, units="nowhere.npz"))
    assert not (tmp_path / "run").exists()


def test_H2_the_large_preset_has_the_published_shape():
    large = read_toml(PretrainConfig, find_config("hubert-large"))
    targets = large.objective.targets
    assert (targets.steps, targets.clusters, targets.layers) == ((400_000,), (500,), (0,))
    assert targets.teacher.layer == 9
    assert resolved(large).training.steps == 400_000  # `estimate` needs no teacher
    with pytest.raises(ConfigError, match=r"for a LARGE model a BASE one"):
        check_targets(large)


def labels_of(cfg) -> dict[str, list[int]]:
    """Return units for every utterance of the run: the number of the frame, modulo 6."""
    corpus, encoder = open_corpus(cfg.data.shards, splits=("train",)), SpeechEncoder(cfg.model)
    return {
        name: (np.arange(int(encoder.frames(int(n)))) % 6).tolist()
        for name, n in zip(corpus.ids, corpus.samples, strict=True)
    }


def write_units(path: Path, labels: dict[str, list[int]]) -> str:
    rows = [{"hop": 320}, *({"id": name, "units": units} for name, units in labels.items())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_H2_units_of_a_file_are_what_is_predicted(cfg, tmp_path, capsys):
    labels = labels_of(cfg)
    missing = sorted(labels)[3]
    units = labels.pop(missing)
    tolerant = replace(cfg.data, max_bad_fraction=0.1)
    given = with_targets(replace(cfg, data=tolerant), units=write_units(tmp_path / "units.jsonl", labels))
    model = pretrain(given)
    run = tmp_path / "run" / "iteration-1"
    table = UnitTable.load(run / "units" / "units.npz")
    assert {name: table.get(name).tolist() for name in table.ids} == labels
    assert [(entry.item, entry.reason) for entry in read_ledger(run / "ledger.jsonl")] == [(missing, "no_units")]
    assert not (run / "units" / "kmeans.npz").exists()
    assert missing not in (run / "validation.txt").read_text().split()
    info = load_folder(model).info
    assert info["utterances"] == len(labels) - len((run / "validation.txt").read_text().split())
    assert "left out: 1 no_units" in capsys.readouterr().err
    # A run that goes on refuses another file of that name.
    (run / "model" / "config.json").unlink()
    (tmp_path / "run" / "model" / "config.json").unlink()
    write_units(tmp_path / "units.jsonl", {**labels, missing: units})
    with pytest.raises(DataError, match=r"is not the file that .* was made from"):
        pretrain(given)


def test_H2_a_folder_of_hugging_face_is_a_teacher_and_an_init(cfg, tmp_path):
    torch.manual_seed(4)
    encoder = SpeechEncoder(WAVEFORM).eval()
    save_huggingface(tmp_path / "hf", encoder, "hubert")
    pretrain(with_targets(cfg, teacher=TeacherConfig(str(tmp_path / "hf"), 2)))
    assert KMeans.load(tmp_path / "run" / "iteration-1" / "units" / "kmeans.npz").centroids.shape == (6, 16)
    started = pretrain(
        replace(cfg, objective=CONTRASTIVE, init=str(tmp_path / "hf"), model=WAVEFORM, output=str(tmp_path / "b"))
    )
    for name, value in load_folder(started).part("encoder").items():
        torch.testing.assert_close(value, encoder.state_dict()[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
def test_H2_a_state_dict_of_torchaudio_gives_the_same_numbers(tmp_path, kind, mode):
    torch.manual_seed(3)
    settings = {
        "extractor_mode": mode,
        "extractor_conv_layer_config": [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
        "extractor_conv_bias": mode == "layer_norm",
        "encoder_embed_dim": 128,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 2,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 48,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": mode == "layer_norm",
        "encoder_layer_drop": 0.05,
    }
    if kind == "wav2vec2":
        model = core = torchaudio.models.wav2vec2_model(**settings, aux_num_out=5)
    else:
        own = {"mask_prob": 0.8, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10}
        own |= {"no_mask_overlap": False, "mask_min_space": 1, "mask_channel_prob": 0.0}
        own |= {"mask_channel_selection": "static", "mask_channel_other": 0.0, "mask_channel_length": 10}
        own |= {"no_mask_channel_overlap": False, "mask_channel_min_space": 1, "skip_masked": False}
        own |= {"skip_nomask": False, "num_classes": 9, "final_dim": 8, "feature_grad_mult": 0.1}
        model = torchaudio.models.hubert_pretrain_model(**settings, **own)
        core = model.wav2vec2
    torch.save(model.state_dict(), tmp_path / "model.pth")
    loaded = load_any(tmp_path / "model.pth")
    assert loaded.cfg.normalize is (mode == "layer_norm")
    encoder = load_any_encoder(tmp_path / "model.pth", replace(loaded.cfg, normalize=False))
    wave = torch.randn(1, 4000)
    with torch.no_grad():
        theirs, _ = core.eval().extract_features(wave)
        ours = encoder(wave, layers=True).layers[1:]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=0)
    if kind == "hubert":
        assert torch.equal(encoder.mask_embedding, model.mask_generator.mask_embedding)


def test_H2_what_is_no_model_is_named(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no archive")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("other.pt", "no wav2vec 2.0, HuBERT or WavLM model in a format of fairseq"),
        ("text.pt", "not a checkpoint that torch reads safely"),
        ("model.safetensors", "a file; give a model folder"),
        ("empty", "not a model folder"),
        ("nowhere", "no such folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_any(tmp_path / name)


def contrastive(cfg, path: Path, **changes) -> PretrainConfig:
    return replace(cfg, **{"objective": CONTRASTIVE, "output": str(path), **changes})


def last_valid(folder: Path) -> dict:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["phase"] == "valid"][-1]


def test_H3_a_continued_pretraining_takes_its_heads_back_and_goes_on_where_the_first_ended(cfg, tmp_path, capsys):
    learning = replace(cfg, optim=OptimConfig(lr=3e-3), training=replace(cfg.training, steps=8))
    first = pretrain(contrastive(learning, tmp_path / "a"))
    capsys.readouterr()
    second = pretrain(contrastive(cfg, tmp_path / "b", init=str(first), seed=9))
    said = capsys.readouterr().err
    assert f"init {first}: taken: encoder, quantizer, project_targets, project_context; new: nothing" in said
    before, after = load_folder(first).state, load_folder(second).state
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-7)
    ended, began = last_valid(tmp_path / "a"), last_valid(tmp_path / "b")
    assert began["valid_contrastive"] == pytest.approx(ended["valid_contrastive"], rel=1e-4)


def test_H3_a_head_of_another_shape_is_new_as_a_whole_and_said(cfg, tmp_path, capsys):
    first = pretrain(contrastive(cfg, tmp_path / "a"))
    wider = replace(CONTRASTIVE, groups=1, entries=16)  # as many rows in quantizer.weight_proj
    second = pretrain(contrastive(cfg, tmp_path / "b", init=str(first), objective=wider, seed=9))
    said = capsys.readouterr().err
    assert "new: quantizer (quantizer.codebooks is [2, 8, 4] there, [1, 16, 8] here)" in said
    before, after = load_folder(first).state, load_folder(second).state
    assert before["quantizer.weight_proj.weight"].shape == after["quantizer.weight_proj.weight"].shape
    assert not torch.allclose(before["quantizer.weight_proj.weight"], after["quantizer.weight_proj.weight"])
    torch.testing.assert_close(before["project_context.weight"], after["project_context.weight"], rtol=0, atol=1e-7)


def test_H3_label_embeddings_are_taken_back_only_for_the_same_units(cfg, tmp_path, capsys):
    labels = labels_of(cfg)
    given = with_targets(cfg, units=write_units(tmp_path / "units.jsonl", labels))
    first = pretrain(replace(given, output=str(tmp_path / "a")))
    same = pretrain(replace(given, init=str(first), seed=9, output=str(tmp_path / "b")))
    assert "taken: encoder, embeddings, projection; new: nothing" in capsys.readouterr().err
    shifted = {name: [(unit + 1) % 6 for unit in units] for name, units in labels.items()}
    shifted_units = write_units(tmp_path / "shifted.jsonl", shifted)
    other = replace(with_targets(cfg, units=shifted_units), init=str(first), seed=9)
    others = [
        pretrain(replace(other, output=str(tmp_path / "c"))),
        pretrain(replace(cfg, init=str(first), seed=9, output=str(tmp_path / "d"))),
    ]
    said = capsys.readouterr().err
    assert said.count("taken: encoder, projection; new: embeddings (other units)") == 2
    before = load_folder(first).state["embeddings"]
    torch.testing.assert_close(load_folder(same).state["embeddings"], before, rtol=0, atol=1e-7)
    for model in others:
        assert load_folder(model).state["embeddings"].shape == before.shape
        assert not torch.allclose(load_folder(model).state["embeddings"], before)


def test_H3_clusters_of_an_earlier_run_keep_the_meaning_of_units_on_another_corpus(cfg, tmp_path, capsys):
    first = pretrain(replace(cfg, output=str(tmp_path / "a")))
    kmeans = tmp_path / "a" / "iteration-1" / "units" / "kmeans.npz"
    dev = replace(cfg, data=replace(cfg.data, splits=("dev",)), init=str(first), seed=9, output=str(tmp_path / "b"))
    pretrain(with_targets(dev, teacher=TeacherConfig(kmeans=str(kmeans))))
    assert "taken: encoder, embeddings, projection; new: nothing" in capsys.readouterr().err
    kept = KMeans.load(tmp_path / "b" / "iteration-1" / "units" / "kmeans.npz").centroids
    assert np.array_equal(kept, KMeans.load(kmeans).centroids)
    pretrain(replace(dev, output=str(tmp_path / "c")))
    assert "new: embeddings (other units)" in capsys.readouterr().err
    five = with_targets(replace(dev, output=str(tmp_path / "d")), clusters=(5,))
    with pytest.raises(ConfigError, match=r"6 clusters of 39 dimensions, but objective\.targets\.clusters\[0\] = 5"):
        pretrain(with_targets(five, teacher=TeacherConfig(kmeans=str(kmeans))))
    with pytest.raises(DataError, match=r"teacher\.kmeans = gone\.npz: no such file"):
        pretrain(with_targets(five, teacher=TeacherConfig(kmeans="gone.npz")))


def test_H3_heads_of_another_objective_or_library_are_new(cfg, tmp_path, capsys):
    first = pretrain(contrastive(cfg, tmp_path / "a"))
    pretrain(replace(cfg, init=str(first), output=str(tmp_path / "b")))
    assert "all heads are new (it was trained with wav2vec2)" in capsys.readouterr().err
    save_huggingface(tmp_path / "hf", SpeechEncoder(WAVEFORM).eval())
    pretrain(contrastive(cfg, tmp_path / "c", init=str(tmp_path / "hf"), model=WAVEFORM))
    assert "all heads are new (it comes from Hugging Face)" in capsys.readouterr().err


def test_H3_the_heads_of_a_public_model_are_taken_and_pretraining_continues(cfg, tmp_path, capsys):
    pytest.importorskip("transformers")
    sizes = {"num_codevectors_per_group": 8, "codevector_dim": 8, "proj_codevector_dim": 8}
    of_transformers("Wav2Vec2ForPreTraining", **sizes).save_pretrained(tmp_path / "theirs")
    here = replace(CONTRASTIVE, mask=replace(MASK, length=2))
    model = pretrain(
        contrastive(cfg, tmp_path / "run", init=str(tmp_path / "theirs"), model_from_init=True, objective=here)
    )
    assert "taken: encoder, quantizer, project_targets, project_context; new: nothing" in capsys.readouterr().err
    before, after = load_any(tmp_path / "theirs").state, load_folder(model).state
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-7)


def test_H3_an_iteration_that_carries_over_has_new_heads_for_its_new_units(cfg, tmp_path, capsys):
    pretrain(with_targets(cfg, steps=(1, 1), clusters=(6, 6), layers=(0, 1), carry_over=True))
    first, second = (load_folder(tmp_path / "run" / f"iteration-{n}" / "model").state for n in (1, 2))
    assert not torch.allclose(first["projection.weight"], second["projection.weight"])
    assert "taken:" not in capsys.readouterr().err


def test_H3_no_objective_exports_its_encoder(cfg, tmp_path):
    for model in (pretrain(cfg), pretrain(contrastive(cfg, tmp_path / "b"))):
        folder = load_folder(model)
        heads = {name.split(".")[0] for name in folder.state} - {"encoder"}
        assert heads in ({"projection", "embeddings"}, {"quantizer", "project_targets", "project_context"})
