"""The recipe by hours of labels: more labels need fewer epochs, but more updates."""

import numpy as np
import pytest

from speechssl.asr.recipe import VALIDATIONS, recipe_for
from speechssl.config import TrainingConfig


def test_epochs_fall_and_audio_seen_grows_with_the_labels():
    hours = np.geomspace(0.02, 2_000, 60)
    epochs = np.array([recipe_for(each).epochs for each in hours])
    assert (np.diff(epochs) <= 0).all()
    assert (np.diff(epochs * hours) > 0).all()
    assert [recipe_for(each).epochs for each in (0.01, 0.1, 1, 10, 100, 1e4)] == [300, 300, 150, 80, 60, 60]
    assert recipe_for(0.57).epochs == pytest.approx(300 * 0.57**-0.30103 / 2, abs=0.5)  # between 70 and 200: AN4


def test_a_recipe_changes_length_validation_and_choice_only():
    before = TrainingConfig(steps=7, save_every=3, ema_decay=0.9)
    after = recipe_for(1.0).applied(before, 200.0)
    assert (after.epochs, after.validate_every, after.patience, after.average) == (150, 750, 10, 5)
    assert 150 * 200 / after.validate_every == VALIDATIONS
    assert (after.steps, after.save_every, after.ema_decay) == (7, 3, 0.9)
    assert recipe_for(1.0).applied(before, 0.01).validate_every == 50
