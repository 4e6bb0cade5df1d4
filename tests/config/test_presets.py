"""Presets for fine-tuning carry the published settings: fairseq's files as a table, beside what each preset says."""

import pytest

from speechssl.config import FinetuneConfig, RunConfig
from speechssl.config.load import read_toml
from speechssl.core.presets import find_config, presets
from speechssl.training.optim import lr_at

PUBLISHED = {
    # preset: peak rate, updates, frozen updates, mask share of frames, of channels, layer drop, seconds in a step
    "finetune-10m": (5e-5, 13_000, 10_000, 0.65, 0.25, 0.1, 2 * 4 * 200),
    "finetune-1h": (5e-5, 13_000, 10_000, 0.65, 0.25, 0.1, 2 * 4 * 200),
    "finetune-10h": (5e-5, 20_000, 10_000, 0.65, 0.5, 0.05, 2 * 4 * 200),
    "finetune-100h": (3e-5, 80_000, 0, 0.65, 0.5, 0.1, 2 * 4 * 200),
    "finetune-960h": (1e-4, 320_000, 0, 0.5, 0.1, 0.1, 8 * 200),
    "finetune-large-10m": (1e-4, 13_000, 10_000, 0.65, 0.25, 0.1, 4 * 5 * 80),
    "finetune-large-1h": (3e-4, 13_000, 10_000, 0.75, 0.25, 0.1, 4 * 5 * 80),
    "finetune-large-10h": (1e-4, 20_000, 10_000, 0.75, 0.25, 0.1, 4 * 5 * 80),
    "finetune-large-100h": (3e-5, 80_000, 10_000, 0.5, 0.5, 0.1, 4 * 5 * 80),
    "finetune-large-960h": (3e-5, 320_000, 10_000, 0.5, 0.25, 0.1, 24 * 80),
    "finetune-hubert-10h": (2e-5, 25_000, 10_000, 0.75, 0.5, 0.1, 8 * 200),
}
"""examples/wav2vec/config/finetuning/{base,vox}_*.yaml and examples/hubert/config/finetune/base_10h.yaml of fairseq."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_M9_presets_for_fine_tuning_are_the_published_settings(name):
    cfg = read_toml(FinetuneConfig, find_config(name))
    assert cfg.name == name
    seconds = cfg.data.batch_seconds * cfg.data.batches_per_step
    ctc, optim = cfg.ctc, cfg.optim
    found = (optim.lr, cfg.training.steps, ctc.freeze_steps, ctc.time_mask_prob, ctc.channel_mask_prob, ctc.layer_drop)
    assert (*found, seconds) == PUBLISHED[name]
    assert (ctc.time_mask_length, ctc.channel_mask_length, ctc.activation_dropout, ctc.final_dropout) == (
        10,
        64,
        0.1,
        0,
    )
    assert ctc.freeze_frontend and (optim.betas, optim.eps, optim.weight_decay) == ((0.9, 0.98), 1e-8, 0)
    encoder = cfg.model.encoder
    assert (encoder.dropout, encoder.attention_dropout, encoder.input_dropout) == (0, 0, 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_M9_the_rate_follows_the_published_schedule(name):
    cfg = read_toml(FinetuneConfig, find_config(name))
    steps = cfg.training.steps
    hubert = "hubert" in name
    rise, hold, decay = (8_000, 0, 72_000) if hubert else (0.1 * steps, 0.4 * steps, 0.5 * steps)

    def published(step):
        if step < rise:
            return 0.01 + 0.99 * step / rise
        return 0.05 ** (max(0.0, step - rise - hold) / decay)

    for step in range(0, steps, steps // 25):
        assert lr_at(step, steps, cfg.optim) / cfg.optim.lr == pytest.approx(published(step), rel=2e-3)


def test_M9_run_on_a_gpu_fine_tunes_without_dropout_on_features():
    run = read_toml(RunConfig, find_config("run-gpu")).finetune
    encoder = run.model.encoder
    assert (encoder.dropout, encoder.attention_dropout, encoder.input_dropout) == (0, 0, 0)


def test_M9_every_published_preset_is_in_the_table():
    ours = {"finetune-cpu", "finetune-conformer-cpu", "finetune-tiny"}  # sizes of this project
    ours |= {"finetune-new-language"}  # of omnilingual-asr
    assert {name for name in presets() if name.startswith("finetune-")} - ours == set(PUBLISHED)
