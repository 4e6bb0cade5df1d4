"""C1: the precision that ``auto`` means, who is told, and that a run keeps it on another kind of processor."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from speechssl.asr.evaluate import evaluate
from speechssl.asr.finetune import finetune
from speechssl.config import (
    AlignConfig,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    TrainingConfig,
    TranscribeConfig,
    TuneConfig,
)
from speechssl.config.load import read_toml
from speechssl.core import precision, processor
from speechssl.core.errors import RunError
from speechssl.core.precision import choose
from speechssl.core.processor import Processor, Unit
from speechssl.training.parallel import Parallel
from speechssl.training.precision import agreed
from speechssl.training.pretrain import pretrain
from speechssl.workflows.pipeline import run
from speechssl.workflows.sweep import tune as sweep
from tests.support.tones import recipe, write_shards
from tests.support.whole import settings, write_folder

UNITS = [(Unit.BASE, "fp32"), (Unit.AVX2, "fp32"), (Unit.AVX512, "fp32"), (Unit.AVX512_BF16, "bf16"),
         (Unit.AMX_BF16, "bf16")]  # fmt: skip


def on(monkeypatch, unit):
    """Let this process believe that it runs on a processor with ``unit``."""
    monkeypatch.setattr(precision, "processor", lambda: Processor(unit, unit))


def lines(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "precision: " in line]


@pytest.mark.parametrize(("unit", "chosen"), UNITS)
def test_C1_auto_is_bfloat16_where_the_processor_computes_in_it(unit, chosen):
    here = Processor(unit, unit)
    choice = choose("auto", "cpu", here=here)
    assert (choice.precision, choice.warning) == (chosen, "")
    assert choice.line == f"precision: {chosen} (auto: {here})"


@pytest.mark.parametrize(("has", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_C1_auto_on_a_gpu_is_bfloat16_where_it_is_not_emulated(monkeypatch, has, chosen):
    asked = {}

    def supported(including_emulation=True):
        asked["emulation"] = including_emulation
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    choice = choose("auto", "cuda", here=Processor(Unit.AMX_BF16, Unit.AMX_BF16))
    assert (choice.precision, asked["emulation"]) == (chosen, False)
    assert ("compute capability 8.0" in choice.line) == (not has)


@pytest.mark.parametrize(("unit", "fast"), UNITS)
@pytest.mark.parametrize("setting", ["bf16", "fp32"])
def test_C1_an_explicit_choice_is_obeyed_and_the_slow_one_warns(setting, unit, fast):
    choice = choose(setting, "cpu", here=Processor(unit, unit))
    assert choice.precision == setting
    if setting == fast:
        assert choice.line == ""
    else:
        assert f"precision: {setting} (as configured); warning: " in choice.line
        assert str(Processor(unit, unit)) in choice.line


@pytest.mark.parametrize("kept", ["bf16", "fp32"])
def test_C1_a_resumed_run_keeps_its_precision(kept):
    old, new = Processor(Unit.AVX2, Unit.AVX2), Processor(Unit.AMX_BF16, Unit.AMX_BF16)
    for here in (old, new):
        assert choose("auto", "cpu", kept=kept, here=here).precision == kept
    assert "warning" in choose("auto", "cpu", kept="bf16", here=old).line
    assert choose("auto", "cpu", kept="auto", here=new).precision == "bf16"
    assert choose("fp32", "cpu", kept="bf16", here=new).precision == "fp32"  # refused where it is compared


def test_C1_auto_is_the_default_of_every_training_and_recognition():
    for kind in (EvaluateConfig, TuneConfig, TranscribeConfig, AlignConfig, TrainingConfig):
        assert kind().precision == "auto", kind
    assert PretrainConfig().training.precision == FinetuneConfig().training.precision == "auto"


def test_C1_ranks_on_different_processors_agree_on_float32(monkeypatch, capsys):
    class Two(Parallel):
        def gather(self, value):
            other = ["fp32", "AVX2, no bfloat16", "auto: AVX2, no bfloat16", ""]
            return [value, other] if isinstance(value, list) else [value, value]

    on(monkeypatch, Unit.AMX_BF16)
    assert agreed("auto", Two(2, 0, torch.device("cpu"))).precision == "fp32"
    assert lines(capsys) == ["train: precision: fp32 (auto: AVX2, no bfloat16)"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("precision"), {"train": 6, "dev": 2, "test": 2})


def auto(cfg, **changes):
    return replace(cfg, training=replace(cfg.training, precision="auto", **changes))


def test_C1_pretraining_and_its_iterations_keep_their_precision(shards, tmp_path, monkeypatch, capsys):
    cfg = auto(settings(tmp_path, steps=2).pretrain)
    cfg = replace(cfg, output=str(tmp_path / "run"), data=replace(cfg.data, shards=str(shards)))
    on(monkeypatch, Unit.AVX512_BF16)
    pretrain(cfg)
    assert lines(capsys) == ["train: precision: bf16 (auto: AVX-512, bfloat16)"]
    folders = [tmp_path / "run", tmp_path / "run" / "iteration-1", tmp_path / "run" / "iteration-2"]
    for folder in folders:
        assert read_toml(PretrainConfig, folder / "config.toml").training.precision == "bf16"
    (tmp_path / "run" / "model" / "config.json").unlink()
    (tmp_path / "run" / "iteration-2" / "model" / "config.json").unlink()
    on(monkeypatch, Unit.AVX2)
    pretrain(cfg)
    (line,) = lines(capsys)
    assert line.startswith("train: precision: bf16 (as this run was started); warning: bf16 is slow here (AVX2")
    for folder in folders:
        assert read_toml(PretrainConfig, folder / "config.toml").training.precision == "bf16"
    with pytest.raises(RunError, match=r'training.precision: "bf16" -> "fp32"'):
        pretrain(replace(cfg, training=replace(cfg.training, precision="fp32")))


def test_C1_fine_tuning_keeps_its_precision(shards, tmp_path, monkeypatch, capsys):
    cfg = auto(recipe(shards, tmp_path / "run", steps=2), save_every=1)
    on(monkeypatch, Unit.AMX_BF16)
    finetune(cfg)
    assert lines(capsys) == ["train: precision: bf16 (auto: AMX, bfloat16)"]
    on(monkeypatch, Unit.AVX2)
    finetune(cfg)
    assert read_toml(FinetuneConfig, tmp_path / "run" / "config.toml").training.precision == "bf16"


def test_C1_candidates_of_a_sweep_keep_their_precision(shards, tmp_path, monkeypatch):
    cfg = auto(recipe(shards, tmp_path / "arm", steps=2))
    on(monkeypatch, Unit.AMX_BF16)
    sweep("arm", cfg, (1e-3, 2e-3), tmp_path / "sweep")
    on(monkeypatch, Unit.AVX2)
    (tmp_path / "sweep" / "arm-lr-0.001" / "model" / "config.json").unlink()
    sweep("arm", cfg, (1e-3, 2e-3), tmp_path / "sweep")
    for folder in (tmp_path / "arm", *(tmp_path / "sweep").glob("arm-lr-*")):
        assert read_toml(FinetuneConfig, folder / "config.toml").training.precision == "bf16"


def test_C1_a_whole_run_goes_on_on_another_kind_of_processor(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "audio", {"train": 8, "dev": 2, "test": 2})
    cfg = settings(tmp_path / "out", steps=2)
    cfg = replace(cfg, pretrain=auto(cfg.pretrain), finetune=auto(cfg.finetune))
    on(monkeypatch, Unit.AVX512_BF16)
    run(folder, cfg)
    said = lines(capsys)
    assert said == ["run: precision: bf16 (auto: AVX-512, bfloat16)"]
    info = json.loads((tmp_path / "out" / "evaluate" / "wer.json").read_text(encoding="utf-8"))["info"]
    assert info["precision"] == "bf16 (AVX-512, bfloat16)"
    (tmp_path / "out" / "stages" / "finetune.json").unlink()
    (tmp_path / "out" / "finetune" / "model" / "config.json").unlink()
    on(monkeypatch, Unit.AVX2)
    run(folder, cfg)
    captured = capsys.readouterr()
    assert "[3/6] pretrain: done before" in captured.out
    assert "run: precision: bf16 (as this run was started); warning: bf16 is slow here" in captured.err
    info = json.loads((tmp_path / "out" / "evaluate" / "wer.json").read_text(encoding="utf-8"))["info"]
    assert info["precision"] in ("bf16 (AVX2, no bfloat16)", "bf16 (AVX-512, bfloat16)")


def test_C1_an_evaluation_says_its_precision(shards, tmp_path, monkeypatch, capsys):
    cfg = recipe(shards, tmp_path / "run", steps=2)
    model = finetune(cfg)
    request = EvaluateConfig(model=str(model), data=replace(cfg.dev, splits=("test",)), bootstrap=20, device="cpu")
    request = replace(request, data=replace(request.data, shards=str(shards)))
    capsys.readouterr()
    for unit, setting, said, noted in (
        (Unit.AVX2, "auto", ["evaluate: precision: fp32 (auto: AVX2, no bfloat16)"], "fp32 (AVX2, no bfloat16)"),
        (Unit.AMX_BF16, "auto", ["evaluate: precision: bf16 (auto: AMX, bfloat16)"], "bf16 (AMX, bfloat16)"),
        (Unit.AVX2, "fp32", [], "fp32 (AVX2, no bfloat16)"),
    ):
        on(monkeypatch, unit)
        place = tmp_path / f"{unit}-{setting}"
        evaluate(replace(request, output=str(place), precision=setting))
        assert lines(capsys) == said
        assert json.loads((place / "wer.json").read_text(encoding="utf-8"))["info"]["precision"] == noted
        assert read_toml(EvaluateConfig, place / "config.toml").precision == noted[:4]


def test_C1_the_processor_of_this_machine_is_what_is_chosen_by():
    here = processor.processor()
    assert choose("auto", "cpu").precision == ("bf16" if here.bf16 else "fp32")


RECOGNISE = """
import torch
from speechssl.asr.ctc import CtcModel
from speechssl.asr.transcription.longform import local_log_probs
from speechssl.asr.engine.packed import PackedRecogniser
from speechssl.asr.recognise import frame_log_probs
from speechssl.config import FrontendConfig, ModelConfig
from speechssl.models.encoder import SpeechEncoder
from dataclasses import replace
from tests.support.tones import MODEL

torch.set_num_threads(1)
waves = [0.1 * torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (9000, 16000)]
for layers, norm in (((16, 10, 5), (16, 8, 4), (16, 4, 2)), "group"), (((16, 10, 5), (16, 8, 4)), "layer"):
    frontend = FrontendConfig(kind="waveform", conv_layers=layers, norm=norm)
    torch.manual_seed(0)
    model = CtcModel(SpeechEncoder(replace(MODEL, frontend=frontend)), 7).eval()
    exact = torch.cat(PackedRecogniser(model)(waves))
    rough = torch.cat(PackedRecogniser(model, bf16=True)(waves))
    padded = [frame_log_probs(model, wave[None], torch.tensor([len(wave)]), bf16=True)[0] for wave in waves]
    block = 200
    local = torch.cat(list(local_log_probs(model, [waves[1].numpy()], block, bf16=True)))
    for found, wanted in ((rough, exact), (torch.cat(padded), exact), (local, exact[-len(local):])):
        apart = (found - wanted).abs().max().item()
        assert 0 < apart < 0.15, apart  # rounded, and only rounded
    assert not torch.is_autocast_enabled("cpu")
print("done")
"""


@pytest.mark.parametrize("variables", [{}, {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}])
def test_C1_recognition_in_bfloat16_works_on_every_processor(variables):
    done = subprocess.run(
        [sys.executable, "-c", RECOGNISE], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
