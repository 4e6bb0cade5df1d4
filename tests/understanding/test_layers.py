"""Measures of layers against references, and the verb: what is planted in a layer is found there, and nothing else."""

import json

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.cross_decomposition import CCA

from speechssl.cli.main import main
from speechssl.config import LayersConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.spectrum import effective_rank
from speechssl.reports.layers_page import findings, write_layers
from speechssl.understanding.alignment import Interval
from speechssl.understanding.extractors import Spectra
from speechssl.understanding.layers import compare as compare_module
from speechssl.understanding.layers.compare import Layers, LayersResult, compare_layers
from speechssl.understanding.layers.measures import (
    anisotropy,
    canonical_correlations,
    cka,
    held_out_cca,
    linear_probe,
    one_hot,
)
from speechssl.understanding.layers.sample import _Instants, _pooled, common_frames
from tests.oracles.similarity import linear_cka
from tests.understanding.test_understanding import Planted, corpus

__all__ = ["corpus"]


def mixed(seed, n=60, d=5, e=4):
    """Frames [n, d] and [n, e] that share some of their variance, far from the origin."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(n, 3))
    x, y = (shared @ random.normal(size=(3, wide)) + random.normal(size=(n, wide)) + 5 for wide in (d, e))
    return x, y


# ---------------------------------------------------------------------------------------------------- measures


@pytest.mark.parametrize("seed", range(3))
def test_cka_is_that_of_whole_kernels(seed):
    x, y = mixed(seed)
    narrow = x[:, :2]
    found = cka([x, narrow], [y, x])
    expected = [[linear_cka(a, b) for b in (y, x)] for a in (x, narrow)]
    assert np.allclose(found, expected, atol=1e-10)
    own = cka([x, narrow])
    assert np.allclose(own, own.T)
    assert np.allclose(np.diag(own), 1)
    assert own[0, 1] == pytest.approx(found[1, 1], abs=1e-12)
    turned = x @ np.linalg.qr(np.random.default_rng(9).normal(size=(5, 5)))[0] * 3 - 2
    assert cka([turned], [x])[0, 0] == pytest.approx(1, abs=1e-9)  # rotation, scale and mean do not change it


@pytest.mark.parametrize("seed", range(3))
def test_canonical_correlations_are_those_of_scikit_learn_and_of_subspaces(seed):
    x, y = mixed(seed)
    found = canonical_correlations(x, y)
    a, b = CCA(n_components=4, tol=1e-14, max_iter=100_000).fit(x, y).transform(x, y)
    assert np.allclose(found, [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)], atol=1e-6)
    angles = subspace_angles(x - x.mean(0), y - y.mean(0))
    assert np.allclose(found, np.sort(np.cos(angles))[::-1], atol=1e-9)
    doubled = np.hstack([x, x[:, :2] - x[:, 2:4]])  # of low rank: the same space
    assert np.allclose(canonical_correlations(doubled, y), found, atol=1e-7)


def test_held_out_correlations_are_fitted_to_one_half_and_taken_on_the_other():
    x, y = mixed(4, n=400)
    y[:, 0] *= 10
    half = np.arange(400) % 3 == 0
    cca = CCA(n_components=4, scale=False, tol=1e-14, max_iter=100_000).fit(x[~half], y[~half])
    _, known = cca.transform(x[~half], y[~half])
    weights = [sum(abs(np.cov(variate, column)[0, 1]) for column in y[~half].T) / variate.std() for variate in known.T]
    a, b = cca.transform(x[half], y[half])
    expected = np.average([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)], weights=weights)
    assert held_out_cca(x, y, half)[0] == pytest.approx(expected, abs=1e-6)
    assert held_out_cca(x, y, ~half)[1] == pytest.approx(expected, abs=1e-6)
    assert held_out_cca(x @ np.diag([1, 9, 100, 1e3, 1e4]) - 7, y, half)[0] == pytest.approx(expected, abs=1e-6)
    even = np.random.default_rng(0).normal(size=(400, 5))
    assert held_out_cca(even, even, half) == pytest.approx((1, 1))
    assert held_out_cca(even[:, :2], even, half) == pytest.approx((0.4, 0.4), abs=0.05)  # two of five directions


def test_unrelated_frames_are_at_chance():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(600, 100)), random.normal(size=(600, 60))
    labels = one_hot([str(label) for label in random.integers(0, 8, 600)])
    half = random.random(600) < 0.5
    assert abs(cka([x], [y])[0, 0]) < 0.03  # the biased estimate is above 0.1
    assert np.mean(canonical_correlations(x, y)) > 0.3
    for other in (y, labels):
        assert np.abs(held_out_cca(x, other, half)).max() < 0.06
    assert abs(anisotropy(x)) < 0.01
    assert 90 < effective_rank(x) < 100


def test_a_linear_probe_is_fitted_to_one_half_and_taken_on_the_other():
    random = np.random.default_rng(1)
    labels = random.choice(["a", "b", "c"], 900)
    half = np.arange(900) % 2 == 0
    x = one_hot(labels.tolist()) @ random.normal(size=(3, 20)) * 3 + random.normal(size=(900, 20))
    x[:, 0] *= 100  # scales of dimensions do not matter
    assert min(linear_probe(x, labels.tolist(), half)) > 0.95
    shuffled = np.where(half, labels, random.permutation(labels))
    assert max(linear_probe(x, shuffled.tolist(), half)) < 0.45
    flat = linear_probe(np.zeros((900, 4)), labels.tolist(), half)
    assert max(flat) < 0.45


def test_effective_rank_and_anisotropy_by_hand():
    x = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])  # singular values 3 and 1, times a root of two
    assert effective_rank(x) == pytest.approx((3 / 4) ** (-3 / 4) * (1 / 4) ** (-1 / 4))
    assert effective_rank(x + 100) == pytest.approx(effective_rank(x))
    assert effective_rank(np.eye(4)) == pytest.approx(3)
    assert anisotropy(x) == pytest.approx(-2 / 6)  # two of six pairs are opposite, the others at right angles
    assert anisotropy(np.array([[2.0, 0], [5, 0], [0, 0]])) == pytest.approx(1 / 3)


def test_constant_frames_have_a_defined_result():
    x, _ = mixed(0)
    for flat in (np.full((60, 3), 0.1, dtype=np.float32), np.zeros((60, 3))):
        assert cka([flat, x]).tolist() == [[0, 0], [0, pytest.approx(1)]]
        assert len(canonical_correlations(flat, x)) == 0
        assert held_out_cca(flat, x, np.arange(60) < 30) == (0, 0)
        assert held_out_cca(x, flat, np.arange(60) < 30) == (0, 0)
        assert effective_rank(flat) == 0
    assert anisotropy(np.full((60, 3), 0.1)) == pytest.approx(1)
    assert anisotropy(np.zeros((60, 3))) == 0


# --------------------------------------------------------------------------------------------------- the verb


def settings(corpus, output, **changes):
    quick = {"clusters": 8, "frames": 1200, "max_bad_fraction": 0.5, "alignment": str(corpus / "phones.ctm")}
    return LayersConfig(output=str(output), device="cpu", **{**quick, **changes})


def test_what_is_planted_is_found_in_its_layer_and_nowhere_else(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, "open_extractor", lambda *args, **kwargs: Planted())
    cfg = settings(corpus, tmp_path, words=str(corpus / "phones.ctm"))
    result = compare_layers(["planted"], str(corpus), cfg)
    (found,) = result.models
    values = {name: np.array(own) for name, own in found.values.items()}
    for measure, place in (("phones", 2), ("speakers", 1)):
        others = [layer for layer in range(3) if layer != place]
        cca, mi, chance = values[f"cca_{measure}"], values[f"mi_{measure}"], values[f"mi_{measure}_chance"]
        assert cca[place] > 0.8
        assert np.abs(cca[others]).max() < 0.1
        assert mi[place] > 0.8
        assert np.abs(mi[others] - chance[others]).max() < 0.02
        assert chance.max() < 0.03
        probed, frequent = values[f"probe_{measure}"], values[f"probe_{measure}_chance"]
        assert probed[place] > 0.9
        assert np.abs(probed[others] - frequent[others]).max() < 0.1
    assert values["cca_words"][2] > 0.9  # less noise than in a frame
    assert np.abs(values["cca_words"][:2]).max() < 0.2
    assert result.facts["spoken_words"] == 300
    assert values["cca_logmel"][0] == pytest.approx(0, abs=0.05)
    assert result.cka[0, 0][0, 1:].max() < 0.1
    assert result.facts["phones"] == 4
    assert result.notes == []
    assert 1_000 < result.facts["frames"] < 1_400
    said = " ".join(findings(result))
    assert "phones are best predicted from layer 2" in said
    assert "speakers are best predicted from layer 1" in said
    assert json.loads((tmp_path / "layers.json").read_text())["models"][0]["values"] == found.values


def test_models_of_other_frame_rates_from_the_command_line(corpus, tmp_path, capsys):
    model = str(corpus / "model")
    words = ["layers", f"mine={model}", f"random:{model}", "logmel", str(corpus), "--stack", "3", "--clusters", "8"]
    words += ["--frames", "600", "--minutes", "0.5", "--max-bad-fraction", "0.5", "--output"]
    assert main([*words, str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "mine and B: the same layers are most alike" in out
    assert "The models differ in frame rate" in out
    assert "Phones were not measured: --alignment" in out
    document = json.loads((tmp_path / "a" / "layers.json").read_text())
    mine, other, mel = document["models"]
    assert [mine["name"], other["name"], mel["name"]] == ["mine", "B", "logmel"]
    assert (mine["hop"], mel["hop"], document["facts"]["speakers"]) == (320, 480, 3)
    assert {(item["first"], item["second"]) for item in document["cka"]} >= {("mine", "mine"), ("mine", "B")}
    assert mel["values"]["cca_logmel"][0] > 0.9
    assert mine["values"]["cca_logmel"][0] > 0.1  # 16 dimensions of 80
    assert 25 < document["facts"]["seconds"] < 35
    page = (tmp_path / "a" / "layers.html").read_text()
    assert page.count("<svg") >= 10
    assert "http" not in page.replace("http-equiv", "")
    ledger = (tmp_path / "a" / "ledger.jsonl").read_text() if (tmp_path / "a" / "ledger.jsonl").exists() else ""
    assert all(json.loads(line)["item"] == "bad" for line in ledger.splitlines())
    assert main([*words, str(tmp_path / "b")]) == 0  # the draw is a function of the seed and the ids
    again = json.loads((tmp_path / "b" / "layers.json").read_text())
    assert again["models"] == document["models"]


def test_frames_are_paired_by_their_centres():
    wave = torch.zeros(16_000)
    slow, fast = Spectra("mfcc", stack=3), Spectra("logmel", stack=1)
    counts = [x[0].shape[1] for x in (slow([wave.numpy()]), fast([wave.numpy()]))]
    slow_rows, fast_rows = common_frames([slow, fast], counts)
    # Three windows of 400 samples, 160 apart, have their centre in that of the second: frame 1, 4, 7 ...
    assert slow_rows.tolist() == list(range(counts[0]))
    assert fast_rows.tolist() == [3 * row + 1 for row in slow_rows]
    assert [rows.tolist() for rows in common_frames([slow, fast], [5, 4])] == [[0], [1]]  # the other one has ended
    assert [len(rows) for rows in common_frames([slow, fast], [5, 0])] == [0, 0]


def test_words_are_means_over_their_frames():
    instants = _Instants([np.arange(12.0).reshape(1, 6, 2), np.zeros((2, 6, 3))], np.array([0, 1, 2, 3, 5, 6]), 8)
    words = [Interval(0, 0.03, "a"), Interval(0.03, 0.031, "short"), Interval(0.05, 0.1, "b")]
    (first, second), said = _pooled(instants, words, {"hop": 160, "receptive": 160})
    assert said == ["a", "b"]
    assert np.allclose(first, [[[2, 3], [9, 10]]])
    assert second.shape == (2, 2, 3)
    assert [x.shape for x in _pooled(instants, [], {"hop": 160, "receptive": 160})[0]] == [(1, 0, 2), (2, 0, 3)]


@pytest.mark.parametrize(
    ("models", "changes", "said"),
    [
        (["logmel"] * 2, {}, "name of its own, not logmel, logmel"),
        (["a=logmel"] * 5, {}, "one to 4 models are compared, not 5"),
        (["logmel"], {"alignment": "other.ctm"}, "none of its utterances is in"),
        (["logmel"], {"frames": 20, "clusters": 100}, "less than 100 clusters need"),
        (["logmel"], {"ids": "one.txt"}, "fewer than two utterances"),
    ],
)
def test_what_cannot_be_compared_is_said(corpus, tmp_path, monkeypatch, models, changes, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.ctm").write_text("x 1 0 1 a\n")
    (tmp_path / "one.txt").write_text("u1\n")
    with pytest.raises((ConfigError, DataError), match=said):
        compare_layers(models, str(corpus), settings(corpus, tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "layers.json").exists()


def test_two_utterances_of_two_speakers_leave_the_speakers_out(corpus, tmp_path):
    (tmp_path / "two.txt").write_text("u1\nu2\n")
    found = compare_layers(["logmel"], str(corpus), settings(corpus, tmp_path, ids=str(tmp_path / "two.txt")))
    assert "mi_speakers" not in found.models[0].values
    assert any("Speakers were not measured" in note for note in found.notes)
    assert write_layers(found, tmp_path).stat().st_size > 1000


def test_the_sentences_follow_the_curves():
    def said(logmel, spread):
        values = {"cca_logmel": logmel, "cca_logmel_spread": [spread] * 5}
        item = Layers("A", "m", 320, 8, (0, 1, 2, 3, 4), values)
        return findings(LayersResult([item], {(0, 0): np.eye(5)}, {}, []))

    best, towards = said([0.8, 0.75, 0.5, 0.4, 0.6], 0.06)
    assert best == (
        "A: log-mel is best predicted from layer 0 (CCA 0.80; within the difference of the halves: 1). Layer 0 has "
        "0.80, the last layer 0.60."
    )
    assert "after layer 3 the layers come nearer to log-mel again" in towards
    assert "no autoencoder" in said([0.8, 0.7, 0.5, 0.4, 0.6], 0.3)[1]  # less than the halves differ
    assert "no autoencoder" in said([0.8, 0.7, 0.6, 0.5, 0.4], 0.0)[1]
    assert "log-mel is in no layer (CCA at most 0.01)" in said([0.01] * 5, 0.0)[0]
