"""How much of what fine-tuning and evaluation compute is padding: plans only, nothing is decoded or trained.

usage: python -m benchmarks.padding SHARDS NAME=IDS...

SHARDS is a folder that ``speechssl shard`` wrote; each IDS is a file of utterance ids, one a line, and NAME what it is
called in the results. For each list and size of batch: the useful share of the seconds in the padded batches of one
epoch, for length buckets (``Plan.finetune``), for batches of the whole list sorted by length (``Plan.sequential``, what
evaluation takes), and for batches filled in random order. Results: benchmarks/results/padding.json.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.machine import write
from speechssl.config import DataConfig
from speechssl.data.batches.plan import Plan
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.reader import Corpus, open_corpus

RATE = 16_000
LIMITS = DataConfig(min_seconds=0.1, max_seconds=30.0)
BATCH_SECONDS = (12.0, 87.5, 200.0)
"""Of finetune-cpu, the default, and the published recipes."""


def useful(plan: Plan, lengths: np.ndarray, epochs: int = 1) -> float:
    """Return the useful share of the samples in the batches of some epochs."""
    kept = computed = 0
    for number in range(epochs * plan.batches_per_epoch):
        batch = plan.micro(number)
        kept += int(lengths[list(batch.rows)].sum())
        computed += batch.samples * len(batch.rows)
    return kept / computed


def in_random_order(lengths: np.ndarray, batch_samples: int, seed: int = 1) -> float:
    """Return the useful share when utterances are drawn at random and batches filled up to ``batch_samples``."""
    computed = rows = longest = 0
    for length in np.random.default_rng(seed).permutation(lengths).tolist():
        if rows and (rows + 1) * max(longest, length) > batch_samples:
            computed += rows * longest
            rows = longest = 0
        rows, longest = rows + 1, max(longest, length)
    return float(lengths.sum()) / (computed + rows * longest)


def shares(corpus: Corpus) -> dict[str, Any]:
    """Return the useful shares of one list of utterances."""
    lengths = corpus.samples
    found: dict[str, Any] = {
        "utterances": len(lengths),
        "minutes": round(float(lengths.sum()) / RATE / 60, 1),
        "seconds, 5 / 50 / 95 %": [round(float(value) / RATE, 1) for value in np.percentile(lengths, [5, 50, 95])],
    }
    for seconds in BATCH_SECONDS:
        cfg = replace(LIMITS, batch_seconds=seconds)
        finetune, sequential = Plan.finetune(corpus, cfg, seed=1), Plan.sequential(corpus, cfg)
        used = lengths[sequential.rows]
        found[f"batches of {seconds:g} s"] = {
            "length buckets": round(useful(finetune, lengths, epochs=3), 3),
            "sorted": round(useful(sequential, lengths), 3),
            "random order": round(in_random_order(used, round(seconds * RATE)), 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("lists", nargs="+")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"what": "useful share of the audio seconds in padded batches"}
    for text in arguments.lists:
        name, _, path = text.partition("=")
        result[name] = shares(open_corpus(arguments.shards, ids=read_ids((path,))))
    write("padding.json", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
