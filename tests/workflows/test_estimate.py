"""What a run costs: lines through probes, advice that follows, and a prediction against the real thing."""

import json
from dataclasses import replace

import pytest

from speechssl.cli.main import main
from speechssl.config import DataConfig, PretrainConfig, TrainingConfig
from speechssl.config.load import load_config
from speechssl.core import precision
from speechssl.core.errors import ConfigError, RunError
from speechssl.core.processor import Processor, Unit
from speechssl.workflows import estimate as module
from speechssl.workflows.estimate import _bisect, _line, estimate, estimate_text

GB = 10**9


def fake(monkeypatch, *, memory, base=1 * GB, row=GB // 2, micro=0.1, update=0.02):
    """Answer probes from a model whose cost is known."""

    def probe(cfg, rows, samples):
        return {
            "rows": rows, "samples": samples, "micro_seconds": 0.05 + micro * rows, "update_seconds": update,
            "peak_bytes": base + row * rows, "parameters": 5_000_000,
            "fits": base + row * rows < memory,
        }  # fmt: skip

    monkeypatch.setattr(module, "_probe", probe)
    monkeypatch.setattr(module, "_device", lambda cfg: (memory, "a device"))


def config(**data):
    return PretrainConfig(data=DataConfig(max_seconds=10.0, **data), training=TrainingConfig(steps=1000))


def test_a_line_is_followed_to_the_real_size(monkeypatch):
    fake(monkeypatch, memory=100 * GB)
    cost = estimate(config(batch_seconds=80.0, batches_per_step=4), world=2)
    assert (cost.rows, cost.seconds, cost.micro_batches) == (8, 10.0, 2)
    assert cost.peak_bytes == 5 * GB
    assert cost.step_seconds == pytest.approx(2 * (0.05 + 0.8) + 0.02)
    assert cost.audio_per_second == pytest.approx(4 * 80 / cost.step_seconds)
    assert cost.total_hours == pytest.approx(1000 * cost.step_seconds / 3600)
    assert cost.largest_rows == 182  # (92 GB - 1 GB) / 0.5 GB
    assert "batch_seconds = 160 and data.batches_per_step = 2" in cost.advice[0]
    text = estimate_text(cost)
    assert "5.00 GB of 100.0 GB" in text
    assert "5.0 M" in text


def test_what_does_not_fit_is_said_and_how_it_would(monkeypatch):
    fake(monkeypatch, memory=4 * GB)
    cost = estimate(config(batch_seconds=80.0, batches_per_step=4))
    assert cost.largest_rows == 5
    assert "does not fit: set data.batch_seconds = 50 and data.batches_per_step = 8" in cost.advice[0]
    assert "recompute" in cost.advice[1]
    fake(monkeypatch, memory=GB)
    with pytest.raises(RunError, match="not even 2 rows of 10 s fit"):
        estimate(config(batch_seconds=80.0))


@pytest.mark.parametrize(
    ("rows", "memory", "sizes"),
    [(8, 100, [2, 8]), (8, 8, [2, 4, 8]), (8, 4, [2, 4]), (1, 100, [1]), (2, 2.5, [1, 2]), (3, 2.5, [1, 2])],
)
def test_all_rows_are_measured_where_they_fit(monkeypatch, rows, memory, sizes):
    asked = []
    fake(monkeypatch, memory=memory * GB)
    answer = module._probe
    monkeypatch.setattr(module, "_probe", lambda cfg, n, samples: asked.append(n) or answer(cfg, n, samples))
    cost = estimate(config(batch_seconds=10.0 * rows))
    assert asked == sizes
    assert cost.peak_bytes == (GB + rows * GB // 2 if len(sizes) > 1 else GB + GB // 2)


def test_a_probe_that_does_not_fit_does_not_count(monkeypatch):
    fake(monkeypatch, memory=2.2 * GB, base=0.1 * GB, row=GB)
    cost = estimate(config(batch_seconds=20.0))
    assert len(cost.probes) == 2
    fake(monkeypatch, memory=2.2 * GB, base=0.4 * GB, row=GB)
    cost = estimate(config(batch_seconds=20.0))
    assert (len(cost.probes), cost.largest_rows) == (1, 1)
    assert "does not fit" in cost.advice[0]


def test_devices_must_share_the_step():
    with pytest.raises(ConfigError, match="epochs depend on the corpus"):
        estimate(replace(config(), training=TrainingConfig(epochs=3.0)))
    with pytest.raises(ConfigError, match="not a multiple of 3 devices"):
        estimate(config(batches_per_step=4), world=3)


def test_bisection_and_lines():
    assert [_bisect(lambda n, k=k: n <= k) for k in (0, 1, 37, 4096, 5000)] == [0, 1, 37, 4096, 4096]
    assert _line([(2, 10.0), (4, 14.0)])(8) == 22.0
    assert _line([(2, 10.0)])(4) == 20.0


@pytest.mark.slow
def test_the_prediction_is_the_measurement():
    cfg = load_config(PretrainConfig, "tiny", ["--training.threads", "1", "--data.batch-seconds", "32"])
    cost = estimate(cfg)
    real = module._probe(cfg, cost.rows, round(cost.seconds * 16_000))
    assert cost.peak_bytes == pytest.approx(real["peak_bytes"], rel=0.1)
    assert cost.parameters == real["parameters"]
    # Time depends on what else the machine does, so it is compared with that of the same probe alone.
    (whole,) = (probe for probe in cost.probes if probe["rows"] == cost.rows)
    update = min(probe["update_seconds"] for probe in cost.probes)
    assert cost.step_seconds == pytest.approx(whole["micro_seconds"] + update)


def test_a_probe_that_fails_says_why():
    cfg = load_config(PretrainConfig, "tiny", ["--model.encoder.heads", "5"])
    with pytest.raises(RunError, match=r"the probe of 1 rows failed: .*multiple of heads = 5"):
        estimate(cfg)


def test_the_verb(monkeypatch, capsys):
    fake(monkeypatch, memory=100 * GB)
    assert main(["estimate", "tiny", "--world", "1", "--json", "--seed", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "pretrain"
    assert main(["estimate", "finetune-tiny"]) == 0
    assert capsys.readouterr().out.startswith("finetune on 1 x a device")
    assert main(["estimate", "tiny", "--world", "x"]) == 1
    assert main(["estimate", "run-cpu"]) == 1
    assert "configuration of `run`" in capsys.readouterr().err
    assert main(["estimate"]) == 1
    assert main(["estimate", "--help"]) == 0


@pytest.mark.parametrize(("unit", "chosen"), [(Unit.AVX2, "fp32"), (Unit.AVX512, "fp32"), (Unit.AMX_BF16, "bf16")])
def test_C1_precision_and_advice_are_those_of_this_processor(monkeypatch, unit, chosen):
    fake(monkeypatch, memory=100 * GB)
    here = Processor(unit, unit)
    monkeypatch.setattr(precision, "processor", lambda: here)
    for setting in ("auto", "bf16", "fp32"):
        cfg = config(batch_seconds=10.0)
        cost = estimate(replace(cfg, training=replace(cfg.training, precision=setting, device="cpu")))
        assert cost.precision == (chosen if setting == "auto" else setting)
        assert f" ({here})\n  precision          {cost.precision}\n" in estimate_text(cost)
        advice = [line for line in cost.advice if "precision" in line]
        assert len(advice) == (setting not in ("auto", chosen))
        assert all(str(here) in line for line in advice)
