"""Batched transcription against the Hugging Face ASR pipeline: the same BASE weights, the same 64 real utterances.

usage: python -m benchmarks.transcription DATA [--model MODEL --shards SHARDS] [--rounds 3]

DATA holds corpora with manifest.jsonl (libri_dev is taken). The weights are random (seed 0) and converted by
interop.huggingface, so text is noise, but the same noise: in float32 it is compared letter by letter. Ours sorts by
length and batches up to 40 s; the pipeline runs at the best of its batch sizes 1, 4 and 8. One thread, process CPU
time, contenders alternate, medians. With --model and --shards the effect of bfloat16 on the WER of that fine-tuned
model is measured, too. Results: benchmarks/results/transcription.json.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.machine import hardware
from speechssl.asr.ctc import CtcModel
from speechssl.asr.decode import best_path, collapse
from speechssl.asr.recognise import frame_log_probs
from speechssl.config import EvaluateConfig, PretrainConfig
from speechssl.data.audio import decode
from speechssl.interop.huggingface import encoder_to_huggingface
from speechssl.models.encoder import SpeechEncoder
from speechssl.settings import load_config

RESULT = Path(__file__).parent / "results" / "transcription.json"
LETTERS = ["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
BATCH_SECONDS = 40.0


def utterances(data: Path, count: int) -> list[np.ndarray]:
    """Return ``count`` utterances spread over a corpus."""
    folder = data / "libri_dev"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = rows[:: max(1, len(rows) // count)][:count]
    return [decode(folder / row["audio"], item=row["id"]) for row in chosen]


def our_model() -> CtcModel:
    torch.manual_seed(0)
    cfg = load_config(PretrainConfig, "wav2vec2-base").model
    model = CtcModel(SpeechEncoder(cfg), len(LETTERS))
    torch.nn.init.normal_(model.head.weight, std=0.5)  # so that random weights say something
    return model.eval()


def pipeline_of(model: CtcModel, folder: Path) -> Any:
    from transformers import (
        AutomaticSpeechRecognitionPipeline,
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    state, settings = encoder_to_huggingface(model.encoder)
    cfg = Wav2Vec2Config(**{**settings, "vocab_size": len(LETTERS), "pad_token_id": 0})
    theirs = Wav2Vec2ForCTC(cfg).eval()
    prefixed = {name if name.startswith("wav2vec2.") else f"wav2vec2.{name}": value for name, value in state.items()}
    prefixed |= {"lm_head.weight": model.head.weight.data, "lm_head.bias": model.head.bias.data}
    missing, unexpected = theirs.load_state_dict(prefixed, strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", word_delimiter_token="|", unk_token="<pad>"
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)
    return AutomaticSpeechRecognitionPipeline(model=theirs, feature_extractor=extractor, tokenizer=tokenizer)


def ours(model: CtcModel, waves: list[np.ndarray], *, bf16: bool) -> tuple[list[str], list[np.ndarray]]:
    """Return texts and best paths, in the order of ``waves``."""
    order = sorted(range(len(waves)), key=lambda i: -len(waves[i]))
    paths: list[Any] = [None] * len(waves)
    while order:
        take = max(1, int(BATCH_SECONDS * 16_000 // len(waves[order[0]])))
        rows, order = order[:take], order[take:]
        lengths = torch.tensor([len(waves[i]) for i in rows])
        batch = torch.zeros(len(rows), int(lengths.max()))
        for into, i in zip(batch, rows, strict=True):
            into[: len(waves[i])] = torch.from_numpy(waves[i])
        for i, log_probs in zip(rows, frame_log_probs(model, batch, lengths, bf16=bf16), strict=True):
            paths[i] = best_path(log_probs)[0]
    return [text_of(path) for path in paths], paths


def text_of(path: np.ndarray) -> str:
    return " ".join("".join(LETTERS[label] for label in collapse(path)).replace("|", " ").split())


def timed(run: Any) -> tuple[float, Any]:
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def wer_effect(model: str, shards: str) -> dict[str, float]:
    """Return the WER of a fine-tuned model in float32 and in bfloat16."""
    from speechssl.asr.score import evaluate

    cfg = load_config(EvaluateConfig, None, ["--model", model, "--data.shards", shards])
    with TemporaryDirectory() as folder:
        return {
            kind: float(evaluate(replace(cfg, output=f"{folder}/{kind}", precision=kind)).wer or 0.0)  # type: ignore[arg-type]
            for kind in ("fp32", "bf16")
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--shards")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    waves = utterances(arguments.data, arguments.count)
    seconds = sum(map(len, waves)) / 16_000
    model = our_model()
    with TemporaryDirectory() as folder:
        pipe = pipeline_of(model, Path(folder))
        inputs = [{"raw": wave, "sampling_rate": 16_000} for wave in waves]

        def theirs(size: int, *, bf16: bool = False) -> list[str]:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return [" ".join(out["text"].split()) for out in pipe([dict(item) for item in inputs], batch_size=size)]

        contenders: dict[str, Any] = {
            **{f"pipeline batch {size}": (lambda size=size: theirs(size)) for size in (1, 4, 8)},
            "ours fp32": lambda: ours(model, waves, bf16=False),
            "ours bf16": lambda: ours(model, waves, bf16=True),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        results: dict[str, Any] = {}
        for _ in range(arguments.rounds):
            for name, run in contenders.items():
                spent, results[name] = timed(run)
                times[name].append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in medians if name.startswith("pipeline")), key=medians.__getitem__)
    alone = results["pipeline batch 1"]  # their padding changes the text: group norm sees it
    fast, slow = results["ours bf16"][1], results["ours fp32"][1]
    changed = sum(int((a != b).sum()) for a, b in zip(fast, slow, strict=True)) / sum(map(len, slow))
    result = {
        "what": f"{len(waves)} utterances, {seconds:.0f} s, BASE, one thread, CPU seconds, medians",
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "best_pipeline": best,
        "ratios": {name: round(medians[best] / medians[name], 2) for name in ("ours fp32", "ours bf16")},
        "times_real_time": {name: round(seconds / value, 1) for name, value in medians.items()},
        "texts_equal_to_pipeline_alone": sum(a == b for a, b in zip(results["ours fp32"][0], alone, strict=True)),
        "frames_changed_by_bf16": round(changed, 5),
        "rounds": times,
        "load": os.getloadavg(),
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python -m benchmarks.transcription DATA --model MODEL --shards SHARDS",
    }
    if arguments.model and arguments.shards:
        result["wer_of_a_trained_model"] = wer_effect(arguments.model, arguments.shards)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
