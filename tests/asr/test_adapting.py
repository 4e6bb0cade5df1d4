"""Fine-tuning a part of the weights: what is saved is whole, what is frozen is unchanged, and a run resumes exactly."""

from dataclasses import replace

import pytest
import torch

from speechssl.asr.finetune import finetune
from speechssl.config import AdaptConfig
from speechssl.core.errors import InterruptedRun
from speechssl.interop.model_folder import load_folder, save_model
from speechssl.models.encoder import SpeechEncoder
from tests.support.tones import MODEL, recipe, write_shards


def test_adapters_are_merged_into_the_model_folder_and_a_stopped_run_resumes(tmp_path):
    shards = write_shards(tmp_path / "shards", {"train": 12, "dev": 3})
    torch.manual_seed(0)
    save_model(tmp_path / "pretrained", encoder=SpeechEncoder(MODEL))
    before = load_folder(tmp_path / "pretrained").part("encoder")

    def run(name, pause_at=0):
        cfg = recipe(shards, tmp_path / name, steps=4, init=str(tmp_path / "pretrained"))
        quick = replace(cfg.training, validate_every=2, save_every=2, log_every=1, pause_at=pause_at)
        cfg = replace(cfg, training=quick, ctc=replace(cfg.ctc, freeze_steps=1), adapt=AdaptConfig(rank=2))
        return load_folder(finetune(cfg)).state

    whole = run("whole")
    with pytest.raises(InterruptedRun):
        run("stopped", pause_at=2)
    again = run("stopped")
    assert whole.keys() == again.keys() == {*(f"encoder.{name}" for name in before), "head.weight", "head.bias"}
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    adapted = (".attention.qkv.weight", ".attention.out.weight")
    for name, value in before.items():
        assert torch.equal(value, whole[f"encoder.{name}"]) != name.endswith(adapted), name
