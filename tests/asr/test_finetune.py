"""Fine-tuning end to end on a language of tones: it learns, selects, accounts for what it leaves out, and resumes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.evaluate import evaluate
from speechssl.asr.finetune import build_recogniser, ctc_settings, finetune, model_settings, training_set
from speechssl.asr.labelled import open_labelled
from speechssl.asr.validation import Validation
from speechssl.config import (
    AugmentConfig,
    CtcConfig,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    FrontendConfig,
    SpecAugmentConfig,
    TokensConfig,
)
from speechssl.config.load import read_toml
from speechssl.core.errors import CheckpointError, ConfigError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.core.presets import find_config
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.reader import open_corpus
from speechssl.interop.any_model import load_any
from speechssl.interop.model_folder import load_folder, save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.training.monitoring.log import read_metrics
from tests.oracles.ctc import frames_needed
from tests.support.public_models import fairseq_checkpoint, of_fairseq, of_transformers
from tests.support.tones import MODEL, make_sentence, recipe, speak, trained, write_shards

WAVEFORM = replace(MODEL, frontend=FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 4, 4), (16, 2, 2))))
ODD = {
    "odd-unlabelled": ("ab", None, "train"),
    "odd-crowded": ("ab", "abcde " * 20, "train"),  # 120 labels in half a second
    "odd-long": ("abcde " * 12, "abcde " * 12, "train"),
    "odd-script": ("ab", "語", "train"),  # its only character is too rare to be learnt
    "odd-silence": ("", "", "train"),  # nothing was said: a fair example
    "odd-dev": ("abc", "abz", "dev"),
    "odd-dev-silent": ("", "", "dev"),
    "odd-dev-unlabelled": ("a", None, "dev"),
}


def odd_utterances() -> list[tuple[Utterance, np.ndarray]]:
    return [said(name, text and text.strip(), split, spoken) for name, (spoken, text, split) in ODD.items()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few utterances, some of them odd."""
    return write_shards(tmp_path_factory.mktemp("odd"), {"train": 30, "dev": 6}, odd_utterances())


def short(shards: Path, output: Path, steps: int = 4, **changes: object):
    cfg = recipe(shards, output, steps=steps, **changes)
    return replace(cfg, training=replace(cfg.training, validate_every=0, save_every=2, **{"log_every": 1}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_folder(folder).state


def test_it_learns_and_exports_the_weights_that_were_best_on_dev() -> None:
    shards, run = trained()
    metrics = read_metrics(run / "metrics.jsonl")
    losses = [line["loss"] for line in metrics if line["phase"] == "train"]
    valid = {line["step"]: line for line in metrics if line["phase"] == "valid"}
    assert losses[-1] < 0.1 * losses[0]
    assert {"blank_fraction", "infeasible"} <= metrics[0].keys()
    info = load_folder(run / "model").info
    assert info["dev_wer"] == min(line["dev_wer"] for line in valid.values()) < 0.5
    assert valid[info["step"]]["dev_wer"] == info["dev_wer"]
    assert all({"dev_wer", "dev_cer", "dev_loss"} <= line.keys() for line in valid.values())
    assert info["selected"] == "lowest dev WER"
    assert sorted(info["word_counts"]) == info["words"]
    corpus = open_corpus(shards, splits=["train"]).utterances().values()
    assert sum(info["word_counts"].values()) == sum(len((u.text or "").split()) for u in corpus)
    # The exported model, read back, gives the very number it was selected for.
    report = evaluate(
        EvaluateConfig(model=str(run / "model"), data=replace(recipe(shards, run).dev, shards=str(shards)))
    )
    assert report.wer == info["dev_wer"]


def test_what_is_left_out_is_in_the_ledger_and_not_in_the_data(shards: Path, tmp_path: Path, capfd) -> None:
    cfg = short(shards, tmp_path / "run", tokens=TokensConfig(min_count=2))
    finetune(cfg)
    entries = {(entry.item, entry.reason) for entry in read_ledger(tmp_path / "run" / "ledger.jsonl")}
    assert entries == {
        ("odd-unlabelled", "no_transcript"),
        ("odd-crowded", "ctc_infeasible"),
        ("odd-long", "too_long"),
        ("odd-script", "no_known_character"),
        ("語", "rare_character"),
        ("odd-dev-unlabelled", "no_transcript"),
        ("z", "unseen_character"),
    }
    seen = capfd.readouterr().err
    assert "training on 31 utterances" in seen
    assert "1 ctc_infeasible" in seen
    assert "selecting on 8 dev utterances" in seen
    assert seen.count("  ref: ") == seen.count("  hyp: ") == 3
    finetune(cfg)  # finished: nothing is done again, nothing is listed twice
    assert len(read_ledger(tmp_path / "run" / "ledger.jsonl")) == len(entries)


@pytest.mark.parametrize("speeds", [(), (0.9, 1.0), (1.0, 2.0)])
def test_the_fastest_speed_decides_what_fits(shards: Path, speeds: tuple[float, ...]) -> None:
    cfg = recipe(shards, shards, augment=AugmentConfig(speeds=speeds))
    labelled = open_labelled(replace(cfg.data, splits=("train",)), stage="finetune")

    def frames(samples: int) -> int:
        return samples // 3_000  # 5.3 a second: many utterances do not fit

    data = training_set(cfg, labelled, frames)
    fastest = 2 if 2.0 in speeds else 1
    corpus = labelled.corpus()
    expected = {
        name
        for name, samples in zip(corpus.ids, corpus.samples.tolist(), strict=True)
        if samples < 5 * 16_000
        and max(1, frames_needed(data.tokens.encode(labelled.texts[name]))) <= frames(samples // fastest)
    }
    assert set(data.corpus.ids) == expected
    assert 0 < len(expected) < 33


def said(name: str, text: str | None, split: str, spoken: str = "ab") -> tuple[Utterance, np.ndarray]:
    wave = speak(spoken, name)
    return Utterance(name, "", len(wave) / 16_000, 16_000, 1, text=text, split=split), wave


def test_no_training_data_says_why(tmp_path: Path) -> None:
    rows = [said("u0", None, "train"), said("u1", None, "train"), said("d", "ab", "dev")]
    folder = write_shards(tmp_path / "corpus", {}, rows)
    with pytest.raises(DataError, match=r"no utterance of train .* can be trained on \(2 no_transcript\)"):
        finetune(short(folder, tmp_path / "run"))
    with pytest.raises(DataError, match=r"no such split"):
        finetune(short(folder, tmp_path / "other", data=DataConfig(shards=str(folder), splits=("nowhere",))))
    folder = write_shards(tmp_path / "crowded", {}, [said("u", "abcde" * 30, "train")])
    with pytest.raises(DataError, match="1 ctc_infeasible"):
        finetune(short(folder, tmp_path / "third"))
    with pytest.raises(ConfigError, match=r"data\.shards"):
        finetune(replace(short(folder, tmp_path / "fourth"), data=DataConfig()))


def test_a_folder_without_noise_is_an_error(shards: Path, tmp_path: Path) -> None:
    cfg = short(shards, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data\.noise = .* holds no recording"):
        finetune(replace(cfg, data=replace(cfg.data, noise=str(shards))))


def test_without_a_dev_set_the_last_weights_are_kept_and_it_says_so(tmp_path: Path, capfd) -> None:
    folder = write_shards(tmp_path / "corpus", {"train": 12})
    model = finetune(short(folder, tmp_path / "run"))
    info = load_folder(model).info
    assert (info["dev_wer"], info["step"]) == (None, 4)
    assert "no transcribed dev utterance" in info["selected"]
    assert "the last weights will be kept, unselected" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("layers", "options"), [(1, {}), (2, {"cr_weight": 0.2, "intermediate_layers": (1,), "self_conditioned": True})]
)
def test_an_interrupted_run_ends_with_the_same_bits(
    shards: Path, tmp_path: Path, monkeypatch, layers: int, options: dict[str, object]
) -> None:
    masks = CtcConfig(freeze_steps=0, time_mask_prob=0.3, time_mask_length=2, channel_mask_length=4, layer_drop=0.2)
    masks = replace(masks, spec_augment=SpecAugmentConfig(time_masks=2.0, mel_masks=1, time_warp=5))
    ctc = replace(masks, **options)  # type: ignore[arg-type]
    noise = AugmentConfig(speeds=(0.9, 1.0, 1.1), gain_db=3.0, noise_snr_db=(5.0, 20.0), reverb_prob=0.5)
    model = replace(MODEL, encoder=replace(MODEL.encoder, layers=layers))

    def run(name: str):
        cfg = short(shards, tmp_path / name, steps=8, ctc=ctc, augment=noise, model=model)
        return replace(cfg, training=replace(cfg.training, validate_every=2))

    finetune(run("whole"))
    validate, calls = Validation.__call__, []

    def power_cut(self: Validation, step: int) -> dict[str, float]:
        calls.append(step)
        if len(calls) == 2:  # at step 4, before its checkpoint: goes back to step 2
            raise OSError("the machine is gone")
        return validate(self, step)

    monkeypatch.setattr(Validation, "__call__", power_cut)
    with pytest.raises(OSError, match="gone"):
        finetune(run("parts"))
    finetune(run("parts"))
    assert calls == [2, 4, 4, 6, 8]
    whole, parts = weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    save_model(folder, encoder=SpeechEncoder(WAVEFORM), extra={"quantizer.vars": torch.zeros(3)}, info={"step": 1})
    return folder


def moved(model: Path, before: dict[str, torch.Tensor]) -> set[str]:
    after = weights(model)
    assert after.keys() == {*before, "head.weight", "head.bias"} - {"quantizer.vars"}
    return {name.split(".")[1] for name in before if name in after and not torch.equal(before[name], after[name])}


def test_frozen_parts_keep_the_pretrained_weights(shards: Path, tmp_path: Path, pretrained: Path) -> None:
    before = weights(pretrained)
    ctc = CtcConfig(freeze_steps=3, time_mask_length=2, channel_mask_length=4)
    frozen = finetune(short(shards, tmp_path / "frozen", steps=3, ctc=ctc, init=str(pretrained)))
    assert moved(frozen, before) == set()
    assert weights(frozen)["head.weight"].abs().sum() > 0
    released = finetune(short(shards, tmp_path / "released", steps=5, ctc=ctc, init=str(pretrained)))
    parts = moved(released, before)
    assert {"projection", "blocks", "mask_embedding", "feature_norm"} <= parts
    assert "frontend" not in parts
    ctc = replace(ctc, freeze_frontend=False)
    everything = finetune(short(shards, tmp_path / "everything", steps=5, ctc=ctc, init=str(pretrained)))
    assert "frontend" in moved(everything, before)


def test_from_scratch_nothing_is_frozen_whatever_the_settings_say(shards: Path, tmp_path: Path) -> None:
    ctc = CtcConfig(freeze_steps=1_000, freeze_frontend=True, time_mask_length=2, channel_mask_length=4)
    cfg = short(shards, tmp_path / "run", steps=2, ctc=ctc, model=WAVEFORM)
    assert ctc_settings(cfg) == replace(ctc, freeze_steps=0, freeze_frontend=False)
    assert model_settings(cfg, None).frontend.grad_scale == 1.0
    tokens = load_recogniser(finetune(cfg))[1]
    start = build_recogniser(cfg, None, tokens.size).state_dict()
    after = weights(tmp_path / "run" / "model")
    assert all(not torch.equal(start[name], after[name]) for name in start if name.endswith("conv.weight"))


def test_pretrained_sizes_and_this_runs_dropouts(pretrained: Path, tmp_path: Path) -> None:
    model = replace(MODEL, encoder=replace(MODEL.encoder, dropout=0.3, attention_dropout=0.2, input_dropout=0.4))
    cfg = recipe(tmp_path, tmp_path, model=model, init=str(pretrained), ctc=CtcConfig(layer_drop=0.07))
    made = model_settings(cfg, load_folder(pretrained).cfg)
    assert made.frontend == WAVEFORM.frontend
    encoder = made.encoder
    assert (encoder.dropout, encoder.attention_dropout, encoder.input_dropout) == (0.3, 0.2, 0.4)
    assert (encoder.activation_dropout, encoder.layer_drop) == (0.1, 0.07)
    again = replace(
        encoder, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, activation_dropout=0.0, layer_drop=0.0
    )
    assert again == WAVEFORM.encoder


def test_a_missing_or_unfitting_start_is_an_error(shards: Path, tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(CheckpointError, match="not a model folder"):
        finetune(short(shards, tmp_path / "run", init=str(tmp_path / "nowhere")))
    folder = load_folder(pretrained)
    wrong = replace(folder, state={**folder.state, "encoder.projection.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="do not fit their configuration"):
        build_recogniser(recipe(shards, tmp_path, init=str(pretrained)), wrong, 5)


def test_average_of_weights_is_what_is_selected_and_exported(shards: Path, tmp_path: Path) -> None:
    cfg = short(shards, tmp_path / "plain", steps=6)
    finetune(cfg)
    averaged = replace(cfg, output=str(tmp_path / "ema"), training=replace(cfg.training, ema_decay=0.9))
    model = finetune(averaged)
    info = load_folder(model).info
    assert info["averaged"]
    plain, ema = weights(tmp_path / "plain" / "model"), weights(model)
    assert not torch.equal(plain["head.weight"], ema["head.weight"])
    report = evaluate(EvaluateConfig(model=str(model), data=replace(cfg.dev, shards=str(shards))))
    assert report.wer == info["dev_wer"]


def test_a_conformer_over_convolutions_is_trained_with_spec_augment_and_read_back(shards: Path, tmp_path: Path) -> None:
    cfg = read_toml(FinetuneConfig, find_config("finetune-conformer-cpu"))
    encoder = replace(cfg.model.encoder, dim=16, layers=1, heads=2, ffn_dim=32)
    cfg = short(shards, tmp_path / "run", model=replace(cfg.model, encoder=encoder), ctc=cfg.ctc)
    info, after = load_folder(finetune(cfg)).info, weights(tmp_path / "run" / "model")
    before = build_recogniser(cfg, None, after["head.bias"].shape[0]).state_dict()
    for name in ("frontend.convolutions.first.weight", "frontend.convolutions.second.bias", "projection.weight"):
        assert not torch.equal(before[f"encoder.{name}"], after[f"encoder.{name}"])
    model = str(tmp_path / "run" / "model")
    report = evaluate(EvaluateConfig(model=model, data=replace(cfg.dev, shards=str(shards))))
    assert report.wer == info["dev_wer"]


def test_sentencepiece_tokens_travel_with_the_model(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    tokens = TokensConfig(kind="sentencepiece", vocab_size=12, min_count=2)
    recogniser, loaded = load_recogniser(finetune(short(shards, tmp_path / "run", steps=2, tokens=tokens)))
    assert loaded.kind == "sentencepiece"
    assert recogniser.head.out_features == loaded.size <= 12
    assert loaded.decode(loaded.encode("abc de")) == "abc de"


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from speechssl.asr.finetune import finetune
from speechssl.asr.evaluate import evaluate
from speechssl.config import EvaluateConfig
from speechssl.training.parallel import start_parallel
from tests.support.tones import recipe
shards, output = Path(sys.argv[1]), Path(sys.argv[2])
cfg = recipe(shards, output, steps=4)
cfg = replace(
    cfg,
    data=replace(cfg.data, batches_per_step=2, batch_seconds=6.0),
    dev=replace(cfg.dev, batch_seconds=2.0),
    training=replace(cfg.training, validate_every=2, log_every=1),
)
ranks = start_parallel("cpu")
model = finetune(cfg, parallel=ranks)
scoring = EvaluateConfig(model=str(model), output=str(output / "score"), data=replace(cfg.dev, shards=str(shards)))
evaluate(scoring, parallel=ranks)
ranks.close()
"""


def test_two_ranks_do_what_one_does(shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    one = [sys.executable, str(script), str(shards), str(tmp_path / "one")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [*launcher, str(script), str(shards), str(tmp_path / "two")]
    running = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command in (one, two)]
    for process in running:
        error = process.communicate(timeout=500)[1]
        assert process.returncode == 0, error
    first, second = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=2e-4, rtol=1e-3, msg=lambda text, name=name: name + text)
    scores = [
        [line for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["phase"] == "valid"]
        for name in ("one", "two")
    ]
    assert [line["step"] for line in scores[0]] == [line["step"] for line in scores[1]] == [2, 4]
    assert scores[0][-1]["dev_loss"] == pytest.approx(scores[1][-1]["dev_loss"], rel=1e-3)
    rows = [(tmp_path / name / "score" / "hypotheses.jsonl").read_text().splitlines() for name in ("one", "two")]
    ids = [[json.loads(line)["id"] for line in part] for part in rows]
    assert ids[0] == ids[1] == sorted(ids[0])
    assert len(ids[0]) == 8


def test_sentences_are_fixed() -> None:
    assert make_sentence("train-000") == make_sentence("train-000")
    assert len({make_sentence(f"train-{i:03d}") for i in range(50)}) > 25


def test_tags_are_not_learnt_and_the_manifests_language_decides_the_case(tmp_path: Path) -> None:
    extra = [said(name, text, "train") for name, text in (("t1", "AI <COMMA> [noise]"), ("t2", "<MUSIC>"))]
    extra = [(replace(utterance, language="tr"), wave) for utterance, wave in extra]
    cfg = recipe(write_shards(tmp_path, {}, extra), tmp_path)
    labelled = open_labelled(replace(cfg.data, splits=("train",)), stage="finetune")
    data = training_set(cfg, labelled, lambda samples: samples // 320)
    assert list(data.corpus.ids) == ["t1"]
    assert data.tokens.symbols[2:] == ("a", "ı") and data.tokens.language == "tr"
    assert {(e.item, e.reason) for e in data.entries} == {
        ("t2", "only_tags"),
        ("<comma>", "corpus_tag"),
        ("[noise]", "corpus_tag"),
    }
    set_by_hand = replace(cfg, tokens=replace(cfg.tokens, language="en"))
    assert training_set(set_by_hand, labelled, lambda samples: samples // 320).tokens.symbols[2:] == ("a", "i")


def test_a_language_with_another_case_among_others_is_said(tmp_path: Path) -> None:
    extra = [said("t1", "AI", "train"), said("t2", "AI", "train")]
    extra = [(replace(u, language=code), wave) for (u, wave), code in zip(extra, ("tr", "en"), strict=True)]
    cfg = recipe(write_shards(tmp_path, {}, extra), tmp_path)
    data = training_set(cfg, open_labelled(cfg.data, stage="finetune"), lambda samples: samples // 320)
    (entry,) = data.entries
    assert (entry.item, entry.reason, entry.action) == ("tr", "mixed_languages", "kept")
    assert data.tokens.language == "" and "set tokens.language" in entry.detail


@pytest.mark.parametrize("library", ["Hugging Face", "fairseq"])
def test_models_of_other_libraries_are_fine_tuned(library: str, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    init = tmp_path / "theirs"
    if library == "fairseq":
        init = tmp_path / "model.pt"
        torch.save(fairseq_checkpoint(of_fairseq(large=True)), init)
    else:
        of_transformers("Data2VecAudioForCTC").save_pretrained(init)
    cfg = short(shards, tmp_path / "run", steps=10, init=str(init), ctc=CtcConfig(freeze_steps=2))
    model = finetune(cfg)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [line["loss"] for line in metrics if line["phase"] == "train"]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    before, after = load_any(init), load_folder(model)
    assert before.cfg.frontend == after.cfg.frontend
    for name in ("encoder.blocks.0.up.weight", "encoder.projection.weight"):
        assert not torch.equal(before.state[name], after.state[name])
    report = evaluate(EvaluateConfig(model=str(model), data=replace(cfg.dev, shards=str(shards))))
    assert report.wer == after.info["dev_wer"]
