"""The whole way at its smallest: a folder of tones with transcripts, and the settings that go through it in seconds."""

import json
from dataclasses import replace
from pathlib import Path

import soundfile

from speechssl.config import (
    CtcConfig,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    HubertConfig,
    ManifestConfig,
    MaskConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    ShardConfig,
    TargetsConfig,
    TrainingConfig,
)
from tests.support.tones import MODEL, make_sentence, speak

__all__ = ["settings", "write_folder"]


def write_folder(folder: Path, counts: dict[str, int]) -> Path:
    """Write WAV files and ``metadata.jsonl`` (text, speaker, split), an unreadable file, and one that is no audio."""
    folder.mkdir(parents=True)
    rows = []
    for split, count in counts.items():
        for i in range(count):
            name = f"{split}-{i:03d}"
            text = make_sentence(name)
            soundfile.write(folder / f"{name}.wav", speak(text, name), 16_000, subtype="PCM_16")
            row = {"file": f"{name}.wav", "text": text, "speaker": f"{split}-{i % 3}", "split": split}
            rows.append({key: value for key, value in row.items() if key != "text" or i % 4 or split != "train"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "broken.wav").write_bytes(b"RIFF____WAVEfmt ")
    (folder / "notes.txt").write_text("not audio", encoding="utf-8")
    return folder


def settings(output: Path, *, steps: int = 4, **changes: object) -> RunConfig:
    """Return settings of a run whose every stage takes about a second."""
    data = DataConfig(min_seconds=0.2, max_seconds=4.0, batch_seconds=8.0, buckets=2, workers=0)
    loop = TrainingConfig(steps=steps, device="cpu", precision="fp32", log_every=2, save_every=2, validate_every=2)
    cfg = RunConfig(
        output=str(output),
        manifest=ManifestConfig(workers=1),
        shard=ShardConfig(workers=1),
        pretrain=PretrainConfig(
            data=data, model=MODEL,
            objective=HubertConfig(
                final_dim=16, penalty_weight=0.0, mask=MaskConfig(prob=0.5, length=3),
                targets=TargetsConfig(
                    steps=(steps, steps), clusters=(6, 6), layers=(0, 1), kmeans_hours=0.1, kmeans_starts=1
                ),
            ),
            optim=OptimConfig(lr=1e-3), training=loop,
        ),
        finetune=FinetuneConfig(
            data=replace(data, min_seconds=0.1), dev=replace(data, splits=("dev",), min_seconds=0.0), model=MODEL,
            ctc=CtcConfig(freeze_steps=1, time_mask_prob=0.1, time_mask_length=2, channel_mask_prob=0.1,
                          channel_mask_length=4, layer_drop=0.0, activation_dropout=0.0),
            optim=OptimConfig(lr=3e-3), training=loop,
        ),
        evaluate=EvaluateConfig(data=replace(data, splits=("test",), min_seconds=0.0), bootstrap=50, device="cpu"),
    )  # fmt: skip
    return replace(cfg, **changes)  # type: ignore[arg-type]
