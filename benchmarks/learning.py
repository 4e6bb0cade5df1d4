"""wav2vec 2.0 learns, or not: curves over hours of audio seen, beside published ones, and AN4 after fine-tuning.

usage: python -m benchmarks.learning DATA OUT [RATE ...]     (resumes; a GPU needs minutes, a CPU core a night)
       python -m benchmarks.learning --figure                (draws docs/learning.png from the stored results)

DATA holds the corpora with a `manifest.jsonl` each and `protocols/*.txt` lists of utterance ids. The presets
wav2vec2-cpu (log-mel) and wav2vec2-cpu-waveform are pretrained on every English training utterance, and fine-tuned on
AN4 from pretrained and from random weights, with the same learning rates of which dev chooses one, and the same
updates. Test is decoded once an arm. OUT may be moved between machines: each run keeps the name of the one it ran on.
Results go to benchmarks/results/learning.json.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT, hardware, write
from speechssl.asr.evaluate import evaluate
from speechssl.config import EvaluateConfig, FinetuneConfig, ManifestConfig, PretrainConfig, ShardConfig
from speechssl.config.load import read_toml
from speechssl.core.presets import find_config
from speechssl.data.ingest.manifest import build_manifest
from speechssl.data.store.writer import shard_manifest
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.wer import compare_systems
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.pretrain import pretrain
from speechssl.workflows.sweep import tune

STEMS = {"log-mel": "wav2vec2-cpu", "waveform": "wav2vec2-cpu-waveform"}
RATES = (1e-3, 2e-3)
NANOW2V2 = {
    "150 s a step": (150.0, {5: 0.144, 10: 0.161, 25: 0.250, 50: 0.307}),
    "10 min a step": (600.0, {5: 0.175, 10: 0.234, 25: 0.309, 50: 0.379}),
}
"""Published points of nanow2v2 (BASE on LibriSpeech 960 h): audio of a step in seconds, and validation accuracy with
100 negatives by thousands of steps."""
CURVES = ("valid_accuracy", "valid_contrastive", "valid_perplexity_0", "valid_perplexity_1", "contrastive", "accuracy")


def machine() -> str:
    """Return the name of the device that trains here."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else hardware()


def remembered(folder: Path) -> str:
    """Return the name of the machine that a run folder was made on; of this one where the folder is new."""
    note = folder / "machine.txt"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(machine() + "\n", encoding="utf-8")
    return note.read_text(encoding="utf-8").strip()


def curve(folder: Path) -> list[dict[str, float]]:
    """Return the values of each validation, and of the training line at the same step, with the hours seen so far."""
    seen, last, points = 0.0, 0, []
    train: dict[str, Any] = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        if line.get("phase") == "train":
            seen += line["audio_seconds"] * (line["step"] - last) / 3600
            last, train = line["step"], line
        elif "valid_accuracy" in line:
            values = {**train, **line}
            points.append({"step": line["step"], "hours": round(seen, 2), **{name: values[name] for name in CURVES}})
    return points


def fine_tuning(stem: str, arm: str, out: Path, protocol: Path) -> FinetuneConfig:
    """Return the fine-tuning of one arm on AN4."""
    model = read_toml(PretrainConfig, find_config(STEMS[stem])).model
    base = read_toml(FinetuneConfig, find_config("finetune-cpu"))
    shards = str(out / "shards")
    return replace(
        base,
        init=str(out / stem / "model") if arm == "pretrained" else "",
        output=str(out / f"{stem}-{arm}"),
        model=model,
        data=replace(base.data, shards=shards, ids=(str(protocol / "an4-train.txt"),), batch_seconds=24.0),
        dev=replace(base.dev, shards=shards, ids=(str(protocol / "an4-dev.txt"),)),
        ctc=replace(
            base.ctc, time_mask_length=10, channel_mask_length=32, freeze_frontend=arm == "pretrained",
            freeze_steps=150 if arm == "pretrained" else 0,
        ),
        training=replace(base.training, steps=2000, validate_every=400),
    )  # fmt: skip


def measure(data: Path, out: Path, rates: tuple[float, ...]) -> dict[str, Any]:
    """Run everything that is not done yet; return the results."""
    protocol = data / "protocols"
    if not (out / "corpus" / "manifest.jsonl").exists():
        print(build_manifest(data, out / "corpus", ManifestConfig()), flush=True)
    print(shard_manifest(out / "corpus" / "manifest.jsonl", out / "shards", ShardConfig(encoding="pcm16")), flush=True)
    result: dict[str, Any] = {"learning_rates": rates, "stems": {}}
    for stem, preset in STEMS.items():
        place = remembered(out / stem)
        cfg = read_toml(PretrainConfig, find_config(preset))
        feed = replace(cfg.data, shards=str(out / "shards"), ids=(str(protocol / "unlabelled-en.txt"),))
        if not (out / stem / "model" / "config.json").exists():
            pretrain(replace(cfg, output=str(out / stem), data=feed))
        arms = {}
        for arm in ("pretrained", "scratch"):
            tuning = fine_tuning(stem, arm, out, protocol)
            spot = remembered(Path(tuning.output))
            tune(f"{stem}-{arm}", tuning, rates, out / "sweep")
            model = Path(tuning.output) / "model"
            scoring = EvaluateConfig(model=str(model), output=str(Path(tuning.output) / "greedy"), precision="fp32")
            ids = (str(protocol / "an4-test.txt"),)
            report = evaluate(
                replace(scoring, data=replace(scoring.data, shards=str(out / "shards"), ids=ids, workers=0))
            )
            info = json.loads((model / "config.json").read_text(encoding="utf-8"))["info"]
            arms[arm] = {
                "wer": report.wer, "ci": [report.ci_low, report.ci_high], "cer": report.cer,
                "dev_wer": info["dev_wer"], "machine": spot,
            }  # fmt: skip
        pair = [read_hypotheses(out / f"{stem}-{arm}" / "greedy") for arm in ("scratch", "pretrained")]
        paired = compare_systems(*pair)
        difference = None if paired is None else [paired.difference, paired.low, paired.high]
        result["stems"][stem] = {
            "machine": place, "curve": curve(out / stem), "an4": arms, "an4_difference": difference,
        }  # fmt: skip
    return result


def figure(result: dict[str, Any], target: Path) -> None:
    """Draw accuracy, codebook perplexity and loss over hours of audio seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sheet, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    colours = {"log-mel": "tab:blue", "waveform": "tab:orange"}
    for stem, run in result["stems"].items():
        hours = [point["hours"] for point in run["curve"]]

        def draw(axis: int, name: str, style: str, label: str, *, hours=hours, run=run, stem=stem) -> None:  # type: ignore[no-untyped-def]
            axes[axis].plot(hours, [point[name] for point in run["curve"]], style, color=colours[stem], label=label)

        draw(0, "valid_accuracy", "-", f"{stem}, held out")
        draw(1, "valid_perplexity_0", "-", f"{stem}, group 1")
        draw(1, "valid_perplexity_1", "--", f"{stem}, group 2")
        draw(2, "valid_contrastive", "-", f"{stem}, held out")
        draw(2, "contrastive", ":", f"{stem}, training")
    for number, (name, (seconds, points)) in enumerate(NANOW2V2.items()):
        at = [(1000 * thousand * seconds / 3600, value) for thousand, value in points.items()]
        axes[0].plot(*zip(*at, strict=True), "sD"[number], color="grey", mfc="none", label=f"nanow2v2, {name}")
    axes[0].axhline(1 / 101, color="black", lw=0.8, ls=":", label="chance")
    axes[2].axhline(4.615, color="black", lw=0.8, ls=":", label="chance")
    axes[0].set_xscale("log")
    for axis, title in zip(
        axes, ("contrastive accuracy", "codebook perplexity (of 320)", "contrastive loss"), strict=True
    ):
        axis.set(title=title, xlabel="hours of audio seen")
        axis.legend(fontsize=7)
    sheet.savefig(target, dpi=110)


def main() -> None:
    if "--figure" not in sys.argv:
        if len(sys.argv) < 3:
            sys.exit(__doc__)
        rates = tuple(float(word) for word in sys.argv[3:]) or RATES
        result = measure(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), rates)
        write("learning.json", result, "torchaudio")
    stored = json.loads((RESULTS / "learning.json").read_text(encoding="utf-8"))
    figure(stored, ROOT / "docs" / "learning.png")
    for stem, run in stored["stems"].items():
        end = run["curve"][-1]
        print(f"{stem} on {run['machine']}: {end['hours']:.0f} h seen, held-out accuracy {end['valid_accuracy']:.3f}")
        for arm, row in run["an4"].items():
            print(f"  AN4 {arm}: WER {row['wer']:.1%} ({row['ci'][0]:.1%} to {row['ci'][1]:.1%})")


if __name__ == "__main__":
    main()
