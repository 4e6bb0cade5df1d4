"""SpecAugment in fine-tuning: what is drawn, from which key, and what the recogniser makes of it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.asr.ctc import CtcModel, CtcObjective
from speechssl.asr.spec_augment import SpecAugment, spec_augment, warped
from speechssl.config import FrontendConfig, ModelConfig, SpecAugmentConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import mel_frames
from tests.asr.test_ctc import PLAIN, TOKENS, batch, row_of, tiny

CFG = SpecAugmentConfig(time_masks=4, time_mask_frames=8, mel_masks=2, mel_mask_channels=6, time_warp=9)
MELS = 16
DRAW = SpecAugment(CFG, MELS, seed=1)
FIELDS = ("hidden_frames", "hidden_mels", "source")


def values(drawn):
    return [getattr(drawn, name) for name in FIELDS]


def test_what_is_drawn_depends_on_seed_epoch_and_utterance_alone():
    data = batch([16_000, 9_000], ["ab", "cd"])
    together, alone = DRAW(data), pickle.loads(pickle.dumps(DRAW))(row_of(data, 1))
    frames = mel_frames(9_000)
    assert torch.equal(together.hidden_frames[1, :frames], alone.hidden_frames[0])
    assert torch.equal(together.hidden_mels[1], alone.hidden_mels[0])
    assert torch.equal(together.source[1, :frames], alone.source[0])
    assert not together.hidden_frames[1, frames:].any()
    others = (replace(DRAW, seed=2)(data), DRAW(replace(data, epoch=1)), DRAW(replace(data, ids=("x0", "x1"))))
    for other in others:
        assert not any(torch.equal(a, b) for a, b in zip(values(together), values(other), strict=True))


def test_two_views_have_the_same_warp_and_masks_of_their_own():
    data = batch([16_000, 9_000], ["ab", "cd"])
    one, two = DRAW(data), DRAW(data, views=2)
    assert all(torch.equal(first, both[:2]) for first, both in zip(values(one), values(two), strict=True))
    assert torch.equal(two.source[:2], two.source[2:])
    assert not torch.equal(two.hidden_frames[:2], two.hidden_frames[2:])
    assert not torch.equal(two.hidden_mels[:2], two.hidden_mels[2:])


def test_values_that_resumed_runs_rely_on():
    """The draws of one utterance; another version of numpy must not change them."""
    drawn = DRAW(batch([8_000], ["a"]))
    assert drawn.hidden_frames[0].nonzero().flatten().tolist() == [
        13,
        14,
        15,
        16,
        17,
        18,
        19,
        40,
        41,
        42,
        43,
        44,
        45,
        46,
        47,
    ]
    assert drawn.hidden_mels[0].nonzero().flatten().tolist() == [6, 7, 10, 11, 12, 13, 14, 15]
    assert drawn.source[0, ::8].tolist() == pytest.approx([0.0, 12.9231, 23.2941, 29.4118, 35.5294, 41.6471], abs=1e-3)


def runs(mask):
    """Return the lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize("seconds", [1, 4, 16])
def test_the_number_of_time_masks_grows_with_the_utterance(seconds):
    draw = SpecAugment(SpecAugmentConfig(time_masks=0.4, time_mask_frames=5, time_mask_share=1.0), MELS, seed=1)
    masks = [draw.time_mask(100 * seconds, generator("test", number)) for number in range(300)]
    hidden = np.mean([mask.sum() for mask in masks])
    assert hidden == pytest.approx(0.4 * seconds * 2.5, rel=0.2)  # lengths 0 to 5; few of them overlap
    assert max(len(runs(mask)) for mask in masks) >= {1: 1, 4: 2, 16: 6}[seconds]
    assert max(max(runs(mask), default=0) for mask in masks) <= 15  # of three that touch


def test_no_time_mask_hides_more_than_its_share():
    draw = SpecAugment(SpecAugmentConfig(time_masks=1, time_mask_frames=100, time_mask_share=0.1), MELS, seed=1)
    longest = [draw.time_mask(100, generator("test", number)).sum() for number in range(200)]
    assert max(longest) == 10
    assert not draw.time_mask(0, generator("test", 0)).any()


def test_mel_masks_are_blocks_of_up_to_their_width():
    draw = SpecAugment(SpecAugmentConfig(mel_masks=1, mel_mask_channels=6), MELS, seed=1)
    data = batch([4_000] * 8, [""] * 8)
    masks = [row for epoch in range(40) for row in draw(replace(data, epoch=epoch)).hidden_mels.numpy()]
    assert {int(mask.sum()) for mask in masks} == set(range(7))
    assert all(len(runs(mask)) <= 1 for mask in masks)
    assert np.all(np.mean(masks, axis=0) > 0)  # any channel may be hidden


@pytest.mark.parametrize("length", [0, 1, 4, 5, 60, 400])
def test_a_warp_moves_one_point_and_keeps_the_ends(length):
    seen = set()
    for number in range(60):
        source = warped(length, 20, generator("test", number)).astype(np.float64)
        assert len(source) == length
        if length < 5:
            np.testing.assert_array_equal(source, np.arange(length))
            continue
        assert source[0] == 0 and source[-1] == length - 1
        steps = np.diff(source)
        assert steps.min() > 0.5 and steps.max() < 2.1  # neither part is shorter than half of what it was
        bend = np.flatnonzero(np.abs(np.diff(steps)) > 1e-4)
        assert len(bend) <= 3  # two straight lines, which meet between two frames at most
        seen.add(round(float(source[length // 2]) - length // 2))
    if length == 400:
        assert min(seen) < -5 and max(seen) > 5


@pytest.mark.parametrize("stem", ["logmel", "conv2d"])
def test_spec_augment_changes_the_loss_only_in_training_and_of_no_neighbour(stem):
    torch.manual_seed(0)
    recogniser = CtcModel(SpeechEncoder(tiny(stem)), TOKENS.size)
    data = batch([8000, 6000], ["ab", "cd"])
    made = CtcObjective(recogniser, replace(PLAIN, spec_augment=CFG), seed=1).train()
    plain = CtcObjective(recogniser, PLAIN, seed=1).train()

    def loss(objective, given=data):
        return objective(objective.prepare(given)).sum.item()

    assert loss(made) != pytest.approx(loss(plain), rel=1e-4)
    assert loss(made) == pytest.approx(sum(loss(made, row_of(data, row)) for row in range(2)), rel=1e-4)
    assert made.prepare(data).to("meta").augmentation.source.device.type == "meta"
    assert made.eval().prepare(data).augmentation is None
    assert loss(made) == pytest.approx(loss(plain.eval()), rel=1e-6)


def test_settings_that_cannot_be():
    assert spec_augment(SpecAugmentConfig(), FrontendConfig(), 1) is None
    with pytest.raises(ConfigError, match=r"log-mel, which a waveform stem does not compute"):
        CtcObjective(
            CtcModel(SpeechEncoder(ModelConfig(frontend=tiny().frontend, encoder=tiny().encoder)), 4),
            replace(PLAIN, spec_augment=CFG),
            seed=1,
        ).preparer()
    with pytest.raises(ConfigError, match="0 or more"):
        SpecAugmentConfig(mel_masks=-1)
    with pytest.raises(ConfigError, match="time_mask_share = 2"):
        SpecAugmentConfig(time_mask_share=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_a_gpu():
    torch.manual_seed(0)
    recogniser = CtcModel(SpeechEncoder(tiny("conv2d")), TOKENS.size)
    made = CtcObjective(recogniser, replace(PLAIN, spec_augment=CFG), seed=1).train()
    prepared = made.prepare(batch([8000, 6000], ["ab", "cd"]))
    here = made(prepared.to("cpu")).sum.item()
    assert made.cuda()(prepared.to("cuda")).sum.item() == pytest.approx(here, rel=1e-3)
