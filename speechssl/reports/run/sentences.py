"""The report's findings in sentences: what was measured, and its certainty.

In: records. Out: plain text, shared by report.html and report.txt.
"""

from speechssl.core.text_table import interval_text, percent
from speechssl.evaluation.bootstrap import PairedBootstrap
from speechssl.evaluation.wer.wer_text import UNSPACED
from speechssl.reports.run.collect import Evaluation, RunRecord

__all__ = ["comparison_sentence", "model_sentence", "probability_text", "score_sentences"]


def model_sentence(record: RunRecord) -> str:
    """Return a sentence on the run: objective, size of the encoder, hours, transcribed hours."""
    parts = []
    pretraining = next((t for t in record.trainings if t.phase == "pretrain"), None)
    any_training = pretraining or next(iter(record.trainings), None)
    if pretraining is not None:
        parts.append(f"{pretraining.objective.title} pretraining".strip())
    if any(t.phase == "finetune" for t in record.trainings):
        parts.append("CTC fine-tuning")
    model = any_training.config.get("model") if any_training else None
    encoder = model.get("encoder") if isinstance(model, dict) else None
    if isinstance(encoder, dict) and {"layers", "dim"} <= encoder.keys():
        parts.append(f"{encoder['layers']} layer{'s' * (encoder['layers'] != 1)} of {encoder['dim']}")
    if record.corpus is not None:
        total = record.corpus.total
        parts.append(f"{total.hours:.3g} h of audio")
        parts.append(f"{total.labelled_hours:.3g} h transcribed")
    return " · ".join(part for part in parts if part)


def probability_text(probability: float, resamples: int) -> str:
    """Return a probability, no finer than the number of resamples allows."""
    if probability >= 1:
        return f"> {100 * (1 - 1 / resamples):.4g} %"
    if probability <= 0:
        return f"< {100 / resamples:.2g} %"
    return f"{100 * probability:.1f} %"


def comparison_sentence(paired: PairedBootstrap) -> str:
    """Return the comparison of the pretrained arm (b) with the scratch arm (a)."""
    points = (
        f"{100 * paired.difference:+.1f} points (95 % interval {100 * paired.low:+.1f} to {100 * paired.high:+.1f})"
    ).replace("-", "−")
    if paired.relative is None:
        verdict = "The model trained from scratch makes no error, so there is nothing to improve"
    elif paired.low <= 0 <= paired.high:
        verdict = "The test cannot tell the pretrained model from the same model trained from scratch"
    elif paired.relative > 0:
        verdict = (
            f"Pretraining removes {percent(paired.relative, 1)} % of the errors of the same model trained from scratch"
        )
    else:
        verdict = (
            f"The pretrained model makes {percent(-paired.relative, 1)} % more errors than the same model from scratch"
        )
    probability = probability_text(paired.probability, paired.resamples)
    return (
        f"{verdict}: WER {percent(paired.wer_b, 1)} % against {percent(paired.wer_a, 1)} %, a difference of {points}. "
        f"Probability of improvement {probability} (paired bootstrap, {paired.utterances} utterances)."
    )


def score_sentences(evaluation: Evaluation) -> list[str]:
    """Return notes on the score."""
    wer, sentences = evaluation.wer, []
    how = [
        f"{title}: {evaluation.info[name]}."
        for name, title in (
            ("decoder", "Decoder"),
            ("greedy", "With greedy decoding"),
            ("text", "Text"),
            ("not_scored", "Utterances not scored"),
        )
        if evaluation.info.get(name)
    ]
    if how:
        sentences.append(" ".join(how))
    if wer.unspaced:
        sentences.append(f"{UNSPACED} Its WER is {percent(wer.wer, 1)} %.")
    if wer.wer is None:
        sentences.append("There is no reference word in this set, so there is no word error rate.")
    elif wer.S + wer.D + wer.I == 0:
        bound = f"{300 / wer.N:.2g}"
        sentences.append(
            f"No error was made, so the bootstrap has nothing to draw from; if errors were independent, the true rate "
            f"would lie below {bound} % (3 / N, with 95 % confidence)."
        )
    if wer.speaker_ci_low is not None:
        interval = interval_text(wer.speaker_ci_low, wer.speaker_ci_high, 1)
        sentences.append(
            f"With whole speakers drawn, not utterances, the 95 % interval is {interval} % ({wer.speakers} speakers); "
            "it is the one to quote for speakers who are not in this test set."
        )
    if wer.empty_references:
        sentences.append(
            f"Utterances with an empty reference: {wer.empty_references}. Words recognised in them count as insertions."
        )
    if wer.empty_hypotheses:
        sentences.append(f"Utterances in which nothing was recognised: {wer.empty_hypotheses}.")
    return sentences
