"""Benchmarks that need other hardware or much time run here at toy sizes, so that they are ready when they can."""

import json
import os
import statistics
import subprocess
import sys

import pytest
import torch

from benchmarks import __main__ as every
from benchmarks import gpu, machine, parts, rounds
from speechssl.core.processor import processor


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def test_a_result_says_where_when_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--rows", "3", "--data", str(tmp_path)])
    path = machine.write(tmp_path / "new" / "x.json", {"what": "a figure", "load": "kept"}, "numpy", "no-such-package")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["what"], found["load"]) == ("a figure", "kept")
    assert found["versions"]["torch"].startswith("2.11")
    assert found["versions"]["no-such-package"] is None
    assert found["date"] == machine.today()
    assert found["command"].endswith("--rows 3 --data PATH")
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert f"{len(os.sched_getaffinity(0))} cores" in found["hardware"]


@pytest.mark.slow
def test_the_gpu_script_is_ready():
    done = run("benchmarks.gpu", "--rehearse")
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("wav2vec 2.0", "Hugging Face wav2vec 2.0", "HuBERT", "torchaudio HuBERT", "pretrain, pcm16"):
        assert any(line.startswith(f"{name} ") for line in done.stdout.splitlines()), name
    for name in gpu.BARS:
        assert any(line.startswith(name) and "nan" not in line for line in done.stdout.splitlines()), name
    assert "Error" not in done.stdout


def test_gpu_findings_take_the_best_of_each_side():
    def row(hours):
        return {"ms": 1.0, "hours_a_second": hours, "share": 0.1, "gb": 1.0}

    steps = {
        "wav2vec 2.0": row(2.0), "wav2vec 2.0, compiled": row(2.5), "wav2vec 2.0, CUDA graphs": {"error": "x"},
        "Hugging Face wav2vec 2.0": row(0.5), "HuBERT": row(3.0), "HuBERT, compiled": {"left out": "no time left"},
        "torchaudio HuBERT": row(0.5), "torchaudio HuBERT, compiled": row(1.5),
    }  # fmt: skip
    waits = {name: {"hours_a_second": 2.0, "loader_wait": wait} for name, wait in (("flac", 0.02), ("pcm16", 0.001))}
    parity = {"loss": 1e-6, "gradients": 2e-5}
    found = gpu.findings({"steps": steps, "pretrain": waits, "parity": parity, "matrix_tflops": 800.0})
    assert found["against Hugging Face"] == 5.0
    assert found["against torchaudio's HuBERT"] == 2.0
    assert found["loader wait"] == 0.02
    assert found["share of the rate"] == pytest.approx(2.5 * 3600 * 45.2e9 / 800e12)
    assert set(found) == set(gpu.BARS)


@pytest.mark.slow
def test_the_step_benchmark_alternates_its_contenders(tmp_path):
    precision = "bf16" if processor().bf16 else "fp32"
    names = [f"undropped-{precision}", f"plain-{precision}"]
    size = ["--small", "--rounds", "3", "--rows", "1", "--seconds", "0.5"]
    done = run("benchmarks.step", *size, "--results", str(tmp_path), "--only", *names)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "step-wav2vec2-small.json").read_text())
    assert {name: len(times) for name, times in result["rounds"].items()} == dict.fromkeys(names, 3)
    own, theirs = (result["rounds"][name] for name in names)
    ratio = statistics.median(a / b for a, b in zip(theirs, own, strict=True))
    assert result["ratios"][f"{names[1]} / {names[0]}"] == pytest.approx(ratio, abs=0.01)


def test_a_peer_in_another_environment_must_be_named():
    done = run("benchmarks.step", "--set", "fairseq2")
    assert done.returncode == 2
    assert "--fairseq2-python" in done.stderr


@pytest.mark.slow
def test_parts_are_equal_before_they_are_timed(tmp_path):
    precision = "bf16" if processor().bf16 else "fp32"  # the peers' own products in bf16 take minutes without it
    size = ["--rounds", "1", "--rows", "1", "--seconds", "0.25", "--pace", "0.01", "--square", "256"]
    size += ["--precision", precision]
    done = run("benchmarks.parts", *size, "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "parts.json").read_text())["parts"]
    for part, peer in (("head", "torchaudio"), ("stem", "hf")):
        assert result[part]["differences_from_peer_fp32"]["ours-fp32"]["gradient"] < 1e-4
        assert set(result[part]["ratios"]) == {
            f"{peer}-{kind} / ours-{kind}" for kind in (f"{precision}-defaults", f"{precision}-tuned")
        }
    # 2 * 12 frames of 1024 inputs and 512 outputs: the last layer, three times.
    assert result["stem"]["gflop"] > 3 * 2 * 12 * 1024 * 512 / 1e9


def test_parts_that_differ_are_not_timed(monkeypatch):
    def part(who, rows, samples):
        weight = torch.full((3,), 1.0 if who == "ours" else 1.01, requires_grad=True)
        return parts.Part(lambda: (weight * 2, weight.square().sum()), {"weight": weight})

    monkeypatch.setitem(parts.BUILD, "head", part)
    with pytest.raises(RuntimeError, match=r"head: output differs by 9\.9e-03 in float32; 1e-05 is allowed"):
        parts.differences("head", 1, 1)


def test_contenders_take_turns_and_short_work_is_repeated(tmp_path):
    script = """if True:
        import sys, time
        from benchmarks.rounds import serve
        name, at_least = sys.argv[1], float(sys.argv[2])
        print("a library says something")
        clock = [0.0]
        time.process_time = lambda: clock[0]  # a processor that nobody else uses
        def work():
            with open(sys.argv[3], "a") as log:
                log.write(name)
            clock[0] += 0.03
        serve(work, at_least=at_least)
    """
    log = tmp_path / "log"
    contenders = {name: rounds.Contender(("-c", script, name, "0", str(log))) for name in "ab"}
    times = rounds.alternate(contenders, 2)
    assert log.read_text() == "ababab"
    assert times == {name: [pytest.approx(0.03)] * 2 for name in "ab"}
    log.unlink()
    (times,) = rounds.alternate({"c": rounds.Contender(("-c", script, "c", "0.2", str(log)))}, 1, warm_up=0).values()
    assert log.read_text() == 7 * "c"  # 0.2 s and a little more
    assert times == [pytest.approx(0.03)]


def test_a_contender_that_fails_ends_the_benchmark():
    contenders = {"sound": ("-c", "input(); print('seconds 1.5'); input()"), "ill": ("-c", "raise SystemExit(3)")}
    with pytest.raises(RuntimeError, match="ill ended with code 3"):
        rounds.alternate({name: rounds.Contender(words) for name, words in contenders.items()}, 1)


def test_ratios_are_medians_within_rounds():
    times = {"peer": [2.0, 9.0, 4.0], "ours": [1.0, 3.0, 4.0]}
    assert rounds.ratios(times, (("peer", "ours"), ("absent", "ours"))) == {"peer / ours": 2.0}
    assert rounds.medians(times) == {"peer": 4.0, "ours": 3.0}


@pytest.mark.slow
def test_the_estimate_is_compared_with_a_run(tmp_path):
    done = run("benchmarks.estimate", "--only", "tiny", "--steps", "4", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "estimate.json").read_text())
    (case,) = result["cases"].values()
    assert len(case["steps_of_the_run"]) == 2
    memory = case["memory_gb"]
    assert case["error"]["memory"] == pytest.approx(memory["estimate"] / memory["run"] - 1, abs=0.01)
    assert abs(case["error"]["memory"]) < 0.15
    assert result["within"]["of"] == 1


def test_the_table_of_all_claims(tmp_path):
    claims = [claim for claim in every.CLAIMS if claim.run in {"plan", "estimate", "step-fairseq2"}]
    plan = {
        "starts": {
            "first batch": [{"seconds": {"cpu": 3.3}, "megabytes": {"peak": 600.0}}],
            "first batch, torch imported": [{"megabytes": {"private": 400.0}}],
        }
    }
    results = {"plan": plan, "estimate": {"within": {"memory": 7}}, "step-fairseq2": "left out: no interpreter"}
    lines = every.table(results, judge=True).splitlines()[1:]
    assert len(lines) == len(claims)
    assert lines[0].endswith("left out: no interpreter")
    assert [line.split()[-1] for line in lines[2:]] == ["met", "MISSED", "met", "met", "6"]  # no time: no verdict
    assert "met" not in every.table(results, judge=False)


def test_every_claim_is_a_figure_of_its_script():
    for claim in every.CLAIMS:
        path = machine.RESULTS / every.RUNS[claim.run].file
        if path.exists():
            found = every.dig(json.loads(path.read_text(encoding="utf-8")), claim.keys)
            assert found is not None, f"{path.name}: {claim.keys}"
    assert {claim.run for claim in every.CLAIMS} == set(every.RUNS)


def test_figures_are_found_by_place_and_pattern():
    result = {"a": [{"x, 1 / y": 3.0, "x, 2 / y": 2.0, "z": 1.0}], "none": None}
    assert every.dig(result, ("a", "0", "x* / y")) == 2.0
    assert every.dig(result, ("a", "1", "z")) is None
    assert every.dig(result, ("a", "0", "w")) is None
    assert every.dig(result, ("none",)) is None


def test_a_script_that_fails_or_writes_nothing_is_said(tmp_path):
    run = every.Run((), None, "plan.json")
    assert "failed with code 2" in every.perform(run, ("plan", "--no-such-option"), tmp_path)
    assert every.perform(run, ("machine",), tmp_path) == "wrote no result"
