"""Greedy, beam, lexicon and language model on real speech: word error rates, and the speed of the search on one core.

usage: python -m benchmarks.decoding DATA OUT [TASK ...]      (an4, libri-1h; OUT: of real_speech.py; resumes)

The language models are estimated from training transcripts; their weight and the word score are chosen on dev; test is
decoded once with each decoder. The search is then timed against torchaudio's ctc_decoder with the same settings on the
same log-probabilities, in turns, in processor time of this process; the hypotheses of both must be the same.
Results go to benchmarks/results/decoding.json with hardware, versions and date; tasks that are not named stay.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import RESULTS, write
from speechssl.asr.ctc import load_recogniser
from speechssl.asr.decoding.decode import greedy, prefix_beam
from speechssl.asr.decoding.lexicon import spellable, training_words
from speechssl.asr.decoding.search import Graph, Search
from speechssl.asr.decoding.tune import tune
from speechssl.asr.evaluate import evaluate
from speechssl.asr.labelled import open_labelled
from speechssl.asr.lm.arpa import read_words
from speechssl.asr.lm.text import estimate_lm
from speechssl.asr.recognise import recognise
from speechssl.asr.tokens import Tokens
from speechssl.config import DecoderConfig, EvaluateConfig, LmConfig, TuneConfig
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import compare_systems

BEAM = 50
TASKS = {
    "an4": ("an4-train", "an4-dev", "an4-test", ("an4-train",)),
    "libri-1h": ("libri-1h", "libri-dev", "libri-test", ("libri-5h",)),
}
"""Task: fine-tuning list, dev, test, and the lists whose transcripts make a language model."""
GRID = {"lm_weights": (1.0, 2.0, 3.0, 4.0), "word_scores": (0.0, 2.0, 4.0), "refinements": 1}


class Bench:
    """One task: its model, lists and results."""

    def __init__(self, data: Path, out: Path, task: str) -> None:
        self.data, self.out, self.task = data, out, task
        self.train, self.dev, self.test, self.texts = TASKS[task]
        self.model = out / f"{self.train}-pretrained" / "model"
        self.place = out / "decoding" / self.train
        self.rows: list[dict] = []

    def ids(self, name: str) -> tuple[str, ...]:
        return (str(self.data / "protocols" / f"{name}.txt"),)

    def lm(self, name: str, **settings) -> Path:
        path = self.place / f"{name}.arpa"
        cfg = LmConfig(ids=self.ids(name.removesuffix(".tokens")), model=str(self.model), **settings)
        print(estimate_lm(self.out / "shards", path, cfg), flush=True)
        return path

    def tuned(self, name: str, decoder: DecoderConfig) -> DecoderConfig:
        cfg = TuneConfig(model=str(self.model), output=str(self.place / f"tune-{name}"), decoder=decoder, **GRID)
        data = replace(cfg.data, shards=str(self.out / "shards"), ids=self.ids(self.dev), workers=0)
        done = Path(cfg.output) / "tune.json"
        if not done.exists():
            print(tune(replace(cfg, data=data)), flush=True)
        best = json.loads(done.read_text(encoding="utf-8"))["chosen"]
        return replace(decoder, lm_weight=best["lm_weight"], word_score=best["word_score"])

    def score(self, name: str, decoder: DecoderConfig) -> None:
        cfg = EvaluateConfig(model=str(self.model), output=str(self.place / name), decoder=decoder)
        data = replace(cfg.data, shards=str(self.out / "shards"), ids=self.ids(self.test), workers=0)
        done = Path(cfg.output) / "wer.json"
        if not done.exists():
            evaluate(replace(cfg, data=data))
        report = summarise(read_hypotheses(done.parent))
        row = {
            "task": self.task,
            "decoder": name,
            "wer": report.wer,
            "ci": [report.ci_low, report.ci_high],
            "cer": report.cer,
            "words": report.N,
            "utterances": report.utterances,
            "lm_weight": decoder.lm_weight if decoder.kind == "lm" else None,
            "word_score": decoder.word_score,
        }
        if self.rows:
            paired = compare_systems(
                read_hypotheses(self.place / self.rows[0]["decoder"]), read_hypotheses(self.place / name)
            )
            row["difference_to_greedy"] = [paired.difference, paired.low, paired.high] if paired else None
        self.rows.append(row)
        print(name, report, flush=True)

    def run(self) -> tuple[list[dict], list[dict]]:
        """Return the table of word error rates and that of speeds."""
        self.score("greedy", DecoderConfig())
        self.score("beam", DecoderConfig(kind="beam", beam=10))
        self.score("lexicon", DecoderConfig(kind="lexicon", beam=BEAM))
        speeds = []
        log_probs, tokens = self.listen()
        seconds = sum(samples for samples, _ in log_probs) / 16_000
        values = [each for _, each in log_probs]
        for text in self.texts:
            path = self.lm(text)
            cfg = self.tuned(text, DecoderConfig(kind="lm", beam=BEAM, lm=str(path)))
            self.score(f"lm {text}", cfg)
            speeds.append({"task": self.task, **race(values, seconds, tokens, path, cfg)})
        if self.task == "an4":  # a search without a lexicon is ten times slower
            name = f"{self.train}.tokens"
            path = self.lm(name, unit="tokens", order=6)
            self.score("lm of characters", self.tuned(name, DecoderConfig(kind="lm", beam=BEAM, lm=str(path))))
        for title, decode in (
            ("greedy", lambda value: greedy(value, tokens)),
            ("prefix beam 10", lambda value: prefix_beam(value, tokens, 10)),
            ("lexicon", Search(Graph(tokens, training_words(self.model)), DecoderConfig(kind="lexicon", beam=BEAM))),
        ):
            some = values[:40]
            start = time.process_time()
            for value in some:
                decode(value)
            spent = time.process_time() - start
            audio = sum(samples for samples, _ in log_probs[:40]) / 16_000
            speeds.append({"task": self.task, "decoder": title, "times_real_time": audio / spent})
        return self.rows, speeds

    def listen(self) -> tuple[list[tuple[int, Tensor]], Tokens]:
        """Return (samples, log-probabilities) of the test utterances."""
        from speechssl.data.batches.stream import evaluation_batches

        model, tokens = load_recogniser(self.model)
        cfg = EvaluateConfig().data
        cfg = replace(cfg, shards=str(self.out / "shards"), ids=self.ids(self.test), workers=0)
        chosen = open_labelled(cfg, stage="benchmark")
        batches = evaluation_batches(chosen.corpus(), cfg, workers=0)
        return [(item.samples, item.log_probs.clone()) for item in recognise(model, batches, rejected=print)], tokens


def race(values: list[Tensor], seconds: float, tokens: Tokens, lm: Path, cfg: DecoderConfig, rounds: int = 3) -> dict:
    """Time our search and torchaudio's in turns on the same log-probabilities; their words must be equal."""
    from torchaudio.models.decoder import ctc_decoder

    words = spellable(read_words(lm), tokens, source=str(lm))
    with tempfile.TemporaryDirectory() as folder:
        lexicon = Path(folder) / "lexicon.txt"
        lexicon.write_text("".join(f"{word} {' '.join(word)} |\n" for word in words), encoding="utf-8")
        peer = ctc_decoder(
            lexicon=str(lexicon),
            tokens=list(tokens.symbols),
            lm=str(lm),
            beam_size=cfg.beam,
            beam_size_token=min(cfg.beam_tokens, tokens.size),
            beam_threshold=cfg.beam_threshold,
            lm_weight=cfg.lm_weight,
            word_score=cfg.word_score,
            blank_token=tokens.symbols[0],
            sil_token="|",
        )
    ours = Search(Graph(tokens, words, lm=lm), cfg)
    closing = torch.full((1, tokens.size), -1e4)
    closing[0, :2] = 0.0  # what our search adds itself: the last word may end with the utterance
    closed = [torch.cat([value, closing])[None] for value in values]
    times: dict[str, list[float]] = {"speechssl": [], "torchaudio": []}
    for number in range(rounds):
        found: dict[str, list[tuple[str, ...]]] = {}
        turns = ["speechssl", "torchaudio"]
        for name in turns if number % 2 == 0 else turns[::-1]:
            start = time.process_time()
            if name == "speechssl":
                found[name] = [ours(value)[0].words for value in values]
            else:
                found[name] = [tuple(peer(value)[0][0].words) for value in closed]
            times[name].append(time.process_time() - start)
        assert found["speechssl"] == found["torchaudio"], "the two searches differ"
    medians = {name: statistics.median(each) for name, each in times.items()}
    result = {
        "decoder": f"lm {lm.stem}",
        "beam": cfg.beam,
        "utterances": len(values),
        "audio_seconds": seconds,
        "processor_seconds": times,
        "times_real_time": seconds / medians["speechssl"],
        "torchaudio_times_real_time": seconds / medians["torchaudio"],
        "speed_ratio": medians["torchaudio"] / medians["speechssl"],
        "hypotheses": "identical",
    }
    print(result, flush=True)
    return result


def main(data: Path, out: Path, tasks: list[str]) -> None:
    """Run the tasks, write and print the tables."""
    torch.set_num_threads(1)
    stored = json.loads((RESULTS / "decoding.json").read_text(encoding="utf-8"))
    rows, speeds = ([row for row in stored[name] if row["task"] not in tasks] for name in ("rows", "speed"))
    for task in tasks:
        new, fast = Bench(data, out, task).run()
        rows += new
        speeds += fast
    result = {"what": "one core", "rows": rows, "speed": speeds}
    write("decoding.json", result, "torchaudio", "flashlight-text", "numpy")
    print("| task | decoder | test WER (95 % interval) | against greedy, paired |\n|---|---|---|---|")
    for row in rows:
        difference = row.get("difference_to_greedy")
        paired = "{:+.1%} ({:+.1%} to {:+.1%})".format(*difference) if difference else ""
        interval = "{:.1%} to {:.1%}".format(*row["ci"])
        print(f"| {row['task']} | {row['decoder']} | {row['wer']:.1%} ({interval}) | {paired} |")


if __name__ == "__main__":
    if len(sys.argv) < 3 or set(sys.argv[3:]) - set(TASKS):
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:] or list(TASKS))
