"""The oracles themselves, against hand-computed cases and independent published implementations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import ctc, groupnorm, hubert, masking, wav2vec2, wer


def test_contrastive_by_hand():
    # Orthogonal unit vectors: the positive scores 1/0.1, the two distractors 0.
    eye = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    total, correct = wav2vec2.contrastive(eye, eye, [[1, 2], [0, 2], [0, 1]], 0.1)
    assert total == pytest.approx(3 * math.log(1 + 2 * math.exp(-10)), rel=1e-12)
    assert correct == 3


def test_equal_distractors_do_not_count():
    total, correct = wav2vec2.contrastive([[1.0, 0]], [[0.0, 1], [0.0, 1]], [[1]], 0.1)
    assert (total, correct) == (0.0, 1)


def test_contrastive_agrees_with_hugging_face():
    from transformers import Wav2Vec2ForPreTraining

    rng = np.random.default_rng(0)
    m, d, k = 12, 8, 5
    context, targets = rng.normal(size=(m, d)), rng.normal(size=(m, d))
    negatives = [[(t + 1 + int(i)) % m for i in rng.permutation(m - 1)[:k]] for t in range(m)]
    logits = Wav2Vec2ForPreTraining.compute_contrastive_logits(
        torch.tensor(targets)[None, None],
        torch.tensor(targets)[torch.tensor(negatives)].transpose(0, 1)[:, None],
        torch.tensor(context)[None],
        0.1,
    )  # [1 + K, 1, M]
    theirs = torch.nn.functional.cross_entropy(logits[:, 0].T, torch.zeros(m, dtype=torch.long), reduction="sum")
    assert wav2vec2.contrastive(context.tolist(), targets.tolist(), negatives, 0.1)[0] == pytest.approx(
        float(theirs), rel=1e-6
    )


def test_diversity_extremes():
    used_up = [[[1.0, 0, 0, 0], [0.25] * 4]]
    loss, perplexity = wav2vec2.diversity(used_up)
    assert perplexity == pytest.approx([1, 4])
    assert loss == pytest.approx((8 - 5) / 8)


def test_hubert_agrees_with_torchaudio():
    from torchaudio.models.wav2vec2.components import LogitGenerator

    torch.manual_seed(0)
    generator = LogitGenerator(encoder_embed_dim=6, num_classes=7, final_dim=4, skip_masked=False, skip_nomask=True)
    x, units = torch.randn(1, 9, 6), torch.randint(7, (1, 9))
    mask = torch.tensor([[True, True, False, True, False, True, True, False, True]])
    with torch.no_grad():
        logits, _ = generator(x, units, mask, torch.zeros_like(mask))
        # Theirs puts the positive first and removes it from the rest; the sum of cross entropies is the same.
        theirs = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="sum")
        projected = generator.final_proj(x)[mask].double().tolist()
        embeddings = generator.label_embeddings.double().tolist()
    ours, _ = hubert.cross_entropy(projected, embeddings, units[mask].tolist(), 0.1)
    assert ours == pytest.approx(float(theirs), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_ctc_three_ways(data):
    frames, vocabulary = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 4))
    targets = data.draw(st.lists(st.integers(1, vocabulary - 1), max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    log_probs = torch.tensor(rng.normal(size=(frames, vocabulary))).log_softmax(-1)
    ours = ctc.loss(log_probs.tolist(), targets)
    brute = ctc.brute_force(log_probs.tolist(), targets)
    assert (ours == brute == math.inf) or ours == pytest.approx(brute, rel=1e-9)
    assert math.isfinite(ours) == (frames >= ctc.frames_needed(targets))
    if targets:
        theirs = torch.nn.functional.ctc_loss(
            log_probs[:, None], torch.tensor([targets]), [frames], [len(targets)], reduction="sum"
        )
        assert (ours == float(theirs) == math.inf) or ours == pytest.approx(float(theirs), rel=1e-9)


def test_best_path_is_not_always_the_best_labelling():
    log_probs = np.log([[0.4, 0.6 - 1e-9, 1e-9], [0.6 - 1e-9, 0.4, 1e-9]]).tolist()
    assert ctc.greedy(log_probs) == (1,)
    assert ctc.best_labelling(np.log([[0.6, 0.4], [0.6, 0.4]]).tolist())[0] == (1,)
    assert ctc.greedy(np.log([[0.6, 0.4], [0.6, 0.4]]).tolist()) == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_distance_agrees_with_jiwer(reference, hypothesis):
    import jiwer

    if not reference:
        assert wer.distance((), tuple(hypothesis)) == len(hypothesis)
        return
    counts = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    assert wer.counts_are_minimal(reference, hypothesis, counts.substitutions, counts.deletions, counts.insertions), (
        counts
    )


@pytest.mark.parametrize(("prob", "share"), [(0.65, 0.49), (0.80, 0.57)])
def test_masked_share_is_the_published_one(prob, share):
    assert masking.masked_fraction(prob, 10, 749, trials=300) == pytest.approx(share, abs=0.015)


def test_conv_groupnorm_agrees_with_torch():
    torch.manual_seed(0)
    wave, weight = torch.randn(60, dtype=torch.float64), torch.randn(3, 1, 10, dtype=torch.float64)
    gamma, beta = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    theirs = torch.nn.functional.group_norm(
        torch.nn.functional.conv1d(wave[None, None], weight, stride=5), 3, gamma, beta
    )[0]
    ours = groupnorm.conv_groupnorm(wave.tolist(), 10, 5, weight[:, 0].tolist(), gamma.tolist(), beta.tolist())
    assert torch.allclose(torch.tensor(ours, dtype=torch.float64), theirs, atol=1e-12)
