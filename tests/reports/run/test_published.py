"""Published curves beside one's own: matched by hours, as far as the run has come, and only where they compare."""

import pytest

from speechssl.objectives.published import WAV2VEC2
from speechssl.reports.run.collect import Training
from speechssl.reports.run.curves import pretraining_figures


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
    for published in WAV2VEC2:
        assert all(len(values) == len(published.updates) for _, values in published.values)
