"""What does each option of fine-tuning bring on dev? The table in docs/fine-tuning.md.

usage: python -m benchmarks.options DEMO [NAME ...]      (names of OPTIONS; it resumes)

DEMO is the folder of a finished ``speechssl demo``. Its pretrained model is fine-tuned as the demo did, with the rate
that dev chose there, and with one setting changed at a time. Trainings follow each other on one core, in DEMO/options.
Only dev is decoded. Results go to benchmarks/results/options.json; options that are not named stay.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import RESULTS, write
from speechssl.asr.finetune import finetune
from speechssl.config import FinetuneConfig
from speechssl.config.load import load_config
from speechssl.training.monitoring.log import read_metrics

NO_MASKS = ("--ctc.time-mask-prob", "0", "--ctc.channel-mask-prob", "0")
MEL_MASKS = (*NO_MASKS, "--ctc.spec-augment.time-masks", "1", "--ctc.spec-augment.mel-masks", "2")
OPTIONS: dict[str, tuple[str, ...]] = {
    "as the demo": (),
    "no masks": NO_MASKS,
    "twice the masks": ("--ctc.time-mask-prob", "0.3", "--ctc.channel-mask-prob", "0.2"),
    "SpecAugment on log-mel": MEL_MASKS,
    "SpecAugment with time warp": (*MEL_MASKS, "--ctc.spec-augment.time-warp", "20"),
    "one speed": ("--augment.speeds", "1.0"),
    "noise": ("--augment.noise-snr-db", "5", "25"),
    "rooms": ("--augment.reverb-prob", "0.3"),
    "CR-CTC": ("--ctc.cr-weight", "0.2"),
    "intermediate CTC": ("--ctc.intermediate-layers", "2"),
    "self-conditioned CTC": ("--ctc.intermediate-layers", "2", "--ctc.self-conditioned"),
    "entropy of alignments": ("--ctc.entropy-weight", "0.1"),
    "sentencepiece, 64 pieces": ("--tokens.kind", "sentencepiece", "--tokens.vocab-size", "64"),
    "rate x 0.8 a block": ("--ctc.layer-lr-decay", "0.8"),
    "gradual unfreezing": ("--ctc.unfreeze-every", "100"),
    "head at the encoder's rate": ("--ctc.head-lr-scale", "1"),
    "weight average of training": ("--training.ema-decay", "0.998"),
}


def chosen(demo: Path) -> Path:
    """Return the configuration of the demo's fine-tuning that dev chose."""
    rows = json.loads((demo / "run" / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    (row,) = (row for row in rows if row["arm"] == "finetune" and row["kept"])
    return Path(row["folder"]) / "config.toml"


def train(demo: Path, name: str) -> dict:
    """Fine-tune with one option, unless that is done; return a row of the results."""
    folder = demo / "options" / name.replace(" ", "-").replace(",", "")
    cfg = load_config(FinetuneConfig, str(chosen(demo)), list(OPTIONS[name]))
    finetune(replace(cfg, output=str(folder)))
    info = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))["info"]
    rows = list(read_metrics(folder / "metrics.jsonl"))
    steps = [row["dev_wer"] for row in rows if "dev_wer" in row and row.get("phase") != "average"]
    speed = [row["throughput"] for row in rows if row.get("throughput")]
    return {
        "option": name,
        "settings": " ".join(OPTIONS[name]),
        "dev_wer": info["dev_wer"],
        "dev_wer_of_single_weights": min(steps),
        "updates": info["steps"],
        "audio_seconds_per_second": sorted(speed)[len(speed) // 2],
    }


def main(demo: Path, names: list[str]) -> None:
    """Train what is not done yet, then write and print the results."""
    for name in names:
        row = train(demo, name)
        path = RESULTS / "options.json"
        stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        rows = {old["option"]: old for old in [*stored, row]}
        write(path, {"rows": [rows[name] for name in OPTIONS if name in rows]})
    print("| option | setting | dev WER | of single weights | audio, s/s |\n|---|---|---|---|---|")
    for row in json.loads((RESULTS / "options.json").read_text(encoding="utf-8"))["rows"]:
        wers = f"{row['dev_wer']:.1%} | {row['dev_wer_of_single_weights']:.1%}"
        print(f"| {row['option']} | `{row['settings']}` | {wers} | {row['audio_seconds_per_second']:.0f} |")


if __name__ == "__main__":
    if len(sys.argv) < 2 or set(sys.argv[2:]) - set(OPTIONS):
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), sys.argv[2:] or list(OPTIONS))
