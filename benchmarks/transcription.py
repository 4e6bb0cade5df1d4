"""Batched transcription against the Hugging Face ASR pipeline: the same BASE weights, the same 64 real utterances.

usage: python -m benchmarks.transcription DATA [--rounds 3] [--only NAME...] [--add]
       python -m benchmarks.transcription DATA --model MODEL --shards SHARDS --ids IDS [--decoder greedy]

DATA holds corpora with manifest.jsonl; --corpus is libri_dev unless said. The weights are random (seed 0) and converted
by interop.huggingface, so text is noise, but the same noise: in float32 it is compared letter by letter. The pipeline
runs at batch sizes 1, 4 and 8 in float32, under bfloat16 autocast and with the whole model in bfloat16; it hears the
longest utterances first, so that its batches are padded little. One thread, process CPU time, contenders alternate in
one process, medians. ``--add`` keeps the samples that earlier runs of the same size have left: a round of all
contenders is long. On a processor without bfloat16 the pipeline runs in float32 alone, unless --only names another.
With --model, what bfloat16 does to the WER of that fine-tuned model is measured instead, and added.
Results: benchmarks/results/transcription.json.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.machine import RESULTS, command, hardware, today, versions, write
from speechssl.asr.ctc import CtcModel
from speechssl.asr.decoding.decode import best_path, collapse
from speechssl.asr.engine.packed import PackedRecogniser
from speechssl.asr.recognise import frame_log_probs
from speechssl.config import EvaluateConfig, PretrainConfig
from speechssl.config.load import load_config
from speechssl.core.processor import processor
from speechssl.data.audio.decode import decode
from speechssl.interop.huggingface import encoder_to_huggingface
from speechssl.models.encoder import SpeechEncoder

RESULT = "transcription.json"
LETTERS = ["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
PADDED_SECONDS = 40.0
"""Batches of the padded path, our own peer."""
Heard = tuple[list[str], list[np.ndarray] | None]
"""Texts, and best paths where they are at hand, in the order of the utterances."""


def utterances(folder: Path, count: int) -> list[np.ndarray]:
    """Return ``count`` utterances spread over a corpus, the longest first."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = rows[:: max(1, len(rows) // count)][:count]
    return sorted((decode(folder / row["audio"], item=row["id"]) for row in chosen), key=len, reverse=True)


def our_model(*, toy: bool) -> CtcModel:
    torch.manual_seed(0)
    cfg = load_config(PretrainConfig, "wav2vec2-base").model
    if toy:
        cfg = replace(cfg, encoder=replace(cfg.encoder, dim=32, layers=2, heads=2, ffn_dim=64, pos_kernel=16))
    model = CtcModel(SpeechEncoder(cfg), len(LETTERS))
    torch.nn.init.normal_(model.head.weight, std=0.5)  # so that random weights say something
    return model.eval()


def pipelines(model: CtcModel, folder: Path) -> dict[str, Any]:
    """Return the pipeline by kind of arithmetic."""
    from transformers import (
        AutomaticSpeechRecognitionPipeline,
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    state, settings = encoder_to_huggingface(model.encoder)
    theirs = Wav2Vec2ForCTC(Wav2Vec2Config(**{**settings, "vocab_size": len(LETTERS), "pad_token_id": 0})).eval()
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
    made = partial(AutomaticSpeechRecognitionPipeline, feature_extractor=extractor, tokenizer=tokenizer)
    half = copy.deepcopy(theirs).to(torch.bfloat16)
    whole = made(model=theirs)
    return {"fp32": whole, "autocast": whole, "bf16": made(model=half, dtype=torch.bfloat16)}


def theirs(pipe: Any, waves: list[np.ndarray], size: int, *, autocast: bool) -> Heard:
    inputs = [{"raw": wave, "sampling_rate": 16_000} for wave in waves]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return [" ".join(out["text"].split()) for out in pipe(inputs, batch_size=size)], None


def packed(recogniser: PackedRecogniser, waves: list[np.ndarray]) -> Heard:
    paths = [best_path(rows)[0] for rows in recogniser([torch.from_numpy(wave) for wave in waves])]
    return [text_of(path) for path in paths], paths


def padded(model: CtcModel, waves: list[np.ndarray], *, bf16: bool) -> Heard:
    """Recognise batches padded to their longest utterance."""
    paths: list[np.ndarray] = []
    rest = [torch.from_numpy(wave) for wave in waves]
    while rest:
        take = max(1, int(PADDED_SECONDS * 16_000 // len(rest[0])))
        rows, rest = rest[:take], rest[take:]
        batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        paths += [best_path(found)[0] for found in frame_log_probs(model, batch, lengths, bf16=bf16)]
    return [text_of(path) for path in paths], paths


def text_of(path: np.ndarray) -> str:
    return " ".join("".join(LETTERS[label] for label in collapse(path)).replace("|", " ").split())


def contenders(model: CtcModel, waves: list[np.ndarray], folder: Path, only: list[str]) -> dict[str, Any]:
    found: dict[str, Callable[[], Heard]] = {}
    pipes = pipelines(model, folder) if not only or any(name.startswith("pipeline") for name in only) else {}
    for kind, pipe in pipes.items():
        if kind != "fp32" and not only and not processor().bf16:
            continue  # PyTorch's own bfloat16 products take twenty times as long as float32 here
        for size in (1, 4, 8):
            found[f"pipeline {kind}, batch {size}"] = partial(theirs, pipe, waves, size, autocast=kind == "autocast")
    for kind in ("fp32", "bf16"):
        found[f"ours {kind}, padded"] = partial(padded, model, waves, bf16=kind == "bf16")
        found[f"ours {kind}"] = partial(packed, PackedRecogniser(model, bf16=kind == "bf16"), waves)
    return {name: run for name, run in found.items() if not only or name in only}


def timed(run: Callable[[], Heard]) -> tuple[float, Heard]:
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def ratios(medians: dict[str, float]) -> dict[str, float]:
    """Return how many times faster ours is than the pipeline at its best batch size, for each kind of arithmetic."""
    found = {}
    for kinds in (["fp32"], ["autocast", "bf16"]):
        names = [name for name in medians if name.split(",")[0] in [f"pipeline {kind}" for kind in kinds]]
        if names:
            best = min(names, key=medians.__getitem__)
            ours = [name for name in ("ours fp32", "ours bf16") if name in medians]
            found |= {f"{best} / {name}": round(medians[best] / medians[name], 2) for name in ours}
    return found


def likeness(results: dict[str, Heard]) -> dict[str, Any]:
    """Return how far texts and best paths agree, of what was run."""
    found: dict[str, Any] = {}
    if "ours fp32" in results:
        texts, slow = results["ours fp32"]
        for name, (others, _) in results.items():  # the pipeline's padding changes its text: group norm sees it
            if name.startswith("pipeline") and "batch 1" in name:
                found[f"texts equal, ours fp32 and {name}"] = sum(a == b for a, b in zip(texts, others, strict=True))
        fast = results["ours bf16"][1] if "ours bf16" in results else None
        if fast is not None and slow is not None:
            changed = sum(int((a != b).sum()) for a, b in zip(fast, slow, strict=True))
            found["share of frames whose best symbol bf16 changes"] = round(changed / sum(map(len, slow)), 5)
    return found


def wer_effect(model: str, shards: str, ids: str, decoder: str) -> dict[str, Any]:
    """Return the WER of a fine-tuned model in float32 and in bfloat16, their difference, and what else changed."""
    from speechssl.asr.evaluate import evaluate
    from speechssl.evaluation.wer.hypotheses import read_hypotheses
    from speechssl.evaluation.wer.wer import compare_systems

    words = ["--model", model, "--data.shards", shards, "--data.ids", ids, "--decoder.kind", decoder]
    cfg = load_config(EvaluateConfig, None, words)
    found: dict[str, Any] = {}
    rows = []
    with TemporaryDirectory() as folder:
        for kind in ("fp32", "bf16"):
            report = evaluate(replace(cfg, output=f"{folder}/{kind}", precision=kind))  # type: ignore[arg-type]
            rows.append(read_hypotheses(Path(folder) / kind))
            found[kind] = str(report)
    paired = compare_systems(*rows)
    if paired is not None:
        found["difference"] = [round(value, 4) for value in (paired.difference, paired.low, paired.high)]
    changed = sum(a["hyp"] != b["hyp"] for a, b in zip(*rows, strict=True))
    return found | {"hypotheses changed": f"{changed} of {len(rows[0])}", "date": today()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--corpus", default="libri_dev")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--toy", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--model")
    parser.add_argument("--shards")
    parser.add_argument("--ids", help="file of utterance ids, one a line")
    parser.add_argument("--decoder", default="greedy")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.results / (RESULT if arguments.corpus == "libri_dev" else f"transcription-{arguments.corpus}.json")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if arguments.model:
        name = f"WER of {Path(arguments.model).parent.name} on {Path(arguments.ids).stem}, {arguments.decoder}"
        result[name] = wer_effect(arguments.model, arguments.shards, arguments.ids, arguments.decoder)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: result[name]}, indent=1))
        return
    waves = utterances(arguments.data / arguments.corpus, arguments.count)
    seconds = sum(map(len, waves)) / 16_000
    model = "a toy" if arguments.toy else "wav2vec 2.0 BASE"
    what = f"{len(waves)} utterances of {arguments.corpus}, {seconds:.0f} s, {model}, one thread, CPU seconds, medians"
    same = result.get("what") == what and result.get("hardware") == hardware() and result.get("date") == today()
    times: dict[str, list[float]] = result["rounds"] if arguments.add and same else {}
    results: dict[str, Heard] = {}
    with TemporaryDirectory() as folder:
        runs = contenders(our_model(toy=arguments.toy), waves, Path(folder), arguments.only)
        for number in range(arguments.rounds):
            for name, run in runs.items():
                spent, results[name] = timed(run)
                times.setdefault(name, []).append(round(spent, 3))
                print(f"round {number + 1}: {name} {spent:.2f} s, {seconds / spent:.1f} x real time", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in times.items()}
    kept = result if arguments.add and same else {}
    result = {name: value for name, value in kept.items() if name not in ("load", "command")} | {
        "what": what,
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "times_real_time": {name: round(seconds / value, 1) for name, value in medians.items()},
        "ratios": ratios(medians),
        **likeness(results),
        "rounds": times,
        "commands": [*kept.get("commands", []), command()],
        "versions": versions("speechssl", "torch", "transformers"),
    }
    write(path, result)
    print(json.dumps({name: value for name, value in result.items() if name != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
