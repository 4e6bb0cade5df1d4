"""Validation of a recogniser in training: dev word and character error rate, dev loss, and three utterances to look at.

In: a model in evaluation mode. Out: ``dev_wer``, ``dev_cer``, ``dev_loss``; the samples go to standard error.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from speechssl.asr.ctc import CtcModel
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.labelled import Labelled
from speechssl.asr.recognise import Recognised, recognise
from speechssl.asr.tokens import BLANK, Tokens
from speechssl.asr.transcription.forced_alignment import frames_needed
from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry
from speechssl.core.randomness import key
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import evaluation_batches
from speechssl.evaluation.wer.edit_distance import align_characters, score_utterance
from speechssl.evaluation.wer.unspaced import is_unspaced
from speechssl.training.parallel import Parallel

__all__ = ["Validation"]

SAMPLES = 3
"""Number of utterances printed at each validation: always the same ones, so that progress can be seen."""


class Validation:
    """Greedy decoding of the dev set, shared out over ranks; called with the number of steps done.

    Attributes
    ----------
    select
        The rate that selects weights: the character error rate where the script has no spaces between words.
    """

    def __init__(
        self,
        model: CtcModel,
        tokens: Tokens,
        dev: Labelled,
        parallel: Parallel,
        *,
        record: Callable[[Iterable[Entry]], None],
        bf16: bool = False,
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.dev = dev
        self.parallel = parallel
        self.record = record
        self.bf16 = bf16
        self.select: Literal["dev_wer", "dev_cer"] = (
            "dev_cer" if is_unspaced(map(tokens.normal, dev.texts.values())) else "dev_wer"
        )
        self.corpus = dev.corpus()
        record(Plan.sequential(self.corpus, dev.cfg).dropped)

    @staticmethod
    def possible(tokens: Tokens, dev: Labelled) -> bool:
        """Whether the dev set has any reference word, without which there is no error rate."""
        return any(tokens.normal(text) for text in dev.texts.values())

    def __call__(self, step: int) -> dict[str, float]:
        """Decode the dev set with the current weights.

        Returns
        -------
        dict
            ``dev_wer`` and ``dev_cer`` (fractions of all reference words and characters), ``dev_loss`` (CTC loss a
            reference label, over utterances whose labels fit into their frames).

        Raises
        ------
        DataError
            No dev utterance could be read.
        """
        errors = words = wrong = characters = labels = 0
        loss = 0.0
        shown: list[tuple[int, str, str]] = []
        batches = evaluation_batches(
            self.corpus, self.dev.cfg, workers=self.dev.workers, rank=self.parallel.rank, world=self.parallel.world
        )
        for item in recognise(self.model, batches, rejected=self.record, bf16=self.bf16):
            ref = self.tokens.normal(item.text or "")
            hyp = greedy(item.log_probs, self.tokens)
            score = score_utterance(ref, hyp)
            errors, words = errors + score.errors, words + score.N
            pairs = align_characters(ref, hyp)
            wrong += sum(op != "C" for op, _, _ in pairs)
            characters += sum(op != "I" for op, _, _ in pairs)
            part, count = _loss(item, self.tokens)
            loss, labels = loss + part, labels + count
            shown = sorted([*shown, (key("sample", item.id), ref, hyp)])[:SAMPLES]
        counts = [self.parallel.sum(value) for value in (errors, words, wrong, characters, labels)]
        loss = self.parallel.sum(loss)
        errors, words, wrong, characters, labels = counts
        if not words:
            raise DataError(f"no dev utterance of {self.dev.name} could be read; the ledger says why")
        self._show(step, shown)
        return {"dev_wer": errors / words, "dev_cer": wrong / characters, "dev_loss": loss / max(1, labels)}

    def _show(self, step: int, shown: list[tuple[int, str, str]]) -> None:
        if self.parallel.first:
            lines = [f"step {step}, dev utterances:"]
            for _, ref, hyp in shown:
                lines += [f"  ref: {ref}", f"  hyp: {hyp}"]
            print("\n".join(lines), file=sys.stderr, flush=True)


def _loss(item: Recognised, tokens: Tokens) -> tuple[float, int]:
    """Return the CTC loss of an utterance and its labels; (0, 0) where they do not fit or there are none."""
    ids = tokens.encode(item.text or "")
    frames = len(item.log_probs)
    if not ids or frames_needed(ids) > frames:
        return 0.0, 0
    loss = nn.functional.ctc_loss(
        item.log_probs[:, None], torch.tensor([ids]), torch.tensor([frames]), torch.tensor([len(ids)]),
        blank=BLANK, reduction="sum",
    )  # fmt: skip
    return float(loss), len(ids)
