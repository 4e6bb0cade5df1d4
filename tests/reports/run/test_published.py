"""Published curves beside one's own: matched by hours, as far as the run has come, and only where they compare."""

import pytest

from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.summary import summarise
from speechssl.objectives.published import WAV2VEC2
from speechssl.reports.run.collect import Evaluation, RunRecord, Training
from speechssl.reports.run.curves import pretraining_figures
from speechssl.reports.run.results import published_wer


def training(steps, *, batch_seconds=87.5, per_step=2, kind="wav2vec2", **settings):
    config = {
        "data": {"batch_seconds": batch_seconds, "batches_per_step": per_step},
        "objective": {"kind": kind, **settings},
    }
    rows = [{"step": step, "accuracy": 0.2, "valid_accuracy": 0.1 + step / 1e6, "perplexity_0": 30.0} for step in steps]
    return Training("", "pretrain", scratch=False, config=config, train=rows, valid=rows, health=[])


def published_figures(trainings):
    """Return the figures that name a source."""
    return [figure for figure in pretraining_figures(trainings) if "Published:" in figure.caption]


def described(figure):
    """Return what the drawing says of itself."""
    return str(figure.drawing).split('aria-label="')[1].split('"')[0]


def test_the_nearest_batches_are_drawn_as_far_as_the_run_has_come():
    # 175 s a step: 8,000 updates are 389 h. Of 150 s, 5,000 updates (208 h) fit in; of 87.5 s, 10,000 (243 h) do.
    accuracy, perplexity = published_figures([training((2_000, 8_000))])
    text = described(accuracy)
    assert "this run: from 10.2 at 97.2 to 10.8 at 389" in text
    assert "150 s a step: from 14.4 at 208 to" in text
    assert "87.5 s a step: from 15 at 122 to 16.3 at 243" in text
    assert "300 s" not in text
    assert "87.5 s a step: from 20 at 122 to 27 at 243" in described(perplexity)
    assert "Vaessen" in accuracy.caption


def test_hours_not_updates_are_matched():
    """As many updates of a tenth of the audio have seen a tenth of the hours, before the first published point."""
    assert published_figures([training((2_000, 8_000), batch_seconds=12.0, per_step=1)]) == []


@pytest.mark.parametrize("change", [{"negatives": 50}, {"kind": "hubert"}, {"kind": "best_rq"}])
def test_what_does_not_compare_has_no_published_curve(change):
    assert published_figures([training((2_000, 8_000), **change)]) == []


def test_another_codebook_has_no_published_perplexity():
    (accuracy,) = published_figures([training((2_000, 8_000), entries=64)])
    assert "Accuracy" in accuracy.caption


def test_every_published_curve_has_a_value_for_each_step():
    *curves, wer = WAV2VEC2
    for published in curves:
        assert all(len(values) == len(published.updates) for _, values in published.values)
    assert all(len(values) == len(wer.hours) for _, values in wer.wers)


def scored(tmp_path, hours, *, kind="wav2vec2", arm="evaluate", greedy=None):
    """Return the record of a run that heard so many hours in pretraining and has 1 of 4 words wrong."""
    pretraining = training((1_000,), kind=kind)
    pretraining.train[0]["audio_seconds"] = 3.6 * hours
    row = {
        **score_row("a", "one two three four", "one two three for"),
        **({} if greedy is None else {"greedy": greedy}),
    }
    evaluation = Evaluation(arm, "scratch" in arm, "test", [row], summarise([row]), info={}, config={})
    return RunRecord("run", tmp_path, trainings=[pretraining], evaluations=[evaluation])


def test_published_word_error_rates_are_drawn_as_far_as_the_run_has_come(tmp_path):
    text = described(published_wer(scored(tmp_path, 20_000)))
    assert "this run: from 25 at 20000" in text
    assert "1 h of labels: from 102 at 9700 to 53.3 at 16700" in text
    assert "100 h of labels: from 44.7 at 9700 to 16.7 at 16700" in text


def test_the_greedy_word_error_rate_is_what_compares(tmp_path):
    assert "this run: from 50 at 20000" in described(published_wer(scored(tmp_path, 20_000, greedy="one two tree for")))


@pytest.mark.parametrize("change", [{"hours": 9_000}, {"kind": "hubert"}, {"arm": "evaluate-scratch"}])
def test_a_run_that_does_not_compare_has_no_published_word_error_rates(tmp_path, change):
    assert published_wer(scored(tmp_path, **{"hours": 20_000, **change})) is None
