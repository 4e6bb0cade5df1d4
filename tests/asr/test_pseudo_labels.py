"""Which pseudo-labels are kept: against a search of every threshold, and with bad transcripts planted among good."""

import json
import random

import pytest

from speechssl.asr.pseudo_labels import (
    Judged,
    PseudoLabel,
    Threshold,
    judged,
    lowest_confidence,
    read_pseudo_labels,
    read_rows,
    select,
    utterance_confidence,
    write_rows,
)
from speechssl.config import DataConfig, FinetuneConfig, MixConfig, PseudoLabelsConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.evaluation.wer.edit_distance import score_utterance
from speechssl.evaluation.wer.hypotheses import score_row


def dev_set(seed: int) -> list[Judged]:
    """Return dev utterances whose errors are rarer where the confidence is high, with ties and empty hypotheses."""
    rng = random.Random(seed)
    rows = []
    for _ in range(rng.randint(1, 30)):
        confidence, words = round(rng.random(), 1), rng.randint(0, 5)
        errors = sum(rng.random() > confidence for _ in range(words)) + (rng.random() < 0.1)
        rows.append(Judged(confidence, errors, words, recognised=rng.random() < 0.9))
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_is_the_lowest_that_meets_the_error_rate(seed):
    """Against a search over the sorted utterances, one after the other."""
    dev, most = dev_set(seed), random.Random(seed).choice([0.0, 0.1, 0.3])
    best = None
    for candidate in [row for row in dev if row.recognised]:
        passed = [row for row in dev if row.recognised and row.confidence >= candidate.confidence]
        errors, words = sum(row.errors for row in passed), sum(row.labels for row in passed)
        if words and errors <= most * words and (best is None or candidate.confidence < best[0]):
            best = (candidate.confidence, errors / words, len(passed) / len(dev))
    found = lowest_confidence(dev, max_error=most)
    expected = Threshold(None, None, 0.0) if best is None else Threshold(*best)
    assert (found.confidence, found.dev_share) == (expected.confidence, expected.dev_share)
    assert found.dev_error == pytest.approx(expected.dev_error)


def test_the_share_counts_all_utterances_and_takes_the_most_confident():
    labels = [PseudoLabel(f"u{i}", "a", i / 10, 1.0) for i in range(8)] + [PseudoLabel("x", "", 0.0, 1.0)] * 2
    found = lowest_confidence([Judged(0.6, 1, 4, recognised=True)], max_error=0.0, share=0.3, labels=labels)
    assert found == Threshold(0.5, 0.25, 1.0)  # three of ten: 0.5, 0.6, 0.7; dev says what errors to expect
    assert len(select(labels, found)[0]) == 3
    assert len(select(labels, lowest_confidence([], max_error=0.0, share=1.0, labels=labels))[0]) == 8


def test_bad_transcripts_with_low_confidence_are_refused_and_the_ledger_says_why():
    """Truth: 40 utterances, of which every fourth is recognised wrong, with less confidence."""
    truth = {f"u{i:02d}": f"word{i} two" for i in range(40)}
    labels = [
        PseudoLabel(name, text if i % 4 else "rubbish", 0.9 + i / 1000 if i % 4 else 0.3 + i / 1000, 1.0)
        for i, (name, text) in enumerate(truth.items())
    ]
    labels += [PseudoLabel("silent", "", 0.0, 1.0)]
    dev = judged(
        [
            score_row(f"d{i}", "a b", hyp, confidences=[confidence] * len(hyp.split()))
            for i, (hyp, confidence) in enumerate([("a b", 0.95), ("a b", 0.85), ("a c", 0.5), ("c", 0.3), ("", 0.0)])
        ]
    )
    threshold = lowest_confidence(dev, max_error=0.1)
    assert threshold == Threshold(0.85, 0.0, 2 / 5)
    kept, entries = select(labels, threshold)
    assert {one.id for one in kept} == {name for i, name in enumerate(truth) if i % 4}
    assert all(score_utterance(truth[one.id], one.text).errors == 0 for one in kept)
    reasons = {entry.item: (entry.reason, entry.action) for entry in entries}
    assert len(entries) == len(reasons) == len(labels)
    assert reasons["u00"] == ("low_confidence", "dropped")
    assert reasons["u01"] == ("pseudo_label", "kept")
    assert reasons["silent"] == ("nothing_recognised", "dropped")
    assert entries[0].detail == "confidence 0.3000, 0.8500 is needed"
    assert select(labels, Threshold(None, None, 0.0))[0] == []


def test_confidence_is_the_expected_share_of_right_words():
    assert utterance_confidence([1.0, 0.5, 0.0]) == 0.5
    assert utterance_confidence([]) == 0.0


def test_errors_are_those_of_characters_in_a_script_without_spaces():
    (row,) = judged([score_row("d", "你好世界", "你好世間", confidences=[0.5])])
    assert (row.errors, row.labels) == (1, 4)
    with pytest.raises(DataError, match="no confidences"):
        judged([score_row("d", "a", "a")])


def test_the_file_is_read_back_and_bad_lines_are_named(tmp_path):
    labels = [PseudoLabel("b", "zwei \u2028 wörter", 0.75, 1.5), PseudoLabel("a", "one", 1.0, 2.0)]
    write_rows(tmp_path / "pseudo.jsonl", labels)
    assert read_rows(tmp_path / "pseudo.jsonl") == labels
    assert read_pseudo_labels(tmp_path / "pseudo.jsonl") == {"b": "zwei \u2028 wörter", "a": "one"}
    bad = tmp_path / "bad.jsonl"
    for text, message in (
        ("", "no line in it"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "'a' is there twice"),
        ('{"id": "a", "text": "x"}\n{"id": "b"}\n', "line 2: expected an object with the strings id and text"),
        ('{"id": "a"', "line 1: not JSON"),
    ):
        bad.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_pseudo_labels(bad)
    with pytest.raises(DataError, match="selftrain"):
        read_pseudo_labels(tmp_path / "none.jsonl")
    assert json.loads((tmp_path / "pseudo.jsonl").read_text(encoding="utf-8").split("\n")[1])["seconds"] == 2.0


def test_a_share_of_true_transcripts_and_a_mixture_are_not_given_together():
    mixture = DataConfig(mix=MixConfig(by="language"))
    assert FinetuneConfig(data=mixture).pseudo.true_share == 0
    with pytest.raises(ConfigError, match="give one of them"):
        FinetuneConfig(data=mixture, pseudo=PseudoLabelsConfig(true_share=0.5))
